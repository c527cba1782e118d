package sharedlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const kind = 'r'

func logPath(t testing.TB) string { return filepath.Join(t.TempDir(), "customers.state") }

func putItem(t testing.TB, l *Log, key, head string, data []byte, until time.Time) {
	t.Helper()
	require.NoError(t, l.Update(t.Context(), func(tx *Tx) error {
		tx.Put(kind, key, Item{At: tx.Now, Until: until.UnixNano(), Head: head, Data: data})
		return nil
	}))
}

// text is what is stored under a key; "" for nothing.
func text(t testing.TB, l *Log, key string) (data string) {
	t.Helper()
	require.NoError(t, l.View(t.Context(), func(tx *Tx) error {
		if item, ok := tx.Read(kind, key); ok {
			data = item.Head + " " + string(item.Data)
		}
		return nil
	}))
	return data
}

func later() time.Time { return time.Now().Add(time.Hour) }

func TestWhatWasPutIsReadByEveryProcessAndAfterARestart(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	a, b := Open(path), Open(path)
	require.Empty(t, text(t, b, "k"), "there is no file yet, and nothing is made by looking")
	_, err := os.Stat(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	putItem(t, a, "k", "1", []byte("first"), later())
	require.Equal(t, "1 first", text(t, b, "k"))
	putItem(t, b, "k", "2", []byte("second"), later())
	require.Equal(t, "2 second", text(t, a, "k"))
	require.Equal(t, "2 second", text(t, Open(path), "k"))
	require.NoError(t, b.Update(t.Context(), func(tx *Tx) error { tx.Remove(kind, "k"); return nil }))
	require.Empty(t, text(t, a, "k"))
	require.Empty(t, text(t, Open(path), "k"))
}

func TestAnUpdateThatFailsPutsNothing(t *testing.T) {
	t.Parallel()
	for _, l := range []*Log{InMemory(), Open(logPath(t))} {
		putItem(t, l, "k", "1", []byte("first"), later())
		err := l.Update(t.Context(), func(tx *Tx) error {
			tx.Put(kind, "k", Item{Until: later().UnixNano(), Head: "2"})
			item, ok := tx.Read(kind, "k")
			assert.True(t, ok && item.Head == "2", "an update sees its own")
			return context.Canceled
		})
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, "1 first", text(t, l, "k"))
	}
	l := Open(logPath(t))
	putItem(t, l, "k", "1", nil, later())
	require.Error(t, l.Update(t.Context(), func(tx *Tx) error {
		tx.Put(kind, "k", Item{Until: later().UnixNano(), Head: "2"})
		tx.Put(kind, "large", Item{Until: later().UnixNano(), Data: make([]byte, maxBody)})
		return nil
	}))
	require.Equal(t, "1 ", text(t, l, "k"))
}

func TestTheFileIsForThisUserAlone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("modes are not Windows' way")
	}
	path := filepath.Join(t.TempDir(), "made", "when", "needed", "customers.state")
	l := Open(path)
	for range 40 { // until it is written anew
		putItem(t, l, "k", "", make([]byte, 100_000), later())
	}
	for _, name := range []string{path, path + ".lock"} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), name)
	}
	info, err := os.Stat(filepath.Dir(path))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
}

func TestTheFileDoesNotGrowBeyondTwiceWhatIsInIt(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	a, b := Open(path), Open(path)
	missed := 0
	b.Missed = func() { missed++ }
	require.Empty(t, text(t, b, "k0"))
	most := int64(0)
	for i := range 3000 {
		putItem(t, a, "k"+strconv.Itoa(i%20), strconv.Itoa(i), make([]byte, 5000), later())
		info, err := os.Stat(path)
		require.NoError(t, err)
		most = max(most, info.Size())
	}
	require.Less(t, most, int64(compactFrom+20_000), "of 15 MB that were written")
	for i := 2980; i < 3000; i++ {
		require.Contains(t, text(t, b, "k"+strconv.Itoa(i%20)), strconv.Itoa(i)+" ")
	}
	require.Positive(t, missed, "who read another file before is to check everything")
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the file and its lock")
}

func TestWhatEndedIsNotKept(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := Open(path)
	for i := range 400 {
		putItem(t, l, "brief"+strconv.Itoa(i), "", make([]byte, 10_000), time.Now()) // ends at once, by any clock
		l.nextPrune = 0
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(compactFrom+20_000))
	require.Less(t, len(l.items[kind]), 100)
}

func TestAboveItsBoundTheFileLosesWhatEndsFirst(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := Open(path)
	l.file.limit = 200_000
	for i := range 100 {
		putItem(t, l, strconv.Itoa(i), "", make([]byte, 10_000), later().Add(time.Duration(i)*time.Second))
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(300_000))
	require.Empty(t, text(t, l, "0"))
	require.NotEmpty(t, text(t, l, "99"))
}

