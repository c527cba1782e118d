//go:build unix

package polargateredis

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

func TestAClientWhoseSentinelFellSilentFindsTheNextPrimary(t *testing.T) {
	t.Parallel()
	_, follower, watch := watched(t)
	conns := &ways{open: map[*way]struct{}{}}
	option := behindSentinel(watch.addr)
	option.DialCtxFn, option.ConnWriteTimeout = conns.dial, 2*time.Second
	s := store(t, dial(t, option), prefix())
	_, _, err := s.Swap(t.Context(), "account", "", []byte("100"), time.Minute)
	noError(t, err)
	conns.die() // that to the sentinel as well, which tells of the next primary
	eventually(t, "the sentinel has the follower take over", func() bool {
		reply, err := watch.try("SENTINEL FAILOVER main")
		return err == nil && strings.HasPrefix(reply, "+OK")
	})
	eventually(t, "the follower has taken over", func() bool {
		reply, err := follower.try("ROLE")
		return err == nil && strings.Contains(reply, "master")
	})
	eventually(t, "the next primary is written to", func() bool {
		is, err := s.Load(t.Context(), "account")
		if err != nil {
			return false
		}
		_, swapped, err := s.Swap(t.Context(), "account", is.Version, []byte("99"), time.Minute)
		text, _ := follower.try("GET " + s.value("account"))
		return err == nil && swapped && strings.Contains(text, "99")
	})
}

func TestANameThatMovesToTheNextPrimaryIsFollowed(t *testing.T) {
	t.Parallel()
	one := start(t, "redis-server")
	other := start(t, "redis-server")
	name := newProxy(t, one.addr)
	s := store(t, dial(t, rueidis.ClientOption{InitAddress: []string{name.addr}}), prefix())
	for range 5 {
		one, other = other, one
		follow(t, other, nil)
		follow(t, one, other)
		name.move(other.addr)
		eventually(t, "the server that the name stands for is written to, over all connections", func() bool {
			for range 20 {
				is, err := s.Load(t.Context(), "account")
				if err == nil {
					_, _, err = s.Swap(t.Context(), "account", is.Version, []byte("99"), time.Minute)
				}
				if err != nil {
					return false
				}
			}
			return true
		})
	}
}

func TestAServerThatOnlyFollowsIsReportedWithWhatToDo(t *testing.T) {
	t.Parallel()
	primary, follower := start(t, "redis-server"), start(t, "redis-server")
	follow(t, follower, primary)
	s := store(t, dial(t, rueidis.ClientOption{InitAddress: []string{follower.addr}}), prefix())
	for name, call := range map[string]func() error{
		"Swap":  func() error { _, _, err := s.Swap(t.Context(), "account", "", []byte("100"), time.Minute); return err },
		"Beat":  func() error { _, err := s.Beat(t.Context(), "replica", time.Minute); return err },
		"Pause": func() error { return s.Pause(t.Context(), "requests", time.Minute) },
	} {
		eventually(t, name+" says so", func() bool { // it may meet the end of the last connection
			err := call()
			if err == nil {
				t.Fatalf("%s wrote to a server that only follows", name)
			}
			return errors.Is(err, errFollows)
		})
	}
}

// follow has a server follow another one, or none.
func follow(t *testing.T, s, primary *server) {
	t.Helper()
	to := "NO ONE"
	if primary != nil {
		to = strings.ReplaceAll(primary.addr, ":", " ")
	}
	s.do(t, "REPLICAOF "+to)
}
