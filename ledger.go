package polargate

// ledger is what was spent of a customer's meters and Polar may not have counted yet. It is
// guarded by the lock of the cache; nil is one in which nothing was spent.
type ledger struct {
	// question counts the questions to Polar, and base is that of them whose answer is
	// served, less what was spent since.
	question, base int64
	spent          map[string]float64  // by meter, since the last question
	underWay       map[*debit]struct{} // of requests that have not ended
}

// debit is an amount that was taken off a meter.
type debit struct {
	meter string
	units float64
}

// ask notes a question. Polar is taken to know of what was spent by requests that have
// ended, so that the answer comes less what is under way and what is spent from now on.
func (l *ledger) ask() {
	if l == nil {
		return
	}
	l.question++
	l.spent = nil
	for d := range l.underWay {
		l.takeOff(d)
	}
}

// answered notes that what Polar said last is served from now on.
func (l *ledger) answered() {
	if l != nil {
		l.base = l.question
	}
}

func (l *ledger) takeOff(d *debit) {
	if l.spent == nil {
		l.spent = map[string]float64{}
	}
	l.spent[d.meter] += d.units
}

// hasSpent reports whether units were spent since the last question.
func (l *ledger) hasSpent() bool {
	if l != nil {
		for _, units := range l.spent {
			if units > 0 {
				return true
			}
		}
	}
	return false
}

// lessSpent is an answer less what was spent since its question, and by requests under way.
func (l *ledger) lessSpent(value *Entitlements) *Entitlements {
	if l == nil || value.borrowed&listOfMeters != 0 {
		return value // borrowed balances are what was served until now, less all of that
	}
	for meter, units := range l.spent {
		if i := value.meter(meter); i >= 0 {
			value = value.withBalance(i, value.amounts[i].balance-units)
		}
	}
	return value
}
