package gate

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// severalKeys is a program with several keys: the world's, and another benefit's.
func severalKeys(t *testing.T) (w *kit.World, other polartest.LicenseKey) {
	t.Helper()
	w = kit.NewWorld(t, kit.Limit(1))
	other = w.Polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	w.Config.Features[other.BenefitID] = []string{"brush"}
	return w, other
}

func openLicenses(t *testing.T, w *kit.World, names ...string) *polargate.Licenses {
	t.Helper()
	l, err := polargate.OpenLicenses(w.Config, names...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func gateOf(t *testing.T, l *polargate.Licenses, name string) *polargate.Gate {
	t.Helper()
	gate, err := l.Gate(name)
	require.NoError(t, err)
	return gate
}

func TestEachNameHasALicenseOfItsOwnInOneStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, other := severalKeys(t)
		l := openLicenses(t, w, "", "brush")
		_, err := gateOf(t, l, "").Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		_, err = gateOf(t, l, "brush").Activate(t.Context(), other.Key)
		require.NoError(t, err)
		assert.Same(t, gateOf(t, l, "brush"), gateOf(t, l, "brush"))
		assert.True(t, l.Has("export"))
		assert.True(t, l.Has("brush"))
		assert.False(t, l.Has("more"))
		assert.False(t, gateOf(t, l, "").Has("brush"))
		require.NoError(t, l.Close())
		assert.False(t, l.Has("export"))
		_, err = l.Gate("a third")
		require.ErrorIs(t, err, polargate.ErrClosed)
		require.ErrorIs(t, l.Run(t.Context()), polargate.ErrClosed)

		w.Polar.SetOffline(true)
		again := openLicenses(t, w, "brush", "", "never activated")
		list := again.Check(t.Context())
		require.Len(t, list, 3)
		assert.Equal(t, []string{"", "brush", "never activated"}, []string{list[0].Name, list[1].Name, list[2].Name})
		assert.Equal(t, []polargate.State{polargate.Active, polargate.Active, polargate.Unlicensed}, []polargate.State{list[0].Status.State, list[1].Status.State, list[2].Status.State})
		assert.Equal(t, other.Key, list[1].Status.Key.Reveal())
		assert.Equal(t, list, again.List())
		// A program from before it had names finds its license.
		assert.True(t, w.Open().Has("export"))
	})
}

func TestAStateDoesNotCountUnderAnotherName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		store := &kit.BrittleStore{}
		w.Config.Store = store
		w.Activated(func(c *polargate.Config) { c.Name = "ink" })
		before := store.Contents()
		brush := w.Open(func(c *polargate.Config) { c.Name = "brush" })
		_, err := brush.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		var ink, own string
		for name := range store.Contents() {
			switch _, first := before[name]; {
			case !strings.HasSuffix(name, ".sealed"):
			case first:
				ink = name
			default:
				own = name
			}
		}
		require.NotEmpty(t, ink)
		require.NotEmpty(t, own)
		copied, err := store.Load(t.Context(), ink)
		require.NoError(t, err)
		require.NoError(t, brush.Close())
		require.NoError(t, store.Save(t.Context(), own, copied))
		status, err := w.Open(func(c *polargate.Config) { c.Name = "brush" }).Check(t.Context())
		require.ErrorIs(t, err, polargate.ErrUnreadableState)
		assert.False(t, status.OK())
	})
}

