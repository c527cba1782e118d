package polargate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/redact"
	"github.com/polargate/polargate/internal/transport"
)

// Diagnosis is a report that a user can paste into an email to support. It contains no
// e-mail address, no user name, and of the license key only what a Key prints.
type Diagnosis struct {
	At time.Time `json:"at"` // by this computer's clock
	// Program is App and Version, Library this package's version, and Platform the
	// system.
	Program  string `json:"program"`
	Library  string `json:"library"`
	Platform string `json:"platform"`

	// Server is the base URL that is asked, and Proxy what is in between: a host and
	// port, "none", or "unknown" if the program's transport doesn't say.
	Server string `json:"server"`
	Proxy  string `json:"proxy"`
	// Reached: Server answered as Polar does. Answer says in words what happened.
	Reached bool   `json:"reached"`
	Answer  string `json:"answer"`
	// ClockAhead is how far this computer's clock is ahead of Polar's, to the second;
	// negative if behind, and 0 if not Reached.
	ClockAhead time.Duration `json:"clock_ahead_ns"`
	// Pause is how much longer Polar asked for no requests; 0 if it didn't.
	Pause time.Duration `json:"pause_ns"`
	// PaceShared: this program and the other programs of this user keep within Polar's
	// limit together.
	PaceShared bool `json:"pace_shared"`

	// Store is where the license is kept, and StoreProblem why it can't be written there;
	// empty if it can, or if only the program's own Store knows.
	Store        string `json:"store"`
	StoreProblem string `json:"store_problem"`
	// StoreOwner is who owns the license file, or else its folder: "this user", "root" or
	// "another user"; empty if not known. No user is named.
	StoreOwner string `json:"store_owner"`
	// StoreLock is the outcome of trying the lock by which copies of the program exclude
	// each other: "free", "busy" if it is held elsewhere, "not permitted", or "not
	// supported" by the file system, in which case only calls in the same process exclude
	// each other. Empty if it wasn't tried.
	StoreLock string `json:"store_lock"`
	// Fingerprint is how this computer is identified: "machine id", "random", or "set by
	// the program".
	Fingerprint string `json:"fingerprint"`

	// The license, as in Status. SinceChecked is the age of Polar's last answer, 0 if
	// there was none, and SeatsToRelease how many deactivations are pending.
	State          State         `json:"state"`
	Reason         Reason        `json:"reason"`
	SinceChecked   time.Duration `json:"since_checked_ns"`
	GraceUntil     time.Time     `json:"grace_until,omitzero"`
	ExpiresAt      time.Time     `json:"expires_at,omitzero"`
	TrialUntil     time.Time     `json:"trial_until,omitzero"`   // when the trial ends, or ended
	CoveredUntil   time.Time     `json:"covered_until,omitzero"` // which releases a license covers that has ended
	Unsaved        bool          `json:"unsaved"`
	InDoubt        bool          `json:"in_doubt"`
	SeatsToRelease int           `json:"seats_to_release"`

	// Key is the license key, masked, ActivationID Polar's id of this computer's activation,
	// and InstallationID what the activation's meta calls this installation. With any of
	// them, support finds the customer. Each is empty if it isn't known.
	Key            string `json:"key"`
	ActivationID   string `json:"activation_id"`
	InstallationID string `json:"installation_id"`

	// Problems say in whole sentences what is wrong and what to do; empty if nothing is.
	Problems []string `json:"problems"`

	language *Language
}

