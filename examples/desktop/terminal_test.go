package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fed runs a command with something on its standard input.
func (i *installation) fed(stdin io.Reader, args ...string) result {
	i.t.Helper()
	cmd, stdout, stderr := i.command(args...)
	cmd.Stdin = stdin
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		i.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestAKeyIsReadFromAFile(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	path := filepath.Join(t.TempDir(), "key.txt")
	require.NoError(t, os.WriteFile(path, []byte(i.key.Key+"\r\nbought in May\n"), 0o600))
	for _, args := range [][]string{{"activate"}, {"activate", "-"}, {"activate", "--wait"}} {
		file, err := os.Open(path)
		require.NoError(t, err)
		r := i.fed(file, args...)
		_ = file.Close()
		assert.Equal(t, exitOK, r.code, "%v: %s", args, r.stderr)
		assert.Contains(t, r.stdout, "active")
		assert.Empty(t, r.stderr, "nobody is asked who is not there")
		assert.NotContains(t, r.stdout, i.key.Key)
		i.expect(exitOK, "deactivate")
	}
}

func TestInputThatIsNoKeyIsAUsageError(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	for name, input := range map[string]io.Reader{
		"nothing":       strings.NewReader(""),
		"an empty line": strings.NewReader("\n" + i.key.Key + "\n"),
		"spaces":        strings.NewReader("   \t\n"),
		"a long line":   strings.NewReader(strings.Repeat("x", maxLine+1) + "\n"),
		// It would go on for ever if all of it were read.
		"a line without an end": endless{},
	} {
		r := i.fed(input, "activate")
		assert.Equal(t, exitUsage, r.code, name)
		assert.Contains(t, r.stderr, "license key", name)
		assert.NotContains(t, r.stderr, "xxx", name)
		assert.Empty(t, r.stdout, name)
	}
	assert.Empty(t, i.polar.Requests())
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, strings.Repeat("x", len(p))), nil }

func TestAKeyThatAMailProgramBrokeIntoLinesIsReadWhole(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), Prefix: "INKWELL"})
	for name, broken := range map[string]func(key string) string{
		"at a dash":           func(key string) string { return key[:21] + "\r\n" + key[21:] + "\r\n" },
		"within a group":      func(key string) string { return key[:30] + "\n" + key[30:] },
		"twice":               func(key string) string { return key[:8] + "\n" + key[8:30] + "\r\n" + key[30:] + "\n" },
		"as quoted-printable": func(key string) string { return key[:30] + "=\r\n" + key[30:] + "\r\n" },
		"under a label":       func(key string) string { return "License key:\n" + key + "\n" },
		"under a label, and at dash": func(key string) string {
			return "Your license key:\n\n" + key[:21] + "\n" + key[21:] + "\n-- \nInkwell\n"
		},
		"by a program of Windows": func(key string) string { return utf16Of("\ufeff" + key + "\r\n") },
	} {
		r := i.fed(iotest.OneByteReader(strings.NewReader(broken(i.key.Key))), "activate", "-")
		assert.Equal(t, exitOK, r.code, "%s: %s", name, r.stderr)
		assert.NotContains(t, r.stdout+r.stderr, i.key.Key)
		i.expect(exitOK, "deactivate")
	}
	r := i.fed(strings.NewReader("INKWELL-1\nbought in May\n"), "activate", "-")
	assert.Equal(t, exitUsage, r.code)
	assert.Contains(t, r.stderr, "a line break after 9 characters", "half of a key is never sent")
}

// utf16Of is a text as programs of Windows write it.
func utf16Of(text string) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune(text)) {
		b.Write([]byte{byte(unit), byte(unit >> 8)})
	}
	return b.String()
}

func TestAKeyFromAPipeIsReadWithoutWaitingForThePipeToClose(t *testing.T) {
	t.Parallel()
	const key = "INKWELL-8224EB8D-5310-4D2C-B21D-72338A766D45"
	in, out := io.Pipe()
	go func() { _, _ = io.WriteString(out, "License key:\n"+key+"\n") }()
	text, err := readKey(in)
	require.NoError(t, err)
	assert.Contains(t, text, key)
}

