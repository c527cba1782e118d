package polartest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/polargate/polargate/polartest"
)

// activate stands for the program under test: it takes a seat.
func activate(client *http.Client, organization, key string) error {
	body := fmt.Sprintf(`{"key":%q,"organization_id":%q,"label":"laptop"}`, key, organization)
	response, err := client.Post("https://api.polar.sh/v1/customer-portal/license-keys/activate",
		"application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct{ Detail string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(answer.Detail)
	}
	return nil
}

func Example() {
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
	client := polar.Client()

	err := activate(client, polar.OrganizationID(), key.Key)
	fmt.Println("first seat:", err)

	polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.AnswerLost()})
	err = activate(client, polar.OrganizationID(), key.Key)
	fmt.Println("answer lost:", errors.Is(err, syscall.ECONNRESET), "and seats taken:", polar.Seats(key.ID))

	err = activate(client, polar.OrganizationID(), key.Key)
	fmt.Println("third:", err)

	tomorrow := polar.Now().Add(24 * time.Hour)
	polar.Update(key.ID, func(k *polartest.LicenseKey) { k.ExpiresAt = tomorrow })
	polar.Advance(25 * time.Hour)
	err = activate(client, polar.OrganizationID(), key.Key)
	fmt.Println("a day later:", err)
	fmt.Println("requests:", polar.Count("/activate"))

	// Output:
	// first seat: <nil>
	// answer lost: true and seats taken: 2
	// third: License key activation limit already reached
	// a day later: License key has expired.
	// requests: 4
}

func ExamplePolar_Start() {
	polar := polartest.New(polartest.Config{Unlimited: true})
	server, err := polar.Start()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = server.Close() }()

	response, err := http.Get(server.URL + "/v1/license-keys/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	fmt.Println(response.Status, response.Header.Get("WWW-Authenticate"))
	// Output: 401 Unauthorized Bearer realm="polar"
}
