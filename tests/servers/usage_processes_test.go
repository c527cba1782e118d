package servers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

// programs are what the test binary can be in a process of its own.
var programs = testprogram.Programs{"sell": sell, "burst": burst}

// started is a Polar on a loopback port, with a customer who has so many calls.
func started(t *testing.T, credits int64) (polar *polartest.Polar, config polargate.CustomersConfig) {
	t.Helper()
	s := metered(t)
	s.Polar.CreditMeter(kit.Paying, kit.CallsMeter, credits-100)
	server, err := s.Polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	s.Config.BaseURL = server.URL
	return s.Polar, s.Config
}

// connected is Customers in a program: its arguments are address, token and organization.
func connected(args []string, change func(*polargate.CustomersConfig)) (*polargate.Customers, error) {
	config := polargate.CustomersConfig{BaseURL: args[0], AccessToken: args[1], OrganizationID: args[2], FreshFor: time.Hour, RequestsPerMinute: 100_000}
	change(&config)
	return polargate.NewCustomers(config)
}

// sell commits usage until it is killed, and says of each that it is stored. With "drain" it
// only sends what is left.
func sell(args []string) error {
	customers, err := connected(args, func(c *polargate.CustomersConfig) { c.UsageFolder = args[3] })
	if err != nil {
		return err
	}
	if args[4] == "drain" {
		return customers.Close()
	}
	ctx := context.Background()
	go func() { _ = customers.RunUsage(ctx) }()
	for n := 0; ; n++ {
		r, refusal := customers.Reserve(ctx, polargate.ExternalID(kit.Paying), kit.CallsMeter, 1)
		if refusal != nil {
			return refusal.Err
		}
		sale := fmt.Sprint(args[4], "-", n)
		if err := r.Commit(ctx, 1, polargate.Usage{Name: "call", Metadata: map[string]any{"sale": sale}}); err != nil {
			return err
		}
		fmt.Println(sale)
		time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
	}
}

func TestNoUsageOfAKilledProgramIsLostOrCountedTwice(t *testing.T) {
	t.Parallel()
	polar, config := started(t, 1_000_000)
	polar.Inject(polartest.Fault{Path: "/v1/events/ingest", Effect: polartest.Delay(30 * time.Millisecond)})
	folder := t.TempDir()
	args := []string{config.BaseURL, config.AccessToken, polar.OrganizationID(), folder}
	var mu sync.Mutex
	var sold []string
	const kills, together = 25, 5
	var group sync.WaitGroup
	for i := range together {
		group.Go(func() {
			for life := range kills / together {
				cmd := testprogram.Command(t, "sell", append(slices.Clone(args), fmt.Sprint(i, "-", life))...)
				out, err := cmd.StdoutPipe()
				if !assert.NoError(t, err) || !assert.NoError(t, cmd.Start()) {
					return
				}
				lines := bufio.NewScanner(out)
				var kill *time.Timer
				for lines.Scan() {
					if kill == nil { // it works: a batch is sent after a second
						kill = time.AfterFunc(time.Duration(rand.IntN(2000))*time.Millisecond, func() { _ = cmd.Process.Kill() })
					}
					mu.Lock()
					sold = append(sold, lines.Text())
					mu.Unlock()
				}
				_ = cmd.Wait()
			}
		})
	}
	group.Wait()
	// Close sends for a bounded time, which a busy computer may need more than once.
	for try := 0; try < 10 && (try == 0 || waits(t, folder)); try++ {
		require.NoError(t, testprogram.Command(t, "sell", append(args, "drain")...).Run())
	}

	counted := map[string]int{}
	for _, e := range polar.Events() {
		counted[fmt.Sprint(e.Metadata["sale"])]++
	}
	for _, sale := range sold {
		if counted[sale] != 1 {
			assert.Equal(t, 1, counted[sale], "%s was said to be stored", sale)
		}
	}
	for sale, n := range counted {
		if n != 1 {
			assert.Equal(t, 1, n, sale)
		}
	}
	assert.Greater(t, len(sold), 100)
	t.Logf("%d kills, %d sales that were said to be stored, %d events at Polar", kills, len(sold), len(counted))
	assert.False(t, waits(t, folder), "nothing waits any more")
}

// waits reports whether events are left in a folder.
func waits(t *testing.T, folder string) bool {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(folder, "box-*", "*.log"))
	require.NoError(t, err)
	return slices.ContainsFunc(logs, func(log string) bool {
		info, err := os.Stat(log)
		require.NoError(t, err)
		return info.Size() > 0
	})
}

// burst reserves two hundred times at once when it is told to, and says how many it served.
func burst(args []string) error {
	customers, err := connected(args, func(c *polargate.CustomersConfig) { c.Shared = polargate.SharedFile(args[3]) })
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, err := customers.Entitlements(ctx, polargate.ExternalID(kit.Paying)); err != nil {
		return err
	}
	go func() { _ = customers.RunUsage(ctx) }()
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	fmt.Println(served(ctx, customers, 200))
	return customers.Close()
}

// served is how many of so many reservations at once were granted, and committed.
func served(ctx context.Context, customers *polargate.Customers, n int) (granted int) {
	var group sync.WaitGroup
	var mu sync.Mutex
	for range n {
		group.Go(func() {
			for {
				r, refusal := customers.Reserve(ctx, polargate.ExternalID(kit.Paying), kit.CallsMeter, 1)
				if refusal != nil && refusal.Status == 503 { // a busy machine
					time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
					continue
				}
				if refusal == nil && r.Commit(ctx, 1, polargate.Usage{Name: "call"}) == nil {
					mu.Lock()
					granted++
					mu.Unlock()
				}
				return
			}
		})
	}
	group.Wait()
	return granted
}

func TestThreeProcessesServeExactlyWhatThereIs(t *testing.T) {
	t.Parallel()
	polar, config := started(t, 100)
	file := filepath.Join(t.TempDir(), "customers.state")
	type process struct {
		in  io.WriteCloser
		out *bufio.Scanner
	}
	var all []process
	for range 3 {
		cmd := testprogram.Command(t, "burst", config.BaseURL, config.AccessToken, polar.OrganizationID(), file)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		defer func() { assert.NoError(t, cmd.Wait()) }()
		all = append(all, process{in, bufio.NewScanner(out)})
	}
	for _, p := range all {
		require.True(t, p.out.Scan(), "ready")
	}
	for _, p := range all {
		_, err := io.WriteString(p.in, "go\n")
		require.NoError(t, err)
	}
	sum, each := 0, []string{}
	for _, p := range all {
		require.True(t, p.out.Scan())
		n, err := strconv.Atoi(p.out.Text())
		require.NoError(t, err)
		sum += n
		each = append(each, p.out.Text())
		assert.False(t, p.out.Scan(), "it ends")
	}
	assert.Equal(t, 100, sum)
	assert.Len(t, polar.Events(), 100, "and Polar knows of all")
	t.Log("served by each:", strings.Join(each, ", "))
}
