package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate"
)

//go:embed page.html page.css page.js offline.html offline.js
var pageFiles embed.FS

var pageTemplate = template.Must(template.ParseFS(pageFiles, "page.html"))

// license is what the page needs of a Gate.
type license interface {
	Status() polargate.Status
	Has(feature string) bool
	Refresh(ctx context.Context) (polargate.Status, error)
	Activate(ctx context.Context, licenseKey string) (polargate.Status, error)
	ActivateWait(ctx context.Context, licenseKey string) (polargate.Status, error)
	Move(ctx context.Context) (polargate.Status, error)
	Deactivate(ctx context.Context) error
	Consume(ctx context.Context, n int64) (remaining int64, err error)
	Run(ctx context.Context) error
}

// site is the license page of one program, for one user. What a form did is kept
// here until the next one, so that pages can be loaded again.
type site struct {
	license license
	files   offlineLicense // nil if this program has no license files
	machine string
	demo    *demo // nil without an embedded Polar

	mu     sync.Mutex
	job    *job
	notice notice
	// pending is a key that Polar does not know, for whoever has just bought it.
	pending string
}

// job is an activation under way.
type job struct {
	wait   bool // for a key that Polar does not know yet
	until  time.Time
	cancel context.CancelFunc
	done   chan struct{}
}

// notice is the result of the last form.
type notice struct {
	Bad  bool
	Text string
	Buy  bool // the key may be too new: offer to keep trying
	Full bool // in use on too many computers: say how to deactivate one
}

func newSite(l license) *site {
	return &site{license: l, machine: hostname()}
}

// stop ends an activation under way.
func (s *site) stop() {
	s.mu.Lock()
	j := s.job
	s.mu.Unlock()
	if j != nil {
		j.cancel()
		<-j.done
	}
}

func (s *site) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("GET /state", s.state)
	mux.Handle("GET /page.css", http.FileServerFS(pageFiles))
	mux.Handle("GET /page.js", http.FileServerFS(pageFiles))
	form := func(path string, act func(*http.Request)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			act(r)
			http.Redirect(w, r, "/", http.StatusSeeOther)
		})
	}
	form("/activate", func(r *http.Request) { s.start(r.PostFormValue("key"), false) })
	form("/wait", func(*http.Request) { s.wait() })
	form("/cancel", func(*http.Request) { s.stop() })
	for path, act := range map[string]func(*http.Request) notice{
		"/check":      s.check,
		"/move":       s.move,
		"/deactivate": s.deactivate,
		"/count":      s.count,
		"/export":     s.export,
		"/sync":       s.sync,
	} {
		form(path, func(r *http.Request) {
			n := act(r)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.notice = n
		})
	}
	if s.files != nil {
		mux.Handle("GET /offline.js", http.FileServerFS(pageFiles))
		s.offlineRoutes(mux)
	}
	if s.demo != nil {
		mux.HandleFunc("POST /demo", s.demo.press)
	}
	return mux
}

func failed(err error) notice { return notice{Bad: true, Text: polargate.Message(err)} }

// purchaseWait is how long ActivateWait waits for a key.
const purchaseWait = 150 * time.Second

// quick is how long a form waits for an activation before the page says that it is
// under way.
const quick = 400 * time.Millisecond

// wait is for a key that was not known when it was entered.
func (s *site) wait() {
	s.mu.Lock()
	key := s.pending
	s.mu.Unlock()
	if key != "" {
		s.start(key, true)
	}
}

