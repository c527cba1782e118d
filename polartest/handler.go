package polartest

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	versionHeader  = "Polar-Version"
	currentVersion = "2026-04"
	// withMembers is the first version in which license keys name their member, and withPeriods
	// the one in which a validation names the subscription or order. Their shapes are those of
	// Polar's SDK 1.0.1. The server that was recorded is older: it spoke 2026-10 already, in the
	// shapes of 2026-04.
	withMembers = "2026-10"
	withPeriods = "2027-01"

	// largestBody is the size over which Polar answers 413.
	largestBody = 10 << 20
	// drainedBody is how much of a body that is refused is still read, so that a client that sends
	// before it listens gets to hear the refusal.
	drainedBody = 64 << 20
)

// versions are those that this Polar speaks.
func (p *Polar) versions() []string {
	if p.config.Version == "" {
		return []string{currentVersion, withMembers}
	}
	return []string{currentVersion, withMembers, withPeriods}
}

// route is an endpoint. Routes without scopes are open to everyone.
type route struct {
	method, pattern string
	scopes          []string // any one of them
	handle          func(*Polar, *call) *answer
}

// Scopes that the endpoints ask for, in the order in which a refusal names them.
var (
	toReadKeys           = []string{"license_keys:read", "license_keys:write"}
	toWriteKeys          = []string{"license_keys:write"}
	toReadCustomers      = []string{"customers:read", "customers:write"}
	toWriteCustomers     = []string{"customers:write"}
	toReadBenefits       = []string{"benefits:read", "benefits:write"}
	toWriteBenefits      = []string{"benefits:write"}
	toReadSubscriptions  = []string{"subscriptions:read", "subscriptions:write"}
	toWriteSubscriptions = []string{"subscriptions:write"}
	toReadProducts       = []string{"products:read", "products:write"}
	toReadMeters         = []string{"meters:read", "meters:write"}
	toReadCustomerMeters = []string{"customer_meters:read"}
	toWriteEvents        = []string{"events:write"}
	toWriteSessions      = []string{"customer_sessions:write"}
	toReadSeats          = []string{"customer_seats:read", "customer_seats:write"}
	toWriteSeats         = []string{"customer_seats:write"}
	toReadMembers        = []string{"members:read", "members:write"}
	toWriteMembers       = []string{"members:write"}
	toReadWebhooks       = []string{"webhooks:write", "webhooks:read"}
	toWriteWebhooks      = []string{"webhooks:write"}

	// those of a session of a customer, which no organization's token has
	toReadPortal  = []string{"customer_portal:read", "customer_portal:write"}
	toWritePortal = []string{"customer_portal:write"}
)

var allScopes = slices.Concat(toReadKeys, toReadCustomers, toReadBenefits, toReadSubscriptions, toReadProducts, toReadMeters,
	toReadCustomerMeters, toWriteEvents, toWriteSessions, toReadSeats, toReadMembers, toReadWebhooks)

// ofPortal says whether the endpoint is for sessions, and not for tokens.
func (r *route) ofPortal() bool {
	return len(r.scopes) > 0 && slices.Contains(toReadPortal, r.scopes[0])
}

