package polargate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/polargate/polargate/internal/permit"
	"golang.org/x/time/rate"
)

// outcome is how a request ended, which decides how soon the next one may go.
type outcome int

const (
	// outcomeAnswered: the answer came, so Polar counted the request before now.
	outcomeAnswered outcome = iota
	// outcomeUnsent: Polar never saw it.
	outcomeUnsent
	// outcomeLost: no answer. The request may still be on its way, and count
	// at Polar later than now.
	outcomeLost
)

const (
	// permits is how many requests Polar's public endpoints take in the second
	// that opens with the first of them; one more blocks the address for 60 s.
	permits = 3
	// rest is how long a permit stays unused after its answer. Of any four
	// requests in a row two had the same permit, and the later of them left at
	// least this long after Polar had counted the earlier: more than a second,
	// whatever the network did to either.
	rest = 1050 * time.Millisecond
	// lostRest is the same after a request with no answer, whose way to Polar
	// may not be over. A packet still on its way after that is a rare one.
	lostRest = 5 * time.Second
)

// rest is how long a permit stays unused after a request that ended so.
func (o outcome) rest() time.Duration {
	switch o {
	case outcomeAnswered:
		return rest
	case outcomeLost:
		return lostRest
	}
	return 0
}

// pacer keeps all requests to one server's public endpoints within Polar's
// limit, and silent after Polar asked for a pause: those of this process, in
// order of arrival, and through shared those of all programs of this user.
type pacer struct {
	// shared is where permits are shared with other programs; nil if nowhere.
	shared *permit.Folder

	mu     sync.Mutex // never held while waiting
	own    [permits]turn
	paused time.Time       // nobody asks before
	queue  []chan struct{} // who waits, in order of arrival; the first is told of changes
}

// turn is a permit as this process has it.
type turn struct {
	inUse bool
	ready time.Time // may be used again from then on
}

var pacers sync.Map // server to *pacer

// publicPacer is the one pacer of this process for a server: Polar counts by
// address, so all clients have to share it, however they spell the base URL.
func publicPacer(base string) *pacer {
	server := serverName(base)
	if p, ok := pacers.Load(server); ok {
		return p.(*pacer)
	}
	p, _ := pacers.LoadOrStore(server, &pacer{shared: sharedPermits(server)})
	return p.(*pacer)
}

const localPrefix = "local-"

// sharedPermits is the folder in which all programs of this user share the
// permits for a server, whatever they are and wherever they keep their state:
// polargate/pace-1/<hash> in os.UserCacheDir. nil if there is none, and for the
// names that are reserved for tests, behind which there is no server.
func sharedPermits(server string) *permit.Folder {
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
			permit.Sweep(folder, localPrefix, 24*time.Hour)
		}
	}
	return &permit.Folder{
		Path:         filepath.Join(folder, name),
		Permits:      permits,
		LongestRest:  lostRest,
		LongestPause: maxPause,
		LongestUse:   attemptTimeout + lostRest,
	}
}

// start waits for a permit: one of this process, and with it one of those that
// are shared. It fails at once, with ErrRateLimited, when Polar asked for a pause
// or when the permit would come after the deadline of ctx.
func (p *pacer) start(ctx context.Context) (func(outcome), error) {
	done, err := p.startHere(ctx)
	if err != nil || p.shared == nil {
		return done, err
	}
	returnShared, err := p.shared.Take(ctx)
	if err == nil {
		return func(o outcome) { returnShared(o.rest()); done(o) }, nil
	}
	var paused *permit.PausedError
	var late *permit.LateError
	switch {
	case errors.As(err, &paused):
		err = pausing(paused.For)
	case errors.As(err, &late):
		err = &Error{Reason: ErrRateLimited, RetryAfter: late.For, Detail: "Polar's limit of 3 requests a second, which the programs on this computer share, " + afterDeadline, Err: context.DeadlineExceeded}
	case ctx.Err() != nil:
		err = gaveUp(ctx.Err())
	default:
		// Files cannot be shared here: this process keeps to the limit alone.
		return done, nil
	}
	done(outcomeUnsent)
	return nil, err
}

