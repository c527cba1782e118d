package polargate

import (
	"regexp"
	"runtime"
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
				assert.Equal(t, c.want, wellFormedMachineID(system, c.id))
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

func TestALookForTheMachineIDHoldsUpNobodyForLong(t *testing.T) {
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
				assert.Equal(t, want, askMachine(func() foundIDs { return oneID(c.read()) }).ids)
				assert.Equal(t, c.took, time.Since(began))
				time.Sleep(time.Hour) // until the one that hangs has ended
			})
		})
	}
}

func TestAFingerprintIsTheSameForTheSameAndDiffersForAllElse(t *testing.T) {
	t.Parallel()
	base := []string{"machine", linuxID, testOrganization, "inkwell"}
	of := func(p []string) string { return fingerprintOf(p[0], p[1], p[2], p[3]) }
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

// Not parallel: it puts another machine under the process.
func TestWithoutAMachineIDTheInstallationStandsIn(t *testing.T) {
	real := machine
	defer func() { machine = real }()
	of := func(installation string) string {
		return fingerprints(testOrganization, "inkwell", installation, false)[0]
	}

	machine = func() knownMachine { return knownMachine{} }
	a := of("INSTALLATION-A")
	assert.Equal(t, fingerprintOf("installation", "INSTALLATION-A", testOrganization, "inkwell"), a)
	assert.NotEqual(t, a, of("INSTALLATION-B"))
	assert.NotContains(t, a, "INSTALLATION")

	machine = func() knownMachine { return knownMachine{ids: []string{linuxID}} }
	b := of("INSTALLATION-A")
	assert.Equal(t, fingerprintOf("machine", linuxID, testOrganization, "inkwell"), b)
	assert.Equal(t, b, of("INSTALLATION-B"), "a new state folder is no new machine")
	assert.NotEqual(t, a, b)
}

func TestTheMachineOfTheseTestsHasOneIDOrNone(t *testing.T) {
	t.Parallel()
	id := machineID()
	assert.Equal(t, id, machineID())
	assert.Equal(t, id, wellFormedMachineID(runtime.GOOS, id))
	of := func(app string) string { return fingerprints(testOrganization, app, "INSTALLATION-A", false)[0] }
	got := of("inkwell")
	require.Regexp(t, fingerprintForm, got)
	assert.Equal(t, got, of("inkwell"))
	assert.NotEqual(t, got, of("quill"))
	if id != "" {
		assert.NotContains(t, got, id)
	}
}