// start activates a key behind the page, unless that is under way, and waits a
// moment for what comes of it.
func (s *site) start(key string, wait bool) {
	s.mu.Lock()
	if s.job != nil {
		s.mu.Unlock()
		return
	}
	// It continues when the page is closed: Polar may have counted the activation by then.
	ctx, cancel := context.WithCancel(context.Background())
	j := &job{wait: wait, until: time.Now().Add(purchaseWait), cancel: cancel, done: make(chan struct{})}
	s.job, s.pending, s.notice = j, "", notice{}
	s.mu.Unlock()
	go func() {
		defer close(j.done)
		defer cancel()
		activate := s.license.Activate
		if wait {
			activate = s.license.ActivateWait
		}
		status, err := activate(ctx, key)
		n := notice{Text: "This computer is activated."}
		switch {
		case ctx.Err() != nil && err != nil:
			n = notice{Text: "Stopped waiting."}
		case err != nil:
			n = failed(err)
			n.Buy = !wait && errors.Is(err, polargate.ErrUnknownKey)
			n.Full = errors.Is(err, polargate.ErrActivationLimit)
		case !status.OK():
			n = notice{Bad: true, Text: status.Message}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if n.Buy {
			s.pending = key
		}
		s.job, s.notice = nil, n
	}()
	select {
	case <-j.done:
	case <-time.After(quick):
	}
}

func (s *site) check(r *http.Request) notice {
	status, err := s.license.Refresh(r.Context())
	switch {
	case err != nil && status.OK():
		return failed(err) // the license stays usable all the same
	case beside(err) != nil:
		return failed(beside(err)) // the status doesn't say that it couldn't be verified
	case err != nil:
		return notice{} // the status says it
	}
	return notice{Text: "Verified just now."}
}

func (s *site) move(r *http.Request) notice {
	if _, err := s.license.Move(r.Context()); err != nil {
		return failed(err)
	}
	return notice{Text: "Your license was moved to this computer."}
}

func (s *site) deactivate(r *http.Request) notice {
	if err := s.license.Deactivate(r.Context()); err != nil && !s.license.Status().ReleasePending {
		return failed(err)
	} else if err != nil {
		return notice{} // the status says it
	}
	return notice{Text: "This computer is deactivated. You can use the license key on another computer."}
}

// The toy: what the program is for. One thing is free, one is for a feature, and one
// is counted as well.

func (s *site) count(r *http.Request) notice {
	return notice{Text: "The text has " + count(len(strings.Fields(r.PostFormValue("text"))), "word", "words") + "."}
}

const needsLicense = "You need a license that includes "

func (s *site) export(r *http.Request) notice {
	if !s.license.Has("export") {
		return notice{Bad: true, Text: needsLicense + "export."}
	}
	return notice{Text: "Exported " + count(len(template.HTMLEscapeString(r.PostFormValue("text"))), "byte", "bytes") + "."}
}

func (s *site) sync(r *http.Request) notice {
	if !s.license.Has("sync") {
		return notice{Bad: true, Text: needsLicense + "sync."}
	}
	left, err := s.license.Consume(r.Context(), 1)
	switch {
	case err != nil:
		return failed(err)
	case left == polargate.Unlimited:
		return notice{Text: "Synced."}
	}
	return notice{Text: "Synced. " + count(int(left), "sync", "syncs") + " left."}
}

// view is what the page shows.
type view struct {
	Tone     string // good, warn, bad or busy: for the eye; the words say it, too
	Headline string
	Words    string
	Next     string // what to offer first: enter, check, move, wait, or "" for nothing
	Notice   notice
	Status   polargate.Status
	Machine  string
	Facts    []fact
	Left     int // seconds of a wait
	CanExport, CanSync,
	Quota bool
	Version string // another one means that the page has changed
	Demo    *demo
	// Files: licenses come in files, too. FromFile: this one did, and Receipt: the one before
	// did, which was deactivated.
	Files, FromFile, Receipt bool
}

// fact is a line about the license.
type fact struct{ Name, Value string }

func (s *site) view(now time.Time) view {
	status := s.license.Status()
	v := view{Status: status, Machine: s.machine, Words: status.Message, Demo: s.demo}
	s.mu.Lock()
	v.Notice = s.notice
	j := s.job
	s.mu.Unlock()

	v.Tone, v.Headline, v.Next = describeState(status)
	switch {
	case status.State == polargate.Active && !status.Unsaved && !status.InDoubt && !status.ReleasePending:
		v.Words = "Everything you bought is unlocked."
	case status.State == polargate.Grace:
		v.Words = fmt.Sprintf("Everything works until %s. Connect to the internet before then to keep using this program.", moment(status.GraceUntil))
		if s.files != nil && status.Key.IsZero() {
			v.Headline, v.Next, v.Words = "Your license file has to be renewed", "file", status.Message
		}
	}
	if j != nil {
		v.Tone, v.Headline, v.Words, v.Next = "busy", "Activating…", "Contacting the license server…", "busy"
		if j.wait {
			v.Headline, v.Next = "Waiting for your purchase…", "wait"
			v.Words = "A key can take up to two minutes to work after you buy it. We'll keep trying."
			v.Left = max(0, int(math.Ceil(j.until.Sub(now).Seconds())))
		}
	}
	add := func(name, value string) { v.Facts = append(v.Facts, fact{name, value}) }
	if !status.Key.IsZero() {
		add("License key", fmt.Sprint(status.Key))
		add("This computer", s.machine)
	}
	if s.files != nil {
		v.Files, v.FromFile = true, status.Key.IsZero() && !status.CheckedAt.IsZero()
		if v.FromFile {
			add("License", "from a file")
			add("This computer", s.machine)
		}
		if status.State == polargate.Unlicensed && !status.ReleasePending {
			_, err := s.files.OfflineReceipt()
			v.Receipt = err == nil
		}
	}
	if len(status.Features) > 0 {
		add("Features", strings.Join(status.Features, ", "))
	}
	if status.OK() && !status.ExpiresAt.IsZero() {
		add("Expires", day(status.ExpiresAt, now))
	}
	if !status.CheckedAt.IsZero() {
		add("Last verified", moment(status.CheckedAt))
	}
	if status.Reason == polargate.ErrClockSetBack {
		add("This computer's clock", moment(now))
	}
	v.CanExport, v.CanSync = s.license.Has("export"), s.license.Has("sync")
	v.Quota = status.OK() && status.LimitUsage > 0 && status.LimitUsage != polargate.Unlimited
	sum := sha256.Sum256(fmt.Append(nil, v.Headline, v.Words, v.Notice, status.State, string(status.Reason), status.Key, status.Usage, status.ReleasePending, v.CanExport, v.CanSync, v.Facts, v.Receipt))
	v.Version = hex.EncodeToString(sum[:8])
	return v
}

// describeState is how a state looks, in a few words, and what to do in it.
func describeState(s polargate.Status) (tone, headline, next string) {
	switch s.State {
	case polargate.Active:
		return "good", "Licensed", ""
	case polargate.Grace:
		return "warn", "Working offline", "check"
	case polargate.Unlicensed:
		if s.Reason == polargate.ErrInDoubt {
			return "warn", "Activation not confirmed", "enter"
		}
		if s.Reason == polargate.ErrNoPermission {
			return "bad", "Your license can't be opened", "check"
		}
		return "plain", "No license yet", "enter"
	}
	headlines := map[polargate.Reason]struct{ headline, next string }{
		polargate.ErrExpired:       {"Your license has expired", "check"},
		polargate.ErrInactive:      {"Your license is inactive", "check"},
		polargate.ErrSeatReleased:  {"This computer was deactivated", "enter"},
		polargate.ErrUnknownKey:    {"License key no longer recognized", "enter"},
		polargate.ErrWrongBenefit:  {"This key is for another product", "enter"},
		polargate.ErrGraceEnded:    {"Not verified for too long", "check"},
		polargate.ErrUnreachable:   {"Your license couldn't be verified", "check"},
		polargate.ErrRateLimited:   {"Your license couldn't be verified", "check"},
		polargate.ErrMisconfigured: {"Your license couldn't be verified", "check"},
		polargate.ErrClockSetBack:  {"This computer's clock has been set back", "check"},
		polargate.ErrBadLease:      {"Your license file doesn't count any more", "file"},
		polargate.ErrNotCovered:    {"Your license doesn't include this version", "enter"},
		polargate.ErrOtherMachine:  {"This license belongs to another computer", "move"},
	}
	if h, ok := headlines[s.Reason]; ok {
		return "bad", h.headline, h.next
	}
	return "bad", "Your license is locked", "enter"
}

// count is a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprint(n, " ", many)
}

func moment(t time.Time) string { return t.Local().Format("2 January 2006, 15:04") }

func (s *site) show(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := pageTemplate.Execute(w, s.view(time.Now())); err != nil {
		slog.Warn("the page was not sent", "error", err)
	}
}

// state tells the page's script whether there is something new to show.
func (s *site) state(w http.ResponseWriter, _ *http.Request) {
	v := s.view(time.Now())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, v.Version)
}

// Clock is what is left of a wait, as on a clock.
func (v view) Clock() string { return seconds(time.Duration(v.Left) * time.Second) }

// Portal is where customers see their purchases. A product puts its own address here.
func (v view) Portal() string { return cmp.Or(os.Getenv("POLARGATE_PORTAL_URL"), "") }
