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
	// unseenCustomers and unseenKeys allow a quarter each of the same number.
	unseenCustomers, unseenKeys *rate.Limiter
	unseen                      atomic.Int64 // requests about unseen customers that are under way

	perMinute int  // guarded by line.mu
	kept      bool // in memory by a timer; guarded by line.mu
}

// unseenPart is which part of a Budget's requests may be about customers who were never
// seen, and about keys.
const unseenPart = 4

func newBudget(perMinute int) *Budget {
	part := func(of int) *rate.Limiter { return rate.NewLimiter(splitMinute(perMinute / of)) }
	return &Budget{
		line:    line{limit: "the limit on requests a minute"},
		limiter: part(1), unseenCustomers: part(unseenPart), unseenKeys: part(unseenPart),
		perMinute: perMinute,
	}
}

// tokens has the Budgets that are in use, by server and token, hashed. The pointers are
// weak: the clients that use a Budget keep it, and it keeps itself until it is as good as
// new, so that a program that closes a client and makes another gets no second budget.
// After that nothing is left of the token.
var tokens = struct {
	sync.Mutex
	inUse map[[sha256.Size]byte]weak.Pointer[Budget]
}{inUse: map[[sha256.Size]byte]weak.Pointer[Budget]{}}

// ForToken is the Budget for a token at a server, however its base URL is spelled. All
// clients of this process share it, since Polar counts by organization. Of those that set
// perMinute the last one counts, and byDefault if all have 0.
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
	if tokens.inUse[name].Value() == nil { // else there is another one since
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

// parts are the limiters, with which part of the Budget each of them has.
func (b *Budget) parts() map[*rate.Limiter]int {
	return map[*rate.Limiter]int{b.limiter: 1, b.unseenCustomers: unseenPart, b.unseenKeys: unseenPart}
}

// Wait waits for a request of the Budget.
func (b *Budget) Wait(ctx context.Context) (done func(Outcome), err error) {
	if err := b.line.wait(ctx, b.reserve); err != nil {
		return nil, err
	}
	return func(Outcome) {}, nil
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

// Spare reports whether a request could go now, though so many others are about to, and
// leaves those who wait theirs.
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

// keep has the Budget stay in memory until it is as good as new. line.mu is held.
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
	time.AfterFunc(left, func() { // the timer has b, and nothing else must
		b.line.mu.Lock()
		defer b.line.mu.Unlock()
		b.kept = false
		b.keep()
	})
}

// Unseen bounds the requests about customers, or keys, who were never seen, so that a
// flood of them leaves requests for those who were.
type Unseen struct {
	share *rate.Limiter
	idle  *Budget // has requests that nobody else wants; nil: there is only the share
}

// UnseenCustomers bounds the requests about customers to a quarter of the Budget, and to
// what nobody else wants: up to half a burst is left for customers who were seen. After a
// restart everybody is new.
func (b *Budget) UnseenCustomers() Unseen { return Unseen{b.unseenCustomers, b} }

// UnseenKeys bounds the requests about keys, which anybody can make up, to a quarter of
// the Budget.
func (b *Budget) UnseenKeys() Unseen { return Unseen{b.unseenKeys, nil} }

// Begin reports whether there is a request for somebody unseen. If so, the caller calls
// end once it was made.
func (u Unseen) Begin() (end func(), ok bool) {
	if u.idle == nil {
		return func() {}, u.share.Allow()
	}
	all := u.idle.limiter
	// Those under way count, for they may not have taken their request yet.
	others := u.idle.unseen.Add(1) - 1
	end = func() { u.idle.unseen.Add(-1) }
	if all.Tokens()-float64(others) >= float64(all.Burst())/2 || u.share.Allow() {
		return end, true
	}
	end()
	return nil, false
}
