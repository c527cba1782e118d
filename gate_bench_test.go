package polargate

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/polargate/polargate/polartest"
)

func benchGate(b *testing.B, store Store) (*Gate, Config) {
	b.Helper()
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	config := Config{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		Store: store, Features: map[string][]string{key.BenefitID: {"export", "sync", "share"}},
	}
	gate, err := Open(config)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := gate.Activate(context.Background(), key.Key); err != nil {
		b.Fatal(err)
	}
	return gate, config
}

// BenchmarkHas is the hot path, beside the least that it could be: a load of a
// pointer and a look into a map. The two are to be read from one run.
func BenchmarkHas(b *testing.B) {
	gate, _ := benchGate(b, &MemoryStore{})
	defer gate.Close()
	b.Run("gate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !gate.Has("export") {
				b.Fatal("locked")
			}
		}
	})
	b.Run("bare pointer and map", func(b *testing.B) {
		type held struct{ features map[string]struct{} }
		var pointer atomic.Pointer[held]
		pointer.Store(&held{map[string]struct{}{"export": {}, "sync": {}, "share": {}}})
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := pointer.Load().features["export"]; !ok {
				b.Fatal("locked")
			}
		}
	})
}

func BenchmarkCheckFromMemory(b *testing.B) {
	gate, _ := benchGate(b, &MemoryStore{})
	defer gate.Close()
	ctx := context.Background()
	_, _ = gate.Check(ctx)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := gate.Check(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkColdStart is from nothing to a decision, with a license on disk.
func BenchmarkColdStart(b *testing.B) {
	first, config := benchGate(b, FileStore(b.TempDir()))
	if err := first.Close(); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		gate, err := Open(config)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := gate.Check(ctx); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = gate.Close()
		b.StartTimer()
	}
}
