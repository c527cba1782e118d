package kit

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/polargate/polargate"
)

// BrittleStore is a Store whose methods can be made to fail or wait.
type BrittleStore struct {
	polargate.MemoryStore
	mu               sync.Mutex
	load, save, lock func(ctx context.Context, name string) error
	saved            map[string][]byte
}

// Set says what the methods do before they work as usual: nothing, if a function is nil,
// and nothing more, if it fails.
func (s *BrittleStore) Set(load, save, lock func(ctx context.Context, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load, s.save, s.lock = load, save, lock
}

func (s *BrittleStore) pick(of func() func(context.Context, string) error) func(context.Context, string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := of(); f != nil {
		return f
	}
	return func(context.Context, string) error { return nil }
}

// Load implements polargate.Store.
func (s *BrittleStore) Load(ctx context.Context, name string) ([]byte, error) {
	if err := s.pick(func() func(context.Context, string) error { return s.load })(ctx, name); err != nil {
		return nil, err
	}
	return s.MemoryStore.Load(ctx, name)
}

// Save implements polargate.Store, and notes what was saved.
func (s *BrittleStore) Save(ctx context.Context, name string, data []byte) error {
	if err := s.pick(func() func(context.Context, string) error { return s.save })(ctx, name); err != nil {
		return err
	}
	s.mu.Lock()
	if s.saved == nil {
		s.saved = map[string][]byte{}
	}
	s.saved[name] = bytes.Clone(data)
	s.mu.Unlock()
	return s.MemoryStore.Save(ctx, name, data)
}

// Lock implements polargate.Store.
func (s *BrittleStore) Lock(ctx context.Context, name string) (func(), error) {
	if err := s.pick(func() func(context.Context, string) error { return s.lock })(ctx, name); err != nil {
		return nil, err
	}
	return s.MemoryStore.Lock(ctx, name)
}

// Contents returns what was saved, by name.
func (s *BrittleStore) Contents() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string][]byte{}
	for name, data := range s.saved {
		all[name] = bytes.Clone(data)
	}
	return all
}

// ErrDisk is why a BrittleStore fails.
var ErrDisk = errors.New("the disk is on fire")

// Fails is for BrittleStore.Set: it fails with ErrDisk.
func Fails(context.Context, string) error { return ErrDisk }

// Waits is for BrittleStore.Set: it hangs for as long as its context lets it.
func Waits(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}
