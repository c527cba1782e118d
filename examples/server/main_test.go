package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/polargate/polargate/internal/chromium"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var binary string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "server-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(folder, "server")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	if err != nil {
		panic(string(out))
	}
	for _, home := range []string{"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LocalAppData", "AppData"} {
		_ = os.Setenv(home, folder) // the programs keep to themselves
	}
	testprogram.Overlap()
	code := chromium.Run(m)
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

const patience = time.Minute

// output keeps what a process prints, and may be read while it does.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// process is the example as a process of its own.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	url            string
	stdout, stderr *output
	ended          chan struct{}
	client         *http.Client
	secrets        []string // that must not be printed
}

func command(env map[string]string) (*exec.Cmd, *output, *output) {
	cmd := exec.Command(binary)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "POLAR") && !strings.HasPrefix(v, "ADDR=") && !strings.HasPrefix(v, "REDIS_URL=") && !strings.HasPrefix(strings.ToUpper(v), "HTTP_PROXY=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, name+"="+env[name])
	}
	stdout, stderr := &output{}, &output{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

var listening = regexp.MustCompile(`(?m)^Listening on (http://\S+)$`)

// start starts the example on a free port, and ends it with the test.
func start(t *testing.T, env map[string]string) *process {
	t.Helper()
	all := map[string]string{"ADDR": "127.0.0.1:0"}
	maps.Copy(all, env)
	cmd, stdout, stderr := command(all)
	p := &process{t: t, cmd: cmd, stdout: stdout, stderr: stderr, ended: make(chan struct{})}
	p.client = &http.Client{
		Timeout:       patience,
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	require.NoError(t, cmd.Start())
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		p.client.CloseIdleConnections()
		p.terminate()
		p.wait()
		printed := stdout.String() + stderr.String()
		for _, secret := range append(p.secrets, "@example.com") {
			assert.NotContains(t, printed, secret, "a secret was printed")
		}
		assert.NotContains(t, printed, "panic")
		assert.NotContains(t, printed, "DATA RACE")
	})
	require.Eventually(t, func() bool {
		if found := listening.FindStringSubmatch(stdout.String()); found != nil {
			p.url = found[1]
		}
		return p.url != ""
	}, patience, 5*time.Millisecond, "it does not listen: %s", stderr)
	return p
}

func (p *process) terminate() {
	if runtime.GOOS == "windows" {
		_ = p.cmd.Process.Kill()
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
}

// wait waits for the end of the process, and gives its exit code.
func (p *process) wait() int {
	select {
	case <-p.ended:
	case <-time.After(2 * patience):
		_ = p.cmd.Process.Kill()
		p.t.Error("the server does not end")
		<-p.ended
	}
	return p.cmd.ProcessState.ExitCode()
}

// answer is an answer with its body read.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request with headers given as "Name: value".
func (p *process) do(method, path string, headers ...string) answer {
	p.t.Helper()
	a, err := p.try(method, path, headers...)
	require.NoError(p.t, err)
	return a
}

func (p *process) try(method, path string, headers ...string) (answer, error) {
	r, err := http.NewRequestWithContext(context.Background(), method, p.url+path, nil)
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	response, err := p.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body)}, err
}

func (p *process) get(path, user string) answer {
	p.t.Helper()
	if user == "" {
		return p.do("GET", path)
	}
	return p.do("GET", path, "X-Demo-User: "+user)
}

func (p *process) expect(status int, path, user string) answer {
	p.t.Helper()
	a := p.get(path, user)
	require.Equal(p.t, status, a.status, "%s as %q: %s\n%s", path, user, a.body, p.stderr)
	if status >= 400 && strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") {
		assert.Equal(p.t, "no-store", a.header.Get("Cache-Control"))
	}
	return a
}

// eventually waits until a path answers with a status.
func (p *process) eventually(status int, path, user string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		a, err := p.try("GET", path, "X-Demo-User: "+user)
		return err == nil && a.status == status
	}, patience, 10*time.Millisecond, "%s as %s does not answer %d", path, user, status)
}

