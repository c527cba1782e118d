package polargateredis_test

import (
	"context"
	"fmt"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateredis"
	"github.com/redis/rueidis"
)

// The client is the program's own. What is known of a customer on one replica is known on
// all of them.
func ExampleNew() {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"redis.example.com:6379"}, DisableCache: true})
	if err != nil {
		fmt.Println("Redis cannot be reached:", err)
		return
	}
	defer client.Close()
	store, err := polargateredis.New(client, polargateredis.Options{Prefix: "inkwell:"})
	if err != nil {
		panic(err)
	}
	answer, err := store.Lookup(context.Background(), polargate.SharedLookup{
		Key: "customer", Holder: "replica 1", ClaimFor: 10 * time.Second,
		Budget: polargate.SharedBudget{Name: "requests", Limit: 300, Window: time.Minute},
	})
	switch {
	case err != nil:
		fmt.Println("the store is away:", err)
	case answer.Found:
		fmt.Println("known, as of", answer.Record.At.Time())
	case answer.Claimed:
		fmt.Println("this replica asks Polar")
	}
}
