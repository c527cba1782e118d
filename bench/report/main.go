// Report runs all benchmarks several times, measures what programs weigh, and writes
// docs/benchmarks.md. It is run from the folder of this module:
//
//	go run ./report                           takes half an hour
//	go run ./report -runs 1 -small -cold=false   tries it out in a few minutes
//
// The build of 23 November 2026 is taken out of git's history into a temporary folder, and
// measured in turns with today's.
package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"golang.org/x/perf/benchfmt"
)

//go:embed benchmarks.md.tmpl
var page string

func main() {
	log.SetFlags(0)
	runs := flag.Int("runs", 5, "how often each benchmark is run, four times each time")
	small := flag.Bool("small", false, "leave out the million customers")
	out := flag.String("o", "../docs/benchmarks.md", "the file to write")
	cold := flag.Bool("cold", true, "measure builds from nothing too")
	results := flag.String("results", "", "keep what was measured in this file; if it is there, write the page from it")
	flag.Parse()
	if err := write(*out, *results, *runs, *small, *cold); err != nil {
		log.Fatal(err)
	}
}

func write(out, results string, runs int, small, cold bool) error {
	r := &report{Samples: map[string][]sample{}, Tables: map[string][]figure{}, Runs: runs}
	text, err := os.ReadFile(results)
	if err == nil {
		err = json.Unmarshal(text, r)
	} else if err = r.measure(small, cold); err == nil && results != "" {
		if text, err = json.MarshalIndent(r, "", "\t"); err == nil {
			err = os.WriteFile(results, text, 0o644)
		}
	}
	if err != nil {
		return err
	}
	var b bytes.Buffer
	t, err := template.New("").Funcs(template.FuncMap{"ns": nanoseconds, "join": strings.Join, "nsText": nanosecondsOf}).Parse(page)
	if err != nil {
		return err
	}
	if err := t.Execute(&b, r); err != nil {
		return err
	}
	r.draw(filepath.Join(filepath.Dir(out), "images"))
	return os.WriteFile(out, b.Bytes(), 0o644)
}

// measure runs all there is.
func (r *report) measure(small, cold bool) error {
	if err := r.describe(); err != nil {
		return err
	}
	before, err := os.MkdirTemp("", "polargate-before-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(before)
	if err := checkOut(before); err != nil {
		return err
	}
	for n := range r.Runs {
		log.Printf("benchmarks, %d of %d", n+1, r.Runs)
		// One after another and again, so that a busy moment of the machine does not
		// strike all the runs of one.
		for _, of := range []struct{ name, folder, pattern string }{
			{"before", filepath.Join(before, "bench"), "Lookup/polargate|Middleware/(map|polargate)"},
			{".", ".", "."},
			{"before/..", before, "CustomerMemory"},
			{"..", "..", "Has|ColdStart|CheckFromMemory|Entitlements|CustomerMemory|Server"},
			{"../internal/sharedlog", "../internal/sharedlog", "Load"},
			{"../lease", "../lease", "VerifyAndCheck"},
			{"../lease/issuer", "../lease/issuer", "Server/SharedFile"},
			{"../tests/rpc", "../tests/rpc", "AnInterceptorBesideOneByHand"},
			{"../polargateotel", "../polargateotel", "On/"},
			{"../polargateopenfeature", "../polargateopenfeature", "BesideInMemory"},
		} {
			if err := r.bench(of.name, of.folder, of.pattern); err != nil {
				return err
			}
		}
	}
	log.Print("look-ups among more and more customers")
	for _, of := range []struct{ name, folder string }{{"before", filepath.Join(before, "bench")}, {".", "."}} {
		most := "1000000"
		if small {
			most = "100000"
		}
		if err := r.bench(of.name, of.folder, "Sizes", "-sizes", most); err != nil {
			return err
		}
	}
	log.Print("sizes")
	if err := r.measureSizes(before, cold); err != nil {
		return err
	}
	log.Print("faults, replicas and scale")
	return r.runTests(!small)
}

type report struct {
	Samples map[string][]sample // by benchmark
	Tables  map[string][]figure // of tests
	Sizes   []size

	Date, CPU, Go, System string
	Processors, Runs      int
	Peers                 []string
}

// sample is what a run of a benchmark says, by unit.
type sample map[string]float64

// figure is a row that a test told.
type figure struct {
	Table, Row string
	Cells      []string
}

func (r *report) describe() error {
	r.Date = time.Now().UTC().Format("2 January 2006")
	r.Go, r.System, r.Processors = runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH, runtime.GOMAXPROCS(0)
	versions, err := output(".", "list", "-m", "-f", "{{if not .Main}}{{if not .Indirect}}{{if .Version}}{{.Path}} {{.Version}}{{end}}{{end}}{{end}}", "all")
	if err != nil {
		return err
	}
	for line := range strings.Lines(versions) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "github.com/polargate/") && !slices.ContainsFunc(tools, func(tool string) bool { return strings.HasPrefix(line, tool) }) {
			r.Peers = append(r.Peers, line)
		}
	}
	return nil
}