func TestAFileThatIsCutOffAnywhereKeepsWhatIsWhole(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := Open(path)
	var ends []int64
	for i := range 4 {
		putItem(t, l, strconv.Itoa(i), "h", []byte("data"), later())
		ends = append(ends, l.file.end)
	}
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for size := range len(whole) {
		path := filepath.Join(t.TempDir(), "cut.state")
		require.NoError(t, os.WriteFile(path, whole[:size], 0o600))
		for i, end := range ends {
			want := ""
			if int64(size) >= end {
				want = "h data"
			}
			require.Equal(t, want, text(t, Open(path), strconv.Itoa(i)), "of %d bytes", size)
		}
		again := Open(path)
		putItem(t, again, "new", "h", []byte("data"), later())
		require.Equal(t, "h data", text(t, Open(path), "new"), "of %d bytes", size)
	}
}

func TestDamageAnywhereCostsOnlyWhatItHit(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := Open(path)
	var ends []int64
	for i := range 6 {
		putItem(t, l, strconv.Itoa(i), "h", bytes.Repeat([]byte("data"), 20), later())
		ends = append(ends, l.file.end)
	}
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for at := headerSize; at < len(whole); at += 7 {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0xFF
		path := filepath.Join(t.TempDir(), "damaged.state")
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		l := Open(path)
		hit := 0
		for i, end := range ends {
			begin := int64(headerSize)
			if i > 0 {
				begin = ends[i-1]
			}
			if int64(at) >= begin && int64(at) < end {
				require.Empty(t, text(t, l, strconv.Itoa(i)))
				hit++
				continue
			}
			require.NotEmpty(t, text(t, l, strconv.Itoa(i)), "byte %d is not of item %d", at, i)
		}
		require.Equal(t, 1, hit)
		if int64(at) < ends[4] {
			require.Positive(t, l.Unreadable(), "it is counted")
		}
		putItem(t, l, "new", "h", nil, later()) // which writes the file anew
		again := Open(path)
		require.Equal(t, "h ", text(t, again, "new"))
		require.Zero(t, again.Unreadable())
	}
}

func TestAFileOfSomethingElseIsPutAsideAndFailsNoStart(t *testing.T) {
	t.Parallel()
	for what, bytes := range map[string][]byte{
		"text":    []byte("dear diary, today I wrote a file of my own, in the same place"),
		"short":   []byte("x"),
		"zeros":   make([]byte, 100_000),
		"no file": nil,
	} {
		path := logPath(t)
		require.NoError(t, os.WriteFile(path, bytes, 0o600))
		l := Open(path)
		require.Empty(t, text(t, l, "k"), what)
		putItem(t, l, "k", "h", []byte("data"), later())
		require.Equal(t, "h data", text(t, Open(path), "k"), what)
		if len(bytes) > 0 {
			aside, err := os.ReadFile(path + ".corrupt")
			require.NoError(t, err, what)
			require.Equal(t, bytes, aside)
			require.EqualValues(t, len(bytes), l.Unreadable())
		}
	}
}

func TestAFileOfALaterVersionIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	data := append([]byte(magic+"2"), make([]byte, 100)...)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	l := Open(path)
	err := l.Update(t.Context(), func(*Tx) error { return nil })
	require.ErrorContains(t, err, "another version")
	require.Empty(t, text(t, l, "k"))
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, data, now)
}

func TestAFileThatIsDeletedWhileItIsInUseBeginsAnew(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	a, b := Open(path), Open(path)
	missed := 0
	a.Missed = func() { missed++ }
	putItem(t, a, "k", "h", []byte("data"), later())
	require.NotEmpty(t, text(t, b, "k"))
	require.NoError(t, os.Remove(path))
	require.Empty(t, text(t, a, "k"))
	require.Equal(t, 1, missed)
	putItem(t, b, "k", "h", []byte("new"), later())
	require.Equal(t, "h new", text(t, a, "k"))
}

func TestAFolderThatCannotBeWrittenIsAnErrorOfTheCallOnly(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	l := Open(filepath.Join(file, "customers.state"))
	require.Error(t, l.Update(t.Context(), func(*Tx) error { return nil }))
}

func TestALockThatAnotherProcessHoldsIsWaitedForWithinTheContext(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	a, b := Open(path), Open(path)
	putItem(t, a, "k", "h", []byte("data"), later())
	holding, letGo := make(chan struct{}), make(chan struct{})
	var held sync.WaitGroup
	held.Go(func() {
		assert.NoError(t, a.Update(t.Context(), func(*Tx) error { close(holding); <-letGo; return nil }))
	})
	<-holding
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.Error(t, b.Update(ctx, func(*Tx) error { return nil }))
	require.Equal(t, "h data", text(t, b, "k"), "looking needs no lock")
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.Error(t, a.Update(ctx, func(*Tx) error { return nil }), "nor does anybody wait longer in the same process")
	close(letGo)
	held.Wait()
	putItem(t, b, "k", "h", []byte("later"), later())
}

