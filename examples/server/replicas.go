package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/redis/rueidis"
)

const (
	// together is how many requests a minute all replicas of the demo may send.
	together = 60
	// patient is how long the demo waits for what must happen.
	patient = 30 * time.Second
	// crowd is how many customers pay, beside ada and brook.
	crowd = 10
	// quiet is for how long Polar isn't asked once the budget is used up. Alone, a replica
	// would ask once a second.
	quiet = 3 * time.Second
)

// showReplicas starts replicas of this server as processes, with a store that they share
// and an embedded Polar, and shows what they know together. It ends by itself, and then
// nothing is left of it: no process, no file and no key in Redis.
func showReplicas(ctx context.Context, count int, getenv func(string) string, out io.Writer) (err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	show := &show{ctx: ctx, fail: fail, out: out, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: patient}}
	defer func() { err = errors.Join(err, show.end()) }()
	if err := show.begin(count, getenv); err != nil {
		return show.why(err)
	}
	for i, step := range []struct {
		title string
		do    func() error
	}{
		{"One question for all", show.oneQuestion},
		{"One balance of a meter", show.oneBalance},
		{"A purchase reaches all", show.purchase},
		{"A cancellation reaches all", show.cancellation},
		{"One budget of requests", show.oneBudget},
		{"A restart while Polar is down", show.restart},
	} {
		show.say("\n%d. %s", i+1, step.title)
		if err := step.do(); err != nil {
			return show.why(err)
		}
	}
	show.say("\nThat is all. Now the replicas, and what they stored, are removed.")
	return nil
}

// show is the demo of replicas under way.
type show struct {
	ctx      context.Context
	fail     context.CancelCauseFunc
	out      io.Writer
	client   *http.Client
	demo     *demo
	env      []string // of the replicas
	replicas []*replica
	cleanUp  []func() error
}

func (s *show) say(format string, values ...any) { fmt.Fprintf(s.out, format+"\n", values...) }

// why says what is behind an error: the end of a replica, or Ctrl-C, makes others fail.
func (s *show) why(err error) error {
	if _, broken := errors.AsType[*url.Error](err); broken {
		s.pause(2 * time.Second) // a replica that has died is about to be noticed
	}
	if s.ctx.Err() == nil {
		return err
	}
	if ended, ok := errors.AsType[*replicaEnded](context.Cause(s.ctx)); ok {
		return ended
	}
	return errors.New("interrupted: the replicas, and what they stored, are removed")
}

// begin starts Polar, and the replicas with a store.
func (s *show) begin(count int, getenv func(string) string) (err error) {
	var of settings
	if s.demo, err = newDemo(&of); err != nil {
		return err
	}
	s.cleanUp = append(s.cleanUp, func() error { s.demo.close(); return nil })
	for i := range crowd { // no webhook tells of them
		s.demo.addSubscriber(crowdMember(i))
	}
	var features []string
	for _, benefit := range slices.Sorted(maps.Keys(of.customers.Features)) {
		features = append(features, benefit+"="+strings.Join(of.customers.Features[benefit], ","))
	}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "POLAR") && name != "ADDR" && name != "REDIS_URL" {
			s.env = append(s.env, v)
		}
	}
	s.env = append(s.env,
		"ADDR=127.0.0.1:0",
		"POLAR_API_URL="+of.customers.BaseURL,
		"POLAR_ACCESS_TOKEN="+of.customers.AccessToken,
		"POLAR_ORGANIZATION_ID="+of.customers.OrganizationID,
		"POLAR_WEBHOOK_SECRET="+s.demo.secret,
		"POLARGATE_FEATURES="+strings.Join(features, ";"),
		"POLARGATE_METER="+of.meter,
		"POLARGATE_REQUESTS="+strconv.Itoa(together),
		"POLARGATE_SHARED_SECRET="+rand.Text(),
	)
	store := "Redis"
	if address := getenv("REDIS_URL"); address != "" {
		option, err := redisOption(address)
		if err != nil {
			return err
		}
		client, err := rueidis.NewClient(option)
		if err != nil {
			return fmt.Errorf("REDIS_URL: the server can't be reached: %w", err)
		}
		prefix := "polargate-demo-" + rand.Text() + ":"
		s.env = append(s.env, "REDIS_URL="+address, "POLARGATE_REDIS_PREFIX="+prefix)
		s.cleanUp = append(s.cleanUp, func() error { defer client.Close(); return removeKeys(client, prefix) })
	} else {
		folder, err := os.MkdirTemp("", "polargate-demo-")
		if err != nil {
			return err
		}
		store = "a file in a temporary folder"
		s.env = append(s.env, "POLARGATE_SHARED_FILE="+filepath.Join(folder, "customers.state"))
		s.cleanUp = append(s.cleanUp, func() error { return os.RemoveAll(folder) })
	}
	s.say("%d replicas of this server, each a process of its own. They share %s.\nTogether they may send %d requests a minute to Polar.\n", count, store, together)
	if err := s.start(count); err != nil {
		return err
	}
	s.demo.sendWebhooksTo(s.replicas[0].url)
	s.say("  Polar      %s (embedded), which sends webhooks to replica 1 only", s.demo.server.URL)
	return nil
}

