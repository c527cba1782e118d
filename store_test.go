package polargate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// whole makes data that tells on its own whether all of it is there: a number,
// bytes that follow from it, as many as size says, and a sum over both.
func whole(number uint64, size int) []byte {
	data := binary.BigEndian.AppendUint64(nil, number)
	data = append(data, bytes.Repeat([]byte{byte(number)}, size)...)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

func readWhole(data []byte) (number uint64, err error) {
	if len(data) < 8+sha256.Size {
		return 0, fmt.Errorf("only %d bytes", len(data))
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(want[:], sum) {
		return 0, fmt.Errorf("%d bytes that do not belong together", len(data))
	}
	return binary.BigEndian.Uint64(body), nil
}

// countUnderLock adds one to the number that is stored.
func countUnderLock(ctx context.Context, s Store, name string) error {
	unlock, err := s.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	var number uint64
	data, err := s.Load(ctx, name)
	switch {
	case err == nil:
		if number, err = readWhole(data); err != nil {
			return err
		}
	case !errors.Is(err, ErrNotStored):
		return err
	}
	return s.Save(ctx, name, whole(number+1, int(number)))
}

func TestAWaiterForAMemoryLockGetsItWhenItIsFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s MemoryStore
		unlock, err := s.Lock(t.Context(), "a")
		require.NoError(t, err)
		go func() {
			time.Sleep(time.Hour)
			unlock()
		}()
		start := time.Now()
		second, err := s.Lock(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, time.Hour, time.Since(start))
		second()

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		third, err := s.Lock(t.Context(), "a")
		require.NoError(t, err)
		start = time.Now()
		_, err = s.Lock(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Minute, time.Since(start))
		third()
	})
}

func posix(t *testing.T) {
	t.Helper()
	switch runtime.GOOS {
	case "windows", "plan9", "js", "wasip1":
		t.Skip("files have no such modes here")
	}
}

func TestFilesAreForTheirUserAlone(t *testing.T) {
	t.Parallel()
	posix(t)
	above := t.TempDir()
	folder := filepath.Join(above, "inkwell", "license")
	s := FileStore(folder)
	mode := func(path string) fs.FileMode {
		info, err := os.Stat(path)
		require.NoError(t, err)
		return info.Mode().Perm()
	}
	require.NoError(t, s.Save(t.Context(), "a.sealed", []byte("x")))
	unlock, err := s.Lock(t.Context(), "a.sealed")
	require.NoError(t, err)
	unlock()
	assert.Equal(t, fs.FileMode(0o700), mode(folder))
	assert.Equal(t, fs.FileMode(0o700), mode(filepath.Dir(folder)))
	assert.Equal(t, fs.FileMode(0o600), mode(filepath.Join(folder, "a.sealed")))
	assert.Equal(t, fs.FileMode(0o600), mode(filepath.Join(folder, "a.sealed.lock")))

	require.NoError(t, os.Chmod(filepath.Join(folder, "a.sealed"), 0o644))
	require.NoError(t, s.Save(t.Context(), "a.sealed", []byte("y")))
	assert.Equal(t, fs.FileMode(0o600), mode(filepath.Join(folder, "a.sealed")), "also after somebody has opened it up")

	locking := FileStore(filepath.Join(above, "by", "locking"))
	unlock, err = locking.Lock(t.Context(), "a")
	require.NoError(t, err)
	unlock()
	assert.Equal(t, fs.FileMode(0o700), mode(string(locking)))
}