func (p *process) problem(a answer) map[string]any {
	p.t.Helper()
	assert.Equal(p.t, "application/problem+json", a.header.Get("Content-Type"))
	var problem map[string]any
	require.NoError(p.t, json.Unmarshal([]byte(a.body), &problem), a.body)
	assert.EqualValues(p.t, a.status, problem["status"])
	assert.NotEmpty(p.t, problem["detail"])
	return problem
}

// curls are the commands that the demo prints.
func (p *process) curls() []string {
	var lines []string
	require.Eventually(p.t, func() bool {
		lines = nil
		text := p.stdout.String()
		for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
			if line := strings.TrimSpace(scanner.Text()); strings.HasPrefix(line, "curl ") {
				lines = append(lines, line)
			}
		}
		return strings.HasSuffix(text, "\n\n") && len(lines) > 0
	}, patience, 5*time.Millisecond)
	return lines
}

var word = regexp.MustCompile(`'[^']*'|\S+`)

// curl does what a printed command says.
func (p *process) curl(line string) answer {
	p.t.Helper()
	words := word.FindAllString(line, -1)
	method, url := "GET", ""
	var headers []string
	for i := 1; i < len(words); i++ {
		switch w := strings.Trim(words[i], "'"); w {
		case "-i":
		case "-X":
			i++
			method = words[i]
		case "-H":
			i++
			headers = append(headers, strings.Trim(words[i], "'"))
		default:
			require.Empty(p.t, url, line)
			url = w
		}
	}
	path, ok := strings.CutPrefix(url, p.url)
	require.True(p.t, ok, "%s is not about %s", line, p.url)
	return p.do(method, path, headers...)
}

// demoKey is the license key that the demo prints.
func (p *process) demoKey() string {
	p.t.Helper()
	for _, line := range p.curls() {
		if _, rest, ok := strings.Cut(line, "X-License-Key: "); ok {
			key, _, _ := strings.Cut(rest, "'")
			return key
		}
	}
	p.t.Fatal("no license key was printed")
	return ""
}

func TestWithNothingSetTheDemoPrintsCommandsThatWork(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	var statuses []int
	lines := p.curls()
	for _, line := range lines {
		a := p.curl(line)
		statuses = append(statuses, a.status)
		if strings.HasSuffix(line, "/demo/cancel") {
			p.expect(http.StatusPaymentRequired, "/pro", ada)
		}
	}
	assert.Equal(t, []int{200, 401, 200, 402, 200, 200, 303, 303}, statuses, "%s", strings.Join(lines, "\n"))
	p.expect(http.StatusOK, "/pro", ada)
	assert.Empty(t, p.stderr.String())
	p.terminate()
	assert.Zero(t, p.wait())
}

func TestArgumentsAreAnsweredWithTheSettingsThatThereAre(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, argument := range []string{"--help", "--port=80", "-replicas=1", "-replicas=10", "-replicas=x", "serve"} {
		cmd, stdout, stderr := command(nil)
		cmd.Args = append(cmd.Args, argument)
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Run(), &exit)
		assert.Equal(t, 2, exit.ExitCode())
		assert.Empty(t, stdout.String())
		settings := 0
		for _, path := range sources {
			source, err := os.ReadFile(path)
			require.NoError(t, err)
			for _, setting := range regexp.MustCompile(`getenv\("(\w+)"\)`).FindAllSubmatch(source, -1) {
				settings++
				assert.Contains(t, stderr.String(), string(setting[1]))
			}
		}
		assert.Greater(t, settings, 10)
	}
}

