package ledger

import (
	"cmp"
	"encoding/json"
	"errors"
	"math"
)

// Units is an amount of a meter with nine decimals, so that 0.7 taken ten times is 7. Its
// form is whole plus nanos billionths, where nanos is never negative.
type Units struct {
	whole int64
	nanos int32
}

const (
	billion = 1_000_000_000
	// most bounds amounts, so that sums of several can't overflow.
	most = int64(1) << 60
	// exact is up to which whole number all nine decimals fit a float64 as one integer.
	exact = int64(1<<53) / billion
)

// Of is x to nine decimals. Amounts above 2^60 are cut to that; NaN is 0.
func Of(x float64) Units {
	switch {
	case math.IsNaN(x):
		return Units{}
	case x >= float64(most):
		return Units{whole: most}
	case x <= -float64(most):
		return Units{whole: -most}
	}
	whole := math.Floor(x)
	u := Units{int64(whole), int32(math.Round((x - whole) * billion))}
	return u.carried()
}

// Cost is Of for what somebody pays: never less than the smallest amount there is.
func Cost(x float64) Units {
	if u := Of(x); x <= 0 || u != (Units{}) {
		return u
	}
	return Units{nanos: 1}
}

func (u Units) carried() Units {
	switch {
	case u.nanos >= billion:
		u.whole, u.nanos = u.whole+1, u.nanos-billion
	case u.nanos < 0:
		u.whole, u.nanos = u.whole-1, u.nanos+billion
	}
	switch {
	case u.whole >= most:
		return Units{whole: most}
	case u.whole < -most:
		return Units{whole: -most}
	}
	return u
}

// Plus is u + v.
func (u Units) Plus(v Units) Units { return Units{u.whole + v.whole, u.nanos + v.nanos}.carried() }

// Minus is u - v.
func (u Units) Minus(v Units) Units { return Units{u.whole - v.whole, u.nanos - v.nanos}.carried() }

// Compare is negative if u is less than v, 0 if they are equal, else positive.
func (u Units) Compare(v Units) int {
	return cmp.Or(cmp.Compare(u.whole, v.whole), cmp.Compare(u.nanos, v.nanos))
}

// Less reports whether u is less than v.
func (u Units) Less(v Units) bool { return u.Compare(v) < 0 }

// Positive reports whether u is more than nothing.
func (u Units) Positive() bool { return Units{}.Less(u) }

// least is the smaller of two amounts.
func least(u, v Units) Units {
	if v.Less(u) {
		return v
	}
	return u
}

// Float is the float64 that is nearest to u.
func (u Units) Float() float64 {
	if -exact < u.whole && u.whole < exact {
		return float64(u.whole*billion+int64(u.nanos)) / billion
	}
	return float64(u.whole) + float64(u.nanos)/billion
}

// Round is x to nine decimals, as far as a float64 has them. What is too large for decimals
// stays as it is.
func Round(x float64) float64 {
	if math.Abs(x) >= 1<<52 || math.IsNaN(x) {
		return x
	}
	return Of(x).Float()
}

// MarshalJSON writes both parts.
func (u Units) MarshalJSON() ([]byte, error) { return json.Marshal([2]int64{u.whole, int64(u.nanos)}) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (u *Units) UnmarshalJSON(data []byte) error {
	var parts [2]int64
	if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	if parts[0] < -most || parts[0] > most || parts[1] < 0 || parts[1] >= billion {
		return errors.New("not an amount")
	}
	u.whole, u.nanos = parts[0], int32(parts[1])
	return nil
}
