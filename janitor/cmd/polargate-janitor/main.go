// Command polargate-janitor lists activations that no computer uses, and with -deactivate
// deactivates them.
//
//	POLAR_ACCESS_TOKEN=… polargate-janitor -organization ID
//	POLAR_ACCESS_TOKEN=… polargate-janitor -organization ID -deactivate
//
// Without -deactivate nothing changes: read what it lists first. It ends with status 0, 1 if
// something failed, or 2 for wrong flags.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/janitor"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
}

func run(ctx context.Context, args []string, out, problems io.Writer, env func(string) string) int {
	flags := flag.NewFlagSet("polargate-janitor", flag.ContinueOnError)
	flags.SetOutput(problems)
	organization := flags.String("organization", env("POLAR_ORGANIZATION_ID"), "the organization `id`; or set POLAR_ORGANIZATION_ID")
	unused := flags.Duration("unused", 0, "also list all activations of keys that nobody has validated for this long, such as 4320h")
	deactivate := flags.Bool("deactivate", false, "deactivate what is listed")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	if *unused != 0 && *unused < 30*24*time.Hour {
		fmt.Fprintln(problems, "polargate-janitor: -unused is less than 720h, which is shorter than customers work offline")
		return 2
	}
	client, err := polargate.NewClient(polargate.ClientConfig{
		OrganizationID: *organization, AccessToken: env("POLAR_ACCESS_TOKEN"), BaseURL: env("POLAR_API_URL"), App: "polargate-janitor",
	})
	if err != nil {
		fmt.Fprintln(problems, err)
		return 2
	}
	defer client.Close()
	found, deactivated := 0, 0
	for leak, err := range janitor.Find(ctx, client, janitor.Options{UnusedFor: *unused}) {
		if err == nil {
			found++
			fmt.Fprintln(out, leak)
		}
		if err == nil && *deactivate {
			if err = leak.Deactivate(ctx); err == nil {
				deactivated++
			}
		}
		if err != nil {
			fmt.Fprintln(problems, err)
			return 1
		}
	}
	fmt.Fprintf(out, "%d found, %d deactivated\n", found, deactivated)
	return 0
}
