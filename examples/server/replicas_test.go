package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// demonstration is the demo of replicas as a process, with a folder for temporary files of
// its own.
type demonstration struct {
	*process
	temp string
}

func demonstrate(t *testing.T, env map[string]string) *demonstration {
	t.Helper()
	temp := t.TempDir()
	all := map[string]string{"TMPDIR": temp, "TMP": temp, "TEMP": temp}
	for name, value := range env {
		all[name] = value
	}
	cmd, stdout, stderr := command(all)
	cmd.Args = append(cmd.Args, "-replicas", "3")
	d := &demonstration{&process{t: t, cmd: cmd, stdout: stdout, stderr: stderr, ended: make(chan struct{})}, temp}
	require.NoError(t, cmd.Start())
	go func() {
		defer close(d.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-d.ended
	})
	return d
}

// until waits until the demo has said something.
func (d *demonstration) until(words string) {
	d.t.Helper()
	require.Eventually(d.t, func() bool { return strings.Contains(d.stdout.String(), words) }, patience, 5*time.Millisecond, "%s%s", d.stdout, d.stderr)
}

var loopback = regexp.MustCompile(`http://(127\.0\.0\.1:\d+)`)

// nobodyListens checks that all processes that the demo started have ended.
func (d *demonstration) nobodyListens() {
	d.t.Helper()
	addresses := loopback.FindAllStringSubmatch(d.stdout.String(), -1)
	require.NotEmpty(d.t, addresses)
	for _, address := range addresses {
		require.Eventually(d.t, func() bool {
			c, err := net.Dial("tcp", address[1])
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		}, patience, 5*time.Millisecond, "%s is still there", address[1])
	}
}

func (d *demonstration) leavesNothing() {
	d.t.Helper()
	d.nobodyListens()
	left, err := os.ReadDir(d.temp)
	require.NoError(d.t, err)
	assert.Empty(d.t, left)
}

// showsEverything checks what the demo has told, after it has ended by itself.
func (d *demonstration) showsEverything() {
	d.t.Helper()
	require.Zero(d.t, d.wait(), "%s%s", d.stdout, d.stderr)
	told := d.stdout.String()
	for _, line := range []string{
		`\n1\. One question for all\n`,
		`Her first 60 requests come at once, 20 to\n   each replica\. All are let in\. Polar was asked (once|[23] times)\.`,
		`\n2\. One balance of a meter\n   ada has 5 units of a meter\. 30 requests .*\n.* [1-5] of them are served\.`,
		`\n3\. A purchase reaches all\n`,
		`Every replica answers 402\.`,
		`Replica 1 lets brook in after \d+ ms,\n   replica 2 lets brook in after \d+ ms,\n   replica 3 lets brook in after \d+ ms\.`,
		`\n4\. A cancellation reaches all\n`,
		`Replica 1 refuses ada after \d+ ms,\n   replica 2 refuses ada after \d+ ms,\n   replica 3 refuses ada after \d+ ms\.`,
		`\n5\. One budget of requests\n`,
		`\n6\. A restart while Polar is down\n`,
		`Each replica lets in the 11 customers who pay, and refuses ada\. Polar was not asked\.`,
		`\nThat is all\.`,
	} {
		assert.Regexp(d.t, line, told)
	}
	asked := regexp.MustCompile(`Since the start, Polar was asked (\d+) times`).FindStringSubmatch(told)
	require.NotNil(d.t, asked, told)
	n, err := strconv.Atoi(asked[1])
	require.NoError(d.t, err)
	assert.LessOrEqual(d.t, n, together)
	assert.Empty(d.t, d.stderr.String())
	d.leavesNothing()
}

func TestTheDemoOfReplicasShowsWhatTheyKnowTogetherAndLeavesNothing(t *testing.T) {
	t.Parallel()
	demonstrate(t, nil).showsEverything()
}

