// Polargo validates a license key with polar-go.
package main

import (
	"context"
	"fmt"
	"os"

	polargo "github.com/polarsource/polar-go"
	"github.com/polarsource/polar-go/models/components"
)

func main() {
	client := polargo.New()
	answer, err := client.CustomerPortal.LicenseKeys.Validate(context.Background(), components.LicenseKeyValidate{
		Key: os.Getenv("LICENSE_KEY"), OrganizationID: os.Getenv("POLAR_ORGANIZATION_ID"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.ValidatedLicenseKey.Status)
}
