package issuer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/polartest"
)

// shop is a vendor: Polar, and the server that issues leases.
type shop struct {
	t      testing.TB
	polar  *polartest.Polar
	client *polargate.Client
	issuer *Issuer
	keys   lease.Keys
	config Config
	log    *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const benefit = "b0000000-0000-4000-8000-000000000001"

func open(t testing.TB, change func(*Config)) *shop {
	t.Helper()
	polar := polartest.New(polartest.Config{})
	token := polar.AddToken(polartest.Token{})
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: polar.OrganizationID(), AccessToken: token, HTTPClient: polar.Client(), RequestsPerMinute: 60000,
	})
	require.NoError(t, err)
	seed := bytes.Repeat([]byte{7}, 32)
	private := ed25519.NewKeyFromSeed(seed)
	keys, err := lease.NewKeys(private.Public().(ed25519.PublicKey))
	require.NoError(t, err)
	s := &shop{t: t, polar: polar, client: client, keys: keys, log: &safeBuffer{}}
	s.config = Config{
		Client: s.client, OrganizationID: polar.OrganizationID(), Key: private, Store: &polargate.MemoryStore{},
		Logger: slog.New(slog.NewJSONHandler(s.log, nil)), clock: polar.Now,
	}
	if change != nil {
		change(&s.config)
	}
	s.issuer, err = New(s.config)
	require.NoError(t, err)
	return s
}

func (s *shop) key(seats int64) polartest.LicenseKey {
	return s.polar.AddKey(polartest.LicenseKey{BenefitID: benefit, LimitActivations: polartest.Limit(seats)})
}

var requests int

var requestsMu sync.Mutex

func (s *shop) request(key, computer string) lease.Request {
	requestsMu.Lock()
	defer requestsMu.Unlock()
	requests++
	return lease.Request{
		ID: fmt.Sprint("Q", requests), Made: s.polar.Now(), OrganizationID: s.config.OrganizationID, Key: lease.NewSecret(key),
		Fingerprint: computer, ReceiptHash: lease.ReceiptHash(lease.NewSecret("secret-of-" + computer)), App: "inkwell", Label: computer,
	}
}

// anew is a request of a computer that was deactivated: with a secret that no receipt has shown.
func (s *shop) anew(key, computer string) lease.Request {
	q := s.request(key, computer)
	q.ReceiptHash = lease.ReceiptHash(lease.NewSecret("next-secret-of-" + computer))
	return q
}

// issue asks for a lease, and checks it as a program does.
func (s *shop) issue(q lease.Request) (lease.Lease, error) {
	s.t.Helper()
	text, err := s.issuer.Issue(s.t.Context(), q)
	if err != nil {
		return lease.Lease{}, err
	}
	held, err := s.keys.Verify(text)
	require.NoError(s.t, err)
	_, err = held.Check(s.polar.Now(), lease.Want{OrganizationID: s.config.OrganizationID, Fingerprint: q.Fingerprint, Newest: q.Newest})
	require.NoError(s.t, err)
	return held, nil
}

func receiptOf(held lease.Lease) lease.Receipt {
	return lease.Receipt{
		ID: "D1", Made: held.Issued, OrganizationID: held.OrganizationID, LeaseID: held.ID, Fingerprint: held.Fingerprint,
		LicenseKeyID: held.LicenseKeyID, ActivationID: held.ActivationID, Secret: lease.NewSecret("secret-of-" + held.Fingerprint),
	}
}

func TestAComputerTakesOneActivationHoweverOftenItAsks(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(3)
	first, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	assert.Equal(t, key.ID, first.LicenseKeyID)
	assert.Equal(t, benefit, first.BenefitID)
	assert.NotEmpty(t, first.ActivationID)
	newest := first
	for range 5 {
		s.polar.Advance(15 * 24 * time.Hour)
		q := s.request(key.Key, "laptop")
		q.LeaseID, q.Newest = newest.ID, newest.Issued
		next, err := s.issue(q)
		require.NoError(t, err)
		assert.Equal(t, first.ActivationID, next.ActivationID)
		assert.NotEqual(t, newest.ID, next.ID)
		assert.True(t, next.Issued.After(newest.Issued))
		assert.Equal(t, 30*24*time.Hour, next.Expires.Sub(next.Issued))
		newest = next
	}
	assert.Equal(t, 1, s.polar.Seats(key.ID))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := s.issuer.Issue(t.Context(), s.request(key.Key, "desktop"))
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	assert.Equal(t, 2, s.polar.Seats(key.ID))
}

