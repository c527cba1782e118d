package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/examples/internal/chromium"
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

func (p *pretended) Has(feature string) bool { return p.Status().Has(feature) }

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
func (p *pretended) Consume(context.Context, int64) (int64, error)  { return 0, p.err }
func (p *pretended) Run(ctx context.Context) error                  { <-ctx.Done(); return nil }

// open shows a site to a browser, without its door.
func open(t *testing.T, s *site) *chromium.Browser {
	t.Helper()
	s.machine = "studio-laptop"
	server := httptest.NewServer(s.routes())
	t.Cleanup(server.Close)
	t.Cleanup(s.stop)
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
	p := &pretended{
		status: polargate.Status{State: polargate.Locked, Reason: polargate.ErrInactive, Message: "locked"},
		err:    &polargate.Error{Op: "check", Reason: polargate.ErrInactive, Err: away},
	}
	s := newSite(p)
	n := s.check(httptest.NewRequest(http.MethodPost, "/check", nil))
	assert.Equal(t, notice{Bad: true, Text: polargate.Message(away)}, n)
	p.err = &polargate.Error{Op: "check", Reason: polargate.ErrInactive}
	assert.Equal(t, notice{}, s.check(httptest.NewRequest(http.MethodPost, "/check", nil)), "the status says it")
}

