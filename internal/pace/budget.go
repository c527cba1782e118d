package pace

import (
	"cmp"
	"context"
	"crypto/sha256"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"golang.org/x/time/rate"
)

// Budget lets no more than a number of requests go in any minute, in the order of arrival.
type Budget struct {
	line    line // before the limiter
	limiter *rate.Limiter
	// unseenCustomers and unseenKeys allow a quarter each of the same number; background
	// too, and without a burst.
	unseenCustomers, unseenKeys, background *rate.Limiter
	unseen                                  atomic.Int64 // requests about unseen customers that are under way
	backgrounds                             atomic.Int64 // Backgrounds that are under way

	perMinute int  // guarded by line.mu
	kept      bool // in memory by a timer; guarded by line.mu
}

// sharePart is which part of a Budget's requests may be about customers who were never
// seen, and about keys, and which part a Background has when others want requests too.
const sharePart = 4

func newBudget(perMinute int) *Budget {
	part := func(of int) *rate.Limiter { return rate.NewLimiter(splitMinute(perMinute / of)) }
	return &Budget{
		line:    line{limit: "the limit on requests a minute"},
		limiter: part(1), unseenCustomers: part(sharePart), unseenKeys: part(sharePart),
		background: rate.NewLimiter(steady(perMinute), 1),
		perMinute:  perMinute,
	}
}

// tokens has the Budgets in use, by a hash of server and token. The pointers are weak: a
// Budget is kept by the clients that use it, and by itself until it is full again, so that a
// program that closes a client and makes another one gets no second budget. After that,
// nothing is left of the token.
var tokens = struct {
	sync.Mutex
	inUse map[[sha256.Size]byte]weak.Pointer[Budget]
}{inUse: map[[sha256.Size]byte]weak.Pointer[Budget]{}}

// ForToken is the Budget for a token at a server, however its base URL is spelled. All
// clients of this process share it, because Polar counts by organization. The last perMinute
// that isn't 0 counts, and byDefault if there was none.
func ForToken(base, token string, perMinute, byDefault int) *Budget {
	b := forToken(tokenName(base, token), cmp.Or(perMinute, byDefault))
	if perMinute != 0 {
		b.SetPerMinute(perMinute)
	}
	return b
}

func tokenName(base, token string) [sha256.Size]byte {
	return sha256.Sum256([]byte(serverName(base) + "\x00" + token))
}

// forToken is the Budget of that name, or a new one.
func forToken(name [sha256.Size]byte, perMinute int) *Budget {
	tokens.Lock()
	defer tokens.Unlock()
	b := tokens.inUse[name].Value()
	if b == nil {
		b = newBudget(perMinute)
		tokens.inUse[name] = weak.Make(b)
		runtime.AddCleanup(b, forgetToken, name)
	}
	return b
}

// forgetToken is called when the Budget of that name is gone.
func forgetToken(name [sha256.Size]byte) {
	tokens.Lock()
	defer tokens.Unlock()
	if tokens.inUse[name].Value() == nil { // otherwise there is a new one
		delete(tokens.inUse, name)
	}
}

// SetPerMinute changes how many requests go in a minute, from now on.
func (b *Budget) SetPerMinute(perMinute int) {
	b.line.mu.Lock()
	defer b.line.mu.Unlock()
	if perMinute == b.perMinute {
		return
	}
	b.perMinute = perMinute
	for limiter, part := range b.parts() {
		limit, burst := splitMinute(perMinute / part)
		limiter.SetLimit(limit)
		limiter.SetBurst(burst)
	}
	b.background.SetLimit(steady(perMinute))
	b.line.wakeFirst()
}

// splitMinute splits the requests of a minute into a burst and a refill that together
// never exceed them in any minute.
func splitMinute(perMinute int) (rate.Limit, int) {
	perMinute = max(perMinute, 1)
	burst := max(1, perMinute/5)
	refill := max(1, perMinute-burst)
	return rate.Limit(float64(refill) / 60), burst
}

// steady is the rate of a share without a burst.
func steady(perMinute int) rate.Limit {
	limit, _ := splitMinute(perMinute)
	return limit / sharePart
}

// parts are the limiters that have a burst, with which part of the Budget each of them has.
func (b *Budget) parts() map[*rate.Limiter]int {
	return map[*rate.Limiter]int{b.limiter: 1, b.unseenCustomers: sharePart, b.unseenKeys: sharePart}
}

// Wait waits for a request of the Budget.
func (b *Budget) Wait(ctx context.Context) (done func(Outcome), err error) {
	if err := b.line.wait(ctx, b.reserve); err != nil {
		return nil, err
	}
	return func(Outcome) {}, nil
}

// Spend counts a request that another limit allowed, such as the common one of several
// processes. It doesn't wait. Counting it keeps the total right if that other limit ends. The
// error is a *PausedError: a pause is for this request, too.
func (b *Budget) Spend() error {
	b.line.mu.Lock()
	defer b.line.mu.Unlock()
	if left := b.line.pauseLeft(); left > 0 {
		return &PausedError{left}
	}
	if b.limiter.Allow() {
		b.keep()
	}
	return nil
}

