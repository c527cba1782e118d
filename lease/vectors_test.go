package lease

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, into))
}

// resultOf is an error as the vectors have it.
func resultOf(err error) string {
	var e *Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return string(e.Reason)
	}
	return err.Error()
}

func (v vector) keys(t testing.TB, file vectorFile) Keys {
	var public []ed25519.PublicKey
	for _, name := range v.Pinned {
		public = append(public, MustParsePublicKey(file.Keys[name]))
	}
	keys, err := NewKeys(public...)
	require.NoError(t, err)
	return keys
}

func (c vectorCheck) want() Want {
	return Want{
		OrganizationID: c.Organization, Fingerprint: c.Fingerprint, Version: c.Version,
		Released: fromUnix(c.Released), HighWater: fromUnix(c.HighWater), Newest: fromUnix(c.Newest),
	}
}

func fromUnix(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

func TestEveryLeaseOfTheVectorsIsTakenOrRefusedAsTheySay(t *testing.T) {
	t.Parallel()
	var file vectorFile
	readVectors(t, "v1.json", &file)
	require.Greater(t, len(file.Vectors), 150)
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			held, err := v.keys(t, file).Verify(v.Text)
			require.Equal(t, v.Result, resultOf(err), "%v", err)
			if err != nil {
				assert.Equal(t, Lease{}, held, "nothing is handed out of a text that is refused")
				return
			}
			assert.Equal(t, v.Text, held.Text)
			assertClaims(t, v.Claims, map[string]any{
				"kid": held.KeyID, "id": held.ID, "org": held.OrganizationID, "ben": held.BenefitID, "lic": held.LicenseKeyID,
				"act": held.ActivationID, "fp": held.Fingerprint, "feat": held.Features, "iat": seconds(held.Issued),
				"nbf": seconds(held.NotBefore), "exp": seconds(held.Expires), "grace": int64(held.Grace / time.Second), "cov": held.Covers,
				"rel": seconds(held.CoversReleased), "trial": held.Trial, "pool": held.Pool, "holder": held.Holder,
			})
			for _, c := range v.Checks {
				standing, err := held.Check(time.Unix(c.Now, 0), c.want())
				got := string(standing)
				if err != nil {
					assert.Empty(t, standing)
					got = resultOf(err)
				}
				assert.Equal(t, c.Result, got, "%s: %v", c.Name, err)
			}
		})
	}
}

func TestEveryRequestAndReceiptOfTheVectorsIsTakenOrRefusedAsTheySay(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(text string) (map[string]any, error){
		"r1.json": func(text string) (map[string]any, error) {
			q, err := ParseRequest(text)
			return map[string]any{
				"rh": q.ReceiptHash, "id": q.ID, "iat": seconds(q.Made), "org": q.OrganizationID, "key": q.Key.Reveal(),
				"lease": q.LeaseID, "last": seconds(q.Newest), "fp": q.Fingerprint, "app": q.App, "ver": q.Version, "label": q.Label,
				"borrow": int64(q.Borrow / time.Second),
			}, err
		},
		"d1.json": func(text string) (map[string]any, error) {
			d, err := ParseReceipt(text)
			return map[string]any{
				"secret": d.Secret.Reveal(), "id": d.ID, "iat": seconds(d.Made), "org": d.OrganizationID, "lease": d.LeaseID,
				"lic": d.LicenseKeyID, "act": d.ActivationID, "fp": d.Fingerprint,
			}, err
		},
	} {
		var file vectorFile
		readVectors(t, name, &file)
		require.Greater(t, len(file.Vectors), 30)
		for _, v := range file.Vectors {
			t.Run(name+" "+v.Name, func(t *testing.T) {
				t.Parallel()
				claims, err := read(v.Text)
				require.Equal(t, v.Result, resultOf(err), "%v", err)
				if err == nil {
					assertClaims(t, v.Claims, claims)
				}
			})
		}
	}
}

// assertClaims compares what was read with what the vectors have, leaving out what
// has no value.
func assertClaims(t *testing.T, want json.RawMessage, got map[string]any) {
	t.Helper()
	var wanted map[string]any
	require.NoError(t, json.Unmarshal(want, &wanted))
	text, err := json.Marshal(got)
	require.NoError(t, err)
	var have map[string]any
	require.NoError(t, json.Unmarshal(text, &have))
	for name, value := range have {
		if value == nil || value == "" || value == 0.0 || value == false {
			delete(have, name)
		}
	}
	assert.Equal(t, wanted, have)
}

func TestEveryTextOfTheArmorVectorsIsFoundAsTheySay(t *testing.T) {
	t.Parallel()
	var file armorFile
	readVectors(t, "armor.json", &file)
	require.Greater(t, len(file.Vectors), 20)
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			data, err := base64.StdEncoding.DecodeString(v.Data)
			require.NoError(t, err)
			kind := slices.IndexFunc(kinds[:], func(k kindFacts) bool { return k.begin == v.Kind })
			text, err := Unarmor(data, Kind(kind))
			assert.Equal(t, v.Result, resultOf(err), "%v", err)
			assert.Equal(t, v.Text, text)
		})
	}
}

func TestTheVectorsAreThoseThatWereWrittenFirst(t *testing.T) {
	t.Parallel()
	sums, err := os.ReadFile("testdata/SHA256SUMS")
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(sums)), "\n")
	require.Len(t, lines, len(files))
	for _, line := range lines {
		sum, name, ok := strings.Cut(line, "  ")
		require.True(t, ok)
		content, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(t, err)
		have := sha256.Sum256(bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n")))
		assert.Equal(t, sum, hex.EncodeToString(have[:]), "%s has changed: programs that are out there were made for it as it was", name)
	}
}

// The other implementations share nothing with this package but the description of
// the format, and do their cryptography with other libraries.
func TestImplementationsInOtherLanguagesAgreeOnEveryVector(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]struct {
		program, needs []string
	}{
		"Node.js": {[]string{"node", "testdata/verify.mjs"}, []string{"node", "-e", "crypto.createPublicKey; if (+process.versions.node.split('.')[0] < 18) process.exit(1)"}},
		"Python":  {[]string{"python3", "testdata/verify.py"}, []string{"python3", "-c", "import cryptography.hazmat.primitives.asymmetric.ed25519"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(command.program[0]); err != nil {
				t.Skipf("%s is not installed: %v", name, err)
			}
			if out, err := exec.Command(command.needs[0], command.needs[1:]...).CombinedOutput(); err != nil {
				t.Skipf("%s is too old, or misses a library: %v %s", name, err, out)
			}
			files := []string{"testdata/v1.json", "testdata/r1.json", "testdata/d1.json", "testdata/armor.json"}
			out, err := exec.Command(command.program[0], append(command.program[1:], files...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			count := 0
			for _, file := range files {
				var any struct{ Vectors []json.RawMessage }
				readVectors(t, filepath.Base(file), &any)
				count += len(any.Vectors)
			}
			assert.Contains(t, string(out), "agrees on "+itoa(count)+" vectors")
		})
	}
}

func itoa(n int) string {
	text, _ := json.Marshal(n)
	return string(text)
}
