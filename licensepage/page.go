// Package licensepage is a license page for a program's users: it shows the license of a Gate,
// takes a license key, and offers what helps in each state. Show it in the user's browser with
// [Page.Serve], or in a webview of your own with [Handler].
//
//	page := licensepage.Handler(gate, licensepage.Options{Product: "Inkwell"})
//	err := page.Serve(ctx, nil, func(link string) { licensepage.OpenURL(link) })
//
// The page works without JavaScript. With it, changes appear without a reload: the focus stays
// where it is, and screen readers announce what changed. It works with the keyboard alone, in
// narrow windows, in light and dark, and in the language of the Gate.
//
// Nothing on the page and no address of it shows a license key. Forms of other sites are
// refused, and so are requests by a host name that doesn't belong to this computer.
package licensepage

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/logs"
)

//go:embed page.html page.css page.js
var files embed.FS

// License is what the page needs of a *polargate.Gate, so that a test can stand in for one.
// Later versions may need more methods of it.
type License interface {
	Status() polargate.Status
	Refresh(ctx context.Context) (polargate.Status, error)
	Activate(ctx context.Context, licenseKey string) (polargate.Status, error)
	ActivateWait(ctx context.Context, licenseKey string) (polargate.Status, error)
	Move(ctx context.Context) (polargate.Status, error)
	Deactivate(ctx context.Context) error
	Language() *polargate.Language
	Links() polargate.Links
	Label() string
	OfflineRequest() (string, error)
	ActivateFile(data []byte) (polargate.Status, error)
	OfflineReceipt() (string, error)
}

// Options say what the page looks like, and what it leads to. The zero value is a plain page.
type Options struct {
	// Product is the name of the program, as its users know it.
	Product string
	// Logo is a picture for the top of the page: SVG, PNG, JPEG, GIF or WebP. Empty means
	// none.
	Logo []byte
	// Colors are those of the program. Empty means blue.
	Colors Colors
	// Links are the vendor's pages; those that are empty have no button. If all are, they
	// are those of the Gate's Config.
	Links polargate.Links
	// Language is what the page is written in. nil means that of the Gate.
	Language *polargate.Language
	// Computer is what the page calls this computer. Empty means the Label of the Gate, which
	// is usually the computer's name.
	Computer string
	// FeatureNames are what users call the features, by name of a feature. A feature that is
	// missing here is shown by its name.
	FeatureNames map[string]string

	// Offline offers license files, for computers without a network. The Gate needs
	// Config.LeaseKeys.
	Offline bool
	// OfflinePage is the vendor's page that takes requests for license files; see package
	// lease/issuer. It may be empty.
	OfflinePage string

	// Home is where a link back to the program leads. Empty means no link.
	Home string
	// OpenURL opens an address outside the page. Set it in a webview, for example to
	// [OpenURL]: links then don't replace the page. It gets only addresses of Links and
	// OfflinePage. nil means that they are ordinary links.
	OpenURL func(url string) error
	// Hosts are more names by which the page may be called, such as "wails" in Wails. The
	// loopback addresses, localhost and what ends in .localhost always may. Any other name
	// is refused, because a page of that name could read this one (DNS rebinding).
	Hosts []string
	// Logger gets warnings. nil means that nothing is logged.
	Logger *slog.Logger
}

// Colors of the page, as "#rrggbb". The text on them is black or white, whichever is easier to
// read.
type Colors struct {
	// Accent is the color of the main button. AccentDark is that in dark mode; empty means
	// Accent.
	Accent, AccentDark string
}

// Page is a license page: an http.Handler, for one user. What a form did is kept until the
// next one, so that the page can be loaded again.
type Page struct {
	license  License
	options  Options
	computer string
	handler  http.Handler

	mu     sync.Mutex
	job    *job
	notice notice
	// pending is a key that Polar doesn't know, for customers who have just bought it.
	pending string
	// asked is a key that a link wants to activate, and the question about it.
	asked question
}

