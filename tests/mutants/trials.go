package main

var trials = []mutant{
	{
		name:  "a clock that is set back prolongs a trial",
		rule:  "a trial counts the time that has passed, whatever the clock says",
		file:  "trial.go",
		old:   `		moved.Began, moved.HighWater = t.Began.Add(-back), now`,
		new:   `		moved.HighWater = now`,
		tests: "TestAClockThatIsSetBackDoesNotProlongATrial|TestNoSequenceOfEventsProlongsATrialOrCutsItShort",
	},
	{
		name:  "the trial of another computer in the folder is forgotten",
		rule:  "a copy of a trial is no new one",
		file:  "record.go",
		old:   `	if rec.tried != nil {`,
		new:   `	if false {`,
		tests: "TestACopyOfATrialIsNoNewOne",
	},
	{
		name:  "a trial begins again after a license",
		rule:  "an activation ends a trial for good",
		file:  "record.go",
		old:   `	st.Trial = st.Trial.over()`,
		new:   `	st.Trial = nil`,
		tests: "TestALicenseEndsATrialForGood",
	},
	{
		name:  "a process that began anew resets a trial",
		rule:  "of two trials of a computer, the one of which more has passed counts",
		file:  "trial.go",
		old:   `	case u.HighWater.Sub(u.Began) > t.HighWater.Sub(t.Began):`,
		new:   `	case u.HighWater.Sub(u.Began) < t.HighWater.Sub(t.Began):`,
		tests: "TestATrialThatWasDeletedUnderARunningProgramIsWrittenAgain|TestNoSequenceOfEventsProlongsATrialOrCutsItShort",
	},
	{
		name:  "the end of a trial is not stored",
		rule:  "a trial that ended stays so, also by a clock that is set back a little",
		file:  "trial.go",
		old:   `		t.HighWater.Before(end) && !after.HighWater.Before(after.ends(days))`,
		new:   `		end.IsZero()`,
		tests: "TestATrialThatEndedStaysSoByAClockThatIsSetBackAMinute",
	},
}

var fallbacks = []mutant{
	{
		name:  "a version that came out later is covered",
		rule:  "a license that lapsed covers what was released by then",
		file:  "trial.go",
		old:   `	if !covers || c.Fallback.Released.After(covered) {`,
		new:   `	if !covers {`,
		tests: "TestALicenseThatExpiredKeepsTheVersionThatItCovered|TestALicenseOfALicenseServerThatLapsedKeepsWhatItsLastLeaseCovers",
	},
	{
		name:  "what was taken back while it was paid has a fallback",
		rule:  "a license that Polar ends before its end didn't lapse",
		file:  "trial.go",
		old:   `	case refused.Before(end.Add(-clockSlack)):`,
		new:   `	case end.IsZero():`,
		tests: "TestWhatPolarSaysOfASubscriptionTellsItsEndFromARefund",
	},
	{
		name:  "a dated key that was revoked has a fallback",
		rule:  "a key with a date of its own lapses at that date only",
		file:  "trial.go",
		old:   `	case g.Ordered, g.Unpaid, g.Dated:`,
		new:   `	case g.Ordered, g.Unpaid:`,
		tests: "TestALicenseThatWasTakenBackHasNoFallback",
	},
	{
		name:  "an unsigned grant has a fallback beside a license server",
		rule:  "with a license server, only a signed lease covers anything",
		file:  "trial.go",
		old:   `	case c.hasLeaseServer():`,
		new:   `	case false:`,
		tests: "TestALicenseFromBeforeTheLicenseServerHasNoFallback",
	},
	{
		name:  "a fallback unlocks what the license didn't",
		rule:  "a fallback unlocks no more than the license did",
		file:  "trial.go",
		old:   `	var kept []string`,
		new:   `	kept := slices.Clone(c.Fallback.Features)`,
		tests: "TestAFallbackUnlocksNoMoreThanTheLicenseDid",
	},
}
