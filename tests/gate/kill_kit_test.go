package gate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The test of this file kills programs, as the out-of-memory killer, a power
// button or an impatient user does, at random moments of what they do with
// their license, and looks at what is left: on disk, at Polar, and for the
// program that is started next. For many kills:
//
//	go test ./tests/gate -run TestAKilledProgram -kills 1000 -v
var killCount = flag.Int("kills", 12, "how many programs TestAKilledProgramKeepsItsLicenseAndReportsEveryLostActivation kills")

const (
	// killsPerLife is how many kills one installation goes through, so that a
	// kill also meets what the one before has left.
	killsPerLife = 3
	// livesAtOnce is how many installations there are at a time: most of what
	// they do is to wait for Polar's limit of requests.
	livesAtOnce = 4
	// serverDelay is how long Polar takes to look at a request, and how long
	// the answer then takes at most.
	serverDelay = 15 * time.Millisecond
	// permitsOfPolar are how many requests go at once, and permitRests is how long a
	// permit rests after an answer.
	permitsOfPolar = 3
	permitRests    = 1050 * time.Millisecond
	// busySlack is for a machine that is busy. A lock that was left locked
	// costs twice as much at least, with the CheckTimeout that is set here.
	busySlack = 30 * time.Second
)

func init() { programs["use-license"] = programThatUsesALicense }

// licenseUse is what a process does with a license.
type licenseUse struct {
	Folder, URL, Organization, Benefit, Machine string
	// Calls are made in order: "activate KEY", "ensure KEY", "import KEY ACTIVATION", "deactivate",
	// "refresh", "check", "move", "export".
	Calls []string
	// Trial is how many days the program can be tried.
	Trial int
	// Stay keeps the process from ending by itself.
	Stay bool
}

// licenseWord is what it says of that, a line each.
type licenseWord struct {
	Opened bool          // the Gate is open
	Call   int           // the call that this is about
	Ended  bool          // it has returned; or else it is about to begin
	At     time.Time     // when this was said
	Took   time.Duration // for a call that has returned
	Err    string        // its error
	OK     bool          // whether the program may run
	// Exported is the activation that an export gave.
	Exported string
}

func (u licenseUse) config(store polargate.Store) polargate.Config {
	return polargate.Config{
		OrganizationID: u.Organization,
		App:            "inkwell",
		Version:        "1.4.2",
		Features:       map[string][]string{u.Benefit: {"export"}},
		BaseURL:        u.URL,
		Store:          store,
		Fingerprint:    u.Machine,
		CheckTimeout:   2 * time.Minute,
		Trial:          polargate.Trial{Days: u.Trial},
	}
}

func programThatUsesALicense(args []string) error {
	var u licenseUse
	if err := json.Unmarshal([]byte(args[0]), &u); err != nil {
		return err
	}
	say := func(w licenseWord) {
		w.At = time.Now()
		line, err := json.Marshal(w)
		if err != nil {
			panic(err) // there is nothing in it that could not be written
		}
		fmt.Printf("%s\n", line)
	}
	gate, err := polargate.Open(u.config(polargate.FileStore(u.Folder)))
	if err != nil {
		return err
	}
	say(licenseWord{Opened: true, OK: gate.Has("export")})
	for i, call := range u.Calls {
		say(licenseWord{Call: i})
		start := time.Now()
		what, key, _ := strings.Cut(call, " ")
		var exported polargate.ImportedActivation
		switch what {
		case "activate":
			_, err = gate.Activate(context.Background(), key)
		case "ensure":
			_, err = gate.Ensure(context.Background(), key)
		case "import":
			key, id, _ := strings.Cut(key, " ")
			_, err = gate.Import(context.Background(), polargate.ImportedActivation{Key: key, ActivationID: id})
		case "export":
			exported, err = gate.Export()
		case "check":
			_, err = gate.Check(context.Background())
		case "deactivate":
			err = gate.Deactivate(context.Background())
		case "refresh":
			_, err = gate.Refresh(context.Background())
		case "move":
			_, err = gate.Move(context.Background())
		default:
			return fmt.Errorf("no such call: %q", call)
		}
		done := licenseWord{Call: i, Ended: true, Took: time.Since(start), OK: gate.Has("export"), Exported: exported.ActivationID}
		if err != nil {
			done.Err = err.Error()
		}
		say(done)
	}
	if u.Stay {
		time.Sleep(time.Minute)
		return errors.New("nobody has killed this process")
	}
	return gate.Close()
}

