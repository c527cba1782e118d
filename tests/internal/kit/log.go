package kit

import (
	"bytes"
	"log/slog"
	"sync"
)

// Lines collects what a Logger writes, at every level.
type Lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

// Write implements io.Writer, for many goroutines at once.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// String returns all that was written so far.
func (l *Lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// Logger returns a Logger that writes here, with the place of each call.
func (l *Lines) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.Level(-100), AddSource: true}))
}
