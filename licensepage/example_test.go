package licensepage_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/licensepage"
	"github.com/polargate/polargate/polartest"
)

// The page in the user's browser, until the program ends.
func ExamplePage_Serve() {
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: "11111111-1111-4111-8111-111111111111",
		App:            "inkwell",
		Links:          polargate.Links{Buy: "https://example.com/buy", Support: "mailto:support@example.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	page := licensepage.Handler(gate, licensepage.Options{
		Product: "Inkwell",
		Colors:  licensepage.Colors{Accent: "#1d4f91", AccentDark: "#8ab8f5"},
	})
	err = page.Serve(context.Background(), nil, func(link string) {
		if licensepage.OpenURL(link) != nil {
			fmt.Println("Open", link)
		}
	})
	if err != nil {
		log.Print(err)
	}
}

// The page in a webview, beside the program's own pages. Links open in the browser, and
// "inkwell://activate?key=…" asks before it activates.
func ExampleHandler() {
	gate, err := polargate.Open(polargate.Config{OrganizationID: "11111111-1111-4111-8111-111111111111", App: "inkwell"})
	if err != nil {
		log.Fatal(err)
	}
	defer gate.Close()
	page := licensepage.Handler(gate, licensepage.Options{
		Product: "Inkwell",
		Home:    "/",
		OpenURL: licensepage.OpenURL,
		Hosts:   []string{"wails"}, // the name by which this webview calls the program
	})
	defer page.Close()
	mux := http.NewServeMux() // give it to the webview
	mux.Handle("/license/", http.StripPrefix("/license", page))

	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "inkwell:") {
		if err := page.Ask(os.Args[1]); err != nil {
			log.Print(err)
		}
	}
}

// The license in a few words, for a status bar.
func ExampleHeadline() {
	polar := polartest.New(polartest.Config{})
	gate, _ := polargate.Open(polargate.Config{
		OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: &polargate.MemoryStore{},
	})
	defer gate.Close()
	fmt.Println(licensepage.Headline(gate.Status(), gate.Language()))
	// Output: No license yet
}

// A text of the page in other words.
func ExamplePhrases() {
	fmt.Println(licensepage.Phrases()["page.do.buy"])
	shop := &polargate.Language{Phrases: map[polargate.Phrase]string{"page.do.buy": "Visit our shop"}}
	_ = licensepage.Options{Language: shop}
	// Output: Buy a license
}