// routes are in the order in which Polar tries them; where only the path fits, the first decides
// what a 405 allows.
var routes = []route{
	{"GET", "/v1/customer-portal/license-keys/", toReadPortal, (*Polar).portalKeys},
	{"GET", "/v1/customer-portal/license-keys/{id}", toReadPortal, (*Polar).getPortalKey},
	{"POST", "/v1/customer-portal/license-keys/{id}/rotate", toWritePortal, (*Polar).rotatePortalKey},
	{"POST", "/v1/customer-portal/license-keys/validate", nil, (*Polar).validate},
	{"POST", "/v1/customer-portal/license-keys/activate", nil, (*Polar).activate},
	{"POST", "/v1/customer-portal/license-keys/deactivate", nil, (*Polar).deactivate},
	{"GET", "/v1/customer-portal/customer-session/introspect", toReadPortal, (*Polar).introspect},
	{"GET", "/v1/customer-portal/customer-session/user", toReadPortal, (*Polar).portalUser},
	{"GET", "/v1/customer-portal/customers/me", toReadPortal, (*Polar).portalCustomer},
	{"GET", "/v1/customer-portal/benefit-grants/", toReadPortal, (*Polar).portalGrants},
	{"GET", "/v1/customer-portal/meters/", toReadPortal, (*Polar).portalMeters},
	{"GET", "/v1/customer-portal/subscriptions/", toReadPortal, (*Polar).portalSubscriptions},
	{"GET", "/v1/customer-portal/seats/subscriptions", toReadPortal, (*Polar).claimedSubscriptions},

	{"GET", "/v1/license-keys/", toReadKeys, (*Polar).listKeys},
	{"GET", "/v1/license-keys/{id}", toReadKeys, (*Polar).getKey},
	{"PATCH", "/v1/license-keys/{id}", toWriteKeys, (*Polar).patchKey},
	{"POST", "/v1/license-keys/{id}/rotate", toWriteKeys, (*Polar).rotateKey},
	{"GET", "/v1/license-keys/{id}/activations/{activation_id}", toReadKeys, (*Polar).getActivation},
	{"POST", "/v1/license-keys/validate", toWriteKeys, (*Polar).validate},
	{"POST", "/v1/license-keys/activate", toWriteKeys, (*Polar).activate},
	{"POST", "/v1/license-keys/deactivate", toWriteKeys, (*Polar).deactivate},

	{"GET", "/v1/customers/", toReadCustomers, (*Polar).listCustomers},
	{"POST", "/v1/customers/", toWriteCustomers, (*Polar).createCustomer},
	{"GET", "/v1/customers/external/{external_id}", toReadCustomers, (*Polar).getCustomer},
	{"PATCH", "/v1/customers/external/{external_id}", toWriteCustomers, (*Polar).patchCustomer},
	{"DELETE", "/v1/customers/external/{external_id}", toWriteCustomers, (*Polar).removeCustomer},
	{"GET", "/v1/customers/{id}/state", toReadCustomers, (*Polar).stateByID},
	{"GET", "/v1/customers/external/{external_id}/state", toReadCustomers, (*Polar).stateByExternalID},
	{"GET", "/v1/customers/{id}", toReadCustomers, (*Polar).getCustomer},
	{"PATCH", "/v1/customers/{id}", toWriteCustomers, (*Polar).patchCustomer},
	{"DELETE", "/v1/customers/{id}", toWriteCustomers, (*Polar).removeCustomer},

	{"GET", "/v1/customers/{id}/members", toReadMembers, (*Polar).listMembers},
	{"POST", "/v1/customers/{id}/members", toWriteMembers, (*Polar).createMember},
	{"GET", "/v1/customers/{id}/members/{member_id}", toReadMembers, (*Polar).getMember},
	{"PATCH", "/v1/customers/{id}/members/{member_id}", toWriteMembers, (*Polar).patchMember},
	{"DELETE", "/v1/customers/{id}/members/{member_id}", toWriteMembers, (*Polar).deleteMember},
	{"GET", "/v1/customers/external/{external_id}/members", toReadMembers, (*Polar).listMembers},
	{"POST", "/v1/customers/external/{external_id}/members", toWriteMembers, (*Polar).createMember},
	{"GET", "/v1/customers/external/{external_id}/members/{member_external_id}", toReadMembers, (*Polar).getMember},
	{"PATCH", "/v1/customers/external/{external_id}/members/{member_external_id}", toWriteMembers, (*Polar).patchMember},
	{"DELETE", "/v1/customers/external/{external_id}/members/{member_external_id}", toWriteMembers, (*Polar).deleteMember},

	{"GET", "/v1/benefit-grants/", toReadBenefits, (*Polar).listGrants},
	{"GET", "/v1/benefits/", toReadBenefits, (*Polar).listBenefits},
	{"POST", "/v1/benefits/", toWriteBenefits, (*Polar).createBenefit},
	{"GET", "/v1/benefits/{id}", toReadBenefits, (*Polar).getBenefit},
	{"PATCH", "/v1/benefits/{id}", toWriteBenefits, (*Polar).patchBenefit},
	{"GET", "/v1/benefits/{id}/grants", toReadBenefits, (*Polar).listGrantsOfBenefit},

	{"GET", "/v1/subscriptions/", toReadSubscriptions, (*Polar).listSubscriptions},
	{"POST", "/v1/subscriptions/", toWriteSubscriptions, (*Polar).createSubscription},
	{"GET", "/v1/subscriptions/{id}", toReadSubscriptions, (*Polar).getSubscription},
	{"PATCH", "/v1/subscriptions/{id}", toWriteSubscriptions, (*Polar).patchSubscription},
	{"DELETE", "/v1/subscriptions/{id}", toWriteSubscriptions, (*Polar).revokeSubscription},

	{"GET", "/v1/products/", toReadProducts, (*Polar).listProducts},
	{"GET", "/v1/products/{id}", toReadProducts, (*Polar).getProduct},
	{"GET", "/v1/meters/", toReadMeters, (*Polar).listMeters},
	{"GET", "/v1/meters/{id}", toReadMeters, (*Polar).getMeter},
	{"GET", "/v1/customer-meters/", toReadCustomerMeters, (*Polar).listCustomerMeters},
	{"GET", "/v1/customer-meters/{id}", toReadCustomerMeters, (*Polar).getCustomerMeter},
	{"POST", "/v1/events/ingest", toWriteEvents, (*Polar).ingest},
	{"POST", "/v1/customer-sessions/", toWriteSessions, (*Polar).createSession},

	{"GET", "/v1/members/", toReadMembers, (*Polar).listMembers},
	{"POST", "/v1/members/", toWriteMembers, (*Polar).createMember},
	{"GET", "/v1/members/external/{external_id}", toReadMembers, (*Polar).getExternalMember},
	{"GET", "/v1/members/{id}", toReadMembers, (*Polar).getMember},
	{"PATCH", "/v1/members/{id}", toWriteMembers, (*Polar).patchMember},
	{"DELETE", "/v1/members/{id}", toWriteMembers, (*Polar).deleteMember},

	{"POST", "/v1/customer-seats/claim", nil, (*Polar).claimSeat},
	{"GET", "/v1/customer-seats/claim/{invitation_token}", nil, (*Polar).claimInfo},
	{"GET", "/v1/customer-seats", toReadSeats, (*Polar).listSeats},
	{"POST", "/v1/customer-seats", toWriteSeats, (*Polar).assignSeat},
	{"DELETE", "/v1/customer-seats/{id}", toWriteSeats, (*Polar).revokeSeat},
	{"POST", "/v1/customer-seats/{id}/resend", toWriteSeats, (*Polar).resendSeat},

	{"GET", "/v1/webhooks/endpoints", toReadWebhooks, (*Polar).listEndpoints},
	{"POST", "/v1/webhooks/endpoints", toWriteWebhooks, (*Polar).createEndpoint},
	{"GET", "/v1/webhooks/endpoints/{id}", toReadWebhooks, (*Polar).getEndpoint},
	{"PATCH", "/v1/webhooks/endpoints/{id}", toWriteWebhooks, (*Polar).patchEndpoint},
	{"PATCH", "/v1/webhooks/endpoints/{id}/secret", toWriteWebhooks, (*Polar).resetSecret},
	{"DELETE", "/v1/webhooks/endpoints/{id}", toWriteWebhooks, (*Polar).removeEndpoint},
	{"GET", "/v1/webhooks/deliveries", toReadWebhooks, (*Polar).listDeliveries},
	{"POST", "/v1/webhooks/events/{id}/redeliver", toWriteWebhooks, (*Polar).redeliver},
}

