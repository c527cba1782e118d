package polartest

import (
	"net/http"
	"strings"
	"time"
)

// Fault is something between the client and Polar, or in Polar, that goes wrong. Faults wait in the
// order in which they were injected; each request is struck by the first that fits it.
type Fault struct {
	// Path is how the paths of the requests end that the fault is for: "/validate". Empty: all.
	Path string
	// Times is how many requests it strikes. 0: all, until [Polar.ClearFaults].
	Times int
	// Skip is how many requests that fit it lets through first.
	Skip int
	// Effect is what happens: [LoginPage], [Hang], [AnswerLost] and so on.
	Effect Effect
}

// Effect is what a [Fault] does. Its constructors say whether the request still reaches Polar and
// takes effect there.
type Effect struct {
	name    string
	fixed   *answer // said instead of Polar's answer
	rewrite func(status int, header http.Header, body []byte) (int, []byte)
	never   bool // the request does not reach Polar, and nothing is said
	travel  travel
}

func (e Effect) reaches() bool { return e.fixed == nil && !e.never }

// travel is how an answer gets to the client, if it does.
type travel struct {
	delay time.Duration // before it starts
	drip  time.Duration // before each byte
	hang  bool
	huge  bool
	cut   cut
}

type cut int

const (
	cutNothing cut = iota
	cutConnect     // no connection at all
	cutReset       // reset before the answer
	cutClose       // closed before the answer
	cutHalf        // closed after half of the body
)

// delivery is an answer and the way it goes.
type delivery struct {
	answer *answer // nil if there is none
	travel travel
}

// Inject adds a fault. It panics if the fault has no effect.
func (p *Polar) Inject(f Fault) {
	if f.Effect.name == "" {
		panic("polartest: Inject: the fault has no effect")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &f)
}

// ClearFaults takes all faults away. It does not end being offline, nor what already hangs.
func (p *Polar) ClearFaults() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// SetOffline pulls the cable, or puts it back: over [Polar.Transport] no connection comes about, over
// [Polar.Start] it is reset. Nothing reaches Polar, nothing is recorded, and no webhook gets out.
func (p *Polar) SetOffline(offline bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offline = offline
}

// nextFault is the effect that strikes this request; its zero value is none.
func (p *Polar) nextFault(c *call) Effect {
	if host, _, _ := strings.Cut(c.host, ":"); host == loginHost {
		return LoginPage(http.StatusOK) // who follows the redirect ends up here
	}
	for i, f := range p.faults {
		if !strings.HasSuffix(c.path, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
			}
		}
		return f.Effect
	}
	return Effect{}
}

func page(status int, title string) *answer {
	return &answer{
		status: status,
		header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
		body: []byte("<!DOCTYPE html>\n<html><head><title>" + title + "</title></head>\n<body><h1>" +
			title + "</h1></body></html>\n"),
	}
}

// loginHost is where a Wi-Fi login page redirects to. The transport answers for it, too.
const loginHost = "login.wifi.example"

// LoginPage is the login page of a Wi-Fi network in Polar's place: HTML with status 200 or 511, or a
// redirect to another host with 302, 303, 307 or 308. Over [Polar.Transport] that host exists: it
// says the page with 200, and its requests are recorded, so that a test can look what was sent to it.
// The request does not reach Polar.
func LoginPage(status int) Effect {
	a := page(status, "Welcome to our Wi-Fi")
	if status >= 300 && status < 400 {
		a.header.Set("Location", "http://"+loginHost+"/login")
	}
	return Effect{name: "LoginPage", fixed: a}
}

// ProxyPage is an HTML error page of a proxy, a firewall or a content delivery network: 403, 404,
// 407, 502 and so on. The request does not reach Polar.
func ProxyPage(status int) Effect {
	a := page(status, http.StatusText(status))
	if status == http.StatusProxyAuthRequired {
		a.header.Set("Proxy-Authenticate", `Basic realm="proxy"`)
	}
	return Effect{name: "ProxyPage", fixed: a}
}

// RouterNotFound is the 404 of Polar's router, as for a path that is gone: it is not about any key.
// The request has no effect.
func RouterNotFound() Effect {
	a := noSuchPath()
	a.header.Set(versionHeader, currentVersion)
	return Effect{name: "RouterNotFound", fixed: a}
}

// RateLimited is a 429 with that Retry-After, or without one if it is empty. The request has no
// effect. Limits that are really reached need no fault.
func RateLimited(retryAfter string) Effect {
	a := rateLimited(retryAfter)
	a.header.Set(versionHeader, currentVersion)
	return Effect{name: "RateLimited", fixed: a}
}

// ServerError is Polar failing, in plain text: 500 or 503. The request has no effect.
func ServerError(status int) Effect {
	a := serverError()
	a.status, a.body = status, []byte(http.StatusText(status))
	a.header.Del(versionHeader)
	return Effect{name: "ServerError", fixed: a}
}

// Hang says nothing until the client gives up, or the [Server] is closed: a client without a timeout
// waits forever. The request does not reach Polar.
func Hang() Effect { return Effect{name: "Hang", never: true, travel: travel{hang: true}} }

// SlowDrip is the true answer, header at once and body one byte at a time. The request takes effect.
func SlowDrip(every time.Duration) Effect {
	return Effect{name: "SlowDrip", travel: travel{drip: every}}
}

// Delay is the true answer, late. The request takes effect at once.
func Delay(d time.Duration) Effect { return Effect{name: "Delay", travel: travel{delay: d}} }

// Reset is a connection that is reset before Polar has the request.
func Reset() Effect { return Effect{name: "Reset", never: true, travel: travel{cut: cutReset}} }

// Close is a connection that is closed without an answer, before Polar has the request.
func Close() Effect { return Effect{name: "Close", never: true, travel: travel{cut: cutClose}} }

// AnswerLost is a connection that is reset after the request has taken effect: there may be an
// activation whose id the client doesn't know.
func AnswerLost() Effect { return Effect{name: "AnswerLost", travel: travel{cut: cutReset}} }

// Truncated is the true answer, broken off after half of the body. An answer without a body is lost
// as a whole. The request takes effect.
func Truncated() Effect { return Effect{name: "Truncated", travel: travel{cut: cutHalf}} }

// Garbage is status 200 and application/json with bytes that are no JSON. The request does not reach
// Polar.
func Garbage() Effect {
	e := Body(http.StatusOK, "application/json", "\x1f\x8b\x08\x00{\"id\":\xff\xfe]]")
	e.name = "Garbage"
	return e
}

// hugeBody is what Huge sends: a JSON string that does not end before that.
const (
	hugeBody  = 32 << 20
	hugeStart = `{"id":"`
)

// Huge is status 200 and application/json with 32 MiB of body, its length not told beforehand. The
// request does not reach Polar.
func Huge() Effect {
	return Effect{name: "Huge", travel: travel{huge: true},
		fixed: &answer{status: http.StatusOK, header: jsonHeader()}}
}

// Body is any answer: `{}`, `null`, `[]`, or another license key. With an empty contentType there is
// none. The request does not reach Polar.
func Body(status int, contentType, body string) Effect {
	a := &answer{status: status, header: http.Header{}, body: []byte(body)}
	if contentType != "" {
		a.header.Set("Content-Type", contentType)
	}
	return Effect{name: "Body", fixed: a}
}

// Rewrite is the true answer, changed on its way: change gets it, may alter the header in place, and
// gives the status and the body that arrive. The request takes effect.
func Rewrite(change func(status int, header http.Header, body []byte) (int, []byte)) Effect {
	return Effect{name: "Rewrite", rewrite: change}
}
