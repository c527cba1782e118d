package sharedlog

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// processVariable makes the test binary a process that puts numbers into a file for
// ever, and says which it was told are stored.
const processVariable = "POLARGATE_SHAREDLOG_PROCESS"

func TestMain(m *testing.M) {
	name, ok := os.LookupEnv(processVariable)
	if !ok {
		os.Exit(m.Run())
	}
	l := Open(os.Args[1])
	for n := 1; ; n++ {
		err := l.Update(context.Background(), func(tx *Tx) error {
			// Some that are large, so that the file is written anew now and then.
			tx.Put(kind, name, Item{At: tx.Now, Until: tx.Now + int64(time.Hour), Head: strconv.Itoa(n), Data: bytes.Repeat([]byte{byte(n)}, 100+n%7*3000)})
			tx.Put(kind, name+"-twin", Item{At: tx.Now, Until: tx.Now + int64(time.Hour), Head: strconv.Itoa(n)})
			return nil
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func TestProcessesThatAreKilledAtAnyMomentLoseNothingTheyWereToldIsStored(t *testing.T) {
	t.Parallel()
	switch runtime.GOOS {
	case "js", "wasip1", "ios":
		t.Skip("programs cannot start programs here")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	path := logPath(t)
	for round := range 25 {
		type running struct {
			cmd  *exec.Cmd
			told chan int // the last number it was told is stored
		}
		var all []running
		for i := range 3 {
			cmd := exec.Command(self, path)
			cmd.Env = append(os.Environ(), processVariable+"="+strconv.Itoa(i))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			r := running{cmd, make(chan int, 1)}
			first := make(chan struct{})
			go func() {
				last := 0
				for lines := bufio.NewScanner(out); lines.Scan(); {
					if n, err := strconv.Atoi(strings.TrimSpace(lines.Text())); err == nil && n > last {
						if last == 0 {
							close(first)
						}
						last = n
					}
				}
				r.told <- last
			}()
			select {
			case <-first: // it has put something
			case <-time.After(time.Minute):
				t.Fatal("a process puts nothing")
			}
			all = append(all, r)
		}
		time.Sleep(rand.N(60 * time.Millisecond))
		for _, r := range all {
			require.NoError(t, r.cmd.Process.Kill())
		}
		reader := Open(path)
		for i, r := range all {
			_ = r.cmd.Wait()
			last := <-r.told
			require.NoError(t, reader.View(t.Context(), func(tx *Tx) error {
				item, ok := tx.Read(kind, strconv.Itoa(i))
				require.True(t, ok)
				n, err := strconv.Atoi(item.Head)
				require.NoError(t, err)
				require.GreaterOrEqual(t, n, last, "round %d: what was told is stored", round)
				require.Equal(t, bytes.Repeat([]byte{byte(n)}, 100+n%7*3000), item.Data)
				twin, ok := tx.Peek(kind, strconv.Itoa(i)+"-twin")
				require.True(t, ok)
				require.LessOrEqual(t, twin.Head, item.Head)
				return nil
			}))
		}
		require.Zero(t, reader.Unreadable(), "round %d: what a killed process left half-written is no damage", round)
	}
}