// publicPaths share the limit of three requests a second.
const publicPaths = "/v1/customer-portal/license-keys/"

// ServeHTTP answers as Polar would, or as the fault says whose turn it is. The address that the rate
// limits count by is the True-Client-IP header, or else where the connection came from.
func (p *Polar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{
		method: r.Method, scheme: "http", host: r.Host,
		path: r.URL.Path, rawQuery: r.URL.RawQuery,
		header:     r.Header.Clone(),
		unmeasured: r.ContentLength < 0,
		oversized:  r.ContentLength > largestBody,
	}
	if r.TLS != nil {
		c.scheme = "https"
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		c.client = host
	} else {
		c.client = r.RemoteAddr
	}
	if c.unmeasured || c.oversized {
		_, _ = io.CopyN(io.Discard, r.Body, drainedBody)
	} else if body, err := io.ReadAll(r.Body); err == nil {
		c.body = body
	} else {
		panic(http.ErrAbortHandler) // the client broke off while sending
	}
	p.take(c).write(w, r)
}

// take receives a request: the one place where faults, recording and Polar itself meet.
func (p *Polar) take(c *call) delivery {
	c.at = p.Now()
	if ip := c.header.Get("True-Client-Ip"); ip != "" {
		c.client = ip
	}
	record := &Request{
		Method: c.method, Path: c.path, RawQuery: c.rawQuery, Header: c.header, Body: c.body,
		At: c.at, Client: c.client,
	}

	p.mu.Lock()
	if p.offline {
		p.mu.Unlock()
		return delivery{travel: travel{cut: cutConnect}}
	}
	p.scheduleCountIfDue()
	effect := p.nextFault(c)
	record.Fault = effect.name
	p.records = append(p.records, record)
	a := effect.fixed
	if effect.reaches() {
		a = p.answer(c)
	}
	if a != nil {
		record.Status = a.status
	}
	var seen Request
	report := effect.reaches() && a.breach != "" && p.config.OnBreach != nil
	if report {
		seen = record.clone()
	}
	p.mu.Unlock()

	if a == nil {
		return delivery{travel: effect.travel}
	}
	if report {
		p.config.OnBreach(seen, a.breach)
	}
	if effect.rewrite != nil {
		header := a.header.Clone()
		status, body := effect.rewrite(a.status, header, slices.Clone(a.body))
		a = &answer{status: status, header: header, body: body}
		p.mu.Lock()
		record.Status = status
		p.mu.Unlock()
	}
	header := a.header.Clone()
	header.Set("Date", c.at.Format(http.TimeFormat))
	return delivery{answer: &answer{status: a.status, header: header, body: a.body}, travel: effect.travel}
}