func TestAKeyIsReadUpTo4KiB(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("k", 4096)
	for input, want := range map[string]string{
		"":               "",
		"KEY":            "KEY",
		"KEY\n":          "KEY",
		"KEY\r\nmore":    "KEY\r\nmore",
		"\nKEY\n":        "",
		longest:          longest,
		longest + "\r\n": longest,
	} {
		text, err := readKey(iotest.OneByteReader(strings.NewReader(input)))
		require.NoError(t, err)
		assert.Equal(t, want, text)
	}
	for _, input := range []string{longest + "k", longest + "k\n", longest + "kk\n", longest + "\nmore"} {
		_, err := readKey(strings.NewReader(input))
		require.ErrorIs(t, err, errLineTooLong)
	}
	broken := errors.New("the disk is broken")
	_, err := readKey(iotest.ErrReader(broken))
	require.ErrorIs(t, err, broken)
}

// object is the one JSON object that a command answers with.
func (i *installation) object(code int, args ...string) map[string]any {
	i.t.Helper()
	r := i.expect(code, args...)
	decoder := json.NewDecoder(strings.NewReader(r.stdout))
	var object map[string]any
	require.NoError(i.t, decoder.Decode(&object), r.stdout)
	_, err := decoder.Token()
	require.ErrorIs(i.t, err, io.EOF, "there is one object and nothing else: %s", r.stdout)
	_, failed := object["error"]
	assert.Equal(i.t, code != exitOK, failed, "there is an error exactly when the exit code says so: %s", r.stdout)
	if trouble, _ := object["error"].(map[string]any); failed {
		assert.NotEmpty(i.t, trouble["reason"])
		assert.Contains(i.t, r.stderr, trouble["message"], "a person is told the same")
	}
	return object
}

func reason(object map[string]any, field string) any {
	trouble, _ := object[field].(map[string]any)
	return trouble["reason"]
}

func TestEveryCommandAnswersInJSON(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10)})

	o := i.object(exitUnlicensed, "status", "--json")
	assert.Equal(t, "unlicensed", o["state"])
	assert.Equal(t, "no_license", reason(o, "error"))
	o = i.object(exitUnlicensed, "use", "1", "--json")
	assert.Equal(t, "unlicensed", o["state"])
	assert.NotContains(t, o, "left")

	o = i.object(exitLocked, "activate", "ACME-NO-SUCH-KEY", "--json")
	assert.Equal(t, "unknown_key", reason(o, "error"))
	assert.Equal(t, "unlicensed", o["state"])
	o = i.object(exitUsage, "activate", "", "--json")
	assert.Equal(t, "input", reason(o, "error"))
	o = i.object(exitOK, "activate", "--json", i.key.Key)
	assert.Equal(t, "active", o["state"])
	assert.Equal(t, "****-"+i.key.Key[len(i.key.Key)-6:], o["key"])

	o = i.object(exitOK, "use", "4", "--json")
	assert.InDelta(t, 6, o["left"], 0)
	assert.InDelta(t, 4, o["usage"], 0, "the status is that after the command")
	o = i.object(exitLocked, "use", "7", "--json")
	assert.Equal(t, "usage_exceeded", reason(o, "error"))
	assert.Equal(t, "active", o["state"])

	assert.Equal(t, true, i.object(exitOK, "doctor", "--json")["reached"])

	i.polar.SetOffline(true)
	o = i.object(exitOK, "status", "--refresh", "--json")
	assert.Equal(t, "active", o["state"])
	assert.Equal(t, "unreachable", reason(o, "warning"))
	o = i.object(exitNotNow, "doctor", "--json")
	assert.Equal(t, "problems_found", reason(o, "error"))
	assert.Equal(t, "active", o["state"])
	o = i.object(exitNotNow, "deactivate", "--json")
	assert.Equal(t, "unlicensed", o["state"])
	assert.Equal(t, true, o["release_pending"])
	assert.Equal(t, "unreachable", reason(o, "error"))
	i.polar.SetOffline(false)
	o = i.object(exitOK, "deactivate", "--json")
	assert.Equal(t, "unlicensed", o["state"])
	assert.NotContains(t, o, "release_pending")
}

func TestALicenseWithoutALimitHasNullLeft(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	i.expect(exitOK, "activate", i.key.Key)
	o := i.object(exitOK, "use", "4", "--json")
	assert.Contains(t, o, "left")
	assert.Nil(t, o["left"])
	assert.Contains(t, i.expect(exitOK, "use", "4").stdout, "no limit")
}

