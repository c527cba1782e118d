package main

import (
	"cmp"
	"fmt"
	"html"
	"log"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// curve is a line of a chart. Its points go from left to right.
type curve struct {
	Name   string
	Points [][2]float64
}

// chart is a picture of curves over two logarithmic axes, which show growth: a line that is
// level doesn't grow, and one that climbs from corner to corner grows in proportion.
type chart struct {
	Title, Across, Up string
	Curves            []curve
}

// The picture is drawn in a box of this size, and the curves in a smaller one within it.
const (
	chartWidth, chartHeight = 760.0, 400.0
	chartLeft, chartRight   = 76.0, 560.0
	chartTop, chartBottom   = 56.0, 336.0
	between                 = 17.0 // lines of text
	style                   = `
text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}.axis{fill:#59636e}
.back{fill:#fff}.grid{stroke:#d1d9e0;stroke-width:1}
.line{fill:none;stroke-width:2.5;stroke-linejoin:round}
.c0{stroke:#0550ae}.c1{stroke:#bc4c00}.c2{stroke:#1a7f37}.c3{stroke:#8250df}.c4{stroke:#57606a}
.d0{fill:#0550ae}.d1{fill:#bc4c00}.d2{fill:#1a7f37}.d3{fill:#8250df}.d4{fill:#57606a}
@media(prefers-color-scheme:dark){
text{fill:#f0f6fc}.axis{fill:#9198a1}.back{fill:#0d1117}.grid{stroke:#3d444d}
.c0{stroke:#79c0ff}.c1{stroke:#ffa657}.c2{stroke:#7ee787}.c3{stroke:#d2a8ff}.c4{stroke:#b1bac4}
.d0{fill:#79c0ff}.d1{fill:#ffa657}.d2{fill:#7ee787}.d3{fill:#d2a8ff}.d4{fill:#b1bac4}
}`
)

// dashes tell curves apart without colours.
var dashes = []string{"", "9 5", "3 4", "14 4 3 4", "1 5"}

// svg is the picture. It brings its own background, so that it can be read in light and dark.
func (c chart) svg() string {
	left, right, low, high := c.bounds()
	x := func(v float64) float64 {
		return chartLeft + (math.Log10(v)-math.Log10(left))/(math.Log10(right)-math.Log10(left))*(chartRight-chartLeft)
	}
	y := func(v float64) float64 {
		return chartBottom - (math.Log10(v)-math.Log10(low))/(math.Log10(high)-math.Log10(low))*(chartBottom-chartTop)
	}
	var b strings.Builder
	text := func(class, anchor string, x, y float64, words string) {
		fmt.Fprintf(&b, `<text class="%s" text-anchor="%s" x="%.1f" y="%.1f">%s</text>`+"\n", class, anchor, x, y, html.EscapeString(words))
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`+"\n<style>%s\n</style>\n", chartWidth, chartHeight, html.EscapeString(c.Title), style)
	fmt.Fprintf(&b, `<rect class="back" width="%.0f" height="%.0f"/>`+"\n", chartWidth, chartHeight)
	text("title", "start", 20, 28, c.Title)
	for _, v := range marks(low, high) {
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %.1fH%.1f"/>`+"\n", chartLeft, y(v), chartRight)
		text("axis", "end", chartLeft-8, y(v)+4, short(v))
	}
	for _, v := range c.across() {
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %.1fV%.1f"/>`+"\n", x(v), chartTop, chartBottom)
		text("axis", "middle", x(v), chartBottom+20, short(v))
	}
	text("axis", "middle", (chartLeft+chartRight)/2, chartBottom+46, c.Across)
	text("axis", "start", 20, 47, c.Up)
	ends := make([]label, len(c.Curves))
	for i, line := range c.Curves {
		var path strings.Builder
		for n, p := range line.Points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(n, 1)], x(p[0]), y(p[1]))
			fmt.Fprintf(&b, `<circle class="d%d" r="3.5" cx="%.1f" cy="%.1f"/>`+"\n", i, x(p[0]), y(p[1]))
		}
		fmt.Fprintf(&b, `<path class="line c%d" stroke-dasharray="%s" d="%s"/>`+"\n", i, dashes[i], path.String())
		last := line.Points[len(line.Points)-1]
		ends[i] = label{i, y(last[1]) + 4}
	}
	for _, end := range apart(ends) {
		fmt.Fprintf(&b, `<circle class="d%d" r="4" cx="%.1f" cy="%.1f"/>`+"\n", end.curve, chartRight+16, end.y-4)
		text("", "start", chartRight+26, end.y, c.Curves[end.curve].Name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// bounds are the least and the largest of both axes. Up, they are powers of ten, or a half or a
// fifth of one, so that there is a mark at both.
func (c chart) bounds() (left, right, low, high float64) {
	left, low = math.Inf(1), math.Inf(1)
	for _, line := range c.Curves {
		for _, p := range line.Points {
			left, right = min(left, p[0]), max(right, p[0])
			low, high = min(low, p[1]), max(high, p[1])
		}
	}
	return left, right, steps(low * 1.0001)[0], steps(high * 0.9999)[1]
}

// steps are the marks below and above a number.
func steps(v float64) [2]float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	all := []float64{power, 2 * power, 5 * power, 10 * power}
	i, _ := slices.BinarySearch(all, v)
	i = max(i, 1)
	return [2]float64{all[i-1], all[i]}
}

// marks are the numbers at the upright axis: all steps if they are few, and powers of ten if not.
func marks(low, high float64) []float64 {
	var few, all []float64
	for v := low; v <= high*1.001; v = steps(v * 1.001)[1] {
		all = append(all, v)
		if power := math.Log10(v); math.Abs(power-math.Round(power)) < 1e-9 {
			few = append(few, v)
		}
	}
	if len(all) > 9 {
		return few
	}
	return all
}

// across are the numbers that were measured at.
func (c chart) across() []float64 {
	var all []float64
	for _, line := range c.Curves {
		for _, p := range line.Points {
			all = append(all, p[0])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// label names a curve at its right end.
type label struct {
	curve int
	y     float64
}

// apart moves labels so that none covers another.
func apart(labels []label) []label {
	slices.SortFunc(labels, func(a, b label) int { return cmp.Compare(a.y, b.y) })
	for i := 1; i < len(labels); i++ {
		labels[i].y = max(labels[i].y, labels[i-1].y+between)
	}
	return labels
}

// short is a number as a person writes it: with commas, from a thousand on.
func short(v float64) string {
	if v < 1000 {
		return fmt.Sprintf("%.3g", v)
	}
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// WithCommas is a number of customers as a person writes it.
func (r *report) WithCommas(n string) string { return short(asNumber(n)) }

// draw writes the pictures into a folder.
func (r *report) draw(folder string) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		log.Fatal(err)
	}
	for name, c := range map[string]chart{
		"lookup-goroutines.svg": r.byGoroutines(), "lookup-customers.svg": r.byCustomers(), "replicas.svg": r.byReplicas(),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(c.svg()), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

// lookedUp are the builds and the caches by hand that look-ups are compared with, in the order of
// tables and pictures.
var lookedUp = []struct{ name, benchmark string }{
	{"polargate", "./Lookup/polargate"}, {"23 November 2026", "before/Lookup/polargate"}, {"2Q with a lock", "./Lookup/2Q with a lock"},
	{"a map with a lock", "./Lookup/map with a lock"}, {"sync.Map", "./Lookup/sync.Map"},
}

// Compared are their names.
func (r *report) Compared() []string {
	var all []string
	for _, of := range lookedUp {
		all = append(all, of.name)
	}
	return all
}

func (r *report) byGoroutines() chart {
	c := chart{Title: "A look-up among 100,000 customers", Across: "goroutines", Up: "ns"}
	for _, of := range lookedUp {
		line := curve{Name: of.name}
		for _, n := range []string{"1", "2", "4", "8"} {
			line.Points = append(line.Points, [2]float64{asNumber(n), r.lookup(of.benchmark, n).Least})
		}
		c.Curves = append(c.Curves, line)
	}
	return c
}

func (r *report) byCustomers() chart {
	c := chart{Title: "A look-up by eight goroutines", Across: "customers", Up: "ns"}
	for i, of := range lookedUp {
		line := curve{Name: of.name}
		for _, n := range r.Among() {
			line.Points = append(line.Points, [2]float64{asNumber(n), r.Beside(n)[i]})
		}
		c.Curves = append(c.Curves, line)
	}
	return c
}

func (r *report) byReplicas() chart {
	c := chart{Title: "Replicas on one store", Across: "replicas", Up: "for one customer, all replicas together"}
	asked := curve{Name: "questions to Polar"}
	alone := curve{Name: "the same, no store"}
	read := curve{Name: "records read for a change"}
	for _, f := range r.Tables["fleet"] {
		n := asNumber(f.Row)
		asked.Points = append(asked.Points, [2]float64{n, asNumber(f.Cells[2])})
		alone.Points = append(alone.Points, [2]float64{n, n})
		read.Points = append(read.Points, [2]float64{n, asNumber(f.Cells[5])})
	}
	c.Curves = []curve{asked, alone, read}
	return c
}
