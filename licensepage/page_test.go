package licensepage

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/chromium"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pretended is a license that stands as a test says.
type pretended struct {
	mu      sync.Mutex
	status  polargate.Status
	err     error
	waiting chan struct{} // an activation goes on until it is closed; nil: it does not

	language *polargate.Language
	links    polargate.Links
}

func (p *pretended) set(s polargate.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = s
}

func (p *pretended) Status() polargate.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *pretended) Refresh(context.Context) (polargate.Status, error) { return p.Status(), p.err }

func (p *pretended) Activate(ctx context.Context, _ string) (polargate.Status, error) {
	if p.waiting != nil {
		select {
		case <-p.waiting:
		case <-ctx.Done():
			return p.Status(), ctx.Err()
		}
	}
	return p.Status(), p.err
}

func (p *pretended) ActivateWait(ctx context.Context, key string) (polargate.Status, error) {
	return p.Activate(ctx, key)
}

func (p *pretended) Move(context.Context) (polargate.Status, error) { return p.Status(), p.err }
func (p *pretended) Deactivate(context.Context) error               { return p.err }
func (p *pretended) Language() *polargate.Language                  { return p.language }
func (p *pretended) Links() polargate.Links                         { return p.links }
func (p *pretended) Label() string                                  { return "studio-laptop" }
func (p *pretended) OfflineRequest() (string, error)                { return "v1.request", p.err }
func (p *pretended) OfflineReceipt() (string, error)                { return "", polargate.ErrNoLicense }
func (p *pretended) ActivateFile([]byte) (polargate.Status, error)  { return p.Status(), p.err }

// shown is a page as the tests have it.
func shown(l License, change ...func(*Options)) *Page {
	options := Options{Product: "Inkwell", Computer: "studio-laptop"}
	for _, c := range change {
		c(&options)
	}
	return Handler(l, options)
}

// open shows a page to a browser, without its door.
func open(t *testing.T, p *Page) *chromium.Browser {
	t.Helper()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	t.Cleanup(func() { _ = p.Close() })
	return chromium.Open(t, server.URL)
}

func reload(b *chromium.Browser) {
	b.Value("document.documentElement.dataset.version = 'old'")
	b.Do("Page.reload", nil)
	b.Sees(true, "document.readyState === 'complete' && document.documentElement.dataset.version !== 'old'")
}

// fits holds a page to what every state needs: it fits, whoever presses keys or
// listens can use it, and nothing went wrong on it.
func fits(t *testing.T, b *chromium.Browser) {
	t.Helper()
	b.Sees(true, "document.documentElement.scrollWidth <= innerWidth")
	b.Sees(float64(1), "document.querySelectorAll('h1').length")
	b.Sees(true, "document.title === document.querySelector('h1').innerText + ' – Inkwell'")
	nodes, _ := b.Do("Accessibility.getFullAXTree", nil)["nodes"].([]any)
	said := func(node map[string]any, what string) string {
		value, _ := node[what].(map[string]any)
		text, _ := value["value"].(string)
		return text
	}
	controls := 0
	for _, n := range nodes {
		node, _ := n.(map[string]any)
		switch role := said(node, "role"); role {
		case "button", "textbox", "link", "meter", "DisclosureTriangle":
			controls++
			assert.NotEmpty(t, said(node, "name"), "a %s without a name", role)
		}
	}
	assert.Positive(t, controls)
	assert.Empty(t, b.Errors)
}

func dark(b *chromium.Browser, yes bool) {
	scheme := "light"
	if yes {
		scheme = "dark"
	}
	b.Do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]any{{"name": "prefers-color-scheme", "value": scheme}}})
}

func width(b *chromium.Browser, pixels int) {
	b.Do("Emulation.setDeviceMetricsOverride", map[string]any{"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": false})
}