// tools are what this module uses and does not measure.
var tools = []string{"golang.org/x/perf ", "github.com/standard-webhooks/"}

// since is the build beside which today's is measured, and shared are the files of this
// module's tests that it did not have yet.
const since = "3b1f05a"

var shared = []string{"lookup_test.go"}

// checkOut writes that build into a folder.
func checkOut(folder string) error {
	archive := exec.Command("git", "-C", "..", "archive", "--format=tar", "-o", filepath.Join(folder, "tree.tar"), since)
	if text, err := archive.CombinedOutput(); err != nil {
		return fmt.Errorf("the history has no build %s: %w\n%s", since, err, text)
	}
	unpack := exec.Command("tar", "xf", "tree.tar")
	unpack.Dir = folder
	if text, err := unpack.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w\n%s", err, text)
	}
	for _, name := range shared {
		text, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, "bench", name), text, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bench runs the benchmarks of a folder once, and keeps what they say under a name.
func (r *report) bench(as, folder, pattern string, flags ...string) error {
	count := "4"
	if len(flags) > 0 {
		count = "1" // it takes long to fill the caches
	}
	args := []string{"test", "-run", "^$", "-bench", pattern, "-benchmem", "-benchtime", "100ms", "-count", count, "."}
	text, err := output(folder, append(args, flags...)...)
	if err != nil {
		return err
	}
	reader := benchfmt.NewReader(strings.NewReader(text), folder)
	for reader.Scan() {
		result, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		r.CPU = cmp.Or(r.CPU, result.GetConfig("cpu"))
		s := sample{}
		for _, v := range result.Values {
			s[cmp.Or(v.OrigUnit, v.Unit)] = v.Value
			if v.OrigUnit != "" {
				s[v.OrigUnit] = v.OrigValue
			}
		}
		name, _, _ := strings.Cut(result.Name.String(), fmt.Sprintf("-%d", r.Processors))
		name = as + "/" + strings.ReplaceAll(name, "_", " ")
		r.Samples[name] = append(r.Samples[name], s)
	}
	return reader.Err()
}

// middle is the median of what a benchmark's runs say, and the least and most.
func (r *report) middle(name, unit string) (least, middle, most float64) {
	var all []float64
	for _, s := range r.Samples[name] {
		all = append(all, s[unit])
	}
	if len(all) == 0 {
		log.Fatalf("there is no benchmark %q", name)
	}
	slices.Sort(all)
	return all[0], all[len(all)/2], all[len(all)-1]
}

// row is a line of a table of benchmarks.
type row struct {
	Name                string
	Least, Middle, Most float64 // ns
	Times               float64 // of the first row's, by the fastest runs of both
	Bytes, Allocs       float64
	PerSecond           float64
}

// Rows are the benchmarks of a kind, beside the first.
func (r *report) Rows(benchmark string, names ...string) []row {
	var rows []row
	for _, name := range names {
		x := row{Name: name}
		full := benchmark + "/" + name
		x.Least, x.Middle, x.Most = r.middle(full, "ns/op")
		_, x.Bytes, _ = r.middle(full, "B/op")
		_, x.Allocs, _ = r.middle(full, "allocs/op")
		_, _, x.PerSecond = r.middle(full, "req/s")
		x.Times = 1
		if len(rows) > 0 {
			x.Times = x.Least / rows[0].Least
		}
		rows = append(rows, x)
	}
	return rows
}

// LookupRows are the look-ups of today's build, of the one before, and of what programs do by
// hand.
func (r *report) LookupRows() []row {
	var rows []row
	for _, goroutines := range []string{"1", "8"} {
		for _, of := range lookedUp {
			x := r.lookup(of.benchmark, goroutines)
			x.Name = of.name + ", " + goroutines + " goroutines"
			if goroutines == "1" {
				x.Name = of.name + ", 1 goroutine"
			}
			if len(rows) > 0 {
				x.Times = x.Least / rows[0].Least
			}
			rows = append(rows, x)
		}
	}
	return rows
}

