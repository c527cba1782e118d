package main

var replicas = []mutant{
	{
		name:  "closed Customers take webhooks",
		rule:  "a webhook that can't be told to other replicas comes again",
		file:  "webhook.go",
		old:   `	if err := c.closedError("webhook"); err != nil {`,
		new:   `	if err := c.closedError("webhook"); false {`,
		tests: "TestADeliveryToAClosedReplicaComesAgain",
	},
	{
		name:  "what arrives last stays",
		rule:  "of two facts the younger stays",
		file:  "internal/localstore/localstore.go",
		old:   `			case order > 0, order == 0 && endsLater(tx, record):`,
		new:   `			case order != 0, order == 0 && endsLater(tx, record):`,
		tests: "TestWhatIsSharedInMemoryKeepsTheContract",
	},
	{
		name:  "every replica asks about a cold customer",
		rule:  "one replica asks, the others wait",
		file:  "internal/localstore/localstore.go",
		old:   `ok && claim.Head != q.Holder {`,
		new:   `ok && claim.Head != q.Holder && tx == nil {`,
		tests: "TestWhatIsSharedInMemoryKeepsTheContract",
	},
	{
		name:  "who is refused by the budget holds the claim",
		rule:  "claim and unit are taken together or not at all",
		file:  "internal/localstore/localstore.go",
		old:   `			if a.Turn = take(tx, q.Budget); !a.Turn.Taken {`,
		new:   `			if a.Turn = take(tx, q.Budget); !a.Turn.Taken && tx == nil {`,
		tests: "TestWhatIsSharedInMemoryKeepsTheContract",
	},
	{
		name:  "twice the budget goes out around the middle of a window",
		rule:  "one budget for all replicas, in any window",
		file:  "internal/localstore/localstore.go",
		old:   `part-windowParts <= when &&`,
		new:   `part-windowParts/2 <= when &&`,
		tests: "TestNoMoreRequestsThanTheBudgetLeaveInAnyMinute",
	},
	{
		name:  "a late writer replaces a value that was begun anew",
		rule:  "a version is never used twice",
		file:  "internal/localstore/localstore.go",
		old:   `now = link.Value{Version: rand.Text(), Data: data}`,
		new:   `now = link.Value{Version: "1"[:min(1, len(rand.Text()))], Data: data}`,
		tests: "TestWhatIsSharedInMemoryKeepsTheContract",
	},
	{
		name:  "what was learnt while the store was away stays on one replica",
		rule:  "store back again: merged",
		file:  "internal/link/link.go",
		old:   `	l.lost.Add(int64(l.kept.Add(resendable(records)...)))`,
		new:   ``,
		tests: "TestWhatWasLearntWhileTheStoreWasAwayForHalfAMinuteIsMergedWhenItIsBack",
	},
	{
		name: "a write that a failing server acknowledged is lost",
		rule: "after a gap what was put lately is put again",
		file: "internal/link/link.go",
		old: `	if gap {
		l.merge()`,
		new:   `	if gap {`,
		tests: "TestWhatAServerLostThatFailedRightAfterItAcknowledgedIsPutAgain",
	},
	{
		name:  "a store that hangs keeps requests as long as it likes",
		rule:  "nothing blocks longer than a bound",
		file:  "internal/link/link.go",
		old:   `breaker.Breaker{Bound: config.Bound,`,
		new:   `breaker.Breaker{Bound: time.Hour,`,
		tests: "TestASlowStoreIsWaitedForWithinTheBoundOnly",
	},
	{
		name:  "everybody waits for a store that has just failed",
		rule:  "a store that failed is left alone for a moment",
		file:  "internal/breaker/breaker.go",
		old:   `		if b.probing || time.Now().Before(b.until) {`,
		new:   `		if b.probing {`,
		tests: "TestAfterAFailureOneTriesAtATimeUntilItWorks",
	},
	{
		name:  "another customer's record lets somebody in",
		rule:  "who can write to the store cannot let anybody in",
		file:  "internal/envelope/envelope.go",
		old:   `"record "+name, 32)`,
		new:   `"record "+name[:0], 32)`,
		tests: "TestARecordOpensForItsSecretPurposeNameAndTimeOnly",
	},
	{
		name: "hints are dropped when there are too many",
		rule: "hints coalesce, none is dropped",
		file: "internal/hints/hints.go",
		old: `		q.gap = true
		clear(q.keys)
	}
	q.wake()`,
		new: `		clear(q.keys)
	}
	q.wake()`,
		tests: "TestMoreKeysThanAreKeptBecomeAGapAndNoneIsDropped",
	},
	{
		name:  "damaged bytes are read as a customer",
		rule:  "wrong bytes in the store are ignored",
		file:  "internal/sharedlog/file.go",
		old:   ` || crc32.Checksum(b[8:size], castagnoli()) != order.Uint32(b[4:]) {`,
		new:   ` {`,
		tests: "TestDamageAnywhereCostsOnlyWhatItHit",
	},
	{
		name:  "the file grows for ever",
		rule:  "the file grows to about twice what is in it",
		file:  "internal/sharedlog/file.go",
		old:   `l.file.end > 2*l.live ||`,
		new:   `l.file.end < 0 ||`,
		tests: "TestTheFileDoesNotGrowBeyondTwiceWhatIsInIt",
	},
}
