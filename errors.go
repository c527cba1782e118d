package polargate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/disk"
)

// Reason says why a license is not active, or why a call failed. Its values are stable
// words for logs, JSON and switch statements. Each is an error as well, so that the same
// name serves both:
//
//	if errors.Is(err, polargate.ErrExpired) { … }
//	if status.Reason == polargate.ErrExpired { … }
//
// The zero value, "", means that there is nothing to report. string(r) is the word, and
// r.Error() a sentence.
type Reason string

// Denials: Polar itself refused, in its own words. None is final: the next granted
// validation restores the license.
const (
	// ErrUnknownKey: there is no such key in this organization. This includes a key in
	// the wrong case, a rotated key, and, for up to two minutes, a key that was just
	// bought. If no key at all is known, OrganizationID or Server may be wrong.
	ErrUnknownKey Reason = "unknown_key"
	// ErrInactive: the key was revoked or disabled; Polar doesn't say which.
	ErrInactive Reason = "inactive"
	// ErrExpired: the key is past its expiry, by Polar's clock or, offline, by this
	// computer's.
	ErrExpired Reason = "expired"
	// ErrSeatReleased: the key is valid, but this computer's activation is gone, for
	// example because it was deactivated in the customer portal or moved to another
	// computer. Also if the key now has an activation limit, and was used here without an
	// activation before: call Activate.
	ErrSeatReleased Reason = "seat_released"
	// ErrConditionsMismatch: the activation was made under other conditions.
	ErrConditionsMismatch Reason = "conditions_mismatch"
	// ErrWrongBenefit: the key is real, but for another product.
	ErrWrongBenefit Reason = "wrong_benefit"
	// ErrWrongCustomer: the key belongs to a customer other than the one asked for.
	ErrWrongCustomer Reason = "wrong_customer"
	// ErrActivationLimit: the key is in use on the maximum number of computers.
	ErrActivationLimit Reason = "activation_limit"
	// ErrActivationsUnsupported: the key's benefit has no activation limit, so it can't
	// be activated.
	ErrActivationsUnsupported Reason = "activations_unsupported"
	// ErrUsageExceeded: fewer uses are left than were asked for. It refuses this call and
	// doesn't lock the license.
	ErrUsageExceeded Reason = "usage_exceeded"
	// ErrDenied: a refusal by Polar that this version has no word for. Error.Detail has
	// its text.
	ErrDenied Reason = "denied"
)

// All other reasons: Polar gave no answer that counts, or this side is at fault. None of
// them proves anything about the license.
const (
	// ErrUnreachable: no answer from Polar. A Wi-Fi login page, a proxy's error page and a
	// broken answer count as none. Also the Reason of a Status in grace if Polar has not
	// been asked since the answer went stale.
	ErrUnreachable Reason = "unreachable"
	// ErrRateLimited: Polar asked for a pause, or the wait for a turn within its limits
	// would be longer than the caller's context. Error.RetryAfter says how long.
	ErrRateLimited Reason = "rate_limited"
	// ErrMisconfigured: Polar rejected the request itself: a missing or invalid access
	// token, a missing scope, or a malformed field.
	ErrMisconfigured Reason = "misconfigured"
	// ErrInDoubt: the request was sent, its answer was lost, and repeating it could use a
	// second activation or count usage twice. See ErrActivationInDoubt.
	ErrInDoubt Reason = "in_doubt"
	// ErrGraceEnded: the license hasn't been verified for longer than the grace period.
	ErrGraceEnded Reason = "grace_ended"
	// ErrClockSetBack: the clock is more than a day behind a time already seen, or more
	// than an hour behind Polar's last answer. It was ahead then, or has been set back
	// since; Polar's next answer settles it.
	ErrClockSetBack Reason = "clock_set_back"
	// ErrOtherMachine: the stored license was activated on another computer, or is still
	// being moved here. Gate.Move and Gate.Activate move it; nothing else does.
	ErrOtherMachine Reason = "other_machine"
	// ErrBadLease: a license file, or the stored lease, isn't one for this program, or was
	// replaced by a newer one. See Gate.ActivateFile.
	ErrBadLease Reason = "bad_lease"
	// ErrNotCovered: the license doesn't include this version of the program. An earlier
	// version can use it.
	ErrNotCovered Reason = "not_covered"
	// ErrUnreadableState: the stored license is damaged, and was set aside.
	ErrUnreadableState Reason = "unreadable_state"
	// ErrNoPermission: this user may not read or write the stored license, for example
	// because the program was once run by the superuser. Nothing is damaged. A *StoreError
	// with this cause is ErrNoPermission too.
	ErrNoPermission Reason = "no_permission"
	// ErrBusy: another copy of the program, or another call, held the lock of the license
	// for as long as the caller waited. If that was a minute, it is a *StoreError with
	// this Reason.
	ErrBusy Reason = "busy"
	// ErrNoLicense: no license key has been activated here yet.
	ErrNoLicense Reason = "no_license"
	// ErrTrialEnded: the trial without a license is over; see Config.Trial. An error with
	// this Reason is ErrNoLicense too.
	ErrTrialEnded Reason = "trial_ended"
	// ErrUnknownCustomer: Polar has no such customer, or the customer no such member. Only
	// calls about one customer fail with it: to Entitlements and Route, an unknown customer
	// is one without entitlements.
	ErrUnknownCustomer Reason = "unknown_customer"
	// ErrClosed: the Gate was closed.
	ErrClosed Reason = "closed"
)

