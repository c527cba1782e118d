package polargate

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate/internal/owned"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write testdata/messages.txt anew")

// reasons are all there are, in the order of errors.go.
var reasons = []Reason{
	ErrUnknownKey, ErrInactive, ErrExpired, ErrSeatReleased, ErrConditionsMismatch, ErrWrongBenefit, ErrWrongCustomer, ErrActivationLimit,
	ErrActivationsUnsupported, ErrUsageExceeded, ErrDenied, ErrUnreachable, ErrRateLimited, ErrMisconfigured, ErrInDoubt, ErrGraceEnded,
	ErrClockSetBack, ErrOtherMachine, ErrUnreadableState, ErrNoPermission, ErrBusy, ErrNoLicense, ErrTrialEnded, ErrUnknownCustomer, ErrClosed,
}

// situations are all there are, in order, with the reason of each.
func situations() []Error {
	var all []Error
	for _, p := range slices.Sorted(maps.Keys(english)) {
		if strings.HasSuffix(string(p), string(inPortal)) {
			continue // the other form of an advice
		}
		name := strings.TrimSuffix(string(p), ".do")
		reason, _, exact := strings.Cut(name, ".")
		if p == callEnded {
			reason, exact = string(ErrUnreachable), true
		}
		e := Error{Op: "check", Reason: Reason(reason), situation: Phrase(name)}
		if strings.Contains(english[Phrase(name)], "{file}") || p == noPermissionRepair+".do" {
			continue // of a file: see the errors of the disk
		}
		if exact && slices.Contains(reasons, e.Reason) && !strings.HasSuffix(name, string(entered)) && !slices.ContainsFunc(all, func(other Error) bool { return other.situation == e.situation }) {
			all = append(all, e)
		}
	}
	return all
}