// reserve takes a request for the first in the line. For the others it only says how long
// they wait, if all who are ahead stay. line.mu is held.
func (b *Budget) reserve(ahead int) time.Duration {
	lacking := float64(ahead+1) - b.limiter.Tokens()
	if ahead == 0 && lacking <= 0 && b.limiter.Allow() {
		b.keep()
		return 0
	}
	seconds := max(0, lacking) / float64(b.limiter.Limit())
	return max(time.Duration(seconds*float64(time.Second)), time.Millisecond)
}

// Spare reports whether a request could be sent now without taking one from those who wait,
// or from so many others that are about to ask.
func (b *Budget) Spare(others int64) bool {
	b.line.mu.Lock()
	defer b.line.mu.Unlock()
	return b.limiter.Tokens() >= float64(int64(len(b.line.waiting))+others+1)
}

// PauseFor lets no request go for d.
func (b *Budget) PauseFor(d time.Duration) {
	b.line.mu.Lock()
	defer b.line.mu.Unlock()
	b.line.pauseFor(d)
	b.keep()
}

// PauseLeft is how much of a pause is left.
func (b *Budget) PauseLeft() time.Duration {
	b.line.mu.Lock()
	defer b.line.mu.Unlock()
	return b.line.pauseLeft()
}

// keep has the Budget stay in memory until it is full again. line.mu is held.
func (b *Budget) keep() {
	if b.kept {
		return
	}
	left := b.line.pauseLeft()
	for limiter := range b.parts() {
		missing := float64(limiter.Burst()) - limiter.Tokens()
		left = max(left, time.Duration(missing/float64(limiter.Limit())*float64(time.Second)))
	}
	if left <= 0 {
		return
	}
	b.kept = true
	time.AfterFunc(left, func() { // the timer alone keeps b in memory
		b.line.mu.Lock()
		defer b.line.mu.Unlock()
		b.kept = false
		b.keep()
	})
}

// Unseen bounds the requests about customers, or keys, that were never seen before, so that a
// flood of them leaves requests for the known ones. The zero value bounds nothing.
type Unseen struct {
	share *rate.Limiter
	idle  *Budget // whose unused requests may be taken as well; nil for only the share
}

// leftForSeen is how many requests unseen customers leave for known ones: half a burst, or
// three quarters beside a Background, which takes the rest.
func (b *Budget) leftForSeen() float64 {
	if b.backgrounds.Load() > 0 {
		return float64(b.limiter.Burst()) * 3 / 4
	}
	return float64(b.limiter.Burst()) / 2
}

// UnseenCustomers bounds the requests about unseen customers to a quarter of the Budget, plus
// what is unused; see leftForSeen. After a restart, all customers are unseen.
func (b *Budget) UnseenCustomers() Unseen { return Unseen{b.unseenCustomers, b} }

// UnseenKeys bounds the requests about unseen keys, which anyone can make up, to a quarter of
// the Budget.
func (b *Budget) UnseenKeys() Unseen { return Unseen{b.unseenKeys, nil} }

// Begin reports whether there is a request for an unseen customer or key. If so, call end
// after the request.
func (u Unseen) Begin() (end func(), ok bool) {
	if u.idle == nil {
		return func() {}, u.share == nil || u.share.Allow()
	}
	// Those under way count, because they may not have taken their request yet.
	others := u.idle.unseen.Add(1) - 1
	end = func() { u.idle.unseen.Add(-1) }
	if u.idle.limiter.Tokens()-float64(others) >= u.idle.leftForSeen() || u.share.Allow() {
		return end, true
	}
	end()
	return nil, false
}

// Background paces many requests that no caller waits for, such as those that fill a cache. It
// takes unused requests, and leaves as many as unseen customers leave. If none are unused, it
// has a quarter of the Budget.
type Background struct{ budget *Budget }

// Background begins one, which ends with end.
func (b *Budget) Background() (background Background, end func()) {
	b.backgrounds.Add(1)
	return Background{b}, sync.OnceFunc(func() { b.backgrounds.Add(-1) })
}

// Wait returns when a request may be sent. It takes none: that is for the caller to do,
// who waits for a pause that Polar asked for, too. With urgent, more than can be asked for
// are wanted and this is the quickest way to serve them: then it takes all but the quarter of
// unseen customers. The error is that of ctx.
func (g Background) Wait(ctx context.Context, urgent func() bool) error {
	for {
		wait := g.due(urgent())
		if wait == 0 {
			return ctx.Err()
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// due is how long to wait before it is worth looking again; 0 if a request may go.
func (g Background) due(urgent bool) time.Duration {
	b := g.budget
	b.line.mu.Lock()
	defer b.line.mu.Unlock()
	if left := b.line.pauseLeft(); left > 0 {
		return left
	}
	keep := 0.0
	if !urgent {
		keep = b.leftForSeen()
	}
	lacking := keep + 1 - b.limiter.Tokens()
	if len(b.line.waiting) == 0 && lacking <= 0 || b.background.Allow() {
		return 0
	}
	idle := max(lacking, float64(len(b.line.waiting)), 0) / float64(b.limiter.Limit())
	share := (1 - b.background.Tokens()) / float64(b.background.Limit())
	return max(time.Duration(min(idle, share)*float64(time.Second)), time.Millisecond)
}
