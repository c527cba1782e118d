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
