package polargate_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// twoOrganizations is a shop whose webhook handler has the secrets of two endpoints: its
// own, and one of the vendor's organization in the sandbox, where the same customers have
// been made to try things out.
type twoOrganizations struct {
	*shop
	customers *polargate.Customers
	handler   http.Handler
	sandbox   *polartest.Polar
}

func newTwoOrganizations(t *testing.T, change ...func(*polargate.CustomersConfig)) *twoOrganizations {
	t.Helper()
	own, other := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, polartest.Secret{Text: "polar_whs_sandbox", Raw: true}
	s := &twoOrganizations{shop: newShop(t), sandbox: polartest.New(polartest.Config{Unlimited: true})}
	s.customers = s.open(append([]func(*polargate.CustomersConfig){func(c *polargate.CustomersConfig) { c.OrganizationID = "" }}, change...)...)
	s.handler = s.customers.WebhookHandler(own.Text, other.Text)
	s.polar.AddEndpoint(polartest.Endpoint{Handler: s.handler, Secrets: []polartest.Secret{own}})
	s.sandbox.AddEndpoint(polartest.Endpoint{Handler: s.handler, Secrets: []polartest.Secret{other}})
	return s
}

// delivered waits for all webhooks, and for what they bring about.
func (s *twoOrganizations) delivered() {
	s.t.Helper()
	for _, polar := range []*polartest.Polar{s.polar, s.sandbox} {
		require.NoError(s.t, polar.WaitForDeliveries(s.t.Context()))
		for _, d := range polar.Deliveries() {
			assert.Equal(s.t, "delivered", d.Status, "nobody's endpoint is switched off for that")
		}
	}
	synctest.Wait()
}

func (s *twoOrganizations) lines(text string) int { return strings.Count(s.log.String(), text) }

func TestAnEventOfTheSandboxDecidesNothingInProduction(t *testing.T) {
	for name, c := range map[string]struct {
		// learnt says whether production was asked before the sandbox speaks.
		learnt bool
		event  func(s *twoOrganizations)
		who    string
		want   bool
	}{
		"a purchase, before anything is known": {event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: "usr_never_paid", Benefits: []polartest.Benefit{{BenefitID: proBenefit}}})
		}, who: "usr_never_paid"},
		"a purchase": {learnt: true, event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: "usr_never_paid", Benefits: []polartest.Benefit{{BenefitID: proBenefit}}})
		}, who: "usr_never_paid"},
		"a cancellation, before anything is known": {event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: paying})
		}, who: paying, want: true},
		"a cancellation": {learnt: true, event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: paying})
		}, who: paying, want: true},
		"a deletion, before anything is known": {event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: paying})
			s.sandbox.DeleteCustomer(paying)
		}, who: paying, want: true},
		"a deletion": {learnt: true, event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: paying})
			s.sandbox.DeleteCustomer(paying)
		}, who: paying, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T) {
				s := newTwoOrganizations(t)
				if c.learnt {
					s.has(s.customers, paying, true)
				}
				c.event(s)
				s.delivered()
				s.has(s.customers, c.who, c.want)
				s.has(s.customers, paying, true) // by the answer the organization is known at the latest
				assert.Zero(t, s.customers.Stats().Events)
				assert.Zero(t, s.customers.Stats().Held)
				s.polar.SetOffline(true)
				s.has(s.customers, c.who, c.want)
				assert.Equal(t, 1, s.lines("of another organization was refused"))
				assert.Contains(t, s.log.String(), s.sandbox.OrganizationID())
				assert.NotContains(t, s.log.String(), paying)
			})
		})
	}
}

func TestTheOrganizationIsNeverLearntFromAnEvent(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		s.polar.SetOffline(true)
		s.sandbox.AddCustomer(polartest.Customer{ExternalID: "usr_never_paid", Benefits: []polartest.Benefit{{BenefitID: proBenefit}}})
		require.NoError(t, s.sandbox.WaitForDeliveries(t.Context()))
		_, err := s.customers.Entitlements(t.Context(), polargate.ExternalID("usr_never_paid"))
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.NotZero(t, s.customers.Stats().Held)
		time.Sleep(time.Minute)
		s.polar.SetOffline(false)
		s.has(s.customers, paying, true)
		s.polar.RevokeBenefit(paying, proBenefit)
		s.delivered()
		s.has(s.customers, paying, false)
		assert.Zero(t, s.customers.Stats().Held)
	})
}

func TestAnEventThatComesFirstHasItsEffectOnceTheOrganizationIsKnown(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		s.polar.GrantBenefit(paying, polartest.Benefit{BenefitID: teaBenefit})
		s.delivered()
		assert.Equal(t, 1, s.asked(), "the customer of the first event is asked about behind it")
		assert.EqualValues(t, 1, s.customers.Stats().Events)
		s.polar.SetOffline(true)
		s.has(s.customers, paying, true) // which came by the event alone
	})
}

// The answer was read before the cancellation, and is what the organization is learnt from.
func TestAnEventIsNotLostToTheAnswerThatTellsTheOrganization(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		s.polar.Inject(polartest.Fault{Effect: polartest.Delay(2 * time.Second)})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := s.customers.Entitlements(t.Context(), polargate.ExternalID(paying))
			assert.NoError(t, err)
		}()
		time.Sleep(time.Second)
		s.polar.RevokeBenefit(paying, proBenefit)
		require.NoError(t, s.polar.WaitForDeliveries(t.Context()))
		<-done
		s.has(s.customers, paying, false)
	})
}

func TestALicenseKeyTellsTheOrganizationToo(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		key := s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit})
		_, refusal := s.customers.DecideLicense(t.Context(), key.Key)
		require.Nil(t, refusal)
		s.sandbox.AddCustomer(polartest.Customer{ExternalID: "usr_never_paid", Benefits: []polartest.Benefit{{BenefitID: proBenefit}}})
		s.delivered()
		assert.Zero(t, s.customers.Stats().Held)
		assert.Equal(t, 1, s.lines("of another organization was refused"))
		s.has(s.customers, "usr_never_paid", false)
	})
}

func TestTheFirstStateSavesLicenseKeysTheQuestionForTheOrganization(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		key := s.polar.AddKey(polartest.LicenseKey{BenefitID: proBenefit})
		s.has(s.customers, paying, true)
		asked := s.asked()
		_, refusal := s.customers.DecideLicense(t.Context(), key.Key)
		require.Nil(t, refusal)
		assert.Equal(t, asked+1, s.asked())
	})
}

func TestManyEventsOfAnotherOrganizationMakeOneLineAMinute(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		s.has(s.customers, paying, true)
		s.sandbox.AddCustomer(polartest.Customer{ExternalID: paying})
		for range 50 {
			s.sandbox.GrantBenefit(paying, polartest.Benefit{BenefitID: teaBenefit})
			s.sandbox.RevokeBenefit(paying, teaBenefit)
		}
		s.delivered()
		assert.Equal(t, 1, s.lines("of another organization was refused"))
		assert.Greater(t, s.customers.Stats().Refused, int64(50))
	})
}
