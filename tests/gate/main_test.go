package gate

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/require"
)

// programs are what the test binary can be besides the tests.
var programs = testprogram.Programs{"activate": programThatActivates}

func TestMain(m *testing.M) { os.Exit(testprogram.Main(m, programs)) }

// anOrganization is one of Polar's.
const anOrganization = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"

// aProgram is a Gate as a process of its own has it: args are the server, the
// organization and the state folder.
func aProgram(args []string) (*polargate.Gate, error) {
	return polargate.Open(polargate.Config{
		OrganizationID: args[1], App: "inkwell", BaseURL: args[0], Store: polargate.FileStore(args[2]),
		Fingerprint: args[2], CheckTimeout: 30 * time.Second,
	})
}

// programThatActivates is aProgram, which activates the key args[3].
func programThatActivates(args []string) error {
	gate, err := aProgram(args)
	if err != nil {
		return err
	}
	defer gate.Close()
	_, err = gate.Activate(context.Background(), args[3])
	return err
}

// realPolar is a Polar behind a loopback address, with its limits, and a key of many
// activations.
func realPolar(t *testing.T) (*polartest.Polar, *polartest.Server, polartest.LicenseKey) {
	t.Helper()
	polar := polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) {
		t.Errorf("%s %s: %s", r.Method, r.Path, what)
	}})
	server, err := polar.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	return polar, server, polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(100)})
}

// openGate opens a Gate at a Polar, closed with the test.
func openGate(t *testing.T, polar *polartest.Polar, change func(*polargate.Config)) *polargate.Gate {
	t.Helper()
	config := polargate.Config{
		OrganizationID: polar.OrganizationID(),
		App:            "inkwell",
		BaseURL:        polar.URL(),
		HTTPClient:     polar.Client(),
		Store:          &polargate.MemoryStore{},
	}
	if change != nil {
		change(&config)
	}
	gate, err := polargate.Open(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	return gate
}