// killPhase is where a kill has struck.
type killPhase int

const (
	struckStarting killPhase = iota
	struckBefore
	struckAtServer
	struckActed
	struckAnswered
	struckStored
	struckIdle
	struckPhases
)

func (p killPhase) String() string {
	return [struckPhases]string{
		"while starting",
		"before the request was at the server",
		"request at the server, nothing done yet",
		"server acted, no answer yet",
		"answered, nothing stored since",
		"stored, call not over",
		"idle, after a call",
	}[p]
}

// killMoment is when a process is to be killed: some time after something has
// happened for the nth time.
type killMoment struct {
	after killEvent
	nth   int
	delay time.Duration
}

type killEvent int

const (
	onStart   killEvent = iota
	onCall              // a call begins
	onRequest           // a request is at the server
	onAction            // the server has acted upon it
	onAnswer            // and answered
	onFile              // a file that is to become the state is there
	onChange            // it has become the state
	onEnd               // all calls are over
)

func (m killMoment) String() string {
	return fmt.Sprintf("%v after %s no. %d", m.delay, [...]string{"start", "call", "request", "action", "answer", "temporary file", "change of the state", "end"}[m.after], m.nth)
}

// anyKillMoment picks a moment for a process that makes these calls. Requests
// and files are too quick to be met by chance, so that most kills go by them.
func anyKillMoment(calls []string, kind string) killMoment {
	m := killMoment{nth: 1}
	m.after = []killEvent{onStart, onCall, onCall, onRequest, onAction, onAction, onAnswer, onAnswer, onFile, onChange, onChange, onEnd}[rand.IntN(12)]
	requests, files := 2*len(calls), 2*len(calls)
	switch kind {
	case "replace":
		requests, files = 4, 3
	case "move to another machine":
		requests, files = 3, 4
	case "activate", "ensure", "deactivate":
		requests, files = 1, 2
	case "import":
		requests, files = 2, 2 // what it replaces is released
	case "refresh", "refresh of a revoked key":
		requests, files = 1, 1
	}
	switch m.after {
	case onStart:
		m.delay = rand.N(30 * time.Millisecond)
	case onCall:
		m.nth = 1 + rand.IntN(len(calls))
		most := []time.Duration{time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond}
		if requests > permitsOfPolar {
			most = append(most, 1300*time.Millisecond) // it waits for Polar's limit
		}
		m.delay = rand.N(most[rand.IntN(len(most))])
	case onRequest, onAction:
		m.nth += rand.IntN(requests)
	case onAnswer:
		m.nth += rand.IntN(requests)
		m.delay = rand.N([]time.Duration{300 * time.Microsecond, 5 * time.Millisecond}[rand.IntN(2)])
	case onFile, onChange:
		m.nth += rand.IntN(files)
		m.delay = rand.N(300 * time.Microsecond)
	}
	return m
}

// standsFor is the license that an installation has, as far as matters here.
type standsFor struct {
	key string // "" is none
	ok  bool   // the program may run
}

// installation is a program in a folder of its own, and its Polar.
type installation struct {
	t     *testing.T
	tally *killTally
	polar *polartest.Polar
	keys  []string
	here  string // the server's URL
	use   licenseUse
	name  string // of the state in the folder
	cache string // what the next process takes for the user's folder for caches
	moves int    // how often it came to another machine

	revoked string          // the key that Polar refuses
	lost    map[string]bool // seats that nobody knows of any more, each reported when that came about
	foreign map[string]bool // those of an earlier program, until they are imported

	mu          sync.Mutex // guards what follows
	story       []string   // what happened, for who reads of a failure
	connections int
	requests    int
	target      *killTarget // nil: nobody is to be killed
}

