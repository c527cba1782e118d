package gate

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	faultsPage    = "../../docs/faults.md"
	faultsCommand = "go test ./tests/gate -run TestFaultMatrix -update-faults"
)

// cell is what an operation comes to while a fault lasts.
type cell struct {
	verdict  string
	err      string
	requests int
	wait     time.Duration // one of waitSteps
	// counted are seats or uses at Polar, and later those after the operation was done
	// again when the fault was over.
	counted, later int
	// again is how it went then. It is the same in all cells, and so not on the page.
	again string
}

// granted reports whether a cell lets somebody in.
func (c cell) granted() bool {
	word, _, _ := strings.Cut(c.verdict, ":")
	return word == "active" || word == "grace" || strings.HasSuffix(word, "200")
}

// waitSteps are what a wait is rounded up to, so that it is the same each time: the
// pauses between tries are random, the first 0.125 to 0.375 s and the next 0.5 to 1.5 s.
var waitSteps = []time.Duration{
	0, time.Second / 2, 2 * time.Second, 4 * time.Second, 4*time.Second + time.Second/2, 5 * time.Second, 8 * time.Second,
	10 * time.Second, 12 * time.Second, 15 * time.Second, 20 * time.Second, time.Minute, time.Hour,
}

func roundWait(d time.Duration) time.Duration {
	i, _ := slices.BinarySearch(waitSteps, d.Round(time.Second/10)) // a network's own milliseconds do not count
	return waitSteps[min(i, len(waitSteps)-1)]
}

func waitInWords(d time.Duration) string {
	if d == 0 {
		return none
	}
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
}

// columns are a cell as it is in a table.
func (c cell) columns(o matrixOperation) []string {
	all := []string{c.verdict, c.err, strconv.Itoa(c.requests), waitInWords(c.wait)}
	if o.counted != "" {
		all = append(all, strconv.Itoa(c.counted), strconv.Itoa(c.later))
	}
	return all
}

func parseCell(columns []string) cell {
	columns = append(slices.Clone(columns), make([]string, 6)...)
	number := func(i int) int { n, _ := strconv.Atoi(columns[i]); return n }
	c := cell{verdict: columns[0], err: columns[1], requests: number(2), counted: number(4), later: number(5)}
	for _, step := range waitSteps {
		if waitInWords(step) == columns[3] {
			c.wait = step
		}
	}
	return c
}

// matrix is all cells, by operation and fault.
type matrix map[string]map[string]cell

func (m matrix) set(operation, fault string, c cell) {
	if m[operation] == nil {
		m[operation] = map[string]cell{}
	}
	m[operation][fault] = c
}

const faultsIntroduction = `<!-- Written by: ` + faultsCommand + ` -->

# What happens when something is wrong

What can go wrong between a program and Polar, the store that replicas share, or a license
server, and the outcome of each operation then. A test plays all of it on the embedded Polar,
writes this page, and fails if anything changes.
Don't edit the page by hand. Write it again with

    ` + faultsCommand + `

How to read it:

- Each operation has a table. Its first row is the operation without a fault. **A fault
  that has no row has the outcome of the first row.**
- A fault exists before the operation starts and lasts until after it, except for faults
  that happen once.
- *Verdict* is the state of the license when the call returns, with the reason if it is
  grace. For a server, it is the HTTP status. *Error* is the Reason of the error, or of a
  server's refusal; – is none.
- *Requests* are all requests sent to Polar, or attempted: also those in the background,
  and those that deactivate. In the tables of a license server, they are those of the program
  to that server.
- *Longest wait* is how long the caller waited without a deadline of its own. The pauses
  between attempts are random, so it is rounded up to the next of %s. A few milliseconds
  are –.
- *Activations*, *Uses* and *Units* are what Polar counts after the operation. *Later* is the same
  after the fault is over and the operation was repeated a quarter of an hour later. One
  activation too many then is one whose answer was lost: there is no way to ask Polar
  about it.
- When a fault is over, each operation has the outcome of its first row. Each row is
  tested for this.

All settings are the defaults, with a CheckTimeout of 5 seconds, and a Timeout of 5 seconds
for servers.

## The faults

| Fault | How the test causes it, with package polartest |
|---|---|
`

