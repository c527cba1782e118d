package main

var verdicts = []mutant{
	// Granted.
	{
		name:  "an answer about another key unlocks the license",
		rule:  "a grant echoes the key that was asked about",
		file:  "license.go",
		old:   `if l.Key != asked || !sameUUID(l.OrganizationID, organizationID) {`,
		new:   `if !sameUUID(l.OrganizationID, organizationID) {`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks|TestA200ThatIsNotAboutThisKeyNeitherUnlocksNorKills",
	},
	{
		name:  "a key of another organization unlocks the license",
		rule:  "a grant echoes the organization that was asked about",
		file:  "license.go",
		old:   `if l.Key != asked || !sameUUID(l.OrganizationID, organizationID) {`,
		new:   `if l.Key != asked {`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks|TestNobodyCanBringKeysFromAnOrganizationOfTheirOwn",
	},
	{
		name:  "an answer about another activation keeps the license",
		rule:  "a grant is about the activation that was asked about",
		file:  "license.go",
		old:   `ok && !sameUUID(id, r.ActivationID) {`,
		new:   `ok && id == "" {`,
		tests: "TestAnAnswerAboutAnotherActivationProvesNothing",
	},
	{
		name: "an answer without an id grants",
		rule: "a grant has id, key, organization, benefit and status",
		file: "license.go",
		old: `		{"id", &l.ID},
`,
		new:   ``,
		tests: "TestAnAnswerWithoutItsFiveMembersProvesNothing|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name: "an answer without a benefit grants",
		rule: "a grant has id, key, organization, benefit and status",
		file: "license.go",
		old: `		{"benefit_id", &l.BenefitID},
`,
		new:   ``,
		tests: "TestAnAnswerWithoutItsFiveMembersProvesNothing|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name: "an answer without a status locks",
		rule: "a grant has id, key, organization, benefit and status",
		file: "license.go",
		old: `		{"status", &status},
`,
		new:   ``,
		tests: "TestAnAnswerWithoutItsFiveMembersProvesNothing|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name: "an expiry that cannot be read is none",
		rule: "an expiry that is there must be readable",
		file: "license.go",
		old: `		if l.ExpiresAt, err = parseTime(raw); err != nil {
			return err
		}
`,
		new: `		l.ExpiresAt, _ = parseTime(raw)
`,
		tests: "TestAnExpiryThatCannotBeReadProvesNothing|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name: "a use count of another type spoils the answer",
		rule: "fields beyond those of the verdict are optional",
		file: "license.go",
		old:  `	optional(fields, "usage", &l.Usage)`,
		new: `	if err := json.Unmarshal(fields["usage"], &l.Usage); err != nil {
		return err
	}`,
		tests: "TestFieldsThatNoVerdictRestsOnMayChange|TestAMemberThatChangedItsTypeIsLeftZero",
	},
	{
		name:  "every status but revoked grants",
		rule:  "only the status granted grants",
		file:  "license.go",
		old:   `if l.Status != KeyGranted {`,
		new:   `if l.Status == KeyRevoked {`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestRecordedAnswersAreReadAsWhatPolarMeant",
	},
	{
		name:  "a key past its expiry grants",
		rule:  "past expires_at is denied",
		file:  "license.go",
		old:   `!l.ExpiresAt.IsZero() && !at.Before(l.ExpiresAt) {`,
		new:   `!l.ExpiresAt.IsZero() && at.IsZero() {`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestRecordedAnswersAreReadAsWhatPolarMeant",
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
		tests: "TestWhatAnActivationLacksIsNotMadeUp|TestTheKeyInsideTheAnswerOfAnActivationIsTheOneThatIsRead",
	},
	{
		name:  "an activation of an expired key counts",
		rule:  "the key nested in an activation is held to the same rules",
		file:  "activation.go",
		old:   `	return &a, refused`,
		new:   `	return &a, nil`,
		tests: "TestASeatThatComesWithARefusalIsGivenBack|TestTheKeyInsideTheAnswerOfAnActivationIsTheOneThatIsRead",
	},
	{
		name:  "an activation without an id is a seat",
		rule:  "an activation has an id",
		file:  "activation.go",
		old:   `if _, ok := canonicalUUID4(a.ID); !ok {`,
		new:   `if a.Label == "\x00" {`,
		tests: "TestWhatAnActivationLacksIsNotMadeUp",
	},
	{
		name:  "a benefit that the program does not sell unlocks it",
		rule:  "a key of any other benefit is refused as wrong_benefit",
		file:  "gate.go",
		old:   `	return ok || len(g.config.Features) == 0`,
		new:   `	return ok || g != nil`,
		tests: "TestAKeyForAnotherProductOfTheVendorUnlocksNothing|TestAWrongBenefitGivesItsSeatBack",
	},
	{
		name:  "a program without features accepts no benefit",
		rule:  "no features: every benefit of the organization is accepted",
		file:  "gate.go",
		old:   `	return ok || len(g.config.Features) == 0`,
		new:   `	return ok`,
		tests: "TestAKeyThatWasJustBoughtIsWaitedFor",
	},

	// Denied.
	{
		name:  "a 404 that is not Polar's locks the license",
		rule:  "a 404 is a denial with ResourceNotFound only",
		file:  "client.go",
		old:   `case status == http.StatusNotFound && said.Error == "ResourceNotFound",`,
		new:   `case status == http.StatusNotFound,`,
		tests: "TestARouteThatIsGoneIsNotTakenForARevokedKey|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name:  "Polar's 404 is no denial",
		rule:  "a 404 with ResourceNotFound is a denial",
		file:  "client.go",
		old:   `case status == http.StatusNotFound && said.Error == "ResourceNotFound",`,
		new:   `case status == http.StatusNotFound && said.Error == "",`,
		tests: "TestARefusalLocksUntilPolarGrantsAgain|TestRecordedAnswersAreReadAsWhatPolarMeant",
	},
	{
		name:  "a firewall's 403 locks the license",
		rule:  "a 403 is a denial with NotPermitted only",
		file:  "client.go",
		old:   `status == http.StatusForbidden && said.Error == "NotPermitted",`,
		new:   `status == http.StatusForbidden,`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name:  "Polar's 403 is no denial",
		rule:  "a 403 with NotPermitted is a denial",
		file:  "client.go",
		old:   `status == http.StatusForbidden && said.Error == "NotPermitted",`,
		new:   `status == http.StatusForbidden && said.Error == "",`,
		tests: "TestARefusedActivationSaysWhyAndGivesNothing|TestRecordedAnswersAreReadAsWhatPolarMeant",
	},
	{
		name:  "a proxy's 400 locks the license",
		rule:  "a 400 is a denial with BadRequest only",
		file:  "client.go",
		old:   `status == http.StatusBadRequest && said.Error == "BadRequest":`,
		new:   `status == http.StatusBadRequest:`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks|TestRecordedAnswersAreReadAsWhatPolarMeant",
	},
	{
		name:  "Polar's 400 is no denial",
		rule:  "a 400 with BadRequest is a denial",
		file:  "client.go",
		old:   `status == http.StatusBadRequest && said.Error == "BadRequest":`,
		new:   `status == http.StatusBadRequest && said.Error == "":`,
		tests: "TestTooFewUsesRefuseTheCallAndNotTheLicense|TestRecordedAnswersAreReadAsWhatPolarMeant",
	},
	{
		name:  "a refusal in words that nobody knows is no denial",
		rule:  "a detail that is not known is still a denial",
		file:  "client.go",
		old:   "\treturn ErrDenied\n}",
		new:   "\treturn \"\"\n}",
		tests: "TestTheWordsOfARefusalThatNobodyKnowsAreKept",
	},
	{
		name:  "the words of a refusal that nobody knows are lost",
		rule:  "a denial comes with its text",
		file:  "client.go",
		old:   `		detail := said.Detail`,
		new:   `		detail := ""`,
		tests: "TestTheWordsOfARefusalThatNobodyKnowsAreKept",
	},
	{
		name: "an expired key is refused without saying so",
		rule: "the reason of a denial is read from its detail",
		file: "client.go",
		old: `		{"has expired", ErrExpired},
`,
		new:   ``,
		tests: "TestRecordedAnswersAreReadAsWhatPolarMeant|TestARefusalLocksUntilPolarGrantsAgain",
	},
	{
		name: "other conditions are refused without saying so",
		rule: "the reason of a denial is read from its detail",
		file: "client.go",
		old: `		{"required conditions", ErrConditionsMismatch},
`,
		new:   ``,
		tests: "TestRecordedAnswersAreReadAsWhatPolarMeant|TestARefusalLocksUntilPolarGrantsAgain",
	},
	{
		name: "taken seats are reported as an unknown refusal",
		rule: "the reason of a denial is read from its detail",
		file: "client.go",
		old: `		{"activation limit", ErrActivationLimit},
`,
		new:   ``,
		tests: "TestRecordedAnswersAreReadAsWhatPolarMeant|TestAKeyWhoseSeatsAreTakenOpensNoFurtherComputer",
	},
	{
		name: "too few uses lock the license",
		rule: "usage_exceeded refuses the call and not the license",
		file: "client.go",
		old: `		{"more usages", ErrUsageExceeded},
`,
		new:   ``,
		tests: "TestTooFewUsesRefuseTheCallAndNotTheLicense",
	},
	{
		name:  "a released seat is reported as an unknown key",
		rule:  "one more question tells a released seat from an unknown key",
		file:  "license.go",
		old:   `if r.ActivationID == "" || !isNotFound(err) {`,
		new:   `if r.Key != (Key{}) {`,
		tests: "TestRecordedAnswersAreReadAsWhatPolarMeant|TestASeatThatCannotBeWrittenDownIsGivenBackAgain|TestARefusalLocksUntilPolarGrantsAgain",
	},
	{
		name:  "a not found whose cause stays open is taken for an outage",
		rule:  "not found is a denial, whatever becomes of the second question",
		file:  "license.go",
		old:   `		return nil, &Error{Op: opValidate, Reason: ErrDenied, StatusCode: err.(*Error).StatusCode, Detail: "Not found", Err: err2}`,
		new:   `		return nil, err2`,
		tests: "TestTheSecondQuestionAfterNotFoundMayStayUnanswered",
	},
	{
		name:  "a key that was just bought is not waited for",
		rule:  "a fresh key can be unknown for two minutes; callers can wait",
		file:  "seats.go",
		old:   `if !errors.Is(err, ErrUnknownKey) || left < time.Second ||`,
		new:   `if left < 3*time.Minute ||`,
		tests: "TestAKeyThatWasJustBoughtIsWaitedFor",
	},
	{
		name:  "a refused key is waited for as if it were young",
		rule:  "only an unknown key is waited for",
		file:  "seats.go",
		old:   `if !errors.Is(err, ErrUnknownKey) || left < time.Second ||`,
		new:   `if err == nil || left < time.Second ||`,
		tests: "TestAKeyThatIsRefusedIsNotWaitedFor",
	},

	// Our fault.
	{
		name: "a refused token locks the license",
		rule: "401 is a configuration error, never a lock",
		file: "client.go",
		old:  `	case status == http.StatusUnauthorized && said.Error != "",`,
		new: `	case status == http.StatusUnauthorized && said.Error != "":
		return ErrDenied
	case`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks|TestRecordedAnswersAreReadAsWhatPolarMeant",
	},
	{
		name:  "a refused token is taken for an outage",
		rule:  "401 is a configuration error",
		file:  "client.go",
		old:   `	case status == http.StatusUnauthorized && said.Error != "",`,
		new:   `	case`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks|TestATokenThatPolarRefusesIsToldAtTheFirstUseAndInStatsUntilItWorks",
	},
	{
		name: "a missing scope is taken for an outage",
		rule: "403 with insufficient_scope is a configuration error",
		file: "client.go",
		old: `		status == http.StatusForbidden && said.Error == "insufficient_scope",
`,
		new:   ``,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks|TestRecordedAnswersAreReadAsWhatPolarMeant",
	},
	{
		name: "a malformed request locks the license",
		rule: "422 is an input error, never a lock",
		file: "client.go",
		old: `		status == http.StatusUnprocessableEntity && (said.Error != "" || len(said.Faults) > 0):
		return ErrMisconfigured`,
		new: `		said.Error == "nothing that Polar says":
		return ErrMisconfigured
	case status == http.StatusUnprocessableEntity:`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks|TestRecordedAnswersAreReadAsWhatPolarMeant",
	},

	// Unknown.
	{
		name: "a web page with 200 locks the license",
		rule: "a body that is not Polar's is unknown",
		file: "client.go",
		old: `			return unknown(notPolar(resp, err))
`,
		new: `			return &Error{Op: x.op, Reason: ErrDenied, StatusCode: status, Err: err}
`,
		tests: "TestAWebPageInPolarsPlaceNeitherKillsNorUnlocksALicense|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name:  "a web page of a proxy locks the license",
		rule:  "any HTML is unknown",
		file:  "client.go",
		old:   `		return unknown(notPolar(resp, errors.New("not JSON")))`,
		new:   `		return &Error{Op: x.op, Reason: ErrDenied, StatusCode: status}`,
		tests: "TestAWebPageInPolarsPlaceNeitherKillsNorUnlocksALicense|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name:  "JSON in another shape than Polar's locks the license",
		rule:  "only an answer in Polar's own shape is a verdict",
		file:  "client.go",
		old:   `	return unknown(notPolar(resp, errors.New("not in Polar's shape")))`,
		new:   `	return &Error{Op: x.op, Reason: ErrDenied, StatusCode: status}`,
		tests: "TestARouteThatIsGoneIsNotTakenForARevokedKey|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name: "a refusal inside a 500 locks the license",
		rule: "5xx is unknown, whatever is in it",
		file: "client.go",
		old: `		if cause == errServerFailed { // and not the page of a proxy
			failure.say = phrases{serverFailed, serverFailedDo}
		}
		return failure
	}`,
		new: `		if cause != errServerFailed { // and not the page of a proxy
			return failure
		}
		status = http.StatusNotFound
	}`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name:  "an empty 204 grants",
		rule:  "a short body is unknown",
		file:  "client.go",
		old:   `case status == http.StatusNoContent && x.op == opDeactivate:`,
		new:   `case status == http.StatusNoContent:`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name:  "a Wi-Fi login page gives the seat back",
		rule:  "any HTML is unknown",
		file:  "client.go",
		old:   `case status == http.StatusNoContent && x.op == opDeactivate:`,
		new:   `case status < 300 && x.op == opDeactivate:`,
		tests: "TestDeactivateThatFailsOnTheWireIsMadeGoodLater|TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name:  "a 429 without a pause is taken for an outage",
		rule:  "429 is unknown, with how long to wait",
		file:  "client.go",
		old:   `case status == http.StatusTooManyRequests:`,
		new:   `case status == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "":`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
	{
		name: "a redirect is followed",
		rule: "any redirect is unknown",
		file: "client.go",
		old: `	c.Transport = unled{c.Transport}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
`,
		new:   ``,
		tests: "TestNoRedirectIsFollowed|TestARedirectTakesTheKeyToNoOtherHost",
	},
	{
		name:  "a redirect to nowhere leaves an activation in doubt",
		rule:  "any redirect is unknown, wherever it leads",
		file:  "client.go",
		old:   `		resp.Header.Del("Location")`,
		new:   `		resp.Header.Get("Location")`,
		tests: "TestAnActivationThatCannotHaveLeftIsNotInDoubt",
	},
	{
		name:  "an answer without an end is read to the end",
		rule:  "a huge body is unknown",
		file:  "client.go",
		old:   `io.LimitReader(resp.Body, maxAnswer+1)`,
		new:   `io.LimitReader(resp.Body, 1<<40)`,
		tests: "TestAnAnswerThatGoesOnAndOnIsNotReadToItsEnd",
	},
	{
		name: "a transport that panics takes the program down",
		rule: "whatever goes wrong on the way is unknown",
		file: "client.go",
		old: `		if p := recover(); p != nil {
			c.log.Error`,
		new: `		if p := error(nil); p != nil {
			c.log.Error`,
		tests: "TestATransportThatPanicsIsAnOutage",
	},

	// Asking.
	{
		name:  "a count of uses is sent again",
		rule:  "what must not happen twice is never repeated",
		file:  "license.go",
		old:   `repeatable: r.IncrementUsage == 0,`,
		new:   `repeatable: true,`,
		tests: "TestOnlyAQuestionThatMayBeAskedTwiceIsRepeated|TestAnAnswerThatWasLostToACountSaysThatItMayHaveCounted",
	},
	{
		name:  "a gateway that restarts is not tried again",
		rule:  "a question that may be asked twice is tried again after a 5xx",
		file:  "client.go",
		old:   `failure := unknown(&worthAnotherTry{cause})`,
		new:   `failure := unknown(cause)`,
		tests: "TestOnlyAQuestionThatMayBeAskedTwiceIsRepeated",
	},
	{
		name: "a network that is not there is tried again and again",
		rule: "a start does not wait for what will not change",
		file: "client.go",
		old: `			return &Error{Op: x.op, Reason: ErrUnreachable, Err: c.tidy(err, x)}
		}
		return`,
		new: `			return &Error{Op: x.op, Reason: ErrUnreachable, Err: &worthAnotherTry{c.tidy(err, x)}}
		}
		return`,
		tests: "TestOnlyAQuestionThatMayBeAskedTwiceIsRepeated",
	},
	{
		name: "a version header is sent",
		rule: "no Polar-Version header is sent",
		file: "client.go",
		old:  `	req.Header.Set("Accept", "application/json")`,
		new: `	req.Header.Set("Accept", "application/json")
	req.Header.Set("Polar-Version", "2026-04")`,
		tests: "TestARequestSaysWhoAsksAndNothingThatAgesBadly",
	},
	{
		name: "the lower-case form of a 404's word counts as Polar's",
		rule: "only an answer in Polar's own shape is a verdict",
		file: "wire.go",
		old:  `	f.text("error", &r.Error)`,
		new: `	f.text("error", &r.Error)
	if r.Error == "not_found" {
		r.Error = "ResourceNotFound"
	}`,
		tests: "TestWhatProvesNothingNeitherLocksNorUnlocks",
	},
}
