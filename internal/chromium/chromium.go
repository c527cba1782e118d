// Package chromium shows pages to tests, in a headless browser. The tests of a package
// share one process of it; each page has a profile of its own.
package chromium

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// patience is enough for a machine that does much else.
	patience = time.Minute
	// A command that is asked again is not waited for as long.
	commandPatience = 5 * time.Second
	// starts is how often the browser is started before tests are skipped.
	starts = 3
)

var (
	errNoAnswer = errors.New("no answer")
	errEnded    = errors.New("the browser has ended")
)

// Run is for TestMain: it runs the tests, and then ends the browser that they shared.
func Run(m *testing.M) int {
	code := m.Run()
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.process != nil {
		one.process.end()
	}
	return code
}

// one is the browser of the tests of a package.
var one struct {
	mu      sync.Mutex
	process *process
	skip    string // why there is none
}

// running returns the browser, started if need be, or why there is none.
func running() (p *process, skip string) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.process != nil {
		select {
		case <-one.process.ended:
			one.process.end()
			one.process = nil
		default:
		}
	}
	if one.process != nil || one.skip != "" {
		return one.process, one.skip
	}
	path := find()
	if path == "" || runtime.GOOS == "windows" {
		one.skip = "this needs chromium, chromium-browser or google-chrome in PATH"
		return nil, one.skip
	}
	var err error
	for range starts {
		if one.process, err = start(path); err == nil {
			return one.process, ""
		}
	}
	one.skip = fmt.Sprintf("%s does not start here: %v", path, err)
	return nil, one.skip
}

func find() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// process is a Chromium that takes commands of the DevTools protocol by a pipe: JSON, with
// a NUL after each.
type process struct {
	cmd    *exec.Cmd
	folder string
	ended  chan struct{} // closed when it says no more

	mu      sync.Mutex
	to      io.WriteCloser
	last    int
	waiting map[int]chan answer
	pages   map[string]*Browser // by session
}

// answer is what the browser says: to a command, or by itself.
type answer struct {
	ID        int
	SessionID string
	Result    map[string]any
	Error     *struct{ Message string }
	Method    string
	Params    struct {
		Entry struct{ Level, Text, URL string }
	}
}

func start(path string) (*process, error) {
	folder, err := os.MkdirTemp("", "chromium-")
	if err != nil {
		return nil, err
	}
	theirs, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	from, theirsToo, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &process{folder: folder, to: to, ended: make(chan struct{}), waiting: map[int]chan answer{}, pages: map[string]*Browser{}}
	p.cmd = exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--no-proxy-server", "--window-size=900,1000",
		"--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
		"--user-data-dir="+folder, "--remote-debugging-pipe", "about:blank")
	p.cmd.Env = os.Environ()
	for _, name := range []string{"HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+folder) // whatever it leaves goes with the folder
	}
	p.cmd.ExtraFiles = []*os.File{theirs, theirsToo} // 3 and 4
	err = p.cmd.Start()
	_, _ = theirs.Close(), theirsToo.Close()
	if err != nil {
		_, _, _ = to.Close(), from.Close(), os.RemoveAll(folder)
		return nil, err
	}
	go p.listen(from)
	for deadline := time.Now().Add(patience); ; {
		_, err := p.command("", "Browser.getVersion", nil)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, errNoAnswer) || time.Now().After(deadline) {
			p.end()
			return nil, err
		}
	}
}

