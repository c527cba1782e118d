package polargate

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/spoken"
)

// Phrase names a text that a person can read. The word of each [Reason] is one: it
// says what happened, and the same name with ".do" at its end says what to do about
// it, as in "expired" and "expired.do". [Phrases] returns them all. Names don't
// change; later versions may have more.
type Phrase string

// Language is how a program talks to a person about the license, in Status.Message
// and Language.Message. nil and the zero value are English.
type Language struct {
	// Tag names the language as web pages do, such as "de" or "pt-BR" (BCP 47). Empty means
	// "en".
	Tag string
	// Phrases replace the English of [Phrases]; what is missing here stays English. Names
	// that begin with "page." are those of package licensepage.
	// A phrase may use what its English has in braces, and need not: {until} is a
	// time, {wait} a duration, {what} and {do} are the phrases of a reason, {file} is
	// a file or folder, {field} and {problem} say, in English, what is wrong with a
	// value, {scope} is what an access token lacks, {place} is where in a license key {char}
	// is, after {n} characters, {version} is the version of a program, {time} and {clock} are
	// figures of a report. {what} starts with a capital letter where it starts a sentence.
	Phrases map[Phrase]string
	// Time writes a time. nil writes "2 January 2006 15:04" in the computer's time
	// zone.
	Time func(time.Time) string
	// Duration writes {wait}, as a person would say it. nil writes English:
	// "a few seconds", "a minute", "10 minutes", "2 hours".
	Duration func(time.Duration) string
}

// Phrases returns every text that a person can read, in English, by name. The map is
// the caller's own. A translation uses the same names.
func Phrases() map[Phrase]string { return maps.Clone(english) }

// Message explains an error of this package to a person: what happened and what to
// do, in whole sentences. It has no status code, address or name of a field in it. It
// names a file or folder only if that isn't the user's own. It is empty for nil, and
// err.Error() for the errors of other packages.
func Message(err error) string { return (*Language)(nil).Message(err) }

// Message is [Message] in this language.
func (l *Language) Message(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[explained](err); ok {
		return e.message(l)
	}
	return err.Error()
}

// explained is an error that can explain itself to a person.
type explained interface {
	error
	message(l *Language) string
}

// worded is an error that knows better than its Reason what happened, and what to do.
// ok is false if it doesn't.
type worded interface {
	error
	ownWords(l *Language) (what, do string, ok bool)
}

func (p Phrase) exists() bool {
	_, ok := english[p]
	return ok
}

// words are what a reason means in a situation: "unknown_key.held" is more exact than
// "unknown_key". A situation that has only one of the two phrases, or is "", leaves
// the other to the reason. A license that wasn't verified for too long always says
// so; the situation is why, and says what to do.
func (l *Language) words(reason, situation Phrase) (what, do string) {
	return l.wordsWith(reason, situation, false)
}

// wordsWith are words that may name the portal in which customers deactivate computers: a
// phrase with ".portal" at its end is the one for that.
func (l *Language) wordsWith(reason, situation Phrase, portal bool) (what, do string) {
	first, second := reason, reason+".do"
	if situation.exists() && reason != graceEnded {
		first = situation
	}
	if (situation + ".do").exists() {
		second = situation + ".do"
	}
	return l.text(first), l.advice(second, portal)
}

// advice is what to do, with the portal in it or without.
func (l *Language) advice(do Phrase, portal bool) string {
	if named := do + inPortal; portal && named.exists() {
		do = named
	}
	return l.text(do)
}

// wordsEntered are those about a key that was just entered while the license of
// another key stays in use. A reason that isn't the key's fault says so.
func (l *Language) wordsEntered(reason, situation Phrase, portal bool) (what, do string) {
	what, do = l.wordsWith(reason, situation, portal)
	switch {
	case (situation + entered).exists():
		what = l.text(situation + entered)
	case !situation.exists() && (reason + entered).exists():
		what = l.text(reason + entered)
	default:
		return l.text(phraseEntered, "{what}", what), do
	}
	if !(situation + ".do").exists() && (reason + entered + ".do").exists() {
		do = l.advice(reason+entered+".do", portal)
	}
	return what, do
}

// sentences are what happened and what to do.
func (l *Language) sentences(what, do string) string {
	return l.text(phraseRefused, "{what}", upperFirst(what), "{do}", do)
}

