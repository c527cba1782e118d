package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/licensepage"
	"golang.org/x/term"
)

// terminal is the file descriptor of a terminal, if stream is one.
func terminal(stream any) (fd int, ok bool) {
	f, ok := stream.(*os.File)
	if !ok || f == nil {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

// maxLine is how much is read in search of a key, in bytes. Keys are far shorter.
const maxLine = 4 << 10

var errLineTooLong = errors.New("the line is too long")

// readSecret asks for a license key on a terminal, where it is not shown, and reads it
// without a word from anything else.
func readSecret(ctx context.Context, in io.Reader, prompts io.Writer, prompt string) (string, error) {
	read, endPrompt := func() (string, error) { return readKey(in) }, func() {}
	if fd, ok := terminal(in); ok {
		// The terminal is set here and not beside the reading, so that whatever ends
		// the wait also finds it set, and puts it back.
		before, err := term.MakeRaw(fd)
		if err == nil {
			defer func() { _ = term.Restore(fd, before) }()
			endPrompt = func() { fmt.Fprint(prompts, "\r\n") }
			read = func() (string, error) { return typedLine(in, prompts, prompt) }
		} else {
			fmt.Fprint(prompts, prompt) // such as on Plan 9, where it will be shown
		}
	}
	type outcome struct {
		line string
		err  error
	}
	outcomes := make(chan outcome, 1) // nobody may be there any more to take it
	go func() {
		line, err := read()
		outcomes <- outcome{line, err}
	}()
	select {
	case o := <-outcomes:
		return o.line, o.err
	case <-ctx.Done():
		endPrompt()
		return "", ctx.Err()
	}
}

// typedLine reads a line from a raw terminal. Ctrl-C, which is no signal there, and
// Ctrl-D give up.
func typedLine(in io.Reader, out io.Writer, prompt string) (string, error) {
	line, err := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, out}, "").ReadPassword(prompt)
	switch {
	case errors.Is(err, io.EOF):
		fmt.Fprint(out, "\r\n")
		return "", context.Canceled
	case err != nil && !errors.Is(err, term.ErrPasteIndicator):
		return "", err
	}
	return line, nil
}

// readKey reads a license key from a pipe or a file. Mail programs break keys into lines,
// so it reads on until it has a whole one, or to the end: whoever keeps the pipe open
// behind a whole key is not waited for. A first line that is empty is the answer.
func readKey(in io.Reader) (string, error) {
	lines := bufio.NewReader(io.LimitReader(in, maxLine+2)) // two bytes more, for the end of a line
	var text string
	for {
		line, err := lines.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		text += line
		if err != nil || strings.TrimSpace(text) == "" || isWhole(text) {
			break
		}
	}
	if text = strings.TrimRight(text, "\r\n"); len(text) > maxLine {
		return "", errLineTooLong
	}
	return text, nil
}

// isWhole reports whether a text has a license key that goes no further: those that
// Polar makes end in a UUID.
func isWhole(text string) bool {
	key, err := polargate.ParseKey(text)
	return err == nil && endOfKey.MatchString(key.Reveal())
}

