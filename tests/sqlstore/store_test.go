package sqlstore

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/storetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
)

func database(t *testing.T, path string) Store {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	s, err := New(context.Background(), db)
	require.NoError(t, err)
	return s
}

func TestALicenseInSQLiteKeepsTheContractOfAStore(t *testing.T) {
	t.Parallel()
	storetest.Store(t, func(t *testing.T) polargate.Store { return database(t, filepath.Join(t.TempDir(), "licenses.db")) })
}

func TestTwoProcessesShareALicenseInADatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "licenses.db")
	one, other := database(t, path), database(t, path)
	unlock, err := one.Lock(t.Context(), "a")
	require.NoError(t, err)
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = other.Lock(soon, "a")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	unlock, err = other.Lock(t.Context(), "a")
	require.NoError(t, err)
	unlock()

	// A process that was killed keeps nobody out for long.
	_, err = one.db.ExecContext(t.Context(), `INSERT INTO license_locks (name, ends) VALUES ('b', $1)`, time.Now().Add(-time.Second).UnixNano())
	require.NoError(t, err)
	unlock, err = other.Lock(t.Context(), "b")
	require.NoError(t, err)
	unlock()

	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	for _, store := range []Store{one, other} {
		gate, err := polargate.Open(polargate.Config{
			OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: store, Fingerprint: "this computer",
		})
		require.NoError(t, err)
		_, err = gate.Ensure(t.Context(), key.Key)
		require.NoError(t, err)
		require.NoError(t, gate.Close())
	}
	assert.Equal(t, 1, polar.Count("/activate"))
}
