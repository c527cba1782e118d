package main

var limits = []mutant{
	{
		name: "four requests leave within a second",
		rule: "three permits",
		file: "ratelimit.go",
		old: `	permits = 3
`,
		new:   "\tpermits = 4\n",
		tests: "TestThePacerIsNeverRefusedWhateverTheNetworkDelays",
	},
	{
		name:  "a permit is used again within Polar's second",
		rule:  "a permit rests 1.05 s",
		file:  "ratelimit.go",
		old:   `	rest = 1050 * time.Millisecond`,
		new:   `	rest = 950 * time.Millisecond`,
		tests: "TestThePacerIsNeverRefusedWhateverTheNetworkDelays|TestAPermitRestsByHowItsRequestEnded",
	},
	{
		name: "a permit rests from its request on",
		rule: "a permit rests after its own answer",
		file: "ratelimit.go",
		old: `					p.own[i].inUse = true
					return func(o outcome) { p.finish(i, o) }, nil`,
		new: `					p.own[i].ready = now.Add(rest)
					return func(outcome) {}, nil`,
		tests: "TestThePacerIsNeverRefusedWhateverTheNetworkDelays|TestAPermitRestsByHowItsRequestEnded",
	},
	{
		name:  "a request that may be on its way still rests like one that was answered",
		rule:  "a permit whose request timed out rests longer",
		file:  "ratelimit.go",
		old:   `	lostRest = 5 * time.Second`,
		new:   `	lostRest = rest`,
		tests: "TestRequestsInTheOutageOfATimeoutRestLonger|TestAPermitRestsByHowItsRequestEnded",
	},
	{
		name:  "who came last is served first",
		rule:  "requests go in the order of arrival",
		file:  "ratelimit.go",
		old:   `	p.queue = append(p.queue, me)`,
		new:   `	p.queue = append([]chan struct{}{me}, p.queue...)`,
		tests: "TestWhoWaitsIsServedInTheOrderOfArrival",
	},
	{
		name: "each gate paces itself alone",
		rule: "the limit is shared by all gates in the process",
		file: "ratelimit.go",
		old: `	p, _ := pacers.LoadOrStore(server, &pacer{shared: sharedPermits(server)})
	return p.(*pacer)`,
		new:   `	return &pacer{shared: sharedPermits(server)}`,
		tests: "TestClientsOfOneServerShareAPacerAndOthersDoNot",
	},
	{
		name:  "each program paces itself alone",
		rule:  "the limit is shared by every program of this user",
		file:  "ratelimit.go",
		old:   `	if err != nil || strings.HasSuffix(host, ".test") {`,
		new:   `	if err != nil || strings.Contains(host, ".") {`,
		tests: "TestTwentyProgramsStartedAtOnceKeepToPolarsLimitAndNoneIsRefused|TestAPauseThatOneProgramLearntIsKeptByAll",
	},
	{
		name: "without a shared folder nobody may ask",
		rule: "where the folder cannot be written, in process only",
		file: "ratelimit.go",
		old: `		// Files cannot be shared here: this process keeps to the limit alone.
		return done, nil
`,
		new:   ``,
		tests: "TestWithoutACacheFolderAProgramPacesItselfAlone",
	},
	{
		name:  "a killed program's permit is free at once",
		rule:  "what a killed program sent may be on its way still",
		file:  "internal/permit/permit.go",
		old:   `		last = record{false, now.Add(f.LongestRest)}`,
		new:   `		last = record{false, now}`,
		tests: "TestAKilledProgramLeavesNoStuckPermit",
	},
	{
		name: "a clock that was far ahead silences all programs for ever",
		rule: "a wait that cannot have been meant is none",
		file: "internal/permit/permit.go",
		old: `	if wait > limit {
		return 0
	}`,
		new: `	if wait > limit && limit == 0 {
		return 0
	}`,
		tests: "TestRecordsThatCannotBeRightHoldNobodyUpForLong",
	},

	// Pauses.
	{
		name:  "a Retry-After is forgotten",
		rule:  "Retry-After is obeyed by everybody in the process",
		file:  "client.go",
		old:   `		c.pace.pauseFor(e.RetryAfter)`,
		new:   `		c.pace.pauseFor(0)`,
		tests: "TestAfterA429NobodyAsksBeforeThePauseIsOver|TestAPauseIsKeptByEverybodyAndThenOver",
	},
	{
		name:  "a Retry-After silences a program for days",
		rule:  "Retry-After is capped",
		file:  "client.go",
		old:   `	return min(max(d, time.Second), maxPause)`,
		new:   `	return max(d, time.Second)`,
		tests: "TestRetryAfterIsReadInBothFormsAndCapped",
	},
	{
		name:  "a 429 without a Retry-After is over in a second",
		rule:  "a fourth request blocks the address for 60 s",
		file:  "client.go",
		old:   `	defaultPause = time.Minute`,
		new:   `	defaultPause = time.Second`,
		tests: "TestRetryAfterIsReadInBothFormsAndCapped",
	},
	{
		name:  "a pause is kept by the process alone that was told",
		rule:  "Retry-After is remembered for every program of this user",
		file:  "ratelimit.go",
		old:   `		p.shared.Pause(d)`,
		new:   `		p.shared.Pause(0)`,
		tests: "TestAPauseThatOneProgramLearntIsKeptByAll",
	},
	{
		name:  "a pause does not reach those who wait",
		rule:  "nobody asks before Retry-After is over",
		file:  "ratelimit.go",
		old:   `		if wait := within(p.paused.Sub(now), maxPause); wait > 0 {`,
		new:   `		if wait := within(p.paused.Sub(now), maxPause); wait > 0 && len(p.queue) == 1 {`,
		tests: "TestAPauseReachesAllWhoWaitForAPermitAtOnce",
	},
	{
		name: "a client with a token sleeps through a Retry-After before it says so",
		rule: "Retry-After is obeyed",
		file: "ratelimit.go",
		old: `	if err := m.pausing(); err != nil {
		return nil, err
	}
	turn`,
		new:   `	turn`,
		tests: "TestATokensLimitFailsAtOnceWhenTheDeadlineIsNearer",
	},

	// Deadlines.
	{
		name:  "a wait that the deadline forbids is begun all the same",
		rule:  "a wait that is too long for the deadline fails at once",
		file:  "ratelimit.go",
		old:   `ok && deadline.Sub(now) < wait {`,
		new:   `ok && deadline.Sub(now) < 0 {`,
		tests: "TestAWaitThatTheDeadlineForbidsFailsAtOnceAndIsNoOutage",
	},
	{
		name:  "our own pace is reported as Polar being down",
		rule:  "a limiter's own delay is never reported as Polar being down",
		file:  "ratelimit.go",
		old:   `return nil, &Error{Reason: ErrRateLimited, RetryAfter: wait, Detail: "Polar's limit`,
		new:   `return nil, &Error{Reason: ErrUnreachable, RetryAfter: wait, Detail: "Polar's limit`,
		tests: "TestAWaitThatTheDeadlineForbidsFailsAtOnceAndIsNoOutage",
	},

	// With a token.
	{
		name:  "a minute sees more than a token's allowance",
		rule:  "300 a minute",
		file:  "ratelimit.go",
		old:   `	refill := max(1, perMinute-burst)`,
		new:   `	refill := perMinute`,
		tests: "TestAMinuteOfATokenNeverSeesMoreThanItsAllowance",
	},
	{
		name: "each client of a token has an allowance of its own",
		rule: "Polar counts by organization",
		file: "ratelimit.go",
		old: `	shared, _ := tokenLimits.LoadOrStore(name, newMinuteLimit(cmp.Or(perMinute, byDefault)))
	m := shared.(*minuteLimit)`,
		new: `	tokenLimits.LoadOrStore(name, nil)
	m := newMinuteLimit(cmp.Or(perMinute, byDefault))`,
		tests: "TestClientsOfOneServerShareAPacerAndOthersDoNot|TestAMinuteOfATokenNeverSeesMoreThanItsAllowance|TestATokensLimitFailsAtOnceWhenTheDeadlineIsNearer",
	},
	{
		name:  "the first allowance of a token counts",
		rule:  "of several allowances the last that was set counts",
		file:  "ratelimit.go",
		old:   `	if perMinute != 0 && perMinute != m.perMinute {`,
		new:   `	if perMinute < 0 {`,
		tests: "TestOfSeveralAllowancesOfATokenTheLastThatWasSetCounts",
	},
	{
		name: "who has given up takes a request off the limit",
		rule: "who gives up leaves no debt",
		file: "client.go",
		old: `	if err := ctx.Err(); err != nil {
		return &Error{Op: x.op, Reason: ErrUnreachable, say: ended, Err: err}
	}
	done`,
		new:   `	done`,
		tests: "TestWhoHasGivenUpAlreadyTakesNothingOfALimit",
	},
	{
		name:  "strangers may use up all requests",
		rule:  "who was never seen cannot starve the known ones",
		file:  "cache.go",
		old:   `	if !c.known[key.kind].Contains(key.id) {`,
		new:   `	if c.known[key.kind].Contains(key.id) {`,
		tests: "TestNewcomersDoNotStarveTheRefreshesOfThoseWhoAreKnown",
	},
	{
		name:  "made-up keys use up what new customers may ask",
		rule:  "keys and customers never seen before have shares of their own",
		file:  "customers.go",
		old:   `newcomerLimit{limit.newKeys, nil}`,
		new:   `newcomerLimit{limit.newCustomers, limit}`,
		tests: "TestStrangeKeysInAFloodStarveNeitherCustomersNorKnownKeys|TestNewcomersDoNotStarveTheRefreshesOfThoseWhoAreKnown",
	},
	{
		name:  "what nobody else wants is kept from newcomers",
		rule:  "what is kept for the known ones may be used while they have no use for it",
		file:  "ratelimit.go",
		old:   `	if all.Tokens()-float64(others) >= float64(all.Burst())/2 || n.share.Allow() {`,
		new:   `	if others < 0 && all != nil || n.share.Allow() {`,
		tests: "TestNewcomersHaveTheRequestsThatNobodyElseWants",
	},
}
