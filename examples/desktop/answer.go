package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/polargate/polargate"
)

// call is one call of the program: what it was given, and where it speaks.
type call struct {
	stdin  io.Reader
	stdout io.Writer
	stderr *notices
	color  bool // on stdout
	json   bool
	files  bool // licenses come in files, too
	// vendorPage is the vendor's page for computers without a network; "" if there is none.
	vendorPage string
	args       []string // after the command's name
	flags      map[string]*bool
	operands   []string
}

// answer is what a command found out.
type answer struct {
	text   string // for a person
	fields []any  // for a program: what makes JSON objects, to be one
}

// problem is what went wrong, in JSON.
type problem struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// finish tells what came of a call, and gives the exit code.
func (c *call) finish(a answer, err error) int {
	if tellErr := c.tell(a, err); tellErr != nil && err == nil {
		err = tellErr // the disk is full, say: who asked did not get the answer
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(c.stderr, problemOf(err).Message)
	if called, ok := errors.AsType[*usageError](err); ok && called.help != "" {
		fmt.Fprint(c.stderr, "\n", called.help)
	}
	return exitCode(err)
}

// tell writes the answer.
func (c *call) tell(a answer, err error) error {
	if !c.json || (a.fields == nil && err == nil) { // such as help
		_, writeErr := io.WriteString(c.stdout, a.text)
		return writeErr
	}
	var trouble struct {
		Error   *problem `json:"error,omitempty"`
		Warning *problem `json:"warning,omitempty"`
	}
	if err != nil {
		p := problemOf(err)
		if exitCode(err) == exitOK {
			trouble.Warning = &p
		} else {
			trouble.Error = &p
			if also := beside(err); also != nil {
				p := problemOf(also)
				trouble.Warning = &p
			}
		}
	}
	text, jsonErr := joinObjects(append(a.fields, trouble)...)
	if jsonErr != nil {
		return jsonErr
	}
	_, writeErr := fmt.Fprintf(c.stdout, "%s\n", text)
	return writeErr
}

// problemOf says in a word and in a sentence what went wrong.
func problemOf(err error) problem {
	if errors.Is(err, context.Canceled) {
		return problem{"interrupted", "Interrupted."}
	}
	if e, ok := errors.AsType[*usageError](err); ok {
		return problem{"usage", e.text}
	}
	if e, ok := errors.AsType[*tourError](err); ok {
		return problem{"failed", e.Error()}
	}
	p := problem{"failed", polargate.Message(err)}
	if e, ok := errors.AsType[*polargate.Error](err); ok {
		p.Reason = string(e.Reason)
	} else if e, ok := errors.AsType[*polargate.StoreError](err); ok {
		switch {
		case errors.Is(e, polargate.ErrNoPermission):
			p.Reason = string(polargate.ErrNoPermission)
		case errors.Is(e, polargate.ErrBusy):
			p.Reason = string(polargate.ErrBusy)
		default:
			// Who calls a command line can do something about a folder.
			p = problem{"store", e.Error() + strings.TrimPrefix(p.Message, polargate.Message(e))}
		}
	} else if _, ok := errors.AsType[*polargate.InputError](err); ok {
		p.Reason = "input"
	} else if errors.Is(err, errFindings) {
		p = problem{"problems_found", "There are problems: see above."}
	}
	return p
}

// beside is a second fact: why it could not be found out whether the first still holds.
// nil if there is none.
func beside(err error) error {
	e, ok := errors.AsType[*polargate.Error](err)
	if !ok {
		return nil
	}
	switch also := e.Err.(type) {
	case *polargate.Error:
		if also.Reason != e.Reason && !also.Reason.Denial() {
			return also
		}
	case *polargate.StoreError:
		return also
	}
	return nil
}

// joinObjects makes one JSON object of several. A map would do, but forget the order of
// the fields, which is made for reading.
func joinObjects(objects ...any) ([]byte, error) {
	var joined bytes.Buffer
	for _, object := range objects {
		text, err := json.Marshal(object)
		if err != nil {
			return nil, err
		}
		text = bytes.TrimSuffix(bytes.TrimPrefix(text, []byte("{")), []byte("}"))
		if joined.Len() > 0 && len(text) > 0 {
			joined.WriteByte(',')
		}
		joined.Write(text)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte("{"+joined.String()+"}"), "", "  "); err != nil {
		return nil, err
	}
	return indented.Bytes(), nil
}