func TestACheckOfTheLockedLicenseSaysThatItCouldNotBeMade(t *testing.T) {
	t.Parallel()
	away := &polargate.Error{Op: "refresh", Reason: polargate.ErrUnreachable}
	l := &pretended{
		status: polargate.Status{State: polargate.Locked, Reason: polargate.ErrInactive, Message: "locked"},
		err:    &polargate.Error{Op: "check", Reason: polargate.ErrInactive, Err: away},
	}
	p := shown(l)
	n := p.check(httptest.NewRequest(http.MethodPost, "/check", nil))
	assert.Equal(t, polargate.Message(away), n.Text)
	assert.Equal(t, "bad", n.Tone)
	l.err = &polargate.Error{Op: "check", Reason: polargate.ErrInactive}
	assert.Equal(t, notice{}, p.check(httptest.NewRequest(http.MethodPost, "/check", nil)), "the status says it")
}

// stands is a license in a state that a person meets.
type stands struct {
	name     string
	status   polargate.Status
	headline string
	says     []string
	next     string // the one thing to do first; "" for nothing
}

var vendorLinks = polargate.Links{Buy: "https://example.com/buy", Renew: "https://example.com/renew", Portal: "https://example.com/portal", Support: "mailto:support@example.com"}

// situations are all that a person meets.
func situations(t testing.TB) []stands {
	key, err := polargate.ParseKey("INKWELL-0000-1111-0A1B2C")
	require.NoError(t, err)
	now := time.Now()
	links := vendorLinks
	licensed := polargate.Status{
		State: polargate.Active, Key: key, Features: []string{"export", "sync"}, CheckedAt: now.Add(-time.Hour),
		ExpiresAt: now.AddDate(0, 0, 21), Usage: 3, LimitUsage: 10, Seats: polargate.StatusSeats{Limit: 3}, Message: "Licensed.",
	}
	locked := func(reason polargate.Reason) polargate.Status {
		err := &polargate.Error{Op: "check", Reason: reason}
		return polargate.Status{
			State: polargate.Locked, Reason: reason, Key: key, CheckedAt: now.Add(-72 * time.Hour),
			Message: polargate.Message(err), Action: links.ActionFor(err),
		}
	}
	unlicensed := func(reason polargate.Reason) polargate.Status {
		err := &polargate.Error{Op: "check", Reason: reason}
		return polargate.Status{State: polargate.Unlicensed, Reason: reason, Message: polargate.Message(err), Action: links.ActionFor(err)}
	}
	grace := licensed
	grace.State, grace.Reason, grace.GraceUntil = polargate.Grace, polargate.ErrUnreachable, now.AddDate(0, 0, 12)
	pending := unlicensed(polargate.ErrNoLicense)
	pending.ReleasePending, pending.Message = true, pending.Message+" "+polargate.Phrases()["note_release_pending"]
	unlimited := licensed
	unlimited.ExpiresAt, unlimited.LimitUsage = time.Time{}, polargate.Unlimited
	inDoubt := unlicensed(polargate.ErrInDoubt)
	inDoubt.Action = polargate.Action{Kind: polargate.ActionEnterKey}
	trial := polargate.Status{
		State: polargate.InTrial, Features: []string{"export"}, TrialUntil: now.AddDate(0, 0, 9),
		Message: "Trial until then.", Action: polargate.Action{Kind: polargate.ActionEnterKey, URL: links.Buy},
	}
	ended := unlicensed(polargate.ErrTrialEnded)
	ended.TrialUntil = now.AddDate(0, 0, -2)
	perpetual := licensed
	perpetual.State, perpetual.Reason, perpetual.Message = polargate.Perpetual, polargate.ErrExpired, "Your license has ended."
	perpetual.ExpiresAt, perpetual.Action = now.AddDate(0, 0, -3), polargate.Action{Kind: polargate.ActionRenew, URL: links.Renew}
	do := func(phrase polargate.Phrase) []string { return []string{polargate.Phrases()[phrase+".do"]} }
	return []stands{
		{"no-license", unlicensed(polargate.ErrNoLicense), "No license yet", []string{"Enter your license key", "sends this computer's name, “studio-laptop”"}, "activate"},
		{"active", licensed, "Licensed", []string{"****-0A1B2C", "studio-laptop", "export, sync", "in 21 days", "3 of 10", "up to 3"}, ""},
		{"active-without-end", unlimited, "Licensed", []string{"****-0A1B2C"}, ""},
		{"grace", grace, "Working offline", []string{"Everything works until", "Last verified"}, "check"},
		{"trial", trial, "Trial", []string{"Trial until then.", "in 9 days", "export", "Buy a license"}, "activate"},
		{"trial-ended", ended, "Your trial has ended", do("trial_ended"), "activate"},
		{"perpetual", perpetual, "Licensed for this version", []string{"Your license has ended.", "Renew your license"}, ""},
		{"in-doubt", inDoubt, "Activation not confirmed", do("in_doubt"), "activate"},
		{"unreadable", unlicensed(polargate.ErrUnreadableState), "No license yet", do("unreadable_state"), "activate"},
		{"no-permission", unlicensed(polargate.ErrNoPermission), "Your license can't be opened", append(do("no_permission"), polargate.Phrases()["no_permission"][1:]), "check"},
		{"release-pending", pending, "No license yet", []string{polargate.Phrases()["note_release_pending"]}, "release"},
		{"clock-wrong", locked(polargate.ErrClockSetBack), "This computer's clock has been set back", append(do("clock_set_back"), "This computer's clock"), "check"},
		{"expired", locked(polargate.ErrExpired), "Your license has expired", do("expired"), "check"},
		{"inactive", locked(polargate.ErrInactive), "Your license is inactive", do("inactive"), "activate"},
		{"released", locked(polargate.ErrSeatReleased), "This computer was deactivated", do("seat_released"), "again"},
		{"unknown-key", locked(polargate.ErrUnknownKey), "License key no longer recognized", nil, "activate"},
		{"other-product", locked(polargate.ErrWrongBenefit), "This key is for another product", do("wrong_benefit"), "activate"},
		{"other-machine", locked(polargate.ErrOtherMachine), "This license belongs to another computer", do("other_machine"), "move"},
		{"grace-ended", locked(polargate.ErrGraceEnded), "Not verified for too long", do("grace_ended"), "check"},
		{"never-checked", locked(polargate.ErrUnreachable), "Your license couldn't be verified", do("unreachable"), "check"},
		{"denied", locked(polargate.ErrDenied), "Your license is locked", do("denied"), "activate"},
		{"without-seats", locked(polargate.ErrActivationsUnsupported), "Your license is locked", do("activations_unsupported"), "activate"},
		{"other-conditions", locked(polargate.ErrConditionsMismatch), "Your license is locked", do("conditions_mismatch"), "again"},
		{"misconfigured", locked(polargate.ErrMisconfigured), "Your license couldn't be verified", do("misconfigured"), "check"},
		{"not-covered", locked(polargate.ErrNotCovered), "Your license doesn't include this version", do("not_covered"), "activate"},
		{"bad-lease", locked(polargate.ErrBadLease), "Your license file can't be used any more", do("bad_lease"), "check"},
	}
}