func TestWrongCallsAnswerInJSONTooAndRepeatNothing(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	key := i.key.Key // that it is not printed is checked by every run
	for _, args := range [][]string{
		{key, "--json"}, {"--" + key, "--json"}, {"activate", "--json", key, key}, {"activate", "--" + key, "--json"},
		{"status", key, "--json"}, {"status", "--refresh=" + key, "--json"}, {"use", key, "--json"}, {"use", "--json"},
		{"deactivate", key, "--json"}, {"doctor", key, "--json"}, {"serve", "--json"}, {"help", key, "--json"},
	} {
		o := i.object(exitUsage, args...)
		assert.Equal(t, "usage", reason(o, "error"))
		assert.Len(t, o, 1)
	}
	for _, args := range [][]string{{key}, {"--" + key}, {"help", key}, {"activate", key, key}, {"status", "--" + key}} {
		assert.Contains(t, i.expect(exitUsage, args...).stderr, "usage: desktop ")
	}
	i.env["POLARGATE_FEATURES"] = "nonsense"
	assert.Equal(t, "usage", reason(i.object(exitUsage, "status", "--json"), "error"))
	delete(i.env, "POLAR_ORGANIZATION_ID")
	assert.Equal(t, "usage", reason(i.object(exitUsage, "status", "--json"), "error"))
}

func TestAFolderThatCannotBeWrittenIsAnErrorInJSON(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	blocked := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(blocked, nil, 0o600))
	i.env["POLARGATE_DIR"] = filepath.Join(blocked, "state")
	assert.Equal(t, "store", reason(i.object(exitNotNow, "activate", i.key.Key, "--json"), "error"))
}

func TestAnAnswerThatCannotBeWrittenIsAFailure(t *testing.T) {
	t.Parallel()
	for _, asJSON := range []bool{false, true} {
		said := &strings.Builder{}
		c := &call{stdout: full{}, stderr: &notices{out: said}, json: asJSON}
		assert.Equal(t, exitNotNow, c.finish(answer{text: "Counted.\n", fields: []any{polargate.Status{}}}, nil))
		assert.Equal(t, "no space left\n", said.String())
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestEveryFormOfHelpPrintsHelp(t *testing.T) {
	t.Parallel()
	nothingSet := &installation{t: t, env: map[string]string{}}
	configured := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	for _, i := range []*installation{nothingSet, configured} {
		all := i.expect(exitOK, "help")
		assert.Equal(t, all, i.expect(exitOK, "--help"))
		assert.Empty(t, all.stderr)
		for _, c := range commands {
			assert.Regexp(t, `(?m)^  `+c.name+` +\S`, all.stdout)
			r := i.expect(exitOK, "help", c.name)
			assert.Contains(t, r.stdout, "usage: desktop "+c.name)
			assert.Regexp(t, `(?m)^  desktop `+c.name, r.stdout, "there is an example to copy")
			assert.Empty(t, r.stderr)
			for _, flag := range c.flags {
				assert.Contains(t, c.synopsis, "[--"+flag+"]")
				assert.Regexp(t, `(?m)^  --`+flag+` +\S`, r.stdout)
			}
		}
		want := i.expect(exitOK, "help", "use")
		for _, args := range [][]string{{"use", "--help"}, {"use", "-h"}, {"use", "many", "--help"}, {"use", "--json", "--help"}} {
			assert.Equal(t, want, i.expect(exitOK, args...))
		}
		i.expect(exitUsage, "help", "dance")
		i.expect(exitUsage, "help", "use", "status")
	}
	assert.Empty(t, configured.polar.Requests())
}

func TestFlagsAndOperandsComeInAnyOrder(t *testing.T) {
	t.Parallel()
	activate, ok := commandNamed("activate")
	require.True(t, ok)
	for _, x := range []struct {
		args     []string
		operands []string
		wait     bool
	}{
		{[]string{}, nil, false},
		{[]string{"KEY"}, []string{"KEY"}, false},
		{[]string{"KEY", "--wait"}, []string{"KEY"}, true},
		{[]string{"--wait", "KEY"}, []string{"KEY"}, true},
		{[]string{"-", "-wait"}, []string{"-"}, true},
		{[]string{"--", "--wait"}, []string{"--wait"}, false},
		{[]string{"--wait=false", "KEY"}, []string{"KEY"}, false},
	} {
		c := &call{args: x.args}
		require.NoError(t, c.parse(activate), "%v", x.args)
		assert.Equal(t, x.operands, c.operands, "%v", x.args)
		assert.Equal(t, x.wait, c.is("wait"), "%v", x.args)
	}
	for _, args := range [][]string{{"a", "b"}, {"a", "--", "b"}, {"--", "a", "b"}, {"--", "a", "--wait"}, {"--refresh"}, {"--wait=perhaps"}} {
		var wrong *usageError
		require.ErrorAs(t, (&call{args: args}).parse(activate), &wrong, "%v", args)
	}
	assert.True(t, wantsJSON([]string{"use", "--json", "x"}))
	assert.False(t, wantsJSON([]string{"activate", "--", "--json"}), "what is behind -- is no flag")
}

func TestAStatusIsToldInLines(t *testing.T) {
	t.Parallel()
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1), LimitUsage: polartest.Limit(10), ExpiresAt: time.Now().AddDate(0, 0, 30)})
	i.expect(exitOK, "activate", i.key.Key)
	told := i.expect(exitOK, "status").stdout
	for _, line := range []string{
		`State          active`,
		`Key            \*\*\*\*-` + i.key.Key[len(i.key.Key)-6:],
		`Features       export, sync`,
		`Used           0 of 10`,
		`Last verified  \d.*`,
		`Works offline  until \d.* \(in \d+ days\)`,
		`Expires        \d.* \(in (29|30|31) days\)`, // midnight and summer time may be on the way
		`This computer  \S.*`,
		`Licensed until .*\.`,
	} {
		assert.Regexp(t, `(?m)^`+line+`$`, told)
	}
	i.polar.Revoke(i.key.ID)
	r := i.expect(exitLocked, "status", "--refresh")
	assert.Regexp(t, `(?m)^State          locked: your license is inactive$`, r.stdout)
	assert.NotContains(t, r.stdout, "Works")
	assert.Contains(t, r.stderr, "no longer active")
	assert.NotContains(t, r.stdout, "no longer active", "it is said once")
}

