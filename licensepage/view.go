package licensepage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/polargate/polargate"
)

var pages = template.Must(template.ParseFS(files, "page.html"))

// view is what the page shows.
type view struct {
	page *Page

	Tone     string // plain, good, warn, bad or busy: for the eye; the words say it, too
	Headline string
	Words    string
	Next     string // what to offer first, or "" for nothing; see describe
	Notice   notice
	Status   polargate.Status
	Facts    []fact
	Left     int // seconds of a wait
	Question string
	Offline  bool // license files are offered
	// FromFile: this license came in a file, and Receipt: the one before did, which was
	// deactivated.
	FromFile, Receipt bool
	Outgoing          *outgoing // the page without a network; nil on the page of the license
	Version           string    // another one means that the page has changed
}

// fact is a line about the license.
type fact struct {
	Name, Value string
	Used, Of    int64 // of uses
}

// look is how a state looks: the tone, what to offer first, and the phrase of its headline.
type look struct {
	tone, next string
	headline   polargate.Phrase
}

// denied are the looks of a license that doesn't count.
var denied = map[polargate.Reason]look{
	polargate.ErrExpired:       {"bad", "check", "page.expired"},
	polargate.ErrInactive:      {"bad", "check", "page.inactive"},
	polargate.ErrSeatReleased:  {"bad", "enter", "page.seat_released"},
	polargate.ErrUnknownKey:    {"bad", "enter", "page.unknown_key"},
	polargate.ErrWrongBenefit:  {"bad", "enter", "page.wrong_benefit"},
	polargate.ErrGraceEnded:    {"bad", "check", "page.grace_ended"},
	polargate.ErrUnreachable:   {"bad", "check", "page.unreachable"},
	polargate.ErrRateLimited:   {"bad", "check", "page.unreachable"},
	polargate.ErrMisconfigured: {"bad", "check", "page.unreachable"},
	polargate.ErrClockSetBack:  {"bad", "check", "page.clock_set_back"},
	polargate.ErrBadLease:      {"bad", "file", "page.bad_lease"},
	polargate.ErrNotCovered:    {"bad", "enter", "page.not_covered"},
	polargate.ErrOtherMachine:  {"bad", "move", "page.other_machine"},
}

// actions are what to offer first for an Action that the program does itself.
var actions = map[polargate.ActionKind]string{
	polargate.ActionEnterKey: "enter",
	polargate.ActionActivate: "again",
	polargate.ActionMove:     "move",
	polargate.ActionCheck:    "check",
	polargate.ActionLoadFile: "file",
}

// describe is how a state looks, and what to do in it: enter a key, activate again, check, move,
// or load a file.
func describe(s polargate.Status) look {
	l := lookOf(s)
	if next, ok := actions[s.Action.Kind]; ok {
		l.next = next
	}
	return l
}

func lookOf(s polargate.Status) look {
	switch s.State {
	case polargate.Active:
		return look{"good", "", "page.active"}
	case polargate.Grace:
		return look{"warn", "check", "page.grace"}
	case polargate.Perpetual:
		return look{"good", "", "page.perpetual"}
	case polargate.InTrial:
		return look{"plain", "enter", "page.trial"}
	case polargate.Unlicensed:
		switch s.Reason {
		case polargate.ErrTrialEnded:
			return look{"bad", "enter", "page.trial_ended"}
		case polargate.ErrInDoubt:
			return look{"warn", "enter", "page.in_doubt"}
		case polargate.ErrNoPermission:
			return look{"bad", "check", "page.no_permission"}
		}
		return look{"plain", "enter", "page.no_license"}
	}
	if l, ok := denied[s.Reason]; ok {
		return l
	}
	return look{"bad", "enter", "page.locked"}
}

// Headline is a license in a few words, as the page has them, for example for a status bar.
// nil means English.
func Headline(s polargate.Status, l *polargate.Language) string {
	return (&Page{options: Options{Language: l}}).text(describe(s).headline)
}

