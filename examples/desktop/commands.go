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
		about: "take a seat for this computer",
		details: `Takes a seat of a license key for this computer. Without KEY it asks for it on the
terminal, or reads it from what it is given; so does "-". A key that a mail program has
broken into lines is put together again.

  --wait   the key was bought a moment ago: wait until it is known, for two and a
           half minutes at most
  --json   answer with a JSON object

examples:
  desktop activate
  desktop activate --wait
  desktop activate < key.txt
`,
		flags: []string{"wait", "json"}, most: 1, do: activate,
	},
	{
		name: "move", synopsis: "[--json]",
		about: "move the license of another computer here",
		details: `Moves a license that was activated on another computer to this one, without its key:
after a disk moved, a backup was restored, or the system was set up anew. The other
computer is deactivated by it.

  --json   answer with a JSON object

example:
  desktop move
`,
		flags: []string{"json"}, do: move,
	},
	{
		name: "status", synopsis: "[--refresh] [--json]",
		about: "tell where the license stands",
		details: `Tells where the license stands. The license server is asked when that is due.

  --refresh   ask the license server now
  --json      answer with a JSON object

examples:
  desktop status
  desktop status --refresh
  desktop status --json | jq -r .state
`,
		flags: []string{"refresh", "json"}, do: status,
	},
	{
		name: "use", synopsis: "N [--json]",
		about: "count N uses against the key",
		details: `Counts N uses, at least 1, against the license key. It cannot be undone.

  --json   answer with a JSON object

examples:
  desktop use 1
  desktop use 10 --json
`,
		flags: []string{"json"}, least: 1, most: 1, do: use,
	},
	{
		name: "deactivate", synopsis: "[--json]",
		about: "give the seat back",
		details: `Removes the license from this computer and gives its seat back, so that the key can
be used on another one.

  --json   answer with a JSON object

example:
  desktop deactivate
`,
		flags: []string{"json"}, do: deactivate,
	},
	{
		name: "doctor", synopsis: "[--json]",
		about: "a report for a support mail, without secrets",
		details: `Finds out why a license does not work. The report has no key and no names in it.

  --json   answer with a JSON object

examples:
  desktop doctor
  desktop doctor > report.txt
`,
		flags: []string{"json"}, do: doctor,
	},
	{
		name: "serve", synopsis: "[--no-browser]",
		about: "the license page, in the browser",
		details: `Shows the license page in the browser, until Ctrl-C. Without POLAR_ORGANIZATION_ID it
is on an embedded Polar, with keys to try.

  --no-browser   only print the address

examples:
  desktop serve
  desktop serve --no-browser
`,
		flags: []string{"no-browser"},
		do: func(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
			return answer{}, serve(ctx, gate, c.args, c.stdout)
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
	b.WriteString(`  help        how a command is used: desktop help COMMAND

examples:
  desktop activate          asks for the key, and does not show it
  desktop activate KEY
  desktop status --json

Without POLAR_ORGANIZATION_ID and arguments it is a tour.
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
	return answer{}, &usageError{"There is no help on that.", usage()}
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
	wrong := &usageError{"This is not how the command is used.", cmd.usage() + "See: desktop help " + cmd.name + "\n"}
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
		return &usageError{"This is not how the command is used.", ""}
	}
	return nil
}

const asking = "Asking the license server"

func activate(ctx context.Context, c *call, gate *polargate.Gate) (answer, error) {
	key, err := c.licenseKey(ctx)
	if err != nil {
		return answer{}, err
	}
	take, what, until := gate.Activate, asking, time.Time{}
	if c.is("wait") {
		take, what, until = gate.ActivateWait, "Waiting for the purchase to be known", time.Now().Add(purchaseWait)
	}
	done := c.stderr.waiting(what, until)
	status, err := take(ctx, key)
	done()
	if ctx.Err() != nil && errors.Is(err, polargate.ErrUnknownKey) {
		err = ctx.Err() // it was waited for, and could have become known
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
		err = &usageError{"That is far too long for a license key.", ""}
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
		return answer{}, &usageError{"Uses are a whole number, at least 1.", ""}
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
		a.text = fmt.Sprintln("Counted. Left:", left)
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
		a.text = "The license was removed from this computer, and its seat is free.\n"
	case err == nil:
		a.text = "There is no license on this computer.\n"
	case !had || !gate.Status().Key.IsZero():
	case errors.Is(err, polargate.ErrUnknownKey):
		a.text = "The license was removed from this computer. Its key has been replaced, so its seat must be freed with the new key or in the customer portal.\n"
	default:
		a.text = "The license was removed from this computer. Its seat could not be given back yet; that is tried again at a later start.\n"
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
