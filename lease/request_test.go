package lease

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const aKey = "POLAR-1C285B2D-6CE6-4BC7-B8BE-ADB6A7E304DA"

func usualRequest() Request {
	return Request{
		ID: "QWERTYUIOPASDFGHJKLZXCVBNM", Made: issued, OrganizationID: vectorOrg, Key: NewSecret(aKey),
		Fingerprint: vectorMachine, ReceiptHash: ReceiptHash(NewSecret(vectorSecret)), App: "inkwell", Version: "3.2.1", Label: "Zoë's laptop",
	}
}

func usualReceipt() Receipt {
	return Receipt{
		ID: "QWERTYUIOPASDFGHJKLZXCVBNM", Made: issued, OrganizationID: vectorOrg, LeaseID: "L1", Fingerprint: vectorMachine,
		LicenseKeyID: "c0000000-0000-4000-8000-000000000001", ActivationID: "d0000000-0000-4000-8000-000000000001",
		Secret: NewSecret(vectorSecret),
	}
}

func TestARequestIsReadBackAsItWasAndHasAFewHundredBytes(t *testing.T) {
	t.Parallel()
	q := usualRequest()
	q.Made = q.Made.Add(time.Millisecond)
	text, err := q.Encode()
	require.NoError(t, err)
	t.Logf("%d bytes; armored %d", len(text), len(Armor(text)))
	assert.Less(t, len(text), 500)
	back, err := ParseRequest(text)
	require.NoError(t, err)
	q.Made = issued
	assert.Equal(t, q, back)

	renewal := Request{
		ID: "R2", Made: issued, OrganizationID: vectorOrg, LeaseID: "L1", Newest: issued, Fingerprint: vectorMachine,
		ReceiptHash: q.ReceiptHash, Borrow: 3 * 24 * time.Hour,
	}
	text, err = renewal.Encode()
	require.NoError(t, err)
	back, err = ParseRequest(text)
	require.NoError(t, err)
	assert.Equal(t, renewal, back)
	assert.True(t, back.Key.IsZero())
}

func TestAReceiptIsReadBackAsItWas(t *testing.T) {
	t.Parallel()
	text, err := usualReceipt().Encode()
	require.NoError(t, err)
	back, err := ParseReceipt(text)
	require.NoError(t, err)
	assert.Equal(t, usualReceipt(), back)
}

// The license key, the lease and the request are what a customer has in their hands.
// None of them gives the receipt away.
func TestOnlyWhoMadeTheRequestCanProveThatTheComputerWasDeactivated(t *testing.T) {
	t.Parallel()
	request := usualRequest()
	assert.True(t, usualReceipt().Proves(request.ReceiptHash))
	for name, secret := range map[string]string{
		"no secret":               "",
		"another secret":          "QWERTYUIOPASDFGHJKLZXCVBNX",
		"the license key":         aKey,
		"the hash in the request": request.ReceiptHash,
		"the id of the request":   request.ID + "x",
	} {
		d := usualReceipt()
		d.Secret = NewSecret(secret)
		assert.False(t, d.Proves(request.ReceiptHash), name)
	}
	assert.False(t, usualReceipt().Proves(""))
	assert.False(t, Receipt{}.Proves(""))
	text, err := request.Encode()
	require.NoError(t, err)
	payload, _, err := KindRequest.split(text)
	require.NoError(t, err)
	assert.NotContains(t, string(payload)[len(`{"id":"QWERTYUIOPASDFGHJKLZXCVBNM"`):], vectorSecret)
}

func TestEveryChangedByteOfARequestAndAReceiptIsNoticed(t *testing.T) {
	t.Parallel()
	request, err := usualRequest().Encode()
	require.NoError(t, err)
	receipt, err := usualReceipt().Encode()
	require.NoError(t, err)
	for i := range request {
		_, err := ParseRequest(request[:i] + string(rune(request[i]^1)) + request[i+1:])
		require.Error(t, err, "byte %d", i)
		_, err = ParseRequest(request[:i])
		require.Error(t, err, "byte %d", i)
	}
	for i := range receipt {
		_, err := ParseReceipt(receipt[:i] + string(rune(receipt[i]^1)) + receipt[i+1:])
		require.Error(t, err, "byte %d", i)
		_, err = ParseReceipt(receipt[:i])
		require.Error(t, err, "byte %d", i)
	}
}

