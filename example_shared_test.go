package polargate_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/polargate/polargate"
)

// Two processes on one computer share a file, and what is in it outlasts both.
func ExampleSharedFile() {
	folder, err := os.MkdirTemp("", "inkwell-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "customers.state")
	first, second := polargate.SharedFile(path), polargate.SharedFile(path)

	ctx := context.Background()
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	_, err = first.Put(ctx, "", polargate.SharedRecord{Key: "customer", At: polargate.NewFactTime(at), Data: []byte("pro"), TTL: time.Hour})
	if err != nil {
		panic(err)
	}
	// An older fact comes later, and changes nothing.
	younger, err := second.Put(ctx, "", polargate.SharedRecord{Key: "customer", At: polargate.NewFactTime(at.Add(-time.Microsecond)), Data: []byte("free"), TTL: time.Hour})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(younger[0].Data), younger[0].At.Valid(), younger[0].At.Time().Format(time.TimeOnly))
	// Output: pro true 12:00:00
}

// One of several replicas asks Polar about a customer whom none of them knows.
func ExampleSharedInMemory() {
	store := polargate.SharedInMemory()
	look := func(replica string) {
		answer, err := store.Lookup(context.Background(), polargate.SharedLookup{
			Key: "customer", Holder: replica, ClaimFor: 10 * time.Second,
			Budget: polargate.SharedBudget{Name: "requests", Limit: 300, Window: time.Minute},
		})
		if err != nil {
			panic(err)
		}
		switch {
		case answer.Found:
			fmt.Println(replica, "has the record:", string(answer.Record.Data))
		case answer.Claimed:
			fmt.Println(replica, "asks Polar;", answer.Turn.Left, "requests are left this minute")
		case answer.Busy:
			fmt.Println(replica, "waits")
		default:
			fmt.Println(replica, "is over the budget")
		}
	}
	look("replica 1")
	look("replica 2")
	_, _ = store.Put(context.Background(), "replica 1", polargate.SharedRecord{Key: "customer", At: polargate.NewFactTime(time.Now()), Data: []byte("pro"), TTL: time.Hour})
	look("replica 2")
	// Output:
	// replica 1 asks Polar; 299 requests are left this minute
	// replica 2 waits
	// replica 2 has the record: pro
}
