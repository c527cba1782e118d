// Command mutants breaks the rules of this library on purpose, one at a time, and
// tells whether a test notices.
//
//	go run ./tests/mutants                all of them, which takes a while
//	go run ./tests/mutants -run 'grace'   those whose name, rule or file matches
//	go run ./tests/mutants -write         and writes docs/mutants.md, which keeps
//	                                      what it says of those that did not run
//	go run ./tests/mutants -check         only whether each still fits the code,
//	                                      compiles, and names tests that exist
//
// There is about one mutant for each rule that matters. The changed file is laid over
// the real one while its tests are built; nothing in the module is touched. It exits
// with 1 if a mutant survives, no longer applies or does not build.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// mutant is a rule that is broken on purpose.
type mutant struct {
	name     string // says what the library does when it is broken so
	rule     string // what the design says
	file     string // below the root of the module, with slashes
	old, new string // old occurs in the file exactly once
	tests    string // joined by "|": those that are to notice, in any folder
}

// chapter is a part of the design.
type chapter struct {
	title   string
	mutants []mutant
}

var chapters = []chapter{
	{"What an answer means", verdicts},
	{"Clocks, freshness and grace", clocks},
	{"Trials", trials},
	{"Fallbacks and reminders", fallbacks},
	{"Seats", seats},
	{"What vendors sell and take over", vendors},
	{"Limits", limits},
	{"Fingerprint and state", fences},
	{"Customers: what is cached", customers},
	{"Customers: webhooks and routes", routes},
	{"Customers: calls by RPC", rpc},
	{"Customers: lists", lists},
	{"What an access token can do", admin},
	{"What replicas share", replicas},
	{"Leases", leases},
	{"The license page", licensePage},
}

func all() []mutant {
	var every []mutant
	for _, c := range chapters {
		every = append(every, c.mutants...)
	}
	return every
}

// apply is the file with the rule broken.
func (m mutant) apply(source string) (string, error) {
	if n := strings.Count(source, m.old); n != 1 {
		return "", fmt.Errorf("does not apply: the old text is %d times in %s", n, m.file)
	}
	return strings.Replace(source, m.old, m.new, 1), nil
}

// pattern is for go test -run.
func (m mutant) pattern() string { return "^(" + m.tests + ")$" }

// pkg is the package of the file, as the go command takes it.
func (m mutant) pkg() string { return "./" + path.Dir(m.file) }

// outcome is what came of a mutant.
type outcome struct {
	mutant
	by      []string // the tests that noticed
	problem string   // why it does not count as noticed; "" if it does
	took    time.Duration
}

func main() {
	only := flag.String("run", "", "only mutants whose name, rule or file matches this `expression`")
	write := flag.Bool("write", false, "write docs/mutants.md")
	jobs := flag.Int("j", max(1, runtime.NumCPU()/2), "how many run side by side")
	wide := flag.Bool("wide", false, "run all tests of their packages and not only those that are expected to notice")
	fits := flag.Bool("check", false, "run nothing: check that each mutant fits the code, compiles and names tests that exist")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ok, err := true, error(nil)
	if *fits {
		err = check(ctx)
	} else {
		ok, err = run(ctx, *only, *write, *wide, *jobs)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, write, wide bool, jobs int) (ok bool, err error) {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return false, err
	}
	if write && wide {
		return false, errors.New("-write lists the tests that mutants name, and -wide runs others")
	}
	var chosen []mutant
	for _, m := range all() {
		if wanted.MatchString(m.name) || wanted.MatchString(m.rule) || wanted.MatchString(m.file) {
			chosen = append(chosen, m)
		}
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return false, err
	}
	temp, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(temp)
	folders, err := declared(root)
	if err != nil {
		return false, err
	}
	if err := sound(ctx, root, folders, chosen); err != nil {
		return false, err
	}

	outcomes := make([]outcome, len(chosen))
	var mu sync.Mutex // keeps lines apart
	var group sync.WaitGroup
	turns := make(chan struct{}, max(1, jobs))
	for i, m := range chosen {
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			o := try(ctx, root, filepath.Join(temp, fmt.Sprint(i)), folders.of(m.tests), m, wide)
			mu.Lock()
			defer mu.Unlock()
			outcomes[i] = o
			fmt.Fprintf(os.Stdout, "%5.1fs  %s\n        %s\n", o.took.Seconds(), o.name, o)
		})
	}
	group.Wait()
	noticed := 0
	for _, o := range outcomes {
		if o.problem == "" {
			noticed++
		} else {
			fmt.Fprintf(os.Stdout, "%s: %s\n", o.name, o)
		}
	}
	fmt.Fprintf(os.Stdout, "%d mutants, %d noticed\n", len(outcomes), noticed)
	ok = noticed == len(outcomes)
	if write && ok {
		err = rewrite(filepath.Join(root, "docs", "mutants.md"), outcomes)
	}
	return ok, err
}

