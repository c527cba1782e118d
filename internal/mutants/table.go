package main

import (
	"fmt"
	"strings"
)

// table is docs/mutants.md.
func table(outcomes []outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Mutants

A test that nothing can fail shows nothing. Here each rule of the design is broken on
purpose, one at a time, in %d ways, and the tests named beside it notice. This page is
written by

    go run ./internal/mutants -write

which takes a while, and so is run by hand and not by CI. What CI does run is a short
test that each mutant still fits the code and compiles. Who changes a rule changes
its mutants in [internal/mutants](../internal/mutants).
`, len(outcomes))
	by := map[string]outcome{}
	for _, o := range outcomes {
		by[o.name] = o
	}
	for _, c := range chapters {
		fmt.Fprintf(&b, "\n## %s\n\n| the rule | broken so that | noticed by |\n|---|---|---|\n", c.title)
		for _, m := range c.mutants {
			fmt.Fprintf(&b, "| %s | %s | `%s` |\n", m.rule, m.name, strings.Join(by[m.name].by, "`, `"))
		}
	}
	return b.String()
}
