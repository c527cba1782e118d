package pace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const shortRest = 200 * time.Millisecond

func folder(path string) SharedDir {
	return SharedDir{
		Path: path, Permits: 3,
		LongestRest: time.Second, LongestPause: time.Minute, LongestUse: 10 * time.Second,
	}
}

// helperVariable, when set, makes the test binary a program that takes permits
// in the folder of that path until it is killed, and says so line by line.
const helperVariable = "PACE_TEST_FOLDER"

func TestMain(m *testing.M) {
	path, isProcess := os.LookupEnv(helperVariable)
	if !isProcess {
		os.Exit(m.Run())
	}
	hold := os.Args[1] == "hold"
	for range 3 {
		done, err := folder(path).Take(context.Background())
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(time.Now().UnixNano())
		if hold {
			continue // for ever
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		done(shortRest)
	}
	if hold {
		select {}
	}
}

// program starts one more program; the test is told what it says.
func program(t *testing.T, path, what string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	if slices.Contains([]string{"js", "wasip1", "ios"}, runtime.GOOS) {
		t.Skip("programs cannot start programs here")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, what)
	cmd.Env = append(os.Environ(), helperVariable+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // Windows removes no file that it has open
	})
	return cmd, bufio.NewScanner(out)
}

func TestProgramsTogetherKeepToThePermits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "made when needed")
	var mu sync.Mutex
	var taken []int64
	var group sync.WaitGroup
	for range 8 {
		cmd, lines := program(t, path, "work")
		group.Go(func() {
			for lines.Scan() {
				at, err := strconv.ParseInt(lines.Text(), 10, 64)
				assert.NoError(t, err)
				mu.Lock()
				taken = append(taken, at)
				mu.Unlock()
			}
			assert.NoError(t, cmd.Wait())
		})
	}
	group.Wait()
	require.Len(t, taken, 24)
	slices.Sort(taken)
	for i := range len(taken) - 3 {
		assert.GreaterOrEqual(t, time.Duration(taken[i+3]-taken[i]), shortRest-10*time.Millisecond, "the fourth of any four waits for the rest of the first")
	}
}

func TestAKilledProgramLeavesNoStuckPermit(t *testing.T) {
	t.Parallel()
	f := folder(t.TempDir())
	cmd, lines := program(t, f.Path, "hold")
	for range 3 {
		require.True(t, lines.Scan())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := f.Take(ctx)
	require.Error(t, err, "all three are held")

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	killed := time.Now()
	done, err := f.Take(t.Context())
	require.NoError(t, err)
	// What the killed program had sent may arrive late.
	assert.GreaterOrEqual(t, time.Since(killed), f.LongestRest-50*time.Millisecond)
	done(0)
}

func TestASuspendedProgramDoesNotBlockOthersForever(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(string) error{
		"where open files can be removed": nil, // on Windows they can't
		"where open files stay":           func(string) error { return errors.New("the file is in use") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := folder(t.TempDir())
			f.LongestUse, f.remove = 50*time.Millisecond, remove
			_, lines := program(t, f.Path, "hold")
			for range 3 {
				require.True(t, lines.Scan())
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			done, err := f.Take(ctx)
			require.NoError(t, err)
			assert.Equal(t, 2, free(t, f), "all three were made anew, and one of them is held again")
			done(0)
			assert.Equal(t, 3, free(t, f))
		})
	}
}

// free is how many permits nobody holds.
func free(t *testing.T, dir SharedDir) (n int) {
	t.Helper()
	for i := range dir.Permits {
		lock, err := dir.tryLock(i)
		require.NoError(t, err)
		if lock != nil {
			n++
			require.NoError(t, lock.Close())
		}
	}
	return n
}

func TestAPermitRestsForAsLongAsItsHolderSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := folder(t.TempDir())
		start := time.Now()
		for _, r := range []time.Duration{300 * time.Millisecond, 200 * time.Millisecond, 100 * time.Millisecond} {
			done, err := f.Take(t.Context())
			require.NoError(t, err)
			defer done(0)
			done(r)
		}
		for _, after := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond} {
			done, err := f.Take(t.Context())
			require.NoError(t, err)
			defer done(0)
			waited := time.Since(start) - after
			assert.GreaterOrEqual(t, waited, time.Duration(0))
			assert.Less(t, waited, 10*time.Millisecond)
		}
	})
}

