package main

var admin = []mutant{
	{
		name:  "license keys are listed from the first page",
		rule:  "a key that leaves the list moves no other past the reader",
		file:  "license_admin.go",
		old:   `				items, _, err = read(ctx, page)`,
		new:   `				items, _, err = read(ctx, last-page+1)`,
		tests: "TestALoopThatRevokesEveryGrantedKeyMissesNone|TestLicenseKeysAreListedPageByPageNewestFirst",
	},
	{
		name:  "a rotation is sent again",
		rule:  "what must not happen twice is never repeated, and is in doubt when its answer is lost",
		file:  "license_admin.go",
		old:   `exchange{op: opRotate, method: http.MethodPost,`,
		new:   `exchange{op: opRotate, method: http.MethodPost, repeatable: true,`,
		tests: "TestARotationWhoseAnswerIsLostIsNotRepeated",
	},
	{
		name:  "a key of another organization is told",
		rule:  "an answer about another organization proves nothing",
		file:  "license_admin.go",
		old:   `	if c.organizationID != "" && !sameUUID(l.OrganizationID, c.organizationID) {`,
		new:   `	if c.organizationID == "" && !sameUUID(l.OrganizationID, c.organizationID) {`,
		tests: "TestKeysOfAnotherOrganizationAreNoAnswer",
	},
}
