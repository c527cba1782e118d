package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// receiver is where messages are sent to.
type receiver struct {
	mu       sync.Mutex
	batches  [][]string
	got      map[string]int
	fail     error
	bad      func(message string) bool
	unnamed  bool // it doesn't say which messages are bad
	refused  []string
	slowness time.Duration
}

func (r *receiver) send(ctx context.Context, messages [][]byte) error {
	time.Sleep(r.slowness)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	var bad []int
	var all []string
	for i, m := range messages {
		all = append(all, string(m))
		if r.bad != nil && r.bad(string(m)) {
			bad = append(bad, i)
		}
	}
	if len(bad) > 0 {
		if r.unnamed {
			bad = nil
		}
		return &RefusedError{bad, errors.New("not like this")}
	}
	r.batches = append(r.batches, all)
	for _, m := range all {
		r.got[m]++
	}
	return ctx.Err()
}

func (r *receiver) set(fail error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = fail
}

func (r *receiver) received() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// sent are the batches that were received.
func (r *receiver) sent() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.batches)
}

// boxed is an outbox that sends to a receiver, and is open.
func boxed(t *testing.T, folder string, r *receiver, change ...func(*Outbox)) *Outbox {
	t.Helper()
	if r.got == nil {
		r.got = map[string]int{}
	}
	o := &Outbox{
		Folder: folder, Most: 10, Linger: time.Second, Between: 5 * time.Second, Together: 3,
		FirstPause: time.Second, LongestPause: time.Minute, Send: r.send,
		Refused: func(m []byte, _ error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.refused = append(r.refused, string(m))
		},
	}
	for _, c := range change {
		c(o)
	}
	require.NoError(t, o.Open())
	t.Cleanup(func() { _ = o.Close() })
	return o
}

func add(t *testing.T, o *Outbox, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, o.Add(fmt.Appendf(nil, "m%05d", i)))
	}
}

// running sends in the background until the test or stop ends it.
func running(t *testing.T, o *Outbox) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { o.Run(ctx) })
	stop = func() { cancel(); group.Wait() }
	t.Cleanup(stop)
	return stop
}

func TestMessagesAreSentInBatchesAndInOrder(t *testing.T) {
	t.Parallel()
	for name, folder := range map[string]string{"in memory": "", "in a folder": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{}
				o := boxed(t, folder, r, func(o *Outbox) { o.Together = 1 })
				stop := running(t, o)
				add(t, o, 0, 25)
				time.Sleep(1500 * time.Millisecond)
				require.Len(t, r.sent(), 3)
				assert.Equal(t, "m00000", r.sent()[0][0])
				assert.Equal(t, []string{"m00020", "m00021", "m00022", "m00023", "m00024"}, r.sent()[2])
				add(t, o, 25, 27)
				time.Sleep(3 * time.Second)
				assert.Len(t, r.sent(), 3, "a few wait for others")
				time.Sleep(2 * time.Second)
				assert.Len(t, r.sent(), 4)
				assert.Equal(t, 27, r.received())
				assert.Equal(t, Stats{}, o.Stats())
				stop()
			})
		})
	}
}

func TestWhatFailedIsSentAgainUntilItIsAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("away")
		r := &receiver{fail: away}
		o := boxed(t, "", r)
		running(t, o)
		add(t, o, 0, 100)
		time.Sleep(10 * time.Minute)
		assert.Equal(t, Stats{Waiting: 100, Failing: away}, o.Stats())
		r.set(nil)
		time.Sleep(2 * time.Minute)
		assert.Equal(t, Stats{}, o.Stats())
		assert.Equal(t, 100, r.received())
	})
}

func TestMessagesThatAreRefusedAreFoundAndKeptAside(t *testing.T) {
	t.Parallel()
	for name, unnamed := range map[string]bool{"named": false, "not named": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			r := &receiver{unnamed: unnamed, bad: func(m string) bool { return m == "m00007" || strings.HasPrefix(m, "m0005") }}
			o := boxed(t, folder, r, func(o *Outbox) { o.Most = 64 })
			add(t, o, 0, 200)
			o.Drain(t.Context())
			want := []string{"m00007", "m00050", "m00051", "m00052", "m00053", "m00054", "m00055", "m00056", "m00057", "m00058", "m00059"}
			slices.Sort(r.refused)
			assert.Equal(t, want, r.refused)
			assert.Equal(t, 189, r.received())
			assert.Equal(t, Stats{Aside: 11}, o.Stats())
			aside, err := os.ReadFile(filepath.Join(folder, "refused"))
			require.NoError(t, err)
			assert.Len(t, strings.Fields(string(aside)), 11)
		})
	}
}

