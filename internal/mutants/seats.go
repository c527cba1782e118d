package main

var seats = []mutant{
	// One seat.
	{
		name:  "programs activate side by side",
		rule:  "Activate holds a lock across processes",
		file:  "held.go",
		old:   `	release, err := g.store.Lock(patient, g.name)`,
		new:   `	release, err := func() {}, patient.Err()`,
		tests: "TestADoubleClickOrTwoProgramsAtTheFirstStartTakeOneSeat|TestManyClicksTakeOneSeat|TestEverythingAtOnceLeavesOneLicenseOrNone",
	},
	{
		name: "two calls of one program change the seat at once",
		rule: "two clicks: one seat",
		file: "held.go",
		old: `	select {
	case g.seatTurn <- struct{}{}:
	case <-patient.Done():
		return nil, lockError(ctx, patient.Err())
	}
	release, err := g.store.Lock(patient, g.name)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		release = func() {}
	case err != nil:
		<-g.seatTurn
		return nil, lockError(ctx, err)
	}
	return func() { release(); <-g.seatTurn }, nil`,
		new: `	release, err := g.store.Lock(patient, g.name)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		release = func() {}
	case err != nil:
		return nil, lockError(ctx, err)
	}
	return release, nil`,
		tests: "TestAStoreWithoutLocksStillGetsOneChangeAtATime",
	},
	{
		name: "Activate does not look at the store again",
		rule: "with the lock, Activate looks at the store again",
		file: "seats.go",
		old: `	h := g.reload(ctx)
	if h.unread != nil {
		return h.unread
	}
	if err := f(h); err != nil {`,
		new: `	h := g.holding()
	if err := f(h); err != nil {`,
		tests: "TestADoubleClickOrTwoProgramsAtTheFirstStartTakeOneSeat|TestManyClicksTakeOneSeat",
	},
	{
		name:  "the same key entered again takes another seat",
		rule:  "a stored activation of the same key is reused",
		file:  "seats.go",
		old:   `	kept, err := g.keepSeat(ctx, &h, key)`,
		new:   `	kept, err := false, ctx.Err()`,
		tests: "TestASecondActivateOfTheSameKeyGoesOnWithItsSeat|TestActivatingAgainAndAgainStaysAtOneSeat",
	},
	{
		name: "a rotated key takes another seat",
		rule: "a new key for the same license adopts the old activation",
		file: "seats.go",
		old: `		default:
			candidates = append(candidates, s)
		}`,
		new:   `		}`,
		tests: "TestARotatedKeyKeepsItsSeat|TestARotatedKeyGoesOnWithItsSeatAndADeadOneFreesNothing",
	},
	{
		name:  "an adopted seat keeps the dead key",
		rule:  "a new key for the same license adopts the old activation",
		file:  "seats.go",
		old:   `next.Moving = key.Reveal(), false`,
		new:   `next.Moving = s.Key, false`,
		tests: "TestARotatedKeyKeepsItsSeat|TestARotatedKeyGoesOnWithItsSeatAndADeadOneFreesNothing",
	},
	{
		name:  "a seat on its way back is not taken up again",
		rule:  "a seat that waits to be given back is as good as a new one",
		file:  "seats.go",
		old:   `		consider(&h.state.Outbox[i])`,
		new:   `		_ = h.state.Outbox[i]`,
		tests: "TestGoingBackToAnEarlierKeyTakesUpItsSeat|TestASeatThatWaitsUnderARotatedKeyIsTakenUpUnderTheNewOne|TestASeatOnItsWayBackIsNotTakenUpAgain",
	},
	{
		name: "a seat that was taken up again is given back afterwards",
		rule: "a seat is held or waits to be given back, never both",
		file: "seats.go",
		old: `	h.state.Outbox = slices.DeleteFunc(slices.Clone(h.state.Outbox), is)
`,
		new:   ``,
		tests: "TestGoingBackToAnEarlierKeyTakesUpItsSeat|TestASeatThatWaitsUnderARotatedKeyIsTakenUpUnderTheNewOne",
	},
	{
		name:  "an unlimited key takes the place of a seat unasked",
		rule:  "keys without seats are refused unless the program allows them",
		file:  "seats.go",
		old:   `	if errors.Is(err, ErrActivationsUnsupported) && g.config.AllowKeysWithoutSeats {`,
		new:   `	if errors.Is(err, ErrActivationsUnsupported) {`,
		tests: "TestKeysWithoutSeats",
	},
	{
		name:  "a seat is asked about under the conditions of today",
		rule:  "conditions are stored as sent, since Polar compares them exactly",
		file:  "gate.go",
		old:   `		r.Conditions = s.conditions()`,
		new:   `		r.Conditions = (&seat{Conditions: g.config.conditions(s.Machine)}).conditions()`,
		tests: "TestConditionsOfAnUpgradeDoNotLockOutTheOld|TestConditionsThatGrowInAnUpgradeLockNobodyOut",
	},
	{
		name:  "a seat is bound to nothing",
		rule:  "conditions default to the fingerprint",
		file:  "config.go",
		old:   `		m = map[string]any{"fingerprint": fingerprint}`,
		new:   `		m = map[string]any{}`,
		tests: "TestAnActivationTellsTheVendorWhoTookIt|TestConditionsOfAnUpgradeDoNotLockOutTheOld|TestAMachineIsKnownByItsIDAndNotByItsNamesOrAddresses",
	},
	{
		name: "an activation does not say which attempt took it",
		rule: "meta carries enough to find and free duplicates",
		file: "seats.go",
		old: `		"attempt":      h.state.Intent.AttemptID,
`,
		new:   ``,
		tests: "TestAnActivationTellsTheVendorWhoTookIt",
	},

	// Written ahead.
	{
		name: "a seat is asked for before that is stored",
		rule: "the intent is stored before the POST",
		file: "seats.go",
		old: `	defer g.attempting("")
	err = g.save(ctx, h, FromDisk)
`,
		new: `	defer g.attempting("")
	err = nil
`,
		tests: "TestTheIntentIsStoredBeforeTheRequestLeaves|TestAProgramThatEndsWhilePolarGivesASeatDoesNotForgetIt",
	},
	{
		name: "a seat is asked for although that could not be stored",
		rule: "without a place to keep it no seat is taken",
		file: "seats.go",
		old: `	if err != nil {
		g.adoptRefusal(h, before)
		return err
	}
`,
		new:   ``,
		tests: "TestNoSeatIsTakenThatCannotBeKept",
	},
	{
		name: "a seat that was given is not stored",
		rule: "the activation is stored right after, before returning",
		file: "seats.go",
		old: `	err := g.save(ctx, h, FromNetwork)
	if err != nil && g.takeRefuge(ctx, err) {`,
		new: `	g.adopt(h, FromNetwork)
	err := ctx.Err()
	if err != nil && g.takeRefuge(ctx, err) {`,
		tests: "TestManyClicksTakeOneSeat|TestAProgramThatEndsWhilePolarGivesASeatDoesNotForgetIt",
	},
	{
		name:  "a seat that could not be stored stays taken",
		rule:  "if saving fails, the seat is given back",
		file:  "seats.go",
		old:   `	if err != nil && taken && s.ActivationID != "" && g.giveBack(ctx, s) {`,
		new:   `	if err != nil && taken && s.ActivationID == "" && g.giveBack(ctx, s) {`,
		tests: "TestNoSeatIsTakenThatCannotBeKept|TestASeatThatCannotBeWrittenDownIsGivenBackAgain",
	},
	{
		name:  "a seat that was given back is in the store after all",
		rule:  "if saving fails, the seat is given back",
		file:  "seats.go",
		old:   `		_ = g.save(ctx, last, FromDisk)`,
		new:   `		_, _ = ctx, last`,
		tests: "TestAStoreThatStoresAndReportsAFailureLeavesNoLicenseWithoutASeat",
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
		name:  "a lost answer is taken for a network that was not there",
		rule:  "once it may have left, an activation is in doubt",
		file:  "activation.go",
		old:   `	if !ok || e.Reason != ErrUnreachable || !e.sent {`,
		new:   `	if !ok || e.Reason != ErrUnreachable || e.sent {`,
		tests: "TestALostAnswerIsInDoubtAndCanBeTriedAgain",
	},
	{
		name:  "an activation that never left is in doubt",
		rule:  "what surely was not carried out is not in doubt",
		file:  "activation.go",
		old:   `	if !ok || e.Reason != ErrUnreachable || !e.sent {`,
		new:   `	if !ok || e.Reason != ErrUnreachable {`,
		tests: "TestWhatWasSurelyNotCarriedOutIsNotInDoubt|TestAnActivationThatCannotHaveLeftIsNotInDoubt",
	},
	{
		name:  "a certificate that is not trusted leaves an activation in doubt",
		rule:  "what surely was not carried out is not in doubt",
		file:  "client.go",
		old:   ` || errors.As(err, &certificate) ||`,
		new:   ` || certificate.Err != nil ||`,
		tests: "TestAnActivationThatCannotHaveLeftIsNotInDoubt|TestWhatWasSurelyNotCarriedOutIsNotInDoubt",
	},
	{
		name: "a doubt is forgotten",
		rule: "the intent stays for the next attempt to reason with",
		file: "seats.go",
		old: `		before = h.state.Intent
		return nothingTaken(err)
	case err != nil:`,
		new: `		return nothingTaken(err)
	case err != nil:`,
		tests: "TestALostAnswerIsInDoubtAndCanBeTriedAgain",
	},
	{
		name: "a refused attempt is left in doubt",
		rule: "an intent ends with its answer",
		file: "seats.go",
		old: `		h.state.Intent = before
		ctx, cancel := g.lastMoment(ctx)`,
		new:   `		ctx, cancel := g.lastMoment(ctx)`,
		tests: "TestAFailedActivateNeverHarmsTheHeldLicense|TestALostAnswerIsInDoubtAndCanBeTriedAgain|TestARefusedActivationSaysWhyAndGivesNothing",
	},
	{
		name:  "a doubt outlives the seat that settles it",
		rule:  "an intent ends with its answer",
		file:  "seats.go",
		old:   `	if h.state.Intent != nil && h.state.Intent.Key == s.Key {`,
		new:   `	if h.state.Intent != nil && h.state.Intent.Key == "" {`,
		tests: "TestALostAnswerIsInDoubtAndCanBeTriedAgain",
	},
	{
		name:  "the use of one key settles the doubt about another",
		rule:  "an intent ends with its own answer",
		file:  "seats.go",
		old:   `	if h.state.Intent != nil && h.state.Intent.Key == s.Key {`,
		new:   `	if h.state.Intent != nil {`,
		tests: "TestADoubtAboutOneKeyOutlastsTheUseOfAnother",
	},
	{
		name: "a caller who leaves takes the request along",
		rule: "a POST that has left is finished and recorded in the background",
		file: "seats.go",
		old: `	// From here on the caller may go, but the request is seen through.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))`,
		new:   `	hard, cancel := context.WithCancel(ctx)`,
		tests: "TestACallerWhoLeavesDoesNotLoseTheSeat|TestCloseInTheMiddleOfAnActivationLosesNothing",
	},
	{
		name:  "Close cuts an activation short",
		rule:  "a POST that has left is finished and recorded in the background",
		file:  "gate.go",
		old:   `	impatient := time.AfterFunc(closePatience, g.endPatience)`,
		new:   `	impatient := time.AfterFunc(0, g.endPatience)`,
		tests: "TestCloseInTheMiddleOfAnActivationLosesNothing",
	},

	// A failed Activate.
	{
		name:  "the refusal of a new key locks the license that is held",
		rule:  "a failed Activate never harms the license already held",
		file:  "seats.go",
		old:   `		case isDenial(err) && same && current:`,
		new:   `		case isDenial(err):`,
		tests: "TestAFailedActivateNeverHarmsTheHeldLicense",
	},
	{
		name:  "a key for another product takes the place of the license",
		rule:  "a failed Activate never harms the license already held",
		file:  "seats.go",
		old:   `	if taken != nil && err == nil && !g.accepts(license.BenefitID) {`,
		new:   `	if taken != nil && err != nil && !g.accepts(license.BenefitID) {`,
		tests: "TestAWrongBenefitGivesItsSeatBack|TestAFailedActivateNeverHarmsTheHeldLicense",
	},
	{
		name:  "the seat of a key for another product stays taken",
		rule:  "a seat that is of no use is given back",
		file:  "seats.go",
		old:   `		if taken != nil && taken.ActivationID != "" && !g.giveBack(hard, taken) {`,
		new:   `		if taken != nil && taken.ActivationID == "" && !g.giveBack(hard, taken) {`,
		tests: "TestAWrongBenefitGivesItsSeatBack|TestASeatThatComesWithARefusalIsGivenBack",
	},
	{
		name: "a seat that is of no use and cannot be given back is forgotten",
		rule: "a seat release goes to a durable outbox",
		file: "seats.go",
		old: `			h.state.Outbox = append(h.state.Outbox, *taken)
`,
		new:   ``,
		tests: "TestAWrongBenefitGivesItsSeatBack|TestASeatThatComesWithARefusalIsGivenBack",
	},

	// Giving back.
	{
		name:  "a new key leaves the old seat taken",
		rule:  "replacing a key releases the old seat",
		file:  "seats.go",
		old:   `	if old != nil && old.held() && !is(*old) {`,
		new:   `	if old != nil && old.Moving && !is(*old) {`,
		tests: "TestAnotherKeyTakesThePlaceAndTheOldSeatIsGivenBack|TestTheOldSeatIsGivenBackLaterIfItCannotBeNow",
	},
	{
		name: "Deactivate forgets the seat",
		rule: "the seat release goes to a durable outbox",
		file: "seats.go",
		old: `				h.state.Outbox = append(slices.Clone(h.state.Outbox), *s)
`,
		new:   "\t\t\t\t_ = *s\n",
		tests: "TestDeactivateGivesTheSeatBack|TestDeactivateOfflineIsMadeGoodLater",
	},
	{
		name: "Deactivate keeps access until the seat is given back",
		rule: "Deactivate offline: access ends now",
		file: "seats.go",
		old: `*s)
			}
			h.state.Seat, h.verdict`,
		new: `*s)
				return true
			}
			h.state.Seat, h.verdict`,
		tests: "TestDeactivateOfflineIsMadeGoodLater|TestDeactivateGivesTheSeatBack",
	},
	{
		name:  "Deactivate does nothing for a caller in a hurry",
		rule:  "Deactivate offline: access ends now",
		file:  "seats.go",
		old:   `flight.Do(context.WithoutCancel(ctx), &g.flights, "forget"`,
		new:   `flight.Do(ctx, &g.flights, "forget"`,
		tests: "TestDeactivateRemovesTheLicenseForACallerInAHurryToo",
	},
	{
		name: "a seat that waits beside no license is not given back by Check",
		rule: "later runs drain the outbox",
		file: "gate.go",
		old: `	if h.state.Seat == nil {
		return g.drainOutbox(ctx)
	}`,
		new: `	if h.state.Seat == nil {
		return nil
	}`,
		tests: "TestDeactivateOfflineIsMadeGoodLater|TestDeactivateThatFailsOnTheWireIsMadeGoodLater",
	},
	{
		name:  "a seat that waits beside a license is not given back by Check",
		rule:  "later runs drain the outbox",
		file:  "gate.go",
		old:   `	if err == nil && h.state.waiting() {`,
		new:   `	if err != nil && h.state.waiting() {`,
		tests: "TestTheOldSeatIsGivenBackLaterIfItCannotBeNow|TestRunGivesBackTheSeatsThatAreWaiting",
	},
	{
		name: "seats behind one that cannot be given back are forgotten",
		rule: "the outbox is durable",
		file: "seats.go",
		old: `			left = append(left, h.state.Outbox[i+1:]...)
`,
		new:   "\t\t\t_ = i\n",
		tests: "TestAnOutageInTheMiddleLosesNoSeatThatWaits",
	},
	{
		name:  "a seat that cannot be given back is tried at each Check",
		rule:  "a script does not ask more often than a person would",
		file:  "seats.go",
		old:   `		h.state.OutboxRetry = g.now().Add(outboxPause)`,
		new:   `		h.state.OutboxRetry = g.now()`,
		tests: "TestASeatThatCannotBeGivenBackIsTriedOnceAMinuteByCheck",
	},
	{
		name: "a seat under a rotated key is said to be free",
		rule: "a 404 of a release can mean that the key was rotated",
		file: "seats.go",
		old: `	case errors.Is(err, ErrUnknownKey):
		e := *err.(*Error)`,
		new: `	case errors.Is(err, ErrUnknownKey) && s.Stranded:
		e := *err.(*Error)`,
		tests: "TestASeatUnderARotatedKeyIsNotSaidToBeFree|TestASeatThatWaitsUnderARotatedKeyIsTakenUpUnderTheNewOne",
	},
	{
		name:  "a seat under a rotated key is tried for ever",
		rule:  "a seat under a dead key waits for the new one",
		file:  "seats.go",
		old:   `		s.Stranded = errors.Is(err, ErrUnknownKey)`,
		new:   `		s.Stranded = s.Gone`,
		tests: "TestASeatUnderARotatedKeyIsNotSaidToBeFree|TestASeatThatWaitsUnderARotatedKeyIsTakenUpUnderTheNewOne",
	},
	{
		name: "a seat that was free before is given back for ever",
		rule: "repeating a release is harmless",
		file: "seats.go",
		old: `	case err == nil, isDenial(err):
		return nil
	}`,
		new: `	case isDenial(err):
		return nil
	case err == nil:
		return &Error{Op: opDeactivate, Reason: ErrSeatReleased}
	}`,
		tests: "TestDeactivateGivesTheSeatBack",
	},

	// Machines.
	{
		name:  "a system that was installed anew stays locked",
		rule:  "a changed machine moves the seat",
		file:  "gate.go",
		old:   `	if h.trouble == ErrOtherMachine || h.state.Seat.Moving {`,
		new:   `	if h.state.Seat.Moving {`,
		tests: "TestAnotherMachineMovesTheSeat",
	},
	{
		name: "a changed machine burns another seat",
		rule: "a changed machine releases, then activates",
		file: "seats.go",
		old: `		if err := g.free(ctx, s); err != nil {
			return err
		}
		h.state.Seat = s.movingTo`,
		new:   `		h.state.Seat = s.movingTo`,
		tests: "TestAnotherMachineMovesTheSeat",
	},
	{
		name:  "a copied state is as good as the first under a new key",
		rule:  "a seat of another machine is not kept",
		file:  "seats.go",
		old:   `		case err == nil && s.Machine != here:`,
		new:   `		case err == nil && s.Machine == "":`,
		tests: "TestAMachineAndAKeyThatBothChangedKeepToOneSeat",
	},
	{
		name:  "a move that may have lost a seat is tried again and again",
		rule:  "after a doubt no other seat is risked unasked",
		file:  "gate.go",
		old:   `i != nil && i.Key == h.state.Seat.Key {`,
		new:   `i != nil && i.Key == "" {`,
		tests: "TestAMoveThatMayHaveLostASeatIsNotRepeatedUnasked|TestAMoveThatFailsHalfWayIsFinishedByALaterCheck",
	},
	{
		name: "a seat is given up that could not be replaced",
		rule: "the intent is stored before a seat is given up",
		file: "seats.go",
		old:  `	h.state.Intent = &intent{AttemptID: rand.Text(), Key: key.Reveal(), At: g.now()}`,
		new: `	if err := g.clearWay(ctx, &h, key); err != nil {
		return err
	}
	h.state.Intent = &intent{AttemptID: rand.Text(), Key: key.Reveal(), At: g.now()}`,
		tests: "TestNoSeatIsFreedThatCouldNotBeReplaced",
	},
}
