// Desktop is a program that is sold by license key, reduced to what has to do
// with the license.
//
// With nothing set it is a tour against an embedded Polar, which needs no
// account and no network, and ends by itself. With POLAR_ORGANIZATION_ID set it
// is the program:
//
//	desktop activate [KEY] [--wait]   take a seat for this computer
//	desktop move                      move the license of another computer here
//	desktop status [--refresh]        tell where the license stands
//	desktop use N                     count N uses against the key
//	desktop deactivate                give the seat back
//	desktop doctor                    a report for a support mail, without secrets
//	desktop serve [--no-browser]      the license page, in the browser
//	desktop help [COMMAND]            how each is used, with examples
//
// The page can be seen with nothing set, too: desktop serve shows it on the embedded
// Polar, with keys to try.
//
// Without KEY, or with "-" for it, activate asks for the key on the terminal and
// does not show it, or reads it from what it is given, in one line or broken into
// several: a key in an argument is seen by other programs, and stays in the shell's
// history.
//
// POLAR_API_URL is another base URL, for a proxy or a test; POLARGATE_DIR the
// folder for the state; POLARGATE_FEATURES the benefits that the program
// accepts and what they unlock, as "benefit=feature,feature;benefit=…". A
// product would build in all of these, the organization above all. NO_COLOR, if
// not empty, and TERM=dumb keep colours away.
//
// The exit code is of the command: 0 when licensed or done, 2 when locked or
// refused, 3 when there is no license, 4 when it could not be decided or done
// now, and 64 when called wrongly. A refused key does not take away the license
// that is held: status then still is 0. Of two facts the one about the license decides,
// and both are said: one that is locked is 2, and none is 3, also when the license server
// could not be asked anew.
//
// With --json, which all commands but serve take, standard output is one JSON
// object, whatever happens. Its fields are those of polargate.Status, as the
// license stands after the command; doctor has those of polargate.Diagnosis
// instead, which begin with state and reason in the same sense. Beside them are
//
//	left     after use: how many uses are left; null if there is no limit
//	error    {"reason": "…", "message": "…"}, exactly when the exit code is not 0
//	warning  the same, when a refresh failed and the license goes on; and beside an
//	         error, why it could not be found out whether that still holds
//
// A reason is one of polargate's, or usage, input, store, problems_found,
// interrupted or failed. A call that goes wrong before the license is looked at has
// the error and nothing else. Keys are masked.
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
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
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
			return answer{}, &usageError{"POLAR_ORGANIZATION_ID is not set. Set it to use the program, or give no arguments for the tour.", usage()}
		}
		return cmd.unconfigured(ctx, c)
	}
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
		BaseURL:        getenv("POLAR_API_URL"),
		Logger:         slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if dir := getenv("POLARGATE_DIR"); dir != "" {
		config.Store = polargate.FileStore(dir)
	}
	gate, err := polargate.Open(config)
	if err != nil {
		return nil, &usageError{err.Error(), ""}
	}
	return gate, nil
}

// usageError is a call that cannot be right. It never repeats what was typed.
type usageError struct {
	text string
	help string // what would be right; "" if the environment is at fault
}

func (e *usageError) Error() string { return e.text }

// statusNote is a refresh that failed while the license goes on.
type statusNote struct{ error }

func (n *statusNote) Unwrap() error { return n.error }

// tourError is a tour that did not go as it tells.
type tourError struct{ error }

func (e *tourError) Error() string { return "the tour broke off: " + e.error.Error() }

// errFindings is a report that found something wrong, and says so itself.
var errFindings = errors.New("something is wrong: see the problems above")

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
