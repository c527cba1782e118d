package polargateredis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// The tests start servers of their own, on loopback, as processes that end with them.

const missing = "%s is not installed, so nothing is proved here: apt-get install redis-server (or valkey-server), or brew install redis"

// soon is how long a test waits for what must happen, on a busy computer.
const soon = 30 * time.Second

func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(soon); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %s: %s", soon, what)
		}
	}
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
}

// server is a process.
type server struct {
	program string
	addr    string
	folder  string
	cmd     *exec.Cmd
}

// program skips a test where a server is not installed.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf(missing, name)
	}
	return path
}

// freePort is one that nobody uses now. A cluster's server needs another, 10,000 above.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		noError(t, err)
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if port > 55_000 {
			continue
		}
		bus, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port+10_000))
		if err != nil {
			continue
		}
		_ = bus.Close()
		return port
	}
	t.Fatal("no free port")
	return 0
}

// start runs a server until the test ends.
func start(t testing.TB, name string, settings ...string) *server {
	t.Helper()
	path := program(t, name)
	for range 5 { // another program may take the port
		s := &server{program: path, folder: t.TempDir()}
		port := strconv.Itoa(freePort(t))
		s.addr = "127.0.0.1:" + port
		config := append([]string{"bind 127.0.0.1", "port " + port, "dir " + s.folder, `save ""`, "appendonly no", "daemonize no", "logfile " + filepath.Join(s.folder, "log")}, settings...)
		if s.run(t, config) {
			return s
		}
	}
	t.Fatalf("%s does not start", name)
	return nil
}

// sentinel watches a primary.
func sentinel(t testing.TB, name string, primary *server) *server {
	t.Helper()
	_, port, _ := net.SplitHostPort(primary.addr)
	path := program(t, name)
	for range 5 {
		s := &server{program: path, folder: t.TempDir()}
		own := strconv.Itoa(freePort(t))
		s.addr = "127.0.0.1:" + own
		if s.run(t, []string{
			"bind 127.0.0.1", "port " + own, "dir " + s.folder, "logfile " + filepath.Join(s.folder, "log"),
			"sentinel monitor main 127.0.0.1 " + port + " 1",
			"sentinel down-after-milliseconds main 300", "sentinel failover-timeout main 2000",
		}, "--sentinel") {
			return s
		}
	}
	t.Fatalf("%s does not start as a sentinel", name)
	return nil
}

func (s *server) run(t testing.TB, config []string, args ...string) (up bool) {
	t.Helper()
	file := filepath.Join(s.folder, "conf")
	noError(t, os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600))
	s.cmd = exec.Command(s.program, append([]string{file}, args...)...)
	noError(t, s.cmd.Start())
	ended := make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); <-ended })
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			return false
		default:
		}
		if reply, err := s.try("PING"); err == nil && strings.HasPrefix(reply, "+PONG") {
			return true
		}
	}
	return false
}

// kill ends a server as a power failure does.
func (s *server) kill(t testing.TB) {
	t.Helper()
	noError(t, s.cmd.Process.Kill())
}

// try sends commands over a connection of its own, and gives what comes back to the last.
func (s *server) try(commands ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(soon))
	buffer := make([]byte, 64<<10)
	n := 0
	for _, command := range commands {
		if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
			return "", err
		}
		if n, err = conn.Read(buffer); err != nil {
			return "", err
		}
	}
	return string(buffer[:n]), nil
}

func (s *server) do(t testing.TB, commands ...string) string {
	t.Helper()
	reply, err := s.try(commands...)
	noError(t, err)
	if strings.HasPrefix(reply, "-") {
		t.Fatalf("%v: %s", commands, reply)
	}
	return reply
}

