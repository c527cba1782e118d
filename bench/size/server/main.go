// Server is a server with a gated route and a webhook.
package main

import (
	"fmt"
	"net/http"
	"os"

	"github.com/polargate/polargate"
)

func main() {
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{AccessToken: os.Getenv("POLAR_ACCESS_TOKEN")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer customers.Close()
	signedIn := func(r *http.Request) polargate.CustomerRef { return polargate.ExternalID(r.Header.Get("X-User")) }
	http.Handle("GET /", customers.Middleware(signedIn)(http.NotFoundHandler()))
	http.Handle("POST /webhooks/polar", customers.WebhookHandler(os.Getenv("POLAR_WEBHOOK_SECRET")))
	fmt.Println(http.ListenAndServe("127.0.0.1:0", nil))
}