func TestWhatWasNotSentIsSentByTheNextProcess(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	r := &receiver{fail: errors.New("away")}
	first := boxed(t, folder, r, func(o *Outbox) { o.Note = func() []byte { return []byte(`{"a":1}`) } })
	add(t, first, 0, 55)
	// Its process dies: nothing is finished, and the system gives back its lock and files.
	require.NoError(t, first.own.lock.Unlock())
	for _, s := range first.own.segments {
		require.NoError(t, s.file.Close())
	}
	r.set(nil)
	second := boxed(t, folder, r)
	assert.Equal(t, 55, second.Stats().Waiting)
	add(t, second, 55, 60)
	second.Drain(t.Context())
	assert.Equal(t, 60, r.received())
	assert.Empty(t, second.others, "what the first one left is gone")
	require.NoError(t, second.Close())
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Empty(t, entries, "nothing is left behind")
	require.ErrorIs(t, second.Add([]byte("late")), errClosed)
}

func TestTheNextProcessIsToldWhatTheLastOneKnew(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	r := &receiver{}
	first := boxed(t, folder, r, func(o *Outbox) { o.Note = func() []byte { return []byte(`{"spent":7}`) } })
	add(t, first, 0, 5)
	first.Drain(t.Context())
	add(t, first, 5, 8)
	require.NoError(t, first.Close())
	var note string
	var messages []string
	second := boxed(t, folder, r, func(o *Outbox) {
		o.Adopted = func(n []byte, all [][]byte) {
			note = string(n)
			for _, m := range all {
				messages = append(messages, string(m))
			}
		}
	})
	assert.JSONEq(t, `{"spent":7}`, note)
	assert.Equal(t, []string{"m00005", "m00006", "m00007"}, messages)
	assert.Equal(t, 3, second.Stats().Waiting)
}

func TestProcessesThatLiveKeepTheirMessages(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	r := &receiver{}
	first, second := boxed(t, folder, r), boxed(t, folder, r)
	add(t, first, 0, 5)
	second.Drain(t.Context())
	assert.Zero(t, r.received())
	assert.Equal(t, 5, first.Stats().Waiting)
}

func TestAFileThatWasCutOffOrDamagedLosesNothingElse(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(data []byte) []byte{
		"cut off in a message":  func(data []byte) []byte { return data[:len(data)-3] },
		"cut off in a head":     func(data []byte) []byte { return append(data, 0, 0, 0) },
		"another byte":          func(data []byte) []byte { data[len(data)-1] ^= 1; return data },
		"a length without end":  func(data []byte) []byte { return append(data, 255, 255, 255, 255, 1, 2, 3, 4) },
		"zeros, after a crash":  func(data []byte) []byte { return append(data, make([]byte, 100)...) },
		"garbage as the state":  nil,
		"state past the end":    nil,
		"a state of no segment": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			r := &receiver{}
			first := boxed(t, folder, r)
			add(t, first, 0, 9)
			dir := first.own.dir
			require.NoError(t, first.own.lock.Unlock())
			switch name {
			case "garbage as the state":
				require.NoError(t, os.WriteFile(filepath.Join(dir, stateName), []byte("{"), 0o600))
			case "state past the end":
				require.NoError(t, os.WriteFile(filepath.Join(dir, stateName), []byte(`{"done":{"segment":1,"offset":1000000}}`), 0o600))
			case "a state of no segment":
				require.NoError(t, os.WriteFile(filepath.Join(dir, stateName), []byte(`{"done":{"segment":0,"offset":7}}`), 0o600))
			default:
				path := first.own.path(1)
				data, err := os.ReadFile(path)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(path, spoil(data), 0o600))
			}
			second := boxed(t, folder, r)
			second.Drain(t.Context())
			switch {
			case name == "state past the end":
				assert.Zero(t, r.received())
			case strings.Contains(name, "in a message"), name == "another byte":
				assert.Equal(t, 8, r.received())
			default:
				assert.GreaterOrEqual(t, r.received(), 9)
			}
		})
	}
}

func TestLongBacklogsAreReadFromDiskAndFilesThatAreDoneAreRemoved(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	r := &receiver{}
	o := boxed(t, folder, r, func(o *Outbox) { o.Most = 1000 })
	big := strings.Repeat("x", 10_000)
	for i := range 2000 { // 20 MB
		require.NoError(t, o.Add(fmt.Appendf(nil, "%05d%s", i, big)))
	}
	files, err := filepath.Glob(filepath.Join(o.own.dir, "*"+segmentEnd))
	require.NoError(t, err)
	assert.Greater(t, len(files), 2)
	o.Drain(t.Context())
	assert.Equal(t, 2000, r.received())
	files, err = filepath.Glob(filepath.Join(o.own.dir, "*"+segmentEnd))
	require.NoError(t, err)
	assert.Len(t, files, 1)
	require.Error(t, o.Add(make([]byte, maxMessage+1)))
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	r := &receiver{}
	o := boxed(t, "", r)
	message := make([]byte, 1<<20)
	n := 0
	for o.Add(message) == nil {
		n++
	}
	require.ErrorIs(t, o.Add(message), ErrFull)
	assert.Less(t, n, 49)
	o.Drain(t.Context())
	require.NoError(t, o.Add(message), "there is room again")
}

