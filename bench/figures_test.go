package bench

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	figuresFile = flag.String("figures", "", "the file to which the figures of tests go, for the report")
	whole       = flag.Bool("whole", false, "measure at full size: a million customers")
)

// figure is a row of one of the report's tables.
type figure struct {
	Table, Row string
	Cells      []string
}

var figures struct {
	sync.Mutex
	rows []figure
}

// tell keeps a row for the report.
func tell(table, row string, cells ...string) {
	figures.Lock()
	defer figures.Unlock()
	figures.rows = append(figures.rows, figure{table, row, cells})
}

// spoken is a duration in words: "44 seconds", "3 hours 44 minutes".
func spoken(d time.Duration) string {
	units := []struct {
		one, many string
		is        time.Duration
	}{{"day", "days", 24 * time.Hour}, {"hour", "hours", time.Hour}, {"minute", "minutes", time.Minute}, {"second", "seconds", time.Second}}
	var parts []string
	for i, u := range units {
		n := int64(d / u.is)
		if d -= time.Duration(n) * u.is; n == 0 && (i < len(units)-1 || len(parts) > 0) {
			continue
		}
		name := u.many
		if n == 1 {
			name = u.one
		}
		parts = append(parts, fmt.Sprint(n, " ", name))
		if len(parts) == 2 {
			break
		}
	}
	return strings.Join(parts, " ")
}

func TestMain(m *testing.M) {
	code := m.Run()
	if *figuresFile != "" {
		text, err := json.MarshalIndent(figures.rows, "", "\t")
		if err == nil {
			err = os.WriteFile(*figuresFile, text, 0o600)
		}
		if err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}