func TestTheRoutesOfTheDemoAnswerAsDocumented(t *testing.T) {
	t.Parallel()
	p := start(t, nil)

	p.expect(http.StatusOK, "/free", "")
	p.expect(http.StatusOK, "/healthz", "")
	p.expect(http.StatusNotFound, "/nothing", "")
	assert.Equal(t, http.StatusMethodNotAllowed, p.do("POST", "/free").status)

	assert.NotContains(t, p.problem(p.expect(http.StatusUnauthorized, "/pro", "")), "upgrade_url")
	assert.Contains(t, p.expect(http.StatusOK, "/pro", ada).body, "export, pro")
	for _, user := range []string{brook, "nobody-that-polar-knows", "ADA"} {
		problem := p.problem(p.expect(http.StatusPaymentRequired, "/pro", user))
		assert.Equal(t, "feature pro", problem["required"], user)
		assert.Equal(t, "/#plans", problem["upgrade_url"], user)
	}
	p.problem(p.expect(http.StatusBadRequest, "/pro", "a/../b"))

	a := p.do("GET", "/pro", "X-Demo-User: "+brook, "Accept: text/html,application/xhtml+xml,*/*;q=0.8")
	assert.Equal(t, http.StatusSeeOther, a.status)
	assert.Equal(t, "/#plans", a.header.Get("Location"))
	assert.Contains(t, p.get("/", brook).body, `id="plans"`, "it leads somewhere")

	a = p.do("POST", "/webhooks/polar")
	assert.Equal(t, http.StatusUnauthorized, a.status)
	assert.Equal(t, http.StatusMethodNotAllowed, p.do("GET", "/webhooks/polar").status)
}

func TestTheMeterOfTheDemoCountsDownAndThenRefuses(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.expect(http.StatusUnauthorized, "/meter", "")
	p.expect(http.StatusPaymentRequired, "/meter", brook)
	for _, left := range []string{"4", "3", "2", "1", "0"} {
		assert.Equal(t, "You used one unit. Left: "+left+".\n", p.expect(http.StatusOK, "/meter", ada).body)
	}
	problem := p.problem(p.expect(http.StatusPaymentRequired, "/meter", ada))
	assert.Regexp(t, "^meter .* of at least 1$", problem["required"])
	page := p.get("/", ada).body
	assert.Contains(t, page, "/meter: 0 left of 5")
	p.expect(http.StatusOK, "/pro", ada)
}

func TestManyAtOnceUseNoMoreOfTheMeterThanThereIs(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	var group sync.WaitGroup
	var mu sync.Mutex
	count := map[int]int{}
	for range 20 {
		group.Go(func() {
			a, err := p.try("GET", "/meter", "X-Demo-User: "+ada)
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			count[a.status]++
		})
	}
	group.Wait()
	assert.Equal(t, map[int]int{200: 5, 402: 15}, count)
}

func TestTheAPIOfTheDemoTakesItsLicenseKeyAndNoOther(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	key := p.demoKey()
	a := p.do("GET", "/api/data", "X-License-Key: "+key)
	require.Equal(t, http.StatusOK, a.status, a.body)
	var body struct {
		Data []int
		Key  string
	}
	require.NoError(t, json.Unmarshal([]byte(a.body), &body))
	assert.Equal(t, []int{1, 2, 3}, body.Data)
	assert.Equal(t, "****-"+key[len(key)-6:], body.Key)

	const wrong = "POLAR-00000000-0000-4000-8000-000000000000"
	for _, headers := range [][]string{nil, {"X-License-Key: " + wrong}, {"X-License-Key: x"}, {"X-Demo-User: " + ada}} {
		a := p.do("GET", "/api/data", headers...)
		assert.Equal(t, http.StatusUnauthorized, a.status, headers)
		p.problem(a)
		assert.NotContains(t, a.body, wrong)
	}
	p.secrets = append(p.secrets, wrong)
	assert.NotContains(t, p.stderr.String(), key)
}

func TestACancellationInTheDemoTakesEffectAtOnceAndIsUndone(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.expect(http.StatusOK, "/pro", ada)
	assert.Equal(t, http.StatusSeeOther, p.do("POST", "/demo/cancel", "X-Demo-User: "+ada).status)
	p.eventually(http.StatusPaymentRequired, "/pro", ada)
	assert.Equal(t, http.StatusSeeOther, p.do("POST", "/demo/restore", "X-Demo-User: "+ada).status)
	p.eventually(http.StatusOK, "/pro", ada)

	assert.Equal(t, http.StatusNotFound, p.do("POST", "/demo/cancel").status)
	assert.Equal(t, http.StatusNotFound, p.do("POST", "/demo/cancel", "X-Demo-User: "+brook).status)
	assert.NotEqual(t, http.StatusSeeOther, p.do("GET", "/demo/cancel", "X-Demo-User: "+ada).status, "a link changes nothing")
	p.expect(http.StatusOK, "/pro", ada)
}

