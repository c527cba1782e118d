// Package logs keeps a program's log usable: lines that a crowd could bring about are
// written seldom, and a handler that panics takes nothing down. What a line says, and that
// it holds no secret, is up to who writes it.
package logs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Every is how often a line of one kind is written that others can bring about.
const Every = time.Minute

// Seldom keeps a crowd from filling the log. Of each kind one line is written a minute,
// with how many were left out before it. Kinds are few, and are the program's own words.
type Seldom struct {
	mu   sync.Mutex
	said map[string]*saidLine
}

type saidLine struct {
	next time.Time
	more int64
}

// Warn writes a line unless one of that kind was written a moment ago.
func (s *Seldom) Warn(log *slog.Logger, kind, message string, args ...any) {
	more, due := s.due(kind, time.Now())
	if !due {
		return
	}
	if more > 0 {
		args = append(args, "suppressed", more)
	}
	log.Warn(message, args...)
}

// due reports whether a line is to be written, and how many were not since the last.
func (s *Seldom) due(kind string, now time.Time) (more int64, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := s.said[kind]
	if line == nil {
		if s.said == nil {
			s.said = map[string]*saidLine{}
		}
		line = &saidLine{}
		s.said[kind] = line
	}
	if now.Before(line.next) {
		line.more++
		return 0, false
	}
	more = line.more
	line.next, line.more = now.Add(Every), 0
	return more, true
}

// recoveringHandler keeps the panics of a log handler to itself: there is nowhere to
// report them.
type recoveringHandler struct{ slog.Handler }

// Recovering is a logger whose handler's panics end in it. nil writes nothing.
func Recovering(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	if _, ok := l.Handler().(recoveringHandler); ok {
		return l
	}
	return slog.New(recoveringHandler{l.Handler()})
}

func (h recoveringHandler) Enabled(ctx context.Context, level slog.Level) (yes bool) {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

func (h recoveringHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	defer func() { _ = recover() }()
	return h.Handler.Handle(ctx, r)
}

func (h recoveringHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return recoveringHandler{h.Handler.WithAttrs(attrs)}
}

func (h recoveringHandler) WithGroup(name string) slog.Handler {
	return recoveringHandler{h.Handler.WithGroup(name)}
}
