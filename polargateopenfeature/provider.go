package polargateopenfeature

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-feature/go-sdk/openfeature"
	"github.com/polargate/polargate"
)

// Options say what flags there are. A flag has one type; names that aren't here are
// FLAG_NOT_FOUND, so that a misspelled flag isn't taken for a feature that nobody has.
type Options struct {
	// Features are the features of CustomersConfig.Features, or Config.Features, that are
	// flags: booleans of the same name.
	Features []string
	// Meters maps names of flags to the ids of meters: numbers, which are what is left.
	Meters map[string]string
	// Benefits maps names of flags to the ids of benefits: objects, which are what you wrote
	// on the benefit as metadata in Polar.
	Benefits map[string]string
	// Customer names the customer by the evaluation context. nil takes the targeting key for
	// your program's id of the customer. The zero CustomerRef is TARGETING_KEY_MISSING.
	Customer func(openfeature.FlattenedContext) polargate.CustomerRef
}

// Provider is an openfeature.FeatureProvider. Make one with New or NewGate.
type Provider struct {
	customers *polargate.Customers // nil with a gate
	gate      *polargate.Gate
	flags     map[string]*flag
	customer  func(openfeature.FlattenedContext) polargate.CustomerRef

	down   atomic.Bool
	events chan openfeature.Event
	mu     sync.Mutex // guards sequence, so that events are sent in its order
	// sequence is that of the last event, and lost that one before it couldn't be sent.
	sequence int64
}

var (
	_ openfeature.FeatureProvider = (*Provider)(nil)
	_ openfeature.StateHandler    = (*Provider)(nil)
	_ openfeature.EventHandler    = (*Provider)(nil)
)

type kind int

const (
	boolean kind = iota + 1
	number
	object
)

// words are the kinds for a person.
var words = map[kind]string{boolean: "a boolean", number: "a number", object: "an object"}

// flag is what a name stands for.
type flag struct {
	kind     kind
	required []polargate.Requirement // of a boolean
	id       string                  // of a meter or a benefit
}

// Variants, beside the package's Reasons for the license of an installation.
const (
	Granted         = "granted"          // the customer has it
	Denied          = "denied"           // the customer lacks it
	UnknownCustomer = "unknown_customer" // Polar doesn't know the customer, who has nothing
)

// stale is the reason of OpenFeature's specification for what may be out of date.
const stale openfeature.Reason = "STALE"

// waiting is how many events wait for the SDK.
const waiting = 64

// New makes a Provider of what customers have. The Customers stay the program's, which closes
// them after the provider is shut down.
func New(customers *polargate.Customers, options Options) (*Provider, error) {
	if customers == nil {
		return nil, errors.New("polargateopenfeature: there are no Customers: make them with polargate.NewCustomers")
	}
	p := &Provider{customers: customers, customer: options.Customer, events: make(chan openfeature.Event, waiting)}
	if p.customer == nil {
		p.customer = byTargetingKey
	}
	return p, p.take(options)
}

// NewGate makes a Provider of the features of this installation's license. It needs no
// targeting key, and has neither Meters nor Benefits.
func NewGate(gate *polargate.Gate, options Options) (*Provider, error) {
	switch {
	case gate == nil:
		return nil, errors.New("polargateopenfeature: there is no Gate: make one with polargate.Open")
	case len(options.Meters)+len(options.Benefits) > 0 || options.Customer != nil:
		return nil, errors.New("polargateopenfeature: a Gate has Features alone: leave out Meters, Benefits and Customer")
	}
	p := &Provider{gate: gate, events: make(chan openfeature.Event, waiting)}
	return p, p.take(options)
}

