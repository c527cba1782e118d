package leases

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/polartest"
)

// A pool of five places, fifty computers that want one, and everything that goes wrong:
// processes that are killed, connections that are cut, license servers that are killed, and
// a Polar that cannot be reached. For longer:
//
//	go test ./tests/leases -run TestAPool -chaos 5m -v
var chaosFor = flag.Duration("chaos", 2*time.Second, "for how long TestAPoolNeverHasMoreHoldersThanPlaces kills and cuts")

const (
	floating  = "b0000000-0000-4000-8000-000000000001" // a benefit
	places    = 5
	computers = 50
	heartbeat = time.Second
)

func init() {
	programs["license-server"] = programThatIssues
	programs["floating-client"] = programThatFloats
}

// serverTask is what a license server is started with.
type serverTask struct{ PolarURL, Organization, Token, Benefit, Folder, File string }

// signing is the key of all servers here. Its public half is what clients pin.
var signing = ed25519.NewKeyFromSeed([]byte("a key of tests, and of no vendor"))

func pinned() lease.Keys {
	keys, err := lease.NewKeys(signing.Public().(ed25519.PublicKey))
	if err != nil {
		panic(err) // it is a public key
	}
	return keys
}

func programThatIssues(args []string) error {
	var task serverTask
	if err := json.Unmarshal([]byte(args[0]), &task); err != nil {
		return err
	}
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: task.Organization, AccessToken: task.Token, BaseURL: task.PolarURL, RequestsPerMinute: 60_000,
	})
	if err != nil {
		return err
	}
	config := issuer.Config{
		Client: client, Key: signing, PerAddress: 1_000_000, Recheck: time.Second,
		Pools: map[string]issuer.Pool{task.Benefit: {Max: places, Heartbeat: heartbeat}},
	}
	if task.Folder != "" {
		config.Store = polargate.FileStore(task.Folder)
	} else {
		config.Shared = polargate.SharedFile(task.File)
	}
	server, err := issuer.New(config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, server.Handler())
}

// clientTask is what a computer of the fleet is started with.
type clientTask struct{ URL, Organization, Key, Computer, Journal string }

// programThatFloats asks for a place, keeps it with heartbeats, and now and then gives it
// back, until it is killed. What it holds stands in the journal before it counts.
func programThatFloats(args []string) error {
	var task clientTask
	if err := json.Unmarshal([]byte(args[0]), &task); err != nil {
		return err
	}
	journal, err := os.OpenFile(task.Journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	c := floater{clientTask: task, journal: journal, secret: lease.NewSecret(rand.Text())}
	for {
		wait, err := c.beat()
		if err != nil {
			wait = time.Duration(100+mathrand.IntN(300)) * time.Millisecond // cut off, or refused
		}
		time.Sleep(wait)
	}
}

type floater struct {
	clientTask
	journal io.Writer
	secret  lease.Secret
	held    *lease.Lease
	newest  time.Time
	ahead   time.Duration // of the computer's clock
	borrow  time.Duration // how long a place is sometimes kept
}

var impatient = &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// beat asks for a lease, or gives it back, and says when to do so again.
func (c *floater) beat() (time.Duration, error) {
	if c.held != nil && mathrand.IntN(8) == 0 {
		receipt, err := lease.Receipt{
			ID: rand.Text(), Made: c.now(), OrganizationID: c.Organization, LeaseID: c.held.ID, Fingerprint: c.Computer,
			LicenseKeyID: c.held.LicenseKeyID, Secret: c.secret,
		}.Encode()
		if err != nil {
			return 0, err
		}
		if err := c.note("D", receipt); err != nil { // it is given up first
			return 0, err
		}
		c.newest, c.held, c.secret = c.held.Issued.Add(time.Second), nil, lease.NewSecret(rand.Text())
		_, _, err = post(c.URL, receipt)
		return time.Second, err
	}
	q := lease.Request{
		ID: rand.Text(), Made: c.now(), OrganizationID: c.Organization, Key: lease.NewSecret(c.Key), Fingerprint: c.Computer,
		ReceiptHash: lease.ReceiptHash(c.secret), Label: c.Computer, Newest: c.newest,
	}
	if mathrand.IntN(20) == 0 {
		q.Borrow = c.borrow
	}
	if c.held != nil {
		q.LeaseID, q.Newest = c.held.ID, c.held.Issued
	}
	request, err := q.Encode()
	if err != nil {
		return 0, err
	}
	answer, _, err := post(c.URL, request)
	if err != nil {
		return 0, err
	}
	got, err := pinned().Verify(answer)
	if err != nil {
		return 0, err
	}
	if _, err := got.Check(c.now(), lease.Want{OrganizationID: c.Organization, Fingerprint: c.Computer, Newest: q.Newest}); err != nil {
		return 0, err
	}
	if err := c.note("L", answer); err != nil {
		return 0, err
	}
	c.held = &got
	return heartbeat, nil
}

func (c *floater) now() time.Time { return time.Now().Add(c.ahead) }

func (c *floater) note(what, text string) error {
	_, err := fmt.Fprintf(c.journal, "%s %d %s\n", what, time.Now().Unix(), text)
	return err
}

// post sends a text, and reads an answer. What is refused is an error, with how long to wait.
func post(url, text string) (answer string, retryAfter int, err error) {
	resp, err := impatient.Post(url, "text/plain", strings.NewReader(text))
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", 0, err
	}
	if resp.StatusCode/100 != 2 {
		retryAfter, _ = strconv.Atoi(resp.Header.Get("Retry-After"))
		return "", retryAfter, fmt.Errorf("%d %s", resp.StatusCode, body)
	}
	return string(body), 0, nil
}