func TestARotatedKeyKeepsTheActivation(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	first, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	rotated := s.polar.Rotate(key.ID)
	s.polar.Advance(time.Minute)
	next, err := s.issue(s.request(rotated, "laptop"))
	require.NoError(t, err)
	assert.Equal(t, first.ActivationID, next.ActivationID)
	assert.Equal(t, 1, s.polar.Seats(key.ID))
}

func TestWhatPolarRefusesIsNotIssuedAndComesWithItsReason(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *Config) { c.Features = map[string][]string{strings.ToUpper(benefit): {"export"}} })
	key := s.key(1)
	_, err := s.issue(s.request("POLAR-no-such-key", "laptop"))
	require.ErrorIs(t, err, polargate.ErrUnknownKey)
	held, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	assert.Equal(t, []string{"export"}, held.Features)
	_, err = s.issue(s.request(key.Key, "desktop"))
	require.ErrorIs(t, err, polargate.ErrActivationLimit)
	s.polar.Update(key.ID, func(k *polartest.LicenseKey) { k.Status = "revoked" })
	_, err = s.issue(s.request(key.Key, "laptop"))
	require.ErrorIs(t, err, polargate.ErrInactive)
	s.polar.Update(key.ID, func(k *polartest.LicenseKey) { k.Status = "granted" })
	_, err = s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err, "a refusal is never final")

	other := s.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	_, err = s.issue(s.request(other.Key, "laptop"))
	require.ErrorIs(t, err, polargate.ErrWrongBenefit)
	assert.Zero(t, s.polar.Seats(other.ID))
	assert.NotContains(t, s.log.String(), key.Key)
}

func TestNoLeaseOutlivesItsLicenseKey(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	ends := s.polar.Now().Add(32 * 24 * time.Hour).Truncate(time.Second)
	s.polar.Update(key.ID, func(k *polartest.LicenseKey) { k.ExpiresAt = ends })
	held, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	assert.Equal(t, ends.Unix(), held.Ends().Unix(), "grace is cut")
	s.polar.Advance(20 * 24 * time.Hour)
	held, err = s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	assert.Equal(t, ends.Unix(), held.Expires.Unix())
	assert.Zero(t, held.Grace)
	s.polar.Advance(12*24*time.Hour + time.Minute)
	_, err = s.issue(s.request(key.Key, "laptop"))
	assert.ErrorIs(t, err, polargate.ErrExpired)
}

func TestWhenPolarIsAwayNobodyIsRefusedAndNothingIsSigned(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	_, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	for _, effect := range []polartest.Effect{polartest.ServerError(503), polartest.LoginPage(200), polartest.Garbage()} {
		s.polar.Inject(polartest.Fault{Effect: effect})
		_, err = s.issue(s.request(key.Key, "laptop"))
		require.ErrorIs(t, err, ErrUnavailable)
		s.polar.ClearFaults()
	}
	_, err = s.issue(s.request(key.Key, "laptop"))
	assert.NoError(t, err)
}

func TestTheSameRequestAgainHasTheSameAnswer(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(2)
	q := s.request(key.Key, "laptop")
	first, err := s.issuer.Issue(t.Context(), q)
	require.NoError(t, err)
	s.polar.Advance(time.Hour)
	again, err := s.issuer.Issue(t.Context(), q)
	require.NoError(t, err)
	assert.Equal(t, first, again)
	assert.Equal(t, 1, s.polar.Seats(key.ID))

	held, err := s.keys.Verify(first)
	require.NoError(t, err)
	require.NoError(t, s.issuer.Release(t.Context(), receiptOf(held)))
	_, err = s.issuer.Issue(t.Context(), q)
	require.ErrorIs(t, err, ErrRequestUsed, "a request that lies about somewhere takes no activation")
	assert.Zero(t, s.polar.Seats(key.ID))
	older := s.request(key.Key, "laptop")
	_, err = s.issuer.Issue(t.Context(), older)
	require.ErrorIs(t, err, ErrRequestUsed, "nor does an older one, whose secret a receipt has shown")
	_, err = s.issue(s.anew(key.Key, "laptop"))
	assert.NoError(t, err, "a new one does")
}