func TestEveryStateThatAPersonMeetsHasAPageOfItsOwn(t *testing.T) {
	t.Parallel()
	all := situations(t)
	l := &pretended{status: all[0].status, links: vendorLinks}
	b := open(t, shown(l))
	for _, s := range all {
		l.set(s.status)
		reload(b)
		b.Text("headline", s.headline)
		text, _ := b.Value("document.body.innerText").(string)
		for _, want := range s.says {
			assert.Contains(t, text, want, s.name)
		}
		assert.NotContains(t, b.Value("document.documentElement.outerHTML"), "0000-1111", "the key is masked")
		first := b.Value("document.querySelector('.card button')?.id")
		if s.next == "" {
			assert.Nil(t, first, s.name)
		} else {
			ids := b.Value("[...document.querySelectorAll('.card button')].map(e => e.id).join()")
			assert.Contains(t, ids, s.next, s.name)
		}
		b.Sees(!s.status.Key.IsZero(), "document.getElementById('deactivate') !== null")
		for _, look := range []struct {
			name  string
			wide  int
			night bool
		}{{"", 1280, false}, {"-narrow-dark", 320, true}} {
			width(b, look.wide)
			dark(b, look.night)
			fits(t, b)
			b.Picture(s.name + look.name)
		}
		width(b, 900)
		dark(b, false)
	}
}

