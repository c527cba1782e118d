package clock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestATimeThatIsTooLateIsNever(t *testing.T) {
	t.Parallel()
	assert.Equal(t, Local(5), Local(2).After(3))
	assert.Equal(t, Local(-1), Local(2).After(-3))
	assert.Equal(t, Never, Local(2).After(time.Duration(Never)))
	assert.Equal(t, Never, Never.After(time.Hour))
	assert.Equal(t, Local(-2), Local(-5).After(3), "a fact may be older than the clock")
	assert.Equal(t, time.Duration(3), Local(5).Sub(2))
	assert.Equal(t, Seconds(2), Local(2*time.Second+1).Seconds())
}

func TestPolarsTimesAreExact(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 12, 0, 0, 1, time.UTC)
	assert.Equal(t, at, PolarTime(at.In(time.FixedZone("", 3600))).Time())
	assert.Equal(t, at.Add(-time.Second), PolarTime(at).Before(time.Second).Time())
	assert.Equal(t, time.Second, PolarTime(at.Add(time.Second)).Sub(PolarTime(at)))
}
