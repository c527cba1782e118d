package polargate

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/owned"
)

// Phrase names a text that a person can meet. The word of each [Reason] is one, for
// what is the matter, and the same with ".do" at its end is what to do about it:
// "expired" and "expired.do". [Phrases] has them all. Names stay what they are;
// later versions can have more.
type Phrase string

// Language is how a program tells a person about the license, in Status.Message and
// Language.Message. nil and the zero value are English.
type Language struct {
	// Phrases replace the English of [Phrases], for as many as are given. In
	// braces stands what is filled in: {until} a time, {wait} a duration, {what}
	// and {do} the phrases of a reason, {file} a file or folder, {field} and
	// {problem} in English what is wrong with a value. A phrase need not use them. {what} begins small in
	// "grace" and the like, and large where it begins a sentence.
	Phrases map[Phrase]string
	// Time writes a time; nil writes "2 January 2006 15:04" in the zone of the
	// computer.
	Time func(time.Time) string
}

// Phrases are all texts that a person can meet, in English, by name; the caller's
// own copy. A translation has the same names.
func Phrases() map[Phrase]string { return maps.Clone(english) }

// Message is an error of this package for a person: what is the matter and what
// to do, in whole sentences, with no status code, address or name of a field;
// a file or folder that is not the user's is named. It is empty for nil, and the plain text of any other error.
func Message(err error) string { return (*Language)(nil).Message(err) }

// Message is [Message] in this language.
func (l *Language) Message(err error) string {
	if err == nil {
		return ""
	}
	if _, ok := errors.AsType[*MissingError](err); ok {
		return l.text(phraseMissing)
	}
	_, kept := errors.AsType[*keptError](err)
	if e, ok := errors.AsType[*Error](err); ok {
		text := l.refused(l.ofError(e))
		if what, do, ok := l.behind(e); ok {
			text += " " + l.text(phraseNoteRecheck, "{what}", what, "{do}", do)
		}
		return l.ofKept(text, e.kept)
	}
	if e, ok := errors.AsType[*InputError](err); ok {
		phrase := phraseInput
		switch {
		case e.Field == fieldKey && kept:
			phrase = phraseKeyInput + entered
		case e.Field == fieldKey:
			phrase = phraseKeyInput
		}
		return l.ofKept(l.text(phrase, "{field}", e.Field, "{problem}", e.Problem), kept)
	}
	if e, ok := errors.AsType[*StoreError](err); ok {
		text := l.text(phraseStore)
		if what, do, ok := l.ofStore(e); ok {
			text = l.refused(what, do)
		}
		return l.ofKept(text, kept)
	}
	return err.Error()
}

// ofKept adds that the license that is held stays as it is, if one is.
func (l *Language) ofKept(text string, kept bool) string {
	if kept {
		text += " " + l.text(phraseNoteKept)
	}
	return text
}

// behind is why a reason could not be looked at again, if the two are two facts.
func (l *Language) behind(e *Error) (what, do string, ok bool) {
	if e.StatusCode != 0 || e.Reason.provesNothing() || e.Reason == ErrGraceEnded { // which says it itself
		return "", "", false
	}
	switch also := e.Err.(type) {
	case *Error:
		if also.Reason.provesNothing() {
			what, do = l.ofError(also)
			return what, do, true
		}
	case *StoreError:
		return l.ofStore(also)
	}
	return "", "", false
}

// provesNothing reports whether r says only why there was no answer.
func (r Reason) provesNothing() bool {
	switch r {
	case ErrUnreachable, ErrRateLimited, ErrMisconfigured, ErrInDoubt, ErrClosed, ErrBusy:
		return true
	}
	return false
}

