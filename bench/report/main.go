// Report runs all benchmarks several times, measures what programs weigh, and writes
// docs/benchmarks.md. It is run from the folder of this module:
//
//	go run ./report                  takes half an hour
//	go run ./report -runs 1 -small   tries it out in two minutes
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
	"strings"
	"text/template"
	"time"

	"golang.org/x/perf/benchfmt"
)

//go:embed benchmarks.md.tmpl
var page string

func main() {
	log.SetFlags(0)
	runs := flag.Int("runs", 9, "how often each benchmark is run")
	small := flag.Bool("small", false, "leave out the million customers")
	out := flag.String("o", "../docs/benchmarks.md", "the file to write")
	flag.Parse()
	if err := write(*out, *runs, *small); err != nil {
		log.Fatal(err)
	}
}

func write(out string, runs int, small bool) error {
	r := &report{samples: map[string][]sample{}, figures: map[string][]figure{}, Runs: runs}
	if err := r.describe(); err != nil {
		return err
	}
	for n := range runs {
		log.Printf("benchmarks, %d of %d", n+1, runs)
		// One after another and again, so that a busy moment of the machine does not
		// strike all the runs of one.
		if err := r.bench(".", "."); err != nil {
			return err
		}
		if err := r.bench("..", "Has|ColdStart|CheckFromMemory|Entitlements|CustomerMemory|Server"); err != nil {
			return err
		}
	}
	log.Print("sizes")
	if err := r.measureSizes(); err != nil {
		return err
	}
	log.Print("faults and scale")
	if err := r.runTests(!small); err != nil {
		return err
	}
	var text bytes.Buffer
	t, err := template.New("").Funcs(template.FuncMap{"ns": nanoseconds, "join": strings.Join}).Parse(page)
	if err != nil {
		return err
	}
	if err := t.Execute(&text, r); err != nil {
		return err
	}
	return os.WriteFile(out, text.Bytes(), 0o644)
}

type report struct {
	samples map[string][]sample // by benchmark
	figures map[string][]figure // by table
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

// bench runs benchmarks once, and keeps what they say.
func (r *report) bench(folder, pattern string) error {
	text, err := output(folder, "test", "-run", "^$", "-bench", pattern, "-benchmem", "-benchtime", "300ms", ".")
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
		name = folder + "/" + strings.ReplaceAll(name, "_", " ")
		r.samples[name] = append(r.samples[name], s)
	}
	return reader.Err()
}

// middle is the median of what a benchmark's runs say, and the least and most.
func (r *report) middle(name, unit string) (least, middle, most float64) {
	var all []float64
	for _, s := range r.samples[name] {
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
	Times               float64 // of the first row's
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
		_, x.PerSecond, _ = r.middle(full, "req/s")
		x.Times = x.Middle
		if len(rows) > 0 {
			x.Times = x.Middle / rows[0].Middle
		} else {
			x.Times = 1
		}
		rows = append(rows, x)
	}
	return rows
}

// Figures are the rows of a table that tests told.
func (r *report) Figures(table string) []figure { return r.figures[table] }

// Zipf is a cell of the row of that name.
func (r *report) Zipf(row string, cell int) string {
	for _, f := range r.figures["zipf"] {
		if f.Row == row {
			return f.Cells[cell]
		}
	}
	log.Fatalf("there is no row %q", row)
	return ""
}

// Last is a cell of the last row of a table.
func (r *report) Last(table string, cell int) string {
	rows := r.figures[table]
	return rows[len(rows)-1].Cells[cell]
}

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
		r.figures[f.Table] = append(r.figures[f.Table], f)
	}
	return nil
}

// size is what a program weighs.
type size struct {
	program, About    string
	Bytes             int64
	More              string // than the first
	Packages, Modules int
	Cold, Again       time.Duration
}

func (r *report) measureSizes() error {
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
		build := func(cache string) (time.Duration, error) {
			command := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(folder, s.program), "./size/"+s.program)
			command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOCACHE="+cache)
			began := time.Now()
			text, err := command.CombinedOutput()
			if err != nil {
				return 0, fmt.Errorf("%w\n%s", err, text)
			}
			return time.Since(began), nil
		}
		cache := filepath.Join(folder, "cache-"+s.program)
		if s.Cold, err = build(cache); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(folder, s.program)); err != nil {
			return err
		}
		if s.Again, err = build(cache); err != nil {
			return err
		}
		info, err := os.Stat(filepath.Join(folder, s.program))
		if err != nil {
			return err
		}
		s.Bytes = info.Size()
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
		s.More = "–"
		if len(r.Sizes) > 0 {
			s.More = fmt.Sprintf("%+.2f MB", float64(s.Bytes-r.Sizes[0].Bytes)/1e6)
		}
		r.Sizes = append(r.Sizes, s)
		if err := os.RemoveAll(cache); err != nil {
			return err
		}
	}
	return nil
}

// MB is the size in millions of bytes.
func (s size) MB() string { return fmt.Sprintf("%.2f MB", float64(s.Bytes)/1e6) }

// Seconds of a build from nothing, and from a full cache.
func (s size) Seconds() string {
	return fmt.Sprintf("%.0f s, %.1f s", s.Cold.Seconds(), s.Again.Seconds())
}

// budget is what was promised, and what came of it.
type budget struct {
	About, Most, Measured string
	Met                   bool
	Why                   string // it was not met
}

// Budgets compares what was measured with what was promised.
func (r *report) Budgets() []budget {
	features := r.Rows("./Feature", "bare pointer and map", "polargate")
	has := features[1]
	gated := r.Rows("./Middleware", "map by hand", "polargate")[1]
	_, cold, _ := r.middle("../ColdStart", "ns/op")
	_, memory, _ := r.middle("../CustomerMemory", "B/customer")
	more := float64(r.Sizes[1].Bytes-r.Sizes[0].Bytes) / 1e6
	return []budget{
		{"`Has`", "10 ns", fmt.Sprintf("%.1f ns", has.Middle), has.Middle <= 10,
			fmt.Sprintf("On this machine, at this time, the bare pointer and map took %.1f ns: what `Has` adds to them is in the next line", features[0].Middle)},
		{"`Has`, beside a bare pointer and map", "2×", fmt.Sprintf("%.2f×", has.Times), has.Times <= 2, "It reads no clock and takes no lock: a profile will say what it does instead"},
		{"`Has`, allocations", "0", fmt.Sprint(has.Allocs), has.Allocs == 0, "Something escapes"},
		{"middleware, beside a map by hand", "1.3×", fmt.Sprintf("%.2f×", gated.Times), gated.Times <= 1.3,
			"A map by hand that nobody ever writes needs no lock, no clock and no order of use, all of which a cache needs"},
		{"middleware, allocations", "2", fmt.Sprint(gated.Allocs), gated.Allocs <= 2, "Something escapes"},
		{"start with a license on disk, to a decision", "2 ms", fmt.Sprintf("%.2f ms", cold/1e6), cold <= 2e6, "The disk is slow, or the state has grown"},
		{"a customer with ten benefits in the cache", "400 B", fmt.Sprintf("%.0f B", memory), memory <= 400, "What is kept of a customer has grown"},
		{"a program that validates, beside net/http", "0.5 MB", fmt.Sprintf("%.2f MB", more), more <= 0.5, "Something heavy is linked in"},
	}
}

// Short are the budgets that were not kept.
func (r *report) Short() []budget {
	return slices.DeleteFunc(r.Budgets(), func(b budget) bool { return b.Met })
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