func names(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

func TestSavingLeavesNothingElseBehind(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	s := FileStore(folder)
	for i := range 5 {
		require.NoError(t, s.Save(t.Context(), "a.sealed", whole(uint64(i), 100)))
	}
	assert.Equal(t, []string{"a.sealed"}, names(t, folder))
	unlock, err := s.Lock(t.Context(), "a.sealed")
	require.NoError(t, err)
	unlock()
	assert.Equal(t, []string{"a.sealed", "a.sealed.lock"}, names(t, folder), "a lock file stays, or two could hold it")
}

func TestOldLeftoversOfACrashAreRemoved(t *testing.T) {
	t.Parallel()
	for name, folderName := range map[string]string{
		"in a folder with a plain name":   "license",
		"in a folder named like patterns": "a[b]c{d}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), folderName)
			require.NoError(t, os.Mkdir(folder, 0o700))
			put := func(name string, age time.Duration) {
				path := filepath.Join(folder, name)
				require.NoError(t, os.WriteFile(path, []byte("half"), 0o600))
				at := time.Now().Add(-age)
				require.NoError(t, os.Chtimes(path, at, at))
			}
			put("a.sealed.1.tmp", 61*time.Minute)
			put("a.sealed.2.tmp", 1000*days)
			put("a.sealed.3.tmp", 55*time.Minute)
			put("a.sealed.4.tmp", -hour) // a clock that was set back since
			put("b.sealed.5.tmp", 1000*days)
			put("a.sealed.corrupt", 1000*days)
			put("a.sealed.lock", 1000*days)
			put("a.sealed", 1000*days)
			put("notes.tmp", 1000*days)
			require.NoError(t, FileStore(folder).Save(t.Context(), "a.sealed", []byte("new")))
			assert.Equal(t, []string{
				"a.sealed", "a.sealed.3.tmp", "a.sealed.4.tmp", "a.sealed.corrupt", "a.sealed.lock", "b.sealed.5.tmp", "notes.tmp",
			}, names(t, folder))
			data, err := os.ReadFile(filepath.Join(folder, "a.sealed"))
			require.NoError(t, err)
			assert.Equal(t, "new", string(data))
		})
	}
}

// readForEver reads the file with that name again and again, with the given pauses, until the
// test ends. On Windows, who reads with os.Open lets nobody replace the file meanwhile.
func readForEver(t *testing.T, read func() error, pause time.Duration) {
	t.Helper()
	var readers sync.WaitGroup
	stop := make(chan struct{})
	readers.Go(func() {
		for {
			if err := read(); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
		}
	})
	t.Cleanup(func() { close(stop); readers.Wait() })
}

func TestAStateIsSavedWhileOthersKeepReadingIt(t *testing.T) {
	t.Parallel()
	const saves = 20
	tell := func(s FileStore, name string, reader func() error) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			require.NoError(t, s.Save(t.Context(), name, whole(0, 1000)))
			readForEver(t, reader, 5*time.Millisecond)
			for i := range saves {
				require.NoError(t, s.Save(t.Context(), name, whole(uint64(i), 1000)))
			}
			data, err := s.Load(t.Context(), name)
			require.NoError(t, err)
			number, err := readWhole(data)
			require.NoError(t, err)
			assert.Equal(t, uint64(saves-1), number)
		}
	}
	s := FileStore(t.TempDir())
	t.Run("with this store", tell(s, "a", func() error {
		data, err := s.Load(context.Background(), "a")
		if err == nil {
			_, err = readWhole(data)
		}
		return err
	}))
	t.Run("like a virus scanner, so that it cannot be replaced meanwhile", tell(s, "b", func() error {
		f, err := os.Open(filepath.Join(string(s), "b"))
		if err != nil {
			return nil // being replaced just now
		}
		return f.Close()
	}))
}

func TestALicenseThatAnEarlierVersionStoredInAnotherFolderIsFoundAndSavedInTheNewOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		roaming, local := t.TempDir(), t.TempDir()
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		open := func(store Store) *Gate {
			return openGate(t, polar, func(c *Config) { c.Store, c.Features = store, withExport(key) })
		}
		earlier := open(storeIn(roaming, roaming, "inkwell"))
		_, err := earlier.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		require.NoError(t, earlier.Close())

		gate := open(storeIn(local, roaming, "inkwell"))
		assert.True(t, gate.Has("export"), "at once")
		assert.NoDirExists(t, filepath.Join(local, "inkwell"), "reading writes nothing")
		_, err = gate.Refresh(t.Context())
		require.NoError(t, err)
		assert.FileExists(t, filepath.Join(local, "inkwell", "license", gate.name))
		assert.Equal(t, 1, polar.Count("/activate"))
		require.NoError(t, gate.Deactivate(t.Context()))
		require.NoError(t, gate.Close())
		assert.Zero(t, polar.Seats(key.ID))

		assert.Equal(t, Unlicensed, open(storeIn(local, roaming, "inkwell")).Status().State, "the older one is not looked at any more")
		assert.FileExists(t, filepath.Join(roaming, "inkwell", "license", gate.name), "for a program that goes back to an earlier version")
	})
}

func TestAStateThatIsDeletedFromTheNewFolderIsNotReplacedByAnOlderOne(t *testing.T) {
	t.Parallel()
	roaming, local := t.TempDir(), t.TempDir()
	require.NoError(t, storeIn(roaming, "", "inkwell").Save(t.Context(), "a", []byte("older")))
	s := storeIn(local, roaming, "inkwell")
	data, err := s.Load(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, "older", string(data))
	require.NoError(t, s.Save(t.Context(), "a", []byte("newer")))
	require.NoError(t, os.Remove(filepath.Join(local, "inkwell", "license", "a")))
	_, err = s.Load(t.Context(), "a")
	require.ErrorIs(t, err, ErrNotStored)
	_, err = s.Load(t.Context(), "b")
	require.ErrorIs(t, err, ErrNotStored)
}

