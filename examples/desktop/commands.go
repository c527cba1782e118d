package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/polargate/polargate"
)

// command is what the program can be told to do.
type command struct {
	name, arguments, about, more string
	run                          func(context.Context, *polargate.Gate, []string, *console) error
}

func commands() []command {
	return []command{
		{"activate", "[--wait] [--json] [KEY]", "take a seat for this computer", `Without a KEY it is asked for, or read from standard input: arguments can be seen
by other programs. --wait is for a key that was bought a moment ago: it is tried
for up to two and a half minutes.

  desktop activate
  desktop activate < key.txt
  desktop activate --wait POLAR-…
`, activate},
		{"status", "[--refresh] [--json]", "where the license stands", `--refresh asks the license server however fresh the last answer is.

  desktop status
  desktop status --json | jq -r .state
`, status},
		{"use", "[--json] N", "count N uses against the key", `
  desktop use 4
`, use},
		{"deactivate", "[--json]", "give the seat back", `Offline, the license is removed here, and its seat is given back later.

  desktop deactivate
`, deactivate},
		{"doctor", "[--json]", "a report for a support mail, without secrets", `
  desktop doctor > report.txt
`, doctor},
		{"serve", "[--no-browser]", "the license page, in the browser", `Ctrl-C ends it. With POLAR_ORGANIZATION_ID unset it is shown on an embedded Polar.

  desktop serve
`, serve},
	}
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

// help is about one command, or about all.
func help(name string) string {
	var b strings.Builder
	for _, c := range commands() {
		if c.name == name {
			fmt.Fprintf(&b, "desktop %s %s\n\n%s.", c.name, c.arguments, strings.ToUpper(c.about[:1])+c.about[1:])
			if c.more[0] != '\n' {
				b.WriteByte(' ')
			} else {
				b.WriteByte('\n')
			}
			return b.String() + c.more
		}
	}
	b.WriteString("usage:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  desktop %-34s %s\n", c.name+" "+c.arguments, c.about)
	}
	b.WriteString("  desktop help COMMAND                       more about one\n")
	return b.String()
}

func activate(ctx context.Context, gate *polargate.Gate, args []string, c *console) error {
	flags, asJSON := newFlags("activate")
	wait := flags.Bool("wait", false, "")
	if flags.Parse(args) != nil || flags.NArg() > 1 {
		return errUsage
	}
	key := flags.Arg(0)
	if key == "" || key == "-" {
		var err error
		if key, err = c.readKey(ctx); err != nil {
			return err
		}
	}
	act, until := gate.Activate, time.Time{}
	if *wait {
		act, until = gate.ActivateWait, time.Now().Add(purchaseWait)
	}
	stop := c.progress("Activating", until)
	status, err := act(ctx, key)
	stop()
	if *asJSON {
		return c.answer(status, nil, err)
	}
	if err == nil {
		c.describe(status)
	}
	return err
}

func status(ctx context.Context, gate *polargate.Gate, args []string, c *console) error {
	flags, asJSON := newFlags("status")
	refresh := flags.Bool("refresh", false, "")
	if err := parse(flags, args); err != nil {
		return err
	}
	ask := gate.Check
	if *refresh {
		ask = gate.Refresh
	}
	stop := c.progress("Asking the license server", time.Time{})
	status, err := ask(ctx)
	stop()
	if status.OK() && err != nil {
		err = &statusNote{err} // could not be refreshed, and is good all the same
	}
	if *asJSON {
		return c.answer(status, nil, err)
	}
	c.describe(status)
	return err
}

func use(ctx context.Context, gate *polargate.Gate, args []string, c *console) error {
	flags, asJSON := newFlags("use")
	if flags.Parse(args) != nil || flags.NArg() != 1 {
		return errUsage
	}
	n, err := strconv.ParseInt(flags.Arg(0), 10, 64)
	if err != nil {
		return errUsage
	}
	stop := c.progress("Counting", time.Time{})
	left, err := gate.Consume(ctx, n)
	stop()
	switch {
	case *asJSON && (err != nil || left == polargate.Unlimited):
		return c.answer(gate.Status(), map[string]any{"remaining": nil}, err)
	case *asJSON:
		return c.answer(gate.Status(), map[string]any{"remaining": left}, nil)
	case err != nil:
		return err
	case left == polargate.Unlimited:
		fmt.Fprintln(c.out, "Counted. This license has no limit.")
	default:
		fmt.Fprintln(c.out, "Counted. Left:", left)
	}
	return nil
}

func deactivate(ctx context.Context, gate *polargate.Gate, args []string, c *console) error {
	flags, asJSON := newFlags("deactivate")
	if err := parse(flags, args); err != nil {
		return err
	}
	had := !gate.Status().Key.IsZero()
	stop := c.progress("Giving the seat back", time.Time{})
	err := gate.Deactivate(ctx)
	stop()
	if *asJSON {
		return c.answer(gate.Status(), nil, err)
	}
	if err != nil {
		switch {
		case !had || !gate.Status().Key.IsZero():
		case errors.Is(err, polargate.ErrUnknownKey):
			fmt.Fprintln(c.out, "The license was removed from this computer. Its key has been replaced, so its seat must be freed with the new key or in the customer portal.")
		default:
			fmt.Fprintln(c.out, "The license was removed from this computer. Its seat could not be given back yet; that is tried again at a later start.")
		}
		return err
	}
	if !had {
		fmt.Fprintln(c.out, "There is no license on this computer.")
		return nil
	}
	fmt.Fprintln(c.out, "The license was removed from this computer, and its seat is free.")
	return nil
}

// errFindings is a report that found something wrong, and says so itself.
var errFindings = errors.New("something is wrong: see the problems above")

func doctor(ctx context.Context, gate *polargate.Gate, args []string, c *console) error {
	flags, asJSON := newFlags("doctor")
	if err := parse(flags, args); err != nil {
		return err
	}
	stop := c.progress("Looking around", time.Time{})
	report := gate.Diagnose(ctx)
	stop()
	if *asJSON {
		if err := writeJSON(c.out, report); err != nil {
			return err
		}
	} else {
		fmt.Fprint(c.out, report)
	}
	if len(report.Problems) > 0 {
		return errFindings
	}
	return nil
}

func newFlags(name string) (flags *flag.FlagSet, asJSON *bool) {
	flags = flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // it would repeat what was typed
	return flags, flags.Bool("json", false, "")
}

func parse(flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errUsage
	}
	return nil
}

// hostname is what people call this computer.
func hostname() string {
	name, _ := os.Hostname()
	return cmp.Or(name, "this computer")
}
