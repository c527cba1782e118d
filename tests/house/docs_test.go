package house

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/metrics"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheDocumentsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(source, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	require.NoError(t, err)
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	require.NotEmpty(t, documents)
	for _, document := range documents {
		text, err := os.ReadFile(document)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllSubmatch(text, -1) {
			assert.True(t, tests[string(m[1])], "%s speaks of %s", document, m[1])
		}
	}
}

func TestThePageForOperationsExplainsEveryFigureAndNamesMetricsThatExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "operations.md"))
	require.NoError(t, err)
	_, watch, ok := strings.Cut(string(text), "## What to watch")
	require.True(t, ok)
	alerts, figures, ok := strings.Cut(watch, "### What each figure means")
	require.True(t, ok)
	for _, of := range []struct {
		stats  any
		prefix string
	}{{polargate.CustomersStats{}, ""}, {polargate.SharedStats{}, "Shared."}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(of.stats)) {
			if field.Type != reflect.TypeOf(polargate.SharedStats{}) {
				assert.Contains(t, figures, fmt.Sprintf("`%s%s`", of.prefix, field.Name))
			}
		}
	}
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{AccessToken: "polar_oat_test"})
	require.NoError(t, err)
	defer customers.Close()
	m := metrics.New()
	m.Customers("", customers)
	exists := map[string]bool{}
	for _, metric := range m.Gather() {
		exists[metric.Prometheus()] = true
	}
	names := regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)`|polargate_([a-z_]+)").FindAllStringSubmatch(alerts, -1)
	assert.Greater(t, len(names), 15)
	for _, name := range names {
		assert.True(t, exists["polargate_"+name[1]+name[2]], name[0])
	}
}

// declarations are the parts of Go code that blank lines separate, at the left margin.
func declarations(code string) []string {
	var parts []string
	for part := range strings.SplitSeq(code, "\n\n") {
		if n := len(parts); n > 0 && (strings.HasPrefix(part, "\t") || strings.HasPrefix(part, "}") || strings.HasPrefix(part, " ")) {
			parts[n-1] += "\n\n" + part
			continue
		}
		parts = append(parts, part)
	}
	return parts
}

func TestTheCookbookShowsCodeThatTestsCompileAndRun(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	for _, folder := range []string{"examples/cookbook", "examples/desktop/testdata", "tests/sqlstore"} {
		paths, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(folder), "*.*"))
		require.NoError(t, err)
		for _, path := range paths {
			source, err := os.ReadFile(path)
			require.NoError(t, err)
			sources.WriteString("\n" + strings.ReplaceAll(string(source), "\r\n", "\n"))
		}
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "cookbook.md"))
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```(\\w*)\n(.*?)\n```").FindAllStringSubmatch(strings.ReplaceAll(string(page), "\r\n", "\n"), -1)
	assert.Greater(t, len(blocks), 12)
	shown := map[string]bool{}
	for _, block := range blocks {
		parts := []string{block[2]}
		if block[1] == "go" {
			parts = declarations(block[2])
		}
		for _, part := range parts {
			assert.False(t, shown[part], "docs/cookbook.md shows this twice: %s", part)
			shown[part] = true
			assert.Contains(t, sources.String(), "\n"+part+"\n", "docs/cookbook.md shows what isn't compiled: %s", part)
		}
	}
}
