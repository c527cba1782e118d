package rpcgate

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/polargate/polargate"
)

// lastWords is how long the handler of a stream has when the right to it has ended.
const lastWords = 500 * time.Millisecond

// Call is a call that was let through, and may cost something or end when the right to it
// does. Its methods can be called on nil, for calls about which there is nothing to do.
type Call struct {
	gate          *Gate
	rule          *rule
	visit         visit
	ctx           context.Context // the handler's
	clientStreams bool
	cancel        context.CancelCauseFunc // nil unless the right is watched

	mu    sync.Mutex
	value *polargate.Entitlements // nil if the call failed open
	held  *polargate.Reservation  // for the call, or for the last message
	units float64
	over  bool
	ended error // the refusal that ended the right

	unfollow   func()
	timer      *time.Timer
	soon, late func()
}

// entitlements are what the caller has, less what is held.
func (c *Call) entitlements() *polargate.Entitlements {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

func (c *Call) reservation() *polargate.Reservation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

// begin decides, holds what the call costs, and watches.
func (c *Call) begin(who *Caller, procedure string, streams bool) *polargate.Refusal {
	entered, value, refusal := c.rule.door.Enter(c.ctx, procedure, who.Customer, who.LicenseKey)
	if refusal != nil {
		return refusal
	}
	c.visit = entered.(visit)
	switch cost := &c.rule.Spend; {
	case cost.UnitsOf != nil: // which the first message tells
		c.value = value
	case c.rule.spends:
		if refusal := c.hold(cost.Units); refusal != nil {
			return refusal
		}
	default:
		c.value = value
	}
	if streams {
		c.visit.Tell(c.ctx, nil) // the first message may come late
	}
	if streams && !c.rule.DecideOnce {
		c.ctx, c.cancel = context.WithCancelCause(c.ctx)
		c.follow()
	}
	return nil
}

// hold holds units, unless nobody can say.
func (c *Call) hold(units float64) *polargate.Refusal {
	held, rest, refusal := c.visit.Hold(c.ctx, units)
	if refusal != nil {
		return refusal
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if rest != nil {
		c.held, c.units, c.value = held, units, rest
	}
	return nil
}

// settle commits what is held, or gives it back.
func (c *Call) settle(done bool) {
	c.mu.Lock()
	held, units := c.held, c.units
	c.held = nil
	c.mu.Unlock()
	if held == nil {
		return
	}
	if !done {
		held.Release()
		return
	}
	err := held.Commit(context.WithoutCancel(c.ctx), units, c.rule.Spend.Usage)
	if _, settled := errors.AsType[*polargate.InputError](err); err != nil && !settled { // by the handler
		c.gate.seldom(context.Background(), "polargate: the usage of a call couldn't be stored (logged once a minute)", "error", err)
	}
}

// Receive receives a message from the client by calling receive, and charges for it. It gives
// up, with the error of the refusal, when the right to the call has ended. Then the message
// must not be read: unless Interrupt was told how to interrupt receive, it may still be
// written to.
func (c *Call) Receive(message any, receive func(message any) error) error {
	if c == nil {
		return receive(message)
	}
	if err := c.refused(); err != nil {
		return err
	}
	err := c.wait(message, receive)
	if err == nil {
		err = c.Received(message)
	}
	if refused := c.refused(); refused != nil && err != nil {
		return refused
	}
	return err
}

// wait waits for a message. A wait that nothing else can interrupt has a goroutine of its own.
func (c *Call) wait(message any, receive func(any) error) error {
	c.mu.Lock()
	alone := c.cancel == nil || c.soon != nil || c.late != nil
	c.mu.Unlock()
	if alone {
		return receive(message)
	}
	type outcome struct {
		err      error
		panicked any
	}
	received := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			o.panicked = recover()
			received <- o
		}()
		o.err = receive(message)
	}()
	var o outcome
	select {
	case o = <-received:
	case <-c.ctx.Done():
		if err := c.refused(); err != nil {
			return err
		}
		o = <-received // the client has left, and receive says so
	}
	if o.panicked != nil {
		panic(o.panicked)
	}
	return o.err
}

// Received charges for a message of the client. Receive does so by itself. The error is a
// refusal.
func (c *Call) Received(message any) error {
	if c == nil || c.rule.Spend.UnitsOf == nil {
		return nil
	}
	c.settle(true) // the handler is done with the one before
	units, refusal := c.gate.price(c.ctx, &c.rule.Spend, message)
	switch {
	case refusal != nil, units == 0:
		c.visit.Tell(c.ctx, refusal)
	default:
		refusal = c.hold(units)
	}
	if refusal != nil {
		return c.gate.config.Error(refusal)
	}
	return nil
}

// Interrupt says how the handler of a stream is interrupted that waits for its client when the
// right has ended: soon is called at once, late if the handler hasn't returned half a second
// later. Neither is called after Close. Call it before the handler begins. Nil does nothing.
func (c *Call) Interrupt(soon, late func()) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.soon, c.late = soon, late
	if c.ended != nil { // since Begin
		c.interrupt()
	}
}

// interrupt interrupts the handler, with the lock held.
func (c *Call) interrupt() {
	if c.over {
		return
	}
	if c.soon != nil {
		c.soon()
	}
	if c.late != nil {
		c.timer = time.AfterFunc(lastWords, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if !c.over {
				c.late()
			}
		})
	}
}

// End ends a call whose handler has returned err, and returns what the client is told: the
// refusal if the right ended while the handler worked, unless err is one of its own. Units
// are committed if err is nil.
func (c *Call) End(err error) error {
	if c == nil {
		return err
	}
	c.settle(err == nil)
	refused := c.refused()
	c.Close()
	switch {
	case refused == nil, err != nil && !c.gate.endedWith(err):
		return err
	}
	return refused
}

// endedWith reports whether a handler returned err only because its context ended.
func (g *Gate) endedWith(err error) bool {
	_, refusal := errors.AsType[*polargate.Refusal](err)
	return refusal || errors.Is(err, context.Canceled) || g.config.Canceled != nil && g.config.Canceled(err)
}

// Close gives back what is held, if End wasn't called, as after a panic.
func (c *Call) Close() {
	if c == nil {
		return
	}
	c.settle(false)
	c.visit.Tell(c.ctx, nil) // if no message came
	c.mu.Lock()
	unfollow, timer := c.unfollow, c.timer
	c.over, c.unfollow, c.timer = true, nil, nil
	c.mu.Unlock()
	if timer != nil {
		timer.Stop()
	}
	if unfollow != nil {
		unfollow()
	}
	if c.cancel != nil {
		c.cancel(context.Canceled)
	}
}

// refused is the error of the refusal that ended the right; nil if it hasn't ended.
func (c *Call) refused() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// follow watches the right.
func (c *Call) follow() {
	watched, stop := c.visit.Watch(c.ctx)
	detach := context.AfterFunc(watched, func() {
		if refusal, ok := errors.AsType[*polargate.Refusal](context.Cause(watched)); ok {
			c.rightEnded(refusal)
		}
	})
	c.unfollow = func() {
		detach()
		stop()
	}
}

// rightEnded ends the handler's context, and interrupts it when it has had time for its last
// words.
func (c *Call) rightEnded(refusal *polargate.Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.ended != nil {
		return
	}
	c.ended = c.gate.config.Error(refusal)
	c.cancel(c.ended)
	c.interrupt()
}
