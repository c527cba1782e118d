package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestThePageKeepsTheRowsOfMutantsThatDidNotRun(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "mutants.md")
	every := all()
	one := outcome{mutant: every[1], by: []string{"TestAnew", "TestOther"}}
	assert.ErrorContains(t, rewrite(page, []outcome{one}), every[0].name, "there is no page yet")

	var before []outcome
	for _, m := range every {
		before = append(before, outcome{mutant: m, by: []string{"TestOf" + m.file, "TestB"}})
	}
	require.NoError(t, rewrite(page, before))
	require.NoError(t, rewrite(page, []outcome{one}))
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	by := listed(text)
	assert.Len(t, by, len(every))
	assert.Equal(t, before[0].by, by[every[0].name])
	assert.Equal(t, one.by, by[one.name])
}

func TestAMutantWhoseTextHasChangedDoesNotApply(t *testing.T) {
	t.Parallel()
	m := mutant{old: "a < b", new: "a <= b", file: "x.go"}
	changed, err := m.apply("if a < b {}")
	require.NoError(t, err)
	assert.Equal(t, "if a <= b {}", changed)
	for _, source := range []string{"if a > b {}", "a < b && a < b"} {
		_, err := m.apply(source)
		assert.ErrorContains(t, err, "does not apply")
	}
}

func TestTheOutputOfGoTestIsUnderstood(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lines string
		want  seen
	}{
		"all is well":         {`{"Action":"run","Test":"TestA"}` + "\n" + `{"Action":"pass","Test":"TestA"}` + "\n" + `{"Action":"pass"}`, seen{}},
		"a test fails":        {`{"Action":"run","Test":"TestA"}` + "\n" + `{"Action":"fail","Test":"TestA/in a case"}` + "\n" + `{"Action":"fail","Test":"TestA"}` + "\n" + `{"Action":"fail"}`, seen{failed: []string{"TestA"}}},
		"it does not build":   {`{"ImportPath":"x","Action":"build-output","Output":"…"}` + "\n" + `{"ImportPath":"x","Action":"build-fail"}` + "\n" + `{"Action":"fail"}`, seen{unbuilt: true}},
		"a panic cuts it off": {`{"Action":"run","Test":"TestB"}` + "\n" + `{"Action":"run","Test":"TestA"}` + "\n" + `{"Action":"pass","Test":"TestB"}` + "\n" + "no JSON\n" + `{"Action":"fail"}`, seen{failed: []string{"TestA"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, read([]byte(c.lines)))
		})
	}
}