func TestAStatusSaysInWordsWhatItsColorSays(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for want, s := range map[string]polargate.Status{
		"\x1b[32mactive\x1b[0m":                            {State: polargate.Active},
		"\x1b[33mgrace: working offline\x1b[0m":            {State: polargate.Grace, Reason: polargate.ErrUnreachable, GraceUntil: now},
		"\x1b[31mlocked: your license has expired\x1b[0m":  {State: polargate.Locked, Reason: polargate.ErrExpired, ExpiresAt: now.Add(-time.Hour)},
		"State          unlicensed: no license yet\n":      {State: polargate.Unlicensed, Reason: polargate.ErrNoLicense},
		"\x1b[33munlicensed: activation not confirmed\x1b": {State: polargate.Unlicensed, Reason: polargate.ErrInDoubt},
	} {
		colored := (&call{color: true}).describe(s, nil)
		plain := (&call{}).describe(s, nil)
		assert.Contains(t, colored, want)
		assert.NotContains(t, plain, "\x1b")
		assert.Equal(t, plain, withoutColor(colored))
	}
	grace := (&call{}).describe(polargate.Status{State: polargate.Grace, GraceUntil: now}, nil)
	assert.Contains(t, grace, "Works until    "+moment(now)+" (today)")
	expired := (&call{}).describe(polargate.Status{State: polargate.Locked, Reason: polargate.ErrExpired, ExpiresAt: now.Add(-time.Hour)}, nil)
	assert.Contains(t, expired, "Expired        "+moment(now.Add(-time.Hour))+"\n")
}

func withoutColor(text string) string {
	for _, code := range []string{"0", "31", "32", "33"} {
		text = strings.ReplaceAll(text, "\x1b["+code+"m", "")
	}
	return text
}

