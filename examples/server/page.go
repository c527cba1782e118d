package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"net/http"

	"github.com/polargate/polargate"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page shows who is signed in and what they may use. It is for everybody, so it
// asks for Entitlements instead of being wrapped.
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

func (p page) show(w http.ResponseWriter, r *http.Request) {
	view := struct {
		User              string
		Known             bool
		Problem           string
		Routes            []route
		Features          []string
		Benefits          []polargate.GrantedBenefit
		Meters, Customers []string
		Try               []string
		Stats             polargate.CustomersStats
	}{User: userOf(r)}
	var have *polargate.Entitlements
	if view.User != "" {
		var err error
		if have, err = p.customers.Entitlements(r.Context(), signedIn(r)); err != nil {
			view.Problem = polargate.Message(err)
		}
	}
	view.Known = have.Known()
	view.Features, view.Benefits = have.Features(), have.Benefits()
	for _, m := range have.Meters() {
		view.Meters = append(view.Meters, fmt.Sprintf("%g left of %g", m.Balance, m.Credited))
	}
	view.Routes = []route{{"/free", true, "for everybody"}}
	for path, needs := range map[string]polargate.Requirement{"/pro": polargate.Feature("pro"), "/meter": polargate.Meter(p.settings.meter, 1)} {
		view.Routes = append(view.Routes, route{path, have.Known() && have.Meets(needs), "needs " + needs.String()})
	}
	if view.Routes[1].Path > view.Routes[2].Path {
		view.Routes[1], view.Routes[2] = view.Routes[2], view.Routes[1]
	}
	if p.settings.demo != nil {
		view.Customers = p.settings.demo.names()
		view.Try = p.settings.demo.try("http://" + r.Host)
	}
	view.Stats = p.customers.Stats()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
	if err := pageTemplate.Execute(w, view); err != nil {
		p.settings.customers.Logger.Warn("the page was not sent", "error", err)
	}
}
