package issuer

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/polargate/polargate"
)

// book is where accounts are kept. Names come from accountName and keyName.
type book interface {
	// read gives what is kept under a name; nil if there is nothing.
	read(ctx context.Context, name string) ([]byte, error)
	// change replaces what is kept, with nobody else at it. An error of change keeps
	// it as it is. change may be called again.
	change(ctx context.Context, name string, change func(now []byte) ([]byte, error)) error
}

// storeBook keeps accounts in a polargate.Store.
type storeBook struct {
	store polargate.Store
	locks keyedLocks
}

func (b *storeBook) read(ctx context.Context, name string) ([]byte, error) {
	data, err := b.store.Load(ctx, name)
	if errors.Is(err, polargate.ErrNotStored) {
		return nil, nil
	}
	return data, err
}

func (b *storeBook) change(ctx context.Context, name string, change func([]byte) ([]byte, error)) error {
	unlock, err := b.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	release, err := b.store.Lock(ctx, name)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		release = func() {}
	case err != nil:
		return err
	}
	defer release()
	now, err := b.read(ctx, name)
	if err != nil {
		return err
	}
	next, err := change(now)
	if err != nil {
		return err
	}
	return b.store.Save(ctx, name, next)
}

// sharedBook keeps accounts in a polargate.Shared, as values that servers swap.
type sharedBook struct {
	shared polargate.Shared
	locks  keyedLocks // so that the requests of this server don't race each other
}

const (
	// sharedTTL is the longest time that a Shared keeps a value.
	sharedTTL = 365 * 24 * time.Hour
	// maxShared is the most that a Shared keeps in a value.
	maxShared = 64 << 10
	// maxAccount bounds what is unpacked: some 20,000 computers.
	maxAccount = 16 << 20
)

func sharedName(name string) string { return "issuer:" + name }

func (b *sharedBook) load(ctx context.Context, name string) (data []byte, version string, err error) {
	value, err := b.shared.Load(ctx, sharedName(name))
	if err != nil || value.Version == "" {
		return nil, "", err
	}
	data, err = unpack(value.Data)
	if err != nil {
		return nil, "", fmt.Errorf("what is stored under %s can't be read: %w", name, err)
	}
	return data, value.Version, nil
}

func (b *sharedBook) read(ctx context.Context, name string) ([]byte, error) {
	data, _, err := b.load(ctx, name)
	return data, err
}

func (b *sharedBook) change(ctx context.Context, name string, change func([]byte) ([]byte, error)) error {
	unlock, err := b.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		now, version, err := b.load(ctx, name)
		if err != nil {
			return err
		}
		next, err := change(now)
		if err != nil {
			return err
		}
		packed, err := pack(next)
		if err != nil {
			return err
		}
		if _, swapped, err := b.shared.Swap(ctx, sharedName(name), version, packed, sharedTTL); err != nil || swapped {
			return err
		}
		// Another server was faster.
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// The first byte of a value says how the rest is written.
const (
	asItIs     = 'j'
	compressed = 'z'
)

// pack writes an account, compressed if it would not fit otherwise.
func pack(data []byte) ([]byte, error) {
	if len(data) < maxShared {
		return append([]byte{asItIs}, data...), nil
	}
	packed := *bytes.NewBuffer([]byte{compressed})
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		panic(err) // the level exists
	}
	_, _ = w.Write(data) // into memory
	_ = w.Close()
	if packed.Len() > maxShared {
		return nil, errors.New("the license key has too many computers for a Shared: use Config.Store")
	}
	return packed.Bytes(), nil
}

// unpack reads what pack wrote.
func unpack(value []byte) ([]byte, error) {
	switch {
	case len(value) > 0 && value[0] == asItIs:
		return value[1:], nil
	case len(value) > 0 && value[0] == compressed:
		return io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(value[1:])), maxAccount))
	}
	return nil, errors.New("it is not what an issuer writes")
}

// keyedLocks are locks by name that take no room while nobody holds them.
type keyedLocks struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	turn  chan struct{} // has room for the holder
	users int
}

// lock waits for the lock of a name until ctx ends.
func (l *keyedLocks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.locks == nil {
		l.locks = map[string]*keyedLock{}
	}
	one := l.locks[name]
	if one == nil {
		one = &keyedLock{turn: make(chan struct{}, 1)}
		l.locks[name] = one
	}
	one.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.locks, name)
		}
	}
	select {
	case one.turn <- struct{}{}:
		return func() { <-one.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
