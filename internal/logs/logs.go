// Package logs keeps a program's log usable: lines that many requests could cause are written
// seldom, and a handler that panics doesn't end the program. The caller decides what a line
// says, and sees to it that it has no secrets.
package logs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Every is the shortest time between two lines of one kind that requests can cause.
const Every = time.Minute

// Seldom keeps many requests from filling the log. It writes one line of each kind a minute,
// with how many it left out before. There are few kinds, all named by the program itself.
type Seldom struct {
	mu   sync.Mutex
	said map[string]*saidLine
}

type saidLine struct {
	next time.Time
	more int64
}

// Warn writes a line unless one of that kind was written in the last minute.
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

// due reports whether a line is to be written, and how many were left out since the last.
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

// recoveringHandler ignores the panics of a log handler: there is nowhere to report them.
type recoveringHandler struct{ slog.Handler }

// Recovering is a logger that ignores the panics of its handler. nil writes nothing.
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
