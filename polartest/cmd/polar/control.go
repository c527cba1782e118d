package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest"
)

// control is the control API: the methods of a polartest.Polar as HTTP. Bodies are JSON; the fields of
// an object are those of the Go type in polartest, in snake case. What Polar could not have, or what is
// not there, is a 400 with the reason.
type control struct {
	polar *polartest.Polar
	token string
	mux   *http.ServeMux
	paths []string // for the help
}

// mostBody is how long a body may be: an organization fits.
const mostBody = 64 << 20

func newControl(p *polartest.Polar, token string) *control {
	c := &control{polar: p, token: token, mux: http.NewServeMux()}
	c.handle("GET /", "this list", func(r *http.Request) (any, error) {
		if r.URL.Path != "/" {
			return nil, notThere("path", r.URL.Path)
		}
		return map[string]any{"paths": c.paths}, nil
	})

	// what an organization has
	add(c, "organizations", p.AddOrganization)
	add(c, "benefits", p.AddBenefit)
	add(c, "products", p.AddProduct)
	add(c, "meters", p.AddMeter)
	add(c, "customers", p.AddCustomer)
	add(c, "members", p.AddMember)
	add(c, "license-keys", p.AddKey)
	add(c, "seats", p.AddSeat)
	add(c, "sessions", p.AddSession)
	add(c, "endpoints", p.AddEndpoint)
	add(c, "tokens", func(t polartest.Token) polartest.Token {
		t.Token = p.AddToken(t)
		return t
	})
	c.handle("POST /import", "JSON as Polar's API answers it: all that it tells of", func(r *http.Request) (any, error) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		return nil, p.Import(data)
	})

	// customers
	c.handle("GET /customers/{id}", "a customer, by Polar's ID or the external one", func(r *http.Request) (any, error) {
		return found(p.Customer(r.PathValue("id")))("customer", r.PathValue("id"))
	})
	c.handle("PATCH /customers/{id}", "change the fields that are sent", func(r *http.Request) (any, error) {
		if err := edit(r, p.UpdateCustomer); err != nil {
			return nil, err
		}
		return found(p.Customer(r.PathValue("id")))("customer", r.PathValue("id"))
	})
	c.handle("DELETE /customers/{id}", "", func(r *http.Request) (any, error) {
		p.DeleteCustomer(r.PathValue("id"))
		return nil, nil
	})
	c.handle("POST /customers/{id}/subscriptions", "a subscription, with its benefits in benefits if the product has none", func(r *http.Request) (any, error) {
		var benefits struct{ Benefits []polartest.Benefit }
		var s polartest.Subscription
		if err := readBoth(r, &s, &benefits, "benefits"); err != nil {
			return nil, err
		}
		return p.Subscribe(r.PathValue("id"), s, benefits.Benefits...), nil
	})
	c.handle("DELETE /customers/{id}/subscriptions/{subscription}", "end it now", func(r *http.Request) (any, error) {
		p.CancelSubscription(r.PathValue("id"), r.PathValue("subscription"))
		return nil, nil
	})
	c.handle("POST /customers/{id}/subscriptions/{subscription}/restore", "make it active again", func(r *http.Request) (any, error) {
		p.RestoreSubscription(r.PathValue("id"), r.PathValue("subscription"))
		return nil, nil
	})
	c.handle("POST /customers/{id}/grants", "grant a benefit", func(r *http.Request) (any, error) {
		var b polartest.Benefit
		if err := readBody(r, &b); err != nil {
			return nil, err
		}
		return p.GrantBenefit(r.PathValue("id"), b), nil
	})
	c.handle("DELETE /customers/{id}/grants/{benefit}", "revoke a benefit, or one grant", func(r *http.Request) (any, error) {
		p.RevokeBenefit(r.PathValue("id"), r.PathValue("benefit"))
		return nil, nil
	})
	c.handle("POST /customers/{id}/meters/{meter}", `{"debit": 3} or {"credit": 100}`, func(r *http.Request) (any, error) {
		var units struct {
			Debit  float64
			Credit int64
		}
		if err := readBody(r, &units); err != nil {
			return nil, err
		}
		if units.Credit != 0 {
			p.CreditMeter(r.PathValue("id"), r.PathValue("meter"), units.Credit)
		}
		return p.DebitMeter(r.PathValue("id"), r.PathValue("meter"), units.Debit), nil
	})

	// license keys
	c.handle("GET /license-keys/{key}", "a license key, by its ID or itself", func(r *http.Request) (any, error) {
		return found(p.LicenseKey(r.PathValue("key")))("license key", "asked for")
	})
	c.handle("PATCH /license-keys/{key}", "change the fields that are sent", func(r *http.Request) (any, error) {
		k, ok := p.LicenseKey(r.PathValue("key"))
		if !ok {
			return nil, notThere("license key", "asked for")
		}
		r.SetPathValue("id", k.ID)
		if err := edit(r, p.Update); err != nil {
			return nil, err
		}
		return found(p.LicenseKey(k.ID))("license key", k.ID)
	})
	for name, do := range map[string]func(string){
		"revoke": p.Revoke, "grant": p.Grant, "rotate": func(key string) { p.Rotate(key) },
	} {
		c.handle("POST /license-keys/{key}/"+name, "", func(r *http.Request) (any, error) {
			k, ok := p.LicenseKey(r.PathValue("key"))
			if !ok {
				return nil, notThere("license key", "asked for")
			}
			do(k.ID)
			return found(p.LicenseKey(k.ID))("license key", k.ID)
		})
	}
	c.handle("GET /seats", "the seats of ?subscription_id=", func(r *http.Request) (any, error) {
		return p.CustomerSeats(r.URL.Query().Get("subscription_id")), nil
	})

	c.clock()
	c.faults()
	c.webhooks()
	c.requests()
	slices.Sort(c.paths)
	return c
}