func TestThePageHasEnoughContrastInLightAndDark(t *testing.T) {
	t.Parallel()
	p := &pretended{status: polargate.Status{State: polargate.Unlicensed, Reason: polargate.ErrNoLicense, Message: "No license."}}
	b := open(t, shown(p))
	b.Text("headline", "No license yet")
	const contrast = `(() => {
		const style = getComputedStyle(document.documentElement);
		const light = name => {
			const hex = style.getPropertyValue(name).trim().replace(/^#(.)(.)(.)$/, "#$1$1$2$2$3$3");
			const [r, g, b] = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16) / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
			return .2126 * r + .7152 * g + .0722 * b;
		};
		let least = 99;
		const hold = (a, b) => { const [x, y] = [light(a), light(b)].sort(); least = Math.min(least, (y + .05) / (x + .05)); };
		for (const ink of ["--ink", "--dim", "--good", "--warn", "--bad", "--busy"]) { hold(ink, "--card"); hold(ink, "--paper"); }
		hold("--on-accent", "--accent");
		return least;
	})()`
	for _, night := range []bool{false, true} {
		dark(b, night)
		b.Sees(true, contrast+" >= 4.5") // as WCAG 2 asks of text
	}
}

// demo is the page of a Gate on a Polar.
type demo struct {
	page  *Page
	gate  *polargate.Gate
	polar *polartest.Polar
	keys  []polartest.LicenseKey
	ahead atomic.Int64
}

func demoPage(t *testing.T, keys ...polartest.LicenseKey) *demo {
	t.Helper()
	d := &demo{polar: polartest.New(polartest.Config{Unlimited: true}), keys: keys}
	features := map[string][]string{}
	for i, k := range keys {
		keys[i] = d.polar.AddKey(k)
		features[keys[i].BenefitID] = []string{"export", "sync"}
	}
	var err error
	d.gate, err = polargate.Open(polargate.Config{
		OrganizationID: d.polar.OrganizationID(), BaseURL: d.polar.URL(), HTTPClient: d.polar.Client(),
		Store: &polargate.MemoryStore{}, Features: features, FreshFor: time.Hour,
		Links: polargate.Links{Portal: "https://example.com/portal"},
		Clock: func() time.Time { return time.Now().Add(time.Duration(d.ahead.Load())) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.gate.Close() })
	d.page = shown(d.gate)
	return d
}

// later lets time pass.
func (d *demo) later(by time.Duration) {
	d.ahead.Add(int64(by))
	d.polar.Advance(by)
}

// quoted is a phrase for a script.
func quoted(name polargate.Phrase) string { return strconv.Quote(polargate.Phrases()[name]) }

// enter types a license key, as a person does.
func enter(b *chromium.Browser, text string) {
	b.Sees(true, "(e => { e?.focus(); return document.activeElement === e && e !== null })(document.getElementById('key'))")
	b.Do("Input.insertText", map[string]any{"text": text})
}

func TestAPersonActivatesAndDeactivatesALicenseInTheBrowser(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]bool{"with script": true, "without script": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := demoPage(t,
				polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(3), ExpiresAt: time.Now().AddDate(0, 0, 30).Add(time.Hour)},
				polartest.LicenseKey{LimitActivations: polartest.Limit(1), Activations: []polartest.Activation{{}}})
			polar, keys := d.polar, d.keys
			b := open(t, d.page)
			b.Do("Emulation.setScriptExecutionDisabled", map[string]any{"value": !script})
			reload(b)

			b.Text("headline", "No license yet")
			enter(b, "INKWELL-TYPO")
			b.Click("#activate")
			b.Sees(true, "document.getElementById('notice')?.innerText.includes("+quoted("unknown_key.do")+")")
			b.Sees("", "document.getElementById('key').value")
			b.Sees("notice key-hint", "document.getElementById('key').getAttribute('aria-describedby')")
			b.Sees("I just bought this key: keep trying", "document.getElementById('wait').innerText")
			b.Picture("typing-error")

			enter(b, keys[1].Key)
			b.Click("#activate")
			b.Sees(true, "document.getElementById('free')?.innerText.startsWith('To deactivate one,')")
			b.Sees("https://example.com/portal", "document.querySelector('#free a').href")
			b.Picture("limit-reached")

			enter(b, "  "+keys[0].Key+" ")
			b.Click("#activate")
			b.Text("headline", "Licensed")
			b.Text("notice", "This computer is activated.")
			for range 3 {
				_, err := d.gate.Consume(t.Context(), 1)
				require.NoError(t, err)
			}
			b.Click("#check")
			b.Text("notice", "Verified just now.")
			b.Sees(float64(3), "document.getElementById('uses').value")

			// Neither the color nor the words contradict the headline.
			polar.SetOffline(true)
			b.Click("#check")
			b.Sees(true, "document.getElementById('notice')?.innerText.includes("+quoted("unreachable.do")+")")
			b.Sees(true, "document.getElementById('notice').innerText.startsWith('Your license still works.')")
			b.Sees("notice warn", "document.getElementById('notice').className")
			b.Text("headline", "Licensed")
			d.later(2 * time.Hour) // FreshFor
			b.Click("#check")
			b.Text("headline", "Working offline")
			b.Sees(nil, "document.getElementById('notice')?.innerText")
			b.Picture("offline")
			polar.SetOffline(false)
			b.Click("#check")
			b.Text("headline", "Licensed")

			polar.Revoke(keys[0].ID)
			b.Click("#check")
			b.Text("headline", "Your license is inactive")
			b.Sees(nil, "document.getElementById('notice')?.innerText")
			polar.Grant(keys[0].ID)
			d.later(2 * time.Hour) // a refusal is believed for a while
			b.Click("#check")
			b.Text("headline", "Licensed")

			polar.SetOffline(true)
			b.Click("#deactivate")
			b.Text("headline", "No license yet")
			b.Sees(true, "document.getElementById('words').innerText.includes("+quoted("note_release_pending")+")")
			assert.Equal(t, 1, polar.Seats(keys[0].ID))
			b.Picture("deactivated-offline")
			polar.SetOffline(false)
			b.Click("#release")
			b.Sees(nil, "document.getElementById('release')?.id")
			assert.Zero(t, polar.Seats(keys[0].ID))
			assert.Equal(t, "/", b.Value("location.pathname + location.search"))
			assert.Empty(t, b.Errors)
		})
	}
}