// start starts the replicas.
func (s *show) start(count int) error {
	for number := 1; number <= count; number++ {
		r, err := s.startReplica(number)
		if err != nil {
			return fmt.Errorf("replica %d: %w", number, err)
		}
		s.replicas = append(s.replicas, r)
		s.say("  replica %d  %s", number, r.url)
	}
	return nil
}

// stop ends the replicas, and waits for them.
func (s *show) stop() {
	for _, r := range s.replicas {
		r.wanted.Store(true)
		_ = r.input.Close()
	}
	for _, r := range s.replicas {
		select {
		case <-r.ended:
		case <-time.After(2 * drain):
			_ = r.cmd.Process.Kill()
			<-r.ended
		}
	}
	s.replicas = nil
	s.client.CloseIdleConnections()
}

// end leaves nothing behind.
func (s *show) end() error {
	s.stop()
	var failures []error
	for _, f := range slices.Backward(s.cleanUp) {
		failures = append(failures, f())
	}
	return errors.Join(failures...)
}

// replica is a process of this server.
type replica struct {
	number int
	url    string
	cmd    *exec.Cmd
	input  io.Closer // its end ends the replica, also when this program is killed
	wanted atomic.Bool
	ended  chan struct{}
}

// replicaEnded is a replica that wasn't told to end.
type replicaEnded struct {
	number int
	how    error
	said   string
}

func (e *replicaEnded) Error() string {
	return fmt.Sprintf("replica %d ended by itself (%v): %s", e.number, e.how, e.said)
}

func (s *show) startReplica(number int) (*replica, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &replica{number: number, cmd: exec.Command(program, "-child"), ended: make(chan struct{})}
	printed, errs := &lines{}, &lines{}
	r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = s.env, printed, errs
	if r.input, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(r.ended)
		err := r.cmd.Wait()
		if r.wanted.Load() {
			return
		}
		// A signal for all of us may have come to the replica first.
		select {
		case <-s.ctx.Done():
		case <-time.After(time.Second):
			s.fail(&replicaEnded{number, err, errs.String()})
		}
	}()
	for began := time.Now(); ; {
		if found := saysWhere.FindStringSubmatch(printed.String()); found != nil {
			r.url = found[1]
			return r, nil
		}
		if !s.pause(5*time.Millisecond) || time.Since(began) > patient {
			r.wanted.Store(true)
			_ = r.cmd.Process.Kill()
			<-r.ended
			return nil, fmt.Errorf("it doesn't listen: %s", errs)
		}
	}
}

var saysWhere = regexp.MustCompile(`(?m)^Listening on (http://\S+)$`)

// pause reports whether the demo goes on.
func (s *show) pause(d time.Duration) bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// lines keeps what a process prints.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// visit sends a customer's request to a replica, and tells the status of the answer.
func (s *show) visit(r *replica, path, user string) (status int, err error) {
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, r.url+path, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("X-Demo-User", user)
	answer, err := s.client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("replica %d: %w", r.number, err)
	}
	defer func() { _ = answer.Body.Close() }()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

