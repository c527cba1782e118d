package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/rpcgate"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/polargate/polargate/tests/rpc/reports"
	"github.com/stretchr/testify/require"
)

const (
	// poor is a customer who has bought nothing that counts.
	poor       = "usr_poor"
	hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	// service is the one that is tested.
	service = "/reports.v1.Reports/"
)

var pro = []polargate.Requirement{polargate.Feature("pro")}

// rules are what the tests' servers have, if they say nothing else.
func rules() map[string]rpcgate.Rule {
	return map[string]rpcgate.Rule{
		service + "Render": {Require: pro},
		service + "Watch":  {Require: pro},
		service + "Upload": {Require: pro},
		service + "Chat":   {Require: pro},
		service + "Stored": {Require: pro},
	}
}

// spending are rules by which each procedure costs what is sent to it.
func spending(usage string) map[string]rpcgate.Rule {
	all := rules()
	for name, rule := range all {
		rule.Spend = rpcgate.Cost{
			MeterID: kit.CallsMeter, Usage: polargate.Usage{Name: usage},
			UnitsOf: func(_ context.Context, message any) (float64, error) {
				return float64(message.(*reports.Order).GetPages()), nil
			},
		}
		all[name] = rule
	}
	return all
}

// shop is a Polar with a paying customer and a poor one, whose changes reach customers by
// webhooks.
func shop(t *testing.T, change ...func(*polargate.CustomersConfig)) (*kit.Shop, *polargate.Customers) {
	t.Helper()
	s := kit.NewShop(t)
	s.Polar.AddCustomer(polartest.Customer{ExternalID: poor})
	s.Config.UpgradeURL = "https://example.com/pricing"
	s.Config.WebhookSecrets = []string{hookSecret}
	customers := s.Open(change...)
	s.Polar.AddEndpoint(polartest.Endpoint{Handler: customers.WebhookHandler(), Secrets: []polartest.Secret{{Text: hookSecret}}})
	return s, customers
}

// server is what a test asks a server for.
type server struct {
	rules     map[string]rpcgate.Rule
	otherwise *rpcgate.Rule
	open      []string
	byKey     bool // by the license key in x-license-key, not by the customer in x-user
	fails     error
	unwrapped bool // Connect's, without Gate.Handler
}

// who names the customer of the header x-user, as a server behind a gateway that signs people
// in does.
func (s *server) who(user string) (polargate.CustomerRef, error) {
	if s.fails != nil {
		return polargate.CustomerRef{}, s.fails
	}
	return polargate.ExternalID(user), nil
}

func (s *server) licenseKey() string {
	if s.byKey {
		return "X-License-Key"
	}
	return ""
}

// caller sends calls by one protocol. user and key, if not empty, go into the headers x-user
// and x-license-key.
type caller interface {
	as(user, key string) caller
	render(ctx context.Context, o *reports.Order) (*reports.Report, error)
	forgotten(ctx context.Context) error
	watch(ctx context.Context, o *reports.Order) stream
	upload(ctx context.Context, orders ...*reports.Order) (*reports.Report, error)
	// chat is nil where the protocol has no stream both ways.
	chat(ctx context.Context) stream
	refused(err error) (rpcgate.Refused, bool)
}

// stream is a stream as its client has it.
type stream struct {
	send  func(*reports.Order) error
	recv  func() (*reports.Report, error)
	close func() // the sending side
}

// rest reads a stream until it ends, and gives its texts and its error, nil at a proper end.
func (s stream) rest() (texts []string, err error) {
	for {
		report, err := s.recv()
		if errors.Is(err, io.EOF) {
			return texts, nil
		}
		if err != nil {
			return texts, err
		}
		texts = append(texts, report.GetText())
	}
}

// handlers are the service, without a protocol.
type handlers struct {
	failed  func(text string) error // an error of the handler's own
	refused func(error) (rpcgate.Refused, bool)
	entered chan struct{} // told when a stream's handler has begun
	left    chan error    // told why a stream's handler has ended
}

func newHandlers(failed func(string) error, refused func(error) (rpcgate.Refused, bool)) *handlers {
	return &handlers{failed, refused, make(chan struct{}, 100), make(chan error, 100)}
}

// render does what the order says then.
func (h *handlers) render(ctx context.Context, o *reports.Order) (*reports.Report, error) {
	have, _ := polargate.FromContext(ctx)
	held, _ := polargate.ReservationFromContext(ctx)
	balance, _ := have.Meter(kit.CallsMeter)
	report := &reports.Report{Text: have.ExternalID(), Balance: balance.Balance}
	switch o.GetThen() {
	case "fail":
		return nil, h.failed("out of paper")
	case "panic":
		panic("the printer burns")
	case "use less":
		return report, held.Commit(ctx, 1, polargate.Usage{Name: "pages"})
	}
	return report, nil
}

// watch sends a report, and waits for the end of the right.
func (h *handlers) watch(ctx context.Context, o *reports.Order, send func(*reports.Report) error) (err error) {
	h.entered <- struct{}{}
	defer func() { h.left <- context.Cause(ctx) }()
	have, _ := polargate.FromContext(ctx)
	if err := send(&reports.Report{Text: have.ExternalID()}); err != nil {
		return err
	}
	switch o.GetThen() {
	case "end":
		return nil
	case "fill": // the pipe, to a client that doesn't read
		for err == nil {
			err = send(&reports.Report{Text: string(make([]byte, 1<<16))})
		}
		return err
	}
	<-ctx.Done()
	switch o.GetThen() {
	case "nothing":
		return nil
	case "own error":
		return h.failed("saved until page 7")
	case "last words":
		if err := send(&reports.Report{Text: "bye"}); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// upload counts the pages of all orders.
func (h *handlers) upload(ctx context.Context, recv func() (*reports.Order, error)) (*reports.Report, error) {
	h.entered <- struct{}{}
	defer func() { h.left <- context.Cause(ctx) }()
	for n := 0.0; ; {
		o, err := recv()
		switch {
		case errors.Is(err, io.EOF):
			return &reports.Report{Text: "stored", Balance: n}, nil
		case err != nil:
			return nil, err
		case o.GetThen() == "fail":
			return nil, h.failed("out of paper")
		}
		n += float64(o.GetPages())
	}
}

// chat answers each order, with what is left on the meter.
func (h *handlers) chat(ctx context.Context, recv func() (*reports.Order, error), send func(*reports.Report) error) error {
	h.entered <- struct{}{}
	defer func() { h.left <- context.Cause(ctx) }()
	for {
		o, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		report, err := h.render(ctx, o)
		if err != nil {
			return err
		}
		if err := send(report); err != nil {
			return err
		}
	}
}

// listen is an address on loopback.
func listen(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener
}

// soon is how long a test waits for what happens within a second on an idle computer.
const soon = 20 * time.Second
