package main

var licensePage = []mutant{
	{
		name:  "an answer activates the key of another link",
		rule:  "an answer names the question that it belongs to",
		file:  "licensepage/page.go",
		old:   `	if q.id == "" || q.id != id {`,
		new:   `	if q.id == "" {`,
		tests: "TestFormsAreForPostsAndALinkOnlyAsks",
	},
	{
		name:  "another website makes the page ask",
		rule:  "a link of another site asks nothing",
		file:  "licensepage/page.go",
		old:   `	case "", "none", "same-origin":`,
		new:   `	case "", "none", "same-origin", "same-site", "cross-site":`,
		tests: "TestFormsAreForPostsAndALinkOnlyAsks",
	},
	{
		name:  "any name for this computer opens the page",
		rule:  "the page is only called by names of this computer (DNS rebinding)",
		file:  "licensepage/page.go",
		old:   `		if !p.knowsHost(r.Host) {`,
		new:   `		if r.Host == "" {`,
		tests: "TestThePageIsOnlyCalledByNamesOfThisComputer",
	},
}