// answer is Polar itself. It runs with the mutex held.
func (p *Polar) answer(c *call) *answer {
	notice := false
	if rest, old := strings.CutPrefix(c.path, "/api/v1"); old && (rest == "" || rest[0] == '/') {
		c.path, notice = "/v1"+rest, true
	}
	version := cmp.Or(p.config.Version, currentVersion)
	a := p.limit(c)
	if sent, ok := c.header[versionHeader]; ok && a == nil {
		if version = strings.Join(sent, ","); !slices.Contains(p.versions(), version) {
			a = noSuchPath()
			a.header[versionHeader] = nil
		}
	}
	c.version = version
	if a == nil {
		a = p.dispatch(c)
	}
	if _, set := a.header[versionHeader]; set {
		a.header.Del(versionHeader)
	} else {
		a.header.Set(versionHeader, version)
	}
	if _, set := a.header["Cache-Control"]; !set && a.status < 500 && a.status != http.StatusTooManyRequests {
		a.header.Set("Cache-Control", "private, no-store")
	}
	if notice {
		a.header.Set("X-Polar-Deprecation-Notice", "The API root has moved from /api/v1 to /v1. Please update your integration.")
	}
	if c.header.Get(versionHeader) != "" && a.breach == "" {
		a.breach = "a Polar-Version header was sent: the day that version ends, so does the program"
	}
	return a
}

// limit counts the request and refuses it if it is one too many.
func (p *Polar) limit(c *call) *answer {
	if p.config.Unlimited || !strings.HasPrefix(c.path, "/v1") {
		return nil
	}
	secret := c.bearer()
	token, session := p.validToken(c), p.validSession(c)
	caller := "address " + c.client
	switch {
	case token != nil:
		caller = "organization " + token.OrganizationID
	case session != nil:
		caller = "customer " + session.CustomerID
	}
	r := rule{zone: "api", requests: tokenRequests, window: authenticatedInterval}
	if p.config.Sandbox {
		r.requests = sandboxTokenRequests
	}
	switch rest, public := strings.CutPrefix(c.path, publicPaths); {
	case public && slices.Contains([]string{"validate", "activate", "deactivate"}, rest):
		r = rule{zone: "public", requests: publicRequests, window: publicWindow, block: publicBlock}
	case secret != "" && token == nil && session == nil:
		r = rule{zone: "unknown token", requests: unknownTokenRequests, window: authenticatedInterval}
	}
	seconds, ok := p.limits.admit(c.at, caller, r)
	if ok {
		return nil
	}
	a := rateLimited(strconv.Itoa(seconds))
	a.breach = "over the rate limit of " + strconv.Itoa(r.requests) + " in " + r.window.String() + ", or blocked for having been"
	return a
}

