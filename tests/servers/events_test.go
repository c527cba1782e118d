package servers

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// twoOrganizations is a shop whose webhook handler has the secrets of two endpoints: its
// own, and one of the vendor's organization in the sandbox, where the same customers have
// been made to try things out.
type twoOrganizations struct {
	*kit.Shop
	customers *polargate.Customers
	handler   http.Handler
	sandbox   *polartest.Polar
}

func newTwoOrganizations(t *testing.T, change ...func(*polargate.CustomersConfig)) *twoOrganizations {
	t.Helper()
	own, other := polartest.Secret{Text: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, polartest.Secret{Text: "polar_whs_sandbox", Raw: true}
	s := &twoOrganizations{Shop: kit.NewShop(t), sandbox: polartest.New(polartest.Config{Unlimited: true})}
	s.customers = s.Open(append([]func(*polargate.CustomersConfig){func(c *polargate.CustomersConfig) { c.OrganizationID = "" }}, change...)...)
	s.handler = s.customers.WebhookHandler(own.Text, other.Text)
	s.Polar.AddEndpoint(polartest.Endpoint{Handler: s.handler, Secrets: []polartest.Secret{own}})
	s.sandbox.AddEndpoint(polartest.Endpoint{Handler: s.handler, Secrets: []polartest.Secret{other}})
	return s
}

// delivered waits for all webhooks, and for what they bring about.
func (s *twoOrganizations) delivered() {
	s.T.Helper()
	for _, polar := range []*polartest.Polar{s.Polar, s.sandbox} {
		require.NoError(s.T, polar.WaitForDeliveries(s.T.Context()))
		for _, d := range polar.Deliveries() {
			assert.Equal(s.T, "delivered", d.Status, "nobody's endpoint is switched off for that")
		}
	}
	synctest.Wait()
}

func (s *twoOrganizations) lines(text string) int { return strings.Count(s.Log.String(), text) }

func TestAnEventOfTheSandboxDecidesNothingInProduction(t *testing.T) {
	for name, c := range map[string]struct {
		// learnt says whether production was asked before the sandbox speaks.
		learnt bool
		event  func(s *twoOrganizations)
		who    string
		want   bool
	}{
		"a purchase, before anything is known": {event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: "usr_never_paid", Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}}})
		}, who: "usr_never_paid"},
		"a purchase": {learnt: true, event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: "usr_never_paid", Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}}})
		}, who: "usr_never_paid"},
		"a cancellation, before anything is known": {event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: kit.Paying})
		}, who: kit.Paying, want: true},
		"a cancellation": {learnt: true, event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: kit.Paying})
		}, who: kit.Paying, want: true},
		"a deletion, before anything is known": {event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: kit.Paying})
			s.sandbox.DeleteCustomer(kit.Paying)
		}, who: kit.Paying, want: true},
		"a deletion": {learnt: true, event: func(s *twoOrganizations) {
			s.sandbox.AddCustomer(polartest.Customer{ExternalID: kit.Paying})
			s.sandbox.DeleteCustomer(kit.Paying)
		}, who: kit.Paying, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			kit.Bubbled(t, func(t *testing.T) {
				s := newTwoOrganizations(t)
				if c.learnt {
					s.Has(s.customers, kit.Paying, true)
				}
				c.event(s)
				s.delivered()
				s.Has(s.customers, c.who, c.want)
				s.Has(s.customers, kit.Paying, true) // by the answer the organization is known at the latest
				assert.Zero(t, s.customers.Stats().Events)
				assert.Zero(t, s.customers.Stats().Held)
				s.Polar.SetOffline(true)
				s.Has(s.customers, c.who, c.want)
				assert.Equal(t, 1, s.lines("of another organization was refused"))
				assert.Contains(t, s.Log.String(), s.sandbox.OrganizationID())
				assert.NotContains(t, s.Log.String(), kit.Paying)
			})
		})
	}
}

func TestTheOrganizationIsNeverLearntFromAnEvent(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		s.Polar.SetOffline(true)
		s.sandbox.AddCustomer(polartest.Customer{ExternalID: "usr_never_paid", Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}}})
		require.NoError(t, s.sandbox.WaitForDeliveries(t.Context()))
		_, err := s.customers.Entitlements(t.Context(), polargate.ExternalID("usr_never_paid"))
		require.ErrorIs(t, err, polargate.ErrUnreachable)
		assert.NotZero(t, s.customers.Stats().Held)
		time.Sleep(time.Minute)
		s.Polar.SetOffline(false)
		s.Has(s.customers, kit.Paying, true)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		s.delivered()
		s.Has(s.customers, kit.Paying, false)
		assert.Zero(t, s.customers.Stats().Held)
	})
}

func TestAnEventThatComesFirstHasItsEffectOnceTheOrganizationIsKnown(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		s.Polar.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.TeaBenefit})
		s.delivered()
		assert.Equal(t, 1, s.Asked(), "the customer of the first event is asked about behind it")
		assert.EqualValues(t, 1, s.customers.Stats().Events)
		s.Polar.SetOffline(true)
		s.Has(s.customers, kit.Paying, true) // which came by the event alone
	})
}

// The answer was read before the cancellation, and is what the organization is learnt from.
func TestAnEventIsNotLostToTheAnswerThatTellsTheOrganization(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		s.Polar.Inject(polartest.Fault{Effect: polartest.Delay(2 * time.Second)})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := s.customers.Entitlements(t.Context(), polargate.ExternalID(kit.Paying))
			assert.NoError(t, err)
		}()
		time.Sleep(time.Second)
		s.Polar.RevokeBenefit(kit.Paying, kit.ProBenefit)
		require.NoError(t, s.Polar.WaitForDeliveries(t.Context()))
		<-done
		s.Has(s.customers, kit.Paying, false)
	})
}

func TestALicenseKeyTellsTheOrganizationToo(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		key := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit})
		_, refusal := s.customers.DecideLicense(t.Context(), key.Key)
		require.Nil(t, refusal)
		s.sandbox.AddCustomer(polartest.Customer{ExternalID: "usr_never_paid", Benefits: []polartest.Benefit{{BenefitID: kit.ProBenefit}}})
		s.delivered()
		assert.Zero(t, s.customers.Stats().Held)
		assert.Equal(t, 1, s.lines("of another organization was refused"))
		s.Has(s.customers, "usr_never_paid", false)
	})
}

func TestTheFirstStateSavesLicenseKeysTheQuestionForTheOrganization(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		key := s.Polar.AddKey(polartest.LicenseKey{BenefitID: kit.ProBenefit})
		s.Has(s.customers, kit.Paying, true)
		asked := s.Asked()
		_, refusal := s.customers.DecideLicense(t.Context(), key.Key)
		require.Nil(t, refusal)
		assert.Equal(t, asked+1, s.Asked())
	})
}

func TestManyEventsOfAnotherOrganizationMakeOneLineAMinute(t *testing.T) {
	kit.Bubbled(t, func(t *testing.T) {
		s := newTwoOrganizations(t)
		s.Has(s.customers, kit.Paying, true)
		s.sandbox.AddCustomer(polartest.Customer{ExternalID: kit.Paying})
		for range 50 {
			s.sandbox.GrantBenefit(kit.Paying, polartest.Benefit{BenefitID: kit.TeaBenefit})
			s.sandbox.RevokeBenefit(kit.Paying, kit.TeaBenefit)
		}
		s.delivered()
		assert.Equal(t, 1, s.lines("of another organization was refused"))
		assert.Greater(t, s.customers.Stats().Refused, int64(50))
	})
}
