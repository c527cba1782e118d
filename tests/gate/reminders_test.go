package gate

import (
	"encoding/json"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAProgramRemindsOfTheEndOfALicenseOnceADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, dated(20*kit.Day))
		w.Config.RemindBefore = 14 * kit.Day
		w.Config.Links.Renew = "https://example.com/renew"
		require.NoError(t, w.Activated().Close())
		run := func() polargate.Status {
			gate := w.Open()
			defer gate.Close()
			status, err := gate.Check(t.Context())
			require.NoError(t, err)
			return status
		}
		time.Sleep(5 * kit.Day)
		assert.False(t, run().Reminder, "it is too early")
		time.Sleep(kit.Day + time.Hour)
		status := run()
		assert.True(t, status.Reminder)
		assert.Contains(t, status.Message, "Renew your license before then")
		assert.Equal(t, polargate.Action{Kind: polargate.ActionRenew, URL: "https://example.com/renew"}, status.Action)
		said, err := json.Marshal(status)
		require.NoError(t, err)
		assert.Contains(t, string(said), `"reminder":true`)
		for range 3 {
			assert.False(t, run().Reminder, "it isn't repeated at each start")
		}
		for range 3 {
			time.Sleep(kit.Day)
			assert.True(t, run().Reminder, "the next day")
			assert.False(t, run().Reminder)
		}
		w.Polar.SetOffline(true)
		time.Sleep(2 * kit.Day)
		status = run()
		assert.Equal(t, polargate.Grace, status.State)
		assert.True(t, status.Reminder, "also offline")
		assert.Contains(t, status.Message, "Your license ends on")
		w.Polar.SetOffline(false)
		expireAt(w, time.Now().Add(365*kit.Day))
		time.Sleep(kit.Day)
		assert.False(t, run().Reminder, "it was renewed")
	})
}

func TestAProgramThatRunsForDaysIsToldOnEachOfThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := trying(t)
		w.Config.Trial.Days = 5
		w.Config.RemindBefore = 3 * kit.Day
		var mu sync.Mutex
		told := 0
		w.Config.OnChange = func(_, after polargate.Status) {
			mu.Lock()
			defer mu.Unlock()
			if after.Reminder {
				told++
			}
		}
		gate := w.Open()
		go gate.Run(t.Context())
		time.Sleep(2*kit.Day - time.Hour)
		assert.False(t, gate.Status().Reminder)
		time.Sleep(2 * time.Hour)
		assert.True(t, gate.Status().Reminder)
		time.Sleep(time.Hour)
		assert.True(t, gate.Status().Reminder, "it stays set in the run that it was set in")
		time.Sleep(3 * kit.Day)
		assert.False(t, gate.Status().Reminder, "it has ended")
		mu.Lock()
		defer mu.Unlock()
		assert.Contains(t, []int{3, 4}, told, "once on each of the last days")
	})
}

func TestAReminderThatCannotBeStoredIsShownAllTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t, dated(3*kit.Day))
		store := &kit.BrittleStore{}
		w.Config.Store, w.Config.RemindBefore = store, 14*kit.Day
		require.NoError(t, w.Activated().Close())
		store.Set(nil, kit.Fails, nil)
		status, err := w.Open().Check(t.Context())
		require.NoError(t, err)
		assert.True(t, status.Reminder)
	})
}

func TestALoopGetsTheStatusAsItChangesUntilTheGateIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		var mu sync.Mutex
		var states []polargate.State
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for status := range gate.Subscribe() {
				mu.Lock()
				if n := len(states); n == 0 || states[n-1] != status.State {
					states = append(states, status.State)
				}
				mu.Unlock()
				_, _ = gate.Check(t.Context()) // a loop may call the Gate
			}
		}()
		synctest.Wait()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		synctest.Wait()
		w.Polar.Revoke(w.Key.ID)
		_, _ = gate.Refresh(t.Context())
		synctest.Wait()
		require.NoError(t, gate.Close())
		<-ended
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, []polargate.State{polargate.Unlicensed, polargate.Active, polargate.Locked}, states)
		for range gate.Subscribe() {
			t.Fatal("a Gate that is closed has nothing to tell")
		}
	})
}

func TestALoopThatIsSlowHoldsUpNothingAndGetsTheLatest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		slow := make(chan polargate.Status)
		next := make(chan struct{})
		go func() {
			for status := range gate.Subscribe() {
				slow <- status
				<-next
			}
			close(slow)
		}()
		assert.Equal(t, polargate.Unlicensed, (<-slow).State)
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		for range 10 {
			time.Sleep(time.Minute)
			_, err = gate.Refresh(t.Context())
			require.NoError(t, err)
		}
		next <- struct{}{}
		status := <-slow
		assert.Equal(t, gate.Status().CheckedAt, status.CheckedAt, "and nothing of before")
		status.Features[0] = "stolen"
		assert.Equal(t, []string{"export", "sync"}, gate.Status().Features)
		close(next)
		require.NoError(t, gate.Close())
		_, open := <-slow
		assert.False(t, open)
	})
}

func TestALoopCanBeLeftAndManyGetTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Open()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				for status := range gate.Subscribe() {
					if status.State == polargate.Active {
						return
					}
				}
			})
		}
		synctest.Wait()
		_, err := gate.Activate(t.Context(), w.Key.Key)
		require.NoError(t, err)
		all.Wait()
	})
}

func TestARemindersTimeIsChecked(t *testing.T) {
	t.Parallel()
	w := kit.NewWorld(t)
	w.Config.RemindBefore = -1
	_, err := polargate.Open(w.Config)
	var input *polargate.InputError
	require.ErrorAs(t, err, &input)
	assert.Equal(t, "RemindBefore", input.Field)
}