func TestAWaitThatTheDeadlineForbidsFailsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := folder(t.TempDir())
		for range 3 {
			done, err := f.Take(t.Context())
			require.NoError(t, err)
			done(500 * time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := f.Take(ctx)
		var late *LateError
		require.ErrorAs(t, err, &late)
		assert.Equal(t, 500*time.Millisecond, late.For)
		assert.Zero(t, time.Since(start))

		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_, err = f.Take(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestAPauseIsForAllCallersAndIsNotCutShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := t.TempDir()
		folder(path).Pause(30 * time.Second)
		folder(path).Pause(10 * time.Second)
		assert.Equal(t, 30*time.Second, folder(path).Paused())
		_, err := folder(path).Take(t.Context())
		var paused *PausedError
		require.ErrorAs(t, err, &paused)
		assert.Equal(t, 30*time.Second, paused.For)
		time.Sleep(30 * time.Second)
		assert.Zero(t, folder(path).Paused())
		done, err := folder(path).Take(t.Context())
		require.NoError(t, err)
		done(0)
	})
}

func TestAPauseReachesWaitingPrograms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := folder(t.TempDir())
		for range 3 {
			done, err := f.Take(t.Context())
			require.NoError(t, err)
			done(500 * time.Millisecond)
		}
		time.AfterFunc(100*time.Millisecond, func() { f.Pause(20 * time.Second) })
		_, err := f.Take(t.Context())
		var paused *PausedError
		require.ErrorAs(t, err, &paused)
	})
}

func TestImpossibleRecordsDelayNoCallerForLong(t *testing.T) {
	t.Parallel()
	far := fmt.Sprintf("ready %019d\n", time.Now().Add(1000*time.Hour).UnixNano())
	for name, text := range map[string]string{
		"nothing":                    "",
		"half a record":              "ready 17",
		"bytes of something else":    "\x00\xff\x00 PK\x03\x04",
		"a very long text":           strings.Repeat("ready ", 1<<18),
		"a time before all times":    "ready -000000000000000001\n",
		"a clock that was far ahead": far,
		"in use since far ahead":     strings.Replace(far, "ready", "inuse", 1),
		"in use since long ago":      "inuse 0000000000000000001\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := folder(t.TempDir())
				for _, file := range []string{"1", "2", "3", "pause"} {
					require.NoError(t, os.WriteFile(filepath.Join(f.Path, file), []byte(text), 0o600))
				}
				assert.Zero(t, f.Paused())
				start := time.Now()
				done, err := f.Take(t.Context())
				require.NoError(t, err)
				assert.LessOrEqual(t, time.Since(start), f.LongestRest+10*time.Millisecond)
				done(0)
				again := time.Now()
				done, err = f.Take(t.Context())
				require.NoError(t, err)
				done(0)
				assert.Zero(t, time.Since(again), "what was wrong was put right")
			})
		})
	}
}

func TestWhereNothingCanBeWrittenTheErrorIsOfTheFileSystem(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	f := folder(filepath.Join(file, "folder"))
	_, err := f.Take(t.Context())
	var path *os.PathError
	require.ErrorAs(t, err, &path)
	require.Error(t, f.Usable())
	f.Pause(time.Second)
	assert.Zero(t, f.Paused())
	require.NoError(t, folder(t.TempDir()).Usable())
}

func TestOldFoldersAreSwept(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	old := time.Now().Add(-48 * time.Hour)
	for name, age := range map[string]time.Time{"local-old": old, "local-used": time.Now(), "other-old": old} {
		f := folder(filepath.Join(parent, name))
		done, err := f.Take(t.Context())
		require.NoError(t, err)
		done(0)
		require.NoError(t, os.Chtimes(filepath.Join(f.Path, "1"), age, age))
	}
	require.NoError(t, os.Mkdir(filepath.Join(parent, "local-empty"), 0o700))
	require.NoError(t, os.Chtimes(filepath.Join(parent, "local-empty"), old, old))
	sweep(parent, "local-", 24*time.Hour)
	var left []string
	entries, err := os.ReadDir(parent)
	require.NoError(t, err)
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	assert.Equal(t, []string{"local-used", "other-old"}, left)
	sweep(filepath.Join(parent, "missing"), "", 0)
}

func FuzzRecord(f *testing.F) {
	for _, seed := range []string{"", "ready 0000000000000000001\n", "inuse 1763856000000000000\n", "ready -1", "ready 99999999999999999999\n", "ready\x00", "inuse 9223372036854775807\n"} {
		f.Add([]byte(seed), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, record, pause []byte) {
		f := folder(t.TempDir())
		require.NoError(t, os.WriteFile(filepath.Join(f.Path, "1"), record, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(f.Path, "pause"), pause, 0o600))
		require.LessOrEqual(t, f.Paused(), f.LongestPause)
		require.GreaterOrEqual(t, f.Paused(), time.Duration(0))
		if f.Paused() > 0 {
			return
		}
		// The two other permits are free, whatever this one says.
		done, err := f.Take(t.Context())
		require.NoError(t, err)
		done(0)
	})
}