func TestOtherSitesCannotCancelAnythingInTheDemo(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	for _, headers := range [][]string{
		{"Sec-Fetch-Site: cross-site"},
		{"Sec-Fetch-Site: same-site"},
		{"Origin: https://elsewhere.example"},
	} {
		for _, path := range []string{"/demo/cancel", "/demo/user"} {
			a := p.do("POST", path, append(headers, "Cookie: "+userCookie+"="+ada)...)
			assert.Equal(t, http.StatusForbidden, a.status, "%s %s", path, headers)
		}
	}
	p.expect(http.StatusOK, "/pro", ada)
	a := p.do("POST", "/demo/cancel", "Sec-Fetch-Site: same-origin", "Cookie: "+userCookie+"="+ada)
	assert.Equal(t, http.StatusSeeOther, a.status)
	p.expect(http.StatusPaymentRequired, "/pro", ada)
}

func TestThePageShowsWhoIsSignedIn(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	a := p.expect(http.StatusOK, "/", "")
	assert.Contains(t, a.body, "You aren't signed in.")
	assert.Contains(t, a.header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
	assert.Contains(t, p.get("/", ada).body, `<strong id="user">ada</strong>`)
	assert.Contains(t, p.get("/", "casey").body, "unknown to Polar")
	a = p.get("/", "<script>alert(1)</script>")
	assert.NotContains(t, a.body, "<script>")
	assert.Contains(t, a.body, `role="alert"`, "an id that cannot be asked about")
	assert.NotContains(t, a.body, "does not know")

	response, err := p.client.PostForm(p.url+"/demo/user", map[string][]string{"user": {ada}})
	require.NoError(t, err)
	_ = response.Body.Close()
	require.Len(t, response.Cookies(), 1)
	cookie := response.Cookies()[0]
	assert.True(t, cookie.HttpOnly)
	assert.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
	assert.Contains(t, p.do("GET", "/", "Cookie: "+cookie.Name+"="+cookie.Value).body, `<strong id="user">ada</strong>`)
}

// shop is a Polar of the test, and what the server is told of it.
type shop struct {
	t        *testing.T
	polar    *polartest.Polar
	endpoint polartest.Endpoint
	customer polartest.Customer
	plan     polartest.Subscription
	key      polartest.LicenseKey
	meter    string
	token    string
	secret   string
	env      map[string]string
}

const (
	payer = "usr_1337"
	guest = "usr_2"
)

func openShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{t: t, secret: "whsec_c2VydmVyLWV4YW1wbGUtb3duLXNlY3JldA=="}
	s.polar = polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
		t.Errorf("%s %s: %s", r.Method, r.Path, what)
	}})
	server, err := s.polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	s.customer = s.polar.AddCustomer(polartest.Customer{
		ExternalID: payer, Email: "payer@example.com", Meters: []polartest.Meter{{CreditedUnits: 2}},
	})
	s.meter = s.customer.Meters[0].MeterID
	s.polar.AddCustomer(polartest.Customer{ExternalID: guest, Email: "guest@example.com"})
	s.plan = s.polar.Subscribe(payer, polartest.Subscription{}, polartest.Benefit{})
	s.customer, _ = s.polar.Customer(payer)
	s.key = s.polar.AddKey(polartest.LicenseKey{})
	s.token = s.polar.AddToken(polartest.Token{})
	s.env = map[string]string{
		"POLAR_ACCESS_TOKEN":   s.token,
		"POLAR_API_URL":        server.URL,
		"POLAR_WEBHOOK_SECRET": s.secret,
		"POLARGATE_FEATURES":   s.customer.Benefits[0].BenefitID + "=pro, export; " + s.key.BenefitID + "=api",
		"POLARGATE_METER":      s.meter,
	}
	return s
}

