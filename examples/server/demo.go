package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/polargate/polargate/polartest"
)

// demo is an embedded Polar with customers to play with. It tells this server of
// changes by webhooks, as the real one does.
type demo struct {
	polar  *polartest.Polar
	server *polartest.Server
	key    polartest.LicenseKey
	plan   string // the benefit of who pays
	secret string // of the webhooks
}

const (
	ada   = "ada"   // has the plan with everything
	brook = "brook" // has an account, and has bought nothing
)

// newDemo starts the embedded Polar, and sets a server up for it.
func newDemo(s *settings) (*demo, error) {
	polar := polartest.New(polartest.Config{})
	server, err := polar.Start()
	if err != nil {
		return nil, err
	}
	d := &demo{polar: polar, server: server, secret: "whsec_" + rand.Text()}
	meter := polartest.Meter{CreditedUnits: 5}
	polar.AddCustomer(polartest.Customer{ExternalID: brook, Email: "brook@example.com"})
	polar.AddCustomer(polartest.Customer{ExternalID: ada, Email: "ada@example.com", Meters: []polartest.Meter{meter}})
	d.key = polar.AddKey(polartest.LicenseKey{})
	plan := polar.Subscribe(ada, polartest.Subscription{}, polartest.Benefit{Metadata: map[string]any{"tier": "gold"}})
	customer, _ := polar.Customer(ada)

	s.secrets = []string{d.secret}
	s.customers.BaseURL = server.URL
	s.customers.OrganizationID = polar.OrganizationID()
	s.customers.AccessToken = polar.AddToken(polartest.Token{})
	s.meter = customer.Meters[0].MeterID
	s.customers.Features = map[string][]string{d.key.BenefitID: {"api"}}
	for _, b := range customer.Benefits {
		if b.SubscriptionID == plan.ID {
			d.plan = b.BenefitID
			s.customers.Features[b.BenefitID] = []string{"export", "pro"}
		}
	}
	return d, nil
}

// sendWebhooksTo has Polar tell a server of changes.
func (d *demo) sendWebhooksTo(url string) {
	d.polar.AddEndpoint(polartest.Endpoint{URL: url + "/webhooks/polar", Secrets: []polartest.Secret{{Text: d.secret, Raw: true}}})
}

func (d *demo) close() { _ = d.server.Close() }

func (d *demo) names() []string { return []string{ada, brook} }

// plan is what a customer has bought.
type plan struct {
	Bought bool
	Active bool
}

func (d *demo) planOf(user string) plan {
	customer, _ := d.polar.Customer(user)
	for _, s := range customer.Subscriptions {
		return plan{Bought: true, Active: s.Status == "active"}
	}
	return plan{}
}

// try are commands that show what the server does.
func (d *demo) try(url string) []string {
	return []string{
		"curl -i " + url + "/free",
		"curl -i " + url + "/pro",
		"curl -i -H 'X-Demo-User: " + ada + "' " + url + "/pro",
		"curl -i -H 'X-Demo-User: " + brook + "' " + url + "/pro",
		"curl -i -H 'X-Demo-User: " + ada + "' " + url + "/meter",
		"curl -i -H 'X-License-Key: " + d.key.Key + "' " + url + "/api/data",
		"curl -i -X POST -H 'X-Demo-User: " + ada + "' " + url + "/demo/cancel",
		"curl -i -X POST -H 'X-Demo-User: " + ada + "' " + url + "/demo/restore",
	}
}

func (d *demo) introduce(out io.Writer, url string) {
	fmt.Fprintf(out, "\nThis is an embedded Polar with two customers: %s, who pays, and %s, who doesn't.\nOpen %s, or try:\n\n", ada, brook, url)
	for _, line := range d.try(url) {
		fmt.Fprintln(out, " ", line)
	}
	fmt.Fprintln(out)
}

// routes change something at the embedded Polar.
func (d *demo) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /demo/user", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: userCookie, Value: r.PostFormValue("user"), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /demo/cancel", d.changing(d.polar.CancelSubscription))
	mux.HandleFunc("POST /demo/restore", d.changing(d.polar.RestoreSubscription))
	return mux
}

// changing changes the subscription of the customer who is signed in, and waits until its
// webhooks have arrived.
func (d *demo) changing(change func(customer, subscription string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		customer, ok := d.polar.Customer(userOf(r))
		if !ok || len(customer.Subscriptions) == 0 {
			http.Error(w, "There is no subscription to change. Sign in as "+ada+".", http.StatusNotFound)
			return
		}
		change(customer.ID, customer.Subscriptions[0].ID)
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if err := d.polar.WaitForDeliveries(ctx); err != nil {
			http.Error(w, "The webhook didn't arrive: "+err.Error(), http.StatusInternalServerError)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}