func TestAReceiptFreesTheActivationAndAForgedOneDoesNot(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	held, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	for name, change := range map[string]func(*lease.Receipt){
		"another secret":   func(d *lease.Receipt) { d.Secret = lease.NewSecret("guess") },
		"no license key":   func(d *lease.Receipt) { d.LicenseKeyID = "" },
		"another key":      func(d *lease.Receipt) { d.LicenseKeyID = "c0000000-0000-4000-8000-000000000009" },
		"another computer": func(d *lease.Receipt) { d.Fingerprint = "desktop" },
	} {
		d := receiptOf(held)
		change(&d)
		require.ErrorIs(t, s.issuer.Release(t.Context(), d), ErrNotProven, name)
	}
	d := receiptOf(held)
	d.OrganizationID = "another"
	require.ErrorIs(t, s.issuer.Release(t.Context(), d), ErrWrongOrganization)
	require.Equal(t, 1, s.polar.Seats(key.ID))

	s.polar.SetOffline(true)
	require.ErrorIs(t, s.issuer.Release(t.Context(), receiptOf(held)), ErrUnavailable)
	s.polar.SetOffline(false)
	for range 3 {
		require.NoError(t, s.issuer.Release(t.Context(), receiptOf(held)))
	}
	assert.Zero(t, s.polar.Seats(key.ID))
	_, err = s.issue(s.request(key.Key, "desktop"))
	assert.NoError(t, err)
}

func TestAnActivationThatTheCustomerFreedIsTakenAnew(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	held, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	s.polar.Update(key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
	s.polar.Advance(time.Minute)
	next, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	assert.NotEqual(t, held.ActivationID, next.ActivationID)
	assert.Equal(t, 1, s.polar.Seats(key.ID))
	leases, err := s.issuer.Leases(t.Context(), key.ID)
	require.NoError(t, err)
	require.Len(t, leases, 1)
	require.NoError(t, s.issuer.End(t.Context(), key.ID, "laptop"))
	require.NoError(t, s.issuer.End(t.Context(), key.ID, "laptop"))
	assert.Zero(t, s.polar.Seats(key.ID))
	_, err = s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err, "its secret was not shown")
	assert.Equal(t, 1, s.polar.Seats(key.ID))
}

func TestAProgramThatRenewsByItselfDoesNotTakeBackWhatTheCustomerFreed(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(2)
	held, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	s.polar.Update(key.ID, func(k *polartest.LicenseKey) { k.Activations[0].Released = true })
	s.polar.Advance(time.Minute)
	renewal := s.request(key.Key, "laptop")
	renewal.LeaseID, renewal.Newest = held.ID, held.Issued
	_, err = s.issue(renewal)
	require.ErrorIs(t, err, polargate.ErrSeatReleased)
	assert.Zero(t, s.polar.Seats(key.ID))
	leases, err := s.issuer.Leases(t.Context(), key.ID)
	require.NoError(t, err)
	assert.Empty(t, leases)

	renewal.ID += "-again"
	_, err = s.issue(renewal)
	require.ErrorIs(t, err, polargate.ErrSeatReleased, "nor when it asks again")
	assert.Zero(t, s.polar.Seats(key.ID))

	byHand := s.anew(key.Key, "laptop")
	byHand.Newest = held.Issued
	again, err := s.issue(byHand)
	require.NoError(t, err, "a person may activate it again")
	assert.True(t, again.Issued.After(held.Issued))
	assert.Equal(t, 1, s.polar.Seats(key.ID))
}

