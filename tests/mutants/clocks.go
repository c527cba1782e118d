package main

var clocks = []mutant{
	// The mark.
	{
		name:  "a clock two hours behind is believed",
		rule:  "a clock more than an hour behind the mark gives no offline access",
		file:  "offline.go",
		old:   `clockSlack = time.Hour`,
		new:   `clockSlack = 2 * time.Hour`,
		tests: "TestWhatAVerdictIsWorthAtAMoment",
	},
	{
		name:  "a clock half an hour behind locks",
		rule:  "a clock may be up to an hour behind the mark",
		file:  "offline.go",
		old:   `clockSlack = time.Hour`,
		new:   `clockSlack = 30 * time.Minute`,
		tests: "TestWhatAVerdictIsWorthAtAMoment",
	},
	{
		name: "a clock that was set back extends grace",
		rule: "within that hour, the mark counts as now",
		file: "offline.go",
		old: `	if now.Before(mark) {
		now = mark
	}
`,
		new:   ``,
		tests: "TestAClockSetBackNeverAllowsMoreThanTheTrueTime|TestWhatAVerdictIsWorthAtAMoment",
	},
	{
		name: "an unanswered question moves the mark back",
		rule: "a high-water mark of time is kept",
		file: "offline.go",
		old: `	if now.After(v.HighWater) {
		v.HighWater = now
	}
`,
		new:   "\tv.HighWater = now\n",
		tests: "TestEachOutcomeTurnsTheLastVerdictIntoTheNext",
	},
	{
		name: "a clock that was far ahead locks for ever",
		rule: "a granted answer repairs the mark",
		file: "offline.go",
		old:  `		if skew := license.answeredAt.Sub(now); skew.Abs() > maxSkew {`,
		new: `		if last != nil && last.HighWater.After(now) {
			v.HighWater = last.HighWater
		}
		if skew := license.answeredAt.Sub(now); skew.Abs() > maxSkew {`,
		tests: "TestAClockThatGoesBackBuysNoTime|TestNoClockMakesGraceEndlessAndNoSmallCorrectionAlarms",
	},
	{
		name:  "a wrong clock moves the expiry",
		rule:  "Polar's Date corrects this computer's clock where an expiry is concerned",
		file:  "offline.go",
		old:   `		expiry = v.ExpiresAt.Add(-v.Skew)`,
		new:   `		expiry = v.ExpiresAt`,
		tests: "TestWhatAVerdictIsWorthAtAMoment",
	},
	{
		name:  "an outage from before the clock was set back still counts",
		rule:  "a wrong clock never locks out a customer who is online",
		file:  "offline.go",
		old:   `	return !now.Before(v.HighWater) && pace.Within(`,
		new:   `	return pace.Within(`,
		tests: "TestAnOutageOfBeforeTheClockWasSetBackIsNotBelieved",
	},

	// Expiry.
	{
		name: "a key's own expiry does not count offline",
		rule: "a key's own expires_at counts while offline",
		file: "offline.go",
		old: `	if !v.ExpiresAt.IsZero() {
		expiry`,
		new: `	if v.ExpiresAt.Equal(v.CheckedAt) {
		expiry`,
		tests: "TestWhatAVerdictIsWorthAtAMoment|TestABlockedNetworkLastsAsLongAsGraceAndNeverPastTheKeysEnd",
	},
	{
		name: "an expiry that was moved is not taken in",
		rule: "a grant brings the expiry as Polar says it now",
		file: "offline.go",
		old:  `		v := &verdict{Serial: serial, CheckedAt: now, BenefitID:`,
		new: `		if last != nil && !last.ExpiresAt.IsZero() {
			license.ExpiresAt = last.ExpiresAt
		}
		v := &verdict{Serial: serial, CheckedAt: now, BenefitID:`,
		tests: "TestExpiryAndBenefitAreThoseThatPolarHasNow|TestARevokedLicenseRecoversAndExpiryIsTheOneOfToday",
	},

	// Freshness.
	{
		name: "Polar is asked although the stored verdict is fresh",
		rule: "Check with a fresh verdict asks nobody",
		file: "check.go",
		old: `	case now.Before(s.freshUntil):
		if renewable`,
		new: `	case now.Before(s.freshUntil) && when == renewal:
		if renewable`,
		tests: "TestCheckAsksPolarOnlyWhenItIsDue",
	},
	{
		name:  "nothing is renewed before it is stale",
		rule:  "past half its freshness, Check renews an answer in the background",
		file:  "check.go",
		old:   `	return (s.state == Active || s.state == Perpetual) && now.After(renewalOf(v, s)) && !v.backingOff(now)`,
		new:   `	return (s.state == Active || s.state == Perpetual) && now.After(s.freshUntil) && !v.backingOff(now)`,
		tests: "TestShortRunsPastHalfFreshnessAskOnce|TestManyChecksPastHalfFreshnessRenewOnce",
	},
	{
		name:  "a network that hangs holds up every short run",
		rule:  "after a failure, Polar is not asked again at once",
		file:  "check.go",
		old:   `	return (s.state == Active || s.state == Perpetual) && now.After(renewalOf(v, s)) && !v.backingOff(now)`,
		new:   `	return (s.state == Active || s.state == Perpetual) && now.After(renewalOf(v, s))`,
		tests: "TestShortRunsAreHeldUpOnceByANetworkThatHangs",
	},
	{
		name: "a Check waits for as long as Polar takes",
		rule: "Check is bounded by CheckTimeout",
		file: "check.go",
		old: `	ctx, cancel := context.WithTimeout(ctx, g.budget.all)
	defer cancel()
	out, err := flight.Do(`,
		new: `	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, err := flight.Do(`,
		tests: "TestACheckThatFinishesAMoveKeepsToCheckTimeout",
	},
	{
		name:  "a pause that Polar asked for is not kept with the verdict",
		rule:  "Polar is not asked again before Retry-After is over",
		file:  "offline.go",
		old:   `v.LastFailure, v.Cause, pause = e.Reason, e.cause(), max(pause, e.RetryAfter)`,
		new:   `v.LastFailure, v.Cause = e.Reason, e.cause()`,
		tests: "TestEachOutcomeTurnsTheLastVerdictIntoTheNext",
	},

	// Grace.
	{
		name:  "grace never ends",
		rule:  "grace is bounded",
		file:  "offline.go",
		old:   `	case now.Before(s.graceUntil):`,
		new:   `	case !now.IsZero():`,
		tests: "TestALicenseAgesFromFreshToGraceToLocked|TestWhatAVerdictIsWorthAtAMoment",
	},
	{
		name:  "an unanswered question extends grace",
		rule:  "grace is counted from the last granted verdict",
		file:  "offline.go",
		old:   `	v.Failures, v.LastFailure, v.Cause = v.Failures+1, ErrUnreachable, ""`,
		new:   `	v.Failures, v.LastFailure, v.Cause, v.CheckedAt = v.Failures+1, ErrUnreachable, "", now`,
		tests: "TestFailedAttemptsDoNotStretchGrace",
	},
	{
		name:  "no feature is unlocked in grace",
		rule:  "in grace the last granted verdict still counts",
		file:  "publish.go",
		old:   `	if next.status.OK() {`,
		new:   `	if next.status.State == Active {`,
		tests: "TestALicenseAgesFromFreshToGraceToLocked",
	},
	{
		name:  "features stay unlocked when grace ends",
		rule:  "the snapshot is replaced at its deadline",
		file:  "publish.go",
		old:   `	if next.status.OK() {`,
		new:   `	if next.status.State != Unlicensed {`,
		tests: "TestALicenseAgesFromFreshToGraceToLocked|TestARefusalLocksUntilPolarGrantsAgain",
	},

	// Denials.
	{
		name: "cutting the network brings a refused key back",
		rule: "a denial ends grace at once",
		file: "offline.go",
		old: `	if v.Refused != "" {
		s :=`,
		new: `	if v.Refused != "" && v.LastFailure == "" {
		s :=`,
		tests: "TestWhatAVerdictIsWorthAtAMoment|TestCuttingTheNetworkDoesNotBringBackARefusedKey",
	},
	{
		name:  "a denial is not stored",
		rule:  "a denial ends grace at once",
		file:  "offline.go",
		old:   `	case isDenial(err):`,
		new:   `	case isDenial(err) && last == nil:`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestCuttingTheNetworkDoesNotBringBackARefusedKey",
	},
	{
		name:  "a denial is final",
		rule:  "no denial is final",
		file:  "record.go",
		old:   `	if rec.trouble != "" || !rec.state.Seat.same(e.of) {`,
		new:   `	if rec.trouble != "" || rec.verdict != nil && rec.verdict.Refused != "" || !rec.state.Seat.same(e.of) {`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestARevokedLicenseRecoversAndExpiryIsTheOneOfToday",
	},
	{
		name:  "the clock decides which of two answers is later",
		rule:  "the answer that came later counts, whatever the clock says",
		file:  "offline.go",
		old:   `cmp.Or(cmp.Compare(v.Serial, w.Serial), byTime,`,
		new:   `cmp.Or(byTime,`,
		tests: "TestTheCountAndNotTheClockTellsWhichAnswerCameLater",
	},
	{
		name:  "a disk that fails takes a running program's license",
		rule:  "a disk that fails decides nothing",
		file:  "record_io.go",
		old:   `		case known.state.Seat != nil, known.trying():`,
		new:   `		case known.state.Seat != nil && known.unread == nil:`,
		tests: "TestADiskThatFailsUnderARunningProgramDecidesNothing",
	},
}