func TestThePendingDeactivationOfALicenseThatNobodyOpensAnyMoreIsFinished(t *testing.T) {
	t.Parallel()
	for name, finish := range map[string]func(*testing.T, *polargate.Licenses){
		"by Check": func(t *testing.T, l *polargate.Licenses) { l.Check(t.Context()) },
		"by Run": func(t *testing.T, l *polargate.Licenses) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- l.Run(ctx) }()
			time.Sleep(time.Minute)
			cancel()
			require.NoError(t, <-done)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w, other := severalKeys(t)
				store := &kit.BrittleStore{}
				w.Config.Store = store
				l := openLicenses(t, w, "", "brush")
				_, err := gateOf(t, l, "").Activate(t.Context(), w.Key.Key)
				require.NoError(t, err)
				_, err = gateOf(t, l, "brush").Activate(t.Context(), other.Key)
				require.NoError(t, err)
				w.Polar.SetOffline(true)
				require.Error(t, gateOf(t, l, "brush").Deactivate(t.Context()))
				require.NoError(t, l.Close())
				assert.Equal(t, 1, w.Polar.Seats(other.ID))

				time.Sleep(2 * time.Minute)
				without := openLicenses(t, w, "")
				without.Check(t.Context())
				assert.Equal(t, 1, w.Polar.Seats(other.ID), "offline, it is left for later")
				w.Polar.SetOffline(false)
				time.Sleep(2 * time.Minute)
				finish(t, without)
				assert.Zero(t, w.Polar.Seats(other.ID))
				assert.Equal(t, 1, w.Seats(), "the license that is in use stays")

				w.Polar.ForgetRequests()
				without.Check(t.Context())
				assert.Empty(t, w.Polar.Requests(), "nothing is left to do")
			})
		})
	}
}

func TestALicenseThatNobodyOpensIsNotDeactivatedUnasked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, other := severalKeys(t)
		l := openLicenses(t, w, "", "brush")
		_, err := gateOf(t, l, "brush").Activate(t.Context(), other.Key)
		require.NoError(t, err)
		require.NoError(t, l.Close())
		without := openLicenses(t, w, "")
		for range 3 {
			without.Check(t.Context())
			time.Sleep(kit.Day)
		}
		assert.Equal(t, 1, w.Polar.Seats(other.ID))
		assert.True(t, openLicenses(t, w, "brush").Has("brush"))
	})
}

func TestALicenseThatIsOpenedWhileOthersRunIsKeptVerified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, other := severalKeys(t)
		l := openLicenses(t, w, "")
		go func() { _ = l.Run(t.Context()) }()
		synctest.Wait()
		late := gateOf(t, l, "brush")
		_, err := late.Activate(t.Context(), other.Key)
		require.NoError(t, err)
		time.Sleep(5 * kit.Day)
		assert.WithinDuration(t, time.Now(), late.Status().CheckedAt, kit.Day)
		require.NoError(t, l.Close())
	})
}

func TestATrialOfAProgramWithSeveralLicensesIsThatWithoutAName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		w.Config.Trial = polargate.Trial{Days: 7}
		all, err := polargate.OpenLicenses(w.Config, "", "brush")
		require.NoError(t, err)
		defer all.Close()
		list := all.Check(t.Context())
		require.Len(t, list, 2)
		assert.Equal(t, polargate.InTrial, list[0].Status.State)
		assert.Equal(t, polargate.Unlicensed, list[1].Status.State)
	})
}

func TestANameThatCannotBeKeptIsRejected(t *testing.T) {
	t.Parallel()
	for _, name := range []string{strings.Repeat("n", 201), "a\nb", "\xff", "a\x00b"} {
		w := kit.NewWorld(t)
		_, err := polargate.OpenLicenses(w.Config, name)
		var input *polargate.InputError
		if assert.ErrorAs(t, err, &input, "%q", name) {
			assert.Equal(t, "Name", input.Field)
		}
	}
	w := kit.NewWorld(t)
	w.Config.Name, w.Config.Trial = "brush", polargate.Trial{Days: 7}
	_, err := polargate.Open(w.Config)
	var input *polargate.InputError
	require.ErrorAs(t, err, &input)
	assert.Equal(t, "Trial", input.Field)
	w.Config.Name = ""
	l, err := polargate.OpenLicenses(w.Config, "", "brush", "Zoë's ink & paper")
	require.NoError(t, err, "the trial belongs to the program")
	assert.Equal(t, "polargate.Licenses{App:inkwell Open:3}", fmt.Sprintf("%v", l))
	require.NoError(t, l.Close())
}

func TestHasOverSeveralLicensesAllocatesNothing(t *testing.T) {
	w, other := severalKeys(t)
	l := openLicenses(t, w, "", "brush")
	_, err := gateOf(t, l, "brush").Activate(t.Context(), other.Key)
	require.NoError(t, err)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = l.Has("brush") || l.Has("more") }))
}
