package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"html"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/chromium"
	"github.com/polargate/polargate/lease"
)

func TestMain(m *testing.M) { os.Exit(chromium.Run(m)) }

// output is what the server prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) find(t *testing.T, pattern string) string {
	t.Helper()
	var found []string
	require.Eventually(t, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		found = regexp.MustCompile(pattern).FindStringSubmatch(o.b.String())
		return found != nil
	}, time.Minute, 5*time.Millisecond, pattern)
	return found[1]
}

// demoServer is the example as somebody starts it who has nothing.
type demoServer struct {
	url, organization, key, floating, public string
	keys                                     lease.Keys
	printed                                  *output
}

func startDemo(t *testing.T, settings ...string) *demoServer {
	t.Helper()
	env := map[string]string{"ADDR": "127.0.0.1:0"}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		env[name] = value
	}
	ctx, stop := context.WithCancel(t.Context())
	printed, ended := &output{}, make(chan error, 1)
	go func() {
		ended <- run(ctx, func(name string) string { return env[name] }, printed, printed)
	}()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	public := printed.find(t, `POLARGATE_LEASE_KEYS=(\S+)`)
	keys, err := lease.NewKeys(lease.MustParsePublicKey(public))
	require.NoError(t, err)
	return &demoServer{
		url: printed.find(t, `Listening on (\S+)`), organization: printed.find(t, `POLAR_ORGANIZATION_ID=(\S+)`),
		key: printed.find(t, `(\S+)  for two computers`), floating: printed.find(t, `(\S+)  floating`), public: public, keys: keys, printed: printed,
	}
}

// send sends the form as a browser does, with text or with a file.
func (d *demoServer) send(t *testing.T, text, file, key string) (status int, body string) {
	t.Helper()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("file", "inkwell.request")
	require.NoError(t, err)
	_, err = io.WriteString(part, file)
	require.NoError(t, err)
	for name, value := range map[string]string{"request": text, "key": key} {
		require.NoError(t, w.WriteField(name, value))
	}
	require.NoError(t, w.Close())
	resp, err := http.Post(d.url+"/offline", w.FormDataContentType(), &form)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	return resp.StatusCode, html.UnescapeString(string(answer))
}

func (d *demoServer) request(t *testing.T, computer string, secret lease.Secret) string {
	t.Helper()
	text, err := lease.Request{
		ID: rand.Text(), Made: time.Now(), OrganizationID: d.organization, Fingerprint: computer, ReceiptHash: lease.ReceiptHash(secret), Label: computer,
	}.Encode()
	require.NoError(t, err)
	return text
}

var savedFile = regexp.MustCompile(`download="inkwell.lease" href="data:application/octet-stream;base64,([^"]+)"`)

// leaseOn is the lease that a page offers as a file.
func (d *demoServer) leaseOn(t *testing.T, page string) lease.Lease {
	t.Helper()
	found := savedFile.FindStringSubmatch(page)
	require.NotNil(t, found, page)
	file, err := base64.StdEncoding.DecodeString(found[1])
	require.NoError(t, err)
	assert.Contains(t, page, string(file), "the same as text")
	text, err := lease.Unarmor(file, lease.KindLease)
	require.NoError(t, err)
	held, err := d.keys.Verify(text)
	require.NoError(t, err)
	return held
}

func TestAComputerWithoutANetworkIsActivatedAndDeactivatedOnThePage(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	secret := lease.NewSecret(rand.Text())
	request := d.request(t, "laptop", secret)
	status, page := d.send(t, "", lease.Armor(request), d.key)
	require.Equal(t, http.StatusOK, status, page)
	held := d.leaseOn(t, page)
	assert.Equal(t, "laptop", held.Fingerprint)
	assert.Equal(t, []string{"export", "sync"}, held.Features)
	assert.NotContains(t, page, d.key)

	status, page = d.send(t, "Hello,\n> "+strings.ReplaceAll(lease.Armor(request), "\n", "\n> "), "", d.key)
	require.Equal(t, http.StatusOK, status, page)
	assert.Equal(t, held.ID, d.leaseOn(t, page).ID, "the same request has the same answer")

	_, err := d.askTwoMore(t)
	require.ErrorContains(t, err, "maximum number of computers")
	receipt, err := lease.Receipt{
		ID: rand.Text(), Made: time.Now(), OrganizationID: d.organization, LeaseID: held.ID, Fingerprint: "laptop",
		LicenseKeyID: held.LicenseKeyID, ActivationID: held.ActivationID, Secret: secret,
	}.Encode()
	require.NoError(t, err)
	status, page = d.send(t, lease.Armor(receipt), "", "")
	require.Equal(t, http.StatusOK, status, page)
	assert.Contains(t, page, "The computer was deactivated")
	status, page = d.send(t, "", lease.Armor(d.request(t, "third", secret)), d.key)
	require.Equal(t, http.StatusOK, status, page)
	status, page = d.send(t, request, "", d.key)
	assert.Equal(t, http.StatusConflict, status)
	assert.Contains(t, page, "This computer was deactivated. Make a new request on it.")

	d.printed.mu.Lock()
	defer d.printed.mu.Unlock()
	assert.Equal(t, 1, strings.Count(d.printed.b.String(), d.key), "only the introduction shows the key")
}