// visitAll sends requests to all replicas at once, each for so many customers, and counts
// the answers by their status.
func (s *show) visitAll(path string, each int, user func(r *replica, i int) string) (statuses map[int]int, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	statuses = map[int]int{}
	for _, r := range s.replicas {
		for i := range each {
			all.Go(func() {
				status, failure := s.visit(r, path, user(r, i))
				mu.Lock()
				defer mu.Unlock()
				statuses[status]++
				err = errors.Join(err, failure)
			})
		}
	}
	all.Wait()
	return statuses, err
}

// expectAll is visitAll for /pro, of which all answers have to be the same.
func (s *show) expectAll(status, each int, user func(r *replica, i int) string) error {
	statuses, err := s.visitAll("/pro", each, user)
	if err == nil && statuses[status] != each*len(s.replicas) {
		err = fmt.Errorf("all answers should be %d, but these came: %v", status, statuses)
	}
	return err
}

// await sends requests to all replicas until each answers with that status, and tells how
// long after began that was.
func (s *show) await(user string, status int, began time.Time) (after []time.Duration, err error) {
	after = make([]time.Duration, len(s.replicas))
	failures := make([]error, len(s.replicas))
	var all sync.WaitGroup
	for i, r := range s.replicas {
		all.Go(func() {
			for {
				got, err := s.visit(r, "/pro", user)
				after[i] = time.Since(began)
				if err == nil && got != status && after[i] > patient {
					err = fmt.Errorf("replica %d still answers %d to %s", r.number, got, user)
				}
				if err != nil || got == status {
					failures[i] = err
					return
				}
				s.pause(time.Millisecond)
			}
		})
	}
	all.Wait()
	return after, errors.Join(failures...)
}

// asked is how often Polar was asked since the count was questions.
func (s *show) asked(questions int) string {
	switch n := s.questions() - questions; n {
	case 0:
		return "Polar was not asked"
	case 1:
		return "Polar was asked once"
	default:
		return fmt.Sprintf("Polar was asked %d times", n)
	}
}

func (s *show) questions() int { return s.demo.polar.Count("/state") }

func (s *show) oneQuestion() error {
	const each = 20
	before := s.questions()
	if err := s.expectAll(http.StatusOK, each, func(*replica, int) string { return ada }); err != nil {
		return err
	}
	s.say("   %s pays, and no replica knows that yet. Her first %d requests come at once, %d to\n   each replica. All are let in. %s.", ada, each*len(s.replicas), each, s.asked(before))
	return nil
}

func (s *show) oneBalance() error {
	const each = 10
	customer, _ := s.demo.polar.Customer(ada)
	statuses, err := s.visitAll("/meter", each, func(*replica, int) string { return ada })
	if err != nil {
		return err
	}
	s.say("   %s has %d units of a meter. %d requests that use one unit each come at once, %d to\n   each replica. %d of them are served.", ada, int(customer.Meters[0].Balance()), each*len(s.replicas), each, statuses[http.StatusOK])
	return nil
}

func (s *show) purchase() error {
	if err := s.expectAll(http.StatusPaymentRequired, 1, func(*replica, int) string { return brook }); err != nil {
		return err
	}
	s.say("   %s has bought nothing. Every replica answers 402.", brook)
	before, began := s.questions(), time.Now()
	s.demo.subscribe(brook)
	after, err := s.await(brook, http.StatusOK, began)
	if err != nil {
		return err
	}
	s.say("   %s subscribes, and Polar tells replica 1.\n   %s.", brook, s.each("lets "+brook+" in", after))
	s.say("   %s.", s.asked(before))
	return nil
}

func (s *show) cancellation() error {
	before, began := s.questions(), time.Now()
	s.demo.cancel(ada)
	after, err := s.await(ada, http.StatusPaymentRequired, began)
	if err != nil {
		return err
	}
	s.say("   %s's subscription ends, and Polar tells replica 1.\n   %s.", ada, s.each("refuses "+ada, after))
	s.say("   %s.", s.asked(before))
	return nil
}

