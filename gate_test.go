package polargate

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func openGate(t *testing.T, polar *polartest.Polar, change func(*Config)) *Gate {
	t.Helper()
	config := Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &MemoryStore{},
	}
	if change != nil {
		change(&config)
	}
	gate, err := Open(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	return gate
}

// staged is a subtest in a bubble, with a Polar and a key for three activations in it.
func staged(t *testing.T, name string, play func(t *testing.T, polar *polartest.Polar, key polartest.LicenseKey)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			play(t, polar, polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(3)}))
		})
	})
}

// withExport makes a Gate's one feature come with a key.
func withExport(key polartest.LicenseKey) map[string][]string {
	return map[string][]string{key.BenefitID: {"export"}}
}

func TestAKeyThatWasJustBoughtIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lag      time.Duration
		patience time.Duration // of the caller
		want     Reason
		atMost   time.Duration
	}{
		"a key that is ready is activated at once":     {0, time.Hour, "", 0},
		"one that appears after 30 s is waited for":    {30 * time.Second, time.Hour, "", time.Minute},
		"one that appears after two minutes, too":      {2 * time.Minute, time.Hour, "", purchaseLag},
		"one that never appears is given up":           {24 * time.Hour, time.Hour, ErrUnknownKey, purchaseLag},
		"the caller's context ends the wait before it": {24 * time.Hour, 20 * time.Second, ErrUnknownKey, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				polar := polartest.New(polartest.Config{})
				key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), VisibleFrom: time.Now().Add(test.lag)})
				gate := openGate(t, polar, nil)
				ctx, cancel := context.WithTimeout(t.Context(), test.patience)
				defer cancel()
				began := time.Now()
				status, err := gate.ActivateWait(ctx, key.Key)
				assert.LessOrEqual(t, time.Since(began), test.atMost)
				if test.want == "" {
					require.NoError(t, err)
					assert.Equal(t, Active, status.State)
					assert.Equal(t, 1, polar.Seats(key.ID))
					return
				}
				require.ErrorIs(t, err, test.want)
				assert.Contains(t, err.Error(), "bought in the last two minutes")
			})
		})
	}
}

func TestAKeyThatIsRefusedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]polartest.LicenseKey{
		"a revoked key":                 {LimitActivations: polartest.Limit(1), Status: "revoked"},
		"one whose seats are all taken": {LimitActivations: polartest.Limit(0)},
		"one that has no seats":         {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				polar := polartest.New(polartest.Config{})
				gate := openGate(t, polar, nil)
				began := time.Now()
				_, err := gate.ActivateWait(t.Context(), polar.AddKey(key).Key)
				require.True(t, isDenial(err), "%v", err)
				require.NotErrorIs(t, err, ErrUnknownKey)
				assert.Zero(t, time.Since(began))
			})
		})
	}
}

// The state on disk is no better than memory when the disk has failed since.
func TestADiskThatFailsUnderARunningProgramDecidesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		store := &failingStore{Store: &MemoryStore{}}
		gate := openGate(t, polar, func(c *Config) { c.Store = store })
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)

		store.failing = context.DeadlineExceeded
		status, err := gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.Equal(t, Active, status.State)

		polar.Revoke(key.ID)
		_, err = gate.Refresh(t.Context())
		require.ErrorIs(t, err, ErrInactive)
		polar.SetOffline(true)
		// Readable again, but as it was before the refusal.
		store.failing = nil
		store.readOnly = true
		time.Sleep(time.Minute)
		status, err = gate.Check(t.Context())
		require.ErrorIs(t, err, ErrInactive)
		assert.Equal(t, Locked, status.State)
	})
}

type failingStore struct {
	Store
	failing  error
	readOnly bool
}

func (s *failingStore) Load(ctx context.Context, name string) ([]byte, error) {
	if s.failing != nil {
		return nil, s.failing
	}
	return s.Store.Load(ctx, name)
}

func (s *failingStore) Save(ctx context.Context, name string, data []byte) error {
	if s.failing != nil {
		return s.failing
	}
	if s.readOnly {
		return context.Canceled
	}
	return s.Store.Save(ctx, name, data)
}

func TestAnAnswerThatWasLostToACountSaysThatItMayHaveCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})
		gate := openGate(t, polar, nil)
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		polar.Inject(polartest.Fault{Times: 1, Effect: polartest.AnswerLost()})
		_, err = gate.Consume(t.Context(), 4)
		require.ErrorIs(t, err, ErrInDoubt)
		assert.Contains(t, err.Error(), "can count them twice")
		assert.NotContains(t, err.Error(), "activation")
		left, err := gate.Consume(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, int64(5), left)
	})
}

// processes are the programs that the test binary can be.
var processes = testprogram.Programs{
	"hold-lock":       processHoldsLock,
	"count-with-lock": processCountsUnderLock,
	"save-for-ever":   processSavesForEver,
	"works-by-policy": processWorksByPolicy,
	"asks-by-proxy":   processAsksByProxy,
}

func TestMain(m *testing.M) { os.Exit(testprogram.Main(m, processes)) }

func benchGate(b *testing.B, store Store) (*Gate, Config) {
	b.Helper()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	config := Config{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Store: store, Features: map[string][]string{key.BenefitID: {"export", "sync", "share"}},
	}
	gate, err := Open(config)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := gate.Activate(context.Background(), key.Key); err != nil {
		b.Fatal(err)
	}
	return gate, config
}

// BenchmarkHas is the hot path, beside the least that it could be: a load of a
// pointer and a look into a map. The two are to be read from one run.
func BenchmarkHas(b *testing.B) {
	gate, _ := benchGate(b, &MemoryStore{})
	defer gate.Close()
	b.Run("gate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !gate.Has("export") {
				b.Fatal("locked")
			}
		}
	})
	b.Run("bare pointer and map", func(b *testing.B) {
		type held struct{ features map[string]struct{} }
		var pointer atomic.Pointer[held]
		pointer.Store(&held{map[string]struct{}{"export": {}, "sync": {}, "share": {}}})
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := pointer.Load().features["export"]; !ok {
				b.Fatal("locked")
			}
		}
	})
}

func BenchmarkCheckFromMemory(b *testing.B) {
	gate, _ := benchGate(b, &MemoryStore{})
	defer gate.Close()
	ctx := context.Background()
	_, _ = gate.Check(ctx)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := gate.Check(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkColdStart is from nothing to a decision, with a license on disk.
func BenchmarkColdStart(b *testing.B) {
	first, config := benchGate(b, FileStore(b.TempDir()))
	if err := first.Close(); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		gate, err := Open(config)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := gate.Check(ctx); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = gate.Close()
		b.StartTimer()
	}
}