func (m matrix) page() string {
	var b strings.Builder
	steps := make([]string, 0, len(waitSteps))
	for _, step := range waitSteps[1:] {
		steps = append(steps, strconv.FormatFloat(step.Seconds(), 'f', -1, 64))
	}
	fmt.Fprintf(&b, faultsIntroduction, strings.Join(steps, ", ")+" seconds")
	for _, f := range matrixFaults[1:] {
		by := f.by
		if strings.Contains(by, "(") {
			by = "`" + by + "`"
		}
		if f.times == 1 {
			by += ", once"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", f.name, by)
	}
	for _, others := range []struct {
		of     string
		faults []matrixFault
	}{{"connections to Polar", connectionFaults}, {theStore, storeFaults}, {theIssuer, issuerFaults}} {
		fmt.Fprintf(&b, "\nFaults of %s:\n\n| Fault | How the test causes it |\n|---|---|\n", others.of)
		for _, f := range others.faults {
			fmt.Fprintf(&b, "| %s | %s |\n", f.name, f.by)
		}
	}
	for _, o := range operations() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| Fault | Verdict | Error | Requests | Longest wait |", o.name, o.about)
		line := "\n|---|---|---|--:|--:|"
		if o.counted != "" {
			fmt.Fprintf(&b, " %s | Later |", o.counted)
			line += "--:|--:|"
		}
		b.WriteString(line + "\n")
		var unchanged string
		for i, f := range o.faults() {
			columns := strings.Join(m[o.name][f.name].columns(o), " | ")
			if i == 0 {
				unchanged = columns
			} else if columns == unchanged {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s |\n", f.name, columns)
		}
	}
	return b.String()
}

// parseMatrix reads what page writes.
func parseMatrix(page string) matrix {
	m := matrix{}
	for section := range strings.SplitSeq(page, "\n## ") {
		title, text, _ := strings.Cut(section, "\n")
		rows := map[string]cell{}
		for line := range strings.SplitSeq(text, "\n") {
			columns := strings.Split(strings.Trim(line, "| "), " | ")
			if len(columns) >= 5 && columns[0] != "Fault" {
				rows[columns[0]] = parseCell(columns[1:])
			}
		}
		if _, ok := rows[noFault]; !ok {
			continue
		}
		for _, o := range operations() {
			for _, f := range o.faults() {
				if _, ok := rows[f.name]; !ok && o.name == title {
					rows[f.name] = rows[noFault]
				}
			}
		}
		m[title] = rows
	}
	return m
}

// compareMatrices says how what was played differs from the page, a sentence for each cell.
func compareMatrices(page string, played matrix) []string {
	page = strings.ReplaceAll(page, "\r\n", "\n")
	written := parseMatrix(page)
	var all []string
	for _, o := range operations() {
		if _, ok := written[o.name]; !ok {
			all = append(all, fmt.Sprintf("%s is not on the page: run %s", o.name, faultsCommand))
			continue
		}
		for _, f := range o.faults() {
			before, now := written[o.name][f.name], played[o.name][f.name]
			if worse := now.worse(before, o); len(worse) > 0 {
				all = append(all, fmt.Sprintf("%s, with %q: worse than on the page, since %s", o.name, f.name, strings.Join(worse, ", and ")))
			} else if !slices.Equal(now.columns(o), before.columns(o)) {
				all = append(all, fmt.Sprintf("%s, with %q: the page has %q and not %q: if that is meant, run %s",
					o.name, f.name, before.columns(o), now.columns(o), faultsCommand))
			}
		}
	}
	if len(all) == 0 && page != played.page() {
		all = append(all, fmt.Sprintf("the page has changed beside its cells: run %s", faultsCommand))
	}
	return all
}

// worse says in what a cell is worse than it was before.
func (c cell) worse(before cell, o matrixOperation) []string {
	var all []string
	say := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	say(c.granted() && !before.granted(), "access is given (%s) where it was not (%s)", c.verdict, before.verdict)
	say(!c.granted() && before.granted(), "access is refused (%s) where it was given (%s)", c.verdict, before.verdict)
	say(c.err != before.err, "the error is %s and was %s", c.err, before.err)
	say(c.requests > before.requests, "it takes %d requests and took %d", c.requests, before.requests)
	say(c.wait > before.wait, "it waits for %s and waited for %s", waitInWords(c.wait), waitInWords(before.wait))
	counted := strings.ToLower(o.counted)
	say(c.counted > before.counted, "there are %d %s and were %d", c.counted, counted, before.counted)
	say(c.later > before.later, "there are %d %s later and were %d", c.later, counted, before.later)
	return all
}

// madeUp is a matrix whose cells are all different.
func madeUp() matrix {
	m := matrix{}
	n := 0
	for _, o := range operations() {
		for i, f := range o.faults() {
			n++
			c := cell{verdict: "grace: unreachable", err: none, requests: n, wait: waitSteps[i%len(waitSteps)]}
			if o.counted != "" {
				c.counted, c.later = n+1, n+2
			}
			m.set(o.name, f.name, c)
		}
	}
	return m
}

func TestThePageOfFaultsIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	m := madeUp()
	assert.Equal(t, m, parseMatrix(m.page()))
	last := matrixOperations[len(matrixOperations)-1].name
	m[last][matrixFaults[5].name] = m[last][noFault]
	assert.Equal(t, m, parseMatrix(m.page()), "a fault without a row")
	assert.Empty(t, compareMatrices(m.page(), m))
	assert.Empty(t, compareMatrices(strings.ReplaceAll(m.page(), "\n", "\r\n"), m), "checked out on Windows")
}