func (c *control) clock() {
	p := c.polar
	now := func(*http.Request) (any, error) { return map[string]any{"now": p.Now()}, nil }
	c.handle("GET /clock", "", now)
	c.handle("POST /clock", `{"advance": "15s"}`, func(r *http.Request) (any, error) {
		var by struct{ Advance string }
		if err := readBody(r, &by); err != nil {
			return nil, err
		}
		d, err := time.ParseDuration(by.Advance)
		if err != nil {
			return nil, fmt.Errorf("advance: %w", err)
		}
		p.Advance(d)
		return now(r)
	})
}

// fault is a Fault with its effect by name.
type fault struct {
	Path        string
	Times, Skip int
	// Effect is the name of a constructor of polartest, in snake case: "rate_limited". The others are
	// what that takes.
	Effect      string
	Status      int
	RetryAfter  string
	Duration    string
	ContentType string
	Body        string
}

func (f *fault) effect() (polartest.Effect, error) {
	d, err := time.ParseDuration(f.Duration)
	if f.Duration != "" && err != nil {
		return polartest.Effect{}, fmt.Errorf("duration: %w", err)
	}
	switch f.Effect {
	case "login_page":
		return polartest.LoginPage(f.Status), nil
	case "proxy_page":
		return polartest.ProxyPage(f.Status), nil
	case "server_error":
		return polartest.ServerError(f.Status), nil
	case "router_not_found":
		return polartest.RouterNotFound(), nil
	case "rate_limited":
		return polartest.RateLimited(f.RetryAfter), nil
	case "hang":
		return polartest.Hang(), nil
	case "slow_drip":
		return polartest.SlowDrip(d), nil
	case "delay":
		return polartest.Delay(d), nil
	case "reset":
		return polartest.Reset(), nil
	case "close":
		return polartest.Close(), nil
	case "answer_lost":
		return polartest.AnswerLost(), nil
	case "truncated":
		return polartest.Truncated(), nil
	case "garbage":
		return polartest.Garbage(), nil
	case "huge":
		return polartest.Huge(), nil
	case "body":
		return polartest.Body(f.Status, f.ContentType, f.Body), nil
	}
	return polartest.Effect{}, fmt.Errorf("there is no effect %q; there are login_page, proxy_page, server_error, router_not_found, "+
		"rate_limited, hang, slow_drip, delay, reset, close, answer_lost, truncated, garbage, huge and body", f.Effect)
}

// needsStatus are the effects that answer with a status of the sender's choice.
var needsStatus = []string{"login_page", "proxy_page", "server_error", "body"}

