package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// browser is a headless Chromium with one page. It takes commands of the DevTools
// protocol by a pipe: JSON, with a NUL after each.
type browser struct {
	t       *testing.T
	to      *os.File
	from    *bufio.Reader
	session string
	last    int
	errors  []string // what the console of the page shows as errors
}

func findBrowser() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func openBrowser(t *testing.T, url string) *browser {
	t.Helper()
	path := findBrowser()
	if path == "" || runtime.GOOS == "windows" {
		t.Skip("this needs chromium, chromium-browser or google-chrome in PATH")
	}
	theirs, to, err := os.Pipe()
	require.NoError(t, err)
	from, theirsToo, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--no-proxy-server", "--window-size=900,1000",
		"--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, theirsToo} // 3 and 4
	require.NoError(t, cmd.Start())
	_, _ = theirs.Close(), theirsToo.Close()
	// A pipe that is closed ends a command that waits for an answer.
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	b := &browser{t: t, to: to, from: bufio.NewReader(from)}
	t.Cleanup(func() {
		b.session = ""
		_, _ = b.command("Browser.close", nil)
		_ = cmd.Wait()
		timer.Stop()
		_, _ = to.Close(), from.Close()
	})
	target := b.do("Target.createTarget", map[string]any{"url": url})["targetId"]
	session := b.do("Target.attachToTarget", map[string]any{"targetId": target, "flatten": true})["sessionId"]
	b.session, _ = session.(string)
	b.do("Log.enable", nil)
	return b
}

// command sends a command and waits for its answer.
func (b *browser) command(method string, params map[string]any) (map[string]any, error) {
	b.last++
	message := map[string]any{"id": b.last, "method": method}
	if params != nil {
		message["params"] = params
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		return nil, err
	}
	for {
		text, err := b.from.ReadBytes(0)
		if err != nil {
			return nil, err
		}
		var answer struct {
			ID     int
			Result map[string]any
			Error  *struct{ Message string }
			Method string
			Params struct {
				Entry struct{ Level, Text, URL string }
			}
		}
		if err := json.Unmarshal(text[:len(text)-1], &answer); err != nil {
			return nil, err
		}
		switch {
		case answer.Method == "Log.entryAdded" && answer.Params.Entry.Level == "error":
			if strings.HasSuffix(answer.Params.Entry.URL, "/favicon.ico") {
				continue // plain text has no icon
			}
			b.errors = append(b.errors, answer.Params.Entry.Text+" "+answer.Params.Entry.URL)
		case answer.ID != b.last:
		case answer.Error != nil:
			return nil, fmt.Errorf("%s: %s", method, answer.Error.Message)
		default:
			return answer.Result, nil
		}
	}
}

func (b *browser) do(method string, params map[string]any) map[string]any {
	b.t.Helper()
	result, err := b.command(method, params)
	require.NoError(b.t, err)
	return result
}

// value is what an expression comes to in the page; nil while it is loaded.
func (b *browser) value(expression string) any {
	result, err := b.command("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true})
	if err != nil {
		return nil
	}
	object, _ := result["result"].(map[string]any)
	return object["value"]
}

// sees waits until an expression comes to a value.
func (b *browser) sees(want any, expression string) {
	b.t.Helper()
	var got any
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = b.value(expression); got == want {
			return
		}
	}
	require.Equal(b.t, want, got, "%s\n%v", expression, b.value("document.documentElement.outerHTML"))
}

// text waits until the element of an id says something.
func (b *browser) text(id, want string) {
	b.t.Helper()
	b.sees(want, "document.getElementById('"+id+"')?.innerText")
}

func (b *browser) click(selector string) {
	b.t.Helper()
	b.sees(true, fmt.Sprintf("(e => { e?.click(); return !!e })(document.querySelector(%q))", selector))
}

// buttons says which of the two buttons of the plan can be pressed.
func (b *browser) buttons(cancel, restore bool) {
	b.t.Helper()
	b.sees(cancel, "!document.getElementById('cancel').disabled")
	b.sees(restore, "!document.getElementById('restore').disabled")
}

// picture keeps a screenshot in the folder of POLARGATE_SCREENSHOTS.
func (b *browser) picture(name string) {
	b.t.Helper()
	folder := os.Getenv("POLARGATE_SCREENSHOTS")
	if folder == "" {
		return
	}
	data, _ := b.do("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true})["data"].(string)
	image, err := base64.StdEncoding.DecodeString(data)
	require.NoError(b.t, err)
	require.NoError(b.t, os.MkdirAll(folder, 0o750))
	require.NoError(b.t, os.WriteFile(filepath.Join(folder, name+".png"), image, 0o600))
}

func TestAPersonWithABrowserSeesWhatTheyMayUse(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	b := openBrowser(t, p.url)

	b.text("user", "Nobody is signed in.")
	b.sees(nil, "document.getElementById('features')?.innerText")
	b.buttons(false, false)
	b.picture("nobody")

	b.click("button[value=ada]")
	b.text("user", ada)
	b.text("features", "export, pro")
	b.text("benefits", "custom")
	b.text("meters", "/meter: 5 left of 5")
	b.buttons(true, false)
	b.sees("/free ✓ open for everybody|/pro ✓ open needs the feature pro|/meter ✓ open uses one unit of a meter",
		"[...document.querySelectorAll('#routes tr')].map(r => r.innerText.replace(/\\s+/g, ' ').trim()).join('|')")
	b.picture("ada")

	b.click("#cancel")
	b.text("features", "none")
	b.buttons(false, true)
	b.sees(true, "document.getElementById('plan').innerText.includes('is canceled')")
	b.picture("ada-canceled")
	b.click("a[href='/pro']")
	b.sees(p.url+"/#plans", "location.href")
	p.expect(http.StatusPaymentRequired, "/pro", ada)

	b.click("#restore")
	b.text("features", "export, pro")
	b.buttons(true, false)
	b.click("a[href='/pro']")
	b.sees(true, "document.body.innerText.includes('You have: export, pro.')")
	b.do("Page.navigate", map[string]any{"url": p.url})

	b.click("button[value=brook]")
	b.text("user", brook)
	b.text("features", "none")
	b.text("meters", "none")
	b.buttons(false, false)
	b.picture("brook")

	b.click("button[value='']")
	b.text("user", "Nobody is signed in.")
	assert.Empty(t, b.errors)
}

func TestThePageFitsANarrowWindowAndADarkOne(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	b := openBrowser(t, p.url)
	b.click("button[value=ada]")
	b.text("user", ada)
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": 320, "height": 900, "deviceScaleFactor": 1, "mobile": true})
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]any{{"name": "prefers-color-scheme", "value": "light"}}})
	b.sees("rgb(0, 0, 0)", "getComputedStyle(document.body).color")
	b.sees(float64(320), "innerWidth")
	b.sees(true, "document.documentElement.scrollWidth <= 320")
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]any{{"name": "prefers-color-scheme", "value": "dark"}}})
	b.sees("rgb(255, 255, 255)", "getComputedStyle(document.body).color")
	b.picture("narrow-dark")
	assert.Empty(t, b.errors)
}