// startCluster runs three primaries that share all slots.
func startCluster(t testing.TB, name string) (nodes []*server) {
	t.Helper()
	for range 3 {
		nodes = append(nodes, start(t, name, "cluster-enabled yes", "cluster-node-timeout 2000", "cluster-config-file nodes.conf"))
	}
	for i, node := range nodes {
		from, to := i*5462, min((i+1)*5462, 16384)
		slots := make([]string, 0, to-from)
		for slot := from; slot < to; slot++ {
			slots = append(slots, strconv.Itoa(slot))
		}
		node.do(t, "CLUSTER ADDSLOTS "+strings.Join(slots, " "))
		node.do(t, "CLUSTER SET-CONFIG-EPOCH "+strconv.Itoa(i+1))
	}
	for _, node := range nodes[1:] {
		_, port, _ := net.SplitHostPort(node.addr)
		nodes[0].do(t, "CLUSTER MEET 127.0.0.1 "+port)
	}
	for _, node := range nodes {
		eventually(t, "the cluster is whole", func() bool {
			reply, err := node.try("CLUSTER INFO")
			return err == nil && strings.Contains(reply, "cluster_state:ok") && strings.Contains(reply, "cluster_known_nodes:3")
		})
	}
	return nodes
}

// dial makes a client, which ends with the test.
func dial(t testing.TB, option rueidis.ClientOption) rueidis.Client {
	t.Helper()
	option.DisableCache = true
	var client rueidis.Client
	eventually(t, "a client connects", func() (connected bool) {
		var err error
		client, err = rueidis.NewClient(option)
		return err == nil
	})
	t.Cleanup(client.Close)
	return client
}

// behindSentinel are the options for Sentinel, as the documentation has them.
func behindSentinel(address string) rueidis.ClientOption {
	return rueidis.ClientOption{
		InitAddress: []string{address}, DisableCache: true,
		Sentinel: rueidis.SentinelOption{
			MasterSet: "main", Dialer: net.Dialer{Timeout: time.Second, KeepAlive: time.Second}, TopologyRefreshInterval: 5 * time.Second,
		},
	}
}

func store(t testing.TB, client rueidis.Client, prefix string) *Store {
	t.Helper()
	s, err := New(client, Options{Prefix: prefix})
	noError(t, err)
	return s
}

// proxy is a way to a server that can be cut.
type proxy struct {
	addr, to string
	mu       sync.Mutex
	cut      bool
	conns    map[net.Conn]struct{}
	still    sync.RWMutex // locked while nothing comes from the server
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	p := &proxy{addr: l.Addr().String(), to: to, conns: map[net.Conn]struct{}{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p
}

func (p *proxy) serve(conn net.Conn) {
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	server, err := net.Dial("tcp", to)
	p.mu.Lock()
	if err != nil || p.cut {
		p.mu.Unlock()
		_ = conn.Close()
		if err == nil {
			_ = server.Close()
		}
		return
	}
	p.conns[conn], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_, _ = to.Close(), from.Close()
	}
	both.Go(func() { pipe(server, conn) })
	both.Go(func() { pipe(stalling{conn, p}, server) })
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
	delete(p.conns, server)
}

// stalling is what comes from the server, unless the proxy is still.
type stalling struct {
	net.Conn
	p *proxy
}

func (s stalling) Write(b []byte) (int, error) {
	s.p.still.RLock()
	defer s.p.still.RUnlock()
	return s.Conn.Write(b)
}

// stall lets nothing come from the server, and keeps all connections.
func (p *proxy) stall() (flow func()) {
	p.still.Lock()
	return p.still.Unlock
}

// sever ends all connections, and new ones at once.
func (p *proxy) sever() (mend func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for conn := range p.conns {
		_ = conn.Close()
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.cut = false
	}
}

// move has new connections lead to another server, and keeps those that there are.
func (p *proxy) move(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

// ear listens and keeps what it hears.
type ear struct {
	mu   sync.Mutex
	keys map[string]bool
	gaps int
}

// listen listens as Customers do: again and again.
func listen(t testing.TB, s *Store) *ear {
	t.Helper()
	e := &ear{keys: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	var listening sync.WaitGroup
	listening.Go(func() {
		for ctx.Err() == nil {
			err := s.Listen(ctx, func(keys []string, gap bool) {
				e.mu.Lock()
				defer e.mu.Unlock()
				for _, key := range keys {
					e.keys[key] = true
				}
				if gap {
					e.gaps++
				}
			})
			if !errors.Is(err, context.Canceled) {
				time.Sleep(20 * time.Millisecond)
			}
		}
	})
	t.Cleanup(func() { cancel(); listening.Wait() })
	eventually(t, "listening begins", func() bool { return e.gapsHeard() > 0 })
	return e
}

func (e *ear) gapsHeard() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gaps
}

func (e *ear) heard(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keys[key]
}
