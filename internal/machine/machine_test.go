package machine

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	linuxID = "3d1219c7c4c5404aaa1f6d2a48adfda4"
	otherID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

	testOrganization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
)

func TestOnlyAWellFormedMachineIDIsTrusted(t *testing.T) {
	t.Parallel()
	type ids map[string]struct{ id, want string }
	for system, table := range map[string]ids{
		"linux": {
			"32 digits":                  {linuxID, linuxID},
			"capitals":                   {strings.ToUpper(linuxID), linuxID},
			"a line break at the end":    {linuxID + "\n", linuxID},
			"white space around":         {" \t" + linuxID + "\r\n", linuxID},
			"nothing":                    {"", ""},
			"only a line break":          {"\n", ""},
			"systemd's first boot":       {"uninitialized", ""},
			"the same with a line break": {"uninitialized\n", ""},
			"all zero":                   {strings.Repeat("0", 32), ""},
			"all f":                      {strings.Repeat("f", 32), ""},
			"all F":                      {strings.Repeat("F", 32), ""},
			"one repeated digit":         {strings.Repeat("7", 32), ""},
			"one digit that differs":     {strings.Repeat("0", 31) + "1", strings.Repeat("0", 31) + "1"},
			"31 digits":                  {linuxID[:31], ""},
			"33 digits":                  {linuxID + "0", ""},
			"two lines":                  {linuxID + "\n" + linuxID, ""},
			"a digit that is none":       {linuxID[:31] + "g", ""},
			"with a space inside":        {linuxID[:16] + " " + linuxID[16:], ""},
			"with a NUL inside":          {linuxID[:16] + "\x00" + linuxID[16:31], ""},
			"a UUID":                     {otherID, ""},
			"the path of a cgroup":       {"/docker/3d1219c7c4c5404aaa1f6d2a48adfda43d1219c7c4c5404aaa1f6d2a48adfda4", ""},
			"a host name":                {"localhost", ""},
			"a network address":          {"02:42:ac:11:00:02", ""},
			"bytes that are not UTF-8":   {"\xff\xfe" + linuxID, ""},
		},
		"windows": uuidIDs, "darwin": uuidIDs, "freebsd": uuidIDs, "netbsd": uuidIDs, "openbsd": uuidIDs, "dragonfly": uuidIDs,
	} {
		for name, c := range table {
			t.Run(system+": "+name, func(t *testing.T) {
				t.Parallel()
				assert.Equal(t, c.want, wellFormedID(system, c.id))
			})
		}
	}
}

var uuidIDs = map[string]struct{ id, want string }{
	"a UUID":                      {otherID, otherID},
	"a UUID in capitals":          {strings.ToUpper(otherID), otherID},
	"white space around":          {"\r\n" + otherID + " ", otherID},
	"nothing":                     {"", ""},
	"all zero":                    {"00000000-0000-0000-0000-000000000000", ""},
	"all f":                       {"ffffffff-ffff-ffff-ffff-ffffffffffff", ""},
	"all F":                       {"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", ""},
	"one repeated digit":          {"11111111-1111-1111-1111-111111111111", ""},
	"one digit that differs":      {"00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000001"},
	"without dashes":              {strings.ReplaceAll(otherID, "-", ""), ""},
	"with braces":                 {"{" + otherID + "}", ""},
	"a digit short":               {otherID[:35], ""},
	"a digit more":                {otherID + "0", ""},
	"a dash in the wrong place":   {"6ba7b8109-dad-11d1-80b4-00c04fd430c8", ""},
	"only dashes":                 {strings.Repeat("-", 36), ""},
	"an error message for an id":  {"sysctl: unknown oid 'kern.hostuuid'", ""},
	"a serial number for an id":   {"To be filled by O.E.M.", ""},
	"two lines":                   {otherID + "\n" + otherID, ""},
	"a word in the place of ones": {"uninitialized", ""},
}

var fingerprintForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

