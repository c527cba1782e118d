// Desktop is a program sold by license key, reduced to what has to do with the
// license.
//
// With nothing set, it is a tour on an embedded Polar. The tour needs no account and no
// network, and ends by itself. With POLAR_ORGANIZATION_ID set, it is the program:
//
//	desktop activate [KEY] [--wait]   activate a license key on this computer
//	desktop move                      move the license from another computer to this one
//	desktop status [--refresh]        show the license
//	desktop use N                     count N uses of the license key
//	desktop deactivate                deactivate this computer
//	desktop doctor                    write a report for support, without secrets
//	desktop serve [--no-browser]      open the license page in the browser
//	desktop help [COMMAND]            show how to use a command, with examples
//
// With nothing set, "desktop serve" shows the page on the embedded Polar, with keys to
// try.
//
// Without KEY, or with "-" for it, activate asks for the key on the terminal and hides
// what you type, or reads it from standard input, in one line or several. Other programs
// can see a key in an argument, and the shell keeps it in its history.
//
// POLAR_API_URL is another base URL, for a proxy or a test. POLARGATE_DIR is the folder
// for the state. POLARGATE_FEATURES lists the benefits that the program accepts and what
// they unlock, as "benefit=feature,feature;benefit=…". POLARGATE_LEASE_KEYS are the public keys
// of the vendor's license server, separated by commas, POLARGATE_LEASE_URL is its address, and
// POLARGATE_LICENSE_PAGE its page for computers without a network: see examples/licenseserver.
// A product would have all of these built in, above all the organization. NO_COLOR, if not empty, and TERM=dumb turn
// colors off.
//
// The exit code is 0 if the program may run or the command succeeded, 2 if the
// license is locked or a key was refused, 3 if there is no license, 4 if the command
// couldn't be completed now, and 64 if it was called wrongly. A refused key doesn't take
// away the license in use: the exit code of status is still 0. If a license is locked or
// missing and the license server can't be reached either, the program reports both, and
// the exit code is that of the license: 2 or 3.
//
// With --json, which every command except serve takes, standard output is one JSON
// object, whatever happens. Its fields are those of polargate.Status after the command;
// for doctor they are those of polargate.Diagnosis, which start with the same state and
// reason. In addition there are
//
//	left     after use: how many uses are left; null if there is no limit
//	error    {"reason": "…", "message": "…"}, exactly if the exit code isn't 0
//	warning  the same, if the license couldn't be verified but stays usable, and
//	         beside an error, if the license couldn't be verified again
//
// A reason is one of polargate's, or usage, input, store, problems_found, interrupted or
// failed. A call that fails before it gets to the license has the error and nothing
// else. Keys are masked.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/examples/internal/setting"
)

const (
	exitOK         = 0
	exitBroken     = 1 // the tour alone
	exitLocked     = 2
	exitUnlicensed = 3
	exitNotNow     = 4
	exitUsage      = 64
)

func main() {
	// SIGTERM, too: whoever ends the program at its prompt wants the terminal back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &call{
		stdin:  stdin,
		stdout: stdout,
		stderr: newNotices(stderr, getenv),
		color:  canColor(stdout, getenv),
		json:   wantsJSON(args),
	}
	a, err := c.perform(ctx, args, getenv)
	return c.finish(a, err)
}

// perform does what args say.
func (c *call) perform(ctx context.Context, args []string, getenv func(string) string) (answer, error) {
	configured := getenv("POLAR_ORGANIZATION_ID") != ""
	switch {
	case len(args) == 0 && configured:
		return answer{}, &usageError{"A command is missing.", usage()}
	case len(args) == 0:
		if err := tour(ctx, c.stdout); err != nil {
			return answer{}, &tourError{err}
		}
		return answer{}, nil
	case isHelp(args[0]):
		return help(args[1:])
	}
	cmd, ok := commandNamed(args[0])
	if !ok {
		// What was typed is not repeated: it may be a key.
		return answer{}, &usageError{"Unknown command.", usage()}
	}
	c.args = args[1:]
	if err := c.parse(cmd); errors.Is(err, flag.ErrHelp) {
		return answer{text: cmd.help()}, nil
	} else if err != nil {
		return answer{}, err
	}
	if !configured {
		if cmd.unconfigured == nil {
			return answer{}, &usageError{"POLAR_ORGANIZATION_ID isn't set. Set it to use the program, or give no arguments for the tour.", usage()}
		}
		return cmd.unconfigured(ctx, c)
	}
	c.files, c.vendorPage = getenv("POLARGATE_LEASE_KEYS") != "", getenv("POLARGATE_LICENSE_PAGE")
	gate, err := openGate(getenv, c.stderr)
	if err != nil {
		return answer{}, err
	}
	defer gate.Close()
	return cmd.do(ctx, c, gate)
}

// openGate makes the Gate that the environment describes.
func openGate(getenv func(string) string, logs io.Writer) (*polargate.Gate, error) {
	features, err := setting.Features(getenv("POLARGATE_FEATURES"))
	if err != nil {
		return nil, &usageError{err.Error(), ""}
	}
	config := polargate.Config{
		OrganizationID: getenv("POLAR_ORGANIZATION_ID"),
		App:            "polargate-desktop-example",
		Version:        "1.0.0",
		Features:       features,
		Links:          polargate.Links{Portal: getenv("POLARGATE_PORTAL_URL")},
		BaseURL:        getenv("POLAR_API_URL"),
		Logger:         slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if config.LeaseKeys, err = leaseKeys(getenv("POLARGATE_LEASE_KEYS")); err != nil {
		return nil, err
	}
	config.LeaseURL = getenv("POLARGATE_LEASE_URL")
	if dir := getenv("POLARGATE_DIR"); dir != "" {
		config.Store = polargate.FileStore(dir)
	}
	gate, err := polargate.Open(config)
	if err != nil {
		return nil, &usageError{err.Error(), ""}
	}
	return gate, nil
}

// usageError is a call that can't be right. It never repeats what was typed.
type usageError struct {
	text string
	help string // what would be right; "" if the environment is at fault
}

func (e *usageError) Error() string { return e.text }

// statusNote is a refresh that failed while the license stays usable.
type statusNote struct{ error }

func (n *statusNote) Unwrap() error { return n.error }

// tourError is a tour in which something went differently than it says.
type tourError struct{ error }

func (e *tourError) Error() string { return "the tour stopped early: " + e.error.Error() }

// errFindings: the report lists problems.
var errFindings = errors.New("problems were found")

// exitCode is what an error means to a script.
func exitCode(err error) int {
	var called *usageError
	var input *polargate.InputError
	var failed *polargate.Error
	var note *statusNote
	var broken *tourError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &broken):
		return exitBroken
	case errors.Is(err, context.Canceled):
		return exitNotNow
	case errors.As(err, &called), errors.As(err, &input):
		return exitUsage
	case errors.As(err, &note):
		return exitOK
	case !errors.As(err, &failed):
		return exitNotNow // for instance a folder that cannot be written
	}
	switch r := failed.Reason; {
	case errors.Is(err, polargate.ErrNoLicense), r == polargate.ErrUnreadableState, r == polargate.ErrNoPermission:
		return exitUnlicensed
	case r.Denial(), r == polargate.ErrUsageExceeded, r == polargate.ErrGraceEnded, r == polargate.ErrClockSetBack, r == polargate.ErrOtherMachine:
		return exitLocked
	}
	return exitNotNow
}
