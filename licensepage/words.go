package licensepage

import (
	"maps"
	"strings"

	"github.com/polargate/polargate"
)

// Phrases returns every text of the page, in English, by name. The map is the caller's own. A
// translation has them among the Phrases of a polargate.Language, and what is missing there
// stays English. A phrase may use what its English has in braces: {until} and {time} are
// times, {wait} is a duration, {key} is a masked license key, {computer} the name of this
// computer, {product} that of the program, {message} a sentence of package polargate, {button}
// the name of a button, {portal} a link named "page.portal", {page} a link to the vendor's page, {used}, {limit} and {n} are numbers.
func Phrases() map[polargate.Phrase]string { return maps.Clone(english) }

var english = map[polargate.Phrase]string{
	// What state the license is in.
	"page.active":         "Licensed",
	"page.grace":          "Working offline",
	"page.grace.file":     "Your license file has to be renewed",
	"page.no_license":     "No license yet",
	"page.perpetual":      "Licensed for this version",
	"page.trial":          "Trial",
	"page.trial_ended":    "Your trial has ended",
	"page.in_doubt":       "Activation not confirmed",
	"page.no_permission":  "Your license can't be opened",
	"page.expired":        "Your license has expired",
	"page.inactive":       "Your license is inactive",
	"page.seat_released":  "This computer was deactivated",
	"page.unknown_key":    "License key no longer recognized",
	"page.wrong_benefit":  "This key is for another product",
	"page.grace_ended":    "Not verified for too long",
	"page.unreachable":    "Your license couldn't be verified",
	"page.clock_set_back": "This computer's clock has been set back",
	"page.bad_lease":      "Your license file can't be used any more",
	"page.not_covered":    "Your license doesn't include this version",
	"page.other_machine":  "This license belongs to another computer",
	"page.locked":         "Your license is locked",
	"page.activating":     "Activating…",
	"page.waiting":        "Waiting for your purchase…",
	"page.asking":         "Activate this license key?",

	// What that means.
	"page.active.about":     "Everything you bought is unlocked.",
	"page.grace.about":      "Everything works until {until}. Connect to the internet before then to keep using this program.",
	"page.activating.about": "Contacting the license server…",
	"page.waiting.about":    "A key can take up to two minutes to work after you buy it. We'll keep trying.",
	"page.waiting.left":     "Time left:",
	"page.asking.about":     "A link wants to activate the license key {key} on this computer. Continue only if you opened that link yourself.",
	"page.asking.replaces":  "The key takes the place of your current license.",

	// Facts about the license.
	"page.fact.key":      "License key",
	"page.fact.license":  "License",
	"page.fact.file":     "from a file",
	"page.fact.computer": "This computer",
	"page.fact.features": "Features",
	"page.fact.expires":  "Expires",
	"page.fact.trial":    "Trial until",
	"page.fact.seats":    "Computers",
	"page.fact.verified": "Last verified",
	"page.fact.clock":    "This computer's clock",
	"page.fact.uses":     "Uses",
	"page.uses":          "{used} of {limit}",
	"page.seats":         "up to {n}",
	"page.today":         "{time} (today)",
	"page.tomorrow":      "{time} (tomorrow)",
	"page.in":            "{time} (in {wait})",

	// What a person can do.
	"page.key":              "License key",
	"page.key.where":        "You'll find it in your purchase email.",
	"page.key.where.portal": "You'll find it in your purchase email and in {portal}.",
	"page.key.sends":        "Activating sends this computer's name, “{computer}”, so that you can tell your computers apart.",
	"page.portal":           "the customer portal",
	"page.do.activate":      "Activate",
	"page.do.again":         "Activate it again",
	"page.do.check":         "Check now",
	"page.do.wait":          "I just bought this key: keep trying",
	"page.do.cancel":        "Stop waiting",
	"page.do.move":          "Move it to this computer",
	"page.do.release":       "Deactivate it now",
	"page.do.refuse":        "Don't activate",
	"page.do.file":          "Get a new license file",
	"page.do.offline":       "Activate without a network",
	"page.do.receipt":       "Confirm the deactivation without a network",
	"page.do.buy":           "Buy a license",
	"page.do.renew":         "Renew your license",
	"page.do.portal":        "Open the customer portal",
	"page.do.support":       "Contact support",
	"page.do.home":          "Back to {product}",
	"page.full":             "To deactivate one, open this program on a computer you no longer use and choose “{button}”.",
	"page.full.portal":      "To deactivate one, open this program on a computer you no longer use and choose “{button}”, or do it in {portal}.",
	"page.manage":           "Manage your license",
	"page.another":          "Enter another license key",
	"page.deactivate":       "Deactivate this computer",
	"page.deactivate.about": "You can then use the license key on another computer. What it unlocks will be locked here.",
	"page.do.deactivate":    "Deactivate {computer}",

	// What came of it.
	"page.done.activated":   "This computer is activated.",
	"page.done.stopped":     "Stopped waiting.",
	"page.done.verified":    "Verified just now.",
	"page.done.moved":       "Your license was moved to this computer.",
	"page.done.deactivated": "This computer is deactivated. You can use the license key on another computer.",
	"page.still":            "Your license still works. {message}",
	"page.link":             "The page couldn't be opened. Its address is {page}",
	"page.no_answer":        "The program doesn't answer. If you closed it, start it again.",

	// A computer without a network.
	"page.offline":             "Activate without a network",
	"page.offline.about":       "1. Take this request to {page}, on a computer or phone that has a network. You'll need your license key there.",
	"page.offline.vendor":      "the vendor's license page",
	"page.offline.request":     "Request",
	"page.offline.request.qr":  "QR code of the request. Scan it with a phone.",
	"page.offline.save":        "Save as a file",
	"page.offline.copy":        "Copy",
	"page.offline.copied":      "Copied",
	"page.offline.load":        "2. Load the license file",
	"page.offline.file":        "The file you got for the request",
	"page.offline.text":        "Or its text",
	"page.offline.unreadable":  "The file couldn't be read. Choose it again, or paste its text.",
	"page.offline.back":        "Back to your license",
	"page.receipt":             "Confirm the deactivation",
	"page.receipt.about":       "This computer is deactivated. Take this receipt to {page}, so that you can use your license key on another computer.",
	"page.receipt.text":        "Receipt",
	"page.receipt.qr":          "QR code of the receipt. Scan it with a phone.",
	"page.refused.address":     "This isn't the address that the program opened.",
	"page.refused.once":        "Open this page from the program. Its address works once: if you've used it, open the page again.",
	"page.refused.other_site":  "Another website asked for this, so nothing was done. Open this page from the program.",
	"page.refused.unavailable": "The page couldn't be shown. Please restart the program.",
}

// text is a phrase with its placeholders replaced; they are given as old and new in turn.
func (p *Page) text(name polargate.Phrase, fill ...string) string {
	text := english[name]
	if l := p.options.Language; l != nil {
		if own, ok := l.Phrases[name]; ok {
			text = own
		}
	}
	if len(fill) > 0 {
		text = strings.NewReplacer(fill...).Replace(text)
	}
	return text
}

// around is a phrase with a link in it: what stands before the link, and what behind.
type around struct{ Before, After string }

func (p *Page) around(name polargate.Phrase, link string, fill ...string) around {
	before, after, _ := strings.Cut(p.text(name, fill...), link)
	return around{before, after}
}
