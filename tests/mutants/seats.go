package main

var seats = []mutant{
	// One seat.
	{
		name:  "programs activate side by side",
		rule:  "Activate holds a lock across processes",
		file:  "record_io.go",
		old:   `	release, err := g.store.Lock(patient, g.name)`,
		new:   `	release, err := func() {}, patient.Err()`,
		tests: "TestADoubleClickOrTwoProgramsAtTheFirstStartUseOneActivation|TestManyClicksUseOneActivation|TestEverythingAtOnceLeavesOneLicenseOrNone",
	},
	{
		name: "Activate does not look at the store again",
		rule: "with the lock, Activate looks at the store again",
		file: "seats.go",
		old: `	rec := g.reload(ctx)
	if rec.unread != nil {
		return rec.unread
	}
	if err := f(ctx, rec); err != nil {`,
		new: `	rec := g.holding()
	if err := f(ctx, rec); err != nil {`,
		tests: "TestADoubleClickOrTwoProgramsAtTheFirstStartUseOneActivation|TestManyClicksUseOneActivation",
	},
	{
		name:  "entering the same key again uses another activation",
		rule:  "a stored activation of the same key is reused",
		file:  "seats.go",
		old:   `	if done, err := a.reuse(ctx); done || err != nil {`,
		new:   `	if err := ctx.Err(); err != nil {`,
		tests: "TestActivatingTheSameKeyAgainUsesTheSameActivation|TestActivatingRepeatedlyUsesOneActivation",
	},
	{
		name: "a rotated key uses another activation",
		rule: "a new key for the same license adopts the old activation",
		file: "record.go",
		old: `		default:
			all = append(all, c)
		}`,
		new:   `		}`,
		tests: "TestARotatedKeyKeepsItsActivation|TestARotatedKeyKeepsItsActivationAndTheOldKeyDeactivatesNothing",
	},
	{
		name:  "a key without activations is accepted although the program doesn't allow it",
		rule:  "keys without seats are refused unless the program allows them",
		file:  "seats.go",
		old:   `	if errors.Is(err, ErrActivationsUnsupported) && g.config.AllowKeysWithoutSeats {`,
		new:   `	if errors.Is(err, ErrActivationsUnsupported) {`,
		tests: "TestKeysWithoutActivationsAreRefusedUnlessAllowed",
	},
	{
		name:  "an activation is validated with the conditions of this version",
		rule:  "conditions are stored as sent, since Polar compares them exactly",
		file:  "check.go",
		old:   `		r.Conditions = s.conditions()`,
		new:   `		r.Conditions = (&seat{Conditions: g.config.conditions(s.Machine)}).conditions()`,
		tests: "TestConditionsOfAnUpgradeDoNotLockOutTheOld|TestConditionsThatGrowInAnUpgradeLockNoCustomerOut",
	},

	// Written ahead.
	{
		name:  "Polar is asked for an activation before the intent is stored",
		rule:  "the intent is stored before the POST",
		file:  "seats.go",
		old:   `	err := a.g.saveOrFallBack(ctx, a.rec, FromDisk)`,
		new:   `	err := ctx.Err()`,
		tests: "TestTheIntentIsStoredBeforeTheRequestLeaves|TestAProgramThatEndsDuringAnActivationDoesNotForgetIt",
	},
	{
		name: "an activation that Polar gave is not stored",
		rule: "the activation is stored right after, before returning",
		file: "seats.go",
		old:  `	err := g.saveOrFallBack(ctx, next, FromNetwork)`,
		new: `	g.adopt(next, FromNetwork)
	err := ctx.Err()`,
		tests: "TestManyClicksUseOneActivation|TestAProgramThatEndsDuringAnActivationDoesNotForgetIt",
	},
	{
		name:  "an activation that couldn't be stored stays in use",
		rule:  "an activation that can't be saved is released",
		file:  "seats.go",
		old:   `	if err != nil && taken && s.held() && g.rollbackActivation(ctx, s) {`,
		new:   `	if err != nil && taken && !s.held() && g.rollbackActivation(ctx, s) {`,
		tests: "TestNoActivationIsUsedThatCannotBeStored|TestAnActivationThatCannotBeStoredIsDeactivated",
	},
	{
		name: "a lost answer is tried again",
		rule: "an activation is never retried once it may have left",
		file: "activation.go",
		old: `		hard: hard,
`,
		new:   "\t\thard: hard, repeatable: true,\n",
		tests: "TestOnlyAQuestionThatMayBeAskedTwiceIsRepeated|TestAnActivationIsSentOnceWhateverAGatewaySays|TestALostAnswerIsInDoubtAndCanBeTriedAgain",
	},
	{
		name:  "a lost answer counts as no connection",
		rule:  "once it may have left, an activation is in doubt",
		file:  "activation.go",
		old:   `	if !ok || e.Reason != ErrUnreachable || !e.sent {`,
		new:   `	if !ok || e.Reason != ErrUnreachable || e.sent {`,
		tests: "TestALostAnswerIsInDoubtAndCanBeTriedAgain",
	},
	{
		name:  "an activation that was never sent is in doubt",
		rule:  "a request that certainly had no effect is not in doubt",
		file:  "activation.go",
		old:   `	if !ok || e.Reason != ErrUnreachable || !e.sent {`,
		new:   `	if !ok || e.Reason != ErrUnreachable {`,
		tests: "TestARequestThatCertainlyHadNoEffectIsNotInDoubt|TestAnActivationThatCannotHaveLeftIsNotInDoubt",
	},
	{
		name: "a doubt is forgotten",
		rule: "the intent stays for the next attempt",
		file: "record.go",
		old: `func (doubted) apply(rec *record, now time.Time, _ rules) bool {
`,
		new:   "func (doubted) apply(rec *record, now time.Time, _ rules) bool {\n\trec.state.Intent = nil\n",
		tests: "TestALostAnswerIsInDoubtAndCanBeTriedAgain",
	},
	{
		name: "the request ends with its caller",
		rule: "a POST that has left is finished and recorded in the background",
		file: "seats.go",
		old: `	// From here on the caller may leave; the request is finished.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))`,
		new:   `	hard, cancel := context.WithCancel(ctx)`,
		tests: "TestACallerWhoGivesUpDoesNotLoseTheActivation|TestCloseInTheMiddleOfAnActivationLosesNothing",
	},

	// A failed Activate.
	{
		name:  "the refusal of a new key locks the license that is held",
		rule:  "a failed Activate never harms the license already held",
		file:  "record.go",
		old:   `		if !e.same || !e.current {`,
		new:   `		if e.finding == foundForeign && (!e.same || !e.current) {`,
		tests: "TestAFailedActivateNeverHarmsTheHeldLicense",
	},
	{
		name:  "a key for another product takes the place of the license",
		rule:  "a failed Activate never harms the license already held",
		file:  "seats.go",
		old:   `	if given != nil && err == nil && !a.g.accepts(license.BenefitID) {`,
		new:   `	if given != nil && err != nil && !a.g.accepts(license.BenefitID) {`,
		tests: "TestAKeyOfAnotherProductIsDeactivatedAgain|TestAFailedActivateNeverHarmsTheHeldLicense",
	},

	// Giving back.
	{
		name:  "a new key leaves the old activation in use",
		rule:  "replacing a key releases the old activation",
		file:  "record.go",
		old:   `old != nil && old.held() && !mine(*old) {`,
		new:   `old != nil && old.State == reactivating && !mine(*old) {`,
		tests: "TestAnotherKeyReplacesTheFirstAndItsActivationEnds|TestAReplacedActivationIsDeactivatedLaterIfItCannotBeNow",
	},
	{
		name: "Deactivate forgets the activation",
		rule: "a release waits in a durable outbox",
		file: "record.go",
		old: `		st.Outbox = append(st.Outbox, out)
`,
		new:   "\t\t_ = out\n",
		tests: "TestDeactivateEndsTheActivation|TestDeactivateOfflineIsMadeGoodLater",
	},
	{
		name: "Deactivate keeps access until the activation is released",
		rule: "Deactivate offline: access ends now",
		file: "record.go",
		old: `		st.Seat, rec.verdict, rec.trouble = nil, nil, ""
`,
		new:   "\t\trec.trouble = \"\"\n",
		tests: "TestDeactivateOfflineIsMadeGoodLater|TestDeactivateEndsTheActivation",
	},
	{
		name: "Check doesn't release an activation that waits without a license",
		rule: "later runs drain the outbox",
		file: "check.go",
		old: `	if todo == releaseWaiting {
		return g.flushReleases(ctx)
	}`,
		new: `	if todo == releaseWaiting {
		return nil
	}`,
		tests: "TestDeactivateOfflineIsMadeGoodLater|TestDeactivateThatFailsOnTheWireIsMadeGoodLater",
	},
	{
		name: "activations after one that can't be released are forgotten",
		rule: "the outbox is durable",
		file: "seats.go",
		old: `			left = append(left, rec.state.Outbox[i+1:]...)
`,
		new:   "\t\t\t_ = i\n",
		tests: "TestAnOutageDuringPendingDeactivationsLosesNone",
	},
	{
		name: "an activation under a rotated key is reported as released",
		rule: "a 404 of a release can mean that the key was rotated",
		file: "seats.go",
		old: `	case errors.Is(err, ErrUnknownKey):
		e := *err.(*Error)`,
		new: `	case errors.Is(err, ErrUnknownKey) && s.State == unreleasable:
		e := *err.(*Error)`,
		tests: "TestDeactivatingUnderARotatedKeyIsNotReportedAsDone|TestAPendingActivationUnderARotatedKeyIsUsedUnderTheNewKey",
	},

	// Machines.
	{
		name:  "an interrupted move is never finished",
		rule:  "a check finishes a move that this computer began",
		file:  "check.go",
		old:   `	case activation.State != reactivating:`,
		new:   `	case rec != nil:`,
		tests: "TestAMoveThatFailsHalfWayIsFinishedByALaterCheck",
	},
	{
		name:  "a move uses another activation",
		rule:  "on another computer, the old activation is released before the new one is made",
		file:  "seats.go",
		old:   `	if err := a.g.free(ctx, other); err != nil {`,
		new:   `	if err := ctx.Err(); err != nil {`,
		tests: "TestMovingToAnotherComputerMovesTheActivation",
	},
	{
		name: "an activation is given up although the next one can't be stored",
		rule: "that an activation is given up is stored first",
		file: "seats.go",
		old: `	if err := a.g.saveOrFallBack(ctx, a.rec, FromDisk); err != nil {
		return a.undo(ctx, before, err)
	}
	if err`,
		new:   `	if err`,
		tests: "TestNoActivationIsGivenUpThatCouldNotBeReplaced",
	},
}