func TestAnErrorBesideAStatusIsNotRepeatedInIt(t *testing.T) {
	t.Parallel()
	err := &polargate.Error{Reason: polargate.ErrNoLicense}
	s := polargate.Status{State: polargate.Unlicensed, Reason: polargate.ErrNoLicense, Message: polargate.Message(err)}
	assert.NotContains(t, (&call{}).describe(s, err), s.Message)
	assert.True(t, strings.HasSuffix((&call{}).describe(s, nil), "\n\n"+s.Message+"\n"))
	s.Message += " The activation of an earlier license is to be given back."
	assert.True(t, strings.HasSuffix((&call{}).describe(s, err), "\n\nThe activation of an earlier license is to be given back.\n"))
}

func TestDaysAreCountedByMidnights(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, time.March, 28, 23, 50, 0, 0, time.Local)
	for want, then := range map[string]time.Time{
		"28 March 2026, 23:55 (today)":       now.Add(5 * time.Minute),
		"29 March 2026, 00:10 (tomorrow)":    now.Add(20 * time.Minute),
		"30 March 2026, 00:10 (in 2 days)":   time.Date(2026, time.March, 30, 0, 10, 0, 0, time.Local),
		"28 March 2027, 12:00 (in 365 days)": time.Date(2027, time.March, 28, 12, 0, 0, 0, time.Local),
	} {
		assert.Equal(t, want, day(then, now))
	}
}

func TestOnlyWaitsOfMoreThanASecondAreShownAndTheyLeaveNoTrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := &bytes.Buffer{}
		n := &notices{out: out, live: true}
		done := n.waiting("Asking", time.Time{})
		time.Sleep(900 * time.Millisecond)
		done()
		assert.Empty(t, out.String())

		done = n.waiting("Asking", time.Time{})
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		assert.Equal(t, []string{"Asking… 0:01"}, shown(n, out))
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, []string{"Asking… 1:01"}, shown(n, out))
		fmt.Fprintln(n, "A warning.")
		assert.Equal(t, []string{"A warning."}, shown(n, out), "others are not written into the line")
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"A warning.", "Asking… 1:02"}, shown(n, out))
		// The terminal shows what is typed.
		n.mu.Lock()
		out.WriteString("^C")
		n.mu.Unlock()
		done()
		assert.Equal(t, []string{"A warning."}, shown(n, out))
	})
}

func TestAWaitWithAnEndTellsTheTimeLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := &bytes.Buffer{}
		n := &notices{out: out, live: true}
		done := n.waiting("Waiting", time.Now().Add(purchaseWait))
		defer done()
		for _, x := range []struct {
			after time.Duration
			want  string
		}{{1500 * time.Millisecond, "Waiting… 2:29 left"}, {time.Minute, "Waiting… 1:29 left"}, {5 * time.Minute, "Waiting… 0:00 left"}} {
			time.Sleep(x.after)
			synctest.Wait()
			assert.Equal(t, []string{x.want}, shown(n, out))
		}
	})
}

// shown is what a terminal shows of notices that are being written.
func shown(n *notices, out *bytes.Buffer) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return screen(out.String())
}

func TestAWaitIsNotShownWhereItCouldNotBeErased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := &bytes.Buffer{}
		n := newNotices(out, func(string) string { return "xterm" })
		done := n.waiting("Asking", time.Time{})
		time.Sleep(time.Minute)
		done()
		assert.Empty(t, out.String())
	})
}

func TestALineThatWouldWrapIsCut(t *testing.T) {
	t.Parallel()
	out := &bytes.Buffer{}
	n := &notices{out: out, live: true}
	n.show(strings.Repeat("ä", 200))
	assert.Less(t, len([]rune(out.String())), 80)
	n.show("")
	assert.Empty(t, screen(out.String()))
	assert.Empty(t, cut("text", -1))
}

// screen is what a terminal shows after all that was printed: its lines, without the
// empty ones at the end.
func screen(printed string) []string {
	lines, column := [][]rune{{}}, 0
	for _, char := range withoutColor(printed) {
		line := &lines[len(lines)-1]
		switch char {
		case '\r':
			column = 0
		case '\n':
			lines, column = append(lines, []rune{}), 0
		default:
			for len(*line) <= column {
				*line = append(*line, ' ')
			}
			(*line)[column] = char
			column++
		}
	}
	shown := make([]string, 0, len(lines))
	for _, line := range lines {
		shown = append(shown, strings.TrimRight(string(line), " "))
	}
	for len(shown) > 0 && shown[len(shown)-1] == "" {
		shown = shown[:len(shown)-1]
	}
	return shown
}
