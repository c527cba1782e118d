package polargate

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Reason says why a license is not plainly active, or why a call failed. Its
// values are stable words, made for logs, JSON and switch statements, and each
// is an error as well, so that the same name serves both:
//
//	if errors.Is(err, polargate.ErrExpired) { … }
//	if status.Reason == polargate.ErrExpired { … }
//
// The zero value, "", means that there is nothing to report. Print string(r)
// for the word; r.Error() is a sentence.
type Reason string

// Denials: Polar itself refused, in its own words. None of them is terminal:
// the next granted validation restores the license.
const (
	// ErrUnknownKey: no such key in this organization. Also a key in the wrong
	// case, a rotated key, and, for up to two minutes, one just bought. If no
	// key at all is known, OrganizationID or Server may be the wrong one.
	ErrUnknownKey Reason = "unknown_key"
	// ErrInactive: the key was revoked or disabled; Polar does not tell which.
	ErrInactive Reason = "inactive"
	// ErrExpired: the key is past its expiry, by Polar's clock or, offline, by ours.
	ErrExpired Reason = "expired"
	// ErrSeatReleased: the key is good, but this installation's activation is
	// gone, for instance because it was released in the customer portal.
	ErrSeatReleased Reason = "seat_released"
	// ErrConditionsMismatch: the activation was made under other conditions.
	ErrConditionsMismatch Reason = "conditions_mismatch"
	// ErrWrongBenefit: a real key, but for something else than this program.
	ErrWrongBenefit Reason = "wrong_benefit"
	// ErrWrongCustomer: the key belongs to another customer than the one asked for.
	ErrWrongCustomer Reason = "wrong_customer"
	// ErrActivationLimit: every seat of the key is taken.
	ErrActivationLimit Reason = "activation_limit"
	// ErrActivationsUnsupported: the key's benefit has no activation limit set,
	// and so no seats to take.
	ErrActivationsUnsupported Reason = "activations_unsupported"
	// ErrUsageExceeded: fewer uses are left than were asked for. It refuses the
	// one call and does not lock the license.
	ErrUsageExceeded Reason = "usage_exceeded"
	// ErrDenied: a refusal in Polar's shape that this version has no word for.
	// Error.Detail holds its text.
	ErrDenied Reason = "denied"
)

// Everything else: nobody authoritative answered, or this side is at fault.
// None of these proves anything about the license.
const (
	// ErrUnreachable: no answer from Polar. A login page of a Wi-Fi, a proxy's
	// error page and a broken answer count as none. Also the reason of a Status
	// in grace when Polar has not been asked yet since the answer went stale.
	ErrUnreachable Reason = "unreachable"
	// ErrRateLimited: Polar asked for a pause, or the wait for our own pacing
	// was longer than the caller's context. Error.RetryAfter says how long.
	ErrRateLimited Reason = "rate_limited"
	// ErrMisconfigured: Polar refused the request itself: a bad or missing
	// access token, a missing scope, or a malformed field.
	ErrMisconfigured Reason = "misconfigured"
	// ErrInDoubt: the request left, its answer was lost, and repeating it could
	// take a second seat or count usage twice. See ErrActivationInDoubt.
	ErrInDoubt Reason = "in_doubt"
	// ErrGraceEnded: Polar has not been reached for longer than the grace period.
	ErrGraceEnded Reason = "grace_ended"
	// ErrClockSetBack: the clock is more than an hour behind a time already seen.
	ErrClockSetBack Reason = "clock_set_back"
	// ErrOtherMachine: the stored license belongs to another machine.
	ErrOtherMachine Reason = "other_machine"
	// ErrUnreadableState: the stored license was damaged; it was kept aside.
	ErrUnreadableState Reason = "unreadable_state"
	// ErrNoLicense: no license key has been activated here yet.
	ErrNoLicense Reason = "no_license"
	// ErrClosed: the Gate was closed.
	ErrClosed Reason = "closed"
)

// ErrActivationInDoubt is another name of ErrInDoubt, for code that activates.
// The attempt stays recorded, and Activate can be called again.
const ErrActivationInDoubt = ErrInDoubt