// unchanged adds that the license in use is still the same.
func (l *Language) unchanged(text string) string {
	return inTurn(text, l.text(phraseNoteKept))
}

// inTurn is one sentence after the other. Chinese and Japanese have no space in between.
func inTurn(text, more string) string {
	if strings.HasSuffix(text, "。") {
		return text + more
	}
	return text + " " + more
}

// text is a phrase with its placeholders replaced; they are given as old and new in turn.
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

// FormatTime writes a time in this language, as messages do.
func (l *Language) FormatTime(t time.Time) string {
	if l != nil && l.Time != nil {
		return l.Time(t)
	}
	return t.Local().Format("2 January 2006 15:04")
}

// FormatDuration writes a duration in this language, as messages do: rounded up, and as a
// person would say it.
func (l *Language) FormatDuration(d time.Duration) string {
	if l != nil && l.Duration != nil {
		return l.Duration(d)
	}
	return inWords(d)
}

// inWords is a duration in English.
func inWords(d time.Duration) string {
	switch n, unit := spoken.Round(d); {
	case unit == spoken.Seconds:
		return count(n, "second", "seconds")
	case unit == spoken.Minutes && n == 1:
		return "a minute"
	case unit == spoken.Minutes:
		return count(n, "minute", "minutes")
	case unit == spoken.Hours && n == 1:
		return "an hour"
	case unit == spoken.Hours:
		return count(n, "hour", "hours")
	case unit == spoken.Days:
		return count(n, "day", "days")
	}
	return "a few seconds"
}

// count is a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// copied is a copy that the program can't change.
func (l *Language) copied() *Language {
	if l == nil {
		return nil
	}
	return &Language{l.Tag, maps.Clone(l.Phrases), l.Time, l.Duration}
}

// hasUnknownPhrase reports whether a phrase is translated that doesn't exist. Those of the
// license page are known to its package, which a program need not have.
func (l *Language) hasUnknownPhrase() bool {
	return l != nil && slices.ContainsFunc(slices.Collect(maps.Keys(l.Phrases)), func(p Phrase) bool {
		return !p.exists() && !strings.HasPrefix(string(p), "page.")
	})
}

func upperFirst(s string) string {
	r, size := utf8.DecodeRuneInString(s)
	if !unicode.IsLower(r) {
		return s
	}
	return string(unicode.ToUpper(r)) + s[size:]
}

// inTheWay reports whether connecting to the internet is not enough.
func (p Phrase) inTheWay() bool {
	switch p {
	case causeClock, causeIntercepted, causeProxy, causeProxyLogin, causeProxySetting:
		return true
	}
	return false
}

const (
	phraseActive         Phrase = "active"
	phraseActiveUntil    Phrase = "active_until"
	phraseGraceDue       Phrase = "grace_due"
	phraseGrace          Phrase = "grace"
	phraseGraceCause     Phrase = "grace.cause"
	phraseGraceFile      Phrase = "grace.file"
	phraseTrial          Phrase = "trial"
	phraseTrialKey       Phrase = "trial.key"
	phrasePerpetual      Phrase = "perpetual"
	phraseActiveReminder Phrase = "active_until.reminder"
	phraseNoteEnds       Phrase = "note_ends"
	phraseRefused        Phrase = "refused"
	phraseNoteInDoubt    Phrase = "note_in_doubt"
	phraseNoteUnsaved    Phrase = "note_unsaved"
	phraseNoteUnsavedFor Phrase = "note_unsaved.cause"
	phraseNoteUnstored   Phrase = "note_unstored"
	phraseNoteRelease    Phrase = "note_release_pending"
	phraseNoteRecheck    Phrase = "note_recheck"
	phraseNoteKept       Phrase = "note_kept"
	phraseTryAgainIn     Phrase = "try_again_in"
	phraseStore          Phrase = "store"
	phraseMissing        Phrase = "missing"
	graceEnded           Phrase = "grace_ended"
	phraseInput          Phrase = "input"
	phraseKeyInput       Phrase = "license_key_input"
	phraseKey            Phrase = "license_key."
	phraseKeyAfter       Phrase = "license_key.after"
	phraseKeyAfterOne    Phrase = "license_key.after_one"

	// inPortal at the end of an advice makes it the one for programs whose customers can
	// deactivate their computers in a portal. unlimited at the end of a phrase about the grace
	// period makes it the one for a grace period without an end.
	inPortal  Phrase = ".portal"
	unlimited Phrase = ".unlimited"

	// entered at the end of a phrase about a license key makes it the one about a key
	// that was just entered, while another one stays in use. phraseEntered is for
	// what isn't the key's fault.
	entered       Phrase = ".entered"
	phraseEntered Phrase = "entered"
)

