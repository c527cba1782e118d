package main

import (
	_ "embed"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/licensepage"
)

//go:embed desk.html
var deskFile string

var deskTemplate = template.Must(template.New("desk").Parse(deskFile))

// desk is what the program is for. One thing is free, one is for a feature, and one is counted
// as well.
type desk struct {
	gate *polargate.Gate
	demo *demo // nil without an embedded Polar

	mu     sync.Mutex
	notice string // what came of the last button
}

func (d *desk) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", d.show)
	for path, act := range map[string]func(*http.Request) string{"/count": d.count, "/export": d.export, "/sync": d.sync} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			said := act(r)
			d.mu.Lock()
			d.notice = said
			d.mu.Unlock()
			http.Redirect(w, r, "/", http.StatusSeeOther)
		})
	}
	if d.demo != nil {
		mux.HandleFunc("POST /demo", d.demo.press)
	}
	return mux
}

func (d *desk) show(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	notice := d.notice
	d.mu.Unlock()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	err := deskTemplate.Execute(w, struct {
		Notice, License    string
		CanExport, CanSync bool
		Demo               *demo
	}{notice, licensepage.Headline(d.gate.Status(), nil), d.gate.Has("export"), d.gate.Has("sync"), d.demo})
	if err != nil {
		slog.Warn("the page was not sent", "error", err)
	}
}

func (d *desk) count(r *http.Request) string {
	return "The text has " + count(len(strings.Fields(r.PostFormValue("text"))), "word", "words") + "."
}

const needsLicense = "You need a license that includes "

func (d *desk) export(r *http.Request) string {
	if !d.gate.Has("export") {
		return needsLicense + "export."
	}
	return "Exported " + count(len(template.HTMLEscapeString(r.PostFormValue("text"))), "byte", "bytes") + "."
}

func (d *desk) sync(r *http.Request) string {
	if !d.gate.Has("sync") {
		return needsLicense + "sync."
	}
	left, err := d.gate.Consume(r.Context(), 1)
	switch {
	case err != nil:
		return polargate.Message(err)
	case left == polargate.Unlimited:
		return "Synced."
	}
	return "Synced. " + count(int(left), "sync", "syncs") + " left."
}