func TestTheDemoOfReplicasSharesARedisIfItIsGivenOne(t *testing.T) {
	t.Parallel()
	address := startRedis(t)
	demonstrate(t, map[string]string{"REDIS_URL": "redis://" + address}).showsEverything()
	assert.Equal(t, ":0", askRedis(t, address, "DBSIZE"), "keys are left")
}

func TestCtrlCEndsTheDemoOfReplicasWithAllThatItStarted(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no signal can be sent on Windows")
	}
	for _, moment := range []string{"replica 2 ", "5. One budget"} {
		for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
			t.Run(fmt.Sprintf("%s %s", strings.TrimSpace(moment), signal), func(t *testing.T) {
				t.Parallel()
				d := demonstrate(t, nil)
				d.until(moment)
				require.NoError(t, d.cmd.Process.Signal(signal))
				assert.Equal(t, 1, d.wait())
				assert.Equal(t, "interrupted: the replicas, and what they stored, are removed\n", d.stderr.String())
				d.leavesNothing()
			})
		}
	}
}

func TestTheDemoOfReplicasEndsWhenOneOfThemDies(t *testing.T) {
	t.Parallel()
	d := demonstrate(t, nil)
	d.until("5. One budget")
	pid := d.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Skip("this system doesn't tell which processes a program has started: ", err)
	}
	children := strings.Fields(string(text))
	if len(children) == 0 { // another thread has started them
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		require.NoError(t, err)
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			children = append(children, strings.Fields(string(text))...)
		}
	}
	require.NotEmpty(t, children)
	child, err := strconv.Atoi(children[0])
	require.NoError(t, err)
	process, err := os.FindProcess(child)
	require.NoError(t, err)
	require.NoError(t, process.Kill())
	assert.Equal(t, 1, d.wait())
	assert.Regexp(t, `^replica \d ended by itself \(signal: killed\):`, d.stderr.String())
	d.leavesNothing()
}

func TestNoReplicaOutlivesADemoThatIsKilled(t *testing.T) {
	t.Parallel()
	d := demonstrate(t, nil)
	d.until("3. A purchase")
	require.NoError(t, d.cmd.Process.Kill())
	d.wait()
	d.nobodyListens()
}

func TestAClientBehindSentinelLooksWhetherSentinelIsThere(t *testing.T) {
	t.Parallel()
	option, err := redisOption("redis://sentinel.example.com:26379?master_set=main")
	require.NoError(t, err)
	assert.Equal(t, "main", option.Sentinel.MasterSet)
	assert.Positive(t, option.Sentinel.Dialer.Timeout)
	assert.Positive(t, option.Sentinel.Dialer.KeepAlive)
	assert.Positive(t, option.Sentinel.TopologyRefreshInterval)
}

func TestTheDemoOfReplicasSaysThatRedisCannotBeReachedAndDoesNotSayThePassword(t *testing.T) {
	t.Parallel()
	closed := closedPort(t)
	for address, words := range map[string]string{
		"redis://user:hunter2@" + closed: closed,
		"redis://user:hunter2@[":         "redis://user:password@host:6379/0",
		"http://user:hunter2@" + closed:  "redis://user:password@host:6379/0",
	} {
		d := demonstrate(t, map[string]string{"REDIS_URL": address})
		assert.Equal(t, 1, d.wait())
		assert.Contains(t, d.stderr.String(), "REDIS_URL")
		assert.Contains(t, d.stderr.String(), words)
		assert.NotContains(t, d.stderr.String(), "hunter2")
		assert.Empty(t, d.stdout.String())
	}
}

