// Gate is a program that takes a seat, is stored, and works offline.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/polargate/polargate"
)

func main() {
	gate, err := polargate.Open(polargate.Config{OrganizationID: os.Getenv("POLAR_ORGANIZATION_ID"), App: "hello"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer gate.Close()
	status, err := gate.Activate(context.Background(), os.Getenv("LICENSE_KEY"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(status.State, gate.Has("export"))
}
