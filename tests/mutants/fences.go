package main

var fences = []mutant{
	{
		name:  "an id of zeros is trusted",
		rule:  "a machine id is not all zero",
		file:  "internal/machine/machine.go",
		old:   `	if len(digits) != 32 || strings.Trim(digits, digits[:1]) == "" {`,
		new:   `	if len(digits) != 32 {`,
		tests: "TestOnlyAWellFormedMachineIDIsTrusted",
	},
	{
		name:  "any text is trusted as a machine id",
		rule:  "only well-formed machine ids are accepted",
		file:  "internal/machine/machine.go",
		old:   `	if zeros != form {`,
		new:   `	if len(zeros) != len(form) {`,
		tests: "TestOnlyAWellFormedMachineIDIsTrusted",
	},
	{
		name:  "all computers without an id are the same computer",
		rule:  "without a machine id: a random installation id",
		file:  "internal/machine/machine.go",
		old:   `Fingerprint("installation", installationID, organizationID, app)`,
		new:   `Fingerprint("installation", "", organizationID, app)`,
		tests: "TestWithoutAMachineIDTheInstallationStandsIn",
	},
	{
		name:  "two vendors have the same fingerprint",
		rule:  "fingerprints are HMACs, so that vendors can't compare them",
		file:  "internal/machine/machine.go",
		old:   `kind, organizationID, app} {`,
		new:   `kind, app} {`,
		tests: "TestAFingerprintIsTheSameForTheSameAndDiffersForAllElse",
	},
	{
		name:  "a tool that hangs holds up the start",
		rule:  "the machine id is computed with a timeout",
		file:  "internal/machine/machine.go",
		old:   `	timer := time.NewTimer(timeout)`,
		new:   `	timer := time.NewTimer(1 << 20 * timeout)`,
		tests: "TestLookingForTheMachineIDTakesTwoSecondsAtMost",
	},

	// The seals.
	{
		name:  "a verdict opens on any computer",
		rule:  "the verdict opens only with the fingerprint",
		file:  "offline.go",
		old:   `	return seal.Key(append(append([]byte{}, s.key...), fingerprint...), "polargate verdict v1")`,
		new:   `	return seal.Key(append([]byte{}, s.key...), "polargate verdict v1")`,
		tests: "TestAVerdictOpensOnlyOnItsComputerAndForItsActivation",
	},
	{
		name: "a verdict counts for another activation",
		rule: "the verdict is bound to its activation",
		file: "offline.go",
		old: `of.Key+"\x00"+of.ActivationID, v)
}

func (s sealer) openVerdict(data []byte, of *seat, fingerprint string) (*verdict, error) {
	key, err := s.verdictKey(fingerprint)
	if err != nil {
		return nil, err
	}
	var v verdict
	if err := openJSON(key, verdictMagic, of.Key+"\x00"+of.ActivationID, data, &v); err != nil {`,
		new: `"", v)
}

func (s sealer) openVerdict(data []byte, of *seat, fingerprint string) (*verdict, error) {
	key, err := s.verdictKey(fingerprint)
	if err != nil {
		return nil, err
	}
	var v verdict
	if err := openJSON(key, verdictMagic, "", data, &v); err != nil {`,
		tests: "TestAVerdictCopiedToAnotherActivationDoesNotCount|TestAVerdictOpensOnlyOnItsComputerAndForItsActivation",
	},
	{
		name:  "the program's secret changes nothing",
		rule:  "the key of the seal comes from organization, app and Secret",
		file:  "offline.go",
		old:   `+app+"\x00"+secret), "polargate state v1")`,
		new:   `+app+"\x00"), "polargate state v1")`,
		tests: "TestAnotherSecretOrOrganizationOpensNothing|TestASealOfAnotherProgramDoesNotOpen",
	},
	{
		name:  "a damaged state is thrown away",
		rule:  "a state that can't be opened is set aside as .corrupt",
		file:  "record_io.go",
		old:   `	if err := g.store.Save(ctx, aside, data[:min(len(data), maxState)]); err != nil {`,
		new:   `	if err := ctx.Err(); err != nil {`,
		tests: "TestADamagedStateIsKeptAsideAndReported",
	},
	{
		name: "a state that can't be read at the moment is overwritten",
		rule: "a state that couldn't be read is never overwritten",
		file: "record_io.go",
		old: `	if was.unread != nil {
		return was, nil, was.unread
	}
`,
		new:   "",
		tests: "TestAnAnswerIsNotStoredOverAStateThatCannotBeRead",
	},
	{
		name:  "a writer that is killed leaves half a state",
		rule:  "written by temp file and rename",
		file:  "store.go",
		old:   `	if err := disk.Rename(temp.Name(), s.path(name)); err != nil {`,
		new:   `	if err := os.WriteFile(s.path(name), data[:len(data)/2], 0o600); err != nil || os.WriteFile(s.path(name), data, 0o600) != nil {`,
		tests: "TestAStateOpensWholeAfterItsWriterWasKilled|TestSavingLeavesNothingElseBehind",
	},
	{
		name:  "a file that others hold is tried again after pauses that grow",
		rule:  "what others hold for a moment is tried again after short pauses, each of another length",
		file:  "internal/disk/disk.go",
		old:   `		time.Sleep(2*time.Millisecond + rand.N(8*time.Millisecond))`,
		new:   `		time.Sleep(2*time.Millisecond + rand.N(time.Millisecond) + time.Since(start))`,
		tests: "TestAFileThatOthersKeepOpeningIsTriedOftenForTwoSeconds",
	},
}
