package main

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"html/template"
	"image/png"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/examples/internal/qr"
	"github.com/polargate/polargate/lease"
)

// What a computer without a network needs: a request to take to the vendor's page, the license
// file that comes back, and the receipt when it is deactivated. Each goes as a file, as text, or
// as a QR code that a phone opens the vendor's page with.

// offlineLicense is what the page needs of a Gate that license files are for.
type offlineLicense interface {
	OfflineRequest() (string, error)
	ActivateFile(data []byte) (polargate.Status, error)
	OfflineReceipt() (string, error)
}

// leaseKeys reads POLARGATE_LEASE_KEYS: public keys as polargate-keygen shows them, separated by
// commas. A product has them built in.
func leaseKeys(text string) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		key, err := lease.ParsePublicKey(part)
		if err != nil {
			return nil, &usageError{"POLARGATE_LEASE_KEYS has what is no public key: give what polargate-keygen shows.", ""}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

var offlineTemplate = template.Must(template.ParseFS(pageFiles, "offline.html"))

// offlineView is the page without a network. Text is what to take to the vendor's page.
type offlineView struct {
	Receipt bool // it is a receipt; otherwise a request
	Text    string
	Picture template.URL // of a QR code; "" if there is none
	Page    string       // the vendor's; "" if it isn't known
	Notice  notice
}

// vendorPage is where customers take requests. A product puts its own address here.
func vendorPage() string { return cmp.Or(os.Getenv("POLARGATE_LICENSE_PAGE"), "") }

func (s *site) offlineRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /offline", func(w http.ResponseWriter, _ *http.Request) { s.showOffline(w, false) })
	mux.HandleFunc("GET /receipt", func(w http.ResponseWriter, _ *http.Request) { s.showOffline(w, true) })
	mux.HandleFunc("GET /inkwell.request", func(w http.ResponseWriter, _ *http.Request) { s.save(w, s.files.OfflineRequest) })
	mux.HandleFunc("GET /inkwell.receipt", func(w http.ResponseWriter, _ *http.Request) { s.save(w, s.files.OfflineReceipt) })
	mux.HandleFunc("POST /file", func(w http.ResponseWriter, r *http.Request) {
		n := s.load(r)
		s.mu.Lock()
		s.notice = n
		s.mu.Unlock()
		if n.Bad {
			http.Redirect(w, r, "/offline", http.StatusSeeOther)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
}

// showOffline shows the request, or the receipt.
func (s *site) showOffline(w http.ResponseWriter, receipt bool) {
	make := s.files.OfflineRequest
	if receipt {
		make = s.files.OfflineReceipt
	}
	v := offlineView{Receipt: receipt, Page: vendorPage()}
	text, err := make()
	if err != nil {
		v.Notice = failed(err)
	} else {
		v.Text = lease.Armor(text)
		v.Picture = picture(v.Page, text)
	}
	s.mu.Lock()
	if s.notice.Bad {
		v.Notice, s.notice = s.notice, notice{}
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := offlineTemplate.Execute(w, v); err != nil {
		slog.Warn("the page was not sent", "error", err)
	}
}

// picture is a QR code of the text, which opens the vendor's page with it. What is behind # in
// an address isn't sent to a server before the customer sends the form.
func picture(page, text string) template.URL {
	if page != "" {
		text = page + "#" + text
	}
	img, err := qr.Encode(text, 4)
	if err != nil {
		return "" // the text and the file remain
	}
	var data bytes.Buffer
	if png.Encode(&data, img) != nil {
		return ""
	}
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(data.Bytes()))
}

// save answers with a file.
func (s *site) save(w http.ResponseWriter, make func() (string, error)) {
	text, err := make()
	if err != nil {
		http.Error(w, polargate.Message(err), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "attachment")
	_, _ = io.WriteString(w, lease.Armor(text))
}

// load reads the license file of the form, or its text.
func (s *site) load(r *http.Request) notice {
	var data []byte
	file, _, err := r.FormFile("file")
	switch {
	case err == nil:
		defer file.Close()
		data, err = io.ReadAll(file)
	case errors.Is(err, http.ErrMissingFile):
		err = nil
	}
	if err != nil {
		return notice{Bad: true, Text: "The file couldn't be read. Choose it again, or paste its text."}
	}
	if len(data) == 0 {
		data = []byte(r.PostFormValue("text"))
	}
	status, err := s.files.ActivateFile(data)
	switch {
	case err != nil:
		return failed(err)
	case !status.OK():
		return notice{Bad: true, Text: status.Message}
	}
	return notice{Text: "This computer is activated."}
}