// Diagnose finds out what support would ask for: whether Polar can be reached from here
// and through what, whether the clock and the disk are in order, and the Status of the
// license. It sends Polar one request, about a key that doesn't exist, within
// CheckTimeout and Polar's limit, and changes nothing.
func (g *Gate) Diagnose(ctx context.Context) Diagnosis {
	status := g.Status()
	now := g.now()
	d := Diagnosis{
		At:          now,
		Program:     strings.TrimSpace(g.config.App + " " + shorten(cleanText(g.config.Version), 100)),
		Library:     strings.TrimSpace("polargate " + libraryVersion()),
		Platform:    runtime.GOOS + "/" + runtime.GOARCH + ", " + runtime.Version(),
		Server:      g.client.base,
		Proxy:       g.client.proxy(),
		Fingerprint: "random",
		State:       status.State,
		Reason:      status.Reason,
		GraceUntil:  status.GraceUntil,
		ExpiresAt:   status.ExpiresAt,
		TrialUntil:  status.TrialUntil,

		CoveredUntil: status.CoveredUntil,

		Unsaved: status.Unsaved,
		InDoubt: status.InDoubt,

		ActivationID: status.ActivationID,
		language:     g.config.Language,
	}
	if !status.Key.IsZero() {
		d.Key = status.Key.String()
	}
	if !status.CheckedAt.IsZero() {
		d.SinceChecked = now.Sub(status.CheckedAt)
	}
	rec := g.holding()
	d.SeatsToRelease = len(rec.state.Outbox)
	if rec.worthKeeping() {
		d.InstallationID = rec.state.InstallationID
	}
	switch {
	case g.config.Fingerprint != "":
		d.Fingerprint = "set by the program"
	case g.config.machine().ID() != "":
		d.Fingerprint = "machine id"
	}
	if p, ok := g.client.pace.(*pace.Permits); ok {
		d.PaceShared = p.Shared()
	}
	d.lookAtStore(g.config.Store, g.name, g.own)
	d.lookAtPolar(ctx, g)
	d.Pause = g.client.pace.PauseLeft()
	if d.Problems == nil {
		d.Problems = []string{}
	}
	if message := anonymous(status.Message); !status.OK() && !slices.Contains(d.Problems, message) {
		d.Problems = append(d.Problems, message)
	}
	return d
}

// wrongClock is the difference to Polar's clock from which a report mentions it.
const wrongClock = 5 * time.Minute

func (d *Diagnosis) lookAtStore(store Store, name string, own []string) {
	var problem error
	switch s := store.(type) {
	case interface{ folder() folder }:
		path, err := filepath.Abs(s.folder().at)
		if err != nil {
			path = s.folder().at
		}
		d.Store = d.language.text("report.folder", "{file}", anonymous(path))
		found := s.folder().look(name, own...)
		problem = found.problem
		d.StoreOwner, d.StoreLock = string(found.whose), string(found.lock)
	case *MemoryStore:
		d.Store = d.language.text("report.memory")
	case noStore:
		d.Store = d.language.text("report.nowhere")
		problem = s.err
	default:
		d.Store = d.language.text("report.own_store")
	}
	if problem != nil {
		d.StoreProblem = anonymous(problem.Error())
		text := d.language.Message(&StoreError{"load", problem})
		if text == d.language.text(phraseStore) {
			end := "."
			if strings.HasSuffix(text, "。") {
				end = "。"
			}
			text = strings.TrimSuffix(text, end) + " (" + d.StoreProblem + ")" + end
		}
		d.Problems = append(d.Problems, anonymous(text))
	}
}

func (d *Diagnosis) lookAtPolar(ctx context.Context, g *Gate) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, g.budget.all)
	defer cancel()
	began := time.Now()
	_, err := g.client.validate(ctx, ValidateRequest{Key: newKey("polargate-diagnose-" + rand.Text())})
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Reason: ErrUnreachable, Err: errors.New("a key that does not exist was granted")}
	}
	switch {
	case e.Reason.Denial():
		d.Reached = true
		d.Answer = d.language.text("report.as_polar", "{time}", time.Since(began).Round(time.Millisecond).String())
		if !e.date.IsZero() {
			d.ClockAhead = g.now().Sub(e.date).Round(time.Second)
		}
		if d.ClockAhead.Abs() > wrongClock {
			d.Problems = append(d.Problems, d.language.text("report.wrong_clock", "{clock}", d.language.aheadOrBehind(d.ClockAhead)))
		}
		return
	case e.Reason == ErrRateLimited:
		d.Answer = d.language.text("report.not_asked")
	default:
		d.Answer, _ = e.words(d.language)
		if e.Err != nil {
			d.Answer += " (" + anonymous(cleanDetail(inSentence(e.Err))) + ")"
		}
	}
	d.Problems = append(d.Problems, d.language.Message(e))
}

func (l *Language) aheadOrBehind(d time.Duration) string {
	switch {
	case d.Abs() <= 2*time.Second: // a Date has whole seconds, and takes a moment to arrive
		return l.text("report.right")
	case d < 0:
		return l.text("report.behind", "{wait}", l.FormatDuration(-d))
	}
	return l.text("report.ahead", "{wait}", l.FormatDuration(d))
}

// codes are the phrases of what a Diagnosis says in a word, which programs may read.
var codes = map[string]Phrase{
	"none": "report.none", "unknown": "report.unknown", "an address that cannot be read": "report.unreadable",
	"this user": "report.this_user", "root": "report.root", "another user": "report.another_user",
	"free": "report.free", "busy": "report.busy", "not permitted": "report.not_permitted", "not supported": "report.not_supported",
	"machine id": "report.machine_id", "random": "report.random", "set by the program": "report.set_by_program",
}

