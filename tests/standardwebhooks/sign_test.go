package standardwebhooks

import (
	"bytes"
	"encoding/json"
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
)

// message is what sign.mjs signs.
type message struct {
	Secret    string `json:"secret"`
	Format    string `json:"format,omitempty"`
	ID        string `json:"id"`
	Timestamp int64  `json:"timestamp"`
	Body      string `json:"body"`
}

// signatures signs messages in Node.
func signatures(t *testing.T, messages []message) []string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("skipped: %s is missing: install Node, for example with apt-get install nodejs npm", program)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "sign.mjs"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install := exec.Command("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("skipped: npm can't fetch standardwebhooks: give it a network, or a registry that it can reach: %v\n%s", err, out)
	}
	var lines bytes.Buffer
	for _, m := range messages {
		line, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(append(line, '\n'))
	}
	sign := exec.Command("node", "sign.mjs")
	sign.Dir, sign.Stdin = dir, &lines
	out, err := sign.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

func TestWhatStandardWebhooksLibraryForNodeSignsIsVerified(t *testing.T) {
	t.Parallel()
	const inBase64 = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	now := time.Now().Unix()
	messages := []message{
		{Secret: "whsec_" + inBase64, ID: "msg_1", Timestamp: now, Body: `{"type":"order.created","data":{"note":"ö\n"}}`},
		{Secret: inBase64, ID: "msg_2", Timestamp: now, Body: `{"type":"order.created"}`},
		{Secret: "own words, and öthers", Format: "raw", ID: "msg_3", Timestamp: now, Body: `{"type":"order.created"}`},
		{Secret: "whsec_" + inBase64, Format: "raw", ID: "msg_4", Timestamp: now, Body: `{}`},
	}
	signed := signatures(t, messages)
	if len(signed) != len(messages) {
		t.Fatalf("%d signatures of %d messages", len(signed), len(messages))
	}
	customers, err := polargate.NewCustomers(polargate.CustomersConfig{AccessToken: "polar_oat_of_a_test", BaseURL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer customers.Close()
	for i, m := range messages {
		deliver := func(secret, body string) int {
			r := httptest.NewRequest(http.MethodPost, "/webhooks/polar", strings.NewReader(body))
			r.Header.Set("Webhook-Id", m.ID)
			r.Header.Set("Webhook-Timestamp", strconv.FormatInt(m.Timestamp, 10))
			r.Header.Set("Webhook-Signature", signed[i])
			w := httptest.NewRecorder()
			customers.WebhookHandler(secret).ServeHTTP(w, r)
			return w.Code
		}
		if status := deliver(m.Secret, m.Body+" "); status != http.StatusUnauthorized {
			t.Errorf("%s: another body is answered %d", m.ID, status)
		}
		if status := deliver("another secret", m.Body); status != http.StatusUnauthorized {
			t.Errorf("%s: another secret is answered %d", m.ID, status)
		}
		if status := deliver(m.Secret, m.Body); status != http.StatusNoContent {
			t.Errorf("%s: what was signed is answered %d", m.ID, status)
		}
	}
}