// killTarget is a process that is to be killed.
type killTarget struct {
	when killMoment
	cmd  *exec.Cmd
	kill func()
	dead chan struct{}

	mu    sync.Mutex // guards what follows
	count map[killEvent]int
	words []licenseWord
	// The last request: how far it came, when it arrived, and the state on disk
	// when it was answered.
	last    killEvent
	arrived time.Time
	state   map[string]string
}

func newInstallation(t *testing.T, tally *killTally) *installation {
	t.Helper()
	in := &installation{t: t, tally: tally, lost: map[string]bool{}, foreign: map[string]bool{}}
	in.polar = polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
		t.Errorf("%s %s: %s", r.Method, r.Path, what)
	}})
	first := in.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(100)})
	second := in.polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(100), BenefitID: first.BenefitID})
	in.keys = []string{first.Key, second.Key}

	server := httptest.NewUnstartedServer(http.HandlerFunc(in.serve))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		in.mu.Lock()
		defer in.mu.Unlock()
		switch s {
		case http.StateNew:
			in.connections++
		case http.StateClosed:
			in.connections--
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	in.here = server.URL
	in.use = licenseUse{
		Folder:       filepath.Join(t.TempDir(), "license"),
		URL:          server.URL,
		Organization: in.polar.OrganizationID(),
		Benefit:      first.BenefitID,
	}
	in.comeTo(0)
	return in
}

// passTime makes it so late that no request of before counts any more, neither
// for Polar's limit of requests nor for the programs that keep to it.
func (in *installation) passTime() {
	in.polar.Advance(2 * time.Second)
	in.cache = in.t.TempDir()
}

func (in *installation) comeTo(machine int) {
	in.moves = machine
	in.use.Machine = fmt.Sprintf("machine no. %d", machine)
	in.name = kit.NamesOf(in.use.Organization, "inkwell").Of(in.use.Machine)
}

func (in *installation) tellf(format string, args ...any) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.story = append(in.story, fmt.Sprintf(format, args...))
}

// complainf fails the test and says how it came to that.
func (in *installation) complainf(format string, args ...any) {
	in.t.Helper()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.t.Errorf("%s\n\t%s", fmt.Sprintf(format, args...), strings.Join(in.story, "\n\t"))
}

// serve is Polar with a slow network before and behind it.
func (in *installation) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/knock" {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the program broke off while sending
	}
	in.mu.Lock()
	in.requests++
	target := in.target
	in.mu.Unlock()
	target.saw(onRequest, nil)
	time.Sleep(rand.N(serverDelay))
	// That the program is gone by now does not keep Polar from acting.
	request := r.Clone(context.Background())
	request.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	in.polar.ServeHTTP(answer, request)
	target.saw(onAction, nil)
	time.Sleep(rand.N(serverDelay))
	stored, _ := in.stored()
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
	_ = http.NewResponseController(w).Flush()
	target.saw(onAnswer, stored)
}

// stored are the states of all machines on disk, and the list of them, by name.
func (in *installation) stored() (map[string]string, error) {
	files := map[string]string{}
	entries, err := os.ReadDir(in.use.Folder)
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	for _, e := range entries {
		if end := filepath.Ext(e.Name()); end != ".sealed" && end != ".index" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(in.use.Folder, e.Name()))
		if err != nil {
			return nil, err
		}
		files[e.Name()] = string(data)
	}
	return files, err
}

// saw takes note of something that happened, and kills if it was the moment. It
// returns when the process is dead, so that what it is in the middle of does
// not go on.
func (v *killTarget) saw(what killEvent, stored map[string]string) {
	if v == nil {
		return
	}
	v.mu.Lock()
	if v.isDead() {
		v.mu.Unlock()
		return
	}
	v.count[what]++
	now := v.when.after == what && v.when.nth == v.count[what]
	switch what {
	case onRequest:
		v.last, v.arrived = onRequest, time.Now()
	case onAction, onAnswer:
		v.last, v.state = what, stored
	}
	delay := v.when.delay
	v.mu.Unlock()
	if now {
		time.Sleep(delay)
		v.kill()
		<-v.dead
	}
}