func TestRequestsAndReceiptsThatNobodyCouldReadAreNotWritten(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Request){
		"no id":              func(q *Request) { q.ID = "" },
		"no organization":    func(q *Request) { q.OrganizationID = "" },
		"no fingerprint":     func(q *Request) { q.Fingerprint = "" },
		"no hash":            func(q *Request) { q.ReceiptHash = "" },
		"no time":            func(q *Request) { q.Made = time.Time{} },
		"a lease with a dot": func(q *Request) { q.LeaseID = "a.b" },
		"a huge key":         func(q *Request) { q.Key = NewSecret(strings.Repeat("k", 513)) },
		"a key of two lines": func(q *Request) { q.Key = NewSecret("a\nb") },
		"a newest in 1969":   func(q *Request) { q.Newest = time.Unix(-1, 0) },
		"a negative time":    func(q *Request) { q.Borrow = -time.Second },
		"11 years":           func(q *Request) { q.Borrow = 11 * 366 * 24 * time.Hour },
		"a huge label":       func(q *Request) { q.Label = strings.Repeat("k", 101) },
		"a version with NUL": func(q *Request) { q.Version = "\x00" },
		"broken UTF-8":       func(q *Request) { q.App = "\xff" },
	} {
		q := usualRequest()
		change(&q)
		_, err := q.Encode()
		assert.ErrorIs(t, err, ErrMalformed, name)
		assert.NotContains(t, fmt.Sprint(err), aKey, name)
	}
	for name, change := range map[string]func(*Receipt){
		"no id":            func(d *Receipt) { d.ID = "" },
		"no organization":  func(d *Receipt) { d.OrganizationID = "" },
		"no lease":         func(d *Receipt) { d.LeaseID = "" },
		"no fingerprint":   func(d *Receipt) { d.Fingerprint = "" },
		"no time":          func(d *Receipt) { d.Made = time.Time{} },
		"no secret":        func(d *Receipt) { d.Secret = Secret{} },
		"a bad key id":     func(d *Receipt) { d.LicenseKeyID = "a b" },
		"a bad activation": func(d *Receipt) { d.ActivationID = "a b" },
	} {
		d := usualReceipt()
		change(&d)
		_, err := d.Encode()
		assert.ErrorIs(t, err, ErrMalformed, name)
	}
}

func TestNothingThatIsPrintedOfARequestHasTheKeyInIt(t *testing.T) {
	t.Parallel()
	q := usualRequest()
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "q", q, "key", q.Key)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "q", q, "key", q.Key)
	text, err := json.Marshal(q)
	require.NoError(t, err)
	shown := log.String() + string(text)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb+" "+verb+" "+verb+" "+verb, q, &q, q.Key, struct{ hidden Secret }{q.Key})
	}
	assert.NotContains(t, shown, aKey)
	assert.NotContains(t, shown, fmt.Sprintf("%x", aKey))
	assert.Contains(t, shown, "****")
	assert.Empty(t, Secret{}.String())
	assert.Empty(t, Secret{}.Reveal())
	assert.True(t, NewSecret("").IsZero())
}

func FuzzRequestPayload(f *testing.F) {
	for kind, name := range []string{"v1.json", "r1.json", "d1.json"} {
		var file vectorFile
		readVectors(f, name, &file)
		for _, v := range file.Vectors {
			if payload, _, err := Kind(kind).split(v.Text); err == nil {
				f.Add(payload)
			}
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		text := summed("r1", requestDomain, string(payload))
		if q, err := ParseRequest(text); err == nil {
			again, err := q.Encode()
			require.NoError(t, err)
			assert.Equal(t, text, again, "there is one way to write it")
		}
		text = summed("d1", receiptDomain, string(payload))
		if d, err := ParseReceipt(text); err == nil {
			again, err := d.Encode()
			require.NoError(t, err)
			assert.Equal(t, text, again, "there is one way to write it")
		}
	})
}
