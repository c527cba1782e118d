package main

var customers = []mutant{
	// Reading a state.
	{
		name:  "an answer about another customer is believed",
		rule:  "only an answer about the right customer counts",
		file:  "cache.go",
		old:   `	case !asked.is(s.CustomerID(), s.External()):`,
		new:   `	case s.CustomerID() == "":`,
		tests: "TestAnAnswerAboutAnotherCustomerIsNotBelieved",
	},
	{
		name:  "a customer of another organization is believed",
		rule:  "only an answer about a customer of the organization counts",
		file:  "internal/rights/read.go",
		old:   `	if organizationID != "" && organization != "" && !wire.SameUUID(organization, organizationID) {`,
		new:   `	if organization == "\x00" {`,
		tests: "TestAnAnswerAboutAnotherCustomerIsNotBelieved|TestSignedEventsThatMeanNothingHereAreAcknowledged",
	},
	{
		name: "a benefit of an unknown type makes the state unreadable",
		rule: "unknown benefit types never break decoding",
		file: "internal/rights/read.go",
		old: `		g.Text("benefit_type", &kind)
		if benefit == "" {
			continue
		}`,
		new: `		g.Text("benefit_type", &kind)
		if benefit == "" || kind == "" {
			return nil, ErrForeign
		}`,
		tests: "TestStrangeFieldsInAStateDoNotSpoilTheOthers|TestEveryRecordedStateIsReadOrRefusedAsPolarMeantIt",
	},
	{
		name:  "a subscription that is past due counts",
		rule:  "a product needs an active or trialing subscription",
		file:  "internal/rights/read.go",
		old:   `is.ProductID == "" || slices.Contains(noRight, is.Status) {`,
		new:   `is.ProductID == "" || len(slices.Clone(noRight)) == 0 {`,
		tests: "TestSubscriptionsCountByTheirStatus",
	},
	{
		name:  "a subscription that was canceled lives on in grace",
		rule:  "a right whose end is known ends then, also while Polar is away",
		file:  "internal/memory/keys.go",
		old:   `	for now >= a.more().limits.end {`,
		new:   `	for now >= a.more().limits.end && now < a.more().limits.freshUntil {`,
		tests: "TestASubscriptionThatWasCanceledEndsWhenPolarSaidAlsoWhilePolarIsAway",
	},
	{
		name: "the zero requirement is met",
		rule: "the zero requirement is never met",
		file: "entitlements.go",
		old: `				return true
			}
		}
	}
	return false
}

// meetsAll`,
		new: `				return true
			}
		}
	}
	return true
}

// meetsAll`,
		tests: "TestRequirementsMeanWhatTheySay|TestNilEntitlementsAllowNothing",
	},

	// Ages.
	{
		name:  "a fresh answer stays fresh",
		rule:  "an answer is fresh for FreshFor",
		file:  "internal/memory/memory.go",
		old:   `	if a == nil || !c.isFreshAt(a, now) || c`,
		new:   `	if a == nil || c`,
		tests: "TestAgesOfAnswersAreExact",
	},
	{
		name:  "an answer ends when the timer of the clock says so",
		rule:  "freshness ends exactly, also while look-ups read a clock that may be late",
		file:  "internal/memory/memory.go",
		old:   `now.After(exactFor) < a.freshUntil || c.Now() < a.freshUntil`,
		new:   `now < a.freshUntil`,
		tests: "TestFreshnessEndsExactlyWhileLookUpsComeOften",
	},
	{
		name:  "a crowd that comes once pushes out those that come often",
		rule:  "those that came once go first, once they are a quarter of the cache",
		file:  "internal/lookup/twoqueue.go",
		old:   `case n > 0 && (n > q.mostRecent || n == q.mostRecent && !back):`,
		new:   `case q.count[frequent] == 0:`,
		tests: "TestWhoIsKeptIsWhomA2QCacheOfHashicorpKeeps|TestEntriesUsedOnceDoNotEvictThoseUsedOften",
	},
	{
		name: "a stale answer is served and not refreshed",
		rule: "a stale answer is refreshed in the background",
		file: "internal/memory/memory.go",
		old: `		c.refreshBehind(key, e, now, UnlessFresh)
		c.Counts.Served[Stale].Add(1)
`,
		new: `		c.Counts.Served[Stale].Add(1)
`,
		tests: "TestAStaleAnswerIsServedAtOnceAndRefreshedOnce",
	},
	{
		name: "an outage takes customers' access away",
		rule: "in grace an answer is served while Polar is unreachable",
		file: "internal/memory/memory.go",
		old: `	if now < a.graceUntil {
		c.Counts.Served[Grace].Add(1)
		return c.serving(e, now), nil
	}
	c.turnedAway`,
		new:   `	c.turnedAway`,
		tests: "TestAnHourWithoutPolarServesKnownCustomersOnly|TestRefreshServesAnOlderAnswerIfPolarCannotBeReached",
	},
	{
		name: "a customer's grace never ends",
		rule: "an answer counts in an outage for GracePeriod",
		file: "internal/memory/memory.go",
		old: `	if now < a.graceUntil {
		c.Counts.Served[Grace].Add(1)`,
		new: `	if now >= 0 {
		c.Counts.Served[Grace].Add(1)`,
		tests: "TestAgesOfAnswersAreExact|TestAnHourWithoutPolarServesKnownCustomersOnly",
	},
	{
		name:  "a caller who looked just before the answer came asks again",
		rule:  "callers at the same time share one request",
		file:  "internal/memory/questions.go",
		old:   `	if e == nil || when == InAnyCase {`,
		new:   `	if e == nil || when != unlessCertain {`,
		tests: "TestALookUpJustBeforeAnAnswerArrivedDoesNotAskAgain",
	},
	{
		name: "a license key is served past its expiry in grace",
		rule: "a key's own expiry counts while Polar can't be reached",
		file: "internal/memory/news.go",
		old: `		fresh, stale, grace = min(fresh, left), min(stale, left), min(grace, left)
		expires = now.After(left - age)`,
		new:   `		_ = left`,
		tests: "TestAKeyKeepsWorkingInGraceButNeverPastItsExpiry",
	},
	{
		name:  "callers join a request that hangs forever",
		rule:  "a request that takes too long is given up",
		file:  "internal/flight/flight.go",
		old:   `time.Since(f.began) < g.Keep {`,
		new:   `g.Keep > 0 {`,
		tests: "TestWorkThatHangsIsNotKeptForever",
	},
	{
		name:  "an id is quoted in an error",
		rule:  "keys, tokens and addresses never reach an error",
		file:  "internal/redact/redact.go",
		old:   `quoted[1 : len(quoted)-1]}`,
		new:   `quoted}`,
		tests: "TestAnIdIsInNoErrorThatQuotesIt",
	},

	// Who is not known.
	{
		name: "an unknown customer is an error",
		rule: "a 404 is an ordinary customer without entitlements",
		file: "cache.go",
		old: `	if isNotFound(err) {
		at := c.now()`,
		new: `	if err == nil && value == nil {
		at := c.now()`,
		tests: "TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook",
	},
	{
		name:  "an unknown customer is asked about at each request",
		rule:  "an unknown customer is cached briefly",
		file:  "internal/memory/memory.go",
		old:   `if yields || now < a.freshUntil {`,
		new:   `if yields || now < 0 {`,
		tests: "TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook",
	},
	{
		name: "a flood of unknown ids evicts known customers",
		rule: "unknown customers are cached separately",
		file: "internal/memory/news.go",
		old:  `		return e, func() { c.unknown.Add(key, e) }`,
		new: `		return e, func() {
			c.change(e, func(a *answer) {
				a.value = *a.value.WithCustomer(wire.UUID(append(make([]byte, 0, 24), key.ID+"----------------"...)[:16]))
			})
			c.known.addCustomer(e)
			c.known.customers.Touch(e)
		}`,
		tests: "TestAFloodOfUnknownIdsDoesNotEvictKnownCustomers|TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook",
	},
	{
		name:  "one customer's odd id locks out all new customers",
		rule:  "a refusal of one request may be about that request alone",
		file:  "internal/memory/questions.go",
		old:   `	if is.Everybodys {`,
		new:   `	if err != nil {`,
		tests: "TestAnIdThatAFirewallBlocksDoesNotAffectOthers",
	},

	// Flights.
	{
		name:  "each request for a cold customer asks Polar",
		rule:  "one flight per customer",
		file:  "internal/memory/questions.go",
		old:   `	return flight.Do(ctx, &c.Flights, string('0'+rune(key.Kind))+key.ID, func(`,
		new:   `	return flight.Do(ctx, &c.Flights, string(rune(rand.Int32N(1<<15)))+string('0'+rune(key.Kind))+key.ID, func(`,
		tests: "TestAThousandRequestsForOneColdCustomerAskPolarOnce",
	},
	{
		name:  "a caller who leaves ends the flight of the others",
		rule:  "a flight has its own context",
		file:  "internal/flight/flight.go",
		old:   `			parent = context.WithoutCancel(ctx)`,
		new:   `			parent = ctx`,
		tests: "TestACallerThatLeavesDoesNotCancelTheOthers",
	},
	{
		name: "a panic in a flight takes the server down",
		rule: "a flight has a recover inside",
		file: "internal/flight/flight.go",
		old: `			p := recover()
`,
		new:   "\t\t\tvar p any\n",
		tests: "TestAPanicIsAnErrorForAllCallers",
	},

	// Ids.
	{
		name:  "a question mark in an external id cuts the path",
		rule:  "external ids are path-escaped",
		file:  "cache.go",
		old:   `url.PathEscape(r.key.ID)`,
		new:   `r.key.ID + url.PathEscape("")`,
		tests: "TestExternalIdsOfEveryKindReachTheirCustomer",
	},
	{
		name:  "an external id of two dots asks about another customer",
		rule:  "the external ids . and .. are refused",
		file:  "internal/memory/entries.go",
		old:   `	case id == "." || id == ".." ||`,
		new:   `	case id == "." ||`,
		tests: "TestExternalIdsOfEveryKindReachTheirCustomer|TestAnIdThatIsRefusedWhenAskedAboutIsNotServedAfterAnEventEither",
	},
	{
		name:  "a key for another product of the vendor is let in",
		rule:  "a key of any other benefit is refused as wrong_benefit",
		file:  "cache.go",
		old:   `	case err == nil && !c.config.accepts(license.BenefitID):`,
		new:   `	case err == nil && license.BenefitID == "":`,
		tests: "TestRefusedLicenseKeysCarryTheirReason",
	},

	// Spend.
	{
		name:  "more is spent than there is",
		rule:  "balances are debited locally, but not below zero",
		file:  "internal/ledger/ledger.go",
		old:   `	if a.Left().Minus(units).Less(floor) {`,
		new:   `	if a.Left().Less(floor) {`,
		tests: "TestSpendingAtTheSameTimeNeverExceedsTheBalance",
	},
	{
		name:  "spent units are not taken off",
		rule:  "balances are debited locally between refreshes",
		file:  "internal/ledger/ledger.go",
		old:   `	a.spent = a.spent.Plus(units)`,
		new:   `	_ = a.spent.Plus(units)`,
		tests: "TestSpendingAtTheSameTimeNeverExceedsTheBalance",
	},
	{
		name:  "a new state restores what was spent",
		rule:  "units are acknowledged by what Polar counted, not by the arrival of a state",
		file:  "internal/ledger/ledger.go",
		old:   `		grown := c.Consumed.Minus(a.Base.Consumed)`,
		new:   `		grown := Of(1e12)`,
		tests: "TestSpendingAgreesWithAModelWhateverComesInBetween|TestUnitsStaySpentUntilPolarHasCountedThem",
	},
	{
		name: "what others use of a meter is taken for ours",
		rule: "only units that Polar had been told of when it counted are acknowledged",
		file: "internal/ledger/ledger.go",
		old: `			if lot := &a.Lots[i]; lot.By <= c.At {
				counted := least`,
		new: `			if lot := &a.Lots[i]; true {
				counted := least`,
		tests: "TestALedgerAgreesWithAModelOfPolarWhateverComesInBetween",
	},
	{
		name:  "a state out of Polar's cache gives units back",
		rule:  "a count that is older than the last changes nothing",
		file:  "internal/ledger/ledger.go",
		old:   `	case a.Counted && c.At < a.Base.At:`,
		new:   `	case a.Counted && c.At < 0:`,
		tests: "TestWhatWasSpentIsForgottenOnlyWhenPolarHasCountedIt",
	},
	{
		name:  "a new period leaves what was spent in the last one",
		rule:  "debits end with the period",
		file:  "internal/ledger/ledger.go",
		old:   `	case !a.Counted, c.Consumed.Less(a.Base.Consumed):`,
		new:   `	case !a.Counted:`,
		tests: "TestWhatWasSpentIsForgottenOnlyWhenPolarHasCountedIt",
	},
	{
		name:  "what Polar never counts is charged for ever",
		rule:  "a debit ends after a cap that is above Polar's latest time",
		file:  "internal/ledger/ledger.go",
		old:   `now.Sub(lot.By) > Cap {`,
		new:   `now < 0 {`,
		tests: "TestWhatIsNeverCountedIsForgottenAfterACap",
	},
	{
		name:  "amounts add up as floats do",
		rule:  "7 credits at 0.7 serve 10",
		file:  "internal/ledger/units.go",
		old:   `int32(math.Round((x - whole) * billion))}`,
		new:   `int32((x - whole) * billion)}`,
		tests: "TestAnAmountIsItsFloatAgain",
	},
	{
		name:  "usage is dated by this computer's clock",
		rule:  "no event is dated ahead of Polar's clock",
		file:  "usage.go",
		old:   `min(s.At, latest).Time()`,
		new:   `max(s.At, latest).Time()`,
		tests: "TestUsageIsNeverDatedAheadOfPolarsClock",
	},
	{
		name:  "an event that is sent twice is counted twice",
		rule:  "events have an external_id",
		file:  "usage.go",
		old:   `ExternalID: s.ID, Metadata`,
		new:   `ExternalID: rand.Text(), Metadata`,
		tests: "TestUsageWaitsForPolarAndIsSentOnce",
	},
	{
		name:  "a restart forgets what Polar hasn't counted",
		rule:  "what was spent outlasts a restart",
		file:  "usage.go",
		old:   `	for _, open := range all {`,
		new:   `	for _, open := range all[:0] {`,
		tests: "TestUsageOutlastsARestart",
	},
	{
		name:  "events of a process that was killed are left behind",
		rule:  "events that wait are sent by the next process",
		file:  "internal/outbox/sender.go",
		old:   `	for _, b := range abandoned(o.Folder) {`,
		new:   `	for _, b := range abandoned("") {`,
		tests: "TestWhatWasNotSentIsSentByTheNextProcess|TestNoMessageIsLostWhateverComesInBetween",
	},
	{
		name:  "one bad event keeps the others back",
		rule:  "what Polar refuses is kept aside, and the rest is sent",
		file:  "internal/outbox/sender.go",
		old:   `			parts = append(o.split(part, refused), parts[1:]...)`,
		new:   `			parts = parts[1:]`,
		tests: "TestMessagesThatAreRefusedAreFoundAndKeptAside|TestAnEventThatPolarRefusesIsKeptAsideAndTheOthersAreSent",
	},
	{
		name: "a hold ends when Polar says something new",
		rule: "holds survive refreshes",
		file: "internal/ledger/book.go",
		old: `		a.Observe(c)
		a.Expire(now)`,
		new: `		a.Observe(c)
		a.Release("", a.held)
		a.Expire(now)`,
		tests: "TestAReservationHoldsUnitsUntilItIsCommittedOrReleased|TestUnitsOfARequestInProgressStayTakenOffWhateverPolarSays",
	},
	{
		name:  "replicas refuse and grant by what they remember",
		rule:  "replicas reserve exactly what there is",
		file:  "internal/ledger/joint.go",
		old:   `		case swapped:`,
		new:   `		case swapped || at.Version != "":`,
		tests: "TestReplicasReserveExactlyWhatThereIs|TestReplicasReserveTogetherWhatThereIs",
	},
	{
		name:  "the units of a replica that died stay locked",
		rule:  "the holds of a dead replica end in bounded time",
		file:  "internal/ledger/joint.go",
		old:   `j.Now()+clock.Polar(HoldFor)`,
		new:   `j.Now()+clock.Polar(100*HoldFor)`,
		tests: "TestTheHoldsOfAReplicaThatDiedEnd|TestTheHoldsOfAReplicaThatEndedAreFreeAfterAMinute",
	},
	{
		name:  "an answer of the store that was lost books usage twice",
		rule:  "what was used is booked once",
		file:  "internal/ledger/joint.go",
		old:   `		stored := again && own.Step >= step`,
		new:   `		stored := false`,
		tests: "TestReplicasAgreeWhateverTheStoreDoes",
	},
	{
		name:  "what a failed server had not copied is forgotten",
		rule:  "usage that a store lost is stored again",
		file:  "internal/ledger/joint.go",
		old:   `		if s.number > after {`,
		new:   `		if false {`,
		tests: "TestWhatAFailedServerHadNotCopiedIsStoredAgainOnce",
	},
	{
		name:  "what a failed server had copied is booked twice",
		rule:  "what was used is booked once",
		file:  "internal/ledger/joint.go",
		old:   `		if s.number > after {`,
		new:   `		if true {`,
		tests: "TestWhatAFailedServerHadNotCopiedIsStoredAgainOnce",
	},
	{
		name:  "the end of a replica doesn't wait for the store",
		rule:  "what was used is stored before a replica ends, if that takes a moment",
		file:  "internal/ledger/joint.go",
		old:   `	for j.Wait(ctx); j.owes() && ctx.Err() == nil; j.Wait(ctx) {`,
		new:   `	for j.Wait(ctx); false; j.Wait(ctx) {`,
		tests: "TestWhoEndsTriesUntilWhatWasUsedIsStored",
	},
	{
		name:  "nobody looks whether a failed server had copied",
		rule:  "usage that a store lost is stored again",
		file:  "usage.go",
		old:   `		c.replicas.Link.Listen(u.recheck)`,
		new:   `		_ = u.recheck`,
		tests: "TestWhatWasSoldBeforeAFailoverIsSoldOnce",
	},
	{
		name:  "usage that Polar was told of unnoticed is taken off for ever",
		rule:  "what Polar never counts comes back in bounded time",
		file:  "internal/ledger/ledger.go",
		old:   `			lot.Untold = Units{}`,
		new:   `			lot.Untold = lot.Untold.Plus(Units{})`,
		tests: "TestWhatPolarWasToldOfIsNotTakenOffForEverIfNobodyKnowsThat",
	},
}
