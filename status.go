package polargate

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"time"
)

// State says whether a license lets the program run.
type State string

const (
	// Active: Polar granted it, recently enough.
	Active State = "active"
	// Grace: Polar can't be reached, and the last granted answer still counts.
	Grace State = "grace"
	// Perpetual: the license has ended, but covers this version of the program for good; see
	// Config.Fallback. The Reason says how it ended.
	Perpetual State = "perpetual"
	// Locked: Polar refused it, or the grace period is over.
	Locked State = "locked"
	// InTrial: there is no license yet, and the trial lasts; see Config.Trial.
	InTrial State = "trial"
	// Unlicensed: no license key has been activated on this computer.
	Unlicensed State = "unlicensed"
)

// Source is where a Status, or the answer behind a Decision, came from.
type Source string

const (
	FromNetwork Source = "network" // Polar was asked
	FromDisk    Source = "disk"    // read from the Store
	FromMemory  Source = "memory"  // known from an earlier call
)

// Status is a snapshot of a license. It never changes.
type Status struct {
	// State says whether the program may run; see OK.
	State State
	// Reason is empty if the license is active, or a trial lasts.
	Reason Reason
	// Key prints masked. Key.Reveal returns the text, for example to activate it again.
	// With ErrOtherMachine, it is the key of the other computer's license.
	Key Key
	// Features are the unlocked features, sorted; none unless OK.
	Features []string
	// BenefitID is the benefit that the key belongs to; "" if not known.
	BenefitID string
	// ActivationID is this computer's activation, or its last one if Polar ended it; "" if it
	// has none. LicenseKeyID and CustomerID are Polar's ids of the key and of its owner; "" if
	// not known. With any of them, support finds the customer.
	ActivationID, LicenseKeyID, CustomerID string
	// CheckedAt is when Polar last granted or refused; zero if never.
	CheckedAt time.Time
	// FreshUntil is until when Polar need not be asked again. GraceUntil is until when
	// the license works offline. Each is zero if it doesn't apply, and GraceUntil also if
	// there is no end.
	FreshUntil, GraceUntil time.Time
	// ExpiresAt is when the key ends, as far as that is known: see LicenseKey.EndsAt. It is
	// zero if it has no known end.
	ExpiresAt time.Time
	// TrialUntil is when the trial ends, or ended if that is the Reason; zero otherwise.
	TrialUntil time.Time
	// CoveredUntil is until when the program's releases are covered by a license that has
	// ended or covers so many months of updates, if the State is Perpetual or the Reason is
	// ErrNotCovered; zero otherwise, and if a lease covers versions by number.
	CoveredUntil time.Time
	// Seats says on how many computers the key can be used.
	Seats StatusSeats
	// Usage is how many uses of the key have been counted, and LimitUsage how many there
	// are in all, as Polar last said; Unlimited if there is no limit. Both are 0 if
	// nothing is known.
	Usage, LimitUsage int64
	Source            Source
	// Unsaved: this Status couldn't be stored, and is lost when the program ends. The log
	// says why.
	Unsaved bool
	// InDoubt: an activation was started, and it isn't known how it ended, because the
	// program was killed or the answer lost. Polar may have counted it. This is also set
	// while another process is activating, which can't be told apart.
	InDoubt bool
	// ReleasePending: Polar still counts an activation that this computer has given up,
	// because Polar couldn't be reached. It is deactivated once Polar can be reached: by
	// Check, by Run, or at a later start.
	ReleasePending bool
	// Reminder: the license or the trial ends soon; see Config.RemindBefore.
	Reminder bool
	// Message tells a person what happened and what to do.
	Message string
	// Action is the button to show beside Message. Its Kind is ActionNone if there is
	// nothing to do.
	Action Action

	cause     Phrase // why Polar couldn't be reached last time; "" if that isn't known
	situation Phrase // what is known more exactly than the reason tells; "" if nothing is
	store     error  // why the Store couldn't be read or, if Unsaved, written
	portal    bool   // customers can deactivate computers in a portal
	// subscribed: the key came with a subscription.
	subscribed bool
	reminded   time.Time
	// unconfirmed: Polar hasn't answered yet about an activation that was imported.
	unconfirmed bool
	covers      string // the newest version that a lease covers; "" if it doesn't say
}