var endOfKey = regexp.MustCompile(`(?i)\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// notices is where the program speaks beside its answer. On a terminal its last line
// can tell what is being waited for; anything else that is said takes its place.
type notices struct {
	out  io.Writer
	live bool // a terminal on which a line can be wiped away

	mu    sync.Mutex
	shown int // how many characters the line has that can be wiped away
}

func newNotices(out io.Writer, getenv func(string) string) *notices {
	_, live := terminal(out)
	return &notices{out: out, live: live && !isDumb(getenv)}
}

func (n *notices) Write(text []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wipe()
	return n.out.Write(text)
}

// show replaces the line that can be wiped away.
func (n *notices) show(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wipe()
	// A line that wraps cannot be wiped away, nor one with no room for "^C" behind it.
	line = cut(line, n.width()-len("^C")-1)
	fmt.Fprint(n.out, line)
	n.shown = utf8.RuneCountInString(line)
}

// wipe works on terminals that know no escape sequences, too.
func (n *notices) wipe() {
	if n.shown == 0 {
		return
	}
	fmt.Fprint(n.out, "\r", strings.Repeat(" ", n.shown+len("^C")), "\r")
	n.shown = 0
}

func (n *notices) width() int {
	if fd, ok := terminal(n.out); ok {
		if width, _, err := term.GetSize(fd); err == nil && width > 0 {
			return width
		}
	}
	return 80
}

func cut(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:max(0, most)])
	}
	return text
}

// waiting tells what is being waited for, if that takes longer than a second, and for
// how long at most unless until is zero. It tells nothing any more after done.
func (n *notices) waiting(what string, until time.Time) (done func()) {
	if !n.live {
		return func() {}
	}
	began := time.Now()
	stop := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				clock := seconds(now.Sub(began))
				if !until.IsZero() {
					clock = seconds(until.Sub(now)) + " left"
				}
				n.show(what + "… " + clock)
			case <-stop:
				n.show("")
				return
			}
		}
	})
	return func() {
		close(stop)
		telling.Wait()
	}
}

// seconds is a time as on a clock: 2:05.
func seconds(d time.Duration) string {
	s := int(max(0, d).Round(time.Second) / time.Second)
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// isDumb reports whether a terminal does nothing but print, by all that is known. The
// consoles of Windows do not say.
func isDumb(getenv func(string) string) bool {
	name := getenv("TERM")
	return name == "dumb" || (name == "" && runtime.GOOS != "windows")
}

// canColor reports whether colours are wanted and understood.
func canColor(out io.Writer, getenv func(string) string) bool {
	fd, ok := terminal(out)
	return ok && getenv("NO_COLOR") == "" && !isDumb(getenv) && startColor(fd)
}

// paint gives a word the colour of its tone. The words carry the meaning.
func (c *call) paint(tone, text string) string {
	color := map[string]string{"good": "32", "warn": "33", "bad": "31"}[tone]
	if !c.color || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// describe shows a license to a person. err is printed beside it, so it isn't repeated
// here.
func (c *call) describe(s polargate.Status, err error) string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-14s %s\n", name, value) }
	now := time.Now()

	state, headline := string(s.State), licensepage.Headline(s, nil)
	if s.State != polargate.Active {
		state += ": " + strings.ToLower(headline[:1]) + headline[1:]
	}
	line("State", c.paint(toneOf(s), state))
	if !s.Key.IsZero() {
		line("Key", fmt.Sprint(s.Key))
	}
	if len(s.Features) > 0 {
		line("Features", strings.Join(s.Features, ", "))
	}
	if s.OK() && s.LimitUsage > 0 && s.LimitUsage != polargate.Unlimited {
		line("Used", fmt.Sprintf("%d of %d", s.Usage, s.LimitUsage))
	}
	if !s.CheckedAt.IsZero() {
		line("Last verified", moment(s.CheckedAt))
	}
	switch {
	case s.State == polargate.Grace && !s.GraceUntil.IsZero():
		line("Works until", day(s.GraceUntil, now))
	case s.State == polargate.Active && !s.GraceUntil.IsZero():
		line("Works offline", "until "+day(s.GraceUntil, now))
	}
	if !s.TrialUntil.IsZero() {
		line("Trial until", day(s.TrialUntil, now))
	}
	switch {
	case s.ExpiresAt.IsZero():
	case s.ExpiresAt.After(now):
		line("Expires", day(s.ExpiresAt, now))
	default:
		line("Expired", moment(s.ExpiresAt))
	}
	line("This computer", hostname())

	message := s.Message
	if e, ok := errors.AsType[*polargate.Error](err); ok {
		said := *e
		said.Err = nil // a second fact is not in the status
		message = strings.TrimSpace(strings.TrimPrefix(message, polargate.Message(&said)))
	}
	if message != "" {
		b.WriteString("\n" + message + "\n")
	}
	return b.String()
}

// day is a moment in the future, and how many midnights away it is.
func day(t, now time.Time) string {
	midnight := func(t time.Time) time.Time {
		year, month, day := t.Local().Date()
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC) // where all days are 24 hours
	}
	switch days := midnight(t).Sub(midnight(now)) / (24 * time.Hour); days {
	case 0:
		return moment(t) + " (today)"
	case 1:
		return moment(t) + " (tomorrow)"
	default:
		return fmt.Sprintf("%s (in %d days)", moment(t), days)
	}
}

// toneOf is the color of a license.
func toneOf(s polargate.Status) string {
	switch {
	case s.State == polargate.Active:
		return "good"
	case s.State == polargate.Grace, s.Reason == polargate.ErrInDoubt:
		return "warn"
	case s.State == polargate.Locked, s.Reason == polargate.ErrNoPermission:
		return "bad"
	}
	return "plain"
}

func moment(t time.Time) string { return t.Local().Format("2 January 2006, 15:04") }

// count is a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprint(n, " ", many)
}

// hostname is what people call this computer.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "this computer"
	}
	return name
}
