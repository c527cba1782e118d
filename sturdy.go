package polargate

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
)

// A program's own Store, transport or log handler may panic. That is the
// program's fault, but no reason to take it down: some of the work here is done
// in goroutines that nobody else could recover in.

// sturdyStore makes errors of the panics of a Store, and errors.ErrUnsupported of a
// file system's own words for locks that it does not have.
type sturdyStore struct {
	of  Store
	log *slog.Logger

	mu   sync.Mutex
	last string // of what was logged
}

func (s *sturdyStore) caught(p any, err *error) {
	if p != nil {
		*err = fmt.Errorf("the store panicked: %v", p)
		s.mu.Lock()
		known := s.last == (*err).Error()
		s.last = (*err).Error()
		s.mu.Unlock()
		if !known {
			s.log.Error("polargate: the Store panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}
}

func (s *sturdyStore) Load(ctx context.Context, name string) (data []byte, err error) {
	defer func() { s.caught(recover(), &err) }()
	return s.of.Load(ctx, name)
}

func (s *sturdyStore) Save(ctx context.Context, name string, data []byte) (err error) {
	defer func() { s.caught(recover(), &err) }()
	return s.of.Save(ctx, name, data)
}

func (s *sturdyStore) Lock(ctx context.Context, name string) (unlock func(), err error) {
	defer func() { s.caught(recover(), &err) }()
	release, err := s.of.Lock(ctx, name)
	if err != nil {
		return nil, unsupportedLock(err)
	}
	return func() {
		var err error
		defer func() { s.caught(recover(), &err) }()
		release()
	}, nil
}

// sturdyHandler keeps the panics of a log handler to itself: there is nowhere to
// report them.
type sturdyHandler struct{ slog.Handler }

func sturdyLogger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	if _, ok := l.Handler().(sturdyHandler); ok {
		return l
	}
	return slog.New(sturdyHandler{l.Handler()})
}

func (h sturdyHandler) Enabled(ctx context.Context, level slog.Level) (yes bool) {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

func (h sturdyHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	defer func() { _ = recover() }()
	return h.Handler.Handle(ctx, r)
}

func (h sturdyHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sturdyHandler{h.Handler.WithAttrs(attrs)}
}

func (h sturdyHandler) WithGroup(name string) slog.Handler {
	return sturdyHandler{h.Handler.WithGroup(name)}
}
