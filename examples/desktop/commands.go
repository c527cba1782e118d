package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/licensepage"
)

// command is something that the program does.
type command struct {
	name     string
	synopsis string // what can follow the name
	about    string // in a few words, for the list of all commands
	details  string // more, with examples
	flags    []string
	// least and most are how many operands it takes.
	least, most int
	do          func(context.Context, *call, *polargate.Gate) (answer, error)
	// unconfigured is what it does when no organization is set; nil means nothing.
	unconfigured func(context.Context, *call) (answer, error)
}

var commands = []command{
	{
		name: "activate", synopsis: "[KEY] [--wait] [--json]",
		about: "activate a license key on this computer",
		details: `Activates a license key on this computer. Without KEY, or with "-" for it, the program
asks for the key on the terminal, or reads it from standard input. A key that a mail
program broke into lines is put together again.

  --wait   you just bought the key: keep trying, for up to two and a half minutes
  --json   print a JSON object

examples:
  desktop activate
  desktop activate --wait
  desktop activate < key.txt
`,
		flags: []string{"wait", "json"}, most: 1, do: activate,
	},
	{
		name: "move", synopsis: "[--json]",
		about: "move the license from another computer to this one",
		details: `Moves a license that was activated on another computer to this one, without entering
its key: after you moved a disk, restored a backup or reinstalled the system. This
deactivates the other computer.

  --json   print a JSON object

example:
  desktop move
`,
		flags: []string{"json"}, do: move,
	},
	{
		name: "status", synopsis: "[--refresh] [--json]",
		about: "show the license",
		details: `Shows the license, and verifies it if that is due.

  --refresh   verify it now
  --json      print a JSON object

examples:
  desktop status
  desktop status --refresh
  desktop status --json | jq -r .state
`,
		flags: []string{"refresh", "json"}, do: status,
	},
	{
		name: "use", synopsis: "N [--json]",
		about: "count N uses of the license key",
		details: `Counts N uses of the license key, at least 1. This can't be undone.

  --json   print a JSON object

examples:
  desktop use 1
  desktop use 10 --json
`,
		flags: []string{"json"}, least: 1, most: 1, do: use,
	},
	{
		name: "deactivate", synopsis: "[--json]",
		about: "deactivate this computer",
		details: `Removes the license from this computer, so that you can use the key on another one.

  --json   print a JSON object

example:
  desktop deactivate
`,
		flags: []string{"json"}, do: deactivate,
	},
	{
		name: "doctor", synopsis: "[--json]",
		about: "write a report for support, without secrets",
		details: `Finds out why a license doesn't work. The report contains no keys and no names.

  --json   print a JSON object

examples:
  desktop doctor
  desktop doctor > report.txt
`,
		flags: []string{"json"}, do: doctor,
	},
	{
		name: "serve", synopsis: "[--no-browser]",
		about: "open the license page in the browser",
		details: `Opens the license page in the browser. Press Ctrl-C to quit. Without
POLAR_ORGANIZATION_ID, it uses an embedded Polar, with keys to try.

  --no-browser   only print the address

examples:
  desktop serve
  desktop serve --no-browser
`,
		flags: []string{"no-browser"},
		do: func(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
			return answer{}, serve(ctx, gate, nil, licensepage.Options{Offline: c.files, OfflinePage: c.vendorPage}, c.args, c.stdout)
		},
		unconfigured: func(ctx context.Context, c *call) (answer, error) {
			return answer{}, serveDemo(ctx, c.args, c.stdout, c.stderr)
		},
	},
}

func commandNamed(name string) (command, bool) {
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		return command{}, false
	}
	return commands[i], true
}

// usage is the list of all commands.
func usage() string {
	var b strings.Builder
	b.WriteString("usage: desktop COMMAND\n\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-11s %s\n", c.name, c.about)
	}
	b.WriteString(`  help        show how to use a command: desktop help COMMAND

examples:
  desktop activate          asks for the key, and hides what you type
  desktop activate KEY
  desktop status --json

Without POLAR_ORGANIZATION_ID and arguments, the program is a tour.
`)
	return b.String()
}

func (c command) usage() string { return "usage: desktop " + c.name + " " + c.synopsis + "\n" }

func (c command) help() string { return c.usage() + "\n" + c.details }

func isHelp(arg string) bool {
	return slices.Contains([]string{"help", "-h", "-help", "--help"}, arg)
}

// help explains one command, or names all.
func help(args []string) (answer, error) {
	if len(args) == 0 {
		return answer{text: usage()}, nil
	}
	if c, ok := commandNamed(args[0]); ok && len(args) == 1 {
		return answer{text: c.help()}, nil
	}
	return answer{}, &usageError{"There is no help for that.", usage()}
}

// wantsJSON reports whether args ask for JSON, even if they are wrong.
func wantsJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.ContainsFunc(args, func(arg string) bool { return arg == "--json" || arg == "-json" })
}