// each says what every replica did, and when.
func (s *show) each(did string, after []time.Duration) string {
	var parts []string
	for i, d := range after {
		parts = append(parts, fmt.Sprintf("replica %d %s after %d ms", i+1, did, d.Milliseconds()))
	}
	return upperFirst(strings.Join(parts, ",\n   "))
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// crowdMember is a customer of the crowd.
func crowdMember(i int) string { return "customer-" + strconv.Itoa(i%crowd+1) }

func (s *show) oneBudget() error {
	before := s.questions()
	for i := range crowd {
		r := s.replicas[i%len(s.replicas)]
		status, err := s.visit(r, "/pro", crowdMember(i))
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("replica %d answers %d to %s, who pays", r.number, status, crowdMember(i))
		}
		if err != nil {
			return err
		}
	}
	s.say("   %d more customers come, who pay. %s.", crowd, s.asked(before))
	// Then somebody makes up customers, until Polar is asked about none of them any more.
	made, refused, settled := 0, 0, time.Now()
	for last := s.questions(); time.Since(settled) < quiet; made++ {
		statuses, err := s.visitAll("/pro", 1, func(r *replica, _ int) string { return fmt.Sprintf("nobody-%d-%d", r.number, made) })
		if err != nil {
			return err
		}
		refused += statuses[http.StatusServiceUnavailable]
		if now := s.questions(); now != last {
			last, settled = now, time.Now()
		}
		if !s.pause(10 * time.Millisecond) {
			return s.ctx.Err()
		}
	}
	s.say("   Somebody makes up %d customers: %d of the requests are answered 503, to be tried\n   again later. Since the start, Polar was asked %d times, by all replicas together. The\n   rest of this minute's %d requests is kept for customers who are known.", made*len(s.replicas), refused, s.questions(), together)
	return nil
}

func (s *show) restart() error {
	before, count := s.questions(), len(s.replicas)
	s.demo.polar.SetOffline(true)
	s.stop()
	s.say("   Polar is down, and all replicas are ended and started again:\n")
	if err := s.start(count); err != nil {
		return err
	}
	if err := s.expectAll(http.StatusOK, crowd, func(_ *replica, i int) string { return crowdMember(i) }); err != nil {
		return err
	}
	if err := s.expectAll(http.StatusOK, 1, func(*replica, int) string { return brook }); err != nil {
		return err
	}
	if err := s.expectAll(http.StatusPaymentRequired, 1, func(*replica, int) string { return ada }); err != nil {
		return err
	}
	s.say("\n   Each replica lets in the %d customers who pay, and refuses %s. %s.", crowd+1, ada, s.asked(before))
	const new = "a-customer-whom-nobody-asked-about"
	if err := s.expectAll(http.StatusServiceUnavailable, 1, func(*replica, int) string { return new }); err != nil {
		return err
	}
	s.say("   A customer whom no replica ever asked about gets 503: nobody is told to pay\n   because something failed.")
	return nil
}

// subscribe has a customer buy the plan.
func (d *demo) subscribe(user string) {
	d.polar.Subscribe(user, polartest.Subscription{}, polartest.Benefit{BenefitID: d.plan})
}

// cancel ends a customer's subscription.
func (d *demo) cancel(user string) {
	customer, _ := d.polar.Customer(user)
	d.polar.CancelSubscription(customer.ID, customer.Subscriptions[0].ID)
}

// addSubscriber adds a customer who has the plan.
func (d *demo) addSubscriber(user string) {
	d.polar.AddCustomer(polartest.Customer{ExternalID: user})
	d.subscribe(user)
}

// removeKeys removes what the replicas stored in Redis.
func removeKeys(client rueidis.Client, prefix string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	for _, node := range client.Nodes() {
		for cursor := uint64(0); ; {
			page, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(prefix+"*").Count(1000).Build()).AsScanEntry()
			for _, key := range page.Elements {
				err = errors.Join(err, client.Do(ctx, client.B().Del().Key(key).Build()).Error())
			}
			if err != nil {
				return fmt.Errorf("keys that begin with %s are left in Redis: %w", prefix, err)
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}

// untilInputEnds is ctx until standard input ends, as it does when the program that
// started this one ends in any way. Ctrl-C is that program's to handle.
func untilInputEnds(ctx context.Context) context.Context {
	ctx, end := context.WithCancel(ctx)
	go func() {
		defer end()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return ctx
}
