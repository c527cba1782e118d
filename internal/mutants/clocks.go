package main

var clocks = []mutant{
	// The mark.
	{
		name:  "a clock two hours behind is believed",
		rule:  "a clock more than an hour behind the mark gives no offline access",
		file:  "offline.go",
		old:   `clockSlack = time.Hour`,
		new:   `clockSlack = 2 * time.Hour`,
		tests: "TestWhereAVerdictStands",
	},
	{
		name:  "a clock half an hour behind locks",
		rule:  "within an hour a clock may be behind the mark",
		file:  "offline.go",
		old:   `clockSlack = time.Hour`,
		new:   `clockSlack = 30 * time.Minute`,
		tests: "TestWhereAVerdictStands",
	},
	{
		name:  "a clock set back by days is not noticed",
		rule:  "a clock more than an hour behind the mark gives no offline access",
		file:  "offline.go",
		old:   `	if mark.Sub(now) > clockSlack {`,
		new:   `	if mark.Sub(now) > 1000*clockSlack {`,
		tests: "TestAClockThatGoesBackBuysNoTime|TestWhereAVerdictStands",
	},
	{
		name: "a clock set back buys grace",
		rule: "within the hour the mark is used as now",
		file: "offline.go",
		old: `	if now.Before(mark) {
		now = mark
	}
`,
		new:   ``,
		tests: "TestAClockSetBackNeverAllowsMoreThanTheTrueTime|TestWhereAVerdictStands",
	},
	{
		name: "an answer from the future needs no mark",
		rule: "the mark is never before the last answer",
		file: "offline.go",
		old: `		mark = v.CheckedAt
`,
		new:   ``,
		tests: "TestWhereAVerdictStands",
	},
	{
		name: "a question in vain leaves the mark behind",
		rule: "a high-water mark of time is kept",
		file: "offline.go",
		old: `	if now.After(v.Mark) {
		v.Mark = now
	}
`,
		new:   ``,
		tests: "TestWhatAnOutcomeMakesOfTheLastVerdict",
	},
	{
		name: "a question in vain takes the mark back",
		rule: "a high-water mark of time is kept",
		file: "offline.go",
		old: `	if now.After(v.Mark) {
		v.Mark = now
	}
`,
		new:   "\tv.Mark = now\n",
		tests: "TestWhatAnOutcomeMakesOfTheLastVerdict",
	},
	{
		name:  "a look at the clock that asks nobody is forgotten",
		rule:  "a high-water mark of time is kept",
		file:  "gate.go",
		old:   `	if v == nil || v.Refused != "" || now.Sub(v.Mark) < clockSlack {`,
		new:   `	if v == nil || now.Before(v.Mark.Add(time.Hour<<20)) {`,
		tests: "TestAProgramThatIsOnlyLeftRunningKeepsTheMark",
	},
	{
		name:  "a mark is moved back with the clock",
		rule:  "a high-water mark of time is kept",
		file:  "held.go",
		old:   `if h.verdict == nil || !now.After(h.verdict.Mark) {`,
		new:   `if h.verdict == nil {`,
		tests: "TestAMarkIsNotMovedBackWithTheClock",
	},
	{
		name: "a clock that was far ahead locks for ever",
		rule: "a granted answer repairs the mark",
		file: "offline.go",
		old:  `		if skew := license.answeredAt.Sub(now); skew.Abs() > maxSkew {`,
		new: `		if last != nil && last.Mark.After(now) {
			v.Mark = last.Mark
		}
		if skew := license.answeredAt.Sub(now); skew.Abs() > maxSkew {`,
		tests: "TestAClockThatGoesBackBuysNoTime|TestNoClockMakesGraceEndlessAndNoSmallCorrectionAlarms",
	},
	{
		name:  "a wrong clock moves the expiry",
		rule:  "Polar's Date repairs what our clock says of the expiry",
		file:  "offline.go",
		old:   `		expiry = v.ExpiresAt.Add(-v.Skew)`,
		new:   `		expiry = v.ExpiresAt`,
		tests: "TestWhereAVerdictStands",
	},
	{
		name: "how far Polar's clock is ahead is not kept",
		rule: "Polar's Date repairs what our clock says of the expiry",
		file: "offline.go",
		old: `			v.Skew = skew
`,
		new:   "\t\t\tv.Skew = 0\n",
		tests: "TestWhatAnOutcomeMakesOfTheLastVerdict",
	},
	{
		name:  "a clock set back keeps a program from asking",
		rule:  "a clock that is wrong never locks out someone online",
		file:  "offline.go",
		old:   `		return standing{state: Locked, reason: ErrClockSetBack, changes: mark.Add(-clockSlack)}`,
		new:   `		return standing{state: Locked, reason: ErrClockSetBack, changes: mark.Add(-clockSlack), freshUntil: mark}`,
		tests: "TestAClockThatGoesBackBuysNoTime",
	},
	{
		name:  "a clock that came back stays locked",
		rule:  "no offline access until Polar answers or the clock returns",
		file:  "offline.go",
		old:   `reason: ErrClockSetBack, changes: mark.Add(-clockSlack)}`,
		new:   `reason: ErrClockSetBack}`,
		tests: "TestWhereAVerdictStands|TestAStandingChangesWhenItSaysSoAndNotBefore",
	},
	{
		name:  "an outage of before the clock was set back is believed",
		rule:  "a clock that is wrong never locks out someone online",
		file:  "offline.go",
		old:   `	return !now.Before(v.Mark) && within(`,
		new:   `	return within(`,
		tests: "TestAnOutageOfBeforeTheClockWasSetBackIsNotBelieved",
	},
	{
		name:  "a lid that was closed is noticed when its time comes",
		rule:  "a wake-up at least once a minute covers suspended laptops",
		file:  "gate.go",
		old:   `		nap := min(max(s.changes.Sub(now), time.Millisecond), maxNap)`,
		new:   `		nap := max(s.changes.Sub(now), time.Millisecond)`,
		tests: "TestALidThatWasClosedIsNoticedWithinAMinute",
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
		tests: "TestWhereAVerdictStands|TestABlockedNetworkLastsAsLongAsGraceAndNeverPastTheKeysEnd",
	},
	{
		name: "an expiry that was moved is not taken in",
		rule: "a grant brings the expiry as Polar says it now",
		file: "offline.go",
		old:  `		v := &lastVerdict{Serial: serial, CheckedAt: now, BenefitID:`,
		new: `		if last != nil && !last.ExpiresAt.IsZero() {
			license.ExpiresAt = last.ExpiresAt
		}
		v := &lastVerdict{Serial: serial, CheckedAt: now, BenefitID:`,
		tests: "TestExpiryAndBenefitAreTakenAsTheyAreNow|TestARevokedLicenseRecoversAndExpiryIsTheOneOfToday",
	},

	// Freshness.
	{
		name: "a fresh verdict on disk is asked about all the same",
		rule: "Check with a fresh verdict asks nobody",
		file: "gate.go",
		old: `	case now.Before(s.freshUntil):
		g.renewBehind`,
		new: `	case now.Before(s.freshUntil) && when == renewal:
		g.renewBehind`,
		tests: "TestCheckAsksPolarOnlyWhenItIsDue",
	},
	{
		name:  "what is in memory is fresh for ever",
		rule:  "Check with a stale verdict asks",
		file:  "gate.go",
		old:   `	if !checked || !now.Before(s.freshUntil) {`,
		new:   `	if !checked {`,
		tests: "TestCheckAsksPolarOnlyWhenItIsDue|TestALicenseAgesFromFreshToGraceToLocked",
	},
	{
		name:  "a verdict is fresh for two days",
		rule:  "fresh for 24 hours by default",
		file:  "config.go",
		old:   `defaultFreshFor     = 24 * time.Hour`,
		new:   `defaultFreshFor     = 48 * time.Hour`,
		tests: "TestALicenseAgesFromFreshToGraceToLocked",
	},
	{
		name:  "nothing is renewed before it is stale",
		rule:  "past half its freshness Check refreshes behind the caller's back",
		file:  "gate.go",
		old:   `	return s.state == Active && now.After(renewalOf(v, s)) && !v.resting(now)`,
		new:   `	return s.state == Active && now.After(s.freshUntil) && !v.resting(now)`,
		tests: "TestShortRunsPastHalfFreshnessAskOnce|TestManyChecksPastHalfFreshnessRenewOnce",
	},
	{
		name:  "a young verdict is renewed at each Check",
		rule:  "only past half its freshness is a verdict renewed",
		file:  "gate.go",
		old:   `	return s.state == Active && now.After(renewalOf(v, s)) && !v.resting(now)`,
		new:   `	return s.state == Active && !v.resting(now)`,
		tests: "TestCheckAsksPolarOnlyWhenItIsDue",
	},
	{
		name:  "a network that hangs holds up every short run",
		rule:  "an outage is believed for a moment",
		file:  "gate.go",
		old:   `	return s.state == Active && now.After(renewalOf(v, s)) && !v.resting(now)`,
		new:   `	return s.state == Active && now.After(renewalOf(v, s))`,
		tests: "TestShortRunsAreHeldUpOnceByANetworkThatHangs",
	},
	{
		name:  "each Check in grace waits for a network that is not there",
		rule:  "an outage is believed for a moment",
		file:  "gate.go",
		old:   `	case s.state == Grace && h.verdict.resting(now):`,
		new:   `	case s.state == Grace && h.verdict.resting(now) && when == renewal:`,
		tests: "TestGraceIsHeldUpOnceByANetworkThatHangs",
	},
	{
		name: "a Check waits for as long as Polar takes",
		rule: "Check is bounded by CheckTimeout",
		file: "gate.go",
		old: `	ctx, cancel := context.WithTimeout(ctx, g.config.CheckTimeout)
	defer cancel()
	out, err := flight.Do(`,
		new: `	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, err := flight.Do(`,
		tests: "TestACheckThatMovesASeatKeepsNobodyWaiting",
	},
	{
		name:  "a Check leaves no time to store that nobody answered",
		rule:  "Check is bounded by CheckTimeout",
		file:  "gate.go",
		old:   `	ctx, cancel := context.WithTimeout(ctx, g.config.CheckTimeout-min(settleTime, g.config.CheckTimeout/10))`,
		new:   `	ctx, cancel := context.WithTimeout(ctx, 2*g.config.CheckTimeout)`,
		tests: "TestGraceIsHeldUpOnceByANetworkThatHangs",
	},
	{
		name:  "a pause that Polar asked for is not kept with the verdict",
		rule:  "nobody asks again before Retry-After is over",
		file:  "offline.go",
		old:   `v.Vain, pause = e.Reason, max(pause, e.RetryAfter)`,
		new:   `v.Vain = e.Reason`,
		tests: "TestWhatAnOutcomeMakesOfTheLastVerdict",
	},

	// Grace.
	{
		name:  "no answer ends a license that was granted",
		rule:  "no answer: grace",
		file:  "offline.go",
		old:   `		s.state, s.reason, s.changes = Grace, v.Vain, s.graceUntil`,
		new:   `		s.state, s.reason, s.changes = Locked, v.Vain, s.graceUntil`,
		tests: "TestALicenseAgesFromFreshToGraceToLocked|TestWhereAVerdictStands",
	},
	{
		name:  "grace never ends",
		rule:  "grace is bounded",
		file:  "offline.go",
		old:   `	case now.Before(s.graceUntil):`,
		new:   `	case !now.IsZero():`,
		tests: "TestALicenseAgesFromFreshToGraceToLocked|TestWhereAVerdictStands",
	},
	{
		name: "a question in vain stretches grace",
		rule: "grace is counted from the last granted verdict",
		file: "offline.go",
		old: `	v.Vain = ErrUnreachable
`,
		new:   "\tv.Vain, v.CheckedAt = ErrUnreachable, now\n",
		tests: "TestFailedAttemptsDoNotStretchGrace",
	},
	{
		name:  "grace is counted from the end of freshness",
		rule:  "grace is counted from the last granted verdict",
		file:  "offline.go",
		old:   `v.CheckedAt.Add(max(fresh, grace))`,
		new:   `v.CheckedAt.Add(fresh + max(0, grace))`,
		tests: "TestWhereAVerdictStands|TestALicenseAgesFromFreshToGraceToLocked",
	},
	{
		name:  "grace lasts a month",
		rule:  "grace lasts 14 days by default",
		file:  "config.go",
		old:   `defaultGracePeriod  = 14 * 24 * time.Hour`,
		new:   `defaultGracePeriod  = 30 * 24 * time.Hour`,
		tests: "TestALicenseAgesFromFreshToGraceToLocked",
	},
	{
		name:  "no feature is unlocked in grace",
		rule:  "in grace the last granted verdict still counts",
		file:  "gate.go",
		old:   `	if next.status.OK() {`,
		new:   `	if next.status.State == Active {`,
		tests: "TestALicenseAgesFromFreshToGraceToLocked",
	},
	{
		name:  "features stay unlocked when grace ends",
		rule:  "the snapshot is flipped at its deadline",
		file:  "gate.go",
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
		new: `	if v.Refused != "" && v.Vain == "" {
		s :=`,
		tests: "TestWhereAVerdictStands|TestCuttingTheNetworkDoesNotBringBackARefusedKey",
	},
	{
		name: "a refusal lasts a day",
		rule: "a denial ends grace at once, for as long as Polar says nothing else",
		file: "offline.go",
		old: `	if v.Refused != "" {
		s :=`,
		new: `	if v.Refused != "" && now.Before(v.CheckedAt.Add(fresh)) {
		s :=`,
		tests: "TestWhereAVerdictStands",
	},
	{
		name:  "a denial is not stored",
		rule:  "a denial ends grace at once",
		file:  "offline.go",
		old:   `	case isDenial(err) && errors.As(err, &e):`,
		new:   `	case isDenial(err) && errors.As(err, &e) && last == nil:`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestCuttingTheNetworkDoesNotBringBackARefusedKey",
	},
	{
		name:  "a denial is for ever",
		rule:  "a denial is never terminal",
		file:  "gate.go",
		old:   `		if h.trouble != "" || !h.state.Seat.same(before.state.Seat) ||`,
		new:   `		if h.trouble != "" || h.verdict != nil && h.verdict.Refused != "" || !h.state.Seat.same(before.state.Seat) ||`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestARevokedLicenseRecoversAndExpiryIsTheOneOfToday",
	},
	{
		name:  "a refusal is believed for a day without asking",
		rule:  "a refused program asks again soon",
		file:  "offline.go",
		old:   `v.CheckedAt.Add(min(fresh, refusalFresh))`,
		new:   `v.CheckedAt.Add(fresh)`,
		tests: "TestARefusalIsAskedAboutAgainSoon",
	},
	{
		name: "a refusal is believed longer after the clock was put right",
		rule: "a clock that is wrong never locks out someone online",
		file: "offline.go",
		old: `		if !now.Before(v.CheckedAt) {
			s.freshUntil = v.CheckedAt`,
		new: `		if !now.IsZero() {
			s.freshUntil = v.CheckedAt`,
		tests: "TestARefusalIsNotBelievedLongerForAClockThatWasPutRight",
	},
	{
		name:  "an old answer replaces a younger one",
		rule:  "the answer that came later counts, whatever the clock says",
		file:  "gate.go",
		old:   `|| h.verdict.replaced(before.verdict) && h.verdict.CheckedAt.After(asked) {`,
		new:   `{`,
		tests: "TestAnAnswerThatWasOvertakenIsNotBelieved",
	},
	{
		name:  "of two answers the clock tells which came later",
		rule:  "the answer that came later counts, whatever the clock says",
		file:  "offline.go",
		old:   `		return v.Serial > w.Serial`,
		new:   `		return v.CheckedAt.After(w.CheckedAt)`,
		tests: "TestTheCountAndNotTheClockTellsWhichAnswerCameLater",
	},
	{
		name:  "a denial that could not be saved is forgotten",
		rule:  "a disk that fails decides nothing",
		file:  "held.go",
		old:   `		h.verdict = known.verdict // could not be saved when it came`,
		new:   `		known.verdict = h.verdict`,
		tests: "TestADiskThatFailsUnderARunningProgramDecidesNothing",
	},
	{
		name: "a disk that fails takes a running program's license",
		rule: "a disk that fails decides nothing",
		file: "held.go",
		old: `		if known.state.Seat != nil {
			return known`,
		new: `		if known.state.Seat != nil && known.unread != nil {
			return known`,
		tests: "TestADiskThatFailsUnderARunningProgramDecidesNothing",
	},
}
