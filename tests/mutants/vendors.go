package main

// vendors are the rules of what vendors sell and take over.
var vendors = []mutant{
	{
		name:  "an import counts again and again without an answer",
		rule:  "an import that Polar couldn't confirm counts once",
		file:  "import.go",
		old:   `	case rec.untouched() && !g.config.hasLeaseServer():`,
		new:   `	case !g.config.hasLeaseServer():`,
		tests: "TestAnImportCountsForTheRestOfTheGracePeriodAtMost",
	},
	{
		name:  "an import from the future counts",
		rule:  "an import that was verified in the future waits for Polar's answer",
		file:  "offline.go",
		old:   `	if verified.IsZero() || verified.Sub(now) > clockSlack {`,
		new:   `	if verified.IsZero() {`,
		tests: "TestAnImportCountsForTheRestOfTheGracePeriodAtMost",
	},
	{
		name: "an import counts as a fresh answer",
		rule: "another program's word is never a fresh answer, and counts for 30 days at most",
		file: "offline.go",
		old: `	if v.Provisional {
		fresh, grace`,
		new: `	if false {
		fresh, grace`,
		tests: "TestAnImportCountsForTheRestOfTheGracePeriodAtMost",
	},
	{
		name:  "an import without a network is forgotten",
		rule:  "an import that Polar couldn't be asked about is kept",
		file:  "import.go",
		old:   `		return g.storeImport(ctx, rec, err)` + "\n\t}\n\t// It was stored",
		new:   "\t\t_ = rec\n\t\treturn err" + "\n\t}\n\t// It was stored",
		tests: "TestAnImportWithoutANetworkIsFinishedByWhateverReachesPolarFirst",
	},
	{
		name:  "a configured key in doubt uses an activation at each start",
		rule:  "Ensure repeats an activation in doubt once an hour",
		file:  "seats.go",
		old:   `g.now().Sub(i.At).Abs() < doubtRests`,
		new:   `doubtRests < 0`,
		tests: "TestAConfiguredKeyThatIsInDoubtUsesOneMoreActivationInAnHourAtMost",
	},
	{
		name:  "a configured key undoes a deactivation in the portal",
		rule:  "Ensure doesn't activate a computer that was deactivated at Polar",
		file:  "seats.go",
		old:   `	case rec.state.Seat.has(key):`,
		new:   `	case rec.state.Seat.has(key) && rec.state.Seat.held() && (rec.verdict == nil || rec.verdict.Refused == ""):`,
		tests: "TestAConfiguredKeyDoesNotUndoADeactivationAtPolar",
	},
	{
		name:  "a key that Polar replaced is not known any more",
		rule:  "an activation remembers the keys that it had",
		file:  "offline.go",
		old:   `	s.Key, s.Former = key, former[:min(len(former), maxFormer)]`,
		new:   `	s.Key, s.Former = key, former[:0]`,
		tests: "TestAConfiguredKeyThatPolarReplacedCountsAsTheNewOneOnceThatIsActivated",
	},
	{
		name:  "a license counts under another name",
		rule:  "a state is sealed for the name of its license",
		file:  "gate.go",
		old:   `newSealer(client.organizationID, scope(config.App, config.Name), config.Secret)`,
		new:   `newSealer(client.organizationID, config.App, config.Secret)`,
		tests: "TestAStateDoesNotCountUnderAnotherName",
	},
	{
		name: "the activation of a license that nobody opens stays in use",
		rule: "what waits to be deactivated is finished, whoever opens the license",
		file: "record_io.go",
		old: `		g.list(ctx)
`,
		new:   ``,
		tests: "TestThePendingDeactivationOfALicenseThatNobodyOpensAnyMoreIsFinished",
	},
	{
		name:  "users are told that the license of all users couldn't be saved",
		rule:  "who only reads the license of all users isn't told that it wasn't saved",
		file:  "ephemeral.go",
		old:   `	if onlyReads(err) {`,
		new:   `	if err == errBusyHere {`,
		tests: "TestAllUsersOfAComputerShareOneLicenseThatTheAdministratorActivates",
	},
	{
		name:  "the portal is named although customers can't deactivate there",
		rule:  "a message names the portal only if there is one",
		file:  "words.go",
		old:   `	if named := do + inPortal; portal && named.exists() {`,
		new:   `	if named := do + inPortal; named.exists() {`,
		tests: "TestThePortalIsNamedOnlyIfCustomersCanDeactivateThere",
	},
	{
		name:  "after the end of a subscription, the button renews",
		rule:  "a subscription that ended needs a new key",
		file:  "status.go",
		old:   `	case expiredSubscription:` + "\n\t\treturn Action{ActionEnterKey",
		new:   `	case expiredSubscription:` + "\n\t\treturn Action{ActionRenew",
		tests: "TestALicenseEndsOfflineWhenItsCancelledSubscriptionDoes",
	},
}