func TestEveryStateThatAPersonMeetsHasAPageOfItsOwn(t *testing.T) {
	t.Parallel()
	key, err := polargate.ParseKey("INKWELL-0000-1111-0A1B2C")
	require.NoError(t, err)
	now := time.Now()
	licensed := polargate.Status{
		State: polargate.Active, Key: key, Features: []string{"export", "sync"}, CheckedAt: now.Add(-time.Hour),
		ExpiresAt: now.AddDate(0, 0, 21), Usage: 3, LimitUsage: 10, Message: "Licensed.",
	}
	locked := func(reason polargate.Reason) polargate.Status {
		return polargate.Status{
			State: polargate.Locked, Reason: reason, Key: key, CheckedAt: now.Add(-72 * time.Hour),
			Message: polargate.Message(&polargate.Error{Op: "check", Reason: reason}),
		}
	}
	unlicensed := func(reason polargate.Reason) polargate.Status {
		return polargate.Status{State: polargate.Unlicensed, Reason: reason, Message: polargate.Message(&polargate.Error{Op: "check", Reason: reason})}
	}
	grace := licensed
	grace.State, grace.Reason, grace.GraceUntil = polargate.Grace, polargate.ErrUnreachable, now.AddDate(0, 0, 12)
	pending := unlicensed(polargate.ErrNoLicense)
	pending.ReleasePending, pending.Message = true, pending.Message+" "+polargate.Phrases()["note_release_pending"]
	unlimited := licensed
	unlimited.ExpiresAt, unlimited.LimitUsage = time.Time{}, polargate.Unlimited

	p := &pretended{status: unlicensed(polargate.ErrNoLicense)}
	b := open(t, newSite(p))
	for _, s := range []struct {
		name     string
		status   polargate.Status
		headline string
		says     []string
		next     string // the one thing to do first; "" for nothing
	}{
		{"no-license", unlicensed(polargate.ErrNoLicense), "No license yet", []string{"Enter your license key", "To export, you need a license"}, "activate"},
		{"active", licensed, "Licensed", []string{"****-0A1B2C", "studio-laptop", "export, sync", "in 21 days", "3 of 10"}, ""},
		{"active-without-end", unlimited, "Licensed", []string{"****-0A1B2C"}, ""},
		{"grace", grace, "Working offline", []string{"Everything works until", "Last verified"}, "check"},
		{"in-doubt", unlicensed(polargate.ErrInDoubt), "Activation not confirmed", []string{polargate.Phrases()["in_doubt.do"]}, "activate"},
		{"unreadable", unlicensed(polargate.ErrUnreadableState), "No license yet", []string{polargate.Phrases()["unreadable_state.do"]}, "activate"},
		{"no-permission", unlicensed(polargate.ErrNoPermission), "Your license can't be opened", []string{polargate.Phrases()["no_permission"][1:], polargate.Phrases()["no_permission.do"]}, "check"},
		{"release-pending", pending, "No license yet", []string{polargate.Phrases()["note_release_pending"]}, "release"},
		{"clock-wrong", locked(polargate.ErrClockSetBack), "This computer's clock has been set back", []string{polargate.Phrases()["clock_set_back.do"], "This computer's clock"}, "check"},
		{"expired", locked(polargate.ErrExpired), "Your license has expired", []string{polargate.Phrases()["expired.do"]}, "check"},
		{"inactive", locked(polargate.ErrInactive), "Your license is inactive", []string{polargate.Phrases()["inactive.do"]}, "check"},
		{"released", locked(polargate.ErrSeatReleased), "This computer was deactivated", []string{polargate.Phrases()["seat_released.do"]}, "activate"},
		{"unknown-key", locked(polargate.ErrUnknownKey), "License key no longer recognized", nil, "activate"},
		{"other-product", locked(polargate.ErrWrongBenefit), "This key is for another product", []string{polargate.Phrases()["wrong_benefit.do"]}, "activate"},
		{"other-machine", locked(polargate.ErrOtherMachine), "This license belongs to another computer", []string{polargate.Phrases()["other_machine.do"]}, "move"},
		{"grace-ended", locked(polargate.ErrGraceEnded), "Not verified for too long", []string{polargate.Phrases()["grace_ended.do"]}, "check"},
		{"never-checked", locked(polargate.ErrUnreachable), "Your license couldn't be verified", []string{polargate.Phrases()["unreachable.do"]}, "check"},
		{"denied", locked(polargate.ErrDenied), "Your license is locked", []string{polargate.Phrases()["denied.do"]}, "activate"},
		{"without-seats", locked(polargate.ErrActivationsUnsupported), "Your license is locked", []string{polargate.Phrases()["activations_unsupported.do"]}, "activate"},
		{"other-conditions", locked(polargate.ErrConditionsMismatch), "Your license is locked", []string{polargate.Phrases()["conditions_mismatch.do"]}, "activate"},
		{"misconfigured", locked(polargate.ErrMisconfigured), "Your license couldn't be verified", []string{polargate.Phrases()["misconfigured.do"]}, "check"},
	} {
		p.set(s.status)
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
		b.Sees(s.status.OK(), "!document.getElementById('export').disabled")
		b.Sees(!s.status.Key.IsZero(), "document.getElementById('deactivate') !== null")
		for _, look := range []struct {
			name  string
			wide  int
			night bool
		}{{"", 900, false}, {"-narrow-dark", 320, true}} {
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
	b := open(t, newSite(p))
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

// demoSite is a site with a Gate on a Polar.
func demoSite(t *testing.T, keys ...polartest.LicenseKey) (*site, *polartest.Polar, []polartest.LicenseKey) {
	t.Helper()
	polar := polartest.New(polartest.Config{Unlimited: true})
	features := map[string][]string{}
	for i, k := range keys {
		keys[i] = polar.AddKey(k)
		features[keys[i].BenefitID] = []string{"export", "sync"}
	}
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Store: &polargate.MemoryStore{}, Features: features, FreshFor: time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	return newSite(gate), polar, keys
}

// quoted is a phrase for a script.
func quoted(name polargate.Phrase) string { return strconv.Quote(polargate.Phrases()[name]) }

// enter types a license key, as a person does.
func enter(b *chromium.Browser, text string) {
	b.Sees(true, "(e => { e?.focus(); return document.activeElement === e && e !== null })(document.getElementById('key'))")
	b.Do("Input.insertText", map[string]any{"text": text})
}

func TestAPersonActivatesUsesAndDeactivatesALicenseInTheBrowser(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]bool{"with script": true, "without script": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, polar, keys := demoSite(t,
				polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(3), ExpiresAt: time.Now().AddDate(0, 0, 30).Add(time.Hour)},
				polartest.LicenseKey{LimitActivations: polartest.Limit(1), Activations: []polartest.Activation{{}}})
			b := open(t, s)
			b.Do("Emulation.setScriptExecutionDisabled", map[string]any{"value": !script})
			reload(b)

			b.Text("headline", "No license yet")
			b.Click("#count")
			b.Text("notice", "The text has 7 words.")
			b.Sees(true, "document.getElementById('export').disabled")

			enter(b, "INKWELL-TYPO")
			b.Click("#activate")
			b.Sees(true, "document.getElementById('notice')?.innerText.includes("+quoted("unknown_key.do")+")")
			b.Sees("", "document.getElementById('key').value")
			b.Sees("I just bought this key: keep trying", "document.getElementById('wait').innerText")
			b.Picture("typing-error")

			enter(b, keys[1].Key)
			b.Click("#activate")
			b.Sees(true, "document.getElementById('free')?.innerText.startsWith('To deactivate one,')")
			b.Picture("limit-reached")

			enter(b, "  "+keys[0].Key+" ")
			b.Click("#activate")
			b.Text("headline", "Licensed")
			b.Text("notice", "This computer is activated.")
			b.Click("#export")
			b.Sees(true, "document.getElementById('notice')?.innerText.startsWith('Exported')")
			b.Click("#sync")
			b.Text("notice", "Synced. 2 syncs left.")
			b.Sees(float64(1), "document.getElementById('quota').value")
			b.Click("#sync")
			b.Text("notice", "Synced. 1 sync left.")
			b.Click("#sync")
			b.Text("notice", "Synced. 0 syncs left.")
			b.Click("#sync")
			b.Sees(true, "document.getElementById('notice')?.innerText.includes("+quoted("usage_exceeded.do")+")")
			b.Sees(float64(3), "document.getElementById('quota').value")
			b.Picture("quota-used-up")

			polar.SetOffline(true)
			b.Click("#check")
			b.Sees(true, "document.getElementById('notice')?.innerText.includes("+quoted("unreachable.do")+")")
			time.Sleep(1100 * time.Millisecond) // FreshFor
			b.Click("#check")
			b.Text("headline", "Working offline")
			b.Picture("offline")
			polar.SetOffline(false)
			b.Click("#check")
			b.Text("headline", "Licensed")

			polar.Revoke(keys[0].ID)
			b.Click("#check")
			b.Text("headline", "Your license is inactive")
			b.Sees(true, "document.getElementById('export').disabled")
			polar.Grant(keys[0].ID)
			time.Sleep(1100 * time.Millisecond) // a refusal is believed for a second
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
	s, polar, keys := demoSite(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), VisibleFrom: time.Now().Add(time.Hour)})
	b := open(t, s)
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
	b := open(t, newSite(p))
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

func TestThePageCanBeUsedByKeyboardAlone(t *testing.T) {
	t.Parallel()
	s, _, keys := demoSite(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	b := open(t, s)
	b.Text("headline", "No license yet")
	press := func(key string, code int) {
		for _, kind := range []string{"keyDown", "keyUp"} {
			event := map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
			if key == "Enter" && kind == "keyDown" {
				event["text"] = "\r"
			}
			b.Do("Input.dispatchKeyEvent", event)
		}
	}
	press("Tab", 9)
	b.Sees("key", "document.activeElement.id")
	b.Sees(true, "getComputedStyle(document.activeElement).outlineStyle === 'solid'")
	b.Do("Input.insertText", map[string]any{"text": keys[0].Key})
	press("Enter", 13)
	b.Text("headline", "Licensed")
}

func TestThePrintedAddressLetsInOneBrowserOnce(t *testing.T) {
	t.Parallel()
	inside := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			http.Error(w, "", http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = w.Write([]byte("inside"))
	})
	d := newDoor("127.0.0.1:1")
	guarded := d.guard(inside)
	ask := func(method, target, body string, headers ...string) *http.Response {
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		if body != "" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, r)
		return w.Result()
	}
	link := d.link()
	for _, outside := range []string{"http://127.0.0.1:1/", "http://127.0.0.1:1/?token=", "http://127.0.0.1:1/?token=guess", "http://127.0.0.1:1/page.css", strings.Replace(link, "/?", "/state?", 1)} {
		assert.Equal(t, http.StatusForbidden, ask("GET", outside, "").StatusCode, outside)
	}
	assert.Equal(t, http.StatusForbidden, ask("POST", link, "").StatusCode)
	assert.Equal(t, http.StatusMisdirectedRequest, ask("GET", strings.Replace(link, "127.0.0.1:1", "evil.example:1", 1), "").StatusCode)

	first := ask("GET", link, "")
	require.Equal(t, http.StatusSeeOther, first.StatusCode)
	assert.Equal(t, "/", first.Header.Get("Location"), "the token leaves the address")
	require.Len(t, first.Cookies(), 1)
	cookie := first.Cookies()[0]
	assert.True(t, cookie.HttpOnly)
	assert.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	assert.NotContains(t, link, cookie.Value)
	assert.Equal(t, http.StatusForbidden, ask("GET", link, "").StatusCode, "it works once")

	mine := []string{"Cookie", cookie.Name + "=" + cookie.Value}
	in := ask("GET", "http://127.0.0.1:1/", "", mine...)
	assert.Equal(t, http.StatusOK, in.StatusCode)
	assert.Contains(t, in.Header.Get("Content-Security-Policy"), "default-src 'none'")
	assert.Equal(t, "no-store", in.Header.Get("Cache-Control"))
	assert.Equal(t, http.StatusSeeOther, ask("GET", link, "", mine...).StatusCode, "who is in may use the link again")
	assert.Equal(t, http.StatusOK, ask("POST", "http://127.0.0.1:1/activate", "key=x", mine...).StatusCode)
	for _, foreign := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		assert.Equal(t, http.StatusForbidden, ask("POST", "http://127.0.0.1:1/activate", "key=x", append(mine, foreign...)...).StatusCode, foreign)
	}
	assert.Equal(t, http.StatusMisdirectedRequest, ask("GET", "http://localhost:1/", "", mine...).StatusCode)
	assert.Equal(t, http.StatusForbidden, ask("GET", "http://127.0.0.1:1/", "", "Cookie", cookie.Name+"=guess").StatusCode)
	assert.Equal(t, http.StatusRequestEntityTooLarge, ask("POST", "http://127.0.0.1:1/activate", "key="+strings.Repeat("x", maxForm), mine...).StatusCode)
}

func TestFormsAreForPostsAndKeysForBodies(t *testing.T) {
	t.Parallel()
	s, polar, keys := demoSite(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	ask := func(method, target string) int {
		w := httptest.NewRecorder()
		s.routes().ServeHTTP(w, httptest.NewRequest(method, target, nil))
		return w.Code
	}
	assert.Equal(t, http.StatusMethodNotAllowed, ask("GET", "/activate?key="+keys[0].Key))
	assert.Equal(t, http.StatusSeeOther, ask("POST", "/activate?key="+keys[0].Key))
	assert.Zero(t, polar.Seats(keys[0].ID), "a key in an address is not taken")
	assert.Equal(t, http.StatusNotFound, ask("GET", "/page.html"))
	assert.Equal(t, http.StatusNotFound, ask("GET", "/activate/"))
}