// Error is the reason as a sentence.
func (r Reason) Error() string {
	if s, ok := sentences[r]; ok {
		return "polargate: " + s.short
	}
	if r == "" {
		return ""
	}
	return "polargate: " + string(r)
}

// Denial reports whether r is Polar's own refusal, as against an answer that
// proves nothing. In answer to a validation it locks the license. The refusal of
// an activation leaves the license that is held as it is, and ErrUsageExceeded,
// which refuses one call only, is not counted as a denial.
func (r Reason) Denial() bool {
	switch r {
	case ErrUnknownKey, ErrInactive, ErrExpired, ErrSeatReleased, ErrConditionsMismatch,
		ErrWrongBenefit, ErrWrongCustomer, ErrActivationLimit, ErrActivationsUnsupported, ErrDenied:
		return true
	}
	return false
}

// words are what an error says, and what a person is told to do next.
type words struct{ short, advice string }

var sentences = map[Reason]words{
	ErrUnknownKey:             {"the license server does not know this license key", "Check it for typing errors, capital letters included. A key bought in the last two minutes may not be ready yet: try again shortly. If it was replaced, enter the new one."},
	ErrInactive:               {"this license key is no longer active", "The license was revoked or disabled. Renew the subscription, or ask the vendor."},
	ErrExpired:                {"this license has expired", "Renew the license, then check again."},
	ErrSeatReleased:           {"this computer's activation was released", "Activate the license key again to use it on this computer."},
	ErrConditionsMismatch:     {"this license was activated under other conditions", "Activate the license key again on this computer, or ask the vendor."},
	ErrWrongBenefit:           {"this license key is for another product", "Enter the key that came with this program."},
	ErrWrongCustomer:          {"this license key belongs to another customer", "Enter a license key of your own account."},
	ErrActivationLimit:        {"every activation of this license key is in use", "Release it on another computer or in the vendor's customer portal, then activate again."},
	ErrActivationsUnsupported: {"this license key cannot be activated on a computer", "Tell the vendor that it has no activation limit."},
	ErrUsageExceeded:          {"not enough uses are left on this license key", "Use less at once, wait for the allowance to be renewed, or buy more."},
	ErrDenied:                 {"the license server refused this license key", "Ask the vendor."},
	ErrUnreachable:            {"the license server could not be reached", "Check the internet connection. On a Wi-Fi that asks for a login, log in first."},
	ErrRateLimited:            {"the license server asked for a pause", "Wait a minute, then try again."},
	ErrMisconfigured:          {"the license server refused the request itself", "This is a fault of the program's setup and says nothing of your license: tell the vendor."},
	ErrInDoubt:                {"the request was sent, but its answer was lost", "Check the internet connection and try again. If no activation is left then, release the lost one in the vendor's customer portal."},
	ErrGraceEnded:             {"the license could not be checked for too long", "Connect to the internet and check again."},
	ErrClockSetBack:           {"this computer's clock is behind the time seen before", "Set the clock right, or connect to the internet and check again."},
	ErrOtherMachine:           {"the stored license belongs to another computer", "Connect to the internet: it is then moved here, if the other one no longer needs it. Or activate another license key."},
	ErrUnreadableState:        {"the stored license could not be read", "Start the program again. If that does not help, enter the license key again; a damaged file was kept aside."},
	ErrNoLicense:              {"no license key has been activated", "Enter your license key."},
	ErrClosed:                 {"the gate is closed", "Open a new one."},
}

// Error is a failed call to Polar, or a license that does not let the program
// run. It never carries a license key, a token, an e-mail address or a request
// body.
type Error struct {
	// Op is what was tried: "validate", "activate", "deactivate", "check", …
	Op string
	// Reason is what errors.Is matches, beside the cause.
	Reason Reason
	// StatusCode is the HTTP status; 0 when no answer came or none was asked for.
	StatusCode int
	// Detail is Polar's own text where it sent one, cleaned and cut to 200
	// characters; otherwise what was wrong with the answer.
	Detail string
	// RetryAfter is how long to wait before asking again; 0 when not known.
	RetryAfter time.Duration
	// Err is the cause, for instance a network error; may be nil.
	Err error

	// sent: the request may have reached Polar and been carried out there.
	sent bool
	// say replaces the words of the reason, where they are known better.
	say words
	// date is the time by the clock of who refused; zero if the answer does
	// not tell.
	date time.Time
}

