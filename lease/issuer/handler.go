package issuer

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lease"
)

const (
	// maxBody is room for an armored request in a mail.
	maxBody = 64 << 10
	// bodyTime is how long a body may take to arrive.
	bodyTime = 10 * time.Second
	// maxAddresses bounds the memory for limits by address.
	maxAddresses = 10_000
)

// Handler answers programs: a POST of a request, as it is or armored, with the lease
// as text/plain; and a POST of a receipt with 204. What is refused is a problem report
// (RFC 9457) whose member "reason" is that of the Error or Polar's, with the status
//
//   - 400 for what cannot be read, 413 for what is over 64 KiB
//   - 402 for a license key that Polar does not grant, and 403 for another refusal
//   - 409 when every place is taken, with Retry-After, or the request was used
//   - 429 for an address that asks too often, with Retry-After
//   - 503 when Polar or the Store cannot be reached, with Retry-After
func (s *Issuer) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			report(w, http.StatusMethodNotAllowed, "method", "Send a POST.", 0)
			return
		}
		if wait := s.RetryAfter(r); wait > 0 {
			report(w, http.StatusTooManyRequests, "rate_limited", "Too many requests from this address. Try again later.", wait)
			return
		}
		if r.Body == nil { // of a request that was made by hand
			r.Body = http.NoBody
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			status := http.StatusBadRequest
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				status = http.StatusRequestEntityTooLarge
			}
			report(w, status, string(ErrBadRequest), "The body cannot be read.", 0)
			return
		}
		s.answer(w, r, body)
	})
}

// RetryAfter counts a request against its address, as Config.PerAddress says, and returns 0; or
// it returns how long the address has to wait, and counts nothing. It is for pages of your own;
// the Handler calls it itself.
func (s *Issuer) RetryAfter(r *http.Request) time.Duration {
	return s.limits.wait(s.address(r), s.config.PerAddress)
}

// Message explains an error of this package to a customer, in whole sentences. It is empty for
// nil.
func Message(err error) string {
	if err == nil {
		return ""
	}
	_, text := explain(err)
	return text
}

// explain is the status of an error, and its explanation.
func explain(err error) (status int, text string) {
	status = http.StatusForbidden
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Reason: ErrUnavailable, Err: err}
	}
	for _, word := range words {
		if word.reason == e.Reason {
			status, text = word.status, word.what+"."
		}
	}
	if refused, ok := errors.AsType[*polargate.Error](e.Err); ok && e.Reason == "" {
		text = polargate.Message(refused)
		switch refused.Reason {
		case polargate.ErrUnknownKey, polargate.ErrInactive, polargate.ErrExpired:
			status = http.StatusPaymentRequired
		}
	}
	if text != "" {
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	return status, text
}

func (s *Issuer) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	if text, err := lease.Unarmor(body, lease.KindReceipt); err == nil {
		if receipt, err := lease.ParseReceipt(text); err == nil {
			if err := s.Release(r.Context(), receipt); err != nil {
				reportError(w, err)
				return
			}
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	var request lease.Request
	text, err := lease.Unarmor(body, lease.KindRequest)
	if err == nil {
		request, err = lease.ParseRequest(text)
	}
	if err != nil {
		reportError(w, &Error{Reason: ErrBadRequest, Err: err})
		return
	}
	issued, err := s.Issue(r.Context(), request)
	if err != nil {
		reportError(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, issued)
}

func reportError(w http.ResponseWriter, err error) {
	status, text := explain(err)
	var wait time.Duration
	if e, ok := errors.AsType[*Error](err); ok {
		wait = e.RetryAfter
	}
	if status == http.StatusServiceUnavailable && wait == 0 {
		wait = time.Minute
	}
	report(w, status, reasonOf(err), text, wait)
}

func report(w http.ResponseWriter, status int, reason, detail string, wait time.Duration) {
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	body, err := json.Marshal(map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail, "reason": reason,
	})
	if err != nil {
		panic(err) // texts and a number
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (s *Issuer) address(r *http.Request) string {
	if s.config.Address != nil {
		return s.config.Address(r)
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() && !ip.Is4In6() {
		// Whoever has one address of IPv6 has the other 2^64 of its network, too.
		network, _ := ip.WithZone("").Prefix(64)
		return network.String()
	}
	return host
}

// limits count the requests of addresses. An address that was not heard of for long is
// forgotten for newer ones.
type limits struct {
	once  sync.Once
	known *lru.Cache[string, *rate.Limiter]
}

// wait is how long an address has to wait; 0 if it need not.
func (l *limits) wait(address string, perMinute int) time.Duration {
	l.once.Do(func() {
		known, err := lru.New[string, *rate.Limiter](maxAddresses)
		if err != nil {
			panic(err) // the size is positive
		}
		l.known = known
	})
	limiter, ok := l.known.Get(address)
	if !ok {
		limiter = rate.NewLimiter(rate.Limit(float64(perMinute)/60), perMinute)
		if other, ok, _ := l.known.PeekOrAdd(address, limiter); ok {
			limiter = other
		}
	}
	reservation := limiter.Reserve()
	if wait := reservation.Delay(); wait > 0 {
		reservation.Cancel()
		return wait
	}
	return 0
}