// ErrActivationInDoubt is another name for ErrInDoubt, for code that activates. The
// attempt stays recorded, and Activate can be called again.
const ErrActivationInDoubt = ErrInDoubt

// Error is the reason as a sentence.
func (r Reason) Error() string {
	if what, ok := english[Phrase(r)]; ok {
		return "polargate: " + what
	}
	if r == "" {
		return ""
	}
	return "polargate: " + string(r)
}

func (r Reason) message(l *Language) string {
	if r == "" {
		return ""
	}
	return l.sentences(l.words(Phrase(r), ""))
}

// provesNothing reports whether r only says why Polar gave no answer.
func (r Reason) provesNothing() bool {
	switch r {
	case ErrUnreachable, ErrRateLimited, ErrMisconfigured, ErrInDoubt, ErrClosed, ErrBusy:
		return true
	}
	return false
}

// Denial reports whether r is Polar's own refusal, not an answer that proves nothing. A
// refused validation locks the license. A refused activation leaves the license in use
// unchanged. ErrUsageExceeded refuses one call only, and isn't a denial.
func (r Reason) Denial() bool {
	switch r {
	case ErrUnknownKey, ErrInactive, ErrExpired, ErrSeatReleased, ErrConditionsMismatch,
		ErrWrongBenefit, ErrWrongCustomer, ErrActivationLimit, ErrActivationsUnsupported, ErrDenied:
		return true
	}
	return false
}

// Error is a failed call to Polar, or a license that doesn't let the program run. It never
// contains a license key, a token, an e-mail address or a request body.
type Error struct {
	// Op is what was tried: "validate", "activate", "deactivate", "check", …
	Op string
	// Reason is what errors.Is matches, in addition to the cause.
	Reason Reason
	// StatusCode is the HTTP status; 0 if there was no answer or no request.
	StatusCode int
	// Code is Polar's own word for the refusal, such as "SeatNotAvailable"; "" if it sent
	// none. It can tell cases apart that have the same Reason.
	Code string
	// Detail is Polar's own text if it sent one, cleaned and cut to 200 characters;
	// otherwise, what was wrong with the answer.
	Detail string
	// RetryAfter is how long to wait before trying again; 0 if not known.
	RetryAfter time.Duration
	// Err is the cause, for example a network error; may be nil.
	Err error

	// sent: the request may have reached Polar and had its effect.
	sent bool
	// unasked: Polar wasn't asked for lack of budget. That says nothing about Polar.
	unasked bool
	// heldBack: Polar wasn't asked, because it had asked for a pause.
	heldBack bool
	// scope is the one that the access token lacks; "" if it isn't known.
	scope string
	// situation is what is known more exactly than the reason tells; "" if nothing is.
	situation Phrase
	// store is why the stored license couldn't be read, if that is the reason.
	store error
	// covered and covers are what a license covers, if it doesn't cover this version of the
	// program; zero and "" if that isn't known.
	covered time.Time
	covers  string
	// kept: the call was about a key that was just entered while the license of another
	// key stays in use.
	kept bool
	// portal: the program's customers can deactivate their computers in a portal.
	portal bool
	// date is when Polar refused, by its own clock; zero if the answer doesn't say.
	date time.Time
	// places are those in a list that was sent of what Polar refused in it; nil if it didn't
	// say.
	places *[]int
}