func (e *Error) words() words {
	w := sentences[e.Reason]
	if e.say.short != "" {
		w.short = e.say.short
	}
	if e.say.advice != "" {
		w.advice = e.say.advice
	}
	if e.RetryAfter > 0 {
		w.advice = fmt.Sprintf("Try again in %s.", readable(e.RetryAfter))
	}
	return w
}

// Error says what failed and what to do next, for a developer. For a person, see
// Message.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("polargate: ")
	b.WriteString(e.Op)
	s := e.words()
	fmt.Fprintf(&b, ": %s", s.short)
	var more []string
	if e.StatusCode != 0 {
		more = append(more, fmt.Sprintf("%d %s", e.StatusCode, http.StatusText(e.StatusCode)))
	}
	if e.Detail != "" {
		more = append(more, e.Detail)
	}
	switch inner := e.Err.(type) {
	case nil:
	case *Error:
		more = append(more, inner.words().short) // one advice is enough
	case Reason:
		more = append(more, sentences[inner].short)
	default:
		more = append(more, inner.Error())
	}
	if len(more) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(more, ": "))
	}
	b.WriteString(". ")
	b.WriteString(s.advice)
	return b.String()
}

// Message is an error of this package for a person: what is the matter and what
// to do, in whole sentences, with no status code, address or name of a field. It
// is empty for nil, and the plain text of any other error.
func Message(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		w := e.words()
		return upperFirst(w.short) + ". " + w.advice
	}
	if e, ok := errors.AsType[*InputError](err); ok {
		return "The " + e.Field + " " + e.Problem + "."
	}
	if _, ok := errors.AsType[*StoreError](err); ok {
		return "The license cannot be kept on this computer. Check that the folder for settings can be written, and that the disk is not full."
	}
	return err.Error()
}

// Unwrap gives the reason and the cause, for errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Err}
}

func isDenial(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Reason.Denial()
}

// InputError is a value that cannot be right, found before anything was sent
// or stored. It names the field and never repeats the value.
type InputError struct {
	// Field is the argument or Config field at fault.
	Field string
	// Problem says what is wrong and what to give instead.
	Problem string
}

func (e *InputError) Error() string {
	return "polargate: " + e.Field + " " + e.Problem
}

// StoreError is a license state that could not be read or written. After it,
// Activate holds no seat that it did not hold before. Check works without a disk.
type StoreError struct {
	// Op is "load", "save" or "lock".
	Op string
	// Err is the cause.
	Err error
}

func (e *StoreError) Error() string {
	return fmt.Sprintf("polargate: cannot %s the license state: %v. Make the folder writable for this user, set Config.Store to another place, or choose with Config.Ephemeral what to do without one.", e.Op, e.Err)
}

// Unwrap gives the cause.
func (e *StoreError) Unwrap() error { return e.Err }

// cleanDetail makes a text from the network fit for an error: one line,
// printable, short, and redacted.
func cleanDetail(s string, secrets ...string) string {
	return shorten(cleanText(redact(s, secrets...)), 200)
}

// redact takes out of a text from the network what it may echo: the secrets, in
// whatever case and escaping, and anything that looks like an e-mail address.
func redact(s string, secrets ...string) string {
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			s = regexp.MustCompile("(?i)"+regexp.QuoteMeta(form)).ReplaceAllLiteralString(s, "****")
		}
	}
	s = userInfo.ReplaceAllString(s, "$1****@")
	return emailAddress.ReplaceAllLiteralString(s, "****")
}

// userInfo is what a URL says of a user before its host, password included.
var userInfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^"'<>]*@`)

var emailAddress = regexp.MustCompile(`[^\s@"'<>(),;:/]+(@|%40)[^\s@"'<>(),;:/]+`)

// readable rounds a wait up to whole seconds, so that nobody is told "0s".
func readable(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}
