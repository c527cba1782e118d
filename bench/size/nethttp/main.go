// Nethttp validates a license key by hand, as the least that a program could be.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
)

func main() {
	body, err := json.Marshal(map[string]string{"key": os.Getenv("LICENSE_KEY"), "organization_id": os.Getenv("POLAR_ORGANIZATION_ID")})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := http.Post("https://api.polar.sh/v1/customer-portal/license-keys/validate", "application/json", bytes.NewReader(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	var license struct {
		Status string `json:"status"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&license); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(license.Status)
}
