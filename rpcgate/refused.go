package rpcgate

import (
	"net/http"
	"time"

	"github.com/polargate/polargate"
)

// Code is the code of an error. gRPC and Connect have the same numbers.
type Code uint32

// Codes that refusals have.
const (
	InvalidArgument   Code = 3
	PermissionDenied  Code = 7
	ResourceExhausted Code = 8
	Unavailable       Code = 14
	Unauthenticated   Code = 16
)

// Domain is the domain of a refusal's ErrorInfo, by which clients tell it from other errors
// with the same code, such as a message that is too large.
const Domain = "polargate"

// Reasons of a refusal's ErrorInfo.
const (
	NotSignedIn       = "NOT_SIGNED_IN"       // Unauthenticated
	LicenseKeyUnknown = "LICENSE_KEY_UNKNOWN" // Unauthenticated
	LicenseKeyRefused = "LICENSE_KEY_REFUSED" // PermissionDenied: expired, revoked, or for another product
	NotEntitled       = "NOT_ENTITLED"        // PermissionDenied: something that is required is missing
	NoRule            = "NO_RULE"             // PermissionDenied: nobody may call the procedure
	QuotaExceeded     = "QUOTA_EXCEEDED"      // ResourceExhausted: a meter's balance is too low
	InvalidRequest    = "INVALID_REQUEST"     // InvalidArgument: an id, or what decides the cost
	Undecided         = "UNDECIDED"           // Unavailable: nobody can say at the moment
)

// Refused is a refusal as a client is told of it.
type Refused struct {
	// Code is the error's code.
	Code Code
	// Reason is one of the reasons above.
	Reason string
	// Message is a sentence for whoever wrote the client.
	Message string
	// Required is what is missing, as text; may be empty.
	Required string
	// Cause is why a license key was refused, or why Polar gave no answer; may be empty.
	Cause polargate.Reason
	// UpgradeURL is where customers find plans; may be empty.
	UpgradeURL string
	// RetryAfter is how long to wait, with Unavailable. It is sent as RetryInfo.
	RetryAfter time.Duration
}

// Names in an ErrorInfo's metadata. Clients may know them, so they stay.
const (
	inRequired = "required"
	inCause    = "reason"
	inUpgrade  = "upgrade_url"
)

// Explain is what a client is told of a refusal.
func Explain(refusal *polargate.Refusal) Refused {
	r := Refused{Message: refusal.Detail(), Cause: refusal.Reason}
	if required := refusal.Required.String(); refusal.Status == http.StatusPaymentRequired {
		r.UpgradeURL = refusal.UpgradeURL
		if required != new(polargate.Requirement).String() {
			r.Required = required
		}
	}
	switch {
	case refusal.Status == http.StatusBadRequest:
		r.Code, r.Reason = InvalidArgument, InvalidRequest
		r.Message = "The request isn't valid: its customer id, or what decides what it costs."
	case refusal.Status == http.StatusUnauthorized && refusal.Reason == polargate.ErrUnknownKey:
		r.Code, r.Reason = Unauthenticated, LicenseKeyUnknown
	case refusal.Status == http.StatusUnauthorized:
		r.Code, r.Reason = Unauthenticated, NotSignedIn
	case refusal.Status == http.StatusForbidden:
		r.Code, r.Reason = PermissionDenied, NoRule
		r.Message = "This procedure isn't open to anybody: the server has no rule for it."
	case refusal.Status == http.StatusPaymentRequired && refusal.Required.MeterID() != "":
		r.Code, r.Reason = ResourceExhausted, QuotaExceeded
	case refusal.Status == http.StatusPaymentRequired && refusal.Reason != "":
		r.Code, r.Reason = PermissionDenied, LicenseKeyRefused
	case refusal.Status == http.StatusPaymentRequired:
		r.Code, r.Reason = PermissionDenied, NotEntitled
	default:
		r.Code, r.Reason = Unavailable, Undecided
		r.RetryAfter = max(refusal.RetryAfter, time.Second)
	}
	return r
}

// Metadata is what the ErrorInfo of a refusal has beside its reason and Domain.
func (r Refused) Metadata() map[string]string {
	metadata := map[string]string{}
	for name, text := range map[string]string{inRequired: r.Required, inCause: string(r.Cause), inUpgrade: r.UpgradeURL} {
		if text != "" {
			metadata[name] = text
		}
	}
	return metadata
}

// WithMetadata is a refusal with what the metadata of an ErrorInfo says: what Metadata wrote.
func (r Refused) WithMetadata(metadata map[string]string) Refused {
	r.Required, r.Cause, r.UpgradeURL = metadata[inRequired], polargate.Reason(metadata[inCause]), metadata[inUpgrade]
	return r
}