func (p *Provider) take(options Options) error {
	p.flags = map[string]*flag{}
	add := func(name string, f *flag) error {
		if name == "" || p.flags[name] != nil {
			return fmt.Errorf("polargateopenfeature: the flag %q has no name, or two meanings", name)
		}
		p.flags[name] = f
		return nil
	}
	var err error
	for _, name := range options.Features {
		err = errors.Join(err, add(name, &flag{kind: boolean, required: []polargate.Requirement{polargate.Feature(name)}}))
	}
	for name, id := range options.Meters {
		err = errors.Join(err, add(name, &flag{kind: number, id: id}), polargate.Meter(id, 0).Validate())
	}
	for name, id := range options.Benefits {
		err = errors.Join(err, add(name, &flag{kind: object, id: id}), polargate.Benefit(id).Validate())
	}
	if err == nil && len(p.flags) == 0 {
		err = errors.New("polargateopenfeature: there are no flags: name Features, Meters or Benefits")
	}
	return err
}

func byTargetingKey(of openfeature.FlattenedContext) polargate.CustomerRef {
	key, _ := of[openfeature.TargetingKey].(string)
	return polargate.ExternalID(key)
}

// Metadata names the provider.
func (p *Provider) Metadata() openfeature.Metadata { return openfeature.Metadata{Name: "polargate"} }

// Hooks are none.
func (p *Provider) Hooks() []openfeature.Hook { return nil }

// Init doesn't ask Polar: the provider is ready at once, also while Polar can't be reached.
func (p *Provider) Init(openfeature.EvaluationContext) error {
	p.down.Store(false)
	return nil
}

// Shutdown ends the provider: clients that still ask it get PROVIDER_NOT_READY, and Follow tells of
// nothing. The Customers or the Gate stay open.
func (p *Provider) Shutdown() { p.down.Store(true) }

// BooleanEvaluation answers whether a feature is unlocked.
func (p *Provider) BooleanEvaluation(ctx context.Context, name string, otherwise bool, of openfeature.FlattenedContext) openfeature.BoolResolutionDetail {
	f := p.flags[name]
	if f == nil || f.kind != boolean || p.down.Load() {
		return openfeature.BoolResolutionDetail{Value: otherwise, ProviderResolutionDetail: p.failed(name)}
	}
	if p.gate != nil {
		has := p.gate.Has(name)
		return openfeature.BoolResolutionDetail{Value: has, ProviderResolutionDetail: p.licensed(has)}
	}
	_, refusal := p.customers.Decide(ctx, p.customer(of), f.required...)
	switch {
	case refusal == nil:
		return openfeature.BoolResolutionDetail{Value: true, ProviderResolutionDetail: answer(Granted)}
	case refusal.Status == http.StatusPaymentRequired:
		return openfeature.BoolResolutionDetail{ProviderResolutionDetail: lacks(refusal.Entitlements)}
	}
	return openfeature.BoolResolutionDetail{Value: otherwise, ProviderResolutionDetail: unanswered(refusal.Err)}
}

// FloatEvaluation answers what is left on a meter.
func (p *Provider) FloatEvaluation(ctx context.Context, name string, otherwise float64, of openfeature.FlattenedContext) openfeature.FloatResolutionDetail {
	left, detail, ok := p.left(ctx, name, of)
	if !ok {
		left = otherwise
	}
	return openfeature.FloatResolutionDetail{Value: left, ProviderResolutionDetail: detail}
}

// IntEvaluation answers what is left on a meter, in whole units: a part of one is none.
func (p *Provider) IntEvaluation(ctx context.Context, name string, otherwise int64, of openfeature.FlattenedContext) openfeature.IntResolutionDetail {
	left, detail, ok := p.left(ctx, name, of)
	if !ok {
		return openfeature.IntResolutionDetail{Value: otherwise, ProviderResolutionDetail: detail}
	}
	return openfeature.IntResolutionDetail{Value: whole(left), ProviderResolutionDetail: detail}
}

// whole is a number rounded down, as far as an int64 goes.
func whole(n float64) int64 {
	switch n = math.Floor(n); {
	case n >= math.MaxInt64:
		return math.MaxInt64
	case n <= math.MinInt64:
		return math.MinInt64
	}
	return int64(n)
}

