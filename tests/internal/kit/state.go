package kit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/seal"
)

// State is what the tests look for in a stored state. The names are stored, so they stay.
type State struct {
	Seat   *StoredSeat  `json:"seat"`
	Left   bool         `json:"left"`
	Owner  string       `json:"owner"`
	Intent *Intent      `json:"intent"`
	Outbox []StoredSeat `json:"outbox"`
}

// StoredSeat is an activation in a State.
type StoredSeat struct {
	Key          string `json:"key"`
	ActivationID string `json:"activation_id"`
	Moving       bool   `json:"moving"`
	Stranded     bool   `json:"stranded"`
}

// Intent is an activation in a State that was begun, and of which no end is known.
type Intent struct {
	Key       string `json:"key"`
	AttemptID string `json:"attempt_id"`
}

// OpenState opens a state that a Gate of that configuration stored.
func OpenState(config polargate.Config, data []byte) (s State, err error) {
	return s, open(config, "PGS1", data, &s)
}

// OpenIndex opens the list of machines that a Gate of that configuration stored.
func OpenIndex(config polargate.Config, data []byte) (tags []string, err error) {
	return tags, open(config, "PGI1", data, &tags)
}

func open(config polargate.Config, magic string, data []byte, v any) error {
	key, err := seal.Key([]byte(config.OrganizationID+"\x00"+config.App+"\x00"+config.Secret), "polargate state v1")
	if err != nil {
		return err
	}
	plain, err := seal.Open(key, magic, "", data)
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, v)
}

// StateNames are the names under which the Gates of an organization and an app store:
// Earlier is that of builds which kept one state for all machines, Index that of the list
// of machines.
type StateNames struct{ Earlier, Index string }

// NamesOf returns the names for an organization and an app.
func NamesOf(organizationID, app string) StateNames {
	base := "license-" + short(organizationID+"\x00"+app)
	return StateNames{base + ".sealed", base + ".index"}
}

// Of is the name of one machine's state.
func (n StateNames) Of(fingerprint string) string {
	return n.Earlier[:len(n.Earlier)-len(".sealed")] + "-" + short("polargate state of\x00"+fingerprint) + ".sealed"
}

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}