// String is the report as lines of text, to be pasted into an email. It is in
// Config.Language, as Answer, Store and Problems are; the other fields are for programs.
func (d Diagnosis) String() string {
	l := d.language
	var names, values []string
	// line adds one; name is a phrase without its "report.".
	line := func(name Phrase, value string) {
		if phrase, ok := codes[value]; ok {
			value = l.text(phrase)
		}
		names, values = append(names, l.text("report."+name)), append(values, value)
	}
	optional := func(name Phrase, value string) {
		if value != "" {
			line(name, value)
		}
	}
	moment := func(name Phrase, t time.Time) {
		if !t.IsZero() {
			line(name, t.Format(time.RFC3339))
		}
	}
	line("program", fmt.Sprintf("%s (%s, %s)", d.Program, d.Library, d.Platform))
	line("time", d.At.Format(time.RFC3339))
	line("server", d.Server)
	line("answers", d.Answer)
	line("proxy", d.Proxy)
	if d.Reached {
		line("clock", l.aheadOrBehind(d.ClockAhead))
	}
	if d.Pause > 0 {
		line("pause", l.text("report.for_another", "{wait}", l.FormatDuration(d.Pause)))
	}
	if !d.PaceShared {
		line("pacing", l.text("report.own_pacing"))
	}
	line("store", d.Store)
	optional("owner", d.StoreOwner)
	optional("lock", d.StoreLock)
	line("fingerprint", d.Fingerprint)
	state := string(d.State)
	if d.Reason != "" {
		state += ", " + string(d.Reason)
	}
	if d.Unsaved {
		state += ", " + l.text("report.not_saved")
	}
	if d.InDoubt {
		state += ", " + l.text("report.in_doubt")
	}
	line("license", state)
	if d.SinceChecked != 0 {
		line("checked", l.text("report.ago", "{wait}", l.FormatDuration(d.SinceChecked)))
	}
	moment("grace_until", d.GraceUntil)
	moment("expires", d.ExpiresAt)
	moment("covers_until", d.CoveredUntil)
	moment("trial_until", d.TrialUntil)
	optional("key", d.Key)
	optional("activation", d.ActivationID)
	optional("installation", d.InstallationID)
	switch d.SeatsToRelease {
	case 0:
	case 1:
		line("to_release", l.text("report.one_activation"))
	default:
		line("to_release", l.text("report.activations", "{n}", strconv.Itoa(d.SeatsToRelease)))
	}
	for _, p := range d.Problems {
		line("problem", p)
	}
	if len(d.Problems) == 0 {
		line("problems", l.text("report.none_found"))
	}

	width := 12
	for _, name := range names {
		width = max(width, columns(name))
	}
	var b strings.Builder
	for i, name := range names {
		b.WriteString(name + strings.Repeat(" ", width-columns(name)+1) + values[i] + "\n")
	}
	return b.String()
}

// columns is how wide a text is where all letters are as wide as they are high or half of that.
func columns(text string) int {
	n := 0
	for _, r := range text {
		n++
		if r >= 0x1100 { // Chinese and Japanese, and nothing else that a translation has here
			n++
		}
	}
	return n
}

// anonymous removes from a text what identifies the user: the home folder, and the names of
// the user and the computer.
func anonymous(text string) string {
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 {
		text = strings.ReplaceAll(text, home, "~")
		text = redactName(text, filepath.Base(home))
	}
	for _, variable := range []string{"USER", "LOGNAME", "USERNAME", "SUDO_USER"} {
		text = redactName(text, os.Getenv(variable))
	}
	if host, err := os.Hostname(); err == nil {
		text = redactName(text, host)
	}
	return redact.Text(text)
}

func redactName(text, name string) string {
	if len(name) < 2 {
		return text
	}
	return redact.Text(text, name)
}

// proxy is the proxy on the way to the server, by host and port only: its address may have a
// password.
func (c *Client) proxy() string {
	u, ok := c.http.Transport.(unled)
	if !ok {
		return "unknown"
	}
	var t *http.Transport
	switch given := u.RoundTripper.(type) {
	case *transport.Transport:
		t = given.Template
	case *http.Transport:
		t = given
	default:
		return "unknown"
	}
	if t.Proxy == nil {
		return "none"
	}
	r, err := http.NewRequest(http.MethodPost, c.base, nil)
	if err != nil {
		return "unknown"
	}
	switch proxy, err := t.Proxy(r); {
	case err != nil:
		return "an address that cannot be read"
	case proxy == nil:
		return "none"
	default:
		return anonymous(proxy.Host)
	}
}
