package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/chromium"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/licensepage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type noNetwork struct{ t *testing.T }

func (n noNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	n.t.Errorf("a request left a computer without a network: %s", r.URL)
	return nil, io.ErrUnexpectedEOF
}

// offlinePage is the license page of a computer without a network, in a browser.
func offlinePage(t *testing.T, server *demoServer) *chromium.Browser {
	t.Helper()
	gate, err := polargate.Open(polargate.Config{
		OrganizationID: server.organization, LeaseKeys: []ed25519.PublicKey{lease.MustParsePublicKey(server.public)},
		HTTPClient: &http.Client{Transport: noNetwork{t}},
		Store:      polargate.FileStore(t.TempDir()), Fingerprint: "a computer without a network",
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = gate.Close() })
	site := httptest.NewServer(licensepage.Handler(gate, licensepage.Options{Product: "Inkwell", Offline: true}))
	t.Cleanup(site.Close)
	return chromium.Open(t, site.URL)
}

// saves clicks on a link, and gives the file that the browser saves.
func saves(t *testing.T, b *chromium.Browser, folder, selector, name string) string {
	t.Helper()
	b.Do("Page.setDownloadBehavior", map[string]any{"behavior": "allow", "downloadPath": folder})
	b.Click(selector)
	path := filepath.Join(folder, name)
	require.Eventually(t, func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Size() > 0
	}, time.Minute, 20*time.Millisecond, "the browser saves %s", name)
	return path
}

// chooses chooses a file in the form of a page.
func chooses(b *chromium.Browser, path string) {
	b.Sees(true, "document.readyState === 'complete' && document.getElementById('file') !== null")
	root, _ := b.Do("DOM.getDocument", nil)["root"].(map[string]any)
	input := b.Do("DOM.querySelector", map[string]any{"nodeId": root["nodeId"], "selector": "#file"})["nodeId"]
	b.Do("DOM.setFileInputFiles", map[string]any{"nodeId": input, "files": []string{path}})
}

func TestAPersonActivatesAComputerWithoutANetworkWithFilesAndDeactivatesIt(t *testing.T) {
	t.Parallel()
	server := startDemo(t)
	b := offlinePage(t, server)
	vendor := chromium.Open(t, server.url)
	folder := t.TempDir()

	b.Text("headline", "No license yet")
	b.Click("#offline")
	b.Text("headline", "Activate without a network")
	b.Picture("request")
	request := saves(t, b, folder, "#save", "license.request")
	readQR(t, b, request)

	vendor.Text("headline", "Activate a computer without a network")
	vendor.Picture("vendor")
	chooses(vendor, request)
	enter(vendor, server.key)
	vendor.Click("#send")
	vendor.Text("headline", "Your license file is ready")
	vendor.Picture("vendor-ready")
	file := saves(t, vendor, folder, "#save", "inkwell.lease")

	chooses(b, request) // the wrong one of the two
	b.Click("#load")
	b.Sees(true, "document.getElementById('notice')?.innerText.includes("+quoted("bad_lease.do")+")")
	b.Text("headline", "Activate without a network")
	chooses(b, file)
	b.Click("#load")
	b.Text("headline", "Licensed")
	b.Text("notice", "This computer is activated.")
	b.Sees(true, "document.getElementById('facts').innerText.includes('from a file')")
	b.Picture("licensed")

	b.Click("#deactivate")
	b.Text("headline", "No license yet")
	b.Click("#receipt")
	b.Text("headline", "Confirm the deactivation")
	b.Picture("receipt")
	receipt := saves(t, b, folder, "#save", "license.receipt")
	readQR(t, b, receipt)
	vendor.Click("a[href='/']")
	chooses(vendor, receipt)
	vendor.Click("#send")
	vendor.Text("headline", "The computer was deactivated")
	vendor.Picture("vendor-deactivated")
	assert.Empty(t, b.Errors)
	assert.Empty(t, vendor.Errors)
}

// readQR reads the QR code of a page, if a reader is installed, and holds it to a file.
func readQR(t *testing.T, b *chromium.Browser, file string) {
	t.Helper()
	picture, ok := b.Value("document.getElementById('qr')?.src").(string)
	require.True(t, ok, "there is a QR code")
	data, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(picture, "data:image/png;base64,"))
	require.NoError(t, err)
	zbar, err := exec.LookPath("zbarimg")
	if err != nil {
		t.Log("the QR code isn't read: install zbar-tools")
		return
	}
	path := filepath.Join(t.TempDir(), "qr.png")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	said, err := exec.Command(zbar, "--raw", "-q", path).Output()
	require.NoError(t, err)
	armored, err := os.ReadFile(file)
	require.NoError(t, err)
	kind := lease.KindRequest
	if strings.HasSuffix(file, "receipt") {
		kind = lease.KindReceipt
	}
	text, err := lease.Unarmor(armored, kind)
	require.NoError(t, err)
	if kind == lease.KindRequest { // a receipt is made anew each time
		assert.Equal(t, text, strings.TrimSpace(string(said)))
	}
	_, err = lease.Unarmor(said, kind)
	assert.NoError(t, err)
}

func TestTheTextOfALicenseFileCanBePasted(t *testing.T) {
	t.Parallel()
	server := startDemo(t)
	b := offlinePage(t, server)
	b.Click("#offline")
	b.Sees(true, "document.getElementById('outgoing')?.value.includes('POLARGATE ACTIVATION REQUEST')")
	request, _ := b.Value("document.getElementById('outgoing').value").(string)
	b.Sees("Copy", "document.getElementById('copy').innerText")

	// As a phone opens the page that it scanned.
	bare, err := lease.Unarmor([]byte(request), lease.KindRequest)
	require.NoError(t, err)
	vendor := chromium.Open(t, server.url+"/#"+bare)
	vendor.Sees(bare, "document.getElementById('request')?.value")
	vendor.Sees("", "location.hash")
	enter(vendor, server.key)
	vendor.Click("#send")
	vendor.Text("headline", "Your license file is ready")
	lines, _ := vendor.Value("document.getElementById('lease').value").(string)

	b.Sees(true, "(e => { e.focus(); return document.activeElement === e })(document.getElementById('text'))")
	b.Do("Input.insertText", map[string]any{"text": "Here it is:\n\n> " + strings.ReplaceAll(lines, "\n", "\n> ")})
	b.Click("#load")
	b.Text("headline", "Licensed")
}

// quoted is a phrase for a script.
func quoted(name polargate.Phrase) string { return strconv.Quote(polargate.Phrases()[name]) }

// enter types a license key, as a person does.
func enter(b *chromium.Browser, text string) {
	b.Sees(true, "(e => { e?.focus(); return document.activeElement === e && e !== null })(document.getElementById('key'))")
	b.Do("Input.insertText", map[string]any{"text": text})
}
