package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../.."

// pkg is a package of the module, parsed, with what it imports.
type pkg struct {
	path    string
	set     *token.FileSet
	files   map[string]*ast.File // by name
	imports types.Importer
}

// packages are those that mutants are in.
func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	dirs := map[string]bool{}
	args := []string{"list", "-deps", "-export", "-json=Dir,ImportPath,Export,GoFiles,DepOnly"}
	for _, m := range all() {
		if dir := m.pkg(); !dirs[dir] {
			dirs[dir] = true
			args = append(args, dir)
		}
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	require.NoError(t, err)

	compiled := map[string]string{}
	set := token.NewFileSet()
	imports := importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(compiled[path]) })
	found := map[string]*pkg{}
	top, err := filepath.Abs(root)
	require.NoError(t, err)
	for listed := json.NewDecoder(bytes.NewReader(out)); ; {
		var one struct {
			Dir, ImportPath, Export string
			GoFiles                 []string
			DepOnly                 bool
		}
		if err := listed.Decode(&one); err == io.EOF {
			return found
		} else {
			require.NoError(t, err)
		}
		compiled[one.ImportPath] = one.Export
		if one.DepOnly {
			continue
		}
		p := &pkg{one.ImportPath, set, map[string]*ast.File{}, imports}
		for _, name := range one.GoFiles {
			file, err := parser.ParseFile(set, filepath.Join(one.Dir, name), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					f.Body = nil // no mutant breaks what is in other files' functions
				}
			}
			p.files[name] = file
		}
		dir, err := filepath.Rel(top, one.Dir)
		require.NoError(t, err)
		found["./"+filepath.ToSlash(dir)] = p
	}
}

// compiles reports what is wrong with the package if one file is another.
func (p *pkg) compiles(name, source string) error {
	changed, err := parser.ParseFile(p.set, name, source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	files := []*ast.File{changed}
	for other, file := range p.files {
		if other != name {
			files = append(files, file)
		}
	}
	var first error
	config := types.Config{Importer: p.imports, Error: func(err error) {
		if e, ok := errors.AsType[types.Error](err); first == nil && (!ok || p.set.Position(e.Pos).Filename == name) {
			first = err
		}
	}}
	_, _ = config.Check(p.path, p.set, files, nil)
	return first
}

func TestEveryMutantFitsTheCodeAndCompiles(t *testing.T) {
	t.Parallel()
	packages := packages(t)
	for _, m := range all() {
		source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.file)))
		require.NoError(t, err)
		changed, err := m.apply(string(source))
		if !assert.NoError(t, err, m.name) {
			continue
		}
		p := packages[m.pkg()]
		require.NotNil(t, p, m.pkg())
		require.Contains(t, p.files, path.Base(m.file))
		assert.NotEqual(t, string(source), changed, m.name)
		assert.NoError(t, p.compiles(path.Base(m.file), changed), m.name)
	}
}

func TestEveryMutantNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\) {$`)
	exists := map[string]bool{} // by folder and name
	for _, m := range all() {
		if exists[m.pkg()] {
			continue
		}
		exists[m.pkg()] = true
		files, err := filepath.Glob(filepath.Join(root, path.Dir(m.file), "*_test.go"))
		require.NoError(t, err)
		for _, file := range files {
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, found := range declaration.FindAllSubmatch(source, -1) {
				exists[m.pkg()+" "+string(found[1])] = true
			}
		}
	}
	for _, m := range all() {
		for test := range strings.SplitSeq(m.tests, "|") {
			assert.True(t, exists[m.pkg()+" "+test], "%s: there is no %s", m.name, test)
		}
	}
}

func TestTheTableListsEveryMutantOnce(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "mutants.md"))
	require.NoError(t, err)
	var rows, named []string
	for _, found := range row.FindAllSubmatch(text, -1) {
		rows = append(rows, string(found[1]))
	}
	for _, m := range all() {
		assert.NotContains(t, named, m.name)
		named = append(named, m.name)
	}
	assert.Equal(t, named, rows, "go run ./internal/mutants -write")
}

func TestThePageKeepsWhatItSaysOfMutantsThatDidNotRun(t *testing.T) {
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

func TestWhatGoTestSaysIsUnderstood(t *testing.T) {
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