// StatusSeats says on how many computers a license key can be used.
type StatusSeats struct {
	// Limit is how many computers can be activated at a time, as Polar last said; 0 if that
	// isn't known, or the key can't be activated.
	Limit int64 `json:"limit"`
}

// explainTrial says why a trial couldn't begin.
func (s *Status) explainTrial(err error) {
	e, asked := err.(*Error)
	switch {
	case !asked:
		s.situation, s.store = trialUnstored, err
	case e.Reason == ErrUnreachable, e.Reason == ErrRateLimited:
		s.situation = trialUnasked
	}
}

// unread is why there is no license: the Store couldn't be read, or no trial stored in it.
func (s Status) unread() error {
	if s.Reason == ErrNoPermission || s.Reason == ErrUnreadableState || s.situation == trialUnstored {
		return s.store
	}
	return nil
}

// message explains a Status to a person. failed is why Polar couldn't verify the
// license since it last did, and inMemory whether nothing of it is stored.
func (s Status) message(l *Language, failed Reason, inMemory bool) string {
	text := s.validity(l, failed)
	if s.InDoubt && s.Reason != ErrInDoubt {
		text = inTurn(text, l.text(phraseNoteInDoubt))
	}
	if s.Reminder && s.State == Grace {
		text = inTurn(text, l.text(phraseNoteEnds, "{until}", l.FormatTime(s.ExpiresAt)))
	}
	if s.ReleasePending {
		text = inTurn(text, l.text(phraseNoteRelease))
	}
	if !s.Unsaved || s.Key.IsZero() {
		return text
	}
	if inMemory {
		return inTurn(text, l.text(phraseNoteUnstored))
	}
	if s.store != nil {
		if what, do, ok := wordsOfStore(l, s.store); ok {
			return inTurn(text, l.text(phraseNoteUnsavedFor, "{what}", what, "{do}", do))
		}
	}
	return inTurn(text, l.text(phraseNoteUnsaved))
}

func (s Status) validity(l *Language, failed Reason) string {
	situation := s.situationSince(failed)
	until, end := l.FormatTime(s.GraceUntil), Phrase("")
	if s.GraceUntil.IsZero() {
		end = unlimited
	}
	switch {
	case s.State == Active && s.ExpiresAt.IsZero():
		return l.text(phraseActive)
	case s.State == Active && s.Reminder:
		return l.text(phraseActiveReminder, "{until}", l.FormatTime(s.ExpiresAt))
	case s.State == Active:
		return l.text(phraseActiveUntil, "{until}", l.FormatTime(s.ExpiresAt))
	case s.State == Perpetual:
		return l.text(phrasePerpetual)
	case s.State == InTrial && s.unconfirmed:
		return l.text(phraseTrialKey, "{until}", l.FormatTime(s.TrialUntil))
	case s.State == InTrial:
		return l.text(phraseTrial, "{until}", l.FormatTime(s.TrialUntil))
	case s.State == Grace && s.situation == byFile:
		return l.text(phraseGraceFile, "{until}", until)
	case s.State == Grace && failed == "":
		return l.text(phraseGraceDue+end, "{until}", until)
	case s.State == Grace && s.Reason == ErrUnreachable && (situation == "" || situation == causeName): // which is what being offline looks like
		what, do := l.words(Phrase(s.Reason), situation)
		return l.text(phraseGrace+end, "{what}", what, "{do}", do, "{until}", until)
	case s.State == Grace:
		what, do := l.words(Phrase(s.Reason), situation)
		return l.text(phraseGraceCause+end, "{what}", what, "{do}", do, "{until}", until)
	}
	return l.sentences(s.problem(failed).words(l))
}

// problem is why the program may not run. failed is why Polar couldn't verify the license since
// it last did.
func (s Status) problem(failed Reason) *Error {
	return &Error{Reason: s.Reason, situation: s.situationSince(failed), store: s.unread(), portal: s.portal, covered: s.CoveredUntil, covers: s.covers}
}