// serve starts the server, and tells Polar where its webhooks go.
func (s *shop) serve() *process {
	s.t.Helper()
	p := start(s.t, s.env)
	p.secrets = append(p.secrets, s.token, s.key.Key, payer)
	for secret := range strings.SplitSeq(s.env["POLAR_WEBHOOK_SECRET"], ",") {
		if secret = strings.TrimSpace(secret); secret != "" {
			p.secrets = append(p.secrets, secret, strings.TrimPrefix(secret, "whsec_"))
		}
	}
	s.endpoint = s.polar.AddEndpoint(polartest.Endpoint{URL: p.url + "/webhooks/polar", Secrets: []polartest.Secret{{Text: s.secret}}})
	return p
}

// questions are how often Polar was asked about a customer.
func (s *shop) questions() int { return s.polar.Count("/state") }

func TestTheReturnPageWaitsForThePurchase(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	p := s.serve()
	p.expect(http.StatusPaymentRequired, "/pro", guest)
	p.expect(http.StatusUnauthorized, "/return", "")
	shown := make(chan answer, 1)
	go func() {
		a, _ := p.try("GET", "/return", "X-Demo-User: "+guest)
		shown <- a
	}()
	asked := s.questions()
	require.Eventually(t, func() bool { return s.questions() > asked }, patience, time.Millisecond, "it asks")
	s.polar.Subscribe(guest, polartest.Subscription{}, polartest.Benefit{BenefitID: s.customer.Benefits[0].BenefitID})
	a := <-shown
	assert.Equal(t, http.StatusSeeOther, a.status, a.body)
	assert.Equal(t, "/", a.header.Get("Location"))
	p.expect(http.StatusOK, "/pro", guest)
}

func TestACancellationReachesTheServerByWebhook(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	p := s.serve()
	p.expect(http.StatusOK, "/pro", payer)
	p.expect(http.StatusPaymentRequired, "/pro", guest)
	asked := s.questions()

	s.polar.CancelSubscription(payer, s.plan.ID)
	p.eventually(http.StatusPaymentRequired, "/pro", payer)
	s.polar.RestoreSubscription(payer, s.plan.ID)
	p.eventually(http.StatusOK, "/pro", payer)
	s.polar.Subscribe(guest, polartest.Subscription{}, polartest.Benefit{BenefitID: s.customer.Benefits[0].BenefitID})
	p.eventually(http.StatusOK, "/pro", guest)
	assert.Equal(t, asked, s.questions(), "webhooks tell it all")
	s.polar.DeleteCustomer(guest)
	p.eventually(http.StatusPaymentRequired, "/pro", guest)
	assert.LessOrEqual(t, s.questions(), asked+1, "Polar does not say whose external id is free now")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, s.polar.WaitForDeliveries(ctx))
	for _, d := range s.polar.Deliveries() {
		require.Len(t, d.Attempts, 1)
		assert.Equal(t, http.StatusNoContent, d.Attempts[0].Status)
	}
}

func TestWhileASecretIsReplacedBothAreTakenAndNoOther(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	const before = "polar_whs_an-older-secret"
	s.env["POLAR_WEBHOOK_SECRET"] = " " + before + " , " + s.secret + ","
	p := s.serve()
	p.expect(http.StatusOK, "/pro", payer)
	event := polartest.Message{Body: []byte(`{"type":"benefit.updated","timestamp":"2026-01-01T00:00:00Z","data":{}}`)}
	for secret, status := range map[polartest.Secret]int{
		{Text: s.secret}:                 http.StatusNoContent,
		{Text: s.secret, Raw: true}:      http.StatusNoContent,
		{Text: before, Raw: true}:        http.StatusNoContent,
		{Text: "somebody's", Raw: true}:  http.StatusUnauthorized,
		{Text: "whsec_c29tZWJvZHkncw=="}: http.StatusUnauthorized,
		{Text: before + ",", Raw: true}:  http.StatusUnauthorized,
		{Text: " " + before, Raw: true}:  http.StatusUnauthorized,
	} {
		event.Secrets = []polartest.Secret{secret}
		got, err := s.polar.Send(s.endpoint.ID, event)
		require.NoError(t, err)
		assert.Equal(t, status, got, "%+v", secret)
	}
}