// messages are what people read, one a line, beside where they read it.
func messages() string {
	var b strings.Builder
	part := func(title string) { fmt.Fprintf(&b, "\n== %s\n", title) }
	line := func(name, text string) { fmt.Fprintf(&b, "%s: %s\n", name, text) }
	until := time.Date(2030, 1, 15, 10, 30, 0, 0, time.UTC)
	utc := &Language{Time: func(t time.Time) string { return t.Format("2 January 2006 15:04") }}

	part("A license")
	status := func(name string, s Status, failed Reason, inMemory bool) {
		s.Key = newKey("INKWELL-0001")
		line(name, s.message(utc, failed, inMemory))
	}
	status("active", Status{State: Active}, "", false)
	status("active, with an end", Status{State: Active, ExpiresAt: until}, "", false)
	status("trial", Status{State: InTrial, TrialUntil: until}, "", false)
	status("trial, an import not confirmed yet", Status{State: InTrial, TrialUntil: until, unconfirmed: true}, "", false)
	status("active, ends soon", Status{State: Active, ExpiresAt: until, Reminder: true}, "", false)
	status("grace, ends soon", Status{State: Grace, Reason: ErrUnreachable, GraceUntil: until, ExpiresAt: until, Reminder: true}, ErrUnreachable, false)
	status("perpetual", Status{State: Perpetual, Reason: ErrExpired, CoveredUntil: until}, "", false)
	status("locked, released after what is covered", Status{State: Locked, Reason: ErrNotCovered, CoveredUntil: until}, "", false)
	status("locked, a version that isn't covered", Status{State: Locked, Reason: ErrNotCovered, covers: "3.2"}, "", false)
	status("grace, not asked yet", Status{State: Grace, Reason: ErrUnreachable, GraceUntil: until}, "", false)
	for _, reason := range []Reason{ErrUnreachable, ErrRateLimited, ErrMisconfigured} {
		status("grace, "+string(reason), Status{State: Grace, Reason: reason, GraceUntil: until}, reason, false)
	}
	for _, e := range situations() {
		if cause := e.cause(); cause != "" {
			status("grace, "+string(cause), Status{State: Grace, Reason: ErrUnreachable, GraceUntil: until, cause: cause}, ErrUnreachable, false)
		}
	}
	status("grace without an end, not asked yet", Status{State: Grace, Reason: ErrUnreachable}, "", false)
	for _, reason := range []Reason{ErrUnreachable, ErrRateLimited} {
		status("grace without an end, "+string(reason), Status{State: Grace, Reason: reason}, reason, false)
	}
	for _, reason := range reasons {
		status("locked, "+string(reason), Status{State: Locked, Reason: reason}, "", false)
	}
	for _, failed := range []Reason{ErrRateLimited, ErrMisconfigured} {
		status("locked, grace_ended, then "+string(failed), Status{State: Locked, Reason: ErrGraceEnded}, failed, false)
	}
	status("locked, grace_ended, the clock", Status{State: Locked, Reason: ErrGraceEnded, cause: causeClock}, ErrUnreachable, false)
	status("unlicensed, in doubt", Status{State: Unlicensed, Reason: ErrInDoubt, InDoubt: true}, "", false)
	status("active, another key in doubt", Status{State: Active, InDoubt: true}, "", false)
	status("active, another key to be deactivated", Status{State: Active, ReleasePending: true}, "", false)
	status("active, not saved", Status{State: Active, Unsaved: true}, "", false)
	status("active, not saved, for a reason", Status{State: Active, Unsaved: true, store: fs.ErrPermission}, "", false)
	status("active, nothing saved", Status{State: Active, Unsaved: true}, "", true)

	part("An error")
	for _, reason := range reasons {
		line(string(reason), Message(&Error{Op: "check", Reason: reason}))
	}
	for _, e := range situations() {
		line(string(e.situation), Message(&e))
	}
	for _, wait := range []time.Duration{time.Millisecond, 20 * time.Second, time.Minute, 90 * time.Second, time.Hour, 5 * time.Hour, 72 * time.Hour} {
		line("rate_limited, "+wait.String(), Message(&Error{Op: "check", Reason: ErrRateLimited, RetryAfter: wait}))
	}
	line("expired, and then unreachable", Message(&Error{Op: "check", Reason: ErrExpired, Err: &Error{Op: opValidate, Reason: ErrUnreachable}}))
	line("expired, and then rate_limited", Message(&Error{Op: "check", Reason: ErrExpired, Err: &Error{Op: opValidate, Reason: ErrRateLimited, RetryAfter: time.Minute}}))
	line("a license key", Message(&InputError{fieldKey, "is empty: paste it from your purchase email or the customer portal"}))
	line("an argument", Message(&InputError{"BenefitID", "is not a UUID"}))
	line("missing", Message(&MissingError{Err: context.DeadlineExceeded}))
	line("a reason alone", Message(ErrExpired))

	part("An error about a key that was just entered")
	for _, reason := range reasons {
		line(string(reason), Message(&Error{Op: opActivate, Reason: reason, kept: true}))
	}
	for _, e := range situations() {
		e.kept = true
		line(string(e.situation), Message(&e))
	}
	line("a license key", Message(&keptError{errKeyTooLong}))
	line("the disk", Message(&keptError{&StoreError{"save", errors.New("disk full")}}))

	part("With a portal in which customers deactivate their computers")
	for _, e := range append(situations(), Error{Op: opActivate, Reason: ErrActivationLimit}, Error{Op: opActivate, Reason: ErrInDoubt}) {
		for _, kept := range []bool{false, true} {
			without := e
			without.kept = kept
			with := without
			with.portal = true
			if text := Message(&with); text != Message(&without) {
				line(cmp.Or(string(e.situation), string(e.Reason)), text)
			}
		}
	}

	part("An error of the disk")
	line("unknown", Message(&StoreError{"save", errors.New("disk full")}))
	line("permission", Message(&StoreError{"save", fs.ErrPermission}))
	line("busy", Message(&StoreError{opLock, context.DeadlineExceeded}))
	line("busy here", Message(&StoreError{opLock, errBusyHere}))
	for _, place := range []placeError{
		{isFolder: true}, {}, {whose: owned.Root}, {whose: owned.Others}, {whose: owned.Root, repair: "/home/ada/.config/ink well"},
	} {
		place.file, place.err = "/home/ada/.config/ink well", fs.ErrPermission
		line("a place", Message(&StoreError{"load", &place}))
	}

	part("A page of a server")
	for _, r := range []Refusal{
		{Status: http.StatusBadRequest}, {Status: http.StatusUnauthorized}, {Status: http.StatusUnauthorized, Reason: ErrUnknownKey},
		{Status: http.StatusPaymentRequired}, {Status: http.StatusPaymentRequired, Reason: ErrExpired}, {Status: http.StatusPaymentRequired, Required: Meter("00000000-0000-4000-8000-000000000001", 1)},
		{Status: http.StatusServiceUnavailable, RetryAfter: 5 * time.Second}, {Status: http.StatusServiceUnavailable, RetryAfter: time.Minute},
	} {
		heading, text := r.words()
		line(heading, text)
	}

	part("An error for a developer")
	for _, reason := range reasons {
		line(string(reason), (&Error{Op: "check", Reason: reason}).Error())
	}

	part("Every phrase")
	for _, p := range slices.Sorted(maps.Keys(english)) {
		line(string(p), english[p])
	}
	return strings.TrimPrefix(b.String(), "\n")
}

// The other tests look at reasons and fields. Whoever changes a text runs
// "go test -run TestTheMessages . -update" and reads what has changed.
func TestTheMessagesAreThoseOfTheGoldenFile(t *testing.T) {
	t.Parallel()
	golden := filepath.Join("testdata", "messages.txt")
	got := messages()
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, strings.ReplaceAll(string(want), "\r\n", "\n"), got, "read the difference, then run this test with -update")
}

