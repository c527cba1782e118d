package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate"
	"golang.org/x/term"
)

// console is where the program is called from: a terminal, or another program.
type console struct {
	in         *os.File
	out, err   io.Writer
	colours    bool // of out
	progresses bool // on err
}

func newConsole(in, out, err *os.File, getenv func(string) string) *console {
	plain := getenv("NO_COLOR") != "" || getenv("TERM") == "dumb"
	return &console{
		in: in, out: out, err: err,
		colours:    !plain && term.IsTerminal(int(out.Fd())),
		progresses: getenv("TERM") != "dumb" && term.IsTerminal(int(err.Fd())),
	}
}

const maxTyped = 4 << 10

// readKey asks for a license key without showing it, or reads a line of it from
// another program.
func (c *console) readKey(ctx context.Context) (string, error) {
	terminal := int(c.in.Fd())
	if !term.IsTerminal(terminal) {
		line, err := bufio.NewReader(io.LimitReader(c.in, maxTyped)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) || len(line) == maxTyped || strings.TrimSpace(line) == "" {
			return "", errUsage
		}
		return line, nil
	}
	before, err := term.GetState(terminal)
	if err != nil {
		return "", err
	}
	fmt.Fprint(c.err, "License key (it is not shown): ")
	type typed struct {
		text []byte
		err  error
	}
	done := make(chan typed, 1)
	go func() {
		text, err := term.ReadPassword(terminal)
		done <- typed{text, err}
	}()
	select {
	case t := <-done:
		fmt.Fprintln(c.err)
		if t.err != nil || len(t.text) >= maxTyped {
			return "", errUsage
		}
		return string(t.text), nil
	case <-ctx.Done():
		_ = term.Restore(terminal, before)
		fmt.Fprintln(c.err)
		return "", ctx.Err()
	}
}

// soon is how long people do not wonder whether something happens.
const soon = time.Second

// progress shows what is being waited for, and the time left until until, if that is
// not zero, unless stop is called soon. stop takes it away without a trace.
func (c *console) progress(what string, until time.Time) (stop func()) {
	if !c.progresses {
		return func() {}
	}
	ended := make(chan struct{})
	var showing sync.WaitGroup
	showing.Go(func() {
		tick := time.NewTicker(soon)
		defer tick.Stop()
		began, shown := time.Now(), false
		for {
			select {
			case <-ended:
				if shown {
					fmt.Fprint(c.err, "\r\x1b[K")
				}
				return
			case now := <-tick.C:
				clock := fmt.Sprintf("%.0f s", now.Sub(began).Seconds())
				if left := until.Sub(now); !until.IsZero() {
					clock = fmt.Sprintf("for another %.0f s", max(0, left.Seconds()))
				}
				fmt.Fprintf(c.err, "\r\x1b[K%s… %s", what, clock)
				shown = true
			}
		}
	})
	return func() {
		close(ended)
		showing.Wait()
	}
}

// answer is what a command with --json prints: the status, what else there is to
// say, and the error.
func (c *console) answer(s polargate.Status, more map[string]any, err error) error {
	text, jsonErr := json.Marshal(s)
	if jsonErr != nil {
		return jsonErr
	}
	object := map[string]any{}
	if jsonErr := json.Unmarshal(text, &object); jsonErr != nil {
		return jsonErr
	}
	maps.Copy(object, more)
	if err != nil {
		failure := map[string]string{"reason": "", "message": words(err)}
		if e, ok := errors.AsType[*polargate.Error](err); ok {
			failure["reason"] = string(e.Reason)
		}
		object["error"] = failure
	}
	if jsonErr := writeJSON(c.out, object); jsonErr != nil {
		return jsonErr
	}
	return err
}

func writeJSON(out io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}

// describe prints where a license stands. A license that does not let the program
// run is explained by the error that comes with it.
func (c *console) describe(s polargate.Status) {
	now := time.Now()
	line := func(name, value string) { fmt.Fprintf(c.out, "%-13s%s\n", name+":", value) }
	line("license", c.coloured(s.State))
	if s.OK() {
		line("meaning", s.Message)
	}
	if !s.Key.IsZero() {
		line("key", fmt.Sprint(s.Key))
		line("computer", hostname())
	}
	if len(s.Features) > 0 {
		line("features", strings.Join(s.Features, ", "))
	}
	if s.OK() && s.LimitUsage > 0 && s.LimitUsage != polargate.Unlimited {
		line("uses", fmt.Sprintf("%d of %d", s.Usage, s.LimitUsage))
	}
	if s.OK() && !s.ExpiresAt.IsZero() {
		line("expires", expiry(s.ExpiresAt, now))
	}
	if s.State == polargate.Grace {
		line("works until", moment(s.GraceUntil))
	}
	if !s.CheckedAt.IsZero() {
		line("last answer", moment(s.CheckedAt))
	}
}

// coloured is the word for a state, which says all that the colour says.
func (c *console) coloured(s polargate.State) string {
	colour := map[polargate.State]string{polargate.Active: "32", polargate.Grace: "33", polargate.Locked: "31"}[s]
	if !c.colours || colour == "" {
		return string(s)
	}
	return "\x1b[" + colour + "m" + string(s) + "\x1b[0m"
}
