package house

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ownMethods are what the standard library and connect call, and no program by itself.
var ownMethods = map[string]bool{
	"Format": true, "LogValue": true, "MarshalText": true, "UnmarshalText": true, "MarshalJSON": true, "UnmarshalJSON": true,
	"String": true, "Error": true, "Unwrap": true, "Is": true, "ServeHTTP": true,
	"WrapUnary": true, "WrapStreamingClient": true, "WrapStreamingHandler": true,
}

func TestEverythingExportedIsDocumentedAndEachFunctionIsShownInAnExample(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{".", "polartest", "lease", "lease/issuer", "janitor", "storetest", "metrics", "polargateotel", "polargateopenfeature", "rpcgate", "licensepage", "lang", "polargategrpc", "polargateconnect", "polargateconnectv2"} {
		fset := token.NewFileSet()
		paths, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
		require.NoError(t, err)
		var files []*ast.File
		for _, path := range paths {
			file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
			require.NoError(t, err)
			files = append(files, file)
		}
		about, err := doc.NewFromFiles(fset, files, folder)
		require.NoError(t, err)

		shown := map[string]bool{}
		for _, file := range files {
			if !strings.HasPrefix(filepath.Base(fset.File(file.Pos()).Name()), "example") {
				continue
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					shown[id.Name] = true
				}
				return true
			})
		}
		exported := func(name, comment string, example bool) {
			last := name[strings.LastIndexByte(name, '.')+1:]
			if !ast.IsExported(last) {
				return
			}
			assert.NotEmpty(t, comment, "%s %s has no documentation", folder, name)
			if example {
				assert.True(t, shown[last], "%s %s is in no example", folder, name)
			}
		}
		values := func(all []*doc.Value) {
			for _, v := range all {
				for _, spec := range v.Decl.Specs {
					spec := spec.(*ast.ValueSpec)
					for _, name := range spec.Names {
						exported(name.Name, v.Doc+spec.Doc.Text()+spec.Comment.Text(), false)
					}
				}
			}
		}
		values(about.Consts)
		values(about.Vars)
		for _, f := range about.Funcs {
			exported(f.Name, f.Doc, true)
		}
		for _, typ := range about.Types {
			exported(typ.Name, typ.Doc, false) // its functions and methods are what is shown
			values(typ.Consts)
			values(typ.Vars)
			for _, f := range typ.Funcs {
				exported(f.Name, f.Doc, true)
			}
			for _, m := range typ.Methods {
				if !ownMethods[m.Name] {
					exported(typ.Name+"."+m.Name, m.Doc, true)
				}
			}
			for _, spec := range typ.Decl.Specs {
				fields, ok := spec.(*ast.TypeSpec).Type.(*ast.StructType)
				if !ok {
					continue
				}
				group := "" // a comment is also of the fields right behind it
				for i, field := range fields.Fields.List {
					comment := field.Doc.Text() + field.Comment.Text()
					if comment == "" && i > 0 && fset.Position(field.Pos()).Line == fset.Position(fields.Fields.List[i-1].End()).Line+1 {
						comment = group
					}
					group = comment
					for _, name := range field.Names {
						exported(typ.Name+"."+name.Name, comment, false)
					}
				}
			}
		}
	}
}