func TestACancellationSignedWithAnotherSecretChangesNothingAndIsLogged(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	p := s.serve()
	p.expect(http.StatusOK, "/pro", payer)
	s.polar.UpdateEndpoint(s.endpoint.ID, func(e *polartest.Endpoint) {
		e.Secrets = []polartest.Secret{{Text: "not the one of the server", Raw: true}}
	})
	s.polar.CancelSubscription(payer, s.plan.ID)
	require.Eventually(t, func() bool {
		d := s.polar.Deliveries()
		return len(d) > 0 && len(d[0].Attempts) > 0
	}, patience, 10*time.Millisecond)
	assert.Equal(t, http.StatusUnauthorized, s.polar.Deliveries()[0].Attempts[0].Status)
	p.expect(http.StatusOK, "/pro", payer)
	assert.Contains(t, p.stderr.String(), "the secret is not that of the endpoint")
}

func TestWithoutASecretEveryWebhookIsRefusedAndTheLogSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.env["POLAR_WEBHOOK_SECRET"] = " , "
	p := s.serve()
	got, err := s.polar.Send(s.endpoint.ID, polartest.Message{Body: []byte(`{}`)})
	require.NoError(t, err)
	assert.Equal(t, http.StatusUnauthorized, got)
	p.expect(http.StatusOK, "/pro", payer)
	assert.Contains(t, p.stderr.String(), "pass the endpoint's secret")
}

func TestFeaturesAreThoseOfTheSetting(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	benefit := s.customer.Benefits[0].BenefitID
	s.env["POLARGATE_FEATURES"] = " " + strings.ToUpper(benefit) + " = zebra ,pro, zebra ;; " + s.key.BenefitID + " = ;"
	p := s.serve()
	assert.Contains(t, p.expect(http.StatusOK, "/pro", payer).body, "You have: pro, zebra.")
	assert.Equal(t, http.StatusOK, p.do("GET", "/api/data", "X-License-Key: "+s.key.Key).status)
	other := s.polar.AddKey(polartest.LicenseKey{})
	p.secrets = append(p.secrets, other.Key)
	a := p.do("GET", "/api/data", "X-License-Key: "+other.Key)
	assert.Equal(t, http.StatusPaymentRequired, a.status, "a key of another benefit")
	assert.Equal(t, "wrong_benefit", p.problem(a)["reason"])

	delete(s.env, "POLARGATE_FEATURES")
	without := s.serve()
	without.expect(http.StatusPaymentRequired, "/pro", payer)
	assert.Equal(t, http.StatusOK, without.do("GET", "/api/data", "X-License-Key: "+other.Key).status, "every key of the organization")
}

func TestTheMeterIsThatOfTheSetting(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	p := s.serve()
	assert.Contains(t, p.expect(http.StatusOK, "/meter", payer).body, "Left: 1.")
	assert.Contains(t, p.expect(http.StatusOK, "/meter", payer).body, "Left: 0.")
	p.expect(http.StatusPaymentRequired, "/meter", payer)
	p.expect(http.StatusPaymentRequired, "/meter", guest)
	s.polar.CreditMeter(payer, s.meter, 3)
	p.eventually(http.StatusOK, "/meter", payer)
}

func TestWithoutAMeterTheServerSaysSo(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	delete(s.env, "POLARGATE_METER")
	p := s.serve()
	for _, user := range []string{"", payer, guest} {
		assert.Contains(t, p.expect(http.StatusNotFound, "/meter", user).body, "POLARGATE_METER")
	}
	page := p.get("/", payer).body
	assert.NotContains(t, page, `href="/meter"`)
	assert.Contains(t, page, s.meter+": 2 left of 2", "meters that it does not use have no name")
	p.expect(http.StatusOK, "/pro", payer)
}

