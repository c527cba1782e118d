// Package chromium shows pages to tests, in a headless browser.
package chromium

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Browser is a headless Chromium with one page. It takes commands of the DevTools
// protocol by a pipe: JSON, with a NUL after each.
type Browser struct {
	t       testing.TB
	to      *os.File
	answers chan answer
	session string
	last    int
	Errors  []string // what the console of the page shows as errors
}

// patience is enough for a machine that does much else.
const patience = 20 * time.Second

// A command that is asked again is not waited for as long.
const commandPatience = 5 * time.Second

func find() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Open shows a page, until the end of the test, which is skipped where there is no
// browser.
func Open(t testing.TB, url string) *Browser {
	t.Helper()
	path := find()
	if path == "" || runtime.GOOS == "windows" {
		t.Skip("this needs chromium, chromium-browser or google-chrome in PATH")
	}
	b := &Browser{t: t}
	theirs, to, err := os.Pipe()
	b.must(err)
	from, theirsToo, err := os.Pipe()
	b.must(err)
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--no-proxy-server", "--window-size=900,1000",
		"--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, theirsToo} // 3 and 4
	b.must(cmd.Start())
	_, _ = theirs.Close(), theirsToo.Close()
	timer := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	b.to, b.answers = to, make(chan answer, 10_000)
	go b.listen(bufio.NewReader(from))
	t.Cleanup(func() {
		b.session = ""
		_, _ = b.command("Browser.close", nil)
		timer.Reset(commandPatience)
		_ = cmd.Wait()
		timer.Stop()
		_, _ = to.Close(), from.Close()
	})
	target := b.Do("Target.createTarget", map[string]any{"url": url})["targetId"]
	session := b.Do("Target.attachToTarget", map[string]any{"targetId": target, "flatten": true})["sessionId"]
	b.session, _ = session.(string)
	b.Do("Log.enable", nil)
	return b
}

// command sends a command and waits for its answer.
func (b *Browser) command(method string, params map[string]any) (map[string]any, error) {
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
	patient := time.NewTimer(commandPatience)
	defer patient.Stop()
	for {
		select {
		case a, ok := <-b.answers:
			switch {
			case !ok:
				return nil, errors.New("the browser has ended")
			case a.Method == "Log.entryAdded" && a.Params.Entry.Level == "error":
				if strings.HasSuffix(a.Params.Entry.URL, "/favicon.ico") {
					continue // plain text has no icon
				}
				b.Errors = append(b.Errors, a.Params.Entry.Text+" "+a.Params.Entry.URL)
			case a.ID != b.last:
			case a.Error != nil:
				return nil, fmt.Errorf("%s: %s", method, a.Error.Message)
			default:
				return a.Result, nil
			}
		case <-patient.C:
			// A page that is replaced takes commands with it, now and then.
			return nil, fmt.Errorf("%s: %w", method, errNoAnswer)
		}
	}
}

var errNoAnswer = errors.New("no answer")

// answer is what the browser says: to a command, or by itself.
type answer struct {
	ID     int
	Result map[string]any
	Error  *struct{ Message string }
	Method string
	Params struct {
		Entry struct{ Level, Text, URL string }
	}
}

// listen reads all that the browser says, until it ends.
func (b *Browser) listen(from *bufio.Reader) {
	defer close(b.answers)
	for {
		text, err := from.ReadBytes(0)
		if err != nil {
			return
		}
		var a answer
		if err := json.Unmarshal(text[:len(text)-1], &a); err != nil {
			return
		}
		b.answers <- a
	}
}

// Do gives a command of the DevTools protocol, and its answer.
func (b *Browser) Do(method string, params map[string]any) map[string]any {
	b.t.Helper()
	result, err := b.command(method, params)
	for range 2 {
		if errors.Is(err, errNoAnswer) {
			result, err = b.command(method, params)
		}
	}
	b.must(err)
	return result
}

// Value is what an expression comes to in the page; nil while it is loaded.
func (b *Browser) Value(expression string) any {
	result, err := b.command("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true})
	if err != nil {
		return nil
	}
	object, _ := result["result"].(map[string]any)
	return object["value"]
}

// Sees waits until an expression comes to a value.
func (b *Browser) Sees(want any, expression string) {
	b.t.Helper()
	var got any
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = b.Value(expression); got == want {
			return
		}
	}
	b.t.Fatalf("%s\nis  %v\nnot %v\n%v", expression, got, want, b.Value("document.documentElement.outerHTML"))
}

// Text waits until the element of an id says something.
func (b *Browser) Text(id, want string) {
	b.t.Helper()
	b.Sees(want, "document.getElementById('"+id+"')?.innerText")
}

// Click clicks on the first element of a selector, as soon as there is one.
func (b *Browser) Click(selector string) {
	b.t.Helper()
	b.Sees(true, fmt.Sprintf("(e => { e?.click(); return !!e })(document.querySelector(%q))", selector))
}

// Picture keeps a screenshot among the artifacts of the test: go test -artifacts.
func (b *Browser) Picture(name string) {
	b.t.Helper()
	data, _ := b.Do("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true})["data"].(string)
	image, err := base64.StdEncoding.DecodeString(data)
	b.must(err)
	b.must(os.WriteFile(filepath.Join(b.t.ArtifactDir(), name+".png"), image, 0o600))
}

func (b *Browser) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}