// fleet is a test's vendor and its customers.
type fleet struct {
	t       *testing.T
	polar   *polartest.Polar
	key     polartest.LicenseKey
	task    serverTask
	folder  string
	network *network
	running map[string]*exec.Cmd // computers
	started atomic.Int32
}

func (f *fleet) startServer(i int) *exec.Cmd { return f.startProgram("license-server", i) }

// startProgram starts a license server, which is one of the programs of these tests.
func (f *fleet) startProgram(name string, i int) *exec.Cmd {
	task, err := json.Marshal(f.task)
	require.NoError(f.t, err)
	cmd := testprogram.Command(f.t, name, string(task))
	out, err := cmd.StdoutPipe()
	require.NoError(f.t, err)
	require.NoError(f.t, cmd.Start())
	f.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(f.t, err)
	f.network.route(i, strings.TrimSpace(address))
	return cmd
}

func (f *fleet) startComputer(name string) {
	task, err := json.Marshal(clientTask{f.network.url(), f.task.Organization, f.key.Key, name, filepath.Join(f.folder, name+".journal")})
	require.NoError(f.t, err)
	cmd := testprogram.Command(f.t, "floating-client", string(task))
	require.NoError(f.t, cmd.Start())
	f.running[name] = cmd
	f.started.Add(1)
}

func (f *fleet) killComputer(name string) {
	cmd := f.running[name]
	delete(f.running, name)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// network is what lies between the computers and the license servers: one address, with
// connections that break.
type network struct {
	listener net.Listener
	mu       sync.Mutex
	routes   [2]string
	turn     int
	faulty   atomic.Bool
	silent   atomic.Bool // some connections are open and say nothing
}

func newNetwork(t *testing.T) *network {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &network{listener: listener}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go n.carry(conn.(*net.TCPConn))
		}
	}()
	return n
}

func (n *network) url() string { return "http://" + n.listener.Addr().String() + "/lease" }

func (n *network) route(i int, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.routes[i] = address
}

func (n *network) carry(from *net.TCPConn) {
	defer from.Close()
	n.mu.Lock()
	n.turn++
	address := n.routes[n.turn%len(n.routes)]
	n.mu.Unlock()
	fate := 100
	if n.faulty.Load() {
		fate = mathrand.IntN(100)
	}
	if fate < 5 {
		_ = from.SetLinger(0) // refused
		return
	}
	if n.silent.Load() && mathrand.IntN(50) == 0 {
		_, _ = io.Copy(io.Discard, from) // until who asks gives up
		return
	}
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, from) // the request arrives
		_ = to.(*net.TCPConn).CloseWrite()
	}()
	if fate < 15 {
		_, _ = io.CopyN(from, to, int64(mathrand.IntN(600))) // its answer does not, or half of it
		_ = from.SetLinger(0)
		return
	}
	_, _ = io.Copy(from, to)
}

func TestAPoolNeverHasMoreHoldersThanPlacesAndLosesNoneForLongerThanTwoHeartbeats(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]func(*serverTask, string){
		"servers that share a folder": func(s *serverTask, folder string) { s.Folder = filepath.Join(folder, "state") },
		"servers that share a file":   func(s *serverTask, folder string) { s.File = filepath.Join(folder, "issuer.state") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, keep)
			f.chaos(*chaosFor)
			f.checkHolders()
			f.checkNoPlaceIsLost()
		})
	}
}

func newFleet(t *testing.T, keep func(*serverTask, string)) *fleet {
	polar := polartest.New(polartest.Config{})
	server, err := polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	f := &fleet{t: t, polar: polar, folder: t.TempDir(), network: newNetwork(t), running: map[string]*exec.Cmd{}}
	f.key = polar.AddKey(polartest.LicenseKey{BenefitID: floating})
	f.task = serverTask{PolarURL: server.URL, Organization: polar.OrganizationID(), Token: polar.AddToken(polartest.Token{}), Benefit: floating}
	keep(&f.task, f.folder)
	t.Cleanup(func() {
		for name := range f.running {
			f.killComputer(name)
		}
	})
	return f
}