// Figures are the rows of a table that tests told.
func (r *report) Figures(table string) []figure { return r.Tables[table] }

// Cell is a cell of the row of that name.
func (r *report) Cell(table, row string, cell int) string {
	for _, f := range r.Tables[table] {
		if f.Row == row {
			return f.Cells[cell]
		}
	}
	log.Fatalf("the table %q has no row %q", table, row)
	return ""
}

// Customers are those whose garbage was collected.
func (r *report) Customers() string { return short(asNumber(r.Tables["garbage"][0].Row)) }

// number is a cell that is one.
func (r *report) number(table, row string, cell int) float64 {
	return asNumber(r.Cell(table, row, cell))
}

// lastNumber is a cell of the last row that is one.
func (r *report) lastNumber(table string, cell int) float64 { return asNumber(r.Last(table, cell)) }

func asNumber(cell string) float64 {
	n, err := strconv.ParseFloat(strings.TrimSuffix(cell, " %"), 64)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

// Last is a cell of the last row of a table.
func (r *report) Last(table string, cell int) string {
	rows := r.Tables[table]
	return rows[len(rows)-1].Cells[cell]
}

// runTests runs the tests of this module, and keeps the tables that they tell.
func (r *report) runTests(whole bool) error {
	folder, err := os.MkdirTemp("", "polargate-figures-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "figures.json")
	if _, err := output(".", "test", "-count", "1", "-timeout", "1h", ".", "-figures", file, "-whole="+fmt.Sprint(whole)); err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all []figure
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	for _, f := range all {
		r.Tables[f.Table] = append(r.Tables[f.Table], f)
	}
	return nil
}

// size is what a program weighs.
type size struct {
	program, About    string
	Bytes             int64
	More, MoreBefore  string // than the first
	Packages, Modules int
	Cold, Again       time.Duration
}

func (r *report) measureSizes(before string, cold bool) error {
	folder, err := os.MkdirTemp("", "polargate-sizes-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	for _, s := range []size{
		{program: "nethttp", About: "a validation by hand, with net/http"},
		{program: "client", About: "the same with polargate's `Client`"},
		{program: "polargo", About: "the same with polar-go"},
		{program: "gate", About: "a `Gate`: seat, state, offline"},
		{program: "server", About: "`Customers`: middleware and webhook"},
	} {
		file := filepath.Join(folder, s.program)
		build := func(module, cache string) (took time.Duration, bytes int64, err error) {
			command := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "./size/"+s.program)
			command.Dir, command.Env = module, append(os.Environ(), "CGO_ENABLED=0")
			if cache != "" {
				command.Env = append(command.Env, "GOCACHE="+cache)
			}
			began := time.Now()
			if text, err := command.CombinedOutput(); err != nil {
				return 0, 0, fmt.Errorf("%w\n%s", err, text)
			}
			took = time.Since(began)
			info, err := os.Stat(file)
			if err != nil {
				return 0, 0, err
			}
			return took, info.Size(), os.Remove(file)
		}
		_, was, err := build(filepath.Join(before, "bench"), "")
		if err != nil {
			return err
		}
		cache := ""
		if cold {
			cache = filepath.Join(folder, "cache-"+s.program)
		}
		if s.Cold, s.Bytes, err = build(".", cache); err != nil {
			return err
		}
		if s.Again, s.Bytes, err = build(".", cache); err != nil {
			return err
		}
		if !cold {
			s.Cold = 0
		}
		packages, err := output(".", "list", "-deps", "-f", "{{.ImportPath}} {{with .Module}}{{.Path}}{{end}}", "./size/"+s.program)
		if err != nil {
			return err
		}
		modules := map[string]bool{}
		for line := range strings.Lines(packages) {
			s.Packages++
			if _, module, _ := strings.Cut(strings.TrimSpace(line), " "); module != "" && module != "github.com/polargate/polargate/bench" {
				modules[module] = true
			}
		}
		s.Modules = len(modules)
		s.More, s.MoreBefore = "–", "–"
		if len(r.Sizes) > 0 {
			s.More = fmt.Sprintf("%+.2f MB", float64(s.Bytes-r.Sizes[0].Bytes)/1e6)
			s.MoreBefore = fmt.Sprintf("%+.2f MB", float64(was-r.Sizes[0].Bytes)/1e6)
		}
		r.Sizes = append(r.Sizes, s)
		if cache != "" {
			if err := os.RemoveAll(cache); err != nil {
				return err
			}
		}
	}
	return nil
}

// MB is the size in millions of bytes.
func (s size) MB() string { return fmt.Sprintf("%.2f MB", float64(s.Bytes)/1e6) }

// Seconds of a build from nothing, if that was measured, and from a full cache.
func (s size) Seconds() string {
	if s.Cold == 0 {
		return fmt.Sprintf("not measured, %.1f s", s.Again.Seconds())
	}
	return fmt.Sprintf("%.0f s, %.1f s", s.Cold.Seconds(), s.Again.Seconds())
}

// budget is what was promised, and what came of it.
type budget struct {
	About, Before, Most, Measured string
	Met                           bool
	Why                           string // it was not met
}

const notMeasured = "–"

// coldDeployBefore was measured once, when this stage was planned: to play it takes longer than
// all the rest of the report.
const coldDeployBefore = "3 hours 44 minutes"

// Budgets compares what was measured with what was promised.
func (r *report) Budgets() []budget {
	features := r.Rows("./Feature", "bare pointer and map", "polargate")
	has := features[1]
	gated := r.Rows("./Middleware", "map by hand", "polargate")[1]
	gatedBefore := r.Rows("before/Middleware", "map by hand", "polargate")[1]
	one, eight := r.Lookups("./Lookup")
	_, eightBefore := r.Lookups("before/Lookup")
	faster := eightBefore.Least / eight.Least
	byHand := r.lookup("./Lookup/map with a lock", "8")
	cold, _, _ := r.middle("../ColdStart", "ns/op")
	_, memory, _ := r.middle("../CustomerMemory", "B/customer")
	_, memoryBefore, _ := r.middle("before/../CustomerMemory", "B/customer")
	load, _, _ := r.middle("../internal/sharedlog/Load", "ns/op")
	lease, _, _ := r.middle("../lease/VerifyAndCheck", "ns/op")
	client, gate := r.Sizes[1], r.Sizes[3]
	more := func(s size) float64 { return float64(s.Bytes-r.Sizes[0].Bytes) / 1e6 }
	const a, three = "a grant each", "three grants and a meter each"
	p99 := r.number("webhook", "p99", 0)
	asked := r.number("store", "polargate", 2)
	known := r.number("store", "polargate", 0)
	sold := r.Cell("burst", "sold", 0)
	trips := r.lastNumber("fleet", 1)
	_, leaseSize, _ := r.middle("../lease/VerifyAndCheck", "bytes/lease")
	_, _, leases := r.middle("../lease/issuer/Server/SharedFile", "leases/s")
	return []budget{
		{"cold start, 300 requests a minute: until 99 % of 10,000 customers were served", coldDeployBefore, "60 seconds", r.Cell("deploy", a, 0), r.number("deploy", a, 2) <= 60,
			"Warm reads Polar's lists, a page a request"},
		{"the same with three grants and a meter each", notMeasured, "150 seconds", r.Cell("deploy", three, 0), r.number("deploy", three, 2) <= 150,
			"The lists have four times as many pages, and customers who come before they are read take their share of the requests"},
		{"requests to Polar for 200 checks of one unseen customer on 20 replicas", notMeasured, "1", fmt.Sprint(asked), asked == 1, "A replica did not wait for another's claim"},
		{"customers served after all replicas were restarted, Polar down", "0 %", "100 %", r.Cell("store", "polargate", 0), known == 100, "Some were not in the store"},
		{"a webhook on one replica decides on another (99 of 100)", notMeasured, "50 ms", fmt.Sprintf("%.1f ms", p99), p99 <= 50, "The computer was busy with something else, or a hint was lost and found by the sweep"},
		{"round trips to the store for a customer whom a replica meets first", notMeasured, "1", fmt.Sprint(trips), trips <= 1, "A record was asked for twice"},
		{"balance 100, three replicas, 600 requests at once: served", "300", "100", sold, sold == "100", "A replica sold what it did not have"},
		{"look-up among 100,000 customers, 8 goroutines", "1×", "4× faster", fmt.Sprintf("%.1f× faster", faster), faster >= 4,
			fmt.Sprintf("Before, it took %s, now %s. What is left is waits for memory, for the slot of the table, the answer and the text of the id. A map with a lock, which knows no ages, counts nothing and drops nobody, takes %s. How long the waits are depends on what else the computer does: other programs share the processor's cache and its memory", nanoseconds(eightBefore.Least), nanoseconds(eight.Least), nanoseconds(byHand.Least))},
		{"the same, beside a map with a lock", notMeasured, "3×", fmt.Sprintf("%.2f×", eight.Least/byHand.Least), eight.Least <= 3*byHand.Least, "The answers lie anywhere in memory"},
		{"the same, 8 goroutines beside 1", notMeasured, "1×", fmt.Sprintf("%.2f×", eight.Least/one.Least), eight.Least <= one.Least, "Goroutines wait for each other"},
		{"memory of a customer with ten benefits", fmt.Sprintf("%.0f B", memoryBefore), "400 B", fmt.Sprintf("%.0f B", memory), memory <= 400, "What is kept has grown: the ends of subscriptions, and when Polar counted a meter, came since"},
		{"garbage collection of an idle server with " + r.Customers() + " cached customers, of one core", notMeasured, "10 %", r.Last("garbage", 1), r.lastNumber("garbage", 1) <= 10, "What is cached has many pointers"},
		{"the same, the longest pause", notMeasured, "1 ms", r.Last("garbage", 4) + " ms", r.lastNumber("garbage", 4) <= 1,
			fmt.Sprintf("Nine of ten took at most %s ms. A computer that is busy with other programs lets this one wait in the middle of a pause", r.Last("garbage", 3))},
		{"`SharedFile` with 100,000 customers: load at start", notMeasured, "500 ms", fmt.Sprintf("%.0f ms", load/1e6), load <= 500e6, "The disk or the processor was slow"},
		{"middleware, beside a map by hand", fmt.Sprintf("%.2f×", gatedBefore.Times), "1.05×", fmt.Sprintf("%.2f×", gated.Times), gated.Times <= 1.05,
			"A map by hand that nobody ever writes has no ages and counts nothing. Of the 22 ns that are added, 14 find the customer by a hash and a comparison of the id, and 8 bring back to the outer request what the handler has changed in its copy. To give the handler the request itself would save more than that, and would be a data race in programs whose handlers leave a goroutine behind that reads it"},
		{"middleware, allocations", fmt.Sprint(gatedBefore.Allocs), "2", fmt.Sprint(gated.Allocs), gated.Allocs <= 2, "Something escapes"},
		{"`Has`, beside a bare pointer and map", notMeasured, "2×", fmt.Sprintf("%.2f×", has.Times), has.Times <= 2, "It reads no clock and takes no lock: a profile will say what it does instead"},
		{"`Has`", notMeasured, "10 ns", fmt.Sprintf("%.1f ns", has.Least), has.Least <= 10,
			fmt.Sprintf("On this machine, at this time, the bare pointer and map took %.1f ns", features[0].Least)},
		{"`Has`, allocations", notMeasured, "0", fmt.Sprint(has.Allocs), has.Allocs == 0, "Something escapes"},
		{"start with a license on disk, to a decision", notMeasured, "2 ms", fmt.Sprintf("%.2f ms", cold/1e6), cold <= 2e6, "The disk is slow, or the state has grown"},
		{"verifying and checking a lease", notMeasured, "60 µs", nanoseconds(lease), lease <= 60e3, "It is one Ed25519 signature, whose time is the processor's"},
		{"a lease with ten features", notMeasured, "700 bytes", fmt.Sprintf("%.0f bytes", leaseSize), leaseSize <= 700, "A lease says more than it did"},
		{"leases issued a second, over HTTP, with their state on disk", notMeasured, "1,000", fmt.Sprintf("%.0f", leases), leases >= 1000, "Each is written to disk before it is given away, and the disk was busy"},
		{"a program with a `Client`, beside net/http", client.MoreBefore, "+0.50 MB", client.More, more(client) <= .5,
			"It grew by what finds a key in a pasted text, by the proxy and address of each request, and by limits that processes share. A table of HTML entities and the scanner of fmt, 135 kB, are out again; log/slog, 70 kB, is part of the API"},
		{"a program with a `Gate`, beside net/http", gate.MoreBefore, "+0.75 MB", gate.More, more(gate) <= .75,
			"The same, and the state of each machine, moves, imports and leases, which came since. What only servers use isn't in it, nor what calls functions by reflection: a test looks for them"},
	}
}

// Lookups are those of one goroutine and of eight.
func (r *report) Lookups(benchmark string) (one, eight row) {
	return r.lookup(benchmark+"/polargate", "1"), r.lookup(benchmark+"/polargate", "8")
}

// lookup is a row of look-ups by so many goroutines, as they are while the computer does nothing
// else: they wait for memory, which others use too, and so a run as a whole is none to go by.
func (r *report) lookup(benchmark, goroutines string) row {
	x := r.Rows(benchmark, "goroutines="+goroutines)[0]
	x.Least, x.Middle, x.Most = r.middle(benchmark+"/goroutines="+goroutines, "ns/undisturbed")
	return x
}

// beside is a benchmark that runs what is ours and something else in turns.
type beside struct {
	Door, Other string
	Times, Most float64 // as long as the other, and what was promised
	Ours        float64 // ns
}

// Doors are what a request costs that comes by another door.
func (r *report) Doors() []beside {
	var all []beside
	for _, of := range []struct {
		door, other, benchmark, times, ours string
		most                                float64
	}{
		{"gRPC: the interceptor alone", "one by hand, with a map", "../tests/rpc/AnInterceptorBesideOneByHand/gRPC alone", "ratio", "ours-ns", 1.1},
		{"gRPC: a call over loopback", "the same", "../tests/rpc/AnInterceptorBesideOneByHand/gRPC over loopback", "ratio", "ours-ns", 1.1},
		{"Connect: a call in process", "the same", "../tests/rpc/AnInterceptorBesideOneByHand/Connect in process", "ratio", "ours-ns", 1.1},
		{"Connect: a call over loopback", "the same", "../tests/rpc/AnInterceptorBesideOneByHand/Connect over loopback", "ratio", "ours-ns", 1.1},
		{"OpenTelemetry on, metrics: the middleware alone", "off", "../polargateotel/On/handler/metrics", "x-off", "ns-on", 1.15},
		{"OpenTelemetry on, metrics and spans: a request over loopback", "off", "../polargateotel/On/server/metrics and spans", "x-off", "ns-on", 1.15},
		{"OpenFeature: a flag by user", "the in-memory provider", "../polargateopenfeature/BesideInMemory/client, by user", "x-memory", "ns-ours", 1},
		{"OpenFeature: a flag for everybody", "the in-memory provider", "../polargateopenfeature/BesideInMemory/client, for everybody", "x-memory", "ns-ours", 1},
	} {
		x := beside{Door: of.door, Other: of.other, Most: of.most}
		_, x.Times, _ = r.middle(of.benchmark, of.times)
		x.Ours, _, _ = r.middle(of.benchmark, of.ours)
		all = append(all, x)
	}
	return all
}

// Among are the numbers of customers among whom look-ups were measured.
func (r *report) Among() []string {
	var all []string
	for _, n := range []string{"1000", "100000", "1000000"} {
		if len(r.Samples["./Sizes/polargate/customers="+n]) > 0 {
			all = append(all, n)
		}
	}
	return all
}

// Beside is how long look-ups among so many customers take: today's, those of the build before,
// and those by hand.
func (r *report) Beside(customers string) []float64 {
	var all []float64
	for _, of := range lookedUp {
		least, _, _ := r.middle(strings.Replace(of.benchmark, "Lookup", "Sizes", 1)+"/customers="+customers, "ns/undisturbed")
		all = append(all, least)
	}
	return all
}

// Short are the budgets that were not kept.
func (r *report) Short() []budget {
	return slices.DeleteFunc(r.Budgets(), func(b budget) bool { return b.Met })
}

// nanosecondsOf is a cell that is a number of them.
func nanosecondsOf(cell string) (string, error) {
	ns, err := strconv.ParseFloat(cell, 64)
	return nanoseconds(ns), err
}

func nanoseconds(ns float64) string {
	switch {
	case ns >= 1e6:
		return fmt.Sprintf("%.2f ms", ns/1e6)
	case ns >= 10e3:
		return fmt.Sprintf("%.0f µs", ns/1e3)
	case ns >= 100:
		return fmt.Sprintf("%.0f ns", ns)
	}
	return fmt.Sprintf("%.1f ns", ns)
}

// output is what the go command prints.
func output(folder string, args ...string) (string, error) {
	command := exec.Command("go", args...)
	command.Dir = folder
	text, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return string(text), nil
}
