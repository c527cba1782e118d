// Package house checks how the project is laid out: which file may use which, where
// tests live, and that the pages which name files name files that exist.
package house

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../.."

// floors are the files of the root, from the ground up. A file uses its own floor and
// those below it: arrows go down. The compiler sees one package and would not notice. A
// file that only some systems have belongs to the file it is named after.
var floors = [][]string{
	{"words.go"},
	{"errors.go", "secret.go"},
	{"wire.go"},
	{"client.go", "license.go", "activation.go", "license_admin.go"},
	{"shared.go"},
	{"store.go", "status.go", "config.go"},
	{"offline.go", "trial.go", "entitlements.go", "overlay.go"},
	{"gate.go", "check.go", "publish.go", "record.go", "record_io.go", "leases.go", "seats.go", "import.go", "ephemeral.go", "licenses.go", "diagnose.go"},
	{"customers.go", "cache.go", "decision.go", "members.go", "customer_admin.go", "warm.go", "webhook.go", "events.go", "usage.go"},
	{"http_middleware.go", "watch.go"},
	{"doc.go"},
}

// knots are the arrows that go up all the same. There are none: put what both files need on
// the lower floor.
var knots []string

// mostFiles is how many product files the root has at most. It may only get smaller: what
// no user meets belongs in internal/.
const mostFiles = 39

// use is a reference from one file of the root to what another declares.
type use struct{ from, to, name string }

func TestNoFileUsesOneAboveIt(t *testing.T) {
	t.Parallel()
	floor := map[string]int{}
	for i, files := range floors {
		for _, name := range files {
			floor[name] = i
		}
	}
	files, uses := references(t)
	for _, name := range files {
		_, placed := floor[whole(name)]
		assert.True(t, placed, "%s has no floor: give it one in floors", name)
	}
	up := map[string][]string{}
	for _, u := range uses {
		if floor[whole(u.to)] > floor[whole(u.from)] {
			knot := whole(u.from) + " uses " + whole(u.to)
			up[knot] = append(up[knot], u.name)
		}
	}
	for knot, names := range up {
		slices.Sort(names)
		assert.True(t, slices.Contains(knots, knot), "%s, for %s: arrows go down", knot, strings.Join(slices.Compact(names), ", "))
	}
	for _, knot := range knots {
		assert.NotEmpty(t, up[knot], "the knot %q is untied: take it off the list", knot)
	}
}

// system is the end of the name of a file that only some systems have.
var system = regexp.MustCompile(`_(bsd|darwin|linux|other|unix|windows)\.go$`)

// whole is the file that a file of some systems belongs to.
func whole(name string) string { return system.ReplaceAllString(name, ".go") }

// references are the files of the root package and what they use of each other.
func references(t *testing.T) (names []string, uses []use) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-export", "-json=ImportPath,Export,GoFiles,DepOnly", ".")
	cmd.Dir = root
	out, err := cmd.Output()
	require.NoError(t, err)
	compiled := map[string]string{}
	set := token.NewFileSet()
	var files []*ast.File
	var path string
	for listed := json.NewDecoder(bytes.NewReader(out)); ; {
		var one struct {
			ImportPath, Export string
			GoFiles            []string
			DepOnly            bool
		}
		if err := listed.Decode(&one); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		compiled[one.ImportPath] = one.Export
		if one.DepOnly {
			continue
		}
		path, names = one.ImportPath, one.GoFiles
		for _, name := range names {
			file, err := parser.ParseFile(set, filepath.Join(root, name), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			files = append(files, file)
		}
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(compiled[path]) })}
	pkg, err := config.Check(path, set, files, info)
	require.NoError(t, err)
	for at, object := range info.Uses {
		if object.Pkg() != pkg || !object.Pos().IsValid() {
			continue
		}
		from := filepath.Base(set.Position(at.Pos()).Filename)
		to := filepath.Base(set.Position(object.Pos()).Filename)
		if from != to {
			uses = append(uses, use{from, to, object.Name()})
		}
	}
	return names, uses
}

func TestFilesOfTheRootAreFew(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	product := map[string]bool{}
	var tests []string
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case strings.HasSuffix(name, "_test.go"):
			if !strings.HasPrefix(name, "example_") {
				tests = append(tests, name)
			}
		case strings.HasSuffix(name, ".go"):
			product[whole(name)] = true
		}
	}
	assert.LessOrEqual(t, len(product), mostFiles, "put what no user meets in internal/")
	for _, name := range tests {
		assert.True(t, product[whole(strings.TrimSuffix(name, "_test.go")+".go")], "%s is beside no file of its name: suites of the public API live in tests/", name)
	}
}

func TestAProgramWithAGateDoesNotLinkTheLicensePageOrTranslations(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-deps", ".")
	cmd.Dir = root
	out, err := cmd.Output()
	require.NoError(t, err)
	for _, path := range strings.Fields(string(out)) {
		assert.NotRegexp(t, `^html/template$|^image|/polargate/(licensepage|lang|internal/qr)$`, path)
	}
}

func TestWhatNoUserMeetsKnowsNothingOfTheRoot(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-f", "{{.ImportPath}}: {{join .Imports \" \"}} ", "./internal/...")
	cmd.Dir = root
	out, err := cmd.Output()
	require.NoError(t, err)
	packages := strings.Split(strings.TrimSpace(string(out)), "\n")
	assert.Greater(t, len(packages), 20)
	for _, imports := range packages {
		assert.NotContains(t, imports, " github.com/polargate/polargate ", "hand in what it needs")
	}
}

func TestNoProgramLinksWhatIsForTests(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-deps", ".", "./polartest")
	cmd.Dir = root
	out, err := cmd.Output()
	require.NoError(t, err)
	linked := strings.Fields(string(out))
	require.Contains(t, linked, "github.com/polargate/polargate")
	for _, path := range linked {
		assert.NotRegexp(t, `^testing$|/testify|/internal/testprogram$|/polargate/tests/`, path)
	}
}
