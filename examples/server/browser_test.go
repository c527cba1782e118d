package main

import (
	"net/http"
	"testing"

	"github.com/polargate/polargate/internal/chromium"
	"github.com/stretchr/testify/assert"
)

// buttons says which of the two buttons of the plan can be pressed.
func buttons(b *chromium.Browser, cancel, restore bool) {
	b.Sees(cancel, "!document.getElementById('cancel').disabled")
	b.Sees(restore, "!document.getElementById('restore').disabled")
}

func TestAPersonWithABrowserSeesWhatTheyMayUse(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	b := chromium.Open(t, p.url)

	b.Text("user", "You aren't signed in.")
	b.Sees(nil, "document.getElementById('features')?.innerText")
	buttons(b, false, false)
	b.Picture("nobody")

	b.Click("button[value=ada]")
	b.Text("user", ada)
	b.Text("features", "export, pro")
	b.Text("benefits", "custom")
	b.Text("meters", "/meter: 5 left of 5")
	buttons(b, true, false)
	b.Sees("/free ✓ open for everybody|/pro ✓ open for customers with the feature pro|/meter ✓ open uses one unit of a meter",
		"[...document.querySelectorAll('#routes tr')].map(r => r.innerText.replace(/\\s+/g, ' ').trim()).join('|')")
	b.Picture("ada")

	b.Click("#cancel")
	b.Text("features", "none")
	buttons(b, false, true)
	b.Sees(true, "document.getElementById('plan').innerText.includes('was canceled')")
	b.Picture("ada-canceled")
	b.Click("a[href='/pro']")
	b.Sees(p.url+"/#plans", "location.href")
	p.expect(http.StatusPaymentRequired, "/pro", ada)

	b.Click("#restore")
	b.Text("features", "export, pro")
	buttons(b, true, false)
	b.Click("a[href='/pro']")
	b.Sees(true, "document.body.innerText.includes('You have: export, pro.')")
	b.Do("Page.navigate", map[string]any{"url": p.url})

	b.Click("button[value=brook]")
	b.Text("user", brook)
	b.Text("features", "none")
	b.Text("meters", "none")
	buttons(b, false, false)
	b.Picture("brook")

	b.Click("button[value='']")
	b.Text("user", "You aren't signed in.")
	assert.Empty(t, b.Errors)
}

func TestAPersonWithABrowserReadsARefusalAndNoJSON(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	b := chromium.Open(t, p.url)
	b.Text("user", "You aren't signed in.")
	b.Click("a[href='/pro']")
	b.Sees("Please sign in", "document.querySelector('h1')?.innerText")
	b.Sees("Please sign in", "document.title")
	b.Sees(p.url+"/pro", "location.href")
	b.Picture("refused")
	b.Do("Page.navigate", map[string]any{"url": p.url})

	b.Click("button[value=brook]")
	b.Text("user", brook)
	b.Click("a[href='/pro']")
	b.Sees(p.url+"/#plans", "location.href")
	for _, e := range b.Errors { // the browser notes each status of 400 and more
		assert.Contains(t, e, "status of 40")
	}
}

func TestThePageFitsANarrowWindowAndADarkOne(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	b := chromium.Open(t, p.url)
	b.Click("button[value=ada]")
	b.Text("user", ada)
	b.Do("Emulation.setDeviceMetricsOverride", map[string]any{"width": 320, "height": 900, "deviceScaleFactor": 1, "mobile": true})
	b.Do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]any{{"name": "prefers-color-scheme", "value": "light"}}})
	b.Sees("rgb(0, 0, 0)", "getComputedStyle(document.body).color")
	b.Sees(float64(320), "innerWidth")
	b.Sees(true, "document.documentElement.scrollWidth <= 320")
	b.Do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]any{{"name": "prefers-color-scheme", "value": "dark"}}})
	b.Sees("rgb(255, 255, 255)", "getComputedStyle(document.body).color")
	b.Picture("narrow-dark")
	assert.Empty(t, b.Errors)
}