func TestAnActivationThatTheComputerHasAtPolarAlreadyIsUsed(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1, 5} {
		s := open(t, nil)
		key := s.key(limit)
		parsed, err := polargate.ParseKey(key.Key)
		require.NoError(t, err)
		// As a Gate activates by itself, before the program gets leases.
		own, err := s.client.Activate(t.Context(), polargate.ActivateRequest{
			Key: parsed, Conditions: map[string]any{"fingerprint": "laptop"}, Meta: map[string]any{"fingerprint": "laptop"},
		})
		require.NoError(t, err)
		held, err := s.issue(s.request(key.Key, "laptop"))
		require.NoError(t, err)
		assert.Equal(t, own.ID, held.ActivationID)
		assert.Equal(t, 1, s.polar.Seats(key.ID))
	}
}

func TestAnActivationWithOtherConditionsIsNoneOfOurs(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(5)
	parsed, err := polargate.ParseKey(key.Key)
	require.NoError(t, err)
	_, err = s.client.Activate(t.Context(), polargate.ActivateRequest{
		Key: parsed, Conditions: map[string]any{"floor": 3}, Meta: map[string]any{"fingerprint": "laptop"},
	})
	require.NoError(t, err)
	_, err = s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	assert.Equal(t, 2, s.polar.Seats(key.ID))
}

func TestAnActivationWhoseAnswerWasLostIsFoundAgain(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(5)
	s.polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.AnswerLost()})
	held, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	assert.NotEmpty(t, held.ActivationID)
	assert.Equal(t, 1, s.polar.Seats(key.ID))
}

// Behind a load balancer, a computer that asks again can reach another server.
func TestServersThatShareAStateUseOneActivationForAComputer(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1, 10} {
		s := open(t, nil)
		key := s.key(limit)
		var wg sync.WaitGroup
		answers := make(chan string, 8)
		for range cap(answers) {
			server, err := New(s.config)
			require.NoError(t, err)
			wg.Go(func() {
				text, err := server.Issue(t.Context(), s.request(key.Key, "laptop"))
				if assert.NoError(t, err) {
					answers <- text
				}
			})
		}
		wg.Wait()
		close(answers)
		noted, err := s.issuer.Leases(t.Context(), key.ID)
		require.NoError(t, err)
		require.Len(t, noted, 1)
		for text := range answers {
			held, err := s.keys.Verify(text)
			require.NoError(t, err)
			assert.Equal(t, noted[0].ActivationID, held.ActivationID)
		}
		assert.Equal(t, 1, s.polar.Seats(key.ID), "limit %d", limit)
	}
}

func TestAComputerNamedLikeSomethingOfOursBlocksNobody(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(3)
	for _, name := range []string{"account " + key.ID, accountName(key.ID), "license-" + key.ID} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := s.issuer.Issue(ctx, s.request(key.Key, name))
		cancel()
		require.NoError(t, err, name)
	}
}

func TestMadeUpKeysDoNotStarveKnownKeys(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	_, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	asked := s.polar.Count("/validate")
	var late *Error
	for i := range 3 * newcomersPerMinute {
		_, err := s.issuer.Issue(t.Context(), s.request(fmt.Sprint("POLAR-made-up-", i), "laptop"))
		require.Error(t, err)
		if errors.Is(err, ErrUnavailable) {
			require.ErrorAs(t, err, &late)
			assert.Positive(t, late.RetryAfter)
		}
	}
	assert.NotNil(t, late)
	assert.LessOrEqual(t, s.polar.Count("/validate")-asked, 2*newcomersPerMinute)
	s.polar.Advance(time.Minute)
	_, err = s.issue(s.request(key.Key, "laptop"))
	assert.NoError(t, err)
}

func TestAnActivationIsGivenBackWhenItCannotBeNoted(t *testing.T) {
	t.Parallel()
	store := &failing{}
	s := open(t, func(c *Config) { c.Store = store })
	key := s.key(1)
	_, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	require.NoError(t, s.issuer.End(t.Context(), key.ID, "laptop"))
	store.fail(true)
	_, err = s.issue(s.anew(key.Key, "laptop"))
	require.ErrorIs(t, err, ErrUnavailable)
	assert.Zero(t, s.polar.Seats(key.ID))
	store.fail(false)
	_, err = s.issue(s.anew(key.Key, "laptop"))
	assert.NoError(t, err)
}

// failing is a Store that cannot write while it fails.
type failing struct {
	polargate.MemoryStore
	mu  sync.Mutex
	err error
}