func (p *Provider) left(ctx context.Context, name string, of openfeature.FlattenedContext) (left float64, detail openfeature.ProviderResolutionDetail, ok bool) {
	f := p.flags[name]
	if f == nil || f.kind != number || p.down.Load() {
		return 0, p.failed(name), false
	}
	have, err := p.entitlements(ctx, of)
	if err != nil {
		return 0, unanswered(err), false
	}
	meter, found := have.Meter(f.id)
	if !found {
		return 0, lacks(have), true
	}
	return meter.Balance, answer(Granted), true
}

// ObjectEvaluation answers with the metadata of a benefit: a map[string]any with text, bool,
// int64 and float64, which is empty for a customer who lacks the benefit.
func (p *Provider) ObjectEvaluation(ctx context.Context, name string, otherwise any, of openfeature.FlattenedContext) openfeature.InterfaceResolutionDetail {
	f := p.flags[name]
	if f == nil || f.kind != object || p.down.Load() {
		return openfeature.InterfaceResolutionDetail{Value: otherwise, ProviderResolutionDetail: p.failed(name)}
	}
	have, err := p.entitlements(ctx, of)
	if err != nil {
		return openfeature.InterfaceResolutionDetail{Value: otherwise, ProviderResolutionDetail: unanswered(err)}
	}
	benefit, ok := have.Benefit(f.id)
	if !ok {
		return openfeature.InterfaceResolutionDetail{Value: map[string]any{}, ProviderResolutionDetail: lacks(have)}
	}
	metadata := benefit.Metadata()
	for name, value := range metadata {
		if n, ok := value.(json.Number); ok {
			metadata[name] = plainNumber(n)
		}
	}
	return openfeature.InterfaceResolutionDetail{Value: metadata, ProviderResolutionDetail: answer(Granted)}
}

// plainNumber is a number as programs expect one.
func plainNumber(n json.Number) any {
	if i, err := n.Int64(); err == nil {
		return i
	}
	f, _ := n.Float64() // Polar's numbers fit
	return f
}

// StringEvaluation has no flags.
func (p *Provider) StringEvaluation(_ context.Context, name string, otherwise string, _ openfeature.FlattenedContext) openfeature.StringResolutionDetail {
	return openfeature.StringResolutionDetail{Value: otherwise, ProviderResolutionDetail: p.failed(name)}
}

// failed is why a flag can't be answered that was asked for.
func (p *Provider) failed(name string) openfeature.ProviderResolutionDetail {
	f := p.flags[name]
	switch {
	case p.down.Load():
		return failure(openfeature.NewProviderNotReadyResolutionError("the provider was shut down"))
	case f == nil:
		return failure(openfeature.NewFlagNotFoundResolutionError("no flag has this name: see polargateopenfeature.Options"))
	}
	return failure(openfeature.NewTypeMismatchResolutionError("the flag is " + words[f.kind]))
}

// errNobody is that no customer was named.
var errNobody = errors.New("nobody was named")

func (p *Provider) entitlements(ctx context.Context, of openfeature.FlattenedContext) (*polargate.Entitlements, error) {
	customer := p.customer(of)
	if customer.IsZero() {
		return nil, errNobody
	}
	return p.customers.Entitlements(ctx, customer)
}

func answer(variant string) openfeature.ProviderResolutionDetail {
	return openfeature.ProviderResolutionDetail{Reason: openfeature.TargetingMatchReason, Variant: variant}
}

// lacks is the answer for a customer who doesn't have what a flag stands for.
func lacks(have *polargate.Entitlements) openfeature.ProviderResolutionDetail {
	if !have.Known() {
		return answer(UnknownCustomer)
	}
	return answer(Denied)
}

// licensed is the answer about this installation.
func (p *Provider) licensed(has bool) openfeature.ProviderResolutionDetail {
	detail := openfeature.ProviderResolutionDetail{Reason: openfeature.StaticReason, Variant: Granted}
	status := p.gate.Status()
	if status.State == polargate.Grace {
		detail.Reason = stale
	}
	if !has {
		detail.Variant = Denied
		if status.Reason != "" && !status.OK() {
			detail.Variant = string(status.Reason)
		}
	}
	return detail
}

