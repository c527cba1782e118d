package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// unwanted are the beginnings of symbols that a program pays for only if it asks for them: by
// the program that must not have them.
var unwanted = map[string][]string{
	"client": {
		// What has a license on this computer, or customers on a server.
		"github.com/polargate/polargate.(*Gate)",
		"github.com/polargate/polargate.(*Customers)",
		"github.com/polargate/polargate/internal/machine.",
		"github.com/polargate/polargate/internal/seal.",
		"github.com/polargate/polargate/lease.",
	},
	"gate": {
		"github.com/polargate/polargate.(*Customers)",
		"github.com/polargate/polargate/internal/pace.(*Budget)",
		"golang.org/x/time/rate.",
	},
	"client, gate": {
		// What only servers have.
		"github.com/polargate/polargate.(*entitlementCache)",
		"github.com/polargate/polargate/internal/envelope.",
		"github.com/polargate/polargate/internal/fact.",
		"github.com/polargate/polargate/internal/intern.",
		"github.com/polargate/polargate/internal/keyring.",
		"github.com/polargate/polargate/internal/ledger.",
		"github.com/polargate/polargate/internal/listing.",
		"github.com/polargate/polargate/internal/lookup.",
		"github.com/polargate/polargate/internal/outbox.castagnoli",
		"github.com/polargate/polargate/internal/sharedlog.castagnoli",
		"github.com/polargate/polargate/internal/watch.",
		"github.com/polargate/polargate/lease/issuer.",
		"github.com/hashicorp/golang-lru",
		"net/http.(*Server).Serve",
		// What is large, and can be had for less.
		"encoding/csv.", "encoding/xml.", "html.", "html/template.", "os.RemoveAll", "regexp.", "text/template.", "fmt.Sscan",
		"github.com/stretchr/testify",
		// By these the linker knows no more which methods are never called, or keeps what
		// calls any function.
		"reflect.(*rtype).MethodByName", "reflect.Value.MethodByName", "reflect.Value.call", "reflect.MakeFunc",
		"net/http/httptrace.(*ClientTrace).compose",
	},
}

// TestAProgramLinksNothingThatItDoesNotUse builds the programs that the report measures.
func TestAProgramLinksNothingThatItDoesNotUse(t *testing.T) {
	symbols := map[string]string{}
	folder := t.TempDir()
	for _, program := range []string{"nethttp", "client", "gate"} {
		file := filepath.Join(folder, program)
		build := exec.Command("go", "build", "-o", file, "./size/"+program)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		text, err := exec.Command("go", "tool", "nm", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) { // address, kind, name
			if fields := strings.Fields(line); len(fields) == 3 && !strings.Contains(fields[2], "..") { // else it is of a generic function elsewhere
				symbols[program] += "\n" + fields[2]
			}
		}
	}
	for programs, all := range unwanted {
		for _, program := range strings.Split(programs, ", ") {
			for _, symbol := range all {
				if strings.Contains(symbols[program], "\n"+symbol) && !strings.Contains(symbols["nethttp"], "\n"+symbol) {
					t.Errorf("%s has %s. To find what calls it: go build -ldflags=-dumpdep ./size/%s", program, symbol, program)
				}
			}
		}
	}
	if !strings.Contains(symbols["gate"], "\ngithub.com/polargate/polargate.(*Gate).Activate") {
		t.Error("the symbols of a program can't be read")
	}
}