// rewrite brings the page up to date with the outcomes.
func rewrite(page string, outcomes []outcome) error {
	before, err := os.ReadFile(page)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	by := listed(before)
	for _, o := range outcomes {
		by[o.name] = o.by
	}
	for _, m := range all() {
		if len(by[m.name]) == 0 {
			return fmt.Errorf("%s: it did not run, and %s does not list it", m.name, page)
		}
	}
	return os.WriteFile(page, []byte(table(by)), 0o644)
}

func (o outcome) String() string {
	if o.problem != "" {
		return strings.ToUpper(o.problem[:1]) + o.problem[1:]
	}
	return "noticed by " + strings.Join(o.by, ", ")
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
}

// sound runs the tests that are to notice without any mutant: one that fails anyway
// notices nothing.
func sound(ctx context.Context, root string, folders places, chosen []mutant) error {
	var names []string
	for _, m := range chosen {
		names = append(names, strings.Split(m.tests, "|")...)
	}
	slices.Sort(names)
	all := strings.Join(slices.Compact(names), "|")
	seen, err := test(ctx, root, folders.of(all), "^("+all+")$")
	if err == nil && (seen.unbuilt || len(seen.failed) > 0) {
		err = fmt.Errorf("tests fail without a mutant: %s", strings.Join(seen.failed, ", "))
	}
	return err
}

// try lays the changed file over the real one and runs the tests.
func try(ctx context.Context, root, temp string, packages []string, m mutant, wide bool) outcome {
	start := time.Now()
	o := outcome{mutant: m}
	defer func() { o.took = time.Since(start) }()
	file := filepath.Join(root, filepath.FromSlash(m.file))
	source, err := os.ReadFile(file)
	if err == nil {
		var changed string
		if changed, err = m.apply(string(source)); err == nil {
			err = overlay(temp, file, changed)
		}
	}
	if err != nil {
		o.problem = err.Error()
		return o
	}
	pattern := m.pattern()
	if wide {
		pattern = "."
	}
	seen, err := test(ctx, root, packages, pattern, "-overlay", temp+".json")
	switch o.by = seen.failed; {
	case err != nil:
		o.problem = err.Error()
	case seen.unbuilt:
		o.problem = "does not build"
	case len(seen.failed) == 0:
		o.problem = "survived"
	}
	o.took = time.Since(start)
	return o
}

func overlay(temp, file, changed string) error {
	index, err := json.Marshal(map[string]any{"Replace": map[string]string{file: temp + ".go"}})
	return errors.Join(err, os.WriteFile(temp+".go", []byte(changed), 0o600), os.WriteFile(temp+".json", index, 0o600))
}

// seen is what go test said.
type seen struct {
	unbuilt bool
	failed  []string // tests, sorted
}

// test runs tests. They fail without an error here; an error is one of go test
// itself, or that there was nothing to run.
func test(ctx context.Context, root string, packages []string, pattern string, flags ...string) (seen, error) {
	// Building is most of the work, and sooner done without optimizing.
	args := append([]string{"test", "-json", "-count=1", "-vet=off", "-gcflags=-N -l", "-timeout=2m", "-run", pattern}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Dir = root
	var said, complained bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complained
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return seen{}, err
	}
	s := read(said.Bytes())
	if err != nil && !s.unbuilt && len(s.failed) == 0 {
		return s, fmt.Errorf("go test failed, but no test did: %s%s", complained.String(), said.String())
	}
	return s, ctx.Err()
}

// read reads the lines of go test -json. A test that a panic or the timeout cut
// short has failed.
func read(lines []byte) seen {
	var s seen
	running := map[string]bool{}
	for line := range bytes.Lines(lines) {
		var event struct{ Action, Test string }
		if json.Unmarshal(line, &event) != nil {
			continue
		}
		name, sub, _ := strings.Cut(event.Test, "/")
		switch {
		case event.Action == "build-fail":
			s.unbuilt = true
		case name == "" || sub != "":
		case event.Action == "run":
			running[name] = true
		case event.Action == "fail":
			s.failed = append(s.failed, name)
			delete(running, name)
		case event.Action == "pass", event.Action == "skip":
			delete(running, name)
		}
	}
	if len(s.failed) == 0 && !s.unbuilt {
		s.failed = slices.Collect(maps.Keys(running)) // nobody can tell which of them it was
	}
	slices.Sort(s.failed)
	return s
}