func TestTheDefaultFolderOnWindowsDoesNotRoam(t *testing.T) {
	if runtime.GOOS != "windows" {
		t.Skip("only Windows has two folders for a user's settings")
	}
	roaming, local := t.TempDir(), t.TempDir()
	t.Setenv("AppData", roaming)
	t.Setenv("LocalAppData", local)
	require.NoError(t, FileStore(filepath.Join(roaming, "inkwell", "license")).Save(t.Context(), "a", []byte("earlier")))
	s := defaultStore("inkwell")
	data, err := s.Load(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, "earlier", string(data))
	require.NoError(t, s.Save(t.Context(), "a", []byte("now")))
	assert.FileExists(t, filepath.Join(local, "inkwell", "license", "a"))
}

func TestFilesWithTheAttributeReadOnlyAreWritten(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "windows" {
		t.Skip("only Windows protects a file from its owner by an attribute")
	}
	s := FileStore(t.TempDir())
	require.NoError(t, countUnderLock(t.Context(), s, "a"))
	for _, name := range []string{"a", "a.lock"} {
		require.NoError(t, os.Chmod(filepath.Join(string(s), name), 0o400))
	}
	require.NoError(t, countUnderLock(t.Context(), s, "a"))
	data, err := s.Load(t.Context(), "a")
	require.NoError(t, err)
	number, err := readWhole(data)
	require.NoError(t, err)
	assert.Equal(t, uint64(2), number)
}

func TestLoadingAFileThatIsNoState(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	s := FileStore(folder)

	_, err := FileStore(filepath.Join(folder, "missing")).Load(t.Context(), "a")
	require.ErrorIs(t, err, ErrNotStored, "a folder that was never made")
	assert.NotContains(t, names(t, folder), "missing", "loading makes no folder")

	require.NoError(t, os.Mkdir(filepath.Join(folder, "directory"), 0o700))
	data, err := s.Load(t.Context(), "directory")
	require.Error(t, err, "a directory")
	require.NotErrorIs(t, err, ErrNotStored)
	assert.Empty(t, data)

	huge := filepath.Join(folder, "huge")
	require.NoError(t, os.WriteFile(huge, nil, 0o600))
	require.NoError(t, os.Truncate(huge, 16*maxState))
	data, err = s.Load(t.Context(), "huge")
	require.NoError(t, err)
	assert.Len(t, data, maxState+1, "no more is read than shows that it is too long")
	_, err = newSealer("o", "a", "").openState(data)
	require.Error(t, err)

	exact := filepath.Join(folder, "exact")
	require.NoError(t, os.WriteFile(exact, bytes.Repeat([]byte("x"), maxState), 0o600))
	data, err = s.Load(t.Context(), "exact")
	require.NoError(t, err)
	assert.Len(t, data, maxState)

	require.NoError(t, os.WriteFile(filepath.Join(folder, "file"), []byte("x"), 0o600))
	_, err = FileStore(filepath.Join(folder, "file")).Load(t.Context(), "a")
	require.Error(t, err, "a path through a file")
	if runtime.GOOS != "windows" { // which does not tell it from a missing one
		require.NotErrorIs(t, err, ErrNotStored)
	}
}

func TestAFileThatMayNotBeReadIsNotTakenForAMissingOne(t *testing.T) {
	t.Parallel()
	posix(t)
	if os.Geteuid() == 0 {
		t.Skip("the superuser may read everything")
	}
	s := FileStore(t.TempDir())
	require.NoError(t, s.Save(t.Context(), "a", []byte("x")))
	require.NoError(t, os.Chmod(filepath.Join(string(s), "a"), 0))
	_, err := s.Load(t.Context(), "a")
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NotErrorIs(t, err, ErrNotStored)
}

