package main

var customers = []mutant{
	// Reading a state.
	{
		name:  "an answer about another customer is believed",
		rule:  "only an answer about who was asked about counts",
		file:  "entitlements.go",
		old:   `	case !asked.is(e.customer, e.external):`,
		new:   `	case e.customer == "":`,
		tests: "TestAnAnswerAboutSomebodyElseIsNotBelieved",
	},
	{
		name:  "a customer of another organization is believed",
		rule:  "only an answer of the organization counts",
		file:  "entitlements.go",
		old:   `	if organizationID != "" && organization != "" && !sameUUID(organization, organizationID) {`,
		new:   `	if organization == "\x00" {`,
		tests: "TestAnAnswerAboutSomebodyElseIsNotBelieved|TestSignedEventsThatMeanNothingHereAreAcknowledged",
	},
	{
		name: "a state without its list of benefits is that of a customer who has nothing",
		rule: "a state that says nothing is no answer",
		file: "entitlements.go",
		old: `	grants, err := f.list("granted_benefits")
	if err != nil {
		return nil, err
	}`,
		new:   `	grants, _ := f.list("granted_benefits")`,
		tests: "TestAStateThatSaysNothingIsNotTakenForACustomerWhoHasNothing",
	},
	{
		name:  "a deleted customer keeps what the state lists",
		rule:  "a deleted customer has nothing",
		file:  "entitlements.go",
		old:   `	if !deleted.IsZero() {`,
		new:   `	if deleted.Year() == 0 {`,
		tests: "TestADeletedCustomerHasNothingWhateverTheStateLists",
	},
	{
		name: "a benefit of a type that nobody knows spoils the state",
		rule: "unknown benefit types never break decoding",
		file: "entitlements.go",
		old: `		g.text("benefit_type", &kind)
		if benefit == "" {
			continue
		}`,
		new: `		g.text("benefit_type", &kind)
		if benefit == "" || kind == "" {
			return nil, errForeignState
		}`,
		tests: "TestWhatIsStrangeInAStateSpoilsNothingBesideIt|TestEveryRecordedStateIsReadOrRefusedAsPolarMeantIt",
	},
	{
		name:  "a subscription that is past due counts",
		rule:  "a product needs an active or trialing subscription",
		file:  "entitlements.go",
		old:   `product != "" && !slices.Contains(noRight, status) {`,
		new:   `product != "" {`,
		tests: "TestSubscriptionsCountByTheirStatus",
	},
	{
		name:  "a subscription of a status that nobody knows does not count",
		rule:  "unknown statuses never break decoding",
		file:  "entitlements.go",
		old:   `product != "" && !slices.Contains(noRight, status) {`,
		new:   `product != "" && (status == "active" || status == "trialing") {`,
		tests: "TestSubscriptionsCountByTheirStatus",
	},
	{
		name: "all of several requirements are met by one",
		rule: "requirements compose",
		file: "entitlements.go",
		old: `			if !e.Meets(r.of[i]) {
				return false
			}
		}
		return true`,
		new: `			if e.Meets(r.of[i]) {
				return true
			}
		}
		return len(r.of) == 0`,
		tests: "TestRequirementsMeanWhatTheySay",
	},
	{
		name: "a requirement that says nothing is met",
		rule: "the zero requirement is never met",
		file: "entitlements.go",
		old: `		return slices.ContainsFunc(r.of, e.Meets)
	}
	return false`,
		new: `		return slices.ContainsFunc(r.of, e.Meets)
	}
	return true`,
		tests: "TestRequirementsMeanWhatTheySay|TestNobodyHasNothing",
	},
	{
		name:  "a meter with exactly enough is not enough",
		rule:  "a meter has at least so many units",
		file:  "entitlements.go",
		old:   `		return ok && m.Balance >= r.least`,
		new:   `		return ok && m.Balance > r.least`,
		tests: "TestRequirementsMeanWhatTheySay",
	},

	// Ages.
	{
		name: "a fresh answer stays fresh",
		rule: "a fresh time",
		file: "cache.go",
		old: `	if !ok || c.now() >= e.freshUntil.Load() {
		return nil, false
	}
	c.counts`,
		new: `	if !ok {
		return nil, false
	}
	c.counts`,
		tests: "TestAgesOfAnswersAreExact",
	},
	{
		name:  "a stale answer is waited for",
		rule:  "a stale answer is served at once",
		file:  "cache.go",
		old:   `	case now < e.staleUntil.Load():`,
		new:   `	case now < 0:`,
		tests: "TestAStaleAnswerIsServedAtOnceAndRefreshedOnce",
	},
	{
		name: "a stale answer is served and not refreshed",
		rule: "a stale answer is refreshed in the background",
		file: "cache.go",
		old: `		c.refreshBehind(key, e, now)
		c.counts.served[cacheStale].Add(1)
`,
		new: `		c.counts.served[cacheStale].Add(1)
`,
		tests: "TestAStaleAnswerIsServedAtOnceAndRefreshedOnce",
	},
	{
		name: "an outage takes customers' access away",
		rule: "in grace an answer is served while Polar is unreachable",
		file: "cache.go",
		old: `	if now < e.graceUntil.Load() {
		c.counts.served[cacheGrace].Add(1)
		return e.value.Load(), nil
	}
	return nil, err`,
		new:   `	return nil, err`,
		tests: "TestAnHourWithoutPolarServesThoseWhoAreKnownAndNobodyElse|TestRefreshServesWhatIsInGraceWhenNobodyCanSay",
	},
	{
		name: "a customer's grace never ends",
		rule: "a grace time",
		file: "cache.go",
		old: `	if now < e.graceUntil.Load() {
		c.counts.served[cacheGrace].Add(1)`,
		new: `	if now >= 0 {
		c.counts.served[cacheGrace].Add(1)`,
		tests: "TestAgesOfAnswersAreExact|TestAnHourWithoutPolarServesThoseWhoAreKnownAndNobodyElse",
	},
	{
		name:  "who looked just before an answer came asks again",
		rule:  "all who want to know at the same time ask once",
		file:  "cache.go",
		old:   `ok && when == unlessFresh {`,
		new:   `ok && when == unlessFresh && value == nil {`,
		tests: "TestWhoLookedJustBeforeAnAnswerCameDoesNotAskAgain",
	},
	{
		name:  "who asks for a newer answer gets the old one",
		rule:  "Refresh asks however fresh the last answer is",
		file:  "cache.go",
		old:   `ok && when == unlessFresh {`,
		new:   `ok && (when == unlessFresh || when == inAnyCase) {`,
		tests: "TestWhoLookedJustBeforeAnAnswerCameDoesNotAskAgain",
	},
	{
		name: "each request in an outage waits for Polar",
		rule: "who is in grace does not wait for a Polar that has just not answered",
		file: "cache.go",
		old: `	if now < e.graceUntil.Load() && c.inOutage(key.kind, e, now) {
`,
		new: `	if now < e.graceUntil.Load() && c.inOutage(key.kind, e, now) && now < 0 {
`,
		tests: "TestAnOutageInWhichPolarIsSilentHoldsUpAKnownCustomerOnce",
	},
	{
		name:  "in an outage Polar is asked again and again",
		rule:  "a failure to refresh is believed for a moment",
		file:  "cache.go",
		old:   `	e.retryAt.Store(until(c.now(), pause))`,
		new:   `	e.retryAt.Store(until(c.now(), -pause))`,
		tests: "TestAnOutageInWhichPolarIsSilentHoldsUpAKnownCustomerOnce",
	},
	{
		name: "a license key is served past its expiry in grace",
		rule: "a key's own expiry counts while nobody can say",
		file: "cache.go",
		old: `		fresh, stale, grace = min(fresh, left), min(stale, left), min(grace, left)
		e.expires.Store(until(now, left))`,
		new:   `		_ = left`,
		tests: "TestAKeyKeepsWorkingInGraceButNeverPastItsExpiry",
	},
	{
		name:  "who gives up takes the question with them",
		rule:  "one flight per customer, whoever goes",
		file:  "customers.go",
		old:   `	c.cache.flights.Keep = config.Timeout`,
		new:   `	c.cache.flights.Keep = 0`,
		tests: "TestCallersWhoGiveUpShareOneQuestion",
	},
	{
		name:  "work that hangs is joined for ever",
		rule:  "a question that is too old is given up",
		file:  "internal/flight/flight.go",
		old:   `time.Since(f.began) < g.Keep {`,
		new:   `g.Keep > 0 {`,
		tests: "TestWorkThatHangsIsNotKeptForEver",
	},
	{
		name:  "an answer that breaks off is about one customer alone",
		rule:  "others do not wait for a server that has just not answered",
		file:  "cache.go",
		old:   `	return brokeOff ||`,
		new:   `	return brokeOff && failure == nil ||`,
		tests: "TestWhichFailuresOpenARouteOfKeys|TestALineThatDripsHoldsUpOneCustomerAndNotAll",
	},
	{
		name:  "an id is quoted in an error",
		rule:  "keys, tokens and addresses never reach an error",
		file:  "redact.go",
		old:   `quoted[1 : len(quoted)-1]}`,
		new:   `quoted}`,
		tests: "TestAnIdIsInNoErrorThatQuotesIt",
	},
	{
		name:  "a refresh is answered by an older question",
		rule:  "Refresh asks now",
		file:  "customers.go",
		old:   `	if err == nil && c.cache.askedBefore(customer.key, began) {`,
		new:   `	if err == nil && began < 0 {`,
		tests: "TestARefreshIsNotAnsweredByAnOlderQuestion",
	},
	{
		name:  "what lasts for ever is over at once",
		rule:  "a setting or an expiry that is far away does not come round",
		file:  "cache.go",
		old:   `	if int64(d) > math.MaxInt64-now {`,
		new:   `	if int64(d) > math.MaxInt64 {`,
		tests: "TestSettingsThatMeanForEverNeverEnd|TestAKeyThatExpiresInManyYearsSurvivesAnOutage",
	},
	{
		name:  "a customer out of grace waits each time",
		rule:  "a failure is believed for a moment",
		file:  "cache.go",
		old:   `	if last := e.failure.Load(); last != nil && now < last.until {`,
		new:   `	if last := e.failure.Load(); last != nil && now < 0 {`,
		tests: "TestACustomerOutOfGraceDoesNotWaitForAServerThatHasJustNotAnswered|TestAKeyThatIsKnownButCannotBeCheckedIsAskedAboutOnceASecond",
	},
	{
		name:  "an error about a short id is taken apart",
		rule:  "errors tell a person what to do next",
		file:  "customers.go",
		old:   `	if len(r.key.id) < 6 {`,
		new:   `	if r.key.id == "" {`,
		tests: "TestAnErrorAboutAShortIdCanBeRead",
	},

	// Who is not known.
	{
		name:  "a 404 is dated by the clock here",
		rule:  "what is younger is told by Polar's clock alone",
		file:  "customers.go",
		old:   `		if e, ok := errors.AsType[*Error](err); ok && !e.date.IsZero() {`,
		new:   `		if e, ok := errors.AsType[*Error](err); ok && e.date.Year() == 0 {`,
		tests: "TestA404IsDatedByPolarsClock",
	},
	{
		name:  "an unknown customer is an error",
		rule:  "404 is an ordinary customer without entitlements",
		file:  "customers.go",
		old:   `	if isNotFound(err) {`,
		new:   `	if err == nil && value == nil {`,
		tests: "TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook",
	},
	{
		name:  "an unknown customer is asked about at each request",
		rule:  "who is not known is cached briefly",
		file:  "cache.go",
		old:   `	if e, ok := c.unknown.Get(key); ok && now < e.freshUntil.Load() {`,
		new:   `	if e, ok := c.unknown.Get(key); ok && now < 0 {`,
		tests: "TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook",
	},
	{
		name:  "who has just bought is unknown for as long as others are known",
		rule:  "who is not known is cached briefly",
		file:  "cache.go",
		old:   `		fresh, stale, grace = min(fresh, c.negative), 0, 0`,
		new:   `		stale, grace = 0, 0`,
		tests: "TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook",
	},
	{
		name: "a flood of unknown ids pushes out those who are known",
		rule: "who is not known is cached apart",
		file: "cache.go",
		old: `	default:
		e = &entry{}
		c.unknown.Add(key, e)
	}`,
		new: `	default:
		e = &entry{}
		c.known[key.kind].Add(key.id, e)
		c.known[key.kind].Get(key.id)
	}`,
		tests: "TestAFloodOfUnknownIdsDoesNotPushOutThoseWhoAreKnown|TestAnUnknownCustomerIsRememberedBrieflyAndKnownAtOnceAfterAWebhook",
	},
	{
		name:  "one customer's strange id shuts out all newcomers",
		rule:  "what was said to one question may be about that one alone",
		file:  "cache.go",
		old:   `	if ofEverybody(err) {`,
		new:   `	if err != nil {`,
		tests: "TestAnIdThatAFirewallDoesNotLikeShutsOutNobodyElse",
	},
	{
		name:  "each newcomer waits for a server that does not answer",
		rule:  "an outage is believed of everybody for a moment",
		file:  "cache.go",
		old:   `	if ofEverybody(err) {`,
		new:   `	if err == nil {`,
		tests: "TestNewcomersDoNotWaitForAServerThatHasJustNotAnswered",
	},

	// Flights.
	{
		name:  "each request for a cold customer asks Polar",
		rule:  "one flight per customer",
		file:  "cache.go",
		old:   `	return flight.Do(ctx, &c.flights, string('0'+rune(key.kind))+key.id, func(`,
		new:   `	return flight.Do(ctx, &c.flights, string(rune(rand.Int32N(1<<15)))+string('0'+rune(key.kind))+key.id, func(`,
		tests: "TestAThousandWhoAskAboutOneColdCustomerAskPolarOnce",
	},
	{
		name:  "ids of different kinds share a flight",
		rule:  "one flight per customer",
		file:  "cache.go",
		old:   `string('0'+rune(key.kind))+key.id`,
		new:   `key.id`,
		tests: "TestTwoWhoAreAskedAboutAtOnceByTheSameTextAreNotMixed",
	},
	{
		name:  "a refresh that hangs is never given up",
		rule:  "a flight has its own timeout",
		file:  "cache.go",
		old:   `	ctx, cancel := context.WithTimeout(c.life, c.timeout)`,
		new:   `	ctx, cancel := context.WithCancel(c.life)`,
		tests: "TestARefreshThatHangsIsBoundedByTheTimeoutAndByEachCallersContext",
	},
	{
		name:  "a caller who leaves ends the flight of the others",
		rule:  "a flight has its own context",
		file:  "internal/flight/flight.go",
		old:   `		f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))`,
		new:   `		f.ctx, f.cancel = context.WithCancel(ctx)`,
		tests: "TestACallerThatLeavesDoesNotCancelTheOthers",
	},
	{
		name: "a caller waits for the flight whatever its own context says",
		rule: "callers select on their own contexts",
		file: "internal/flight/flight.go",
		old: `	case <-ctx.Done():
		g.leave(name, f)`,
		new: `	case <-f.ctx.Done():
		g.leave(name, f)`,
		tests: "TestACallersDeadlineIsTheCallersAlone|TestACallerThatLeavesDoesNotCancelTheOthers",
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
	{
		name: "who comes after a flight gets its old answer",
		rule: "a flight is shared by those who ask at the same time",
		file: "internal/flight/flight.go",
		old: `		delete(g.waiting, name)
		g.group.Forget(name)
	}
	f.cancel()
}

// leave`,
		new: `		g.group.Forget(name)
	}
	f.cancel()
}

// leave`,
		tests: "TestCallsOneAfterTheOtherRunEachTime",
	},

	// Ids.
	{
		name:  "a question mark in an external id cuts the path",
		rule:  "external ids are path-escaped",
		file:  "customers.go",
		old:   `url.PathEscape(r.key.id)`,
		new:   `strings.ReplaceAll(url.PathEscape(r.key.id), "%3F", "?")`,
		tests: "TestExternalIdsOfEveryKindReachTheirCustomer",
	},
	{
		name:  "an external id of two dots asks about somebody else",
		rule:  "the external ids . and .. are refused",
		file:  "customers.go",
		old:   `	case id == "." || id == ".." ||`,
		new:   `	case id == "." ||`,
		tests: "TestExternalIdsOfEveryKindReachTheirCustomer|TestAnIdThatIsRefusedWhenAskedAboutIsNotServedAfterAnEventEither",
	},
	{
		name: "a refused token is kept to oneself",
		rule: "a token that Polar refuses is reported by Stats",
		file: "customers.go",
		old: `	*noted = err
}`,
		new: `	_ = *noted
}`,
		tests: "TestATokenThatPolarRefusesIsToldAtTheFirstUseAndInStatsUntilItWorks",
	},
	{
		name:  "a key for another product of the vendor is let in",
		rule:  "a key of any other benefit is refused as wrong_benefit",
		file:  "customers.go",
		old:   `	case err == nil && len(c.config.Features) > 0 && !hasFeatures(c.config.Features, license.BenefitID):`,
		new:   `	case err == nil && license.BenefitID == "":`,
		tests: "TestLicenseKeysAreRefusedForWhatIsWrongWithThem",
	},

	// Spend.
	{
		name:  "more is spent than there is",
		rule:  "balances are debited locally, and not below nothing",
		file:  "cache.go",
		old:   `	if i < 0 || value.meters[i].Balance < cost.units {`,
		new:   `	if i < 0 {`,
		tests: "TestSpendingAtTheSameTimeNeverExceedsTheBalance",
	},
	{
		name: "what is spent is not taken off",
		rule: "balances are debited locally between refreshes",
		file: "cache.go",
		old: `	e.value.Store(rest)
	e.takeOff`,
		new:   `	e.takeOff`,
		tests: "TestSpendingAtTheSameTimeNeverExceedsTheBalance",
	},
	{
		name: "units are given back twice",
		rule: "what was spent is given back once",
		file: "cache.go",
		old: `	var once sync.Once
	return rest, func(back bool) {
		once.Do(func() {`,
		new: `	return rest, func(back bool) {
		func(f func()) { f() }(func() {`,
		tests: "TestSpendingIsGivenBackOnceAndNotAfterANewAnswer",
	},
	{
		name:  "units are given back on top of a new balance",
		rule:  "a new balance of Polar's counts",
		file:  "cache.go",
		old:   `!untilEnd && question < e.base {`,
		new:   `!untilEnd && question < 0 {`,
		tests: "TestSpendingIsGivenBackOnceAndNotAfterANewAnswer",
	},
	{
		name:  "what is spent while Polar is asked is forgotten",
		rule:  "an answer leaves alone what was spent since the question",
		file:  "cache.go",
		old:   `			value = value.withMeter(i, value.meters[i].Balance-units)`,
		new:   `			value = value.withMeter(i, value.meters[i].Balance-0*units)`,
		tests: "TestWhatIsSpentWhilePolarIsAskedIsNotForgotten",
	},
	{
		name:  "what was spent before Polar was asked is taken off twice",
		rule:  "a new balance of Polar's counts",
		file:  "cache.go",
		old:   `	e.spent = nil`,
		new:   `	_ = e.spent`,
		tests: "TestWhatIsSpentWhilePolarIsAskedIsNotForgotten|TestSpendingIsGivenBackOnceAndNotAfterANewAnswer",
	},
	{
		name:  "what was given back while Polar was asked is taken off by the answer",
		rule:  "what was spent is given back once",
		file:  "cache.go",
		old:   `				e.spent[cost.meter] -= cost.units`,
		new:   `				e.spent[cost.meter] -= 0 * cost.units`,
		tests: "TestWhatIsSpentWhilePolarIsAskedIsNotForgotten",
	},
	{
		name: "what a request under way spends is forgotten when Polar is asked",
		rule: "a cost stays taken off until the handler ends",
		file: "cache.go",
		old: `	for d := range e.underWay {
		e.takeOff(d)`,
		new: `	for d := range e.underWay {
		_ = d`,
		tests: "TestWhatARequestUnderWaySpendsStaysTakenOffWhateverPolarSaysMeanwhile|TestSpendingAgreesWithAModelWhateverComesInBetween",
	},
	{
		name:  "what a request spent is taken off for ever",
		rule:  "a new balance of Polar's counts",
		file:  "cache.go",
		old:   `			delete(e.underWay, &cost)`,
		new:   `			_ = &cost`,
		tests: "TestWhatARequestUnderWaySpendsStaysTakenOffWhateverPolarSaysMeanwhile|TestSpendingAgreesWithAModelWhateverComesInBetween",
	},
	{
		name:  "what a request spent comes back after a good answer too",
		rule:  "a cost is given back after nothing but a failure",
		file:  "cache.go",
		old:   `			if !back || !untilEnd`,
		new:   `			if !untilEnd`,
		tests: "TestUnitsComeBackAfterAPanicOrA5xxAndAfterNothingElse",
	},
	{
		name:  "what is spent while Polar is asked cannot be given back",
		rule:  "what was spent is given back once",
		file:  "cache.go",
		old:   `!untilEnd && question < e.base {`,
		new:   `!untilEnd && question <= e.base {`,
		tests: "TestWhatIsSpentWhilePolarIsAskedIsNotForgotten",
	},
	{
		name: "a customer who was pushed out of the cache is told to pay",
		rule: "balances are debited locally between refreshes",
		file: "cache.go",
		old: `	if !found {
		return rest, func(bool) {}
	}`,
		new: `	if !found {
		return nil, nil
	}`,
		tests: "TestACostIsTakenOffForWhoIsNoLongerInTheCache",
	},
}