// chaos lets the fleet work while everything breaks, and kills all of it in the end.
func (f *fleet) chaos(d time.Duration) {
	servers := [2]*exec.Cmd{f.startServer(0), f.startServer(1)}
	for i := range computers {
		f.startComputer(fmt.Sprint("computer-", i))
	}
	f.network.faulty.Store(true)
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(40 * time.Millisecond) {
		name := fmt.Sprint("computer-", mathrand.IntN(computers))
		f.killComputer(name)
		f.startComputer(name)
		switch mathrand.IntN(20) {
		case 0, 1:
			i := mathrand.IntN(len(servers))
			_ = servers[i].Process.Kill()
			_ = servers[i].Wait()
			servers[i] = f.startServer(i)
		case 2:
			f.polar.SetOffline(true)
		case 3, 4, 5:
			f.polar.SetOffline(false)
		}
	}
	for name := range f.running {
		f.killComputer(name)
	}
	f.polar.SetOffline(false)
	f.network.faulty.Store(false)
}

// span is when a computer may count as a holder, in seconds by the servers' clock.
type span struct{ from, to int64 }

// checkHolders counts, for each moment, the computers that held a lease.
func (f *fleet) checkHolders() {
	spans := map[string][]span{}
	leases, given := 0, 0
	for i := range computers {
		name := fmt.Sprint("computer-", i)
		data, err := os.ReadFile(filepath.Join(f.folder, name+".journal"))
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(f.t, err)
		for _, line := range bytes.Split(data, []byte("\n")) {
			word := strings.Fields(string(line))
			if len(word) != 3 {
				continue // it was killed while it wrote
			}
			if word[0] == "L" {
				held, err := pinned().Verify(word[2])
				require.NoError(f.t, err)
				require.Equal(f.t, name, held.Fingerprint)
				require.LessOrEqual(f.t, held.Ends().Sub(held.Issued), 2*heartbeat+lease.Skew)
				spans[name] = append(spans[name], span{held.Issued.Unix(), held.Ends().Unix()})
				leases++
				continue
			}
			at, err := strconv.ParseInt(word[1], 10, 64)
			require.NoError(f.t, err)
			receipt, err := lease.ParseReceipt(word[2])
			require.NoError(f.t, err)
			require.Equal(f.t, name, receipt.Fingerprint)
			for j := range spans[name] { // all that it had is void
				spans[name][j].to = min(spans[name][j].to, at)
			}
			given++
		}
	}
	var moments []int64
	for _, all := range spans {
		for _, s := range all {
			moments = append(moments, s.from)
		}
	}
	slices.Sort(moments)
	most := 0
	for _, at := range slices.Compact(moments) {
		holders := 0
		for _, all := range spans {
			if slices.ContainsFunc(all, func(s span) bool { return s.from <= at && at < s.to }) {
				holders++
			}
		}
		most = max(most, holders)
		if !assert.LessOrEqual(f.t, holders, places, "%d computers held a place at %s", holders, time.Unix(at, 0).UTC()) {
			break
		}
	}
	require.NotZero(f.t, leases, "nobody got a lease: nothing was tested")
	f.t.Logf("%d processes of %d computers got %d leases and gave %d back; at most %d at once", f.started.Load(), computers, leases, given, most)
}

// checkNoPlaceIsLost has all places taken by computers that were killed, and asks for each
// of them. A server that makes somebody wait for longer than two heartbeats has lost one.
func (f *fleet) checkNoPlaceIsLost() {
	f.startServer(0)
	f.startServer(1)
	var waited time.Duration
	for i := range places {
		c := floater{clientTask: clientTask{f.network.url(), f.task.Organization, f.key.Key, fmt.Sprint("fresh-", i), ""}, secret: lease.NewSecret(rand.Text())}
		for {
			q := lease.Request{
				ID: rand.Text(), Made: time.Now(), OrganizationID: c.Organization, Key: lease.NewSecret(c.Key), Fingerprint: c.Computer,
				ReceiptHash: lease.ReceiptHash(c.secret),
			}
			text, err := q.Encode()
			require.NoError(f.t, err)
			_, wait, err := post(c.URL, text)
			if err == nil {
				break
			}
			require.ErrorContains(f.t, err, "pool_full")
			require.Positive(f.t, wait)
			waited += time.Duration(wait) * time.Second
			// The fresh computers, too, lose their places after two heartbeats, so this
			// ends in any case; the time that the servers told is what is judged.
			require.LessOrEqual(f.t, waited, 2*heartbeat+places*time.Second, "a place was lost for longer than two heartbeats")
			ctx, cancel := context.WithTimeout(f.t.Context(), time.Duration(wait)*time.Second)
			<-ctx.Done()
			cancel()
		}
	}
}