// Whatever comes in between, every message arrives, and in the end none waits.
func TestNoMessageIsLostWhateverComesInBetween(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		folder := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			r := &receiver{slowness: 200 * time.Millisecond, bad: func(m string) bool { return strings.HasSuffix(m, "13") }}
			sent := 0
			var o *Outbox
			for range 6 {
				o = boxed(t, folder, r)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); o.Run(ctx) }()
				for range 20 {
					n := rnd.IntN(40)
					add(t, o, sent, sent+n)
					sent += n
					if rnd.IntN(4) == 0 {
						r.set(errors.New("away"))
					} else {
						r.set(nil)
					}
					time.Sleep(time.Duration(rnd.IntN(4000)) * time.Millisecond)
				}
				cancel()
				<-done
				if rnd.IntN(2) == 0 {
					require.NoError(t, o.Close())
				} else {
					require.NoError(t, o.own.lock.Unlock()) // killed
					for _, b := range o.others {
						require.NoError(t, b.lock.Unlock())
					}
				}
			}
			r.set(nil)
			last := boxed(t, folder, r)
			last.Drain(t.Context())
			assert.Zero(t, last.Stats().Waiting)
			for i := range sent {
				m := fmt.Sprintf("m%05d", i)
				if r.bad(m) {
					assert.Contains(t, r.refused, m)
				} else {
					assert.Positive(t, r.got[m], "seed %d: %s", seed, m)
				}
			}
		})
	}
}

func TestAStateIsJSONForAnyNote(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(state{place{3, 9}, nil})
	require.NoError(t, err)
	assert.JSONEq(t, `{"done":{"segment":3,"offset":9}}`, string(data))
}

// FuzzBox opens what a process that was killed, or a disk, has left of an outbox.
func FuzzBox(f *testing.F) {
	whole := func(messages ...string) (all []byte) {
		b := &box{}
		b.begin(1)
		for _, m := range messages {
			require.NoError(f, b.add([]byte(m)))
		}
		return b.segments[0].data
	}
	f.Add(whole("a", "bc", ""), []byte(`{"done":{"segment":1,"offset":9},"note":{"a":1}}`))
	f.Add(whole("a", "bc")[:13], []byte(`{"done":{"segment":9,"offset":-9}}`))
	f.Add(whole("a"), []byte(`{"done":{"segment":18446744073709551615,"offset":1e3}}`))
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0}, []byte(`{"done":{"segment":1,"offset":9223372036854775807}}`))
	f.Add([]byte{}, []byte(`null`))
	f.Fuzz(func(t *testing.T, segment, state []byte) {
		folder := t.TempDir()
		dir := filepath.Join(folder, boxPrefix+"killed")
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "000000000001.log"), segment, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, stateName), state, 0o600))
		b, err := openBox(dir)
		require.NoError(t, err, "no bytes keep messages from being sent")
		waiting, _ := b.left()
		require.Len(t, b.peek(), waiting)
		require.NoError(t, b.add([]byte("later")))
		var got []string
		for range waiting + 1 {
			if next := b.take(100); next != nil {
				for _, m := range next.messages {
					got = append(got, string(m))
				}
				next.finish()
			}
		}
		require.Len(t, got, waiting+1)
		require.Equal(t, "later", got[waiting], "what comes later is sent, and last")
		// As save and close do it, without waiting for a disk.
		done, err := json.Marshal(b.done)
		require.NoError(t, err)
		require.NoError(t, os.Remove(filepath.Join(dir, stateName))) // some disks are waited for when a file is emptied
		require.NoError(t, os.WriteFile(filepath.Join(dir, stateName), fmt.Appendf(nil, `{"done":%s}`, done), 0o600))
		leave := func(b *box) {
			for _, s := range b.segments {
				_ = s.file.Close() // the last may have none
			}
			require.NoError(t, b.unlock())
		}
		leave(b)

		b, err = openBox(dir)
		require.NoError(t, err)
		waiting, _ = b.left()
		require.Zero(t, waiting, "what is done is not sent again")
		leave(b)
	})
}
