package issuer

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
)

// Requests a second and their times of a whole license server: over HTTP, with its state kept.
//
//	go test ./lease/issuer -run xxx -bench Server -benchtime 5000x
var clients = flag.Int("clients", 16, "how many programs BenchmarkServer has at a time")

func BenchmarkServer(b *testing.B) {
	for name, keep := range map[string]func(*Config){
		"memory": func(*Config) {},
		"SharedFile": func(c *Config) {
			c.Store, c.Shared = nil, polargate.SharedFile(filepath.Join(b.TempDir(), "issuer.state"))
		},
		"FileStore": func(c *Config) { c.Store = polargate.FileStore(b.TempDir()) },
	} {
		b.Run(name, func(b *testing.B) { benchmarkServer(b, keep) })
	}
}

func benchmarkServer(b *testing.B, keep func(*Config)) {
	const keys, computers = 20, 25
	s := open(b, func(c *Config) {
		floating(Pool{Max: computers, Heartbeat: time.Hour})(c)
		keep(c)
		c.Logger, c.Recheck, c.PerAddress = nil, 1000*time.Hour, 1_000_000_000
	})
	server := httptest.NewServer(s.issuer.Handler())
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: *clients}}
	bodies := make([]string, 0, b.N+keys*computers)
	all := make([]string, keys)
	for i := range all {
		all[i] = s.key(1).Key
	}
	for i := range cap(bodies) {
		q := s.request(all[i%keys], fmt.Sprint("computer-", i/keys%computers))
		text, err := q.Encode()
		require.NoError(b, err)
		bodies = append(bodies, text)
	}
	ask := func(i int) {
		resp, err := client.Post(server.URL, "text/plain", strings.NewReader(bodies[i]))
		if err != nil {
			b.Error(err)
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Error(resp.StatusCode, string(body), err)
		}
	}
	for i := range keys * computers { // each computer has its place
		ask(i)
	}
	times := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range *clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				began := time.Now()
				ask(keys*computers + i)
				times[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(times)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leases/s")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}