func (f *failing) fail(yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = nil
	if yes {
		f.err = io.ErrShortWrite
	}
}

func (f *failing) Save(ctx context.Context, name string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	return f.MemoryStore.Save(ctx, name, data)
}

func TestEachLeaseIsIssuedLaterThanWhatTheProgramHasSeen(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	q := s.request(key.Key, "laptop")
	q.Newest = s.polar.Now().Add(4 * time.Minute) // of a server whose clock was ahead, and whose state is lost
	held, err := s.issue(q)
	require.NoError(t, err)
	assert.True(t, held.Issued.After(q.Newest.Truncate(time.Second)))
	q = s.request(key.Key, "laptop")
	q.Newest = s.polar.Now().Add(time.Hour)
	_, err = s.issue(q)
	assert.ErrorIs(t, err, ErrClockAhead)
}

func floating(pool Pool) func(*Config) {
	return func(c *Config) { c.Pools = map[string]Pool{benefit: pool} }
}

func TestAFloatingLicenseIsUsedOnSoManyComputersAtOnce(t *testing.T) {
	t.Parallel()
	s := open(t, floating(Pool{Max: 2, Heartbeat: time.Minute}))
	key := s.key(1) // activations do not count here
	first, err := s.issue(s.request(key.Key, "a"))
	require.NoError(t, err)
	assert.Equal(t, benefit, first.Pool)
	assert.Equal(t, "a", first.Holder)
	assert.Empty(t, first.ActivationID)
	assert.Zero(t, first.Grace)
	assert.Equal(t, 2*time.Minute, first.Expires.Sub(first.Issued))
	_, err = s.issue(s.request(key.Key, "b"))
	require.NoError(t, err)
	_, err = s.issue(s.request(key.Key, "c"))
	require.ErrorIs(t, err, ErrPoolFull)
	e, _ := errors.AsType[*Error](err)
	assert.Greater(t, e.RetryAfter, time.Minute)
	s.polar.Advance(time.Minute)
	q := s.request(key.Key, "a")
	q.LeaseID, q.Newest = first.ID, first.Issued
	_, err = s.issue(q)
	require.NoError(t, err)
	s.polar.Advance(time.Minute + time.Second) // b has crashed
	held, err := s.issue(s.request(key.Key, "c"))
	require.NoError(t, err)
	require.NoError(t, s.issuer.Release(t.Context(), receiptOf(held)))
	_, err = s.issue(s.request(key.Key, "d"))
	require.NoError(t, err, "who leaves says so")
	assert.Zero(t, s.polar.Seats(key.ID))
	leases, err := s.issuer.Leases(t.Context(), key.ID)
	require.NoError(t, err)
	assert.Len(t, leases, 2)
}

func TestAFloatingLicenseLastsThroughAnOutageAndEndsWithARefusal(t *testing.T) {
	t.Parallel()
	s := open(t, floating(Pool{Max: 2, Heartbeat: time.Minute}))
	key := s.key(1)
	_, err := s.issue(s.request(key.Key, "a"))
	require.NoError(t, err)
	asked := s.polar.Count("/validate")
	s.polar.Advance(time.Minute)
	_, err = s.issue(s.request(key.Key, "a"))
	require.NoError(t, err)
	assert.Equal(t, asked, s.polar.Count("/validate"), "Polar is not asked at each heartbeat")

	s.polar.SetOffline(true)
	s.polar.Advance(6 * 24 * time.Hour)
	_, err = s.issue(s.request(key.Key, "a"))
	require.NoError(t, err)
	s.polar.Advance(2 * 24 * time.Hour)
	_, err = s.issue(s.request(key.Key, "a"))
	require.ErrorIs(t, err, ErrUnavailable, "but not for ever")

	s.polar.SetOffline(false)
	s.polar.Update(key.ID, func(k *polartest.LicenseKey) { k.Status = "revoked" })
	_, err = s.issue(s.request(key.Key, "a"))
	require.ErrorIs(t, err, polargate.ErrInactive)
	s.polar.SetOffline(true)
	_, err = s.issue(s.request(key.Key, "a"))
	assert.ErrorIs(t, err, ErrUnavailable, "cutting the network after a refusal does not help")
}