func TestSavingWhereItCannotBeDoneFailsAndLeavesTheOld(t *testing.T) {
	t.Parallel()
	t.Run("through a file", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		file := filepath.Join(folder, "file")
		require.NoError(t, os.WriteFile(file, []byte("old"), 0o600))
		s := FileStore(filepath.Join(file, "license"))
		require.Error(t, s.Save(t.Context(), "a", []byte("new")))
		_, err := s.Lock(t.Context(), "a")
		require.Error(t, err)
		require.NotErrorIs(t, err, errors.ErrUnsupported, "a store that is broken is not one that needs no lock")
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, "old", string(data))
	})
	t.Run("over a directory", func(t *testing.T) {
		t.Parallel()
		s := FileStore(t.TempDir())
		require.NoError(t, os.Mkdir(filepath.Join(string(s), "a"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(string(s), "a", "kept"), []byte("old"), 0o600))
		require.Error(t, s.Save(t.Context(), "a", []byte("new")))
		assert.Equal(t, []string{"a"}, names(t, string(s)), "the half-written file is gone")
		assert.Equal(t, []string{"kept"}, names(t, filepath.Join(string(s), "a")))
	})
	t.Run("where no new file can be made", func(t *testing.T) {
		t.Parallel()
		s := FileStore(t.TempDir())
		// The name itself fits into a folder, one with more to it does not.
		name := strings.Repeat("a", 250)
		require.NoError(t, os.WriteFile(filepath.Join(string(s), name), []byte("old"), 0o600))
		require.Error(t, s.Save(t.Context(), name, []byte("new")))
		data, err := s.Load(t.Context(), name)
		require.NoError(t, err)
		assert.Equal(t, "old", string(data))
		assert.Equal(t, []string{name}, names(t, string(s)))
	})
	t.Run("in a folder without the right to write", func(t *testing.T) {
		t.Parallel()
		posix(t)
		if os.Geteuid() == 0 {
			t.Skip("the superuser may write everywhere")
		}
		s := FileStore(t.TempDir())
		require.NoError(t, s.Save(t.Context(), "a", []byte("old")))
		require.NoError(t, os.Chmod(string(s), 0o500))
		defer func() { _ = os.Chmod(string(s), 0o700) }()
		require.ErrorIs(t, s.Save(t.Context(), "a", []byte("new")), fs.ErrPermission)
		_, err := s.Lock(t.Context(), "b")
		require.ErrorIs(t, err, fs.ErrPermission)
		data, err := s.Load(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, "old", string(data))
	})
	t.Run("without a folder known", func(t *testing.T) {
		t.Parallel()
		why := errors.New("no HOME")
		s := noStore{why}
		_, err := s.Load(t.Context(), "a")
		require.ErrorIs(t, err, ErrNotStored)
		require.ErrorIs(t, s.Save(t.Context(), "a", nil), why)
		_, err = s.Lock(t.Context(), "a")
		require.ErrorIs(t, err, why)
	})
	t.Run("in a folder without a name", func(t *testing.T) {
		t.Parallel()
		require.Error(t, FileStore("").Save(t.Context(), "must-not-be-made", []byte("x")))
		assert.NoFileExists(t, "must-not-be-made")
	})
}

// processHoldsLock takes the lock of args[1] in the folder args[0], says so, and
// keeps it until it is killed or its input ends.
func processHoldsLock(args []string) error {
	unlock, err := FileStore(args[0]).Lock(context.Background(), args[1])
	if err != nil {
		return err
	}
	defer unlock()
	fmt.Println("locked")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return nil
}

func TestALockKeepsOtherProcessesOutUntilItsHolderIsGone(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct{ kill bool }{
		"the holder ends by itself": {false},
		"the holder is killed":      {true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := FileStore(t.TempDir())
			holder := testprogram.Command(t, "hold-lock", string(s), "a")
			in, err := holder.StdinPipe()
			require.NoError(t, err)
			out, err := holder.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, holder.Start())
			defer func() { _ = holder.Process.Kill() }()
			line, err := bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "locked\n", line)

			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err = s.Lock(ctx, "a")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			unlock, err := s.Lock(t.Context(), "b")
			require.NoError(t, err, "another name is free")
			unlock()
			require.NoError(t, s.Save(t.Context(), "a", []byte("x")), "a lock does not affect Save")
			_, err = s.Load(t.Context(), "a")
			require.NoError(t, err, "nor Load")

			// Somebody waits already when the holder goes.
			got := make(chan error, 1)
			go func() {
				unlock, err := s.Lock(t.Context(), "a")
				if err == nil {
					unlock()
				}
				got <- err
			}()
			if end.kill {
				require.NoError(t, holder.Process.Kill())
				require.Error(t, holder.Wait())
			} else {
				require.NoError(t, in.Close())
				require.NoError(t, holder.Wait())
			}
			select {
			case err := <-got:
				require.NoError(t, err)
			case <-time.After(10 * time.Second):
				t.Fatal("the lock of a process that is gone is still held")
			}
		})
	}
}

