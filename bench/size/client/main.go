// Client validates a license key with polargate's Client.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/polargate/polargate"
)

func main() {
	client, err := polargate.NewClient(polargate.ClientConfig{OrganizationID: os.Getenv("POLAR_ORGANIZATION_ID")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	key, err := polargate.ParseKey(os.Getenv("LICENSE_KEY"))
	if err != nil {
		fmt.Println(err)
		return
	}
	license, err := client.Validate(context.Background(), polargate.ValidateRequest{Key: key})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(license.Status)
}
