//go:build embed

// Embed is the license of a program that isn't written in Go: a shared library with the ten
// functions of polargate.h, over one Gate or several. The folders c and python have a program
// each that uses it.
//
//	go build -tags embed -buildmode=c-shared -o libpolargate.so ./examples/embed
//
// It needs cgo, so it is built only with the tag embed.
package main

/*
#include <stdlib.h>
#include "polargate.h"
*/
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/polargate/polargate"
)

func main() {} // -buildmode=c-shared asks for one

// gates are those that are open, by their number. A number is never used again.
var gates = struct {
	sync.RWMutex
	last C.polargate_gate
	open map[C.polargate_gate]*polargate.Gate
}{open: map[C.polargate_gate]*polargate.Gate{}}

func gateOf(number C.polargate_gate) *polargate.Gate {
	gates.RLock()
	defer gates.RUnlock()
	return gates.open[number]
}

// config is what polargate_open takes.
type config struct {
	OrganizationID string              `json:"organization_id"`
	App            string              `json:"app"`
	Version        string              `json:"version"`
	Features       map[string][]string `json:"features"`
	Folder         string              `json:"folder"`
	Secret         string              `json:"secret"`
	BaseURL        string              `json:"base_url"`
	Background     bool                `json:"background"`
}

func readConfig(text string) (c config, err error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return c, &polargate.InputError{Field: "config", Problem: "is no JSON object that polargate.h describes: " + err.Error()}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return c, &polargate.InputError{Field: "config", Problem: "has something after its end"}
	}
	return c, nil
}

//export embedOpen
func embedOpen(text C.polargate_text, number *C.polargate_gate, message **C.char) (code C.int) {
	defer recovered(&code, message)
	if text == nil {
		return report(&polargate.InputError{Field: "config", Problem: "is missing"}, message)
	}
	c, err := readConfig(C.GoString(text))
	if err != nil {
		return report(err, message)
	}
	settings := polargate.Config{
		OrganizationID: c.OrganizationID, App: c.App, Version: c.Version,
		Features: c.Features, Secret: c.Secret, BaseURL: c.BaseURL,
	}
	if c.Folder != "" {
		settings.Store = polargate.FileStore(c.Folder)
	}
	gate, err := polargate.Open(settings)
	if err != nil {
		return report(err, message)
	}
	if c.Background {
		go func() { _ = gate.Run(context.Background()) }() // Close ends it
	}
	gates.Lock()
	defer gates.Unlock()
	gates.last++
	gates.open[gates.last] = gate
	*number = gates.last
	return C.POLARGATE_OK
}

//export embedClose
func embedClose(number C.polargate_gate) (code C.int) {
	defer recovered(&code, nil)
	gates.Lock()
	gate := gates.open[number]
	delete(gates.open, number)
	gates.Unlock()
	if gate == nil {
		return C.POLARGATE_CLOSED
	}
	return report(gate.Close(), nil)
}

// perform does something with a gate, within a bound.
func perform(number C.polargate_gate, timeout C.int, message **C.char, do func(context.Context, *polargate.Gate) error) (code C.int) {
	defer recovered(&code, message)
	gate := gateOf(number)
	if gate == nil {
		return C.POLARGATE_CLOSED
	}
	ctx := context.Background()
	if timeout > 0 {
		bounded, cancel := context.WithTimeout(ctx, time.Duration(timeout)*time.Millisecond)
		defer cancel()
		ctx = bounded
	}
	return report(do(ctx, gate), message)
}

//export embedCheck
func embedCheck(number C.polargate_gate, timeout C.int, message **C.char) C.int {
	return perform(number, timeout, message, func(ctx context.Context, gate *polargate.Gate) error {
		_, err := gate.Check(ctx)
		return err
	})
}

//export embedActivate
func embedActivate(number C.polargate_gate, key C.polargate_text, timeout C.int, message **C.char) C.int {
	return perform(number, timeout, message, func(ctx context.Context, gate *polargate.Gate) error {
		if key == nil {
			return &polargate.InputError{Field: "key", Problem: "is missing"}
		}
		_, err := gate.Activate(ctx, C.GoString(key))
		return err
	})
}

//export embedDeactivate
func embedDeactivate(number C.polargate_gate, timeout C.int, message **C.char) C.int {
	return perform(number, timeout, message, func(ctx context.Context, gate *polargate.Gate) error {
		return gate.Deactivate(ctx)
	})
}

//export embedConsume
func embedConsume(number C.polargate_gate, n C.int64_t, timeout C.int, left *C.int64_t, message **C.char) C.int {
	return perform(number, timeout, message, func(ctx context.Context, gate *polargate.Gate) error {
		remaining, err := gate.Consume(ctx, int64(n))
		if err == nil && left != nil {
			if *left = C.int64_t(remaining); remaining == polargate.Unlimited {
				*left = -1
			}
		}
		return err
	})
}

//export embedHas
func embedHas(number C.polargate_gate, feature C.polargate_text) (has C.int) {
	defer func() {
		if recover() != nil {
			has = 0
		}
	}()
	if gate := gateOf(number); gate != nil && feature != nil && gate.Has(C.GoString(feature)) {
		return 1
	}
	return 0
}

//export embedStatus
func embedStatus(number C.polargate_gate) (text *C.char) {
	defer func() {
		if recover() != nil {
			text = nil
		}
	}()
	gate := gateOf(number)
	if gate == nil {
		return nil
	}
	status, err := json.Marshal(gate.Status())
	if err != nil {
		return nil
	}
	return C.CString(string(status))
}

// report turns an error into its code and, if the caller wants it, its message.
func report(err error, message **C.char) C.int {
	if err != nil && message != nil {
		*message = C.CString(polargate.Message(err))
	}
	return codeOf(err)
}

func codeOf(err error) C.int {
	if err == nil {
		return C.POLARGATE_OK
	}
	if _, ok := errors.AsType[*polargate.InputError](err); ok {
		return C.POLARGATE_INPUT
	}
	failed, ok := errors.AsType[*polargate.Error](err)
	if !ok || errors.Is(err, context.DeadlineExceeded) && !failed.Reason.Denial() {
		return C.POLARGATE_NOT_NOW // for instance a folder that can't be written
	}
	switch r := failed.Reason; {
	case r == polargate.ErrClosed:
		return C.POLARGATE_CLOSED
	case errors.Is(err, polargate.ErrNoLicense), r == polargate.ErrUnreadableState, r == polargate.ErrNoPermission:
		return C.POLARGATE_UNLICENSED
	case r.Denial(), r == polargate.ErrUsageExceeded, r == polargate.ErrGraceEnded, r == polargate.ErrClockSetBack, r == polargate.ErrOtherMachine:
		return C.POLARGATE_LOCKED
	}
	return C.POLARGATE_NOT_NOW
}

// recovered turns a panic into a code: one that got to C would end the program.
func recovered(code *C.int, message **C.char) {
	p := recover()
	if p == nil {
		return
	}
	*code = C.POLARGATE_BROKEN
	if message != nil {
		C.free(unsafe.Pointer(*message))
		*message = C.CString(fmt.Sprintf("The license library failed. Please contact support. (%T)", p))
	}
}