func TestChangesOfOthersAreTold(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	a, b := Open(path), Open(path)
	var told []string
	b.Changed = func(kind byte, key string) { told = append(told, string(kind)+key) }
	missed := 0
	b.Missed = func() { missed++ }
	putItem(t, a, "before", "", nil, later())
	require.NoError(t, b.Poll(t.Context()))
	require.Empty(t, told, "what was there at first is no news")
	putItem(t, a, "k", "", nil, later())
	putItem(t, b, "own", "", nil, later())
	require.Equal(t, []string{"rk", "rown"}, told)
	require.Zero(t, missed)
}

func TestAFileThatAnotherProcessMakesIsNews(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	a, b := Open(path), Open(path)
	missed := 0
	b.Missed = func() { missed++ }
	require.NoError(t, b.Poll(t.Context()))
	putItem(t, a, "k", "", nil, later())
	require.NoError(t, b.Poll(t.Context()))
	require.Equal(t, 1, missed)
}

// The format's numbers, by hand: a file of this version stays readable.
func TestAFileOfThisVersionStaysReadable(t *testing.T) {
	t.Parallel()
	until := uint64(time.Now().Add(time.Hour).UnixNano())
	body := []byte{kind}
	body = binary.BigEndian.AppendUint64(body, 5)
	body = binary.BigEndian.AppendUint64(body, until)
	body = append(body, 0, 3, 0, 4)
	body = append(body, "keyheaddata"...)
	rest := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	rest = append(rest, body...)
	file := append([]byte("PGSHARE1"), "0123456789abcdef"...)
	file = append(file, 0xF5, 0xC4, 0xB7, 0xA1)
	file = binary.BigEndian.AppendUint32(file, crc32.Checksum(rest, crc32.MakeTable(crc32.Castagnoli)))
	file = append(file, rest...)
	path := logPath(t)
	require.NoError(t, os.WriteFile(path, file, 0o600))
	l := Open(path)
	require.Equal(t, "head data", text(t, l, "key"))
	require.NoError(t, l.View(t.Context(), func(tx *Tx) error {
		item, ok := tx.Peek(kind, "key")
		require.Equal(t, Item{At: 5, Until: int64(until), Head: "head"}, item)
		require.True(t, ok)
		tx.Each(kind, func(key string, each Item) { require.Equal(t, item, each) })
		return nil
	}))
}

func FuzzNoBytesMakeAStartFail(f *testing.F) {
	path := logPath(f)
	l := Open(path)
	putItem(f, l, "a", "head", []byte("data"), later())
	putItem(f, l, "b", "head", []byte("data"), later())
	whole, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(append(bytes.Clone(whole[:headerSize]), whole...))
	f.Add([]byte("PGSHARE"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.HasPrefix(data, []byte(magic)) && len(data) > 7 && data[7] != version {
			return // another version is an error
		}
		path := logPath(t)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		l := Open(path)
		_ = text(t, l, "a")
		putItem(t, l, "new", "h", []byte("data"), later())
		require.Equal(t, "h data", text(t, l, "new"))
		require.Equal(t, "h data", text(t, Open(path), "new"))
	})
}

// BenchmarkLoad is what a start costs with 100,000 customers of 1 KiB.
func BenchmarkLoad(b *testing.B) {
	path := logPath(b)
	l := Open(path)
	data := make([]byte, 1000)
	for i := range data {
		data[i] = byte(rand.Int())
	}
	for i := range 100 {
		require.NoError(b, l.Update(b.Context(), func(tx *Tx) error {
			for n := range 1000 {
				tx.Put(kind, fmt.Sprintf("%032d", i*1000+n), Item{At: tx.Now, Until: later().UnixNano(), Head: strings.Repeat("9", 19), Data: data})
			}
			return nil
		}))
	}
	b.ReportAllocs()
	for b.Loop() {
		again := Open(path)
		if err := again.Poll(b.Context()); err != nil || len(again.items[kind]) != 100_000 {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	l := Open(logPath(b))
	putItem(b, l, "k", "h", make([]byte, 1000), later())
	b.ReportAllocs()
	for b.Loop() {
		_ = l.View(b.Context(), func(tx *Tx) error { tx.Read(kind, "k"); return nil })
	}
}

func BenchmarkPut(b *testing.B) {
	l := Open(logPath(b))
	data := make([]byte, 1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_ = l.Update(b.Context(), func(tx *Tx) error {
			tx.Put(kind, strconv.Itoa(i%1000), Item{At: tx.Now, Until: tx.Now + int64(time.Hour), Data: data})
			return nil
		})
	}
}