// unanswered is what can't be said. err is nil if nobody was named.
func unanswered(err error) openfeature.ProviderResolutionDetail {
	input := (*polargate.InputError)(nil)
	switch {
	case err == nil, errors.Is(err, errNobody):
		return failure(openfeature.NewTargetingKeyMissingResolutionError("the evaluation context names no customer: set its targeting key"))
	case errors.As(err, &input):
		return failure(openfeature.NewInvalidContextResolutionError(err.Error()))
	case errors.Is(err, polargate.ErrClosed):
		return failure(openfeature.NewProviderNotReadyResolutionError("the Customers were closed"))
	}
	return failure(openfeature.NewGeneralResolutionError(err.Error(), err))
}

func failure(err openfeature.ResolutionError) openfeature.ProviderResolutionDetail {
	return openfeature.ProviderResolutionDetail{ResolutionError: err, Reason: openfeature.ErrorReason}
}

// EventChannel has PROVIDER_CONFIGURATION_CHANGED for what Follow and GateChanged tell. The SDK's
// handlers may see events in another order than they were sent: each has a "sequence", an
// int64 that grows by one, and "polarTime", the time.Time by Polar's clock of what it tells,
// in its EventMetadata. A gap in the sequence means that too many waited: read the flags anew.
func (p *Provider) EventChannel() <-chan openfeature.Event { return p.events }

// Follow sends an event each time that a customer's flags change, until ctx ends or the Customers are
// closed. It returns then, so that it wants a goroutine of its own:
//
//	go provider.Follow(ctx, polargate.ExternalID("usr_1337"))
//
// FlagChanges of an event are the flags with another value, and "customerId" in its EventMetadata is
// Polar's id of the customer. Follow says nothing about an outage: flags keep their values for
// as long as they can, and questions are answered with errors after that.
func (p *Provider) Follow(ctx context.Context, customer polargate.CustomerRef) error {
	if p.customers == nil {
		return errors.New("polargateopenfeature: a provider of a Gate follows no customer: call GateChanged from Config.OnChange")
	}
	var last *polargate.Entitlements
	for have, err := range p.customers.Changes(ctx, customer) {
		if input, ok := errors.AsType[*polargate.InputError](err); ok {
			return input
		}
		if err != nil {
			continue
		}
		if last != nil {
			p.send(p.changed(last, have), have.CheckedAt(), have.CustomerID())
		}
		last = have
	}
	return nil
}

// changed are the flags whose values differ.
func (p *Provider) changed(before, after *polargate.Entitlements) (names []string) {
	for name, f := range p.flags {
		var differs bool
		switch f.kind {
		case boolean:
			differs = before.Has(name) != after.Has(name)
		case number:
			had, _ := before.Meter(f.id)
			has, _ := after.Meter(f.id)
			differs = had.Balance != has.Balance
		case object:
			had, _ := before.Benefit(f.id)
			has, _ := after.Benefit(f.id)
			differs = !maps.EqualFunc(had.Metadata(), has.Metadata(), func(a, b any) bool { return a == b })
		}
		if differs {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// GateChanged sends an event for a change of the license. Call it from Config.OnChange.
func (p *Provider) GateChanged(before, after polargate.Status) {
	var names []string
	for name := range p.flags {
		if slices.Contains(before.Features, name) != slices.Contains(after.Features, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	p.send(names, after.CheckedAt, "")
}

// send sends an event, unless nothing changed that a flag stands for.
func (p *Provider) send(names []string, at time.Time, customer string) {
	if len(names) == 0 || p.down.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sequence++
	metadata := map[string]any{"sequence": p.sequence, "polarTime": at}
	if customer != "" {
		metadata["customerId"] = customer
	}
	select {
	case p.events <- openfeature.Event{
		ProviderName: p.Metadata().Name,
		EventType:    openfeature.ProviderConfigChange,
		ProviderEventDetails: openfeature.ProviderEventDetails{
			Message: "changed: " + strings.Join(names, ", "), FlagChanges: names, EventMetadata: metadata,
		},
	}:
	default: // too many wait: the next one has a gap before it
	}
}
