package main

var verdicts = []mutant{
	// Granted.
	{
		name:  "an answer about another key unlocks the license",
		rule:  "a grant echoes the key that was asked about",
		file:  "license.go",
		old:   `if l.Key != asked || !wire.SameUUID(l.OrganizationID, organizationID) {`,
		new:   `if !wire.SameUUID(l.OrganizationID, organizationID) {`,
		tests: "TestAnswersThatProveNothingNeitherLockNorUnlock|TestA200ThatIsNotAboutThisKeyNeitherUnlocksNorKills",
	},
	{
		name:  "a key of another organization unlocks the license",
		rule:  "a grant echoes the organization that was asked about",
		file:  "license.go",
		old:   `if l.Key != asked || !wire.SameUUID(l.OrganizationID, organizationID) {`,
		new:   `if l.Key != asked {`,
		tests: "TestAnswersThatProveNothingNeitherLockNorUnlock|TestAUserCannotBringKeysFromAnotherOrganization",
	},
	{
		name:  "an answer about another activation keeps the license",
		rule:  "a grant is about the activation that was asked about",
		file:  "license.go",
		old:   `ok && !wire.SameUUID(id, r.ActivationID) {`,
		new:   `ok && id == "" {`,
		tests: "TestAnAnswerAboutAnotherActivationProvesNothing",
	},
	{
		name: "an answer without a benefit grants",
		rule: "a grant has id, key, organization, benefit and status",
		file: "license.go",
		old: `		{"benefit_id", &l.BenefitID},
`,
		new:   ``,
		tests: "TestAnAnswerWithoutItsFiveMembersProvesNothing|TestAnswersThatProveNothingNeitherLockNorUnlock",
	},
	{
		name: "an expiry that cannot be read is none",
		rule: "an expiry that is there must be readable",
		file: "license.go",
		old: `		if l.ExpiresAt, err = wire.ParseTime(raw); err != nil {
			return err
		}
`,
		new: `		l.ExpiresAt, _ = wire.ParseTime(raw)
`,
		tests: "TestAnExpiryThatCannotBeReadProvesNothing|TestAnswersThatProveNothingNeitherLockNorUnlock",
	},
	{
		name:  "every status but revoked grants",
		rule:  "only the status granted grants",
		file:  "license.go",
		old:   `if l.Status != KeyGranted {`,
		new:   `if l.Status == KeyRevoked {`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestRecordedAnswersBecomeTheVerdictsThatPolarMeant",
	},
	{
		name:  "a key past its expiry grants",
		rule:  "past expires_at is denied",
		file:  "license.go",
		old:   `!l.ExpiresAt.IsZero() && !at.Before(l.ExpiresAt) {`,
		new:   `!l.ExpiresAt.IsZero() && at.IsZero() {`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestRecordedAnswersBecomeTheVerdictsThatPolarMeant",
	},
	{
		name:  "a clock that is wrong makes a granted key look expired",
		rule:  "a granted key's expiry is held against Polar's own clock",
		file:  "client.go",
		old:   `accept(body, serverTime(resp, c.now()))`,
		new:   `accept(body, c.now())`,
		tests: "TestAClockThatIsWrongDoesNotMakeAGrantedKeyLookExpired",
	},
	{
		name: "an activation is believed without looking at the key inside it",
		rule: "the key nested in an activation is held to the same rules",
		file: "activation.go",
		old: `	if _, ok := refused.(*Error); refused != nil && !ok {
		return nil, refused
	}
`,
		new: `	if _, ok := refused.(*Error); refused != nil && !ok {
		refused = nil
	}
`,
		tests: "TestMissingPartsOfAnActivationAreNotMadeUp|TestTheKeyInsideTheAnswerOfAnActivationIsTheOneThatIsRead",
	},
	{
		name:  "a benefit that the program does not sell unlocks it",
		rule:  "a key of any other benefit is refused as wrong_benefit",
		file:  "config.go",
		old:   `	return ok || len(c.Features) == 0`,
		new:   `	return ok || c != nil`,
		tests: "TestAKeyForAnotherProductOfTheVendorUnlocksNothing|TestAKeyOfAnotherProductIsDeactivatedAgain",
	},
	{
		name: "what any benefit unlocks stays locked",
		rule: "AnyBenefit stands for the benefits that Features doesn't name",
		file: "internal/rights/parts.go",
		old: `	if of, ok = features[benefit]; !ok {
		of, ok = features[AnyBenefit]
	}
	return of, ok`,
		new: `	of, ok = features[benefit]
	return of, ok`,
		tests: "TestAnyBenefitUnlocksItsFeaturesBesideThoseOfTheBenefit|TestAnyBenefitUnlocksItsFeaturesForCustomersWhoHaveOne|TestLicenseKeysOfAnyBenefitAreAcceptedOnEveryReplica",
	},

	// Denied.
	{
		name:  "a 404 that is not Polar's locks the license",
		rule:  "a 404 is a denial only with ResourceNotFound",
		file:  "wire.go",
		old:   `case status == http.StatusNotFound && said.Error == "ResourceNotFound",`,
		new:   `case status == http.StatusNotFound,`,
		tests: "TestARouteThatIsGoneDoesNotCountAsARevokedKey|TestAnswersThatProveNothingNeitherLockNorUnlock",
	},
	{
		name:  "a refusal with an unknown text is no denial",
		rule:  "a detail that is not known is still a denial",
		file:  "wire.go",
		old:   "\treturn ErrDenied\n}",
		new:   "\treturn \"\"\n}",
		tests: "TestTheTextOfAnUnknownRefusalIsKept",
	},
	{
		name: "an expired key is refused without saying so",
		rule: "the reason of a denial is read from its detail",
		file: "wire.go",
		old: `		{"has expired", ErrExpired},
`,
		new:   ``,
		tests: "TestRecordedAnswersBecomeTheVerdictsThatPolarMeant|TestARefusalLocksUntilPolarGrantsAgain",
	},
	{
		name: "a lack of uses locks the license",
		rule: "usage_exceeded refuses the call and not the license",
		file: "wire.go",
		old: `		{"more usages", ErrUsageExceeded},
`,
		new:   ``,
		tests: "TestTooFewUsesRefuseTheCallAndNotTheLicense",
	},
	{
		name:  "a released activation is reported as an unknown key",
		rule:  "one more request tells a released activation from an unknown key",
		file:  "license.go",
		old:   `if r.ActivationID == "" || !isNotFound(err) {`,
		new:   `if r.Key != (Key{}) {`,
		tests: "TestRecordedAnswersBecomeTheVerdictsThatPolarMeant|TestAnActivationThatCannotBeStoredIsDeactivated|TestARefusalLocksUntilPolarGrantsAgain",
	},
	{
		name:  "a refused key is tried again as if it were new",
		rule:  "only an unknown key is tried again after a purchase",
		file:  "seats.go",
		old:   `if !errors.Is(err, ErrUnknownKey) || left < time.Second ||`,
		new:   `if err == nil || left < time.Second ||`,
		tests: "TestAKeyThatIsRefusedIsNotWaitedFor",
	},

	// Our fault.
	{
		name: "a refused token locks the license",
		rule: "401 is a configuration error, never a lock",
		file: "wire.go",
		old:  `	case status == http.StatusUnauthorized && said.Error != "",`,
		new: `	case status == http.StatusUnauthorized && said.Error != "":
		return ErrDenied
	case`,
		tests: "TestAnswersThatProveNothingNeitherLockNorUnlock|TestRecordedAnswersBecomeTheVerdictsThatPolarMeant",
	},
	{
		name: "a malformed request locks the license",
		rule: "422 is an input error, never a lock",
		file: "wire.go",
		old: `		status == http.StatusUnprocessableEntity && (said.Error != "" || len(said.Faults) > 0):
		return ErrMisconfigured`,
		new: `		said.Error == "nothing that Polar says":
		return ErrMisconfigured
	case status == http.StatusUnprocessableEntity:`,
		tests: "TestAnswersThatProveNothingNeitherLockNorUnlock|TestRecordedAnswersBecomeTheVerdictsThatPolarMeant",
	},

	// Unknown.
	{
		name: "a web page with 200 locks the license",
		rule: "a body that isn't Polar's proves nothing",
		file: "client.go",
		old: `			return unknown(notPolar(resp, err))
`,
		new: `			return &Error{Op: x.op, Reason: ErrDenied, StatusCode: status, Err: err}
`,
		tests: "TestAWebPageInPolarsPlaceNeitherKillsNorUnlocksALicense|TestAnswersThatProveNothingNeitherLockNorUnlock",
	},
	{
		name: "a refusal inside a 500 locks the license",
		rule: "a 5xx proves nothing, whatever its body says",
		file: "client.go",
		old: `		if cause == errServerFailed { // and not the page of a proxy
			failure.situation = serverFailed
		}
		return failure
	}`,
		new: `		if cause != errServerFailed { // and not the page of a proxy
			return failure
		}
		status = http.StatusNotFound
	}`,
		tests: "TestAnswersThatProveNothingNeitherLockNorUnlock",
	},
	{
		name:  "a 429 without a pause is taken for an outage",
		rule:  "a 429 proves nothing, and says how long to wait",
		file:  "client.go",
		old:   `case status == http.StatusTooManyRequests:`,
		new:   `case status == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "":`,
		tests: "TestAnswersThatProveNothingNeitherLockNorUnlock",
	},
	{
		name: "a redirect is followed",
		rule: "a redirect proves nothing",
		file: "client.go",
		old: `	c.Transport = unled{c.Transport}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
`,
		new:   ``,
		tests: "TestNoRedirectIsFollowed|TestARedirectTakesTheKeyToNoOtherHost",
	},

	// Asking.
	{
		name:  "a count of uses is sent again",
		rule:  "a request that must not happen twice is never repeated",
		file:  "license.go",
		old:   `repeatable: r.IncrementUsage == 0,`,
		new:   `repeatable: true,`,
		tests: "TestOnlyAQuestionThatMayBeAskedTwiceIsRepeated|TestAnAnswerThatWasLostToACountSaysThatItMayHaveCounted",
	},
	{
		name: "a version header is sent",
		rule: "no Polar-Version header is sent",
		file: "client.go",
		old:  `	req.Header.Set("Accept", "application/json")`,
		new: `	req.Header.Set("Accept", "application/json")
	req.Header.Set("Polar-Version", "2026-04")`,
		tests: "TestARequestNamesTheProgramAndNoPolarVersion",
	},
}
