package polargate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/redact"
	"github.com/polargate/polargate/internal/rights"
	"github.com/polargate/polargate/internal/wire"
)

// wireRequest is the body of the three license key endpoints. It has a key in the clear, so it
// is marshalled and dropped, never kept or printed.
type wireRequest struct {
	Key            string         `json:"key"`
	OrganizationID string         `json:"organization_id"`
	ActivationID   string         `json:"activation_id,omitempty"`
	BenefitID      string         `json:"benefit_id,omitempty"`
	CustomerID     string         `json:"customer_id,omitempty"`
	IncrementUsage int64          `json:"increment_usage,omitempty"`
	Label          *string        `json:"label,omitempty"` // required on activate, even empty
	Conditions     map[string]any `json:"conditions,omitempty"`
	Meta           map[string]any `json:"meta,omitempty"`
}

// canonicalUUID4 is the usual form of an id of Polar's; see package wire.
func canonicalUUID4(s string) (string, bool) { return wire.CanonicalUUID4(s) }

// normalUUID is the usual form of an id, or the id itself if it isn't a UUID.
func normalUUID(s string) string { return wire.NormalUUID(s) }

// usualUUID is normalUUID, in the caller's memory if that has the usual form.
func usualUUID(s string) string { return wire.UsualUUID(s) }

// checkMap checks conditions and meta against Polar's limits, so that a developer finds a
// mistake before a customer gets a 422.
func checkMap(field string, m map[string]any) error {
	bad := func(format string, args ...any) error {
		return &InputError{field, fmt.Sprintf(format, args...)}
	}
	if len(m) > 50 {
		return bad("has %d entries; Polar takes at most 50", len(m))
	}
	for name, value := range m {
		if n := utf8.RuneCountInString(name); n < 1 || n > 40 || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
			return bad("has a name of %d characters or with a NUL; Polar takes 1 to 40 characters", n)
		}
		switch v := value.(type) {
		case string:
			if n := utf8.RuneCountInString(v); n < 1 || n > 500 || !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
				return bad("%q is a text of %d characters or with a NUL; Polar takes 1 to 500 characters", name, n)
			}
		case json.RawMessage:
			// A stored condition, which was checked when it was first sent.
			if !json.Valid(v) {
				return bad("%q is not JSON", name)
			}
		case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, json.Number:
			if _, err := json.Marshal(v); err != nil {
				return bad("%q is not a finite number", name)
			}
		default:
			return bad("%q is a %T; Polar takes text, numbers and true or false", name, value)
		}
	}
	return nil
}

// refusal is Polar's refusal of a request, in one of the shapes that Polar uses. OAuth's
// description and the router's bare detail have this shape, too; their empty fields tell them
// apart.
type refusal struct {
	Error  string
	Detail string
	// Faults are the parts of a 422: where and what, without the echoed input.
	Faults []string
	// Places are those in a list that was sent of what all the faults are about.
	Places []int
}

func parseRefusal(body []byte) (refusal, bool) {
	f, err := wire.Object(bytes.TrimSpace(body))
	if err != nil {
		return refusal{}, false
	}
	var r refusal
	f.Text("error", &r.Error)
	f.Text("detail", &r.Detail)
	if r.Detail == "" {
		f.Text("error_description", &r.Detail)
	}
	var faults []struct {
		Loc []any  `json:"loc"`
		Msg string `json:"msg"`
	}
	wire.Optional(f, "detail", &faults)
	for _, fault := range faults {
		if len(fault.Loc) < 3 { // "body", the name of the list, the place
			continue
		}
		if place, ok := fault.Loc[2].(float64); ok && place >= 0 && place < 1e6 && !slices.Contains(r.Places, int(place)) {
			r.Places = append(r.Places, int(place))
		}
	}
	for _, fault := range faults[:min(len(faults), 5)] {
		var where []string
		for _, step := range fault.Loc {
			where = append(where, fmt.Sprint(step))
		}
		r.Faults = append(r.Faults, strings.Join(where, ".")+": "+fault.Msg)
	}
	return r, true
}

var (
	errWebPage      = errors.New("a web page came instead of Polar's answer: a Wi-Fi login, a proxy or a firewall")
	errRedirect     = errors.New("a redirect came instead of Polar's answer: a Wi-Fi login or a proxy")
	errServerFailed = errors.New("the server failed")
)

// notPolar describes an answer such that one can find out who sent it.
func notPolar(resp *http.Response, err error) error {
	if t := resp.Header.Get("Content-Type"); strings.HasPrefix(t, "text/html") {
		return errWebPage
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return errRedirect
	}
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return errors.New("the answer is not JSON")
	}
	return err
}