// situationSince is what is known more exactly than the reason tells, after Polar
// failed to verify the license.
func (s Status) situationSince(failed Reason) Phrase {
	switch {
	case s.situation != "":
		return s.situation
	case s.Reason == ErrGraceEnded && (failed == ErrRateLimited || failed == ErrMisconfigured):
		return Phrase(failed) // it isn't the connection that is missing
	case s.Reason == ErrGraceEnded && s.cause.inTheWay():
		return s.cause
	case s.Reason == ErrUnreachable:
		return s.cause
	case s.State == Unlicensed && s.Reason == ErrInDoubt:
		return inDoubtHere
	case s.State == Locked && s.Reason == ErrExpired && s.subscribed:
		return expiredSubscription
	case s.State == Locked && s.Reason == ErrUnknownKey:
		return unknownHeld
	}
	return ""
}

// action is the button that belongs to a Status.
func (s Status) action(l Links, failed Reason) Action {
	switch {
	case s.State == Active && s.Reminder:
		return Action{ActionRenew, cmp.Or(l.Renew, l.Buy)}
	case s.State == Active:
		return Action{}
	case s.State == InTrial && s.unconfirmed:
		return Action{Kind: ActionCheck}
	case s.State == InTrial:
		return Action{ActionEnterKey, l.Buy}
	case s.State == Perpetual && s.Reason == ErrInactive:
		return Action{ActionEnterKey, cmp.Or(l.Renew, l.Buy)}
	case s.State == Grace && s.situation == byFile:
		return Action{Kind: ActionLoadFile}
	case s.State == Grace && s.Reason == ErrMisconfigured:
		return Action{ActionSupport, l.Support}
	case s.State == Grace:
		return Action{Kind: ActionCheck}
	}
	return l.actionFor(s.Reason, s.situationSince(failed))
}

// Action is what a person can do about a license: the button to show.
type Action struct {
	// Kind says what it does.
	Kind ActionKind
	// URL is the page for it, from Config.Links. It is empty if the program itself does
	// what Kind says, or if there is no such link.
	URL string
}

// ActionKind says what an Action does.
type ActionKind string

const (
	// ActionNone: there is nothing to do.
	ActionNone ActionKind = ""
	// ActionEnterKey: ask for a license key, and call Gate.Activate. URL is where one is
	// sold.
	ActionEnterKey ActionKind = "enter_key"
	// ActionActivate: call Gate.Activate with Status.Key.Reveal().
	ActionActivate ActionKind = "activate"
	// ActionMove: call Gate.Move.
	ActionMove ActionKind = "move"
	// ActionCheck: call Gate.Refresh.
	ActionCheck ActionKind = "check"
	// ActionLoadFile: load a license file; see Gate.ActivateFile.
	ActionLoadFile ActionKind = "load_file"
	// ActionBuy: open URL, where more is sold.
	ActionBuy ActionKind = "buy"
	// ActionRenew: open URL, where a license that ended is renewed.
	ActionRenew ActionKind = "renew"
	// ActionPortal: open URL, where customers deactivate another computer.
	ActionPortal ActionKind = "portal"
	// ActionSupport: open URL, where support can be reached.
	ActionSupport ActionKind = "support"
)

// ActionFor is the button to show beside Message(err), for an error of a Gate: the one that
// belongs to its Reason. It is empty for nil and for the errors of other packages.
//
// Polar never revives the key of a subscription that has ended: a new subscription has a new
// key. So after ErrInactive, the action is to enter a key, and its URL is where to
// subscribe again.
func (l Links) ActionFor(err error) Action {
	reason, ok := errors.AsType[Reason](err)
	if !ok {
		return Action{}
	}
	var situation Phrase
	if e, ok := errors.AsType[*Error](err); ok {
		reason, situation = e.Reason, e.situation
	}
	return l.actionFor(reason, situation)
}