// validToken is the token that was sent, if Polar knows it.
func (p *Polar) validToken(c *call) *Token {
	t, ok := p.tokens[c.bearer()]
	if !ok || t.NoAPIAccess || !t.ExpiresAt.IsZero() && !c.at.Before(t.ExpiresAt) {
		return nil
	}
	return &t
}

// dispatch finds the route, then checks the token, and only then looks at path and body.
func (p *Polar) dispatch(c *call) *answer {
	if c.unmeasured {
		a := refuse(http.StatusLengthRequired, "LengthRequired", "A Content-Length header is required.")
		a.breach = "the body was sent in chunks, without a Content-Length"
		return a
	}
	if c.oversized {
		a := refuse(http.StatusRequestEntityTooLarge, "RequestBodyTooLarge",
			"Request body exceeded the maximum allowed size of "+strconv.Itoa(largestBody)+" bytes.")
		a.breach = "the body is too large"
		return a
	}
	var near *route
	for i := range routes {
		r := &routes[i]
		parameters, ok := r.match(c.path)
		switch {
		case !ok:
		case r.method == c.method:
			c.parameters = parameters
			return p.enter(r, c)
		case near == nil:
			near = r
		}
	}
	if near != nil {
		a := router(http.StatusMethodNotAllowed, "Method Not Allowed", "the path does not take "+c.method)
		a.header.Set("Allow", near.method)
		return a
	}
	other := c.path + "/"
	if trimmed, slash := strings.CutSuffix(c.path, "/"); slash {
		other = trimmed
	}
	if slices.ContainsFunc(routes, func(r route) bool { _, ok := r.match(other); return ok }) {
		location := c.scheme + "://" + c.host + quoted(other)
		if c.rawQuery != "" {
			location += "?" + c.rawQuery
		}
		return &answer{
			status: http.StatusTemporaryRedirect, header: http.Header{"Location": {location}},
			breach: "a slash too many or too few at the end of the path",
		}
	}
	return noSuchPath()
}

// quoted writes a path into a Location as Polar's framework does: decoded before, and what could be
// part of a URL left as it is.
func quoted(path string) string {
	var b strings.Builder
	for i := range len(path) {
		switch c := path[i]; {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', strings.IndexByte("_.-~:/%#?=@[]!$&'()*+,;", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// enter is what happens at an endpoint.
func (p *Polar) enter(r *route, c *call) *answer {
	token, session := p.validToken(c), p.validSession(c)
	if c.bearer() != "" && token == nil && session == nil {
		return invalidToken()
	}
	if r.scopes == nil {
		return r.handle(p, c)
	}
	switch {
	case token == nil && session == nil:
		return unauthorized()
	case r.ofPortal() && session != nil:
		c.session = session
	case r.ofPortal():
		return wrongSubject("Customer Member")
	case session != nil:
		return wrongSubject("User Organization")
	case !slices.ContainsFunc(r.scopes, func(s string) bool { return slices.Contains(token.Scopes, s) }):
		return insufficientScope(r.scopes)
	default:
		c.token = token
	}
	return r.handle(p, c)
}

// match compares segment by segment; {name} stands for one that is not empty.
func (r *route) match(path string) (parameters map[string]string, ok bool) {
	pattern, segments := strings.Split(r.pattern, "/"), strings.Split(path, "/")
	if len(pattern) != len(segments) {
		return nil, false
	}
	for i, want := range pattern {
		got := segments[i]
		name, variable := strings.CutPrefix(want, "{")
		switch {
		case !variable && want == got:
		case variable && got != "":
			if parameters == nil {
				parameters = make(map[string]string)
			}
			parameters[strings.TrimSuffix(name, "}")] = got
		default:
			return nil, false
		}
	}
	return parameters, true
}