// Error tells a developer what failed and what to do next. For a person, see Message.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("polargate: ")
	b.WriteString(e.Op)
	what, do := e.words(nil)
	fmt.Fprintf(&b, ": %s", what)
	more := e.facts()
	if len(more) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(more, ": "))
	}
	b.WriteString(". ")
	b.WriteString(do)
	return b.String()
}

// facts are what is known about a failure in addition to its reason. The advice of a cause
// that is an Error too is left out: one is enough.
func (e *Error) facts() []string {
	var facts []string
	if e.StatusCode != 0 {
		facts = append(facts, fmt.Sprintf("%d %s", e.StatusCode, http.StatusText(e.StatusCode)))
	}
	if e.Detail != "" {
		facts = append(facts, e.Detail)
	}
	switch inner := e.Err.(type) {
	case nil:
	case *Error:
		what, _ := inner.words(nil)
		facts = append(append(facts, what), inner.facts()...)
	case Reason:
		facts = append(facts, english[Phrase(inner)])
	default:
		facts = append(facts, inSentence(inner))
	}
	if e.store != nil && e.store != e.Err {
		facts = append(facts, inSentence(causeOf(e.store)))
	}
	return facts
}

// causeOf is what a StoreError is about.
func causeOf(err error) error {
	if e, ok := errors.AsType[*StoreError](err); ok {
		return e.Err
	}
	return err
}

// Unwrap returns the reason and the cause, for errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	errs := []error{e.Reason}
	for _, err := range []error{e.Err, e.store} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// cause is why Polar couldn't be reached, as a phrase; "" if not known.
func (e *Error) cause() Phrase {
	if e.situation.exists() && e.Reason == ErrUnreachable && strings.HasPrefix(string(e.situation), string(ErrUnreachable)+".") {
		return e.situation
	}
	return ""
}

// words are what happened and what to do.
func (e *Error) words(l *Language) (what, do string) {
	what, do = l.wordsWith(Phrase(e.Reason), e.situation, e.portal)
	if e.kept {
		what, do = l.wordsEntered(Phrase(e.Reason), e.situation, e.portal)
	}
	if e.Reason == ErrNotCovered && e.situation == "" {
		what, do = e.wordsOfCover(l, what, do)
	}
	if e.store != nil {
		if w, d, ok := wordsOfStore(l, e.store); ok {
			what, do = w, d
		} else if e.Reason == ErrUnreadableState {
			_, do = l.words(Phrase(e.Reason), unreadableDisk)
		}
	}
	if e.scope != "" {
		do = strings.ReplaceAll(do, "{scope}", e.scope)
	}
	if e.RetryAfter > 0 {
		do = l.text(phraseTryAgainIn, "{wait}", l.FormatDuration(e.RetryAfter))
	}
	return what, do
}

// wordsOfCover say what a license covers, as far as that is known.
func (e *Error) wordsOfCover(l *Language, what, do string) (string, string) {
	switch {
	case e.covers != "":
		return l.text(coversVersion, "{version}", e.covers), l.text(coversVersion + ".do")
	case !e.covered.IsZero():
		return l.text(coversUntil, "{until}", l.FormatTime(e.covered)), l.text(coversUntil + ".do")
	}
	return what, do
}

func (e *Error) message(l *Language) string {
	text := l.sentences(e.words(l))
	if what, do, ok := e.recheck(l); ok {
		text = inTurn(text, l.text(phraseNoteRecheck, "{what}", what, "{do}", do))
	}
	if e.kept {
		text = l.unchanged(text)
	}
	return text
}

// recheck is why the reason couldn't be checked again, where that is a fact of its own.
func (e *Error) recheck(l *Language) (what, do string, ok bool) {
	if e.StatusCode != 0 || e.Reason.provesNothing() || e.Reason == ErrGraceEnded || e.situation == trialUnasked { // which says it itself
		return "", "", false
	}
	switch also := e.Err.(type) {
	case *Error:
		if also.Reason.provesNothing() {
			what, do = also.words(l)
			return what, do, true
		}
	case *StoreError:
		return also.ownWords(l)
	}
	return "", "", false
}

// naming is an error whose advice may name the portal, if there is one.
func naming(portal bool, err error) error {
	e, ok := err.(*Error)
	if !ok || !portal || e.portal {
		return err
	}
	own := *e // other callers may have the same error
	own.portal = true
	return &own
}

func isDenial(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason.Denial()
}

// InputError is a value that can't be right, found before anything was sent or stored. It
// names the field and never repeats the value.
type InputError struct {
	// Field is the argument or Config field at fault.
	Field string
	// Problem says what is wrong and what to give instead.
	Problem string
}