func (p *Page) view(now time.Time) view {
	status := p.license.Status()
	look := describe(status)
	if look.next == "file" && !p.options.Offline {
		look.next = "check"
	}
	v := view{
		page: p, Status: status, Tone: look.tone, Next: look.next, Headline: p.text(look.headline), Words: status.Message,
		Offline: p.options.Offline,
	}
	p.mu.Lock()
	if p.notice.seen == sight(status) {
		v.Notice = p.notice
	}
	j, q := p.job, p.asked
	p.mu.Unlock()

	switch {
	case status.State == polargate.Active && !status.Unsaved && !status.InDoubt && !status.ReleasePending:
		v.Words = p.text("page.active.about")
	case status.State == polargate.Grace && p.options.Offline && status.Key.IsZero():
		v.Headline, v.Next = p.text("page.grace.file"), "file"
	case status.State == polargate.Grace && status.Reason == polargate.ErrUnreachable && !status.GraceUntil.IsZero():
		v.Words = p.text("page.grace.about", "{until}", p.moment(status.GraceUntil))
	}
	p.addFacts(&v, now)
	switch {
	case j != nil && j.wait:
		v.Tone, v.Next, v.Headline, v.Words = "busy", "wait", p.text("page.waiting"), p.text("page.waiting.about")
		v.Left = max(0, int(math.Ceil(j.until.Sub(now).Seconds())))
	case j != nil:
		v.Tone, v.Next, v.Headline, v.Words = "busy", "busy", p.text("page.activating"), p.text("page.activating.about")
	case q.id != "":
		key, _ := polargate.ParseKey(q.key)
		v.Tone, v.Next, v.Headline, v.Question = "plain", "answer", p.text("page.asking"), q.id
		v.Words = p.text("page.asking.about", "{key}", fmt.Sprint(key))
		if !status.Key.IsZero() && status.Key != key {
			v.Words += " " + p.text("page.asking.replaces")
		}
	}
	return v
}

func (p *Page) addFacts(v *view, now time.Time) {
	status := v.Status
	add := func(name polargate.Phrase, value string) {
		v.Facts = append(v.Facts, fact{Name: p.text(name), Value: value})
	}
	v.FromFile = v.Offline && status.Key.IsZero() && !status.CheckedAt.IsZero()
	switch {
	case !status.Key.IsZero():
		add("page.fact.key", fmt.Sprint(status.Key))
		add("page.fact.computer", p.computer)
	case v.FromFile:
		add("page.fact.license", p.text("page.fact.file"))
		add("page.fact.computer", p.computer)
	}
	if v.Offline && status.State == polargate.Unlicensed && !status.ReleasePending {
		_, err := p.license.OfflineReceipt()
		v.Receipt = err == nil
	}
	if len(status.Features) > 0 {
		names := make([]string, 0, len(status.Features))
		for _, feature := range status.Features {
			if name := p.options.FeatureNames[feature]; name != "" {
				feature = name
			}
			names = append(names, feature)
		}
		add("page.fact.features", strings.Join(names, ", "))
	}
	if !status.TrialUntil.IsZero() {
		add("page.fact.trial", p.day(status.TrialUntil, now))
	}
	if status.OK() && status.Seats.Limit > 0 {
		add("page.fact.seats", p.text("page.seats", "{n}", strconv.FormatInt(status.Seats.Limit, 10)))
	}
	if status.OK() && !status.ExpiresAt.IsZero() {
		add("page.fact.expires", p.day(status.ExpiresAt, now))
	}
	if status.OK() && status.LimitUsage > 0 && status.LimitUsage != polargate.Unlimited {
		used, limit := strconv.FormatInt(status.Usage, 10), strconv.FormatInt(status.LimitUsage, 10)
		v.Facts = append(v.Facts, fact{p.text("page.fact.uses"), p.text("page.uses", "{used}", used, "{limit}", limit), status.Usage, status.LimitUsage})
	}
	if !status.CheckedAt.IsZero() {
		add("page.fact.verified", p.moment(status.CheckedAt))
	}
	if status.Reason == polargate.ErrClockSetBack {
		add("page.fact.clock", p.moment(now))
	}
}

func (p *Page) moment(t time.Time) string { return p.options.Language.FormatTime(t) }

// day is a moment, and how many midnights away it is if it lies ahead.
func (p *Page) day(t, now time.Time) string {
	midnight := func(t time.Time) time.Time {
		year, month, day := t.Local().Date()
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC) // where all days are 24 hours
	}
	name := polargate.Phrase("page.in")
	away := midnight(t).Sub(midnight(now))
	switch {
	case t.Before(now):
		return p.moment(t)
	case away == 0:
		name = "page.today"
	case away == 24*time.Hour:
		name = "page.tomorrow"
	}
	return p.text(name, "{time}", p.moment(t), "{wait}", p.options.Language.FormatDuration(away))
}

// T is a phrase, for the template.
func (v view) T(name polargate.Phrase, fill ...string) string { return v.page.text(name, fill...) }

// Around is a phrase with a link in it, for the template.
func (v view) Around(name polargate.Phrase, link string, fill ...string) around {
	return v.page.around(name, link, fill...)
}

// Options and Computer are for the template.
func (v view) Options() Options { return v.page.options }

// Computer is what this computer is called.
func (v view) Computer() string { return v.page.computer }

// Label is the name of this computer that is sent when a key is activated.
func (v view) Label() string { return v.page.license.Label() }