func (l Links) actionFor(reason Reason, situation Phrase) Action {
	switch situation {
	case movingHere, limitPool:
		return Action{Kind: ActionCheck}
	case byFile, fileElsewhere, fileExpired:
		return Action{Kind: ActionLoadFile}
	case inDoubtHere:
		return Action{Kind: ActionEnterKey}
	case expiredSubscription:
		return Action{ActionEnterKey, cmp.Or(l.Renew, l.Buy)}
	}
	switch reason {
	case ErrNoLicense, ErrTrialEnded, ErrUnknownKey, ErrWrongBenefit, ErrWrongCustomer, ErrUnreadableState:
		return Action{ActionEnterKey, l.Buy}
	case ErrInactive:
		return Action{ActionEnterKey, cmp.Or(l.Renew, l.Buy)}
	case ErrSeatReleased, ErrConditionsMismatch:
		return Action{Kind: ActionActivate}
	case ErrOtherMachine:
		return Action{Kind: ActionMove}
	case ErrExpired, ErrNotCovered:
		return Action{ActionRenew, cmp.Or(l.Renew, l.Buy)}
	case ErrUsageExceeded:
		return Action{ActionBuy, l.Buy}
	case ErrBadLease:
		return Action{Kind: ActionLoadFile}
	case ErrActivationLimit:
		if l.Portal != "" {
			return Action{ActionPortal, l.Portal}
		}
		return Action{ActionSupport, l.Support}
	case ErrActivationsUnsupported, ErrDenied, ErrMisconfigured, ErrNoPermission, ErrUnknownCustomer:
		return Action{ActionSupport, l.Support}
	case ErrUnreachable, ErrRateLimited, ErrInDoubt, ErrGraceEnded, ErrClockSetBack, ErrBusy:
		return Action{Kind: ActionCheck}
	}
	return Action{}
}

// OK reports whether the program may run: the state is Active, Grace, InTrial or Perpetual.
func (s Status) OK() bool {
	return s.State == Active || s.State == Grace || s.State == InTrial || s.State == Perpetual
}

// Has reports whether a feature was unlocked when the snapshot was taken.
func (s Status) Has(feature string) bool { return slices.Contains(s.Features, feature) }

// wireAction is an Action in JSON.
type wireAction struct {
	Kind ActionKind `json:"kind"`
	URL  string     `json:"url,omitempty"`
}

// MarshalJSON writes every field: the key masked, times in UTC or null, the action null if
// there is none, usage and seats only if there is a limit, trial_until and covered_until only if they apply, and unsaved, reminder, in_doubt and release_pending
// only if they are true. It is for other programs to read; there is no way back to a Status.
func (s Status) MarshalJSON() ([]byte, error) {
	when := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC()
		return &t
	}
	features := s.Features
	if features == nil {
		features = []string{}
	}
	var action *wireAction
	if s.Action.Kind != ActionNone {
		action = &wireAction{s.Action.Kind, s.Action.URL}
	}
	var seats *StatusSeats
	if s.Seats.Limit > 0 {
		seats = &s.Seats
	}
	var usage, limit *int64
	if s.LimitUsage > 0 && s.LimitUsage != Unlimited {
		usage, limit = &s.Usage, &s.LimitUsage
	}
	return json.Marshal(struct {
		State     State    `json:"state"`
		Reason    string   `json:"reason"`
		Key       Key      `json:"key"`
		Features  []string `json:"features"`
		BenefitID string   `json:"benefit_id"`

		ActivationID string `json:"activation_id"`
		LicenseKeyID string `json:"license_key_id"`
		CustomerID   string `json:"customer_id"`

		CheckedAt  *time.Time   `json:"checked_at"`
		FreshUntil *time.Time   `json:"fresh_until"`
		GraceUntil *time.Time   `json:"grace_until"`
		ExpiresAt  *time.Time   `json:"expires_at"`
		TrialUntil *time.Time   `json:"trial_until,omitempty"`
		Covered    *time.Time   `json:"covered_until,omitempty"`
		Seats      *StatusSeats `json:"seats,omitempty"`
		Usage      *int64       `json:"usage,omitempty"`
		LimitUsage *int64       `json:"limit_usage,omitempty"`
		Source     Source       `json:"source"`
		Unsaved    bool         `json:"unsaved,omitempty"`
		Reminder   bool         `json:"reminder,omitempty"`
		InDoubt    bool         `json:"in_doubt,omitempty"`
		Pending    bool         `json:"release_pending,omitempty"`
		Message    string       `json:"message"`

		Action *wireAction `json:"action"`
	}{
		s.State, string(s.Reason), s.Key, features, s.BenefitID, s.ActivationID, s.LicenseKeyID, s.CustomerID,
		when(s.CheckedAt), when(s.FreshUntil), when(s.GraceUntil), when(s.ExpiresAt), when(s.TrialUntil), when(s.CoveredUntil), seats, usage, limit, s.Source, s.Unsaved, s.Reminder, s.InDoubt, s.ReleasePending, s.Message, action,
	})
}
