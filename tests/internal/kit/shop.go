package kit

import (
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What NewShop sells, and the external id of the customer who has bought it.
const (
	ProBenefit = "850cc3a4-3ed7-4be6-b198-127ec8d33bb9"
	TeaBenefit = "32234c6d-03fe-42a8-8a2f-d3d416d0b60a"
	CallsMeter = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"
	Paying     = "usr_paying"
)

// Shop is a Polar with one paying customer in it, and what a server's Customers need to
// ask it.
type Shop struct {
	T     *testing.T
	Polar *polartest.Polar
	// Config is for the Customers that Open makes; a test may change it before.
	Config polargate.CustomersConfig
	Log    *Lines
}

// NewShop makes a Polar, by default without limits, and a paying customer.
func NewShop(t *testing.T, change ...func(*polartest.Config)) *Shop {
	t.Helper()
	config := polartest.Config{Unlimited: true}
	for _, c := range change {
		c(&config)
	}
	polar := polartest.New(config)
	s := &Shop{T: t, Polar: polar, Log: &Lines{}}
	s.Config = polargate.CustomersConfig{
		AccessToken:    polar.AddToken(polartest.Token{}),
		OrganizationID: polar.OrganizationID(),
		Features:       map[string][]string{ProBenefit: {"pro", "export"}},
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Logger:         slog.New(slog.NewTextHandler(s.Log, nil)),
	}
	s.Add(Paying)
	return s
}

// Add makes a customer who has pro and a hundred calls.
func (s *Shop) Add(external string) {
	s.Polar.AddCustomer(polartest.Customer{
		ExternalID: external,
		Benefits:   []polartest.Benefit{{BenefitID: ProBenefit}},
		Meters:     []polartest.Meter{{MeterID: CallsMeter, CreditedUnits: 100}},
	})
}

// Open starts the server's Customers, closed with the test.
func (s *Shop) Open(change ...func(*polargate.CustomersConfig)) *polargate.Customers {
	s.T.Helper()
	config := s.Config
	for _, c := range change {
		c(&config)
	}
	customers, err := polargate.NewCustomers(config)
	require.NoError(s.T, err)
	s.T.Cleanup(func() { _ = customers.Close() })
	return customers
}

// Asked counts the requests to Polar.
func (s *Shop) Asked() int { return s.Polar.Count("") }

// Warmed is Open, with the paying customer in the cache.
func (s *Shop) Warmed(change ...func(*polargate.CustomersConfig)) *polargate.Customers {
	s.T.Helper()
	customers := s.Open(change...)
	s.Has(customers, Paying, true)
	return customers
}

// Has asserts that a customer has pro, or has not, and that Entitlements can tell.
func (s *Shop) Has(customers *polargate.Customers, external string, want bool) {
	s.T.Helper()
	e, err := customers.Entitlements(s.T.Context(), polargate.ExternalID(external))
	require.NoError(s.T, err)
	assert.Equal(s.T, want, e.Has("pro"))
}

// Bubbled runs a parallel test in which waiting takes no time.
func Bubbled(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}