func TestLookingForTheMachineIDTakesTwoSecondsAtMost(t *testing.T) {
	t.Parallel()
	const id = "11111111-2222-4333-8444-555555555555"
	form := id
	if runtime.GOOS == "linux" {
		form = strings.ReplaceAll(id, "-", "")
	}
	for name, c := range map[string]struct {
		read func() string
		want string
		took time.Duration
	}{
		"one that is answered":  {func() string { time.Sleep(time.Second); return form }, form, time.Second},
		"one that hangs":        {func() string { time.Sleep(time.Hour); return form }, "", 2 * time.Second},
		"one that panics":       {func() string { panic("no registry") }, "", 0},
		"one that finds no id":  {func() string { return "" }, "", 0},
		"one that finds no use": {func() string { return "uninitialized" }, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var want []string
				if c.want != "" {
					want = []string{c.want}
				}
				assert.Equal(t, want, ask(func() foundIDs { return oneID(c.read()) }).IDs)
				assert.Equal(t, c.took, time.Since(began))
				time.Sleep(time.Hour) // until the one that hangs has ended
			})
		})
	}
}

func TestAFingerprintIsTheSameForTheSameAndDiffersForAllElse(t *testing.T) {
	t.Parallel()
	base := []string{"machine", linuxID, testOrganization, "inkwell"}
	of := func(p []string) string { return Fingerprint(p[0], p[1], p[2], p[3]) }
	first := of(base)
	assert.Equal(t, first, of(base))
	assert.Regexp(t, fingerprintForm, first)

	// It must be the same in every later version: a seat is bound to it.
	assert.Equal(t, "c61e991964b6364c176654efa967cbf9", of([]string{"machine", "0123456789abcdef0123456789abcdef", "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9", "inkwell"}))

	seen := map[string]string{first: "the first"}
	for name, p := range map[string][]string{
		"another kind":         {"installation", linuxID, testOrganization, "inkwell"},
		"another machine":      {"machine", otherID, testOrganization, "inkwell"},
		"another organization": {"machine", linuxID, "44f57e13-8bcb-4481-85b2-a4b55c4ba0b9", "inkwell"},
		"another app":          {"machine", linuxID, testOrganization, "quill"},
		"an app in capitals":   {"machine", linuxID, testOrganization, "Inkwell"},
		"no app":               {"machine", linuxID, testOrganization, ""},
		"parts run together":   {"machine", linuxID, testOrganization + "inkwell", ""},
		"parts cut elsewhere":  {"machine", linuxID, testOrganization + "i", "nkwell"},
		"parts turned":         {"machine", linuxID, "inkwell", testOrganization},
	} {
		got := of(p)
		assert.Regexp(t, fingerprintForm, got, name)
		if other, ok := seen[got]; ok {
			t.Errorf("%s has the fingerprint of %s", name, other)
		}
		seen[got] = name
	}
	for got := range seen {
		assert.NotContains(t, got, linuxID)
		for i := range len(linuxID) - 8 {
			assert.NotContains(t, got, linuxID[i:i+8], "not even in part")
		}
	}
}

func TestWithoutAMachineIDTheInstallationStandsIn(t *testing.T) {
	t.Parallel()
	var m Machine
	of := func(installation string) string {
		return m.Fingerprints(testOrganization, "inkwell", installation, false)[0]
	}

	a := of("INSTALLATION-A")
	assert.Equal(t, Fingerprint("installation", "INSTALLATION-A", testOrganization, "inkwell"), a)
	assert.NotEqual(t, a, of("INSTALLATION-B"))
	assert.NotContains(t, a, "INSTALLATION")

	m = Machine{IDs: []string{linuxID}}
	b := of("INSTALLATION-A")
	assert.Equal(t, Fingerprint("machine", linuxID, testOrganization, "inkwell"), b)
	assert.Equal(t, b, of("INSTALLATION-B"), "a new state folder is no new machine")
	assert.NotEqual(t, a, b)
}

func TestTheMachineOfTheseTestsHasOneIDOrNone(t *testing.T) {
	t.Parallel()
	id := This().ID()
	assert.Equal(t, id, This().ID())
	assert.Equal(t, id, wellFormedID(runtime.GOOS, id))
	of := func(app string) string { return This().Fingerprints(testOrganization, app, "INSTALLATION-A", false)[0] }
	got := of("inkwell")
	require.Regexp(t, fingerprintForm, got)
	assert.Equal(t, got, of("inkwell"))
	assert.NotEqual(t, got, of("quill"))
	if id != "" {
		assert.NotContains(t, got, id)
	}
}

const (
	systemdID = "3d1219c7c4c5404aaa1f6d2a48adfda4"
	dbusID    = "10112233445566778899aabbccddeeff"
)

