package gate

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEachAnswerOfThePageOfReasonsHasItsReason(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/reasons.md")
	require.NoError(t, err)
	rows := regexp.MustCompile("(?m)^\\| (validate|activate|deactivate) \\| (\\d+) \\| `(.*)` \\| `([a-z_]+)` \\|$").FindAllStringSubmatch(string(page), -1)
	require.Len(t, rows, strings.Count(string(page), "\n| validate")+strings.Count(string(page), "\n| activate")+strings.Count(string(page), "\n| deactivate"))
	require.Greater(t, len(rows), 20)
	for _, row := range rows {
		call, body, want := row[1], row[3], row[4]
		status, err := strconv.Atoi(row[2])
		require.NoError(t, err)
		t.Run(call+" "+row[2]+" "+want, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: w.Polar.OrganizationID(), BaseURL: w.Polar.URL(), HTTPClient: w.Polar.Client()})
				require.NoError(t, err)
				defer client.Close()
				key, err := polargate.ParseKey(w.Key.Key)
				require.NoError(t, err)
				media := "application/json"
				if strings.HasPrefix(body, "<") {
					media = "text/html"
				}
				w.Inject("", 0, polartest.Body(status, media, body))
				switch call {
				case "validate":
					_, err = client.Validate(t.Context(), polargate.ValidateRequest{Key: key})
				case "activate":
					_, err = client.Activate(t.Context(), polargate.ActivateRequest{Key: key})
				case "deactivate":
					err = client.Deactivate(t.Context(), key, "6b43a9a5-8d86-4c5a-9c5e-3a1f9a0b7c11")
				}
				assert.Equal(t, polargate.Reason(want), kit.ReasonOf(err), "%v", err)
			})
		})
	}

	source, err := parser.ParseFile(token.NewFileSet(), "../../errors.go", nil, 0)
	require.NoError(t, err)
	found := 0
	ast.Inspect(source, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Reason" {
			found++
			word, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			assert.Contains(t, string(page), "`"+word+"`", "%s is explained", spec.Names[0])
		}
		return true
	})
	assert.Greater(t, found, 20)
}
