package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// excerpts are pages whose Go code is an excerpt of files that are compiled.
var excerpts = map[string]string{
	"docs/grpc.md":        "tests/rpc/pages_test.go",
	"docs/connect.md":     "tests/rpc/pages_test.go",
	"docs/frameworks.md":  "tests/frameworks/*_test.go",
	"docs/openfeature.md": "polargateopenfeature/example_test.go",
}

func TestTheCodeOfAPageIsAnExcerptOfFilesThatAreCompiled(t *testing.T) {
	t.Parallel()
	for page, compiled := range excerpts {
		text, err := os.ReadFile(filepath.Join(root, page))
		require.NoError(t, err)
		files, err := filepath.Glob(filepath.Join(root, compiled))
		require.NoError(t, err)
		var source []byte
		for _, file := range files {
			more, err := os.ReadFile(file)
			require.NoError(t, err)
			source = append(source, more...)
		}
		code := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(text, -1)
		assert.NotEmpty(t, code, page)
		for _, block := range code {
			assert.Contains(t, withoutIndentation(source), withoutIndentation(block[1]), "%s: not in %s", page, compiled)
		}
	}
}

func withoutIndentation(code []byte) string {
	var lines []string
	for line := range strings.Lines(string(code)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n")
}