// A classroom whose heartbeats fall together asks Polar once, and isn't kept waiting by a Polar
// that hangs.
func TestHeartbeatsThatComeTogetherAskPolarOnceAndDoNotWaitForIt(t *testing.T) {
	t.Parallel()
	s := open(t, floating(Pool{Max: 40, Heartbeat: time.Minute}))
	key := s.key(1)
	_, err := s.issue(s.request(key.Key, "first"))
	require.NoError(t, err)
	together := func(word string) int {
		asked := s.polar.Count("/validate")
		var wg sync.WaitGroup
		for i := range 30 {
			q := s.request(key.Key, fmt.Sprint(word, i))
			wg.Go(func() {
				_, err := s.issuer.Issue(t.Context(), q)
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		return s.polar.Count("/validate") - asked
	}
	s.polar.Advance(6 * time.Minute)
	assert.Equal(t, 1, together("computer-"))
	s.polar.Advance(6 * time.Minute)
	s.polar.Inject(polartest.Fault{Path: "/validate", Effect: polartest.Hang()})
	assert.Equal(t, 1, together("computer-"))
	assert.Zero(t, together("computer-"), "nor soon after")
}

// Servers that share a Store, one after the other and at once: none gives away a
// place that another gave away.
func TestPlacesHoldAcrossServersThatShareAStateAndRestart(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]func(*Config){
		"a folder":           func(c *Config) { c.Store = polargate.FileStore(t.TempDir()) },
		"a Shared in a file": func(c *Config) { c.Store, c.Shared = nil, polargate.SharedFile(t.TempDir()+"/issuer.state") },
		"a Shared in memory": func(c *Config) { c.Store, c.Shared = nil, polargate.SharedInMemory() },
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); placesHold(t, keep) })
	}
}

func placesHold(t *testing.T, keep func(*Config)) {
	s := open(t, func(c *Config) {
		floating(Pool{Max: 5, Heartbeat: time.Minute})(c)
		keep(c)
	})
	key := s.key(1)
	var mu sync.Mutex
	until := map[string]time.Time{}
	for range 4 {
		var servers []*Issuer
		for range 3 { // new processes, as far as they know
			server, err := New(s.config)
			require.NoError(t, err)
			servers = append(servers, server)
		}
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				q := s.request(key.Key, fmt.Sprint("computer-", i))
				text, err := servers[i%len(servers)].Issue(t.Context(), q)
				if err != nil {
					assert.ErrorIs(t, err, ErrPoolFull)
					return
				}
				held, err := s.keys.Verify(text)
				assert.NoError(t, err)
				mu.Lock()
				until[held.Fingerprint] = held.Ends()
				mu.Unlock()
			})
		}
		wg.Wait()
		for who, ends := range until {
			if !s.polar.Now().Before(ends) {
				delete(until, who)
			}
		}
		assert.Len(t, until, 5)
		s.polar.Advance(121 * time.Second) // all crash
	}
}

