package issuer

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/polartest"
)

// FuzzHandler sends anything to a license server, as it is and as the fields of a request and
// of a receipt.
func FuzzHandler(f *testing.F) {
	s := open(f, func(c *Config) {
		c.PerAddress, c.Pools = 1<<30, map[string]Pool{benefit: {Max: 3, Borrow: time.Hour}}
		c.Trial = Trial{Days: 14}
	})
	key := s.key(3).Key
	hash := lease.ReceiptHash(lease.NewSecret("secret-of-here"))
	f.Add([]byte("<html>"), "Q1", key, "here", hash, int64(0))
	f.Add([]byte("-----BEGIN POLARGATE REQUEST-----\n\n-----END POLARGATE REQUEST-----"), "Q2", "", "here", hash, int64(time.Hour))
	f.Add([]byte{}, "Q3", "POLAR-UNKNOWN", "\x00\u202e", hash, int64(-1))
	f.Add([]byte("\xff"), strings.Repeat("x", 200), key, strings.Repeat("y", 500), "short", int64(1)<<62)
	f.Fuzz(func(t *testing.T, body []byte, id, key, computer, hash string, borrow int64) {
		now := s.polar.Now()
		bodies := []string{string(body)}
		for _, q := range []lease.Request{
			{ID: id, Made: now, OrganizationID: s.config.OrganizationID, Key: lease.NewSecret(key), Fingerprint: computer, ReceiptHash: hash, App: string(body), Label: computer, Borrow: time.Duration(borrow)},
			{ID: id, Made: now, OrganizationID: s.config.OrganizationID, LeaseID: key, Newest: now.Add(time.Duration(borrow)), Fingerprint: computer, ReceiptHash: hash},
			{ID: id, Made: now, OrganizationID: s.config.OrganizationID, Fingerprint: computer, ReceiptHash: hash},
		} {
			if text, err := q.Encode(); err == nil {
				bodies = append(bodies, text, lease.Armor(text))
			}
		}
		receipt := lease.Receipt{ID: id, Made: now, OrganizationID: s.config.OrganizationID, LeaseID: id, Fingerprint: computer, LicenseKeyID: key, Secret: lease.NewSecret(hash)}
		if text, err := receipt.Encode(); err == nil {
			bodies = append(bodies, text)
		}
		for _, body := range bodies {
			w := httptest.NewRecorder()
			s.issuer.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body)))
			switch w.Code {
			case 204:
			case 200:
				_, err := s.keys.Verify(w.Body.String())
				require.NoError(t, err)
			case 400, 402, 403, 409, 413, 503:
				var report struct{ Reason, Detail string }
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), &report))
				require.NotEmpty(t, report.Reason)
				if len(key) > 8 {
					require.NotContains(t, w.Body.String(), key)
				}
			default:
				require.Fail(t, "no such status", "%d", w.Code)
			}
		}
	})
}

// kept is a State in which the same lies under every name.
type kept struct {
	polargate.MemoryStore
	data []byte
}

func (k *kept) Load(context.Context, string) ([]byte, error) {
	if k.data == nil {
		return nil, polargate.ErrNotStored
	}
	return k.data, nil
}

func (k *kept) Save(_ context.Context, _ string, data []byte) error {
	k.data = data
	return nil
}

// FuzzState starts from whatever lies in the State of a license server.
func FuzzState(f *testing.F) {
	k := &kept{}
	s := open(f, func(c *Config) {
		c.Store, c.Trial = k, Trial{Days: 14}
		c.Pools = map[string]Pool{benefit: {Max: 2}}
	})
	key := s.polar.AddKey(polartest.LicenseKey{BenefitID: benefit, LimitActivations: polartest.Limit(3)})
	f.Add([]byte(`{"license_key_id":"` + key.ID + `","benefit_id":"` + benefit + `","granted":"2026-11-22T12:00:00Z","held":[{"fingerprint":"a","pool":"` + benefit + `","ends":"9999-12-31T23:59:59Z"},{"fingerprint":"here"}],"ended":[{"fingerprint":"here","issued":"0001-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"seen":"9999-12-31T23:59:59-23:59","expires_at":"0000-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"fingerprint":"here","began":"2026-11-22T12:00:00Z","request_id":"Q1","issued":"0001-01-01T00:00:00Z"}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		now := s.polar.Now()
		for _, q := range []lease.Request{
			{ID: "Q1", Made: now, OrganizationID: s.config.OrganizationID, Key: lease.NewSecret(key.Key), Fingerprint: "here", ReceiptHash: lease.ReceiptHash(lease.NewSecret("s"))},
			{ID: "Q1", Made: now, OrganizationID: s.config.OrganizationID, Fingerprint: "here", ReceiptHash: lease.ReceiptHash(lease.NewSecret("s"))},
		} {
			k.data = data
			text, err := s.issuer.Issue(t.Context(), q)
			if err != nil {
				var refused *Error
				require.ErrorAs(t, err, &refused)
				require.NotEmpty(t, Message(err))
				continue
			}
			held, err := s.keys.Verify(text)
			require.NoError(t, err)
			require.Equal(t, "here", held.Fingerprint)
			if !held.Trial {
				var a account
				require.NoError(t, json.Unmarshal(k.data, &a), "what is stored can be read again")
				computers := map[string]bool{}
				for _, h := range a.Held {
					if h.Pool != "" {
						computers[h.Fingerprint] = true
					}
				}
				require.True(t, computers["here"])
			}
		}
		_, _ = unpack(data)
		packed, err := pack(data)
		require.NoError(t, err)
		back, err := unpack(packed)
		require.NoError(t, err)
		require.Equal(t, string(data), string(back))
	})
}
