package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestAChartIsWellFormedAndNamesItsCurves(t *testing.T) {
	t.Parallel()
	picture := chart{Title: "Growth & decay", Across: "customers", Up: "ns", Curves: []curve{
		{"one", [][2]float64{{1, 3}, {1000, 3}}}, {"another", [][2]float64{{1, 2}, {10, 40}, {1000, 3.1}}},
	}}.svg()
	var words []string
	for d := xml.NewDecoder(strings.NewReader(picture)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			words = append(words, string(text))
		}
	}
	for _, want := range []string{"Growth & decay", "one", "another", "customers", "ns", "1", "10", "1,000", "50"} {
		if !slices.Contains(words, want) {
			t.Errorf("%q is missing in %q", want, words)
		}
	}
}

func TestTheAxisOfAChartHasMarksAtBothEnds(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		least, most float64
		want        []float64
	}{
		{3, 40, []float64{2, 5, 10, 20, 50}},
		{1, 100, []float64{1, 2, 5, 10, 20, 50, 100}},
		{1, 2000, []float64{1, 10, 100, 1000}},
	} {
		c := chart{Curves: []curve{{"", [][2]float64{{1, x.least}, {2, x.most}}}}}
		_, _, low, high := c.bounds()
		got := marks(low, high)
		for i := range got {
			got[i] = float64(int(got[i] + .5))
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%v to %v has the marks %v", x.least, x.most, got)
		}
	}
}