// ofStore is what is the matter with the Store, and what to do, where it is known.
func (l *Language) ofStore(err error) (what, do string, ok bool) {
	place, known := errors.AsType[*placeError](err)
	switch {
	case err == nil:
		return "", "", false
	case known && place.isFolder:
		return l.text(storeFolder, "{file}", place.file), l.text(storeFolderDo), true
	case errors.Is(err, errBusyHere):
		return l.text(busyHere), l.text(busyHereDo), true
	case errors.Is(err, ErrBusy):
		return l.text(Phrase(ErrBusy)), l.text(Phrase(ErrBusy) + ".do"), true
	case !errors.Is(err, ErrNoPermission):
		return "", "", false
	case !known:
		return l.text(Phrase(ErrNoPermission)), l.text(Phrase(ErrNoPermission) + ".do"), true
	}
	of := noPermissionFile
	switch place.whose {
	case owned.Root:
		of = noPermissionRoot
	case owned.Others:
		of = noPermissionOther
	}
	do = l.text(Phrase(ErrNoPermission) + ".do")
	if place.repair != "" {
		do = l.text(noPermissionRepairDo, "{file}", forShell(place.repair))
	}
	return l.text(of, "{file}", place.file), do, true
}

// forShell is a path as it can be given to a command.
func forShell(path string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+@", r)
	}
	if strings.IndexFunc(path, func(r rune) bool { return !plain(r) }) < 0 {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// ofError is what is the matter, and what to do.
func (l *Language) ofError(e *Error) (what, do string) {
	p := e.Reason.phrases()
	if e.say.what != "" {
		p.what = e.say.what
	}
	what, do = l.text(p.what), l.text(p.do)
	if e.kept {
		what, do = l.ofEntered(p)
	}
	if e.say.do != "" {
		do = l.text(e.say.do)
	}
	if e.store != nil {
		if w, d, ok := l.ofStore(e.store); ok {
			what, do = w, d
		} else if e.Reason == ErrUnreadableState {
			do = l.text(unreadableDiskDo)
		}
	}
	if e.RetryAfter > 0 {
		do = l.text(phraseTryAgainIn, "{wait}", readable(e.RetryAfter).String())
	}
	return what, do
}

// ofEntered are the phrases of a reason as they are said of a key that was just
// entered, while another one is held. What is no fault of the key says so.
func (l *Language) ofEntered(p phrases) (what, do string) {
	if _, ok := english[p.what+entered]; !ok {
		return l.text(phraseEntered, "{what}", l.text(p.what)), l.text(p.do)
	}
	if _, ok := english[p.what+entered+".do"]; ok {
		p.do = p.what + entered + ".do"
	}
	return l.text(p.what + entered), l.text(p.do)
}

func (l *Language) refused(what, do string) string {
	return l.text(phraseRefused, "{what}", upperFirst(what), "{do}", do)
}

// ofStatus says in words what a Status means. vain is why Polar was asked in vain
// since the last answer, if it was, and inMemory whether nothing of it is stored.
func (l *Language) ofStatus(s Status, vain Reason, inMemory bool) string {
	text := l.standing(s, vain)
	if s.InDoubt && s.Reason != ErrInDoubt {
		text += " " + l.text(phraseNoteInDoubt)
	}
	if s.ReleasePending {
		text += " " + l.text(phraseNoteRelease)
	}
	if s.Unsaved && !s.Key.IsZero() {
		note := phraseNoteUnsaved
		if inMemory {
			note = phraseNoteUnstored
		}
		if what, do, ok := l.ofStore(s.store); ok && !inMemory {
			text += " " + l.text(phraseNoteUnsavedFor, "{what}", what, "{do}", do)
		} else {
			text += " " + l.text(note)
		}
	}
	return text
}

func (l *Language) standing(s Status, vain Reason) string {
	p := s.phrases(vain)
	switch {
	case s.State == Active && s.ExpiresAt.IsZero():
		return l.text(phraseActive)
	case s.State == Active:
		return l.text(phraseActiveUntil, "{until}", l.time(s.ExpiresAt))
	case s.State == Grace && vain == "":
		return l.text(phraseGraceDue, "{until}", l.time(s.GraceUntil))
	case s.State == Grace:
		return l.text(phraseGrace, "{what}", l.text(p.what), "{do}", l.text(p.do), "{until}", l.time(s.GraceUntil))
	}
	return l.refused(l.ofError(&Error{Reason: s.Reason, say: p, store: s.unread()}))
}

// text is a phrase with what is filled in, given as old and new in turn.
func (l *Language) text(p Phrase, fill ...string) string {
	text := english[p]
	if l != nil {
		if own, ok := l.Phrases[p]; ok {
			text = own
		}
	}
	if len(fill) > 0 {
		text = strings.NewReplacer(fill...).Replace(text)
	}
	return text
}

func (l *Language) time(t time.Time) string {
	if l != nil && l.Time != nil {
		return l.Time(t)
	}
	return t.Local().Format("2 January 2006 15:04")
}

// copied is a Language that its maker cannot change any more.
func (l *Language) copied() *Language {
	if l == nil {
		return nil
	}
	return &Language{maps.Clone(l.Phrases), l.Time}
}

func (l *Language) validate() error {
	if l == nil {
		return nil
	}
	for _, p := range slices.Sorted(maps.Keys(l.Phrases)) {
		if _, ok := english[p]; !ok {
			return &InputError{"Language", "has a phrase that does not exist: the names are those of Phrases()"}
		}
	}
	return nil
}

// readable rounds a wait up to whole seconds, so that nobody is told "0s".
func readable(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

func upperFirst(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}

// phrases are what an error says is the matter, and what a person is told to do.
type phrases struct{ what, do Phrase }

func (r Reason) phrases() phrases { return phrases{Phrase(r), Phrase(r) + ".do"} }

// inTheWay reports whether a connection to the internet alone does not help.
func (p Phrase) inTheWay() bool {
	switch p {
	case causeClock, causeIntercepted, causeProxy, causeProxyLogin, causeProxySetting:
		return true
	}
	return false
}

func (p Phrase) phrases() phrases { return phrases{p, p + ".do"} }

// phrases are those of the reason, as they fit what a Status says, and why Polar
// was asked in vain.
func (s Status) phrases(vain Reason) phrases {
	if s.say != (phrases{}) {
		p := s.Reason.phrases()
		if s.say.what != "" {
			p.what = s.say.what
		}
		if s.say.do != "" {
			p.do = s.say.do
		}
		return p
	}
	switch {
	case s.Reason == ErrGraceEnded && (vain == ErrRateLimited || vain == ErrMisconfigured):
		// It is not the connection that is missing.
		return phrases{do: vain.phrases().do, what: Phrase(ErrGraceEnded)}
	case s.Reason == ErrGraceEnded && s.cause.inTheWay():
		return phrases{do: s.cause + ".do", what: Phrase(ErrGraceEnded)}
	case s.Reason == ErrUnreachable && s.cause != "":
		return s.cause.phrases()
	case s.State == Unlicensed && s.Reason == ErrInDoubt:
		return phrases{inDoubtHere, inDoubtHereDo}
	case s.State == Locked && s.Reason == ErrUnknownKey:
		return noLongerKnown
	}
	return s.Reason.phrases()
}

// ofServer are for who runs a server, and reads them in a log.
var ofServer = map[Reason]phrases{
	ErrMisconfigured: {do: serverKeysDo},
	ErrUnreachable:   {do: serverUnreachableDo},
	ErrSeatReleased:  {serverSeat, serverSeatDo},
}

// noLongerKnown is said of a key that was activated: typing errors are out of the
// question.
var noLongerKnown = phrases{unknownHeld, unknownHeldDo}

// ended is said when it was the caller who gave up.
var ended = phrases{callEnded, callEndedDo}

// fieldKey is how an InputError calls a license key.
const fieldKey = "license key"

const (
	phraseActive       Phrase = "active"
	phraseActiveUntil  Phrase = "active_until"
	phraseGraceDue     Phrase = "grace_due"
	phraseGrace        Phrase = "grace"
	phraseRefused      Phrase = "refused"
	phraseNoteInDoubt  Phrase = "note_in_doubt"
	phraseNoteUnsaved  Phrase = "note_unsaved"
	phraseNoteUnstored Phrase = "note_unstored"
	phraseNoteRelease  Phrase = "note_release_pending"
	phraseNoteRecheck  Phrase = "note_recheck"
	phraseNoteKept     Phrase = "note_kept"
	phraseTryAgainIn   Phrase = "try_again_in"
	phraseStore        Phrase = "store"
	phraseMissing      Phrase = "missing"
	phraseInput        Phrase = "input"
	phraseKeyInput     Phrase = "license_key_input"

	phraseNoteUnsavedFor Phrase = "note_unsaved.cause"

	// entered makes of a phrase about a license key that about one which was just
	// entered, while another is held. phraseEntered is for what is no fault of the key.
	entered       Phrase = ".entered"
	phraseEntered Phrase = "entered"

	// Where a situation is known better than the reason alone tells.
	noPermissionFile     Phrase = "no_permission.file"
	noPermissionRoot     Phrase = "no_permission.root"
	noPermissionOther    Phrase = "no_permission.other"
	noPermissionRepairDo Phrase = "no_permission.repair.do"
	busyHere             Phrase = "busy.here"
	busyHereDo           Phrase = "busy.here.do"
	storeFolder          Phrase = "unreadable_state.folder"
	storeFolderDo        Phrase = "unreadable_state.folder.do"
	unreadableDiskDo     Phrase = "unreadable_state.disk.do"

	inDoubtHere         Phrase = "in_doubt.here"
	inDoubtHereDo       Phrase = "in_doubt.here.do"
	inDoubtUsesDo       Phrase = "in_doubt.uses.do"
	inDoubtPageDo       Phrase = "in_doubt.page.do"
	unknownHeld         Phrase = "unknown_key.held"
	unknownHeldDo       Phrase = "unknown_key.held.do"
	limitEarlierDo      Phrase = "activation_limit.earlier.do"
	limitUnreadableDo   Phrase = "activation_limit.unreadable.do"
	unreadableSeatDo    Phrase = "unreadable_state.seat.do"
	movingHere          Phrase = "other_machine.moving"
	movingHereDo        Phrase = "other_machine.moving.do"
	seatNeeded          Phrase = "seat_released.needed"
	callEnded           Phrase = "ended"
	callEndedDo         Phrase = "ended.do"
	serverKeysDo        Phrase = "misconfigured.server.do"
	serverStateDo       Phrase = "misconfigured.customers.do"
	serverFieldDo       Phrase = "misconfigured.field.do"
	serverUnreachableDo Phrase = "unreachable.server.do"
	serverFailed        Phrase = "unreachable.failed"
	serverFailedDo      Phrase = "unreachable.failed.do"
	serverSeat          Phrase = "seat_released.server"
	serverSeatDo        Phrase = "seat_released.server.do"
	// What keeps the license server from being reached.
	causeTimeout      Phrase = "unreachable.timeout"
	causeName         Phrase = "unreachable.name"
	causeRefused      Phrase = "unreachable.refused"
	causeClock        Phrase = "unreachable.clock"
	causeIntercepted  Phrase = "unreachable.intercepted"
	causePage         Phrase = "unreachable.page"
	causeProxy        Phrase = "unreachable.proxy"
	causeProxyLogin   Phrase = "unreachable.proxy_login"
	causeProxySetting Phrase = "unreachable.proxy_setting"

	customersClosed   Phrase = "closed.customers"
	customersClosedDo Phrase = "closed.customers.do"
)

var english = map[Phrase]string{
	phraseActive:       "Licensed.",
	phraseActiveUntil:  "Licensed until {until}.",
	phraseGraceDue:     "Licensed; a check with the license server is due. Without an answer the license lasts until {until}.",
	phraseGrace:        "Licensed, but {what}. {do} Without an answer the license lasts until {until}.",
	phraseRefused:      "{what}. {do}",
	phraseNoteInDoubt:  "An attempt to activate a license key was cut short, and may have taken an activation of it.",
	phraseNoteUnsaved:  "The last check could not be saved: check that the folder for settings can be written, and that the disk is not full.",
	phraseNoteUnstored: "The license could not be saved, and ends with the program: check that the folder for settings can be written, and that the disk is not full.",
	phraseNoteRelease:  "The activation of an earlier license is to be given back when the license server can be reached.",
	phraseTryAgainIn:   "Try again in {wait}.",
	phraseMissing:      "Your purchase isn't ready yet. Reload this page in a minute, or contact support if that doesn't help.",
	phraseStore:        "The license cannot be kept on this computer. Check that the folder for settings can be written, and that the disk is not full.",
	phraseInput:        "The {field} {problem}.",
	phraseKeyInput:     "The license key {problem}.",

	Phrase(ErrUnknownKey):                     "the license server does not know this license key",
	Phrase(ErrUnknownKey) + ".do":             "Check it for typing errors, capital letters included. A key bought in the last two minutes may not be ready yet: try again shortly. If it was replaced, enter the new one.",
	Phrase(ErrInactive):                       "this license key is no longer active",
	Phrase(ErrInactive) + ".do":               "The license was revoked or disabled. Renew the subscription, or ask the vendor.",
	Phrase(ErrExpired):                        "this license has expired",
	Phrase(ErrExpired) + ".do":                "Renew the license, then check again.",
	Phrase(ErrSeatReleased):                   "this computer's activation was released",
	Phrase(ErrSeatReleased) + ".do":           "Activate the license key again to use it on this computer.",
	Phrase(ErrConditionsMismatch):             "this license was activated under other conditions",
	Phrase(ErrConditionsMismatch) + ".do":     "Activate the license key again on this computer, or ask the vendor.",
	Phrase(ErrWrongBenefit):                   "this license key is for another product",
	Phrase(ErrWrongBenefit) + ".do":           "Enter the key that came with this program.",
	Phrase(ErrWrongCustomer):                  "this license key belongs to another customer",
	Phrase(ErrWrongCustomer) + ".do":          "Enter a license key of your own account.",
	Phrase(ErrActivationLimit):                "every activation of this license key is in use",
	Phrase(ErrActivationLimit) + ".do":        "Release it on another computer or in the vendor's customer portal, then activate again.",
	Phrase(ErrActivationsUnsupported):         "this license key cannot be activated on a computer",
	Phrase(ErrActivationsUnsupported) + ".do": "Tell the vendor that it has no activation limit.",
	Phrase(ErrUsageExceeded):                  "not enough uses are left on this license key",
	Phrase(ErrUsageExceeded) + ".do":          "Use less at once, wait for the allowance to be renewed, or buy more.",
	Phrase(ErrDenied):                         "the license server refused this license key",
	Phrase(ErrDenied) + ".do":                 "Ask the vendor.",
	Phrase(ErrUnreachable):                    "the license server could not be reached",
	Phrase(ErrUnreachable) + ".do":            "Check the internet connection. On a Wi-Fi that asks for a login, log in first.",
	Phrase(ErrRateLimited):                    "the license server asked for a pause",
	Phrase(ErrRateLimited) + ".do":            "Wait a minute, then try again.",
	Phrase(ErrMisconfigured):                  "the license server refused the request itself",
	Phrase(ErrMisconfigured) + ".do":          "This is a fault of the program's setup and says nothing of your license: tell the vendor.",
	Phrase(ErrInDoubt):                        "the request was sent, but its answer was lost",
	Phrase(ErrInDoubt) + ".do":                "Check the internet connection and try again. If no activation is left then, release the lost one in the vendor's customer portal.",
	Phrase(ErrGraceEnded):                     "the license could not be checked for too long",
	Phrase(ErrGraceEnded) + ".do":             "Connect to the internet and check again.",
	Phrase(ErrClockSetBack):                   "your computer's clock is behind a time it has shown before",
	Phrase(ErrClockSetBack) + ".do":           "It was ahead then, or has been set back since. Connect to the internet and check again: that settles it. Set the clock right if it is wrong.",
	Phrase(ErrOtherMachine):                   "this license is activated on another computer",
	Phrase(ErrOtherMachine) + ".do":           "Move it to this computer, which deactivates the other one, or activate a license key here.",
	Phrase(ErrUnreadableState):                "the stored license could not be read",
	Phrase(ErrUnreadableState) + ".do":        "Start the program again. If that does not help, enter the license key again; a damaged file was kept aside.",
	Phrase(ErrNoLicense):                      "no license key has been activated",
	Phrase(ErrNoLicense) + ".do":              "Enter your license key.",
	Phrase(ErrNoPermission):                   "this program isn't allowed to use its license file",
	Phrase(ErrNoPermission) + ".do":           "Give your user account access to the file and its folder, then try again.",
	Phrase(ErrBusy):                           "another copy of this program is busy with the license",
	Phrase(ErrBusy) + ".do":                   "Wait a moment, then try again. If that doesn't help, quit the other copies of this program.",
	Phrase(ErrClosed):                         "the gate is closed",
	Phrase(ErrClosed) + ".do":                 "Open a new one.",

	phraseNoteUnsavedFor: "The last check couldn't be saved: {what}. {do}",
	phraseNoteRecheck:    "A check just now failed: {what}. {do}",
	phraseNoteKept:       "Your current license stays unchanged.",

	phraseEntered:            "that key couldn't be activated: {what}",
	phraseKeyInput + entered: "That key {problem}.",
	unknownHeld + entered:    "that key is no longer known to the license server",
	noPermissionFile:         "this program isn't allowed to use {file}",
	noPermissionRoot:         "this program isn't allowed to use {file}, which belongs to the administrator (root)",
	noPermissionOther:        "this program isn't allowed to use {file}, which belongs to another user",
	noPermissionRepairDo:     "To make it yours again, run “sudo chown -R $USER {file}” in a terminal, then start the program again.",
	busyHere:                 "an earlier request is still under way",
	busyHereDo:               "Wait until it's done, then try again.",
	storeFolder:              "there's a folder where the license file should be: {file}",
	storeFolderDo:            "Move that folder away, then start the program again.",
	unreadableDiskDo:         "Start the program again. If that doesn't help, check the disk for errors, or contact support.",

	Phrase(ErrUnknownKey) + entered:                     "the license server doesn't know that key",
	Phrase(ErrUnknownKey) + entered + ".do":             "Check it for typing errors, capital letters included. If you've just bought it, it may not be ready yet: try again in two minutes.",
	Phrase(ErrInactive) + entered:                       "that key is no longer active",
	Phrase(ErrInactive) + entered + ".do":               "It was revoked or disabled. Renew its subscription, or enter another key.",
	Phrase(ErrExpired) + entered:                        "that key has expired",
	Phrase(ErrExpired) + entered + ".do":                "Renew it, or enter another key.",
	Phrase(ErrSeatReleased) + entered:                   "that key's activation on this computer is gone",
	Phrase(ErrSeatReleased) + entered + ".do":           "Activate that key again to use it here.",
	Phrase(ErrConditionsMismatch) + entered:             "that key was activated on a different setup",
	Phrase(ErrConditionsMismatch) + entered + ".do":     "Activate that key again, or contact support.",
	Phrase(ErrWrongBenefit) + entered:                   "that key is for another product",
	Phrase(ErrWrongBenefit) + entered + ".do":           "Enter a key that came with this program.",
	Phrase(ErrWrongCustomer) + entered:                  "that key belongs to another customer",
	Phrase(ErrWrongCustomer) + entered + ".do":          "Enter a license key of your own account.",
	Phrase(ErrActivationLimit) + entered:                "that key is already in use on the maximum number of computers",
	Phrase(ErrActivationLimit) + entered + ".do":        "Deactivate one of them, or do so in the vendor's customer portal, then try again.",
	Phrase(ErrActivationsUnsupported) + entered:         "that key isn't set up for activation",
	Phrase(ErrActivationsUnsupported) + entered + ".do": "Please contact support.",
	Phrase(ErrDenied) + entered:                         "the license server refused that key",
	Phrase(ErrDenied) + entered + ".do":                 "Please contact support.",
	Phrase(ErrInDoubt) + entered:                        "we couldn't confirm the activation of that key",

	inDoubtHere:         "an activation was begun on this computer, and how it ended is not known",
	inDoubtHereDo:       "Enter the license key again. If no activation of it is left then, release the lost one in the vendor's customer portal.",
	inDoubtUsesDo:       "The uses may have been counted or not: trying again can count them twice.",
	inDoubtPageDo:       "A Wi-Fi's login page or a proxy has answered instead of the license server: log in to the Wi-Fi, then activate again. If no activation is left then, release the lost one in the vendor's customer portal.",
	unknownHeld:         "this license key is no longer known",
	unknownHeldDo:       "If it was replaced, enter the new one; otherwise ask the vendor.",
	limitEarlierDo:      "An earlier attempt from this computer, whose answer was lost, may hold one of them. Release it in the vendor's customer portal, then activate again.",
	limitUnreadableDo:   "The license that could not be read on this computer may hold one of them. Release it in the vendor's customer portal, then activate again.",
	movingHere:          "the license is still being moved to this computer",
	movingHereDo:        "Connect to the internet and check again to finish.",
	seatNeeded:          "this license key now has to be activated on each computer",
	unreadableSeatDo:    "Its activation could not be given back: release it in the vendor's customer portal.",
	callEnded:           "the call was ended before an answer came",
	callEndedDo:         "Try again. A request that had left is finished in the background.",
	serverKeysDo:        "Check the access token: it must be current, of this organization, and have the scopes license_keys:read and license_keys:write.",
	serverStateDo:       "Check the access token: it must be current, of this organization, and have the scope customers:read.",
	serverFieldDo:       "Polar does not take a field as it was sent; its answer says which. If that is not an id or a key of yours, look for a newer version of this library.",
	serverUnreachableDo: "Try again. If it lasts, look for a proxy or a firewall in between, and at Polar's status page.",
	serverFailed:        "the license server has a problem of its own",
	serverFailedDo:      "Try again in a few minutes. Nothing is wrong with this computer or with the license.",

	causeTimeout:              "the license server could not be reached in time",
	causeTimeout + ".do":      "Check the internet connection, and that no firewall or proxy blocks this program. Then try again.",
	causeName:                 "the license server could not be reached: its address was not found",
	causeName + ".do":         "Check the internet connection. If other programs are online, something blocks the address of the license server, such as a firewall or an ad blocker.",
	causeRefused:              "the license server could not be reached: the connection was refused",
	causeRefused + ".do":      "Check the internet connection, and that no firewall or security software blocks this program. Then try again.",
	causeClock:                "the license server's certificate does not fit the date of this computer",
	causeClock + ".do":        "Set the date and time of this computer right, then try again.",
	causeIntercepted:          "the connection to the license server is not secure: something answers in its place",
	causeIntercepted + ".do":  "Security software or a proxy may be intercepting it: exclude this program, or ask your network administrator. On a Wi-Fi that asks for a login, log in first.",
	causePage:                 "a web page came instead of an answer of the license server",
	causePage + ".do":         "On a Wi-Fi that asks for a login, log in first. Otherwise check the internet connection, and that no proxy or firewall blocks the license server.",
	causeProxy:                "the proxy of this network could not be reached or does not connect",
	causeProxy + ".do":        "Check the proxy settings of this computer, or ask your network administrator.",
	causeProxyLogin:           "the proxy of this network asks for a user name and password",
	causeProxyLogin + ".do":   "Add them to the proxy settings of this computer, or ask your network administrator.",
	causeProxySetting:         "the proxy setting of this computer cannot be read",
	causeProxySetting + ".do": "Correct the environment variable HTTPS_PROXY or HTTP_PROXY, for example to http://proxy.example:3128, or ask your network administrator.",

	serverSeat:        "the activation was released, or never existed",
	serverSeatDo:      "Activate the license key again.",
	customersClosed:   "the customers are closed",
	customersClosedDo: "Make new ones.",
}
