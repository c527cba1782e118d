#!/usr/bin/env bash
# ncruces/go-sqlite3 0.37.0 (database/sql): stored times don't sort by time.
#
# Guess: time.Time values in UTC, in a column of type TIMESTAMP, come back in their order by
# ORDER BY, and WHERE t < ? agrees with time.Time.Before.
# Seen: they are stored as text of RFC 3339 without the zeros at the end, and "." sorts before "Z":
# 05.12 s comes before 05.1 s, and both before 05 s. "t < ?" for 05 s finds two rows that are
# later. modernc.org/sqlite 1.62.0 stores "05 +0000 UTC", which sorts rightly within a zone; so
# the same statements mean something else after a change of driver. The collation TIME, or
# "_timefmt" in the DSN, helps with ncruces.
# For us: the Store of the cookbook compares times in SQL, to take over the lock of a killed
# process. It keeps them as integers (UnixNano), which every driver compares alike; keep it so.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
cat >go.mod <<'MOD'
module finding

go 1.26

require github.com/ncruces/go-sqlite3 v0.37.0
MOD
cat >main.go <<'GO'
package main

import (
	"database/sql"
	"fmt"
	"os"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	db, err := sql.Open("sqlite3", "file:times.db")
	must(err)
	defer db.Close()
	_, err = db.Exec(`CREATE TABLE seen (t TIMESTAMP)`)
	must(err)
	whole := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, after := range []time.Duration{0, 100 * time.Millisecond, 120 * time.Millisecond, time.Second} {
		_, err = db.Exec(`INSERT INTO seen VALUES (?)`, whole.Add(after))
		must(err)
	}

	order := func(by string) (all string) {
		rows, err := db.Query(`SELECT t FROM seen ORDER BY ` + by)
		must(err)
		defer rows.Close()
		for rows.Next() {
			var t time.Time
			must(rows.Scan(&t))
			all += " " + t.Format("05.999")
		}
		must(rows.Err())
		return all
	}
	var before int
	must(db.QueryRow(`SELECT count(*) FROM seen WHERE t < ?`, whole).Scan(&before))
	plain, collated := order("t"), order("t COLLATE TIME")
	fmt.Println("ncruces/go-sqlite3 0.37.0, seconds of the stored times:")
	fmt.Println("  ORDER BY t:             ", plain)
	fmt.Println("  ORDER BY t COLLATE TIME:", collated)
	fmt.Println("  rows WHERE t < the earliest:", before)
	if plain != " 05.12 05.1 05 06" || collated != " 05 05.1 05.12 06" || before != 2 {
		fmt.Println("the behaviour has changed")
		os.Exit(1)
	}
}
GO
go run .