func (e *InputError) Error() string {
	return "polargate: " + e.Field + " " + e.Problem
}

// fieldKey is what an InputError calls a license key.
const fieldKey = "license key"

func (e *InputError) message(l *Language) string {
	phrase := phraseInput
	if e.Field == fieldKey {
		phrase = phraseKeyInput
	}
	return l.text(phrase, "{field}", e.Field, "{problem}", e.Problem)
}

// keptError is an error about a key that was just entered while the license of another
// key stays in use, and is no *Error.
type keptError struct{ error }

func (e *keptError) Unwrap() error { return e.error }

func (e *keptError) message(l *Language) string {
	text := l.Message(e.error)
	if key, ok := errors.AsType[*keyError](e.error); ok {
		text = l.text(phraseKeyInput+entered, "{problem}", key.text(l))
	}
	return l.unchanged(text)
}

// StoreError is a license state that couldn't be read or written. If Activate returns it,
// no new activation is in use. Check works without a disk.
//
// errors.Is finds two causes by their Reason, whatever the Store: ErrNoPermission if the
// cause is fs.ErrPermission, and ErrBusy if the lock was held elsewhere for too long.
type StoreError struct {
	// Op is "load", "save" or "lock".
	Op string
	// Err is the cause.
	Err error
}

func (e *StoreError) Error() string {
	do := "Set Config.Store to another place, or set Config.Ephemeral if there is none."
	switch {
	case e.Is(ErrBusy):
		do = "Another process, or another call in this one, held it for too long. Try again."
	case e.Is(ErrNoPermission):
		do = "Give the files and their folder to the user who runs the program, or set Config.Store to another place."
	case isAny(e.Err, disk.ReadOnly):
		do = "Make the folder writable for this user, set Config.Store to another place, or set Config.Ephemeral if there is none."
	case isAny(e.Err, disk.Full):
		do = "Make room on the disk, or set Config.Store to another place."
	case e.Op == "load":
		do = "Nothing is overwritten. Check the disk, or set Config.Store to another place."
	}
	return fmt.Sprintf("polargate: can't %s the license state: %s. %s", e.Op, inSentence(e.Err), do)
}

// inSentence is the text of an error within a sentence. Windows ends its own with a full
// stop. A test of a program may make an error without its cause.
func inSentence(err error) string {
	if err == nil {
		return "no cause is given"
	}
	return strings.TrimRight(err.Error(), ".")
}

func isAny(err error, of []error) bool {
	return slices.ContainsFunc(of, func(target error) bool { return errors.Is(err, target) })
}

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Err }

// opLock is the Op of a *StoreError, and of an ErrBusy, about a lock.
const opLock = "lock"

// errBusyHere is the wait for another call of the same Gate that took too long.
var errBusyHere error = busyHereError{}

type busyHereError struct{}

func (busyHereError) Error() string {
	return "another call is still under way: " + context.DeadlineExceeded.Error()
}

func (busyHereError) Unwrap() error { return context.DeadlineExceeded }

func (busyHereError) ownWords(l *Language) (what, do string, ok bool) {
	what, do = l.words(Phrase(ErrBusy), busyHere)
	return what, do, true
}

// Is reports whether target is the Reason of the cause.
func (e *StoreError) Is(target error) bool {
	switch target {
	case ErrNoPermission:
		return errors.Is(e.Err, fs.ErrPermission)
	case ErrBusy:
		return e.Op == opLock && errors.Is(e.Err, context.DeadlineExceeded)
	}
	return false
}

func (e *StoreError) message(l *Language) string {
	if what, do, ok := e.ownWords(l); ok {
		return l.sentences(what, do)
	}
	return l.text(phraseStore)
}

func (e *StoreError) ownWords(l *Language) (what, do string, ok bool) {
	if of, found := errors.AsType[worded](e.Err); found {
		if what, do, ok = of.ownWords(l); ok {
			return what, do, true
		}
	}
	for _, reason := range []Reason{ErrBusy, ErrNoPermission} {
		if errors.Is(e, reason) {
			what, do = l.words(Phrase(reason), "")
			return what, do, true
		}
	}
	return "", "", false
}

// wordsOfStore are those of an error of the Store. ok is false if it has none.
func wordsOfStore(l *Language, err error) (what, do string, ok bool) {
	if e, ok := errors.AsType[worded](err); ok {
		return e.ownWords(l)
	}
	return (&StoreError{Err: err}).ownWords(l)
}
