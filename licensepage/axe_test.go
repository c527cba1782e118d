package licensepage

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/chromium"
	"github.com/polargate/polargate/lang"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var withAxe = flag.Bool("axe", false, "check every page with axe-core, which npm fetches")

// axe is the script of axe-core.
func axe(t *testing.T) string {
	t.Helper()
	if !*withAxe {
		t.Skip("axe-core is fetched by npm only if asked for: go test ./licensepage -run Accessibility -axe")
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("npm is missing: install Node, for example with apt-get install nodejs npm")
	}
	folder := t.TempDir()
	wanted, err := os.ReadFile(filepath.Join("testdata", "axe", "package.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "package.json"), wanted, 0o600))
	install := exec.Command("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = folder
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("npm can't fetch axe-core: give it a network, or a registry that it can reach: %v\n%s", err, out)
	}
	script, err := os.ReadFile(filepath.Join(folder, "node_modules", "axe-core", "axe.min.js"))
	require.NoError(t, err)
	return string(script)
}

// accessible checks a page in both widths and both schemes.
func accessible(t *testing.T, b *chromium.Browser, axe, name string) {
	t.Helper()
	b.Value(axe)
	for _, wide := range []int{390, 1280} {
		for _, night := range []bool{false, true} {
			width(b, wide)
			dark(b, night)
			b.Sees(true, "document.documentElement.scrollWidth <= innerWidth")
			result := b.Do("Runtime.evaluate", map[string]any{"awaitPromise": true, "returnByValue": true, "expression": `axe.run(document, {resultTypes: ["violations"]}).then(r =>
				JSON.stringify({passes: r.passes.length, violations: r.violations.map(v => v.id + ": " + v.help + " " + v.nodes.map(n => n.html).join(" "))}))`})
			object, _ := result["result"].(map[string]any)
			text, _ := object["value"].(string)
			var found struct {
				Passes     int
				Violations []string
			}
			require.NoError(t, json.Unmarshal([]byte(text), &found), "%v", result)
			assert.Empty(t, found.Violations, "%s, %d pixels, dark: %v", name, wide, night)
			assert.Greater(t, found.Passes, 15, name)
		}
	}
}

func TestAccessibilityOfEveryPageAsAxeCoreSeesIt(t *testing.T) {
	t.Parallel()
	script := axe(t)
	all := situations(t)
	l := &pretended{status: all[0].status, links: vendorLinks}
	b := open(t, shown(l))
	for _, s := range all {
		l.set(s.status)
		reload(b)
		b.Text("headline", s.headline)
		b.Value("document.querySelectorAll('details').forEach(d => d.open = true)")
		accessible(t, b, script, s.name)
	}

	p := shown(&pretended{status: all[0].status}, func(o *Options) {
		o.Offline, o.OpenURL, o.Links, o.Home = true, OpenURL, vendorLinks, "/"
	})
	b = open(t, p)
	show := func(name, path string, n notice) {
		n.seen = sight(all[0].status)
		p.mu.Lock()
		p.notice = n
		p.mu.Unlock()
		b.Value(fmt.Sprintf("location.href = %q", path))
		b.Sees(path, "location.pathname")
		b.Sees("complete", "document.readyState")
		accessible(t, b, script, name)
	}
	show("a typing error", "/", notice{Tone: "bad", Text: "That key.", Key: true, Buy: true})
	show("the limit", "/", notice{Tone: "bad", Text: "That key.", Key: true, Full: true})
	show("good news", "/", notice{Tone: "good", Text: "Verified just now."})
	show("a warning", "/", notice{Tone: "warn", Text: "Your license still works."})
	show("without a network", "/offline", notice{})

	// Words of other languages are longer, or have no spaces to break lines at.
	for _, l := range []*polargate.Language{lang.German(), lang.French(), lang.Portuguese(), lang.Japanese()} {
		for _, s := range all {
			if s.name != "active" && s.name != "no-license" {
				continue
			}
			b = open(t, shown(&pretended{status: s.status, language: l, links: vendorLinks}))
			b.Sees(l.Tag, "document.documentElement.lang")
			b.Sees("complete", "document.readyState")
			accessible(t, b, script, s.name+" in "+l.Tag)
		}
	}

	waiting := &pretended{status: all[0].status, waiting: make(chan struct{})}
	p = shown(waiting)
	b = open(t, p)
	p.start("INKWELL-0000-1111-0A1B2C", true)
	b.Text("headline", "Waiting for your purchase…")
	accessible(t, b, script, "waiting")
	require.NoError(t, p.Close())

	d := demoPage(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	require.NoError(t, d.page.Ask("inkwell://activate?key="+d.keys[0].Key))
	b = open(t, d.page)
	b.Text("headline", "Activate this license key?")
	accessible(t, b, script, "a question")
}

// TestPicturesOfThePageForTheDocuments writes those of docs/images, with -pictures.
func TestPicturesOfThePageForTheDocuments(t *testing.T) {
	t.Parallel()
	if !*pictures {
		t.Skip("the pictures of the documents are drawn if asked for: go test ./licensepage -run Pictures -pictures")
	}
	l := &pretended{}
	b := open(t, shown(l))
	take := func(name string, status polargate.Status, wide, high int, night bool) {
		l.set(status)
		b.Do("Emulation.setDeviceMetricsOverride", map[string]any{"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": false})
		dark(b, night)
		reload(b)
		b.Sees(true, "document.documentElement.clientWidth === innerWidth") // no bar to scroll by
		time.Sleep(100 * time.Millisecond)                                  // the browser draws
		require.NoError(t, os.WriteFile(filepath.Join("..", "docs", "images", name+".png"), b.Screenshot(), 0o644))
	}
	for _, s := range situations(t) {
		switch s.name {
		case "active":
			take("active", s.status, 700, 800, false)
			take("active-dark", s.status, 390, 1000, true)
		case "grace":
			take("grace", s.status, 700, 800, false)
		case "no-license":
			take("no-license", s.status, 390, 800, false)
		}
	}
}

var pictures = flag.Bool("pictures", false, "draw the pictures in docs/images anew")
