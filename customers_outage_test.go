package polargate_test

import (
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
)

func TestAnOutageInWhichPolarIsSilentHoldsUpAKnownCustomerOnce(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newShop(t)
		const other = "usr_other"
		s.add(other)
		customers := s.warmed()
		s.has(customers, other, true)
		time.Sleep(2 * time.Hour)
		s.polar.Inject(polartest.Fault{Effect: polartest.Hang()})
		at := time.Now()
		s.has(customers, paying, true)
		assert.Equal(t, 5*time.Second, time.Since(at), "the first to notice waits")
		at = time.Now()
		s.has(customers, other, true)
		for range 600 {
			s.has(customers, paying, true)
			time.Sleep(time.Second)
		}
		assert.Equal(t, 10*time.Minute, time.Since(at), "nobody else does")

		s.polar.RevokeBenefit(paying, proBenefit)
		s.polar.RevokeBenefit(other, proBenefit)
		s.polar.ClearFaults()
		time.Sleep(15 * time.Second)
		s.has(customers, paying, true) // and Polar is asked behind that
		time.Sleep(time.Second)
		s.has(customers, paying, false)
		s.has(customers, other, false) // it is long ago that somebody asked about them in vain
	})
}
