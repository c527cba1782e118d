package licensepage

import (
	"bytes"
	"encoding/base64"
	"errors"
	"html/template"
	"image/png"
	"io"
	"net/http"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/qr"
	"github.com/polargate/polargate/lease"
)

// What a computer without a network needs: a request to take to the vendor's page, the license
// file that comes back, and the receipt when it is deactivated. Each goes as a file, as text, or
// as a QR code that a phone opens the vendor's page with.

// outgoing is what to take to the vendor's page: a request, or a receipt.
type outgoing struct {
	Receipt bool
	Text    string
	Picture template.URL // of a QR code; "" if there is none
}

func (p *Page) offlineRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /offline", func(w http.ResponseWriter, _ *http.Request) { p.showOffline(w, false) })
	mux.HandleFunc("GET /receipt", func(w http.ResponseWriter, _ *http.Request) { p.showOffline(w, true) })
	mux.HandleFunc("GET /license.request", func(w http.ResponseWriter, _ *http.Request) { p.save(w, p.license.OfflineRequest) })
	mux.HandleFunc("GET /license.receipt", func(w http.ResponseWriter, _ *http.Request) { p.save(w, p.license.OfflineReceipt) })
	mux.HandleFunc("POST /file", func(w http.ResponseWriter, r *http.Request) {
		n := p.load(r)
		p.note(n)
		to := "./"
		if n.Tone == "bad" {
			to = "./offline"
		}
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusSeeOther)
	})
}

// showOffline shows the request, or the receipt.
func (p *Page) showOffline(w http.ResponseWriter, receipt bool) {
	v, make := p.view(time.Now()), p.license.OfflineRequest
	v.Outgoing, v.Tone, v.Headline = &outgoing{Receipt: receipt}, "plain", p.text("page.offline")
	if receipt {
		make, v.Headline = p.license.OfflineReceipt, p.text("page.receipt")
	}
	if v.Notice.Tone != "bad" {
		v.Notice = notice{}
	}
	if text, err := make(); err != nil {
		v.Notice = p.failed(err)
	} else {
		v.Outgoing.Text = lease.Armor(text)
		v.Outgoing.Picture = picture(p.options.OfflinePage, text)
	}
	p.send(w, v)
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
func (p *Page) save(w http.ResponseWriter, make func() (string, error)) {
	text, err := make()
	if err != nil {
		http.Error(w, p.options.Language.Message(err), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "attachment")
	_, _ = io.WriteString(w, lease.Armor(text))
}

// load reads the license file of the form, or its text.
func (p *Page) load(r *http.Request) notice {
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
		return notice{Tone: "bad", Text: p.text("page.offline.unreadable")}
	}
	if len(data) == 0 {
		data = []byte(r.PostFormValue("text"))
	}
	status, err := p.license.ActivateFile(data)
	switch {
	case err != nil:
		return p.failed(err)
	case !status.OK():
		return notice{Tone: "bad", Text: status.Message}
	}
	return p.good("page.done.activated")
}

var _ License = (*polargate.Gate)(nil)
