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

// named is a file or folder in backquotes, and what it has after a colon:
// `gate.go`: `Has`, `Check`.
var named = regexp.MustCompile("`([a-z_/]+(?:\\.go|\\.txt)|(?:internal|tests)/[a-z/]+)`(?:(?:: | \\()((?:`[A-Za-z]+`(?:, )?)+))?")

func TestThePageOfTheArchitectureNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	require.NoError(t, err)
	found := named.FindAllStringSubmatch(string(page), -1)
	assert.Greater(t, len(found), 30)
	for _, at := range found {
		path := filepath.Join(root, filepath.FromSlash(at[1]))
		if !assert.True(t, pathExists(path), "%s doesn't exist", at[1]) || !strings.HasSuffix(at[1], ".go") {
			continue
		}
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		for name := range strings.SplitSeq(strings.ReplaceAll(at[2], "`", ""), ", ") {
			declared := regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|var |type |const )` + name + `\b`)
			assert.True(t, name == "" || declared.Match(source), "%s declares no %s", at[1], name)
		}
	}
	picture := regexp.MustCompile(`[a-z_]+\.go|internal/[a-z]+`)
	drawing, _, _ := strings.Cut(string(page), "## From a typed key")
	for _, name := range picture.FindAllString(drawing, -1) {
		assert.True(t, pathExists(filepath.Join(root, name)), "the picture has %s", name)
	}
}

func pathExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
