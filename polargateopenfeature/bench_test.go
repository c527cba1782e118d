package polargateopenfeature_test

import (
	"testing"
	"time"

	"github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/memprovider"
)

// BenchmarkBesideInMemory asks for a flag of a cached customer, beside OpenFeature's in-memory
// provider, by turns in one run: with a flag that looks up who has paid, as ours does, and one
// that is the same for everybody. "x-memory" is how many times as long ours takes, with the garbage
// that each makes; turns are short, so that a busy machine disturbs both alike. "x-fastest" is
// the same of the fastest turns, which no collection of garbage and nobody else disturbed.
//
//	go test -run xxx -bench BesideInMemory
func BenchmarkBesideInMemory(b *testing.B) {
	_, customers := shop(b)
	onOff := map[string]any{"on": true, "off": false}
	// A provider belongs to one API for good, so each run makes its own.
	static := func() openfeature.FeatureProvider {
		return memprovider.NewInMemoryProvider(map[string]memprovider.InMemoryFlag{
			"export": {State: memprovider.Enabled, DefaultVariant: "on", Variants: onOff},
		})
	}
	paid := map[string]bool{"usr_1": true}
	byUser := func(_ memprovider.InMemoryFlag, of openfeature.FlattenedContext) (any, openfeature.ProviderResolutionDetail) {
		id, _ := of[openfeature.TargetingKey].(string)
		return paid[id], openfeature.ProviderResolutionDetail{Reason: openfeature.TargetingMatchReason, Variant: "on"}
	}
	targeted := func() openfeature.FeatureProvider {
		return memprovider.NewInMemoryProvider(map[string]memprovider.InMemoryFlag{
			"export": {State: memprovider.Enabled, DefaultVariant: "off", Variants: onOff, ContextEvaluator: &byUser},
		})
	}
	direct := func(p openfeature.FeatureProvider) func() bool {
		of := openfeature.FlattenedContext{openfeature.TargetingKey: "usr_1"}
		return func() bool { return p.BooleanEvaluation(b.Context(), "export", false, of).Value }
	}
	throughSDK := func(p openfeature.FeatureProvider) func() bool {
		c, of := client(b, p), user("usr_1")
		return func() bool { on, _ := c.BooleanValue(b.Context(), "export", false, of); return on }
	}
	for _, one := range []struct {
		name   string
		theirs func() openfeature.FeatureProvider
		ask    func(openfeature.FeatureProvider) func() bool
	}{
		{"provider, by user", targeted, direct},
		{"provider, for everybody", static, direct},
		{"client, by user", targeted, throughSDK},
		{"client, for everybody", static, throughSDK},
	} {
		b.Run(one.name, func(b *testing.B) {
			const turn = 200
			both := []func() bool{one.ask(provide(b, customers)), one.ask(one.theirs())}
			var took [2]time.Duration
			fastest := [2]time.Duration{time.Hour, time.Hour}
			n := 0
			for b.Loop() {
				n += turn
				for i, ask := range both {
					began := time.Now()
					for range turn {
						if !ask() {
							b.Fatal("locked")
						}
					}
					this := time.Since(began)
					took[i], fastest[i] = took[i]+this, min(fastest[i], this)
				}
			}
			b.ReportMetric(float64(took[0])/float64(took[1]), "x-memory")
			b.ReportMetric(float64(fastest[0])/float64(fastest[1]), "x-fastest")
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(n), "ns-ours")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(n), "ns-memory")
		})
	}
}
