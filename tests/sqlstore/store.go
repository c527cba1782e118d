// Package sqlstore keeps licenses in a SQL database, as docs/cookbook.md shows it. It is a module
// of its own, since its test needs a driver; it is never released.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/polargate/polargate"
)

// Store is a polargate.Store in a table. The statements are understood by SQLite and PostgreSQL.
type Store struct {
	db    *sql.DB
	locks *sync.Map // by name: those of this process
}

// New makes the tables if there are none.
func New(ctx context.Context, db *sql.DB) (Store, error) {
	for _, table := range []string{
		`CREATE TABLE IF NOT EXISTS licenses (name TEXT PRIMARY KEY, data BLOB NOT NULL)`, // BYTEA in PostgreSQL
		`CREATE TABLE IF NOT EXISTS license_locks (name TEXT PRIMARY KEY, ends BIGINT NOT NULL)`,
	} {
		if _, err := db.ExecContext(ctx, table); err != nil {
			return Store{}, err
		}
	}
	return Store{db, &sync.Map{}}, nil
}

// Load returns what was last saved under a name.
func (s Store) Load(ctx context.Context, name string) ([]byte, error) {
	var data []byte
	err := s.db.QueryRowContext(ctx, `SELECT data FROM licenses WHERE name = $1`, name).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, polargate.ErrNotStored
	}
	return data, err
}

// Save replaces it in one statement, so that a reader never sees half of it.
func (s Store) Save(ctx context.Context, name string, data []byte) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO licenses (name, data) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET data = excluded.data`, name, append([]byte{}, data...))
	return err
}

// lockFor is how long a lock outlives a process that was killed. Nothing that a Gate does with a
// lock takes as long.
const lockFor = 2 * time.Minute

// Lock keeps out other goroutines of this process, and then other processes.
func (s Store) Lock(ctx context.Context, name string) (func(), error) {
	entry, _ := s.locks.LoadOrStore(name, make(chan struct{}, 1))
	mine := entry.(chan struct{})
	select {
	case mine <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		now := time.Now()
		ends := now.Add(lockFor).UnixNano()
		result, err := s.db.ExecContext(ctx, `INSERT INTO license_locks (name, ends) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET ends = excluded.ends WHERE license_locks.ends < $3`, name, ends, now.UnixNano())
		if err == nil {
			var rows int64
			if rows, err = result.RowsAffected(); err == nil && rows == 1 {
				return func() {
					_, _ = s.db.ExecContext(context.WithoutCancel(ctx), `DELETE FROM license_locks WHERE name = $1 AND ends = $2`, name, ends)
					<-mine
				}, nil
			}
		}
		if err == nil {
			select {
			case <-time.After(20 * time.Millisecond):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		<-mine
		return nil, err
	}
}