func TestNoMessageSpeaksLikeAMachine(t *testing.T) {
	t.Parallel()
	text, _, _ := strings.Cut(messages(), "== An error for a developer")
	for line := range strings.Lines(text) {
		_, said, ok := strings.Cut(line, ": ")
		if !ok || strings.HasPrefix(line, "misconfigured.") || strings.HasPrefix(line, "an argument") { // for whoever runs a server
			continue
		}
		assert.NotRegexp(t, `\b[0-9]+(\.[0-9]+)?(ns|µs|ms|s|m|h)\b`, said, "a duration as Go writes it")
		assert.NotRegexp(t, regexp.MustCompile(`(?i)\b(seat|release[ds]?|vendor|activation limit|in vain|gate|null)\b`), said)
		assert.NotRegexp(t, `\{[a-z]+\}`, said, "something is not filled in")
		assert.NotContains(t, said, "%!")
		assert.NotContains(t, said, "..")
	}
}

func TestAReportForSupportAndAMistypedKeyAreSaidInTheLanguageOfTheUser(t *testing.T) {
	t.Parallel()
	other := &Language{Phrases: map[Phrase]string{}, Duration: func(time.Duration) string { return "EINE WEILE" }}
	for p, text := range english { // in capitals, but for the fields
		other.Phrases[p] = regexp.MustCompile(`\{\w+\}|[^{]+`).ReplaceAllStringFunc(text, func(part string) string {
			if strings.HasPrefix(part, "{") {
				return part
			}
			return strings.ToUpper(part)
		})
	}
	small := regexp.MustCompile(`[a-z]{3,}`)
	for _, pasted := range []string{
		"", strings.Repeat("k", 600), "****-0A1B2C", "A\nB", "A\tB", "A\x1eB", "A\xffB", "8224EВ8D", "Inkwell Pro: ONE-1", "License key: ONE- 1",
		"8224EB8D-5310-4D2C-B21D-72338A766D45 9224EB8D-5310-4D2C-B21D-72338A766D45", "8224EB8D-5310-4D2C-B21D-72338A766D45 (three)",
	} {
		_, err := ParseKey(pasted)
		require.Error(t, err, "%q", pasted)
		assert.NotRegexp(t, small, other.Message(err))
		assert.NotRegexp(t, small, other.Message(&keptError{err}))
		assert.NotContains(t, other.Message(err), "{")
	}
	d := Diagnosis{
		Program: "P", Library: "L", Platform: "OS", Server: "S", Proxy: "none", Reached: true, ClockAhead: time.Hour, Pause: time.Minute,
		Store: "D", StoreOwner: "root", StoreLock: "not supported", Fingerprint: "machine id", State: "S", SinceChecked: time.Hour,
		Unsaved: true, InDoubt: true, SeatsToRelease: 2, language: other,
	}
	assert.NotRegexp(t, small, d.String())
	assert.Contains(t, d.String(), "2 ACTIVATIONS")
	assert.Contains(t, d.String(), "EINE WEILE AHEAD")
	d.ClockAhead, d.SeatsToRelease = -time.Hour, 1
	assert.NotRegexp(t, small, d.String())
	d.language = nil
	assert.Contains(t, d.String(), "to release   1 activation\n")
	d.language = &Language{Phrases: map[Phrase]string{"report.lock": "ロック", "report.fingerprint": "コンピューターの識別子"}}
	assert.Contains(t, d.String(), "ロック                 not supported\nコンピューターの識別子 machine id\n", "columns of letters that are twice as wide")
}

func TestADurationIsSaidAsAPersonWouldSayIt(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "a few seconds", time.Second: "a few seconds", 16 * time.Second: "20 seconds", 50 * time.Second: "50 seconds", 51 * time.Second: "a minute",
		time.Minute: "a minute", 70 * time.Second: "a minute", 71 * time.Second: "2 minutes", 10 * time.Minute: "10 minutes", 59 * time.Minute: "59 minutes",
		time.Hour: "an hour", 71 * time.Minute: "2 hours", 2 * time.Hour: "2 hours", 36 * time.Hour: "36 hours", 37 * time.Hour: "2 days", 72 * time.Hour: "3 days",
	} {
		assert.Equal(t, want, inWords(d), d)
	}
	german := &Language{Duration: func(d time.Duration) string { return fmt.Sprintf("%.0f Sekunden", d.Seconds()) }}
	assert.Contains(t, german.Message(&Error{Op: "check", Reason: ErrRateLimited, RetryAfter: time.Minute}), "60 Sekunden")
	assert.Equal(t, "1 activation", count(1, "activation", "activations"))
	assert.Equal(t, "2 activations", count(2, "activation", "activations"))
}