func TestACellThatIsAnotherThanOnThePageOfFaultsIsNamed(t *testing.T) {
	t.Parallel()
	const silent = "no answer"
	for name, test := range map[string]struct {
		operation string
		change    func(*cell)
		want      string
	}{
		"locked":              {"Consume", func(c *cell) { c.verdict = "locked" }, "access is refused (locked) where it was given (grace: unreachable)"},
		"refused":             {"Consume", func(c *cell) { c.verdict = "503" }, "access is refused (503) where it was given"},
		"another error":       {"Consume", func(c *cell) { c.err = "in_doubt" }, "the error is in_doubt and was –"},
		"more requests":       {"Consume", func(c *cell) { c.requests++ }, "requests and took"},
		"a longer wait":       {"Consume", func(c *cell) { c.wait = time.Hour }, "it waits for 3600 s and waited for 8 s"},
		"a lost activation":   {"Activate", func(c *cell) { c.later++ }, "activations later and were"},
		"one activation more": {"Activate", func(c *cell) { c.counted++ }, "activations and were"},
		"fewer requests":      {"Activate", func(c *cell) { c.requests-- }, "if that is meant, run " + faultsCommand},
		"a shorter wait":      {"Activate", func(c *cell) { c.wait = 0 }, "if that is meant, run " + faultsCommand},
		"another grace":       {"Activate", func(c *cell) { c.verdict = "grace: rate_limited" }, "if that is meant, run " + faultsCommand},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := madeUp()
			c := now[test.operation][silent]
			c.wait = 8 * time.Second
			now.set(test.operation, silent, c)
			page := now.page()
			test.change(&c)
			now.set(test.operation, silent, c)
			changes := compareMatrices(page, now)
			require.Len(t, changes, 1)
			assert.Contains(t, changes[0], test.operation+`, with "no answer": `)
			assert.Contains(t, changes[0], test.want)
		})
	}
	t.Run("access where there was none", func(t *testing.T) {
		t.Parallel()
		for _, good := range []string{"active", "grace: unreachable", "200", "204, then 200"} {
			for _, bad := range []string{"locked", "unlicensed", "401", "402", "503", "not delivered, then 402"} {
				worse := cell{verdict: good}.worse(cell{verdict: bad}, matrixOperation{})
				assert.Equal(t, []string{"access is given (" + good + ") where it was not (" + bad + ")"}, worse)
			}
		}
	})
	t.Run("an operation that is not on the page", func(t *testing.T) {
		t.Parallel()
		page := strings.ReplaceAll(madeUp().page(), "\n## Consume\n", "\n## Use\n")
		assert.Equal(t, []string{"Consume is not on the page: run " + faultsCommand}, compareMatrices(page, madeUp()))
	})
	t.Run("words that were edited by hand", func(t *testing.T) {
		t.Parallel()
		page := strings.ReplaceAll(madeUp().page(), "by hand", "with care")
		assert.Equal(t, []string{"the page has changed beside its cells: run " + faultsCommand}, compareMatrices(page, madeUp()))
	})
}

func TestEveryEffectOfPolartestIsInTheMatrixOfFaults(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../polartest/*.go")
	require.NoError(t, err)
	var constructors []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !f.Name.IsExported() || f.Type.Results == nil {
				continue
			}
			if result, ok := f.Type.Results.List[0].Type.(*ast.Ident); ok && result.Name == "Effect" {
				constructors = append(constructors, f.Name.Name)
			}
		}
	}
	require.Greater(t, len(constructors), 10)

	var played []string
	for _, f := range matrixFaults {
		if f.strike == nil {
			played = append(played, f.constructor())
		}
	}
	for _, c := range constructors {
		assert.Contains(t, played, c, "no row of the matrix is made with polartest.%s", c)
	}
}
