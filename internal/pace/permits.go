package pace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// permits is how many requests Polar's public endpoints take in the second that opens
	// with the first of them. One more blocks the address for 60 s.
	permits = 3
	// rest is how long a permit stays unused after its answer. Of any four requests in a
	// row two had the same permit, and the later of them left at least this long after
	// Polar had counted the earlier: more than a second, whatever the network did to
	// either.
	rest = 1050 * time.Millisecond
	// lostRest is the same after a request without an answer, which may still be on its
	// way to Polar. A packet that takes longer is rare.
	lostRest = 5 * time.Second
)

// rest is how long a permit stays unused after a request that ended so.
func (o Outcome) rest() time.Duration {
	switch o {
	case Answered:
		return rest
	case Lost:
		return lostRest
	}
	return 0
}

// Permits are the permits for the public endpoints of one server. Callers of this process
// get one in the order of arrival, and share them with all programs of this user.
type Permits struct {
	shared *SharedDir // nil: they are not shared with other programs
	line   line
	own    [permits]permit // guarded by line.mu
}

// permit is a permit as this process has it.
type permit struct {
	inUse bool
	ready time.Time // when it may be used again
}

const (
	perSecond       = "Polar's limit of 3 requests a second"
	perSecondShared = perSecond + ", which the programs on this computer share,"
)

// newPermits makes permits that no other program shares if shared is nil.
func newPermits(shared *SharedDir) *Permits {
	return &Permits{shared: shared, line: line{limit: perSecond}}
}

var addresses sync.Map // server to *Permits

// ForAddress are the permits for a server, however its base URL is spelled. All clients
// of this process share them, since Polar counts by address. longest is how long a
// request can take.
func ForAddress(base string, longest time.Duration) *Permits {
	server := serverName(base)
	if p, ok := addresses.Load(server); ok {
		return p.(*Permits)
	}
	p, _ := addresses.LoadOrStore(server, newPermits(sharedDir(server, longest)))
	return p.(*Permits)
}

const localPrefix = "local-"

// sharedDir is the folder in which all programs of this user share the permits for a
// server, whatever they are and wherever they keep their state: polargate/pace-1/<hash>
// in os.UserCacheDir. It is nil if there is none, and for the names that are reserved for
// tests, behind which there is no server.
func sharedDir(server string, longest time.Duration) *SharedDir {
	host, _, _ := net.SplitHostPort(server)
	cache, err := os.UserCacheDir()
	if err != nil || strings.HasSuffix(host, ".test") {
		return nil
	}
	sum := sha256.Sum256([]byte(server))
	name := hex.EncodeToString(sum[:8])
	folder := filepath.Join(cache, "polargate", "pace-1")
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		// A server of a test or of a developer, on a port that changes.
		name = localPrefix + name
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			sweep(folder, localPrefix, 24*time.Hour)
		}
	}
	return &SharedDir{
		Path:         filepath.Join(folder, name),
		Permits:      permits,
		LongestRest:  lostRest,
		LongestPause: MaxPause,
		LongestUse:   longest + lostRest,
	}
}

// Wait waits for a permit of this process, and then for one that is shared.
func (p *Permits) Wait(ctx context.Context) (done func(Outcome), err error) {
	finish, err := p.waitHere(ctx)
	if err != nil || p.shared == nil {
		return finish, err
	}
	giveBack, err := p.shared.Take(ctx)
	if err == nil {
		return func(o Outcome) { giveBack(o.rest()); finish(o) }, nil
	}
	late, isLate := errors.AsType[*LateError](err)
	_, isPaused := errors.AsType[*PausedError](err)
	switch {
	case isPaused:
	case isLate:
		late.Limit = perSecondShared
	case ctx.Err() != nil:
		err = &StoppedError{Limit: perSecond, Err: ctx.Err()}
	default:
		// Files can't be shared here, so this process keeps to the limit by itself.
		return finish, nil
	}
	finish(Unsent)
	return nil, err
}

// waitHere waits for a permit of this process.
func (p *Permits) waitHere(ctx context.Context) (done func(Outcome), err error) {
	var mine *permit
	err = p.line.wait(ctx, func(ahead int) time.Duration {
		next := p.soonest()
		if ahead > 0 || next == nil {
			return unknown // it depends on how long other requests take
		}
		if wait := Within(time.Until(next.ready), lostRest); wait > 0 {
			return wait
		}
		next.inUse = true
		mine = next
		return 0
	})
	if err != nil {
		return nil, err
	}
	return func(o Outcome) { p.finish(mine, o) }, nil
}

// soonest is the permit that may be used first, or nil if all are in use.
func (p *Permits) soonest() (first *permit) {
	for i := range p.own {
		if one := &p.own[i]; !one.inUse && (first == nil || one.ready.Before(first.ready)) {
			first = one
		}
	}
	return first
}

func (p *Permits) finish(mine *permit, o Outcome) {
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	*mine = permit{ready: time.Now().Add(o.rest())}
	p.line.wakeFirst()
}

// PauseFor holds the requests of all programs of this user for d.
func (p *Permits) PauseFor(d time.Duration) {
	if p.shared != nil {
		p.shared.Pause(d)
	}
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	p.line.pauseFor(d)
}

// PauseLeft is how much is left of a pause that Polar asked any program of this user for.
func (p *Permits) PauseLeft() time.Duration {
	p.line.mu.Lock()
	left := p.line.pauseLeft()
	p.line.mu.Unlock()
	if p.shared != nil {
		left = max(left, p.shared.Paused())
	}
	return left
}

// Shared reports whether the other programs of this user use the same permits.
func (p *Permits) Shared() bool { return p.shared != nil && p.shared.Usable() == nil }