func TestClaimsAddsWhatTheVendorKnowsAndCannotLengthenALease(t *testing.T) {
	t.Parallel()
	refuse := false
	s := open(t, func(c *Config) {
		c.Claims = func(_ context.Context, about About, claims *lease.Claims) error {
			if refuse {
				return errors.New("not today")
			}
			claims.Covers = about.Version
			claims.Fingerprint, claims.ID = "another", "mine"
			claims.Expires = claims.Expires.Add(365 * 24 * time.Hour)
			return nil
		}
	})
	key := s.key(1)
	q := s.request(key.Key, "laptop")
	q.Version = "3.2"
	text, err := s.issuer.Issue(t.Context(), q)
	require.NoError(t, err)
	held, err := s.keys.Verify(text)
	require.NoError(t, err)
	assert.Equal(t, "3.2", held.Covers)
	assert.Equal(t, "laptop", held.Fingerprint)
	assert.NotEqual(t, "mine", held.ID)
	assert.Equal(t, 30*24*time.Hour, held.Expires.Sub(held.Issued))
	refuse = true
	_, err = s.issuer.Issue(t.Context(), s.request(key.Key, "laptop"))
	assert.ErrorIs(t, err, ErrRefused)
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for field, change := range map[string]func(*Config){
		"Client":         func(c *Config) { c.Client = nil },
		"OrganizationID": func(c *Config) { c.Client, c.OrganizationID = struct{ Polar }{c.Client}, "" },
		"Shared":         func(c *Config) { c.Shared = polargate.SharedInMemory() },
		"Key":            func(c *Config) { c.Key = nil },
		"For":            func(c *Config) { c.For = time.Second },
		"Recheck":        func(c *Config) { c.Recheck = -1 },
		"PerAddress":     func(c *Config) { c.PerAddress = -1 },
		"Pools":          func(c *Config) { c.Pools = map[string]Pool{benefit: {}} },
	} {
		config := s.config
		change(&config)
		_, err := New(config)
		input, ok := errors.AsType[*polargate.InputError](err)
		require.True(t, ok, "%s: %v", field, err)
		assert.Equal(t, field, input.Field)
	}
	config := s.config
	config.Key = ed25519.PrivateKey("short")
	_, err := New(config)
	assert.ErrorContains(t, err, "Key does not sign")
	config = s.config
	config.OrganizationID = "not an id"
	_, err = New(config)
	assert.ErrorContains(t, err, "OrganizationID is none")
	for _, pool := range []Pool{{Max: 1, Heartbeat: time.Millisecond}, {Max: 1, Heartbeat: -1}, {Max: 1, Borrow: -1}} {
		assert.NotEmpty(t, pool.problem())
	}
}

func (s *shop) post(body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/lease", strings.NewReader(body))
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.issuer.Handler().ServeHTTP(w, r)
	return w
}

func TestTheHandlerAnswersRequestsAndReceipts(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	request, err := s.request(key.Key, "laptop").Encode()
	require.NoError(t, err)
	w := s.post(request, nil)
	require.Equal(t, 200, w.Code, w.Body)
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	held, err := s.keys.Verify(w.Body.String())
	require.NoError(t, err)
	assert.Equal(t, w.Body.String(), s.post("Dear vendor,\n\n"+lease.Armor(request), nil).Body.String(), "armored, and again")

	receipt, err := receiptOf(held).Encode()
	require.NoError(t, err)
	assert.Equal(t, 204, s.post(lease.Armor(receipt), nil).Code)
	assert.Equal(t, 204, s.post(receipt, nil).Code)
	assert.Zero(t, s.polar.Seats(key.ID))
}

func TestTheHandlerRefusesWithAProblemReport(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	encoded := func(q lease.Request) string {
		text, err := q.Encode()
		require.NoError(t, err)
		return text
	}
	_, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	keyless := s.request(key.Key, "desktop")
	keyless.Key = lease.Secret{}
	foreign := s.request(key.Key, "desktop")
	foreign.OrganizationID = "another"
	for name, c := range map[string]struct {
		body   string
		status int
		reason string
	}{
		"nothing":              {"", 400, "bad_request"},
		"something else":       {"{}", 400, "bad_request"},
		"a lease":              {"v1.x.x", 400, "bad_request"},
		"too much":             {strings.Repeat("x", 64<<10+1), 413, "bad_request"},
		"no license key":       {encoded(keyless), 400, "bad_request"},
		"another organization": {encoded(foreign), 400, "wrong_organization"},
		"an unknown key":       {encoded(s.request("POLAR-no-such-key", "desktop")), 402, "unknown_key"},
		"a full license":       {encoded(s.request(key.Key, "desktop")), 403, "activation_limit"},
	} {
		w := s.post(c.body, nil)
		assert.Equal(t, c.status, w.Code, name)
		assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), name)
		assert.Contains(t, w.Body.String(), `"reason":"`+c.reason+`"`, name)
		assert.NotContains(t, w.Body.String(), key.Key, name)
	}
	s.polar.SetOffline(true)
	w := s.post(encoded(s.request(key.Key, "laptop")), nil)
	assert.Equal(t, 503, w.Code)
	assert.NotEmpty(t, w.Header().Get("Retry-After"))
	w = s.post("", func(r *http.Request) { r.Method = http.MethodGet })
	assert.Equal(t, 405, w.Code)
	assert.Equal(t, http.MethodPost, w.Header().Get("Allow"))
	w = s.post("", func(r *http.Request) { r.Body = nil })
	assert.Equal(t, 400, w.Code)
}