func (c *control) faults() {
	p := c.polar
	c.handle("POST /faults", `{"path": "/state", "times": 1, "effect": "rate_limited", "retry_after": "30"}`, func(r *http.Request) (any, error) {
		var f fault
		if err := readBody(r, &f); err != nil {
			return nil, err
		}
		effect, err := f.effect()
		if err != nil {
			return nil, err
		}
		if slices.Contains(needsStatus, f.Effect) && (f.Status < 200 || f.Status > 599) {
			return nil, fmt.Errorf("%s needs a status from 200 to 599", f.Effect)
		}
		p.Inject(polartest.Fault{Path: f.Path, Times: f.Times, Skip: f.Skip, Effect: effect})
		return nil, nil
	})
	c.handle("DELETE /faults", "", func(*http.Request) (any, error) {
		p.ClearFaults()
		return nil, nil
	})
	c.handle("PUT /offline", `{"offline": true}`, func(r *http.Request) (any, error) {
		var to struct{ Offline bool }
		if err := readBody(r, &to); err != nil {
			return nil, err
		}
		p.SetOffline(to.Offline)
		return nil, nil
	})
}

func (c *control) webhooks() {
	p := c.polar
	c.handle("GET /endpoints/{id}", "", func(r *http.Request) (any, error) {
		return found(p.Endpoint(r.PathValue("id")))("endpoint", r.PathValue("id"))
	})
	c.handle("PATCH /endpoints/{id}", "change the fields that are sent", func(r *http.Request) (any, error) {
		if err := edit(r, p.UpdateEndpoint); err != nil {
			return nil, err
		}
		return found(p.Endpoint(r.PathValue("id")))("endpoint", r.PathValue("id"))
	})
	c.handle("POST /endpoints/{id}/send", "any message, once, signed by the endpoint's secrets or by those sent", func(r *http.Request) (any, error) {
		var m struct {
			ID        string
			Timestamp time.Time
			Body      string
			Secrets   []polartest.Secret
		}
		if err := readBody(r, &m); err != nil {
			return nil, err
		}
		status, err := p.Send(r.PathValue("id"), polartest.Message{ID: m.ID, Timestamp: m.Timestamp, Body: []byte(m.Body), Secrets: m.Secrets})
		if err != nil {
			return map[string]any{"status": 0, "error": err.Error()}, nil //nolint:nilerr // is the answer
		}
		return map[string]any{"status": status}, nil
	})
	c.handle("POST /events", `{"type": "subscription.cycled", "subject": "…"}, or data for a type of which this Polar knows nothing`, func(r *http.Request) (any, error) {
		var e struct {
			Type, Subject, ID string
			At                time.Time
			Data              json.RawMessage
		}
		if err := readBody(r, &e); err != nil {
			return nil, err
		}
		ids := p.Emit(polartest.Event{Type: e.Type, Subject: e.Subject, ID: e.ID, At: e.At, Data: e.Data})
		return map[string]any{"ids": ids}, nil
	})
	c.handle("GET /deliveries", "all of them, in order", func(*http.Request) (any, error) { return p.Deliveries(), nil })
	c.handle("POST /deliveries/hold", "keep back what is to be sent", func(*http.Request) (any, error) {
		p.HoldDeliveries()
		return nil, nil
	})
	c.handle("POST /deliveries/release", `{"ids": ["…", "…"]} in that order, or all without`, func(r *http.Request) (any, error) {
		var which struct{ IDs []string }
		if err := readBody(r, &which); err != nil {
			return nil, err
		}
		p.ReleaseDeliveries(which.IDs...)
		return nil, nil
	})
	c.handle("POST /deliveries/wait", `until none is pending, at most {"timeout": "10s"}`, func(r *http.Request) (any, error) {
		var wait struct{ Timeout string }
		if err := readBody(r, &wait); err != nil {
			return nil, err
		}
		d := 10 * time.Second
		if wait.Timeout != "" {
			var err error
			if d, err = time.ParseDuration(wait.Timeout); err != nil {
				return nil, fmt.Errorf("timeout: %w", err)
			}
		}
		ctx, cancel := context.WithTimeoutCause(r.Context(), d, errors.New("there are still deliveries pending"))
		defer cancel()
		return nil, p.WaitForDeliveries(ctx)
	})
}

