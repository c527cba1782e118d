package main

var limits = []mutant{
	{
		name: "four requests leave within a second",
		rule: "three permits",
		file: "internal/pace/permits.go",
		old: `	permits = 3
`,
		new:   "\tpermits = 4\n",
		tests: "TestPacedRequestsAreNeverRefusedWhateverTheNetworkDelays",
	},
	{
		name:  "a permit is used again within Polar's second",
		rule:  "a permit rests 1.05 s",
		file:  "internal/pace/permits.go",
		old:   `	rest = 1050 * time.Millisecond`,
		new:   `	rest = 950 * time.Millisecond`,
		tests: "TestPacedRequestsAreNeverRefusedWhateverTheNetworkDelays",
	},
	{
		name: "a permit rests from its request on",
		rule: "a permit rests after its own answer",
		file: "internal/pace/permits.go",
		old: `		next.inUse = true
		mine = next
		return 0
	})
	if err != nil {
		return nil, err
	}
	return func(o Outcome) { p.finish(mine, o) }, nil`,
		new: `		next.ready = time.Now().Add(rest)
		mine = next
		return 0
	})
	if err != nil {
		return nil, err
	}
	return func(Outcome) { _ = mine }, nil`,
		tests: "TestAPermitRestsByHowItsRequestEnded",
	},
	{
		name:  "a request that may still be on its way rests like an answered one",
		rule:  "a permit whose request timed out rests longer",
		file:  "internal/pace/permits.go",
		old:   `	lostRest = 5 * time.Second`,
		new:   `	lostRest = rest`,
		tests: "TestAPermitWhoseRequestTimedOutRestsLonger",
	},
	{
		name:  "the caller that came last goes first",
		rule:  "requests go in the order of arrival",
		file:  "internal/pace/pace.go",
		old:   `	l.waiting = append(l.waiting, me)`,
		new:   `	l.waiting = append([]chan struct{}{me}, l.waiting...)`,
		tests: "TestPermitsAreGivenInTheOrderOfArrival|TestCallersGetRequestsOfABudgetInTheOrderOfArrival",
	},
	{
		name: "each gate paces itself alone",
		rule: "the limit is shared by all gates in the process",
		file: "internal/pace/permits.go",
		old: `	p, _ := addresses.LoadOrStore(server, newPermits(sharedDir(server, longest)))
	return p.(*Permits)`,
		new:   `	return newPermits(sharedDir(server, longest))`,
		tests: "TestClientsOfOneServerShareItsLimitsAndOthersDoNot",
	},
	{
		name:  "each program paces itself alone",
		rule:  "the limit is shared by every program of this user",
		file:  "internal/pace/permits.go",
		old:   `	if err != nil || strings.HasSuffix(host, ".test") {`,
		new:   `	if err != nil || strings.Contains(host, ".") {`,
		tests: "TestProgramsStartedAtOnceKeepToPolarsLimitAndNoneIsRefused|TestAPauseThatOneProgramLearntIsKeptByAll",
	},
	{
		name: "without a shared folder nobody may ask",
		rule: "without a writable folder, the limit is kept in the process only",
		file: "internal/pace/permits.go",
		old: `		// Files can't be shared here, so this process keeps to the limit by itself.
		return finish, nil
`,
		new:   ``,
		tests: "TestWithoutACacheFolderAProgramPacesItselfAlone",
	},
	{
		name:  "the permit of a killed program is free at once",
		rule:  "a request of a killed program may still be on its way",
		file:  "internal/pace/shared.go",
		old:   `		last = record{false, now.Add(dir.LongestRest)}`,
		new:   `		last = record{false, now}`,
		tests: "TestAKilledProgramLeavesNoStuckPermit",
	},
	{
		name:  "on Windows, a suspended program holds its permit forever",
		rule:  "a permit that a suspended program holds is replaced",
		file:  "internal/pace/shared.go",
		old:   `owned.Touch(dir.lockPath(i, lock+1),`,
		new:   `owned.Touch(dir.lockPath(i, lock),`,
		tests: "TestASuspendedProgramDoesNotBlockOthersForever",
	},
	{
		name: "a clock that was far ahead silences all programs forever",
		rule: "a wait longer than any that is ever set is ignored",
		file: "internal/pace/pace.go",
		old: `	if wait > limit {
		return 0
	}`,
		new: `	if wait > limit && limit == 0 {
		return 0
	}`,
		tests: "TestImpossibleRecordsDelayNoCallerForLong",
	},

	// Contexts.
	{
		name:  "a call that ended with a cause is an outage",
		rule:  "net/http reports a context's cause over HTTP/1.1",
		file:  "client.go",
		old:   `	if cause := context.Cause(ctx); err != nil && cause != ctx.Err() && errors.Is(err, cause) {`,
		new:   `	if cause := context.Cause(ctx); err == nil && cause != ctx.Err() {`,
		tests: "TestACallThatItsCallerEndedWithACauseIsNotAnOutage",
	},

	// Pauses.
	{
		name:  "a Retry-After is forgotten",
		rule:  "the whole process obeys Retry-After",
		file:  "client.go",
		old:   `		c.pace.PauseFor(e.RetryAfter)`,
		new:   `		c.pace.PauseFor(0)`,
		tests: "TestAfterA429NoRequestIsSentBeforeThePauseIsOver|TestAPauseIsKeptByEverybodyAndThenOver",
	},
	{
		name:  "a Retry-After silences a program for days",
		rule:  "Retry-After is capped",
		file:  "wire.go",
		old:   `	return min(max(d, time.Second), maxPause)`,
		new:   `	return max(d, time.Second)`,
		tests: "TestRetryAfterIsReadInBothFormsAndCapped",
	},
	{
		name:  "a 429 without a Retry-After is over in a second",
		rule:  "a fourth request blocks the address for 60 s",
		file:  "wire.go",
		old:   `	defaultPause = time.Minute`,
		new:   `	defaultPause = time.Second`,
		tests: "TestRetryAfterIsReadInBothFormsAndCapped",
	},
	{
		name:  "only the process that Polar told keeps a pause",
		rule:  "Retry-After is remembered for every program of this user",
		file:  "internal/pace/permits.go",
		old:   `		p.shared.Pause(d)`,
		new:   `		p.shared.Pause(0)`,
		tests: "TestAPauseThatOneProgramLearntIsKeptByAll",
	},
	{
		name:  "callers who wait don't learn of a pause",
		rule:  "Polar is not asked before Retry-After is over",
		file:  "internal/pace/pace.go",
		old:   `		if left := l.pauseLeft(); left > 0 {`,
		new:   `		if left := l.pauseLeft(); left > 0 && len(l.waiting) == 1 {`,
		tests: "TestAPauseEndsWaitsForAPermitAtOnce",
	},
	{
		name: "a client with a token asks during a Retry-After",
		rule: "Retry-After is obeyed",
		file: "internal/pace/budget.go",
		old: `	b.line.pauseFor(d)
	b.keep()`,
		new:   `	b.keep()`,
		tests: "TestAWaitForABudgetThatTheDeadlineForbidsFailsAtOnce|TestAPauseEndsWaitsForABudgetAtOnce",
	},

	// Deadlines.
	{
		name: "a wait begins although it is longer than the deadline allows",
		rule: "a wait that is too long for the deadline fails at once",
		file: "internal/pace/pace.go",
		old: `time.Until(deadline) <= wait {
			return &LateError`,
		new: `time.Until(deadline) <= 0 {
			return &LateError`,
		tests: "TestAWaitForAPermitThatTheDeadlineForbidsFailsAtOnce|TestAWaitForABudgetThatTheDeadlineForbidsFailsAtOnce",
	},
	{
		name:  "our own pace is reported as Polar being down",
		rule:  "a limiter's own delay is never reported as Polar being down",
		file:  "client.go",
		old:   `	e := &Error{Op: op, Reason: ErrRateLimited, Detail: err.Error()}`,
		new:   `	e := &Error{Op: op, Reason: ErrUnreachable, Detail: err.Error()}`,
		tests: "TestOurOwnPaceIsNeverReportedAsAnOutage",
	},

	// With a token.
	{
		name:  "more requests than the limit are sent in a minute",
		rule:  "300 a minute",
		file:  "internal/pace/budget.go",
		old:   `	refill := max(1, perMinute-burst)`,
		new:   `	refill := perMinute`,
		tests: "TestNoMinuteSeesMoreRequestsThanItsBudget",
	},
	{
		name: "each client of a token has a limit of its own",
		rule: "Polar counts by organization",
		file: "internal/pace/budget.go",
		old: `	b := tokens.inUse[name].Value()
	if b == nil {`,
		new: `	b := tokens.inUse[name].Value()
	if b != nil || perMinute != 0 {`,
		tests: "TestClientsOfOneServerShareItsLimitsAndOthersDoNot",
	},
	{
		name:  "the first limit of a token counts",
		rule:  "of several allowances the last that was set counts",
		file:  "internal/pace/budget.go",
		old:   `	if perMinute == b.perMinute {`,
		new:   `	if b.perMinute != 0 {`,
		tests: "TestOfSeveralBudgetsForATokenTheLastThatWasSetCounts|TestALargerBudgetAppliesToCallersAlreadyWaiting",
	},
	{
		name: "a caller who has given up takes a request off the limit",
		rule: "a caller who gives up takes no request off the limit",
		file: "internal/pace/pace.go",
		old: `	if err := ctx.Err(); err != nil {
		return &StoppedError{Limit: l.limit, Err: err}
	}
	me`,
		new:   `	me`,
		tests: "TestACallThatWasCancelledBeforeTakesNoTurn",
	},
	{
		name:  "the turn of a caller who leaves is lost",
		rule:  "a caller who gives up takes no request off the limit",
		file:  "internal/pace/pace.go",
		old:   `	if i == 0 {`,
		new:   `	if i < 0 {`,
		tests: "TestACallerDoesNotWaitForOthersWhoGaveUp|TestACallerThatGivesUpWaitingLeavesItsPlaceToTheNext",
	},
	{
		name:  "unseen customers may use up all requests",
		rule:  "unseen customers can't starve known ones",
		file:  "internal/memory/questions.go",
		old:   `e == nil && l.Unit == nil {`,
		new:   `e != nil && l.Unit == nil {`,
		tests: "TestNewCustomersDoNotStarveRefreshesOfKnownOnes",
	},
	{
		name:  "made-up keys use up the requests of new customers",
		rule:  "keys and customers never seen before have shares of their own",
		file:  "customers.go",
		old:   `customers, keys := c.budget.UnseenCustomers(), c.budget.UnseenKeys()`,
		new:   `customers, keys := c.budget.UnseenCustomers(), c.budget.UnseenCustomers()`,
		tests: "TestAFloodOfUnknownKeysStarvesNeitherCustomersNorKnownKeys|TestNewCustomersDoNotStarveRefreshesOfKnownOnes",
	},
	{
		name:  "new customers don't get idle requests",
		rule:  "requests that are kept for known customers may be used while they are idle",
		file:  "internal/pace/budget.go",
		old:   `	if u.idle.limiter.Tokens()-float64(others) >= u.idle.leftForSeen() || u.share.Allow() {`,
		new:   `	if others < 0 || u.share.Allow() {`,
		tests: "TestNewCustomersGetTheRequestsThatAreIdle",
	},
}