// askTwoMore uses up the key.
func (d *demoServer) askTwoMore(t *testing.T) (string, error) {
	for _, computer := range []string{"desktop", "third"} {
		status, page := d.send(t, d.request(t, computer, lease.NewSecret("s")), "", d.key)
		if status != http.StatusOK {
			return computer, &problem{page}
		}
	}
	return "", nil
}

type problem struct{ page string }

func (p *problem) Error() string { return p.page }

func TestThePageSaysWhatIsWrongAndKeepsWhatWasEntered(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	for name, c := range map[string]struct{ text, file, key, says string }{
		"nothing":        {"", "", "", "This isn't a whole request."},
		"half a request": {d.request(t, "laptop", lease.NewSecret("s"))[:100], "", d.key, "This isn't a whole request."},
		"no license key": {d.request(t, "laptop", lease.NewSecret("s")), "", "", "Enter your license key, too."},
		"a key that nobody has": {
			d.request(t, "laptop", lease.NewSecret("s")), "", "POLAR-0000", "doesn't recognize this license key",
		},
	} {
		status, page := d.send(t, c.text, c.file, c.key)
		assert.GreaterOrEqual(t, status, 400, name)
		assert.Contains(t, page, c.says, name)
		assert.Contains(t, page, `role="alert"`, name)
		if c.text != "" {
			assert.Contains(t, page, c.text, name)
		}
	}
	resp, err := http.Get(d.url + "/")
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'")

	// A page of another site cannot send the form.
	foreign, err := http.NewRequest(http.MethodPost, d.url+"/offline", http.NoBody)
	require.NoError(t, err)
	foreign.Header.Set("Origin", "https://example.com")
	resp, err = http.DefaultClient.Do(foreign)
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, http.StatusForbidden, resp.StatusCode)
}

func TestEachComputerTriesTheProgramOnceIfTheServerSaysSo(t *testing.T) {
	t.Parallel()
	demo := startDemo(t, "POLARGATE_TRIAL=14=export, sync")
	open := func(server *demoServer, computer string) polargate.Status {
		gate, err := polargate.Open(polargate.Config{
			OrganizationID: server.organization, App: "inkwell", Store: &polargate.MemoryStore{}, Fingerprint: computer,
			LeaseURL: server.url + "/lease", LeaseKeys: []ed25519.PublicKey{lease.MustParsePublicKey(server.public)},
			Trial: polargate.Trial{Days: 1},
		})
		require.NoError(t, err)
		defer gate.Close()
		status, _ := gate.Check(t.Context())
		return status
	}
	first := open(demo, "one")
	assert.Equal(t, polargate.InTrial, first.State)
	assert.Equal(t, []string{"export", "sync"}, first.Features)
	assert.WithinDuration(t, time.Now().Add(14*24*time.Hour), first.TrialUntil, time.Hour)
	again := open(demo, "one")
	assert.Equal(t, polargate.InTrial, again.State, "the store of the computer is empty again")
	assert.WithinDuration(t, first.TrialUntil, again.TrialUntil, time.Minute, "and it is the same trial")
	assert.Equal(t, polargate.Unlicensed, open(startDemo(t), "one").State, "without the setting there is none")
}

func TestASettingThatCannotWorkIsExplained(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "no.key")
	require.NoError(t, os.WriteFile(file, []byte("no key"), 0o600))
	for says, env := range map[string]map[string]string{
		"LEASE_KEY_FILE is not set":                 {"POLAR_ACCESS_TOKEN": "t"},
		"LEASE_KEY and LEASE_KEY_FILE are both set": {"LEASE_KEY": "a", "LEASE_KEY_FILE": "b"},
		"not an Ed25519 private key":                {"LEASE_KEY_FILE": file},
		"POLARGATE_POOLS must look like":            {"POLARGATE_POOLS": "b0000000-0000-4000-8000-000000000001=many"},
		"POLARGATE_TRIAL must look like":            {"POLARGATE_TRIAL": "a while"},
		"must last between 1 and 3653 days":         {"POLARGATE_TRIAL": "-1"},
		"POLARGATE_FEATURES must look like":         {"POLARGATE_FEATURES": "x"},
		"needs a Max of at least 1":                 {"POLARGATE_POOLS": "b0000000-0000-4000-8000-000000000001=0", "POLAR_ACCESS_TOKEN": "t", "POLAR_ORGANIZATION_ID": "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9", "LEASE_KEY": aKey},
		"cannot listen":                             {"ADDR": "no address"},
	} {
		err := run(t.Context(), func(name string) string { return env[name] }, io.Discard, io.Discard)
		assert.ErrorContains(t, err, says)
	}
}

// aKey is a private key of nobody.
const aKey = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----`