func TestTheDemoIsNotThereWithARealPolar(t *testing.T) {
	t.Parallel()
	p := openShop(t).serve()
	assert.NotEqual(t, http.StatusSeeOther, p.do("POST", "/demo/cancel", "X-Demo-User: "+payer).status)
	assert.NotContains(t, p.stdout.String(), "curl")
	page := p.get("/", payer).body
	assert.Contains(t, page, `<strong id="user">usr_1337</strong>`)
	assert.NotContains(t, page, `id="cancel"`)
	assert.NotContains(t, page, "@example.com")
	p.expect(http.StatusOK, "/pro", payer)
}

func TestWithPolarOfflineKnownCustomersAreServedAndOthersAskedToWait(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	p := s.serve()
	p.expect(http.StatusOK, "/pro", payer)
	assert.Equal(t, http.StatusOK, p.do("GET", "/api/data", "X-License-Key: "+s.key.Key).status)
	s.polar.SetOffline(true)

	p.expect(http.StatusOK, "/pro", payer)
	assert.Equal(t, http.StatusOK, p.do("GET", "/api/data", "X-License-Key: "+s.key.Key).status)
	a := p.expect(http.StatusServiceUnavailable, "/pro", guest)
	assert.Equal(t, "unreachable", p.problem(a)["reason"])
	assert.Regexp(t, `^[1-9]\d*$`, a.header.Get("Retry-After"))
	p.expect(http.StatusOK, "/free", guest)
	p.expect(http.StatusOK, "/healthz", "")
	page := p.expect(http.StatusOK, "/", guest).body
	assert.Contains(t, page, `role="alert"`)
	assert.NotContains(t, page, "does not know", "nobody can say so")

	s.polar.SetOffline(false)
	p.eventually(http.StatusPaymentRequired, "/pro", guest)
}

func TestARejectedTokenIsAnswered503AndTheLogSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]polartest.Token{
		"without the scope": {Scopes: []string{"license_keys:read"}},
		"expired":           {ExpiresAt: time.Now().Add(-time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t)
			s.token = s.polar.AddToken(token)
			s.env["POLAR_ACCESS_TOKEN"] = s.token
			p := s.serve()
			a := p.expect(http.StatusServiceUnavailable, "/pro", payer)
			assert.Equal(t, "misconfigured", p.problem(a)["reason"])
			assert.NotEmpty(t, a.header.Get("Retry-After"))
			p.expect(http.StatusServiceUnavailable, "/pro", guest)
			p.expect(http.StatusOK, "/healthz", "")
			log := p.stderr.String()
			assert.Equal(t, 1, strings.Count(log, "level=ERROR"), log)
			assert.Contains(t, log, "rejects the access token")
			assert.Contains(t, log, "customers:read")
		})
	}
}

func TestATokenForCustomersOnlyServesThemAndIsReportedOnceForKeys(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.token = s.polar.AddToken(polartest.Token{Scopes: []string{"customers:read"}})
	s.env["POLAR_ACCESS_TOKEN"] = s.token
	p := s.serve()
	for _, user := range []string{"usr_a", "usr_b", "usr_c"} {
		p.expect(http.StatusPaymentRequired, "/pro", user)
		a := p.do("GET", "/api/data", "X-License-Key: "+s.key.Key)
		assert.Equal(t, http.StatusServiceUnavailable, a.status)
		assert.Equal(t, "misconfigured", p.problem(a)["reason"])
	}
	log := p.stderr.String()
	assert.Equal(t, 1, strings.Count(log, "level=ERROR"), log)
	assert.Contains(t, log, "license_keys:read")
	p.expect(http.StatusOK, "/pro", payer)
}