// job is an activation under way.
type job struct {
	wait   bool // for a key that Polar doesn't know yet
	until  time.Time
	cancel context.CancelFunc
	done   chan struct{}
}

// question asks whether to activate the key of a link. The id belongs to it alone, so that an
// answer to one question never activates the key of another.
type question struct{ key, id string }

// notice is the result of the last form.
type notice struct {
	Tone string // good, warn or bad; "" if there is none
	Text string
	Buy  bool // the key may be too new: offer to keep trying
	Full bool // in use on too many computers: say how to deactivate one
	Key  bool // about a key that was entered: stands beside its field
	// seen is what the license was like. A notice of another time would contradict it.
	seen seen
}

// seen is what a notice goes with.
type seen struct {
	state  polargate.State
	reason polargate.Reason
	key    polargate.Key
}

func sight(s polargate.Status) seen { return seen{s.State, s.Reason, s.Key} }

var color = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`)

// Handler makes the page. Mount it at the root of a server, or elsewhere behind
// http.StripPrefix: at an address that ends in a slash, such as "/license/". Everybody who
// reaches the address can use it, so in a server of your own put a check of your own before
// it; [Page.Serve] has one.
//
// Options that can't be right, such as a color or link that is none, are a mistake in the
// program: Handler panics.
func Handler(license License, options Options) *Page {
	for _, c := range []string{options.Colors.Accent, options.Colors.AccentDark} {
		if c != "" && !color.MatchString(c) {
			panic(fmt.Sprintf("licensepage: the color %q is not like #1d4f91", c))
		}
	}
	p := &Page{license: license, options: options, computer: options.Computer}
	if options.Links == (polargate.Links{}) {
		p.options.Links = license.Links()
	}
	for name, link := range p.links() {
		if u, err := url.Parse(link); err != nil || u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "mailto" {
			panic(fmt.Sprintf("licensepage: the link %q is not an address such as https://example.com/%s", link, name))
		}
	}
	if len(options.Logo) > 0 && logoType(options.Logo) == "" {
		panic("licensepage: the logo is not SVG, PNG, JPEG, GIF or WebP")
	}
	if p.options.Language == nil {
		p.options.Language = license.Language()
	}
	p.options.Logger = logs.Recovering(options.Logger)
	p.computer = cmp.Or(p.computer, license.Label(), p.text("page.fact.computer"))
	p.handler = p.guard(p.routes())
	return p
}

// ServeHTTP shows the page.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// Close ends an activation that is under way, and waits for it. It doesn't close the Gate.
func (p *Page) Close() error {
	p.mu.Lock()
	j := p.job
	p.mu.Unlock()
	if j != nil {
		j.cancel()
		<-j.done
	}
	return nil
}

// Ask shows a question: whether to activate the key of a link, such as
// "inkwell://activate?key=…", that the system opened the program with. Nothing is activated
// before the user agrees on the page. A GET of "activate?key=…" below the address of the page
// does the same. The error, for a link without a license key, is for the program; the page
// explains it to the user.
func (p *Page) Ask(link string) error {
	u, err := url.Parse(strings.TrimSpace(link))
	if err != nil {
		return errors.New("licensepage: the link can't be read") // without what it says
	}
	if name := cmp.Or(strings.Trim(u.Path, "/"), u.Host, u.Opaque); path.Base(name) != "activate" {
		return errors.New("licensepage: the link doesn't ask for an activation")
	}
	return p.ask(u.Query().Get("key"))
}

func (p *Page) ask(pasted string) error {
	key, err := polargate.ParseKey(pasted)
	n := notice{}
	if err != nil {
		n = p.failed(err)
		n.Key = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked = (question{}); err == nil {
		p.asked = question{key.Reveal(), rand.Text()}
	}
	p.notice = n
	return err
}

// answer is what the user says to a question.
func (p *Page) answer(id string, yes bool) {
	p.mu.Lock()
	q := p.asked
	if q.id == "" || q.id != id {
		p.mu.Unlock()
		return // another link was opened meanwhile: its question is shown
	}
	p.asked = question{}
	p.mu.Unlock()
	if yes {
		p.start(q.key, false)
	}
}

// links are the addresses that the page leads to, by name.
func (p *Page) links() map[string]string {
	links := map[string]string{}
	for name, at := range map[string]string{
		"buy": p.options.Links.Buy, "renew": p.options.Links.Renew, "portal": p.options.Links.Portal,
		"support": p.options.Links.Support, "offline": p.options.OfflinePage,
	} {
		if at != "" {
			links[name] = at
		}
	}
	return links
}

func (p *Page) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.show)
	mux.HandleFunc("GET /state", p.state)
	mux.HandleFunc("GET /page.css", p.style)
	mux.Handle("GET /page.js", http.FileServerFS(files))
	mux.HandleFunc("GET /logo", p.logo)
	mux.HandleFunc("GET /activate", p.followLink)
	form := func(name string, act func(*http.Request)) {
		mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
			if err := r.ParseForm(); err != nil {
				http.Error(w, http.StatusText(http.StatusRequestEntityTooLarge), http.StatusRequestEntityTooLarge)
				return
			}
			act(r)
			p.done(w, r, "./")
		})
	}
	form("activate", func(r *http.Request) { p.start(r.PostForm.Get("key"), false) })
	form("wait", func(*http.Request) { p.wait() })
	form("cancel", func(*http.Request) { _ = p.Close() })
	form("answer", func(r *http.Request) { p.answer(r.PostForm.Get("question"), r.PostForm.Get("say") == "yes") })
	form("again", func(*http.Request) { p.start(p.license.Status().Key.Reveal(), false) })
	form("open", p.open)
	for name, act := range map[string]func(*http.Request) notice{
		"check":      p.check,
		"move":       p.move,
		"deactivate": p.deactivate,
	} {
		form(name, func(r *http.Request) { p.note(act(r)) })
	}
	if p.options.Offline {
		p.offlineRoutes(mux)
	}
	return mux
}

// done answers a form: the script gets the page at once, a browser without it is sent there.
func (p *Page) done(w http.ResponseWriter, r *http.Request, to string) {
	if r.Header.Get("Polargate-Page") != "" {
		p.show(w, r)
		return
	}
	// A relative address, which http.Redirect would make absolute without the prefix that the
	// page is mounted at.
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// followLink asks whether to activate the key of an address. The address doesn't stay in the
// browser.
func (p *Page) followLink(w http.ResponseWriter, r *http.Request) {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		http.Error(w, p.text("page.refused.other_site"), http.StatusForbidden)
		return
	}
	if key := r.URL.Query().Get("key"); key != "" {
		_ = p.ask(key) // the page says what is wrong with it
	}
	p.done(w, r, "./")
}

func (p *Page) note(n notice) {
	n.seen = sight(p.license.Status())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notice = n
}

func (p *Page) failed(err error) notice {
	return notice{Tone: "bad", Text: p.options.Language.Message(err), seen: sight(p.license.Status())}
}

func (p *Page) good(name polargate.Phrase) notice { return notice{Tone: "good", Text: p.text(name)} }

// purchaseWait is how long ActivateWait waits for a key.
const purchaseWait = 150 * time.Second

// quick is how long a form waits for an activation before the page says that it is under way.
const quick = 400 * time.Millisecond

// wait is for a key that wasn't known when it was entered.
func (p *Page) wait() {
	p.mu.Lock()
	key := p.pending
	p.mu.Unlock()
	if key != "" {
		p.start(key, true)
	}
}

// start activates a key behind the page, unless an activation is under way, and waits a moment
// for what comes of it.
func (p *Page) start(key string, wait bool) {
	// It continues when the page is closed: Polar may have counted the activation by then.
	ctx, cancel := context.WithCancel(context.Background())
	j := &job{wait: wait, until: time.Now().Add(purchaseWait), cancel: cancel, done: make(chan struct{})}
	p.mu.Lock()
	if p.job != nil {
		p.mu.Unlock()
		cancel()
		return
	}
	p.job, p.pending, p.notice, p.asked = j, "", notice{}, question{}
	p.mu.Unlock()
	go func() {
		defer close(j.done)
		defer cancel()
		activate := p.license.Activate
		if wait {
			activate = p.license.ActivateWait
		}
		status, err := activate(ctx, key)
		n := p.good("page.done.activated")
		switch {
		case ctx.Err() != nil && err != nil:
			n = p.good("page.done.stopped")
		case err != nil:
			n = p.failed(err)
			n.Key = true
			n.Buy = !wait && errors.Is(err, polargate.ErrUnknownKey)
			n.Full = errors.Is(err, polargate.ErrActivationLimit)
		case !status.OK():
			n = notice{} // the status says it
		}
		n.seen = sight(p.license.Status())
		p.mu.Lock()
		defer p.mu.Unlock()
		if n.Buy {
			p.pending = key
		}
		p.job, p.notice = nil, n
	}()
	select {
	case <-j.done:
	case <-time.After(quick):
	}
}

func (p *Page) check(r *http.Request) notice {
	status, err := p.license.Refresh(r.Context())
	switch {
	case err != nil && status.State == polargate.Active:
		// The license is as good as before, and so the notice isn't bad news.
		return notice{Tone: "warn", Text: p.text("page.still", "{message}", p.options.Language.Message(err))}
	case beside(err) != nil:
		return p.failed(beside(err)) // the status doesn't say that it couldn't be verified
	case err != nil:
		return notice{} // the status says it
	}
	return p.good("page.done.verified")
}

// beside is why it couldn't be found out whether a license is still locked; nil if that is
// known.
func beside(err error) error {
	e, ok := errors.AsType[*polargate.Error](err)
	if !ok {
		return nil
	}
	switch also := e.Err.(type) {
	case *polargate.Error:
		if also.Reason != e.Reason && !also.Reason.Denial() {
			return also
		}
	case *polargate.StoreError:
		return also
	}
	return nil
}

func (p *Page) move(r *http.Request) notice {
	if _, err := p.license.Move(r.Context()); err != nil {
		return p.failed(err)
	}
	return p.good("page.done.moved")
}

func (p *Page) deactivate(r *http.Request) notice {
	if err := p.license.Deactivate(r.Context()); err != nil && !p.license.Status().ReleasePending {
		return p.failed(err)
	} else if err != nil {
		return notice{} // the status says it
	}
	return p.good("page.done.deactivated")
}

// open opens one of the links outside the page.
func (p *Page) open(r *http.Request) {
	link := p.links()[r.PostForm.Get("link")]
	if link == "" || p.options.OpenURL == nil {
		return
	}
	if err := p.options.OpenURL(link); err != nil {
		p.options.Logger.Warn("a link of the license page wasn't opened", "error", err)
		p.note(notice{Tone: "warn", Text: p.text("page.link", "{page}", link)})
	}
}

// guard lets in requests of this computer's own pages.
func (p *Page) guard(inside http.Handler) http.Handler {
	sameSite := http.NewCrossOriginProtection()
	sameSite.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, p.text("page.refused.other_site"), http.StatusForbidden)
	}))
	inside = sameSite.Handler(inside)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		if !p.knowsHost(r.Host) {
			http.Error(w, p.text("page.refused.address"), http.StatusMisdirectedRequest)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		inside.ServeHTTP(w, r)
	})
}

// secure forbids browsers all that the page doesn't need.
func secure(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
}

// maxForm is more than a license key or a license file takes.
const maxForm = 64 << 10

// knowsHost reports whether a request names this computer.
func (p *Page) knowsHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(strings.TrimSuffix(name, "."), "[]"))
	if ip := net.ParseIP(name); ip != nil && ip.IsLoopback() || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	for _, own := range p.options.Hosts {
		if strings.EqualFold(own, name) || strings.EqualFold(own, host) {
			return true
		}
	}
	return false
}