func TestAnAddressThatAsksTooOftenWaitsAndOthersDoNot(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *Config) { c.PerAddress = 3 })
	from := func(address string) func(*http.Request) {
		return func(r *http.Request) { r.RemoteAddr = address }
	}
	for range 3 {
		assert.Equal(t, 400, s.post("", from("192.0.2.1:1000")).Code)
	}
	w := s.post("", from("192.0.2.1:1001"))
	assert.Equal(t, 429, w.Code)
	assert.NotEmpty(t, w.Header().Get("Retry-After"))
	assert.Equal(t, 400, s.post("", from("192.0.2.2:1000")).Code)
	assert.Equal(t, 400, s.post("", from("[2001:db8::1]:1000")).Code)

	for i := range 2 {
		assert.Equal(t, 400, s.post("", from(fmt.Sprintf("[2001:db8::%d]:1000", i+2))).Code)
	}
	assert.Equal(t, 429, s.post("", from("[2001:db8::ffff]:1000")).Code, "a network of IPv6 is one address")
	assert.Equal(t, 400, s.post("", from("[2001:db8:0:1::1]:1000")).Code)

	s = open(t, func(c *Config) {
		c.PerAddress = 1
		c.Address = func(r *http.Request) string { return r.Header.Get("X-Real-Ip") }
	})
	behind := func(r *http.Request) { r.Header.Set("X-Real-Ip", "192.0.2.9") }
	assert.Equal(t, 400, s.post("", behind).Code)
	assert.Equal(t, 429, s.post("", behind).Code)
}

func TestTheLogTellsWhatWasIssuedAndKeepsTheKey(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := s.key(1)
	held, err := s.issue(s.request(key.Key, "laptop"))
	require.NoError(t, err)
	q := s.request(key.Key, "laptop")
	q.LeaseID = held.ID
	s.polar.Advance(time.Minute)
	_, err = s.issue(q)
	require.NoError(t, err)
	_, err = s.issue(s.request(key.Key, "desktop"))
	require.Error(t, err)
	require.NoError(t, s.issuer.End(t.Context(), key.ID, "laptop"))
	for _, event := range []string{"lease issued", "lease renewed", "lease refused", "lease ended", held.ID, key.ID, `"reason":"activation_limit"`} {
		assert.Contains(t, s.log.String(), event)
	}
	assert.NotContains(t, s.log.String(), key.Key)
}

func TestTheSigningKeyIsNeverPrinted(t *testing.T) {
	t.Parallel()
	var config Config
	s := open(t, func(c *Config) { config = *c })
	key := fmt.Sprint([]byte(config.Key.(ed25519.PrivateKey))[:8]) // "[1 2 3 …]", as package fmt shows bytes
	key = strings.Trim(key, "[]")
	hexadecimal := fmt.Sprintf("%x", []byte(config.Key.(ed25519.PrivateKey))[:8])
	for name, v := range map[string]any{"a configuration": config, "one by its address": &config, "an issuer": s.issuer} {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("here", "v", v)
		for _, text := range []string{fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), fmt.Sprintf("%x", v), log.String()} {
			assert.NotContains(t, text, key, name)
			assert.NotContains(t, text, hexadecimal, name)
			assert.Contains(t, text, config.OrganizationID, name)
		}
	}
}

// A license server's work without Polar: a heartbeat of a pool of 50.
func BenchmarkHeartbeat(b *testing.B) {
	s := open(b, func(c *Config) {
		floating(Pool{Max: 50, Heartbeat: time.Hour})(c)
		c.Logger = nil
		c.Recheck = 1000 * time.Hour
	})
	key := s.key(1)
	var requests []lease.Request
	for i := range 50 {
		requests = append(requests, s.request(key.Key, fmt.Sprint("computer-", i)))
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		q := requests[i%len(requests)]
		i++
		q.ID = fmt.Sprint("R", i)
		if _, err := s.issuer.Issue(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
}
