package fact

import (
	"github.com/polargate/polargate/internal/rights"
)

func BenefitsOf(grants []rights.Benefit) (facts []Benefit) {
	for _, g := range grants {
		facts = append(facts, Benefit{ID: g.ID(), Type: g.Type(), Metadata: g.Metadata(), Properties: g.Properties()})
	}
	return facts
}

func MetersOf(meters []rights.Meter) (facts []Meter) {
	for _, m := range meters {
		facts = append(facts, Meter{ID: m.ID(), Consumed: m.Consumed, Credited: m.Credited, Balance: m.Balance, Counted: m.Counted})
	}
	return facts
}

func SubscriptionsOf(all []rights.Subscription) (facts []Subscription) {
	for _, s := range all {
		facts = append(facts, Subscription{
			ID: s.ID, Product: s.ProductID, Status: s.Status, Trial: rights.PolarTime(s.TrialEnd), Paid: rights.PolarTime(s.CurrentPeriodEnd),
			Canceled: s.CancelAtPeriodEnd, End: rights.PolarTime(s.EndsAt),
		})
	}
	return facts
}

// PartsOf are the parts of a state that facts tell of.
func PartsOf(benefits []Benefit, products []string, subscriptions []Subscription, meters []Meter) (have rights.Parts) {
	for _, b := range benefits {
		have.Benefits = append(have.Benefits, rights.NewBenefit(b.ID, b.Type, b.Metadata, b.Properties))
	}
	have.AddProducts(products)
	for _, s := range subscriptions {
		have.Subscriptions = append(have.Subscriptions, rights.Subscription{
			ID: s.ID, ProductID: s.Product, Status: s.Status, TrialEnd: rights.TimeOf(s.Trial),
			CurrentPeriodEnd: rights.TimeOf(s.Paid), CancelAtPeriodEnd: s.Canceled, EndsAt: rights.TimeOf(s.End),
		})
	}
	for _, m := range meters {
		have.Meters = append(have.Meters, rights.NewMeter(m.ID, m.Consumed, m.Credited, m.Balance, m.Counted))
	}
	return have
}
