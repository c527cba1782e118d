package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// check reports every mutant that no longer fits the code, does not compile or names
// a test that does not exist, and a page that does not list them all. It runs no test.
func check(ctx context.Context) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	packages, err := load(ctx, root)
	if err != nil {
		return err
	}
	var wrong []error
	for _, m := range all() {
		if err := m.fits(root, packages[m.pkg()]); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	folders, err := declared(root)
	if err != nil {
		return err
	}
	for _, m := range all() {
		for test := range strings.SplitSeq(m.tests, "|") {
			switch in := folders[test]; len(in) {
			case 1:
			case 0:
				wrong = append(wrong, fmt.Errorf("%s: there is no %s", m.name, test))
			default:
				wrong = append(wrong, fmt.Errorf("%s: %s is in %s: give each a name of its own", m.name, test, strings.Join(in, " and ")))
			}
		}
	}
	return errors.Join(append(wrong, listsAll(root))...)
}

// fits reports why a mutant cannot be run.
func (m mutant) fits(root string, p *pkg) error {
	source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.file)))
	if err != nil {
		return err
	}
	changed, err := m.apply(string(source))
	switch {
	case err != nil:
		return err
	case changed == string(source):
		return errors.New("changes nothing")
	case p == nil || p.files[path.Base(m.file)] == nil:
		return fmt.Errorf("%s is not built here", m.file)
	}
	return p.compiles(path.Base(m.file), changed)
}

// listsAll reports what docs/mutants.md lacks or has too much.
func listsAll(root string) error {
	page, err := os.ReadFile(filepath.Join(root, "docs", "mutants.md"))
	if err != nil {
		return err
	}
	var rows, named []string
	for _, found := range row.FindAllSubmatch(page, -1) {
		rows = append(rows, string(found[1]))
	}
	for _, m := range all() {
		if slices.Contains(named, m.name) {
			return fmt.Errorf("two mutants are called %q", m.name)
		}
		named = append(named, m.name)
	}
	if !slices.Equal(named, rows) {
		return errors.New("docs/mutants.md does not list the mutants that there are: go run ./tests/mutants -write")
	}
	return nil
}

// places are the folders of tests, below the root of the module, by the tests' names.
type places map[string][]string

// declared finds all tests of the module: a mutant names tests, wherever they live.
func declared(root string) (places, error) {
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\) {$`)
	found := places{}
	return found, filepath.WalkDir(root, func(at string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && at != root:
			if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil || strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir // a module of its own, or no package at all
			}
		}
		if !strings.HasSuffix(at, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(at))
		if err != nil {
			return err
		}
		for _, test := range declaration.FindAllSubmatch(source, -1) {
			found[string(test[1])] = append(found[string(test[1])], "./"+filepath.ToSlash(folder))
		}
		return nil
	})
}

// of are the folders of tests joined by "|", each once.
func (p places) of(tests string) []string {
	var all []string
	for test := range strings.SplitSeq(tests, "|") {
		all = append(all, p[test]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// pkg is a package of the module, parsed, with what it imports.
type pkg struct {
	path    string
	set     *token.FileSet
	files   map[string]*ast.File // by name
	imports types.Importer
}

// load parses the packages that mutants are in.
func load(ctx context.Context, root string) (map[string]*pkg, error) {
	dirs := map[string]bool{}
	args := []string{"list", "-deps", "-export", "-json=Dir,ImportPath,Export,GoFiles,DepOnly"}
	for _, m := range all() {
		if dir := m.pkg(); !dirs[dir] {
			dirs[dir] = true
			args = append(args, dir)
		}
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	compiled := map[string]string{}
	set := token.NewFileSet()
	imports := importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(compiled[path]) })
	found := map[string]*pkg{}
	for listed := json.NewDecoder(bytes.NewReader(out)); ; {
		var one struct {
			Dir, ImportPath, Export string
			GoFiles                 []string
			DepOnly                 bool
		}
		if err := listed.Decode(&one); err == io.EOF {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		compiled[one.ImportPath] = one.Export
		if one.DepOnly {
			continue
		}
		p := &pkg{one.ImportPath, set, map[string]*ast.File{}, imports}
		for _, name := range one.GoFiles {
			file, err := parser.ParseFile(set, filepath.Join(one.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					f.Body = nil // no mutant breaks what is in other files' functions
				}
			}
			p.files[name] = file
		}
		dir, err := filepath.Rel(root, one.Dir)
		if err != nil {
			return nil, err
		}
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
