// Command drift says what has changed at Polar since this library was written, before its
// users notice.
//
//	go run ./internal/drift -schema openapi.json
//
// compares a schema that Polar publishes with the one that the library was written by, as
// far as the library calls it and polartest plays it. It prints a line for each difference,
// and ends with status 1 if one of them breaks something. With -update the schema becomes
// the one to compare with.
//
//	POLAR_ACCESS_TOKEN=… go run ./internal/drift -record folder
//
// asks an organization in Polar's sandbox, and writes each exchange into a file in the form
// of polartest/testdata/golden. It makes a customer session and changes nothing else. Tokens,
// license keys and e-mail addresses are replaced.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

const sandbox = "https://sandbox-api.polar.sh"

//go:embed baseline.json
var baselineJSON []byte

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
}

// run is the command. Its statuses: 0 for no difference that breaks anything, 1 for one, 2
// for what can't be done.
func run(ctx context.Context, args []string, out, problems io.Writer, env func(string) string) int {
	flags := flag.NewFlagSet("drift", flag.ContinueOnError)
	flags.SetOutput(problems)
	schema := flags.String("schema", "", "compare with the schema in this `file`")
	update := flags.Bool("update", false, "with -schema: make it the one to compare with")
	folder := flags.String("record", "", "write exchanges with an organization in the sandbox into this `folder`")
	base := flags.String("base", "", "with -record: ask this `address` instead of the sandbox, or of POLAR_API_URL")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	var breaks bool
	var err error
	switch {
	case flags.NArg() > 0, (*schema == "") == (*folder == ""):
		err = errors.New("give either -schema or -record")
	case *schema != "" && *update:
		err = rewrite(*schema)
	case *schema != "":
		breaks, err = report(*schema, out)
	default:
		r := recorder{
			base:  cmp.Or(*base, env("POLAR_API_URL"), sandbox),
			token: env("POLAR_ACCESS_TOKEN"), folder: *folder, out: out, pause: sandboxPause,
		}
		err = r.record(ctx)
	}
	switch {
	case err != nil:
		fmt.Fprintln(problems, "drift:", err)
		return 2
	case breaks:
		return 1
	}
	return 0
}

// report prints what differs, and reports whether something breaks.
func report(path string, out io.Writer) (breaks bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	now, err := readSchema(data)
	if err != nil {
		return false, err
	}
	var then surface
	if err := json.Unmarshal(baselineJSON, &then); err != nil {
		return false, err
	}
	changes := compare(then, now)
	for _, c := range changes {
		fmt.Fprintln(out, c)
		breaks = breaks || c.breaks
	}
	if len(changes) == 0 {
		fmt.Fprintf(out, "nothing that is used differs between versions %s and %s\n", then.Version, now.Version)
	}
	return breaks, nil
}

// rewrite makes a schema the one to compare with: of it what is used today.
func rewrite(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	now, err := readSchema(data)
	if err != nil {
		return err
	}
	now = now.used()
	text, err := json.MarshalIndent(now, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile("internal/drift/baseline.json", append(text, '\n'), 0o644)
}