func (c *control) requests() {
	p := c.polar
	c.handle("GET /requests", "all that arrived at the API", func(*http.Request) (any, error) {
		type request struct {
			Method, Path, RawQuery string
			At                     time.Time
			Client                 string
			Status                 int
			Fault                  string
		}
		out := []request{}
		for _, r := range p.Requests() { // without headers and bodies: those hold tokens and license keys
			out = append(out, request{r.Method, r.Path, r.RawQuery, r.At, r.Client, r.Status, r.Fault})
		}
		return out, nil
	})
	c.handle("GET /requests/count", "how many have a path that ends with ?path=", func(r *http.Request) (any, error) {
		return map[string]any{"count": p.Count(r.URL.Query().Get("path"))}, nil
	})
	c.handle("DELETE /requests", "forget them", func(*http.Request) (any, error) {
		p.ForgetRequests()
		return nil, nil
	})
	c.handle("GET /usage", "events of usage that were ingested", func(*http.Request) (any, error) { return p.Events(), nil })
}

// add is POST of something new.
func add[T any](c *control, path string, do func(T) T) {
	c.handle("POST /"+path, "", func(r *http.Request) (any, error) {
		var one T
		if err := readBody(r, &one); err != nil {
			return nil, err
		}
		return do(one), nil
	})
}

// edit changes the fields that the body has.
func edit[T any](r *http.Request, update func(string, func(*T)) bool) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var wrong error
	if !update(r.PathValue("id"), func(one *T) {
		next := *one
		if wrong = unmarshal(data, &next); wrong == nil {
			*one = next
		}
	}) {
		return notThere("thing", r.PathValue("id"))
	}
	return wrong
}

type missing string

func (m missing) Error() string { return string(m) }

func notThere(what, id string) error { return missing(fmt.Sprintf("there is no %s %q", what, id)) }

func found[T any](one T, ok bool) func(what, id string) (any, error) {
	return func(what, id string) (any, error) {
		if !ok {
			return nil, notThere(what, id)
		}
		return one, nil
	}
}

// handle adds a path. What it gives is written as JSON; nothing is 204.
func (c *control) handle(pattern, about string, do func(*http.Request) (any, error)) {
	c.paths = append(c.paths, strings.TrimSpace(pattern+"  "+about))
	c.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, mostBody)
		v, err := attempt(do, r)
		var gone missing
		switch {
		case errors.As(err, &gone):
			write(w, http.StatusNotFound, map[string]any{"error": err.Error()})
		case err != nil:
			write(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
		case v == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			write(w, http.StatusOK, v)
		}
	})
}

// attempt makes an error of the panic with which polartest refuses what a test wrote.
func attempt(do func(*http.Request) (any, error), r *http.Request) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			text, ours := p.(string)
			if !ours {
				panic(p)
			}
			v, err = nil, errors.New(strings.TrimPrefix(text, "polartest: "))
		}
	}()
	return do(r)
}

func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sent := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if subtle.ConstantTimeCompare([]byte(sent), []byte(c.token)) != 1 {
		write(w, http.StatusUnauthorized, map[string]any{"error": "send the control token that was printed at the start: Authorization: Bearer …"})
		return
	}
	c.mux.ServeHTTP(w, r)
}

func write(w http.ResponseWriter, status int, v any) {
	data, err := json.MarshalIndent(snake(v), "", "  ")
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"error": "the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}

func readBody(r *http.Request, into any) error {
	data, err := io.ReadAll(r.Body)
	if err != nil || len(data) == 0 {
		return err
	}
	return unmarshal(data, into)
}

// readBoth reads one field of the body into an object of its own, and the others into another.
func readBoth(r *http.Request, into, apart any, field string) error {
	data, err := io.ReadAll(r.Body)
	if err != nil || len(data) == 0 {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	if one, ok := all[field]; ok {
		delete(all, field)
		if err := unmarshal(slices.Concat([]byte(`{"`+field+`":`), one, []byte("}")), apart); err != nil {
			return err
		}
	}
	rest, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return unmarshal(rest, into)
}