func (v *killTarget) isDead() bool {
	select {
	case <-v.dead:
		return true
	default:
		return false
	}
}

// start runs a process on the installation and hears what it says.
func (in *installation) start(calls []string, stay bool, hear func(licenseWord)) (*exec.Cmd, func() error) {
	use := in.use
	use.Calls, use.Stay = calls, stay
	arg, err := json.Marshal(use)
	require.NoError(in.t, err)
	cmd := testprogram.Command(in.t, "use-license", string(arg))
	// The folder for caches is where processes share Polar's limit of requests.
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+in.cache, "HOME="+in.cache, "LocalAppData="+in.cache)
	out, err := cmd.StdoutPipe()
	require.NoError(in.t, err)
	require.NoError(in.t, cmd.Start())
	return cmd, func() error {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var word licenseWord
			if json.Unmarshal(lines.Bytes(), &word) == nil { // the last one may be cut
				hear(word)
			}
		}
		return cmd.Wait()
	}
}

// kill runs a process and kills it. It returns how many calls it had begun and
// ended, and where the kill struck.
func (in *installation) kill(calls []string, when killMoment) (begun, over int, where killPhase) {
	v := &killTarget{when: when, count: map[killEvent]int{}, dead: make(chan struct{})}
	ready := make(chan struct{})
	v.kill = sync.OnceFunc(func() {
		<-ready
		if err := v.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			in.t.Errorf("kill: %v", err)
		}
	})
	in.aim(v)
	cmd, wait := in.start(calls, true, func(w licenseWord) {
		v.mu.Lock()
		v.words = append(v.words, w)
		v.mu.Unlock()
		switch {
		case w.Opened:
		case !w.Ended:
			go v.saw(onCall, nil)
		case w.Call == len(calls)-1:
			// If the moment has not come by now, it will not.
			v.mu.Lock()
			v.when = killMoment{after: onEnd, nth: 1}
			v.mu.Unlock()
			go v.saw(onEnd, nil)
		}
	})
	v.cmd = cmd
	close(ready)
	go v.saw(onStart, nil)
	stop := in.watch(v)
	err := wait()
	close(v.dead)
	stop()
	in.aim(nil)
	assert.ErrorContains(in.t, err, killedAs, "the process is to die of the kill")
	in.settle()

	now, _ := in.stored()
	v.mu.Lock()
	defer v.mu.Unlock()
	opened := false
	var since time.Time
	for _, w := range v.words {
		switch {
		case w.Opened:
			opened = true
		case !w.Ended:
			begun, since = begun+1, w.At
		default:
			over++
			in.tellf("the killed program: %s: OK %t, %q, after %v", calls[w.Call], w.OK, w.Err, w.Took)
		}
	}
	switch {
	case !opened:
		where = struckStarting
	case begun == over && begun > 0:
		where = struckIdle
	case !v.arrived.After(since):
		where = struckBefore
	case v.last == onRequest:
		where = struckAtServer
	case v.last == onAction:
		where = struckActed
	case maps.Equal(v.state, now):
		where = struckAnswered
	default:
		where = struckStored
	}
	in.tellf("killed (%v), %d calls of %d over: %v", when, over, len(calls), where)
	return begun, over, where
}

// killedAs is how os/exec calls the end of a process that was killed.
var killedAs = map[bool]string{false: "signal: killed", true: "exit status 1"}[runtime.GOOS == "windows"]

func (in *installation) aim(v *killTarget) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.target = v
}

// settle returns when nothing of a dead process is on its way any more. Who
// knocks is let in behind all those that were there before.
func (in *installation) settle() {
	knock := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := knock.Get(in.here + "/knock")
	require.NoError(in.t, err)
	resp.Body.Close()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		in.mu.Lock()
		open := in.connections
		in.mu.Unlock()
		if open == 0 {
			return
		}
		require.True(in.t, time.Now().Before(deadline), "a connection stays open")
	}
}