// Tag names the language.
func (v view) Tag() string {
	if l := v.page.options.Language; l != nil && l.Tag != "" {
		return l.Tag
	}
	return "en"
}

// Title is that of the window.
func (v view) Title() string {
	if v.page.options.Product == "" {
		return v.Headline
	}
	return v.Headline + " – " + v.page.options.Product
}

// Outside reports whether links open outside the page.
func (v view) Outside() bool { return v.page.options.OpenURL != nil }

// Busy reports whether the page changes by itself soon.
func (v view) Busy() bool { return v.Next == "busy" || v.Next == "wait" }

// Held reports whether there is a license to manage.
func (v view) Held() bool { return !v.Status.Key.IsZero() || v.FromFile }

// Clock is what is left of a wait, as on a clock.
func (v view) Clock() string { return fmt.Sprintf("%d:%02d", v.Left/60, v.Left%60) }

// link is one that a template shows.
type link struct {
	v        view
	Name, At string
	Text     string
}

// Outside reports whether it opens outside the page.
func (l link) Outside() bool { return l.v.Outside() }

// Linked is a link of the Options, for the template: its text, and the address, if there is one.
func (v view) Linked(name, text string) link { return link{v, name, v.page.links()[name], text} }

// Buttons are the links to offer below the license: the one of its Action, and support.
func (v view) Buttons() []link {
	if v.Status.OK() && v.Status.Action.URL == "" || v.Busy() || v.Next == "answer" {
		return nil
	}
	var links []link
	all := v.page.links()
	for _, name := range []string{"buy", "renew", "portal", "support"} {
		if at := all[name]; at != "" && (at == v.Status.Action.URL || name == "support") {
			links = append(links, v.Linked(name, v.T(polargate.Phrase("page.do."+name))))
		}
	}
	return links
}

// render writes a page.
func (v view) render(w io.Writer) error { return pages.ExecuteTemplate(w, "page.html", v) }

// version is one that other contents don't have.
func (v view) version() string {
	v.Left, v.Version = 0, ""
	sum := sha256.New()
	if err := v.render(sum); err != nil {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

func (p *Page) show(w http.ResponseWriter, _ *http.Request) { p.send(w, p.view(time.Now())) }

func (p *Page) send(w http.ResponseWriter, v view) {
	v.Version = v.version()
	var page bytes.Buffer
	if err := v.render(&page); err != nil {
		p.options.Logger.Warn("the license page wasn't sent", "error", err)
		http.Error(w, p.text("page.refused.unavailable"), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = page.WriteTo(w)
}

// state tells the page's script whether there is something new to show.
func (p *Page) state(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, p.view(time.Now()).version())
}

// style is the style sheet, with the program's own colors behind it.
func (p *Page) style(w http.ResponseWriter, _ *http.Request) {
	sheet, err := files.ReadFile("page.css")
	if err != nil {
		panic(err) // it is part of the program
	}
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = w.Write(sheet)
	if c := p.options.Colors; c.Accent != "" {
		fmt.Fprintf(w, ":root { --accent: %s; --on-accent: %s; }\n", c.Accent, onColor(c.Accent))
	}
	if c := p.options.Colors; c.AccentDark != "" {
		fmt.Fprintf(w, "@media (prefers-color-scheme: dark) { :root { --accent: %s; --on-accent: %s; } }\n", c.AccentDark, onColor(c.AccentDark))
	}
}

// onColor is what is easier to read on a color: black or white. One of them always has the
// contrast that WCAG 2 asks of text.
func onColor(hex string) string {
	rgb, err := strconv.ParseUint(hex[1:], 16, 32)
	if err != nil {
		return "#fff"
	}
	light := func(shift int) float64 {
		c := float64(rgb>>shift&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	if l := 0.2126*light(16) + 0.7152*light(8) + 0.0722*light(0); (l+0.05)/0.05 > 1.05/(l+0.05) {
		return "#000"
	}
	return "#fff"
}

func (p *Page) logo(w http.ResponseWriter, r *http.Request) {
	if len(p.options.Logo) == 0 {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", logoType(p.options.Logo))
	_, _ = w.Write(p.options.Logo)
}

// logoType is what kind of picture a logo is; "" if it is none.
func logoType(logo []byte) string {
	if kind := http.DetectContentType(logo); strings.HasPrefix(kind, "image/") {
		return kind
	}
	if text := bytes.TrimSpace(logo); bytes.HasPrefix(text, []byte("<svg")) || bytes.HasPrefix(text, []byte("<?xml")) && bytes.Contains(text, []byte("<svg")) {
		return "image/svg+xml"
	}
	return ""
}
