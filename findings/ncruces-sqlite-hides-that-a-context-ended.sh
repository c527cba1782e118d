#!/usr/bin/env bash
# ncruces/go-sqlite3 0.37.0 (database/sql): a statement whose context ends fails without the
# context's error.
#
# Guess: as with modernc.org/sqlite 1.62.0 and as database/sql does itself, errors.Is(err,
# context.DeadlineExceeded) holds after a deadline, and context.Canceled after a cancellation.
# Seen: the error is "sqlite3: interrupted", which is neither, for statements and for queries.
# Interrupted connections are fine otherwise.
# For us: a Store of your own may return such an error. A Gate looks at the context too, not only
# at the error; storetest asks that Lock ends with the context, whatever error it returns.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
cat >go.mod <<'MOD'
module finding

go 1.26

require (
	github.com/ncruces/go-sqlite3 v0.37.0
	modernc.org/sqlite v1.62.0
)
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	_ "modernc.org/sqlite"
)

// long takes seconds if nothing ends it.
const long = `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < 100000000) SELECT count(*) FROM c`

func main() {
	fmt.Println("ncruces/go-sqlite3 0.37.0 (sqlite3) and modernc.org/sqlite 1.62.0 (sqlite):")
	for _, driver := range []string{"sqlite3", "sqlite"} {
		db, err := sql.Open(driver, "file:"+driver+".db")
		if err != nil {
			panic(err)
		}
		defer db.Close()
		if err := db.Ping(); err != nil {
			panic(err)
		}

		soon, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_, late := db.ExecContext(soon, long)

		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(200*time.Millisecond, cancel)
		var n int
		cancelled := db.QueryRowContext(ctx, long).Scan(&n)

		isLate, isCancelled := errors.Is(late, context.DeadlineExceeded), errors.Is(cancelled, context.Canceled)
		fmt.Printf("  %-8s deadline: %q, is DeadlineExceeded: %v\n", driver, late, isLate)
		fmt.Printf("  %-8s cancelled: %q, is Canceled: %v\n", driver, cancelled, isCancelled)
		told := driver == "sqlite"
		if late == nil || cancelled == nil || isLate != told || isCancelled != told {
			fmt.Println("the behaviour has changed")
			os.Exit(1)
		}
	}
}
GO
go run .