func TestAMachineIDThatIsEmptyOrBrokenHidesNoGoodOne(t *testing.T) {
	t.Parallel()
	const absent = "-"
	for name, c := range map[string]struct {
		systemd, dbus string
		ids           []string
		hidden        bool
	}{
		"both are the same":                     {systemdID + "\n", systemdID + "\n", []string{systemdID}, false},
		"the other one is empty":                {systemdID + "\n", "", []string{systemdID}, true},
		"the other one has only a line break":   {systemdID + "\n", "\n", []string{systemdID}, true},
		"the other one is of a first boot":      {systemdID + "\n", "uninitialized\n", []string{systemdID}, true},
		"the other one is all zero":             {systemdID + "\n", strings.Repeat("0", 32), []string{systemdID}, true},
		"the other one is cut":                  {systemdID + "\n", dbusID[:20], []string{systemdID}, true},
		"the other one is text":                 {systemdID + "\n", "see /etc/machine-id\n", []string{systemdID}, true},
		"the other one is not there":            {systemdID + "\n", absent, []string{systemdID}, false},
		"the other one is left from an image":   {systemdID + "\n", dbusID + "\n", []string{systemdID, dbusID}, false},
		"the first is empty":                    {"", dbusID + "\n", []string{dbusID}, false},
		"the first is of a first boot":          {"uninitialized\n", dbusID, []string{dbusID}, false},
		"the first is not there":                {absent, dbusID, []string{dbusID}, false},
		"in capitals they are the same, too":    {strings.ToUpper(systemdID), systemdID, []string{systemdID}, false},
		"neither is good":                       {"uninitialized", "\n", nil, false},
		"neither is there":                      {absent, absent, nil, false},
		"the first is a UUID, which is no form": {"6ba7b810-9dad-11d1-80b4-00c04fd430c8", dbusID, []string{dbusID}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			put := func(text string, path ...string) {
				file := filepath.Join(append([]string{root}, path...)...)
				require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
				if text != absent {
					require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
				}
			}
			put(c.systemd, "etc", "machine-id")
			put(c.dbus, "var", "lib", "dbus", "machine-id")
			m := wellFormed("linux", linuxIDs(root))
			assert.Equal(t, c.ids, m.IDs)
			assert.Equal(t, c.hidden, m.Hidden)
		})
	}
	t.Run("a folder in the place of a file is no id", func(t *testing.T) {
		t.Parallel()
		root := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(root, "var", "lib", "dbus", "machine-id"), 0o755))
		require.NoError(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, "etc", "machine-id"), []byte(systemdID), 0o644))
		assert.Equal(t, []string{systemdID}, wellFormed("linux", linuxIDs(root)).IDs)
	})
	t.Run("on the BSDs there is one file", func(t *testing.T) {
		t.Parallel()
		for text, want := range map[string][]string{otherID + "\n": {otherID}, "\n": nil, absent: nil, "00000000-0000-0000-0000-000000000000": nil} {
			root := t.TempDir()
			require.NoError(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
			if text != absent {
				require.NoError(t, os.WriteFile(filepath.Join(root, "etc", "hostid"), []byte(text), 0o644))
			}
			m := wellFormed("freebsd", bsdIDs(root))
			assert.Equal(t, want, m.IDs)
			assert.False(t, m.Hidden)
		}
	})
}

// On other systems than Linux tools are asked, which can only be read here: they are
// named by their full path, get no input, and end by a context.
func TestNoToolOfAnySystemIsLookedUpInPATH(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	asked := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if of, ok := n.X.(*ast.Ident); ok && of.Name == "exec" {
					assert.Equal(t, "CommandContext", n.Sel.Name, name)
				}
				assert.NotEqual(t, "Stdin", n.Sel.Name, name)
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); !ok || f.Sel.Name != "CommandContext" {
					break
				}
				asked++
				tool, ok := n.Args[1].(*ast.BasicLit)
				require.True(t, ok, "%s: a tool that is not named outright", name)
				named, err := strconv.Unquote(tool.Value)
				require.NoError(t, err)
				assert.True(t, path.IsAbs(named) || filepath.IsAbs(named), "%s: %s is looked up in PATH", name, named)
				limit, ok := n.Args[0].(*ast.Ident)
				require.True(t, ok)
				assert.NotEqual(t, "context", limit.Name)
			}
			return true
		})
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		if strings.Contains(string(source), "exec.CommandContext") {
			assert.Contains(t, string(source), "context.WithTimeout(context.Background(), timeout)", name)
		}
	}
	assert.Equal(t, 1, asked, "one tool on one system; look at the rest if there are more")
	assert.Positive(t, timeout)
	assert.LessOrEqual(t, timeout.Seconds(), 2.0)
}