func TestAPersonWhoJustBoughtAKeySeesTheWaitAndItsEnd(t *testing.T) {
	t.Parallel()
	d := demoPage(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), VisibleFrom: time.Now().Add(time.Hour)})
	polar, keys := d.polar, d.keys
	b := open(t, d.page)
	enter(b, keys[0].Key)
	b.Click("#activate")
	b.Click("#wait")
	b.Text("headline", "Waiting for your purchase…")
	b.Sees(true, "document.getElementById('left').innerText.startsWith('2:')")
	b.Sees(true, "document.getElementById('left').innerText < '2:29'") // it counts down by itself
	fits(t, b)
	b.Picture("fresh-purchase")
	b.Click("#cancel")
	b.Text("notice", "Stopped waiting.")

	enter(b, keys[0].Key)
	b.Click("#activate")
	b.Sees("wait", "document.getElementById('wait')?.id")
	polar.Update(keys[0].ID, func(k *polartest.LicenseKey) { k.VisibleFrom = time.Time{} })
	b.Click("#wait")
	b.Text("headline", "Licensed")
	b.Text("notice", "This computer is activated.")
}

func TestAnActivationThatTakesLongIsShownAndFound(t *testing.T) {
	t.Parallel()
	p := &pretended{status: polargate.Status{State: polargate.Unlicensed, Reason: polargate.ErrNoLicense}, waiting: make(chan struct{})}
	b := open(t, shown(p))
	enter(b, "INKWELL-0000-1111-0A1B2C")
	b.Click("#activate")
	b.Text("headline", "Activating…")
	fitsBusy := b.Value("document.querySelectorAll('.card button').length")
	assert.InDelta(t, 0, fitsBusy, 0, "there is nothing to press")
	b.Picture("activating")
	p.set(polargate.Status{State: polargate.Active, Message: "Licensed."})
	close(p.waiting)
	b.Text("headline", "Licensed") // without a key being pressed
	assert.Empty(t, b.Errors)
}