// Situations: what is known more exactly than a Reason tells.
const (
	noPermissionFile   Phrase = "no_permission.file"
	noPermissionRoot   Phrase = "no_permission.root"
	noPermissionOther  Phrase = "no_permission.other"
	noPermissionRepair Phrase = "no_permission.repair"
	noPermissionShared Phrase = "no_permission.shared"
	noFolder           Phrase = "unreadable_state.home"
	busyHere           Phrase = "busy.here"
	storeFolder        Phrase = "unreadable_state.folder"
	unreadableDisk     Phrase = "unreadable_state.disk"

	// callEnded: the caller gave up.
	callEnded   Phrase = "ended"
	inDoubtHere Phrase = "in_doubt.here"
	inDoubtUses Phrase = "in_doubt.uses"
	inDoubtPage Phrase = "in_doubt.page"
	// unknownHeld: the key was activated once, so it isn't mistyped.
	unknownHeld Phrase = "unknown_key.held"
	// expiredSubscription: Polar never revives the key of a subscription that ended.
	expiredSubscription Phrase = "expired.subscription"
	limitEarlier        Phrase = "activation_limit.earlier"
	limitUnreadable     Phrase = "activation_limit.unreadable"
	unreadableSeat      Phrase = "unreadable_state.seat"
	movingHere          Phrase = "other_machine.moving"
	seatNeeded          Phrase = "seat_released.needed"

	// trialUnstored: a trial couldn't begin, because it couldn't be stored.
	trialUnstored Phrase = "no_license.trial"
	// trialUnasked: a trial couldn't begin, because the license server couldn't be asked.
	trialUnasked Phrase = "no_license.trial_offline"

	// What a license covers that doesn't cover this version.
	coversUntil   Phrase = "not_covered.until"
	coversVersion Phrase = "not_covered.version"

	// A license that came in a file.
	byFile        Phrase = "grace_ended.file"
	fileElsewhere Phrase = "other_machine.file"
	fileOlder     Phrase = "bad_lease.older"
	fileUpdate    Phrase = "bad_lease.update"
	fileExpired   Phrase = "expired.file"
	fileClock     Phrase = "clock_set_back.file"
	usesByFile    Phrase = "unreachable.file"
	limitPool     Phrase = "activation_limit.pool"

	// For whoever runs a server, in a log.
	serverKeys        Phrase = "misconfigured.server"
	serverState       Phrase = "misconfigured.customers"
	serverLists       Phrase = "misconfigured.lists"
	serverField       Phrase = "misconfigured.field"
	serverScope       Phrase = "misconfigured.scope"
	serverSession     Phrase = "misconfigured.session"
	serverKeyID       Phrase = "unknown_key.id"
	serverRotated     Phrase = "in_doubt.rotated"
	serverSeatInDoubt Phrase = "in_doubt.assigned"
	serverRefused     Phrase = "denied.server"
	serverCustomer    Phrase = "unknown_customer.server"
	serverMember      Phrase = "unknown_customer.member"
	serverTeam        Phrase = "misconfigured.team"
	serverNoMembers   Phrase = "misconfigured.members"
	serverUnreachable Phrase = "unreachable.server"
	serverSeat        Phrase = "seat_released.server"
	customersClosed   Phrase = "closed.customers"

	// Why the license server can't be reached.
	serverFailed      Phrase = "unreachable.failed"
	causeTimeout      Phrase = "unreachable.timeout"
	causeName         Phrase = "unreachable.name"
	causeRefused      Phrase = "unreachable.refused"
	causeClock        Phrase = "unreachable.clock"
	causeIntercepted  Phrase = "unreachable.intercepted"
	causePage         Phrase = "unreachable.page"
	causeProxy        Phrase = "unreachable.proxy"
	causeProxyLogin   Phrase = "unreachable.proxy_login"
	causeProxySetting Phrase = "unreachable.proxy_setting"
)

