package polargate_test

import (
	"context"
	"fmt"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
)

// A program with paid plug-ins: each has a license key of its own.
func ExampleLicenses() {
	polar := polartest.New(polartest.Config{}) // a program has none of this
	ink := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	brush := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})

	ctx, quit := context.WithCancel(context.Background())
	defer quit()
	licenses, err := polargate.OpenLicenses(polargate.Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		Features:       map[string][]string{ink.BenefitID: {"ink"}, brush.BenefitID: {"brush"}},
		BaseURL:        polar.URL(), // a program leaves these three out
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
	}, "ink", "brush")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer licenses.Close()
	go licenses.Run(ctx) // keeps all of them verified

	plugin, _ := licenses.Gate("brush")
	_, err = plugin.Activate(ctx, brush.Key)
	fmt.Println(err, licenses.Has("brush"), licenses.Has("ink"))

	for _, of := range licenses.Check(ctx) { // List does the same from memory
		fmt.Println(of.Name, of.Status.State)
	}
	fmt.Println(len(licenses.List()))
	// Output:
	// <nil> true false
	// brush active
	// ink unlicensed
	// 2
}