// parse reads flags and operands, in any order.
func (c *call) parse(cmd command) error {
	wrong := &usageError{"That's not how to use this command.", cmd.usage() + "See: desktop help " + cmd.name + "\n"}
	flags := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // it would repeat what was typed
	c.flags = map[string]*bool{}
	for _, name := range cmd.flags {
		c.flags[name] = flags.Bool(name, false, "")
	}
	for rest := c.args; ; {
		if err := flags.Parse(rest); errors.Is(err, flag.ErrHelp) {
			return flag.ErrHelp // somebody asks how the command is used
		} else if err != nil {
			return wrong
		}
		parsed := len(rest) - flags.NArg()
		if ended := parsed > 0 && rest[parsed-1] == "--"; ended || flags.NArg() == 0 {
			c.operands = append(c.operands, flags.Args()...)
			break
		}
		c.operands = append(c.operands, flags.Arg(0))
		rest = flags.Args()[1:]
	}
	c.json = c.is("json")
	if n := len(c.operands); n < cmd.least || n > cmd.most {
		return wrong
	}
	return nil
}

// is reports whether a flag was given.
func (c *call) is(name string) bool {
	given := c.flags[name]
	return given != nil && *given
}

// parse is for commands that read their arguments themselves.
func parse(flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return &usageError{"That's not how to use this command.", ""}
	}
	return nil
}

// purchaseWait is how long ActivateWait waits for a key.
const purchaseWait = 150 * time.Second

const asking = "Contacting the license server"

func activate(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
	key, err := c.licenseKey(ctx)
	if err != nil {
		return answer{}, err
	}
	start, what, until := gate.Activate, asking, time.Time{}
	if c.is("wait") {
		start, what, until = gate.ActivateWait, "Waiting for your purchase", time.Now().Add(purchaseWait)
	}
	done := c.stderr.waiting(what, until)
	status, err := start(ctx, key)
	done()
	if ctx.Err() != nil && errors.Is(err, polargate.ErrUnknownKey) {
		err = ctx.Err() // the key may still become known
	}
	a := answer{fields: []any{status}}
	if err == nil {
		a.text = c.describe(status, nil)
	}
	return a, err
}

func move(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
	done := c.stderr.waiting(asking, time.Time{})
	status, err := gate.Move(ctx)
	done()
	a := answer{fields: []any{status}}
	if err == nil {
		a.text = c.describe(status, nil)
	}
	return a, err
}

// licenseKey is the key from the arguments, or else from whoever is at the terminal or at
// the other end of the pipe.
func (c *call) licenseKey(ctx context.Context) (string, error) {
	if len(c.operands) == 1 && c.operands[0] != "-" {
		return c.operands[0], nil
	}
	key, err := readSecret(ctx, c.stdin, c.stderr, "License key: ")
	if errors.Is(err, errLineTooLong) {
		err = &usageError{"That's too long for a license key.", ""}
	}
	return key, err
}

func status(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
	ask := gate.Check
	if c.is("refresh") {
		ask = gate.Refresh
	}
	done := c.stderr.waiting(asking, time.Time{})
	status, err := ask(ctx)
	done()
	if status.OK() && err != nil {
		err = &statusNote{err} // could not be refreshed, and is good all the same
	}
	return answer{text: c.describe(status, err), fields: []any{status}}, err
}

func use(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
	n, err := strconv.ParseInt(c.operands[0], 10, 64)
	if err != nil {
		return answer{}, &usageError{"N must be a whole number, at least 1.", ""}
	}
	done := c.stderr.waiting(asking, time.Time{})
	left, err := gate.Consume(ctx, n)
	done()
	a := answer{fields: []any{gate.Status()}}
	if err != nil {
		return a, err
	}
	var counted struct {
		Left *int64 `json:"left"`
	}
	a.text = "Counted. This license has no limit.\n"
	if left != polargate.Unlimited {
		counted.Left = &left
		a.text = "Counted. " + count(int(left), "use", "uses") + " left.\n"
	}
	a.fields = append(a.fields, counted)
	return a, nil
}

func deactivate(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
	had := !gate.Status().Key.IsZero()
	done := c.stderr.waiting(asking, time.Time{})
	err := gate.Deactivate(ctx)
	done()
	a := answer{fields: []any{gate.Status()}}
	switch {
	case err == nil && had:
		a.text = "This computer is deactivated. You can use the license key on another computer.\n"
	case err == nil:
		a.text = "There is no license on this computer.\n"
	case !had || !gate.Status().Key.IsZero():
	case errors.Is(err, polargate.ErrUnknownKey):
		a.text = "The license was removed from this computer. Its key has been replaced: to use the license on another computer, activate the new key here and deactivate again, or contact support.\n"
	default:
		a.text = "The license was removed from this computer. We'll deactivate it at the license server when you start the program again.\n"
	}
	return a, err
}

func doctor(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
	done := c.stderr.waiting(asking, time.Time{})
	report := gate.Diagnose(ctx)
	done()
	a := answer{text: report.String(), fields: []any{report}}
	if len(report.Problems) > 0 {
		return a, errFindings
	}
	return a, nil
}
