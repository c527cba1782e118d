package bench

import (
	"encoding/json"
	"flag"
	"os"
	"sync"
	"testing"
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
