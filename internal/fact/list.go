package fact

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"io"

	"github.com/polargate/polargate/internal/clock"
)

// Page is a page of one of Polar's lists, as far as it is of use, for the replica that goes on
// reading where another one stopped.
type Page struct {
	Version int `json:"v"`
	Number  int `json:"number"`
	Last    int `json:"last"`
	Size    int `json:"size"`
	// Asked is when it was asked for, and At when Polar answered, both by Polar's clock.
	Asked clock.Polar `json:"asked"`
	At    clock.Polar `json:"at"`
	Rows  []Row       `json:"rows"`
}

// Row is an entry of a list.
type Row struct {
	ID, Owner [16]byte
	Came      int64
	External  string    `json:",omitempty"`
	Deleted   bool      `json:",omitempty"`
	Benefits  []Benefit `json:",omitempty"`
	Products  []string  `json:",omitempty"`
	// Subscriptions are what is known of those that make the products.
	Subscriptions []Subscription `json:",omitempty"`
	Meters        []Meter        `json:",omitempty"`
}

// longestPage is how long a page may be that is read, in bytes.
const longestPage = 16 << 20

// Bytes writes a page, in few bytes: its rows have much in common.
func (p Page) Bytes() []byte {
	p.Version = version
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err == nil {
		err = json.NewEncoder(w).Encode(p)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // neither can fail with what a page has
	}
	return b.Bytes()
}

// ParsePage reads a page.
func ParsePage(data []byte) (p Page, err error) {
	plain := io.LimitReader(flate.NewReader(bytes.NewReader(data)), longestPage)
	if err := json.NewDecoder(plain).Decode(&p); err != nil || p.Version != version {
		return Page{}, ErrUnreadable
	}
	return p, nil
}
