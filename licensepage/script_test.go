package licensepage

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/chromium"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// press presses a key on the keyboard.
func press(b *chromium.Browser, key string, code int) {
	for _, kind := range []string{"keyDown", "keyUp"} {
		event := map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
		if key == "Enter" && kind == "keyDown" {
			event["text"] = "\r"
		}
		b.Do("Input.dispatchKeyEvent", event)
	}
}

func enterKey(b *chromium.Browser) { press(b, "Enter", 13) }

// tabTo moves the focus on to an element, as a person does who has no mouse.
func tabTo(t *testing.T, b *chromium.Browser, id string) {
	t.Helper()
	for range 12 {
		press(b, "Tab", 9)
		if b.Value("document.activeElement.id || document.activeElement.parentElement?.id") == id {
			b.Sees(true, "getComputedStyle(document.activeElement).outlineStyle === 'solid'")
			return
		}
	}
	t.Fatalf("%s can't be reached by the keyboard", id)
}

func TestThePageCanBeUsedByKeyboardAloneAndSaysWhatChangesWithoutAReload(t *testing.T) {
	t.Parallel()
	d := demoPage(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	b := open(t, d.page)
	b.Text("headline", "No license yet")
	b.Sees(true, "document.readyState === 'complete'")
	b.Value("window.stays = true")
	says := func(text string) {
		t.Helper()
		b.Sees(text, "document.getElementById('live').textContent")
	}

	tabTo(t, b, "key")
	b.Do("Input.insertText", map[string]any{"text": "INKWELL-TYPO"})
	enterKey(b)
	says("The license server doesn't recognize this license key. " + polargate.Phrases()["unknown_key.do"])
	b.Sees("key", "document.activeElement.id")
	b.Sees("true", "document.activeElement.getAttribute('aria-invalid')")
	b.Sees(false, "document.getElementById('notice').hasAttribute('role')") // it would be said twice

	b.Do("Input.insertText", map[string]any{"text": d.keys[0].Key})
	enterKey(b)
	b.Text("headline", "Licensed")
	says("Licensed Everything you bought is unlocked. This computer is activated.")
	b.Sees("headline", "document.activeElement.id") // the field is gone
	b.Sees("Licensed – Inkwell", "document.title")

	tabTo(t, b, "check")
	enterKey(b)
	says("Verified just now.")
	b.Sees("check", "document.activeElement.id")
	b.Value("document.getElementById('live').textContent = ''")
	enterKey(b)
	says("Verified just now.") // the same result is said again

	// What somebody types stays when the license changes.
	tabTo(t, b, "another")
	enterKey(b)
	tabTo(t, b, "key")
	b.Do("Input.insertText", map[string]any{"text": "INKWELL-9"})
	d.polar.Revoke(d.keys[0].ID)
	_, _ = d.gate.Refresh(t.Context())
	b.Text("headline", "Your license is inactive") // by itself
	b.Sees("INKWELL-9", "document.getElementById('key')?.value")
	b.Sees("key", "document.activeElement.id")
	d.polar.Grant(d.keys[0].ID)
	d.later(2 * time.Hour)
	_, err := d.gate.Refresh(t.Context())
	require.NoError(t, err)
	b.Text("headline", "Licensed")

	tabTo(t, b, "leave")
	enterKey(b)
	tabTo(t, b, "deactivate")
	enterKey(b)
	b.Text("headline", "No license yet")
	says("No license yet This program isn't activated yet. Enter your license key. This computer is deactivated. You can use the license key on another computer.")
	assert.Equal(t, true, b.Value("window.stays"), "the page was never loaded again")
	assert.Empty(t, b.Errors)
}

func TestALinkAsksInTheBrowserBeforeItActivates(t *testing.T) {
	t.Parallel()
	d := demoPage(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	server := httptest.NewServer(http.StripPrefix("/license", d.page))
	t.Cleanup(server.Close)
	b := chromium.Open(t, server.URL+"/license/activate?key="+d.keys[0].Key)
	b.Text("headline", "Activate this license key?")
	b.Sees("/license/", "location.pathname + location.search")
	fits(t, b)
	b.Picture("asking")
	assert.Zero(t, d.polar.Seats(d.keys[0].ID))
	b.Click("#yes")
	b.Text("headline", "Licensed")
	assert.Empty(t, b.Errors)
}

func TestInAWebviewLinksOpenOutsideAndThePageHasTheProgramsLook(t *testing.T) {
	t.Parallel()
	opened := make(chan string, 1)
	fails := false
	logo, err := base64.StdEncoding.DecodeString("R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")
	require.NoError(t, err)
	l := &pretended{status: polargate.Status{
		State: polargate.Locked, Reason: polargate.ErrExpired, Message: "Expired.",
		Action: polargate.Action{Kind: polargate.ActionRenew, URL: "https://example.com/renew"},
	}}
	b := open(t, shown(l, func(o *Options) {
		o.Links = polargate.Links{Renew: "https://example.com/renew", Support: "mailto:support@example.com"}
		o.Colors, o.Logo, o.Home = Colors{Accent: "#ffcc00"}, logo, "/"
		o.OpenURL = func(url string) error {
			if fails {
				return http.ErrHandlerTimeout
			}
			opened <- url
			return nil
		}
	}))
	b.Text("to-renew", "Renew your license")
	b.Sees("Back to Inkwell", "document.getElementById('program').innerText")
	b.Sees("rgb(255, 204, 0)", "getComputedStyle(document.getElementById('check')).backgroundColor")
	b.Sees("rgb(0, 0, 0)", "getComputedStyle(document.getElementById('check')).color")
	b.Sees(true, "document.getElementById('logo').complete && document.getElementById('logo').naturalWidth === 1")
	b.Sees(false, "document.querySelector('a[href^=http]') !== null") // nothing leads out of the webview
	b.Click("#to-renew")
	assert.Equal(t, "https://example.com/renew", <-opened)
	fails = true
	b.Click("#to-support")
	b.Text("notice", "The page couldn't be opened. Its address is mailto:support@example.com")
	assert.Empty(t, b.Errors)
}

func TestOptionsThatCanNotBeRightAreAMistakeInTheProgram(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){
		"a color":  func(o *Options) { o.Colors.Accent = "blue; } body { display: none" },
		"a link":   func(o *Options) { o.Links.Support = "javascript:alert(1)" },
		"a page":   func(o *Options) { o.OfflinePage = "example.com" },
		"a logo":   func(o *Options) { o.Logo = []byte("<html>") },
		"a dark 1": func(o *Options) { o.Colors.AccentDark = "#12345" },
	} {
		assert.Panics(t, func() { shown(&pretended{}, change) }, name)
	}
	for _, hex := range []string{"#000000", "#ffffff", "#777777", "#767676", "#ff0000", "#0000ff", "#1d4f91", "#00ff00"} {
		page := shown(&pretended{}, func(o *Options) { o.Colors = Colors{hex, hex} })
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/page.css", nil))
		assert.Contains(t, w.Body.String(), "--accent: "+hex+"; --on-accent: "+onColor(hex))
	}
	assert.Equal(t, "#000", onColor("#ffcc00"))
	assert.Equal(t, "#fff", onColor("#1d4f91"))
}