func TestAProblemWithOneCustomerDoesNotAffectOthers(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	p := s.serve()
	// A firewall on the way does not like the look of an id.
	s.polar.Inject(polartest.Fault{Path: "/usr_select/state", Effect: polartest.ProxyPage(http.StatusForbidden)})
	for _, user := range []string{payer, guest, "usr_new"} {
		p.expect(http.StatusServiceUnavailable, "/pro", "usr_select")
		assert.NotEqual(t, http.StatusServiceUnavailable, p.get("/pro", user).status, user)
	}
}

func TestToldToEndTheServerFinishesTheRequestUnderWayAndTakesNoOther(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGTERM on Windows")
	}
	s := openShop(t)
	p := s.serve()
	s.polar.Inject(polartest.Fault{Path: "/state", Effect: polartest.Delay(time.Second)})
	under := make(chan answer, 1)
	go func() {
		a, err := p.try("GET", "/pro", "X-Demo-User: "+payer)
		assert.NoError(t, err)
		under <- a
	}()
	require.Eventually(t, func() bool { return s.questions() > 0 }, patience, 5*time.Millisecond)
	p.terminate()
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, patience, 5*time.Millisecond, "new connections are refused")
	select {
	case a := <-under:
		t.Errorf("the request was over before that: %d", a.status)
	default:
		assert.Equal(t, http.StatusOK, (<-under).status)
	}
	assert.Zero(t, p.wait(), p.stderr)
	assert.Contains(t, p.stdout.String(), "Ending")
}

func TestAServerThatCannotStartSaysWhyAndExitsWithOne(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	const token = "polar_oat_not-to-be-printed"
	for name, c := range map[string]struct {
		env   map[string]string
		words []string
	}{
		"address in use":      {map[string]string{"ADDR": taken.Addr().String()}, []string{taken.Addr().String(), "in use", "set ADDR"}},
		"no address":          {map[string]string{"ADDR": "nonsense"}, []string{"nonsense", "set ADDR"}},
		"features":            {map[string]string{"POLARGATE_FEATURES": "pro"}, []string{"POLARGATE_FEATURES", "benefit=feature"}},
		"a benefit not an id": {map[string]string{"POLARGATE_FEATURES": "gold=pro", "POLAR_ACCESS_TOKEN": token}, []string{"Features", "UUID"}},
		"base URL":            {map[string]string{"POLAR_API_URL": "not a url", "POLAR_ACCESS_TOKEN": token}, []string{"BaseURL"}},
		"a meter not an id":   {map[string]string{"POLARGATE_METER": "calls", "POLAR_ACCESS_TOKEN": token}, []string{"POLARGATE_METER", "UUID"}},
		"a secret alone":      {map[string]string{"POLAR_WEBHOOK_SECRET": "whsec_x"}, []string{"POLAR_WEBHOOK_SECRET", "POLAR_ACCESS_TOKEN"}},
		"a number":            {map[string]string{"POLARGATE_REQUESTS": "many"}, []string{"POLARGATE_REQUESTS", "300"}},
		"an address of Redis": {map[string]string{"REDIS_URL": "redis://user:" + token + "@["}, []string{"REDIS_URL", "redis://user:password@host:6379/0"}},
		"a base URL alone":    {map[string]string{"POLAR_API_URL": "http://127.0.0.1:1"}, []string{"POLAR_API_URL", "POLAR_ACCESS_TOKEN"}},
		"token":               {map[string]string{"POLAR_ACCESS_TOKEN": token + "\nx"}, []string{"AccessToken"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"ADDR": "127.0.0.1:0"}
			maps.Copy(env, c.env)
			cmd, stdout, stderr := command(env)
			require.NoError(t, cmd.Start())
			timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
			_ = cmd.Wait()
			timer.Stop()
			assert.Equal(t, 1, cmd.ProcessState.ExitCode(), stdout)
			for _, words := range c.words {
				assert.Contains(t, stderr.String(), words)
			}
			assert.Equal(t, 1, strings.Count(stderr.String(), "\n"), stderr)
			assert.NotContains(t, stdout.String()+stderr.String(), token)
			assert.Empty(t, stdout.String())
		})
	}
}
