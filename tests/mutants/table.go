package main

import (
	"fmt"
	"regexp"
	"strings"
)

var row = regexp.MustCompile("(?m)^\\| .* \\| (.*) \\| `(Test.*)` \\|$")

// listed are the tests by which the mutants of a page were noticed, by name.
func listed(page []byte) map[string][]string {
	by := map[string][]string{}
	for _, found := range row.FindAllSubmatch(page, -1) {
		by[string(found[1])] = strings.Split(string(found[2]), "`, `")
	}
	return by
}

// table is docs/mutants.md: by has the tests that noticed, by the name of the mutant.
func table(by map[string][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Mutants

A test that can't fail shows nothing. Here each rule of the design is broken on purpose, one
at a time, in %d ways, and the tests named beside it notice. Write this page again with

    go run ./tests/mutants -write

That takes a while, so it is run by hand, not by CI. CI checks that each mutant still fits the
code and compiles. If you change a rule, change its mutants in
[tests/mutants](../tests/mutants).
`, len(all()))
	for _, c := range chapters {
		fmt.Fprintf(&b, "\n## %s\n\n| the rule | broken so that | noticed by |\n|---|---|---|\n", c.title)
		for _, m := range c.mutants {
			fmt.Fprintf(&b, "| %s | %s | `%s` |\n", m.rule, m.name, strings.Join(by[m.name], "`, `"))
		}
	}
	return b.String()
}