func TestCustomersAreServedAfterARestartWhilePolarIsDown(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]func(t *testing.T) map[string]string{
		"a file": func(t *testing.T) map[string]string {
			return map[string]string{"POLARGATE_SHARED_FILE": filepath.Join(t.TempDir(), "customers.state")}
		},
		"Redis": func(t *testing.T) map[string]string {
			return map[string]string{"REDIS_URL": "redis://" + startRedis(t) + "/0", "POLARGATE_REDIS_PREFIX": "test:"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t)
			for name, value := range env(t) {
				s.env[name] = value
			}
			s.env["POLARGATE_SHARED_SECRET"] = "correct horse"
			s.env["POLAR_ORGANIZATION_ID"] = s.polar.OrganizationID()
			first := s.serve()
			first.secrets = append(first.secrets, "correct horse")
			first.expect(http.StatusOK, "/pro", payer)
			assert.Regexp(t, `^ok\ncustomers in memory: 1\nPolar: 1 requests, 0 without an answer\nshared store: replicas: 1, `, first.expect(http.StatusOK, "/healthz", "").body)
			require.Equal(t, http.StatusOK, first.do("GET", "/api/data", "X-License-Key: "+s.key.Key).status)
			first.terminate()
			require.Zero(t, first.wait())

			s.polar.SetOffline(true)
			s.env["POLARGATE_SHARED_SECRET"] = "battery staple, correct horse" // it is being replaced
			second := s.serve()
			second.secrets = append(second.secrets, "correct horse", "battery staple")
			second.expect(http.StatusOK, "/pro", payer)
			assert.Equal(t, http.StatusOK, second.do("GET", "/api/data", "X-License-Key: "+s.key.Key).status)
			second.expect(http.StatusServiceUnavailable, "/pro", guest)
			figures := second.expect(http.StatusOK, "/metrics", "").body
			for _, line := range []string{
				"# TYPE polargate_shared_away_seconds gauge\npolargate_shared_away_seconds 0\n", "\npolargate_polar_failures_total 1\n",
				"\npolargate_refused_503_total 1\n", "\npolargate_customers_cached 2\n", "\npolargate_shared_unreadable_total 0\n",
			} {
				assert.Contains(t, figures, line)
			}
		})
	}
}

func TestTheServerStartsWithoutRedisAndUsesItOnceItIsThere(t *testing.T) {
	t.Parallel()
	address := closedPort(t)
	s := openShop(t)
	s.env["REDIS_URL"] = "redis://:hunter2@" + address
	p := s.serve()
	p.secrets = append(p.secrets, "hunter2")
	p.expect(http.StatusOK, "/pro", payer)
	assert.Contains(t, p.stderr.String(), "Redis can't be reached; this server starts without it")
	assert.Regexp(t, `^ok\n(.*\n)*shared store: away for \d+s\n`, p.expect(http.StatusOK, "/healthz", "").body)

	redisAt(t, address, "--requirepass", "hunter2")
	require.Eventually(t, func() bool {
		a, err := p.try("GET", "/healthz")
		return err == nil && strings.Contains(a.body, "shared store: replicas: 1, ")
	}, patience, 20*time.Millisecond, "%s", p.stderr)
	p.expect(http.StatusOK, "/pro", payer)
}

func TestWithoutAStoreTheHealthOfTheServerSaysSo(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	p := s.serve()
	assert.Contains(t, p.expect(http.StatusOK, "/healthz", "").body, "\nshared store: none\n")
	s.polar.Inject(polartest.Fault{Effect: polartest.RateLimited("30"), Times: 1})
	p.expect(http.StatusServiceUnavailable, "/pro", payer)
	assert.Regexp(t, `\nPolar: asked for no requests for \d+s\n`, p.expect(http.StatusOK, "/healthz", "").body)
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func startRedis(t *testing.T) string {
	t.Helper()
	address := closedPort(t)
	redisAt(t, address)
	return address
}

// redisAt runs a server until the test ends.
func redisAt(t *testing.T, address string, settings ...string) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed, so nothing is proved here: apt-get install redis-server, or brew install redis")
	}
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	cmd := exec.Command(path, append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, settings...)...)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, patience, 10*time.Millisecond)
}

func askRedis(t *testing.T, address, command string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer c.Close()
	_, err = fmt.Fprintf(c, "%s\r\n", command)
	require.NoError(t, err)
	buffer := make([]byte, 1024)
	n, err := c.Read(buffer)
	require.NoError(t, err)
	return strings.TrimSpace(string(buffer[:n]))
}
