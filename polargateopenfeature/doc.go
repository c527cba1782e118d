// Package polargateopenfeature answers OpenFeature's flags by what customers have bought, or by
// the license of an installation.
//
//	provider, err := polargateopenfeature.New(customers, polargateopenfeature.Options{
//		Features: []string{"export"},                       // booleans
//		Meters:   map[string]string{"calls_left": meterID}, // integers and floats
//		Benefits: map[string]string{"theme": benefitID},    // objects
//	})
//	err = openfeature.SetProviderAndWait(provider)
//
// The targeting key of the evaluation context names the customer by your program's id.
//
// A customer who lacks something gets a value: false, 0 or an empty object, with a variant that says
// why. It is no error, because a multi-provider would go on to the next provider, and turn
// our no into its yes. Errors are for what can't be answered: see docs/openfeature.md.
package polargateopenfeature