const afterDeadline = "allows the next one only after the caller's deadline"

func pausing(wait time.Duration) error {
	return &Error{Reason: ErrRateLimited, RetryAfter: wait, Detail: "waiting out a pause that Polar asked for", heldBack: true}
}

// startHere waits for a permit of this process.
func (p *pacer) startHere(ctx context.Context) (func(outcome), error) {
	if err := ctx.Err(); err != nil {
		return nil, gaveUp(err)
	}
	me := make(chan struct{}, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(p.queue, me)
	defer p.leave(me)
	for {
		now := time.Now()
		if wait := within(p.paused.Sub(now), maxPause); wait > 0 {
			return nil, pausing(wait)
		}
		var timer *time.Timer
		var due <-chan time.Time
		if p.queue[0] == me {
			if i := p.soonest(); i >= 0 {
				wait := within(p.own[i].ready.Sub(now), lostRest)
				if wait <= 0 {
					p.own[i].inUse = true
					return func(o outcome) { p.finish(i, o) }, nil
				}
				if deadline, ok := ctx.Deadline(); ok && deadline.Sub(now) < wait {
					return nil, &Error{Reason: ErrRateLimited, RetryAfter: wait, Detail: "Polar's limit of 3 requests a second " + afterDeadline, Err: context.DeadlineExceeded}
				}
				timer = time.NewTimer(wait)
				due = timer.C
			}
		}
		p.mu.Unlock()
		select {
		case <-me:
		case <-due:
		case <-ctx.Done():
		}
		if timer != nil {
			timer.Stop()
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, gaveUp(err)
		}
	}
}

func gaveUp(err error) error {
	return &Error{Reason: ErrRateLimited, Detail: "while waiting for Polar's limit of 3 requests a second", Err: err, say: ended}
}

// within is a wait that makes sense: one longer than it can have been set to
// means that the clock has been turned back, and is over.
func within(wait, limit time.Duration) time.Duration {
	if wait > limit {
		return 0
	}
	return wait
}

// soonest is the free permit that may be used first, or -1 if all are in use.
func (p *pacer) soonest() int {
	best := -1
	for i, s := range p.own {
		if !s.inUse && (best < 0 || s.ready.Before(p.own[best].ready)) {
			best = i
		}
	}
	return best
}

// leave takes a waiter out of the queue and tells the next one to look.
func (p *pacer) leave(me chan struct{}) {
	i := slices.Index(p.queue, me)
	p.queue = slices.Delete(p.queue, i, i+1)
	p.tellFirst()
}

func (p *pacer) tellFirst() {
	if len(p.queue) > 0 {
		select {
		case p.queue[0] <- struct{}{}:
		default:
		}
	}
}

func (p *pacer) finish(i int, o outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own[i] = turn{ready: time.Now().Add(o.rest())}
	p.tellFirst()
}

// pausing is how much is left of a pause that Polar asked for.
func (p *pacer) pausing() time.Duration {
	p.mu.Lock()
	left := within(time.Until(p.paused), maxPause)
	p.mu.Unlock()
	if p.shared != nil {
		left = max(left, p.shared.Paused())
	}
	return max(left, 0)
}

func (p *pacer) pauseFor(d time.Duration) {
	if p.shared != nil {
		p.shared.Pause(d)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = laterPause(p.paused, d)
	// All who wait learn of it now.
	for _, waiter := range p.queue {
		select {
		case waiter <- struct{}{}:
		default:
		}
	}
}

// serverName is a server's name in one spelling.
func serverName(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.TrimSuffix(strings.ToLower(u.Hostname()), ".") + ":" + port
}

// minuteLimit keeps the requests of clients with an access token within a number
// a minute, and silent after Polar asked for a pause.
type minuteLimit struct {
	limiter *rate.Limiter
	// newCustomers and newKeys have a quarter each of the same allowance, for who
	// was never seen.
	newCustomers, newKeys *rate.Limiter
	newcomers             atomic.Int64 // customers who were never seen, and are asked about now

	mu        sync.Mutex
	perMinute int
	paused    time.Time
	line      []int64 // who is waiting, in the order of arrival
	arrived   int64
	kept      bool // by a timer, until it is as good as new
}

// tokenLimits has the limits that are in use, by server and token, hashed. The pointers
// are weak: a limit is kept by the clients that have it, and by itself until it is as good
// as new, so that who closes a client and makes another gets no second allowance. After
// that nothing is left of the token.
var tokenLimits = struct {
	sync.Mutex
	inUse map[[sha256.Size]byte]weak.Pointer[minuteLimit]
}{inUse: map[[sha256.Size]byte]weak.Pointer[minuteLimit]{}}

// tokenLimit is shared by all clients of this process with the same token: Polar
// counts by organization. Of those that set an allowance the last one counts, or else
// the default.
func tokenLimit(base, token string, perMinute, byDefault int) *minuteLimit {
	m := sharedLimit(sha256.Sum256([]byte(serverName(base)+"\x00"+token)), cmp.Or(perMinute, byDefault))
	m.mu.Lock()
	defer m.mu.Unlock()
	if perMinute != 0 && perMinute != m.perMinute {
		m.perMinute = perMinute
		for limiter, part := range m.parts() {
			limit, burst := splitMinute(perMinute / part)
			limiter.SetLimit(limit)
			limiter.SetBurst(burst)
		}
	}
	return m
}

// sharedLimit is the limit of that name, or a new one.
func sharedLimit(name [sha256.Size]byte, perMinute int) *minuteLimit {
	tokenLimits.Lock()
	defer tokenLimits.Unlock()
	m := tokenLimits.inUse[name].Value()
	if m == nil {
		m = newMinuteLimit(perMinute)
		tokenLimits.inUse[name] = weak.Make(m)
		runtime.AddCleanup(m, forgetLimit, name)
	}
	return m
}

// forgetLimit is called when nobody has the limit of that name any more.
func forgetLimit(name [sha256.Size]byte) {
	tokenLimits.Lock()
	defer tokenLimits.Unlock()
	if tokenLimits.inUse[name].Value() == nil { // else there is another one since
		delete(tokenLimits.inUse, name)
	}
}

// keep has the limit stay in memory until it is as good as new. mu is held.
func (m *minuteLimit) keep() {
	if m.kept {
		return
	}
	left := max(0, within(time.Until(m.paused), maxPause))
	for limiter := range m.parts() {
		missing := float64(limiter.Burst()) - limiter.Tokens()
		left = max(left, time.Duration(missing/float64(limiter.Limit())*float64(time.Second)))
	}
	if left <= 0 {
		return
	}
	m.kept = true
	time.AfterFunc(left, func() { // the timer has m, and nothing else must
		m.mu.Lock()
		defer m.mu.Unlock()
		m.kept = false
		m.keep()
	})
}

// parts are the limiters, with what part of the allowance each of them has.
func (m *minuteLimit) parts() map[*rate.Limiter]int {
	return map[*rate.Limiter]int{m.limiter: 1, m.newCustomers: newcomerPart, m.newKeys: newcomerPart}
}

const newcomerPart = 4

func newMinuteLimit(perMinute int) *minuteLimit {
	part := func(of int) *rate.Limiter { return rate.NewLimiter(splitMinute(perMinute / of)) }
	return &minuteLimit{limiter: part(1), newCustomers: part(newcomerPart), newKeys: part(newcomerPart), perMinute: perMinute}
}

// splitMinute splits a minute's allowance into a burst and a refill that together
// never exceed it in any minute.
func splitMinute(perMinute int) (rate.Limit, int) {
	perMinute = max(perMinute, 1)
	burst := max(1, perMinute/5)
	refill := max(1, perMinute-burst)
	return rate.Limit(float64(refill) / 60), burst
}

// lookAgain is how often those in the line look whether it has become shorter.
const lookAgain = 100 * time.Millisecond

// start waits for the limiter, in the order of arrival. Nothing is reserved ahead:
// rate.Limiter takes back what is reserved only from who came last, so that callers
// who give up would leave a debt for all. There is no channel either, for clients of
// several synctest bubbles may share the limit.
func (m *minuteLimit) start(ctx context.Context) (func(outcome), error) {
	if err := m.pausing(); err != nil {
		return nil, err
	}
	turn := m.arrive()
	defer m.leave(turn)
	for {
		wait := m.pass(turn)
		if wait == 0 {
			break
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return nil, overMinute(wait, context.DeadlineExceeded)
		}
		if !sleep(ctx, min(wait, lookAgain)) {
			return nil, overMinute(wait, cmp.Or(ctx.Err(), context.DeadlineExceeded))
		}
	}
	if err := m.pausing(); err != nil {
		return nil, err // asked for while this call was waiting
	}
	return func(outcome) {}, nil
}

// spare reports whether a request could go at once though so many others are about to,
// and leaves those in the line theirs.
func (m *minuteLimit) spare(others int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limiter.Tokens() >= float64(int64(len(m.line))+others+1)
}

// arrive goes to the end of the line.
func (m *minuteLimit) arrive() (turn int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arrived++
	m.line = append(m.line, m.arrived)
	return m.arrived
}

func (m *minuteLimit) leave(turn int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.line = slices.DeleteFunc(m.line, func(other int64) bool { return other == turn })
}

// pass lets through who is first in the line if the limiter does, and others if there
// is enough for all ahead of them too. Or it says how long that takes; 0 means through.
func (m *minuteLimit) pass(turn int64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	lacking := float64(slices.Index(m.line, turn)+1) - m.limiter.Tokens()
	if lacking <= 0 && m.limiter.Allow() {
		m.keep()
		return 0
	}
	seconds := max(0, lacking) / float64(m.limiter.Limit())
	return max(time.Duration(seconds*float64(time.Second)), time.Millisecond)
}

func overMinute(wait time.Duration, err error) error {
	return &Error{Reason: ErrRateLimited, RetryAfter: wait, Detail: "the limit on requests a minute " + afterDeadline, Err: err, unasked: true}
}

func (m *minuteLimit) pausing() error {
	if wait := m.pauseLeft(); wait > 0 {
		return pausing(wait)
	}
	return nil
}

// pauseLeft is how much is left of a pause that Polar asked for.
func (m *minuteLimit) pauseLeft() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, within(time.Until(m.paused), maxPause))
}

func (m *minuteLimit) pauseFor(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = laterPause(m.paused, d)
	m.keep()
}

// laterPause adds a pause to one that may be under way, which it does not cut
// short.
func laterPause(paused time.Time, d time.Duration) time.Time {
	now := time.Now()
	if within(paused.Sub(now), maxPause) > d {
		return paused
	}
	return now.Add(d)
}

// newcomerLimit bounds the requests about customers, or keys, who were never seen. A
// quarter is theirs. Customers also have what nobody else wants, up to half a burst
// that is left for those who are known: after a restart everyone is new.
type newcomerLimit struct {
	share *rate.Limiter
	idle  *minuteLimit // nil: the share is all
}

// begin reports whether there is a request for a newcomer; end says that it was made.
func (n newcomerLimit) begin() (end func(), ok bool) {
	if n.idle == nil {
		return func() {}, n.share.Allow()
	}
	all := n.idle.limiter
	// Those under way count, for they may not have taken their request yet.
	others := n.idle.newcomers.Add(1) - 1
	end = func() { n.idle.newcomers.Add(-1) }
	if all.Tokens()-float64(others) >= float64(all.Burst())/2 || n.share.Allow() {
		return end, true
	}
	end()
	return nil, false
}
