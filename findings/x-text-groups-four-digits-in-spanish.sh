#!/usr/bin/env bash
# golang.org/x/text 0.44.0 (message) beside Node's Intl: the same number is written in two ways.
#
# Guess: both follow Unicode's CLDR, so 1234 in Spanish is "1234" on a server's page and in its script.
# Seen: x/text writes "1.234". It knows nothing of CLDR's minimum of digits before a separator is written, which
# Spanish, Polish and Portuguese of Portugal have. From 10,000 on, both agree.
# For us: polargate writes numbers without separators (days, computers) and hands out balances as
# numbers. Let one side write them; a test that compares the texts of both sides fails.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
cat >go.mod <<'MOD'
module finding

go 1.26

require golang.org/x/text v0.44.0
MOD
cat >main.go <<'GO'
package main

import (
	"fmt"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

func main() {
	for _, tag := range []string{"es", "pl", "pt-PT", "de"} {
		p := message.NewPrinter(language.MustParse(tag))
		fmt.Println(tag, p.Sprintf("%d", 1234), p.Sprintf("%d", 12345))
	}
}
GO
cat >main.cjs <<'JS'
for (const tag of ["es", "pl", "pt-PT", "de"]) {
  const format = new Intl.NumberFormat(tag);
  console.log(tag, format.format(1234), format.format(12345));
}
JS
go run . >go.txt
node main.cjs >node.txt
echo "golang.org/x/text 0.44.0:"
sed 's/^/  /' go.txt
echo "Intl of Node $(node --version), CLDR $(node -p process.versions.cldr):"
sed 's/^/  /' node.txt
if ! grep -qx "es 1.234 12.345" go.txt || ! grep -qx "es 1234 12.345" node.txt; then
	echo "the behaviour has changed"
	exit 1
fi