// end ends the browser, and removes what it has stored.
func (p *process) end() {
	_, _ = p.command("", "Browser.close", nil)
	p.mu.Lock()
	_ = p.to.Close()
	p.mu.Unlock()
	late := time.AfterFunc(commandPatience, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	late.Stop()
	for range 50 { // processes of its own may still write
		if os.RemoveAll(p.folder) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// listen reads all that the browser says, until it ends.
func (p *process) listen(from io.ReadCloser) {
	defer close(p.ended)
	defer from.Close()
	for lines := bufio.NewReader(from); ; {
		text, err := lines.ReadBytes(0)
		if err != nil {
			return
		}
		var a answer
		if json.Unmarshal(text[:len(text)-1], &a) != nil {
			return
		}
		p.mu.Lock()
		switch page := p.pages[a.SessionID]; {
		case a.ID != 0:
			if c := p.waiting[a.ID]; c != nil {
				c <- a // there is room for it
				delete(p.waiting, a.ID)
			}
		case page != nil && a.Method == "Log.entryAdded" && a.Params.Entry.Level == "error":
			if !strings.HasSuffix(a.Params.Entry.URL, "/favicon.ico") { // plain text has no icon
				page.found = append(page.found, a.Params.Entry.Text+" "+a.Params.Entry.URL)
			}
		}
		p.mu.Unlock()
	}
}

// command sends a command and waits for its answer.
func (p *process) command(session, method string, params map[string]any) (map[string]any, error) {
	message := map[string]any{"method": method}
	if params != nil {
		message["params"] = params
	}
	if session != "" {
		message["sessionId"] = session
	}
	done := make(chan answer, 1)
	p.mu.Lock()
	p.last++
	id := p.last
	message["id"] = id
	p.waiting[id] = done
	text, err := json.Marshal(message)
	if err == nil {
		_, err = p.to.Write(append(text, 0))
	}
	p.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", method, errEnded, err)
	}
	patient := time.NewTimer(commandPatience)
	defer patient.Stop()
	select {
	case a := <-done:
		if a.Error != nil {
			return nil, fmt.Errorf("%s: %s", method, a.Error.Message)
		}
		return a.Result, nil
	case <-p.ended:
		return nil, fmt.Errorf("%s: %w", method, errEnded)
	case <-patient.C:
		// A page that is replaced takes commands with it, now and then.
		p.mu.Lock()
		delete(p.waiting, id)
		p.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", method, errNoAnswer)
	}
}

// Browser is a window with one page.
type Browser struct {
	t       testing.TB
	process *process
	session string
	found   []string // errors, until they are looked at; the process guards them
	Errors  []string // what the console of the page shows as errors
}

// Open shows a page, until the end of the test, which is skipped where there is no
// browser.
func Open(t testing.TB, url string) *Browser {
	t.Helper()
	p, skip := running()
	if skip != "" {
		t.Skip(skip)
	}
	b := &Browser{t: t, process: p}
	profile := b.Do("Target.createBrowserContext", nil)["browserContextId"]
	t.Cleanup(func() {
		_, _ = p.command("", "Target.disposeBrowserContext", map[string]any{"browserContextId": profile})
	})
	target := b.Do("Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": profile, "newWindow": true})["targetId"]
	session, _ := b.Do("Target.attachToTarget", map[string]any{"targetId": target, "flatten": true})["sessionId"].(string)
	b.session = session
	p.mu.Lock()
	p.pages[session] = b
	p.mu.Unlock()
	b.Do("Log.enable", nil)
	b.Do("Emulation.setFocusEmulationEnabled", map[string]any{"enabled": true}) // other windows may have it
	b.Do("Page.navigate", map[string]any{"url": url})
	return b
}

// command sends a command to the page, and takes note of errors on it.
func (b *Browser) command(method string, params map[string]any) (map[string]any, error) {
	b.t.Helper()
	result, err := b.process.command(b.session, method, params)
	b.process.mu.Lock()
	b.Errors, b.found = append(b.Errors, b.found...), nil
	b.process.mu.Unlock()
	if errors.Is(err, errEnded) {
		b.t.Skip(err) // which says nothing of the page
	}
	return result, err
}

// Do gives a command of the DevTools protocol, and its answer. What the browser does not
// answer in the middle of other work is asked again.
func (b *Browser) Do(method string, params map[string]any) map[string]any {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		result, err := b.command(method, params)
		if err == nil {
			return result
		}
		notNow := errors.Is(err, errNoAnswer) || strings.Contains(err.Error(), "ot attached") || strings.Contains(err.Error(), "navigat")
		if !notNow || time.Now().After(deadline) {
			b.t.Fatal(err)
		}
	}
}

// Value is what an expression comes to in the page; nil while it is loaded.
func (b *Browser) Value(expression string) any {
	b.t.Helper()
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
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
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

// Picture keeps a screenshot among the artifacts of the test, if there are to be any: go
// test -artifacts.
func (b *Browser) Picture(name string) {
	b.t.Helper()
	if f := flag.Lookup("test.artifacts"); f == nil || f.Value.String() != "true" {
		return
	}
	if err := os.WriteFile(filepath.Join(b.t.ArtifactDir(), name+".png"), b.Screenshot(), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// Screenshot is a picture of the page, as PNG.
func (b *Browser) Screenshot() []byte {
	b.t.Helper()
	data, _ := b.Do("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true})["data"].(string)
	image, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		b.t.Fatal(err)
	}
	return image
}
