package lease

// A Reason tells why a text is no lease that counts. It is an error itself, so
// that errors.Is(err, lease.ErrExpired) works on what this package returns.
type Reason string

// What is wrong with a text.
const (
	// ErrMalformed: it is not in the format. Damaged, cut off, or something else.
	ErrMalformed Reason = "malformed"
	// ErrUnsupported: its version is not known. It was made for a newer program.
	ErrUnsupported Reason = "unsupported"
	// ErrUnknownSigner: it was signed with a key that is not among the pinned ones.
	ErrUnknownSigner Reason = "unknown_signer"
	// ErrForged: the signature does not fit. Somebody or something changed it.
	ErrForged Reason = "forged"
)

// Why a genuine lease does not count here and now.
const (
	// ErrWrongOrganization: it is of another vendor.
	ErrWrongOrganization Reason = "wrong_organization"
	// ErrOtherMachine: it was issued for another computer.
	ErrOtherMachine Reason = "other_machine"
	// ErrOlder: the program has seen a lease that was issued later.
	ErrOlder Reason = "older"
	// ErrClockBehind: the clock is behind a time that has certainly passed.
	ErrClockBehind Reason = "clock_behind"
	// ErrNotYet: it starts later.
	ErrNotYet Reason = "not_yet"
	// ErrExpired: it has ended, grace included.
	ErrExpired Reason = "expired"
	// ErrNotCovered: the program is newer than the lease covers.
	ErrNotCovered Reason = "not_covered"
)

// words are what is the matter, and what to do about it.
var words = [...]struct {
	reason   Reason
	what, do string
}{
	{ErrMalformed, "the text is damaged or incomplete", "Copy all of it again, or use the file itself."},
	{ErrUnsupported, "it was made for a newer version of this program", "Update the program."},
	{ErrUnknownSigner, "it was signed with a key that this program does not know", "Update the program, or ask for a new lease."},
	{ErrForged, "the signature does not fit the text", "Copy all of it again. If that does not help, ask for a new one."},
	{ErrWrongOrganization, "the lease is of another vendor", "Use the one that was issued for this program."},
	{ErrOtherMachine, "the lease was issued for another computer", "Ask for one on this computer."},
	{ErrOlder, "the lease was replaced by a newer one", "Use the newest, or ask for a new one."},
	{ErrClockBehind, "this computer's clock is behind", "Set date and time right, and try again."},
	{ErrNotYet, "the lease has not started yet", "Wait until it starts."},
	{ErrExpired, "the lease has expired", "Renew it."},
	{ErrNotCovered, "the lease does not cover this version of the program", "Install a version that it covers, or renew it."},
}

func (r Reason) words() (what, do string) {
	for i := range words {
		if words[i].reason == r {
			return words[i].what, words[i].do
		}
	}
	return string(r), ""
}

// Error is the reason as a sentence, without advice.
func (r Reason) Error() string {
	what, _ := r.words()
	return "lease: " + what
}

// Error is a text that is no lease, or a lease that does not count. It never
// carries a license key.
type Error struct {
	// Reason is what errors.Is matches.
	Reason Reason
	// Detail says more, for a developer; may be empty.
	Detail string
}

// Error says what is the matter and what to do.
func (e *Error) Error() string {
	what, do := e.Reason.words()
	if e.Detail != "" {
		what += " (" + e.Detail + ")"
	}
	return "lease: " + what + ". " + do
}

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Reason }

func malformed(detail string) error { return &Error{ErrMalformed, detail} }