// english has every text for people. The phrases that say what happened start with a small
// letter, because they may follow a colon. testdata/messages.txt shows the texts in use.
var english = map[Phrase]string{
	// A license that may be used.
	"active":                "Licensed.",
	"active_until":          "Licensed until {until}.",
	"grace":                 "Working offline. Connect before {until} to keep using this program.",
	"grace.cause":           "We couldn't verify your license: {what}. {do} You can keep using this program until {until}.",
	"grace.file":            "Your license file has to be renewed. Load a new one before {until} to keep using this program.",
	"trial":                 "Trial until {until}. To keep using this program after that, activate a license key.",
	"trial.key":             "Trial until {until}. We'll verify your license when you're online.",
	"active_until.reminder": "Licensed until {until}. Renew your license before then to keep using this program.",
	"note_ends":             "Your license ends on {until}. Renew it before then to keep using this program.",
	"perpetual":             "Your license has ended, but you can keep using this version of the program. Renew your license to get newer versions.",
	"grace_due":             "We'll recheck your license when you're online. Connect before {until} to keep using this program.",
	"note_in_doubt":         "An earlier activation didn't finish. The license key may count it as a computer in use.",
	"note_release_pending":  "We'll deactivate your previous license once you're online.",
	"note_unsaved":          "We couldn't save the last check of your license. Make sure that this program can write to its settings folder and that the disk isn't full.",
	"note_unsaved.cause":    "We couldn't save the last check of your license: {what}. {do}",
	"note_unstored":         "Your license couldn't be saved and will be lost when you quit. Make sure that this program can write to its settings folder and that the disk isn't full.",

	// The same with a grace period that has no end.
	"grace.unlimited":       "Working offline. You can keep using this program.",
	"grace.cause.unlimited": "We couldn't verify your license: {what}. {do} You can keep using this program in the meantime.",
	"grace_due.unlimited":   "We'll recheck your license when you're online.",

	// Everything else: what happened, and what to do.
	"refused":                   "{what}. {do}",
	"try_again_in":              "Try again in {wait}.",
	"note_recheck":              "We couldn't recheck it just now: {what}. {do}",
	"note_kept":                 "Your current license is unchanged.",
	"entered":                   "that key couldn't be activated: {what}",
	"input":                     "The {field} {problem}.",
	"license_key_input":         "The license key {problem}.",
	"license_key_input.entered": "That key {problem}.",
	"missing":                   "Your purchase isn't ready yet. Reload this page in a minute, or contact support if that doesn't help.",
	"store":                     "Your license can't be saved on this computer. Make sure that this program can write to its settings folder and that the disk isn't full.",

	// What is wrong with a text that was entered as a license key: behind "The license key".
	"license_key.empty":      "is empty: paste it from your purchase email or the customer portal",
	"license_key.too_long":   "is too long: copy only the key from your purchase email",
	"license_key.masked":     "is hidden behind asterisks: copy the whole key from your purchase email or the customer portal",
	"license_key.two":        "is more than one key: enter only one",
	"license_key.behind":     "is followed by something else {place}: enter only the key",
	"license_key.look_alike": "has {char} {place}, which only looks like a Latin letter: copy the key from your purchase email instead of typing it",
	"license_key.line_break": "has a line break {place}, which doesn't belong in a key: copy only the key from your purchase email",
	"license_key.tab":        "has a tab {place}, which doesn't belong in a key: copy only the key from your purchase email",
	"license_key.control":    "has a control character ({char}) {place}, which doesn't belong in a key: copy only the key from your purchase email",
	"license_key.bytes":      "has bytes that are no text {place}, which doesn't belong in a key: copy only the key from your purchase email",
	"license_key.colon":      "has a colon {place}: enter only the key, without what comes before it",
	"license_key.space":      "has a space {place}, on one side of a dash: if a line was broken there, leave it out",
	"license_key.characters": "has characters that no key has: copy only the key from your purchase email",
	"license_key.after_one":  "after 1 character",
	"license_key.after":      "after {n} characters",

	// The license key is refused.
	"unknown_key":                    "the license server doesn't recognize this license key",
	"unknown_key.do":                 "Check it for typing errors, including capital letters. If you've just bought it, try again in two minutes. If it was replaced, enter the new key.",
	"unknown_key.held":               "the license server no longer recognizes this license key",
	"unknown_key.held.do":            "If it was replaced, enter the new key. Otherwise, please contact support.",
	"inactive":                       "this license key is no longer active",
	"inactive.do":                    "If your subscription has ended, subscribe again and enter the new key. Otherwise, please contact support.",
	"expired":                        "this license has expired",
	"expired.do":                     "Renew it, then check again.",
	"expired.subscription":           "your subscription has ended",
	"expired.subscription.do":        "Subscribe again, then enter the new key.",
	"seat_released":                  "this computer was deactivated",
	"seat_released.do":               "Activate your license key again to use it on this computer.",
	"seat_released.needed":           "this license key now has to be activated on each computer",
	"seat_released.needed.do":        "Activate it on this one to keep using it.",
	"conditions_mismatch":            "this license was activated on a different setup",
	"conditions_mismatch.do":         "Activate your license key again on this computer, or contact support.",
	"wrong_benefit":                  "this license key is for another product",
	"wrong_benefit.do":               "Enter the key you received for this program.",
	"wrong_customer":                 "this license key belongs to another customer",
	"wrong_customer.do":              "Enter a license key from your own account.",
	"activation_limit":               "this key is already in use on the maximum number of computers",
	"activation_limit.do":            "Deactivate one of them, then try again.",
	"activation_limit.earlier.do":    "An earlier attempt on this computer may count as one of them. Deactivate another one and try again, or contact support.",
	"activation_limit.unreadable.do": "This computer may be one of them, because its saved license couldn't be read. Deactivate another one and try again, or contact support.",
	"activation_limit.pool":          "this license is in use on the maximum number of computers right now",
	"activation_limit.pool.do":       "Close the program on one of them, or try again later.",
	"activations_unsupported":        "this key isn't set up for activation",
	"activations_unsupported.do":     "Please contact support.",
	"usage_exceeded":                 "this license key doesn't have enough uses left",
	"usage_exceeded.do":              "Use fewer at a time, wait until your allowance renews, or buy more.",
	"denied":                         "the license server rejected this license key",
	"denied.do":                      "Please contact support.",

	// A key that was just entered is refused, while another license stays in use.
	"unknown_key.entered":                "the license server doesn't recognize that key",
	"unknown_key.entered.do":             "Check it for typing errors, including capital letters. If you've just bought it, try again in two minutes.",
	"unknown_key.held.entered":           "the license server no longer recognizes that key",
	"inactive.entered":                   "that key is no longer active",
	"inactive.entered.do":                "Enter the key of your current subscription, or contact support.",
	"expired.entered":                    "that key has expired",
	"expired.entered.do":                 "Renew it, or enter another key.",
	"seat_released.entered":              "that key was deactivated on this computer",
	"seat_released.entered.do":           "Activate that key again to use it on this computer.",
	"conditions_mismatch.entered":        "that key was activated on a different setup",
	"conditions_mismatch.entered.do":     "Activate that key again, or contact support.",
	"wrong_benefit.entered":              "that key is for another product",
	"wrong_benefit.entered.do":           "Enter a key you received for this program.",
	"wrong_customer.entered":             "that key belongs to another customer",
	"wrong_customer.entered.do":          "Enter a license key from your own account.",
	"activation_limit.entered":           "that key is already in use on the maximum number of computers",
	"activation_limit.entered.do":        "Deactivate one of them, then try again.",
	"activations_unsupported.entered":    "that key isn't set up for activation",
	"activations_unsupported.entered.do": "Please contact support.",
	"denied.entered":                     "the license server rejected that key",
	"denied.entered.do":                  "Please contact support.",
	"in_doubt.entered":                   "we couldn't confirm the activation of that key",

	// What to do if customers can deactivate their computers in a portal.
	"activation_limit.do.portal":            "Deactivate one, on that computer or in the customer portal, then try again.",
	"activation_limit.earlier.do.portal":    "An earlier attempt on this computer may count as one of them. Deactivate it in the customer portal, then try again.",
	"activation_limit.unreadable.do.portal": "This computer may be one of them, because its saved license couldn't be read. Deactivate it in the customer portal, then try again.",
	"activation_limit.entered.do.portal":    "Deactivate one of them, on that computer or in the customer portal, then try again.",
	"in_doubt.do.portal":                    "Check your internet connection and try again. If the key is then in use on too many computers, deactivate this one in the customer portal.",
	"in_doubt.here.do.portal":               "Enter your license key again. If it's then in use on too many computers, deactivate this one in the customer portal.",
	"in_doubt.page.do.portal":               "A Wi-Fi login page or a proxy answered instead of the license server. Log in to the Wi-Fi, then activate again. If the key is then in use on too many computers, deactivate this one in the customer portal.",
	"unreadable_state.seat.do.portal":       "So this computer couldn't be deactivated. Deactivate it in the customer portal.",

	// The license couldn't be verified.
	"unreachable":                  "the license server couldn't be reached",
	"unreachable.do":               "Check your internet connection. If your Wi-Fi asks you to log in, do that first.",
	"unreachable.timeout":          "the license server didn't answer in time",
	"unreachable.timeout.do":       "Check your internet connection, and make sure that no firewall or proxy blocks this program. Then try again.",
	"unreachable.name":             "the license server's address wasn't found",
	"unreachable.name.do":          "Check your internet connection. If other programs are online, a firewall or an ad blocker may block the license server.",
	"unreachable.refused":          "the connection to the license server was refused",
	"unreachable.refused.do":       "Check your internet connection, and make sure that no firewall or security software blocks this program. Then try again.",
	"unreachable.clock":            "the date on this computer doesn't fit the license server's certificate",
	"unreachable.clock.do":         "Correct the date and time of this computer, then try again.",
	"unreachable.intercepted":      "the connection to the license server isn't secure, because something else answers in its place",
	"unreachable.intercepted.do":   "Security software or a proxy may be intercepting it: exclude this program, or ask your network administrator. If your Wi-Fi asks you to log in, do that first.",
	"unreachable.page":             "a web page answered instead of the license server",
	"unreachable.page.do":          "If your Wi-Fi asks you to log in, do that first. Otherwise, make sure that no proxy or firewall blocks the license server.",
	"unreachable.proxy":            "your network's proxy can't be reached or doesn't connect",
	"unreachable.proxy.do":         "Check the proxy settings of this computer, or ask your network administrator.",
	"unreachable.proxy_login":      "your network's proxy asks for a user name and password",
	"unreachable.proxy_login.do":   "Add them to the proxy settings of this computer, or ask your network administrator.",
	"unreachable.proxy_setting":    "this computer's proxy setting can't be read",
	"unreachable.proxy_setting.do": "Correct the environment variable HTTPS_PROXY or HTTP_PROXY, for example to http://proxy.example:3128, or ask your network administrator.",
	"unreachable.file":             "uses can't be counted with a license from a file",
	"unreachable.file.do":          "Activate your license key over the internet to use this.",
	"unreachable.failed":           "the license server isn't working properly right now",
	"unreachable.failed.do":        "Try again in a few minutes. There's nothing wrong with your computer or your license.",
	"rate_limited":                 "too many requests",
	"rate_limited.do":              "Try again in a minute.",
	"misconfigured":                "the license server rejected this program's request",
	"misconfigured.do":             "There's nothing wrong with your license. Please contact support.",
	"in_doubt":                     "we couldn't confirm the activation",
	"in_doubt.do":                  "Check your internet connection and try again. If the key is then in use on too many computers, please contact support.",
	"in_doubt.here":                "we couldn't confirm an activation on this computer",
	"in_doubt.here.do":             "Enter your license key again. If it's then in use on too many computers, please contact support.",
	"in_doubt.page.do":             "A Wi-Fi login page or a proxy answered instead of the license server. Log in to the Wi-Fi, then activate again. If the key is then in use on too many computers, please contact support.",
	"in_doubt.uses":                "we couldn't confirm that your uses were counted",
	"in_doubt.uses.do":             "They may have been. If you try again, they may be counted twice.",
	"ended":                        "cancelled",
	"ended.do":                     "It may still complete in the background.",
	"grace_ended":                  "this license hasn't been verified for too long",
	"grace_ended.do":               "Connect to the internet, then check again.",
	"clock_set_back":               "your computer's clock has been set back",
	"clock_set_back.do":            "Connect to the internet, then check again. If the clock is wrong, correct it.",

	// The license on this computer.
	"no_license":                  "this program isn't activated yet",
	"no_license.do":               "Enter your license key.",
	"no_license.trial":            "your trial couldn't start, because nothing can be saved on this computer",
	"no_license.trial.do":         "Make sure that this program can write to its settings folder and that the disk isn't full. Then try again, or enter your license key.",
	"no_license.trial_offline":    "your trial couldn't start, because the license server couldn't be reached",
	"no_license.trial_offline.do": "Connect to the internet, then check again. Or enter your license key.",
	"trial_ended":                 "your trial has ended",
	"trial_ended.do":              "Enter a license key to keep using this program.",
	"other_machine":               "this license belongs to another computer",
	"other_machine.do":            "Move it here, which deactivates the other computer, or activate another license key.",
	"other_machine.moving":        "your license is still being moved to this computer",
	"other_machine.moving.do":     "Connect to the internet, then check again to finish.",
	"other_machine.file":          "this license file is for another computer",
	"other_machine.file.do":       "Make a request on this computer, and load the file that you get for it.",
	"bad_lease":                   "this isn't a whole license file for this program",
	"bad_lease.do":                "Load the file itself, or copy all of its text. If that doesn't help, get a new one.",
	"bad_lease.older":             "this license file was replaced by a newer one, or belongs to a license that was deactivated here",
	"bad_lease.older.do":          "Load the newest file, or make a new request.",
	"bad_lease.update":            "this license file was made for another version of this program",
	"bad_lease.update.do":         "Update the program, or get a new license file.",
	"not_covered":                 "your license doesn't include this version of the program",
	"not_covered.do":              "Install an earlier version, or renew your license.",
	"not_covered.until":           "your license includes updates until {until}, and this version is newer",
	"not_covered.until.do":        "Install a version from before then, or renew your license.",
	"not_covered.version":         "your license includes versions up to {version}, and this one is newer",
	"not_covered.version.do":      "Install one of them, or renew your license.",
	"expired.file":                "this license file has expired",
	"expired.file.do":             "Make a new request, and load the file that you get for it.",
	"clock_set_back.file":         "the license file is from a later time than this computer's clock shows",
	"clock_set_back.file.do":      "Set the date and time of this computer, then load the file again.",
	"grace_ended.file.do":         "Make a new request, and load the license file that you get for it.",
	"unreadable_state":            "your saved license couldn't be read",
	"unreadable_state.do":         "Restart the program. If that doesn't help, enter your license key again. A damaged file is set aside, not deleted.",
	"unreadable_state.disk.do":    "Restart the program. If that doesn't help, check the disk for errors, or contact support.",
	"unreadable_state.folder":     "there's a folder where the license file should be: {file}",
	"unreadable_state.folder.do":  "Move that folder away, then restart the program.",
	"unreadable_state.seat.do":    "So this computer couldn't be deactivated. Please contact support to deactivate it.",
	"no_permission":               "this program isn't allowed to use its license file",
	"no_permission.do":            "Give your user account access to the file and its folder, then try again.",
	"no_permission.file":          "this program isn't allowed to use {file}",
	"no_permission.root":          "this program isn't allowed to use {file}, which belongs to the administrator (root)",
	"no_permission.other":         "this program isn't allowed to use {file}, which belongs to another user",
	"no_permission.repair.do":     "To make it yours again, run “sudo chown -R $USER {file}” in a terminal, then restart the program.",
	"no_permission.shared":        "all users of this computer share its license, and only an administrator can change it",
	"no_permission.shared.do":     "Run this program as an administrator to change it, or ask whoever looks after this computer.",
	"unreadable_state.home":       "this program has no folder for its license, because the environment doesn't name a home folder",
	"unreadable_state.home.do":    "Set HOME. For a service of systemd, set StateDirectory.",
	"busy":                        "another copy of this program is using the license",
	"busy.do":                     "Wait a moment, then try again. If that doesn't help, quit the other copies of this program.",
	"busy.here":                   "an earlier request is still running",
	"busy.here.do":                "Wait until it's done, then try again.",
	"closed":                      "the license check was closed",
	"closed.do":                   "Please restart the program.",

	// The report for support: what each line is about, and what it says. States and reasons are
	// as in the code.
	"report.program":        "program",
	"report.time":           "time",
	"report.server":         "server",
	"report.answers":        "answers",
	"report.proxy":          "proxy",
	"report.clock":          "clock",
	"report.pause":          "pause",
	"report.pacing":         "pacing",
	"report.store":          "store",
	"report.owner":          "owner",
	"report.lock":           "lock",
	"report.fingerprint":    "fingerprint",
	"report.license":        "license",
	"report.checked":        "checked",
	"report.grace_until":    "grace until",
	"report.expires":        "expires",
	"report.covers_until":   "covers until",
	"report.trial_until":    "trial until",
	"report.key":            "key",
	"report.activation":     "activation",
	"report.installation":   "installation",
	"report.to_release":     "to release",
	"report.problem":        "problem",
	"report.problems":       "problems",
	"report.none_found":     "none found",
	"report.as_polar":       "as Polar does, after {time}",
	"report.not_asked":      "not asked, or not answered, because of the limit on requests",
	"report.right":          "right",
	"report.ahead":          "{wait} ahead",
	"report.behind":         "{wait} behind",
	"report.wrong_clock":    "This computer's clock is {clock}. Correct it.",
	"report.for_another":    "for another {wait}",
	"report.own_pacing":     "of this process only",
	"report.ago":            "{wait} ago",
	"report.not_saved":      "not saved",
	"report.in_doubt":       "an activation in doubt",
	"report.one_activation": "1 activation",
	"report.activations":    "{n} activations",
	"report.folder":         "the folder {file}",
	"report.memory":         "memory",
	"report.nowhere":        "nowhere",
	"report.own_store":      "a place of the program's own",
	"report.none":           "none",
	"report.unknown":        "unknown",
	"report.unreadable":     "an address that cannot be read",
	"report.this_user":      "this user",
	"report.root":           "root",
	"report.another_user":   "another user",
	"report.free":           "free",
	"report.busy":           "busy",
	"report.not_permitted":  "not permitted",
	"report.not_supported":  "not supported",
	"report.machine_id":     "machine id",
	"report.random":         "random",
	"report.set_by_program": "set by the program",

	// For whoever runs a server.
	"misconfigured.server.do":    "Check the access token: it must be valid, belong to this organization, and have the scopes license_keys:read and license_keys:write.",
	"misconfigured.customers.do": "Check the access token: it must be valid, belong to this organization, and have the scope customers:read.",
	"misconfigured.lists.do":     "Check the access token: it must be valid, belong to this organization, and have the scopes benefits:read, subscriptions:read and customer_meters:read. Until then, Polar is asked about customers one by one.",
	"misconfigured.scope":        "the access token may not do this",
	"misconfigured.scope.do":     "In Polar's settings, give it the scope {scope}, or make a new token that has it.",
	"misconfigured.session":      "the customer's session has ended, or never existed",
	"misconfigured.session.do":   "Make a new one. A session lasts an hour.",
	"unknown_key.id":             "Polar has no license key with this id in this organization",
	"unknown_key.id.do":          "Pass the id as Polar gave it, and check that the access token belongs to the organization of the key.",
	"in_doubt.rotated":           "the license key may have been replaced, but Polar's answer was lost",
	"in_doubt.rotated.do":        "Get the license key by its id: if the key differs, it was replaced. Rotating again would replace it again.",
	"misconfigured.team":         "this customer is a team",
	"misconfigured.team.do":      "Name the member whom it is about, with polargate.Member.",
	"misconfigured.members":      "this organization has no members",
	"misconfigured.members.do":   "Each seat holder is a customer of their own: name them with polargate.ExternalID or CustomerID.",
	"unknown_customer":           "we can't find your account",
	"unknown_customer.do":        "Sign out and in again. If that doesn't help, please contact support.",
	"unknown_customer.server":    "Polar has no such customer in this organization",
	"unknown_customer.server.do": "Check the id, and that the access token belongs to the right organization. Polar makes customers at their first purchase, or when a program makes them.",
	"unknown_customer.member":    "Polar knows the customer, but no member of theirs with this id",
	"unknown_customer.member.do": "Check the member's external id, and whether they were added to the customer.",
	"in_doubt.assigned":          "the assignment may have taken effect, but Polar's answer was lost",
	"in_doubt.assigned.do":       "List the seats of the subscription before you try again.",
	"denied.server":              "Polar refused the request",
	"denied.server.do":           "Polar's own words say why.",
	"misconfigured.field.do":     "Polar rejected a field and says which one. If it isn't an id or a key that you passed, look for a newer version of this library.",
	"unreachable.server.do":      "Try again. If that doesn't help, look for a proxy or firewall in between, and at Polar's status page.",
	"seat_released.server":       "this activation was deactivated, or never existed",
	"seat_released.server.do":    "Activate the license key again.",
	"closed.customers":           "these Customers are closed",
	"closed.customers.do":        "Make new ones with NewCustomers.",
}