// reason reads a refusal with the tables of Polar's behavior: the status, the word in
// `error`, and, for the reason, the text in `detail`. own are the words of this request alone.
// ofActivation says that what isn't found is the activation, and not the key. "" is no verdict.
func (said refusal) reason(status int, own map[string]Reason, ofActivation bool) Reason {
	switch {
	case status == http.StatusUnauthorized && said.Error != "",
		status == http.StatusForbidden && said.Error == lacksScopeCode,
		status == http.StatusUnprocessableEntity && (said.Error != "" || len(said.Faults) > 0):
		return ErrMisconfigured
	case status == http.StatusNotFound && said.Error == "ResourceNotFound",
		status == http.StatusForbidden && said.Error == "NotPermitted",
		status == http.StatusBadRequest && said.Error == "BadRequest":
	case own != nil && status < 500 && said.Error != "":
		return cmp.Or(own[said.Error], ErrDenied)
	default:
		return ""
	}
	detail := strings.ToLower(said.Detail)
	for _, known := range []struct {
		words  string
		reason Reason
	}{
		{"no longer active", ErrInactive},
		{"has expired", ErrExpired},
		{"required conditions", ErrConditionsMismatch},
		{"given benefit", ErrWrongBenefit},
		{"given user", ErrWrongCustomer},
		{"given customer", ErrWrongCustomer},
		{"activation limit", ErrActivationLimit},
		{"does not support activations", ErrActivationsUnsupported},
		{"more usages", ErrUsageExceeded},
	} {
		if strings.Contains(detail, known.words) {
			return known.reason
		}
	}
	if status == http.StatusNotFound && strings.TrimRight(detail, ".") == "not found" {
		if ofActivation {
			return ErrSeatReleased
		}
		return ErrUnknownKey
	}
	return ErrDenied
}

// lacksScopeCode is the word of OAuth for a token without the scope that a call needs.
const lacksScopeCode = "insufficient_scope"

// wantedScope is the scope that Polar says a token lacks: the first, if it takes any one of
// several. "" if it doesn't say.
func wantedScope(resp *http.Response) string {
	_, rest, _ := strings.Cut(resp.Header.Get("WWW-Authenticate"), `scope="`)
	scopes, _, _ := strings.Cut(rest, `"`)
	scope, _, _ := strings.Cut(scopes, " ")
	if len(scope) > 64 || strings.Trim(scope, "abcdefghijklmnopqrstuvwxyz_:") != "" {
		return ""
	}
	return scope
}

// code is Polar's own word for a refusal; "" for one that is no word.
func (said refusal) code() string {
	if len(said.Error) > 64 || strings.ContainsFunc(said.Error, func(r rune) bool { return r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') }) {
		return ""
	}
	return said.Error
}

const (
	// defaultPause follows a 429 without Retry-After: the length of Polar's own block.
	defaultPause = time.Minute
	// maxPause caps a Retry-After: a mistaken header must not silence a program for days.
	maxPause = pace.MaxPause
)

// serverTime is the time by the server's clock, or another if the answer doesn't say. A
// wrong clock on this computer must not make a key look expired that Polar has just
// granted.
func serverTime(resp *http.Response, otherwise time.Time) time.Time {
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		return t.UTC()
	}
	return otherwise
}

// retryAfter reads the header in either of its forms, seconds or a date.
func retryAfter(header string, now time.Time) time.Duration {
	d := defaultPause
	if seconds, err := strconv.ParseUint(strings.TrimSpace(header), 10, 32); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, time.Second), maxPause)
}

// cleanText makes a text one line, without invisible characters.
func cleanText(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
}

// shorten cuts a text to n characters. The last one is then an ellipsis.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// cleanDetail makes a text from the network suitable for an error: one line, printable, short,
// and redacted.
func cleanDetail(s string, secrets ...string) string {
	return shorten(cleanText(redact.Text(s, secrets...)), 200)
}

// normalFeatures is a copy of a map of features with ids in their usual form, and the
// features of each sorted and without duplicates. Each benefit has those of any benefit, too.
func normalFeatures(given map[string][]string) map[string][]string {
	features := make(map[string][]string, len(given))
	for id, names := range given {
		id = normalUUID(id)
		names = append(features[id], names...)
		for i := range names {
			names[i] = strings.Clone(names[i])
		}
		features[id] = names
	}
	ofAny := features[rights.AnyBenefit]
	for id, names := range features {
		names = append(slices.Clip(names), ofAny...)
		slices.Sort(names)
		features[id] = slices.Compact(names)
	}
	return features
}

func checkFeatures(features map[string][]string) error {
	for id, names := range features {
		if _, ok := canonicalUUID4(id); !ok && id != rights.AnyBenefit {
			return &InputError{"Features", "has a key that is not a UUID of version 4: use the benefits' ids as Polar shows them, or AnyBenefit"}
		}
		if slices.Contains(names, "") {
			return &InputError{"Features", "has a feature without a name"}
		}
	}
	return nil
}
