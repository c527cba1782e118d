package main

import (
	_ "embed"
	"html/template"
	"net/http"

	"github.com/polargate/polargate"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page shows the customer who is signed in and what they may use. It is for everybody, so
// it calls Entitlements instead of using the middleware.
type page struct {
	customers *polargate.Customers
	settings  settings
}

// route is a line in the table of routes.
type route struct {
	Path  string
	Open  bool
	Words string
}

// meter is a line in the list of meters.
type meter struct {
	Name       string
	Left, From float64
}

func (p page) show(w http.ResponseWriter, r *http.Request) {
	view := struct {
		User      string
		Problem   string // why it isn't known what the user may use
		Have      *polargate.Entitlements
		Routes    []route
		Meters    []meter
		Demo      bool
		Customers []string
		Plan      plan
		Try       []string
		Stats     polargate.CustomersStats
	}{User: userOf(r)}
	if view.User != "" {
		have, err := p.customers.Entitlements(r.Context(), signedIn(r))
		if err != nil {
			view.Problem = polargate.Message(err)
		}
		view.Have = have
	}
	view.Routes = []route{
		{"/free", true, "for everybody"},
		{"/pro", view.Have.Meets(polargate.Feature("pro")), "for customers with the feature pro"},
	}
	if p.settings.meter != "" {
		view.Routes = append(view.Routes, route{"/meter", view.Have.Meets(polargate.Meter(p.settings.meter, 1)), "uses one unit of a meter"})
	}
	for _, m := range view.Have.Meters() {
		name := m.ID() // a customer's state has no names
		if m.ID() == p.settings.meter {
			name = "/meter"
		}
		view.Meters = append(view.Meters, meter{name, m.Balance, m.Credited})
	}
	if d := p.settings.demo; d != nil {
		view.Demo, view.Customers, view.Plan, view.Try = true, d.names(), d.planOf(view.User), d.try("http://"+r.Host)
	}
	view.Stats = p.customers.Stats()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	if err := pageTemplate.Execute(w, view); err != nil {
		p.settings.customers.Logger.Warn("the page was not sent", "error", err)
	}
}