// processCountsUnderLock adds one to what is stored in the folder args[0], as
// often as args[1] says, when its input ends.
func processCountsUnderLock(args []string) error {
	times, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	for range times {
		if err := countUnderLock(context.Background(), FileStore(args[0]), "a"); err != nil {
			return err
		}
	}
	return nil
}

func TestEightProcessesLoseNoUpdate(t *testing.T) {
	t.Parallel()
	const processCount, times = 8, 10
	s := FileStore(filepath.Join(t.TempDir(), "not", "there", "yet"))
	var wait []func() error
	var start []func() error
	for range processCount {
		p := testprogram.Command(t, "count-with-lock", string(s), strconv.Itoa(times))
		in, err := p.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, p.Start())
		defer func() { _ = p.Process.Kill() }()
		start, wait = append(start, in.Close), append(wait, p.Wait)
	}
	for _, begin := range start {
		require.NoError(t, begin())
	}
	for _, end := range wait {
		require.NoError(t, end())
	}
	data, err := s.Load(t.Context(), "a")
	require.NoError(t, err)
	number, err := readWhole(data)
	require.NoError(t, err)
	assert.Equal(t, uint64(processCount*times), number)
	assert.Equal(t, []string{"a", "a.lock"}, names(t, string(s)))
}

// processSavesForEver saves in the folder args[0] until it is killed. It says
// which number was saved, each time that it was.
func processSavesForEver(args []string) error {
	s := FileStore(args[0])
	data, err := s.Load(context.Background(), "a")
	var number uint64
	if err == nil {
		number, err = readWhole(data)
	}
	if err != nil && !errors.Is(err, ErrNotStored) {
		return err
	}
	for {
		number++
		if err := s.Save(context.Background(), "a", whole(number, int(number*7919%200_000))); err != nil {
			return err
		}
		fmt.Println(number)
	}
}

func TestAStateOpensWholeAfterItsWriterWasKilled(t *testing.T) {
	t.Parallel()
	s := FileStore(t.TempDir())
	var last uint64
	for kill := range 20 {
		writer := testprogram.Command(t, "save-for-ever", string(s))
		out, err := writer.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, writer.Start())
		// Let it save once at least, then kill it wherever it is.
		lines := bufio.NewScanner(out)
		var saved uint64
		for n := 1 + rand.IntN(5); n > 0 && lines.Scan(); n-- {
			saved, err = strconv.ParseUint(lines.Text(), 10, 64)
			require.NoError(t, err)
		}
		time.Sleep(rand.N(3 * time.Millisecond))
		require.NoError(t, writer.Process.Kill())
		for lines.Scan() { // what it said before it died, the last line perhaps cut
			if number, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				saved = max(saved, number)
			}
		}
		require.Error(t, writer.Wait(), "it was killed")
		require.Greater(t, saved, last, "it went on where the one before was killed")

		data, err := s.Load(t.Context(), "a")
		require.NoError(t, err, "kill %d", kill)
		number, err := readWhole(data)
		require.NoError(t, err, "kill %d", kill)
		require.GreaterOrEqual(t, number, saved, "what Save returned from is not lost")
		require.LessOrEqual(t, number, saved+1)
		last = number
	}
	assert.LessOrEqual(t, len(names(t, string(s))), 21, "one half-written file a kill at most")
	require.NoError(t, s.Save(t.Context(), "a", whole(1, 1)))
}

// silentStore's Lock waits for its context, and doesn't say that this was why it ended. Drivers of
// databases do so: ncruces/go-sqlite3 0.37.0 is one.
type silentStore struct{ MemoryStore }

func (s *silentStore) Lock(ctx context.Context, _ string) (func(), error) {
	<-ctx.Done()
	return nil, errors.New("interrupted")
}

func TestACallThatItsCallerEndedSaysSoWhateverErrorTheStoreHas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		gate, err := Open(Config{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: &silentStore{}, Fingerprint: "this computer"})
		require.NoError(t, err)
		defer gate.Close()

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = gate.Activate(ctx, key.Key)
		require.ErrorIs(t, err, context.Canceled)
		assert.NotContains(t, err.Error(), "interrupted")
		assert.Equal(t, "Cancelled. It may still complete in the background.", Message(err))

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = gate.Activate(ctx, key.Key)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotContains(t, err.Error(), "interrupted")
		assert.Zero(t, polar.Count("/activate"))
	})
}
