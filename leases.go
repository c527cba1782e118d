package polargate

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/internal/flight"
	"github.com/polargate/polargate/internal/pace"
	"github.com/polargate/polargate/internal/transport"
	"github.com/polargate/polargate/lease"
)

// A license can come as a lease: a text that the vendor's server signed, which the program
// checks without a network. It comes over the network from Config.LeaseURL, or in a file.
// Either way it is part of the verdict, and changes the record by the same events as an
// answer of Polar does. What a lease is worth at a moment is leaseValidity.

// leaseValidity is what a lease is worth at a moment. It is evaluate for a verdict with a
// proof. newest is when the newest lease that was ever seen here was issued.
//
// The lease's own times count, by the issuer's clock as far as it is known: how far that was
// ahead of ours when the lease came. If it was behind, it is believed for a day: a lease that
// was kept back could be stretched by that.
func leaseValidity(v *verdict, now, newest time.Time, c *Config) validity {
	mark := v.latest()
	if mark.Sub(now) > clockSlack {
		return validity{state: Locked, reason: ErrClockSetBack, changes: mark.Add(-clockSlack)}
	}
	shift := max(v.Skew, -clockJump)
	here := func(t time.Time) time.Time { // by our clock
		if t.IsZero() {
			return t
		}
		return t.Add(-shift)
	}
	standing, err := v.proof.Check(now.Add(shift), lease.Want{
		OrganizationID: v.proof.OrganizationID, Fingerprint: v.proof.Fingerprint, // checked when it was read
		Version: c.Version, Released: c.Released,
		HighWater: mark.Add(shift), Newest: newest,
	})
	s := validity{freshUntil: here(v.proof.Expires), graceUntil: here(v.proof.Ends())}
	if s.freshUntil.IsZero() {
		s.freshUntil = forever
	}
	switch {
	case v.proof.Trial && (standing != "" || errors.Is(err, lease.ErrExpired)):
		return leasedTrial(s, standing)
	case standing == lease.Active:
		s.state, s.changes = Active, s.freshUntil
	case standing == lease.Grace:
		s.state, s.changes = Grace, s.graceUntil
		s.reason = cmp.Or(v.LastFailure, ErrUnreachable)
	case errors.Is(err, lease.ErrExpired):
		s.state, s.reason = Locked, ErrGraceEnded
	case errors.Is(err, lease.ErrNotCovered):
		s = refusedHere(v, now, c.FreshFor, ErrNotCovered)
		s.covered = v.proof.CoversReleased
		return s
	case errors.Is(err, lease.ErrClockBehind), errors.Is(err, lease.ErrNotYet):
		return validity{state: Locked, reason: ErrClockSetBack, changes: now.Add(maxNap)}
	default: // it was replaced by a newer one, or given up
		return validity{state: Locked, reason: ErrBadLease}
	}
	if s.state != Active {
		s.freshUntil = earlier(s.freshUntil, now)
	}
	return s
}

// leasedTrial is the validity of a lease without a license key, which is a trial: until it ends,
// or over. s has its times.
func leasedTrial(s validity, standing lease.Standing) validity {
	end := s.graceUntil
	if standing == "" {
		return validity{state: Unlicensed, reason: ErrTrialEnded, trialUntil: end}
	}
	return validity{state: InTrial, trialUntil: end, freshUntil: s.freshUntil, changes: end}
}

// forever is when a lease expires that never does.
var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// featuresOf are those of a benefit and of a lease, sorted.
func featuresOf(v *verdict, c *Config) []string {
	features, _ := c.featuresOf(v.BenefitID)
	if !v.proven() || len(v.proof.Features) == 0 {
		return features
	}
	all := append(slices.Clone(features), v.proof.Features...)
	slices.Sort(all)
	return slices.Compact(all)
}

// readLease checks that a text is a lease of this vendor for one of these fingerprints, which
// says nothing of its time. The error is a *lease.Error.
func (g *Gate) readLease(text string, fingerprints []string) (*lease.Lease, error) {
	if known := g.holding().verdict; known != nil && known.proof != nil && known.proof.Text == text && slices.Contains(fingerprints, known.proof.Fingerprint) {
		return known.proof, nil
	}
	read, err := g.leaseKeys.Verify(text)
	switch {
	case err != nil:
		return nil, err
	case read.OrganizationID != g.client.organizationID:
		return nil, &lease.Error{Reason: lease.ErrWrongOrganization}
	case !slices.Contains(fingerprints, read.Fingerprint):
		return nil, &lease.Error{Reason: lease.ErrOtherMachine}
	}
	return &read, nil
}

// leasedKey is a license key as a lease shows it. The issuer's time is that of the signature:
// whoever is between the two could make up another.
func leasedKey(key Key, proof *lease.Lease, secret string) *LicenseKey {
	return &LicenseKey{
		ID: proof.LicenseKeyID, OrganizationID: proof.OrganizationID, BenefitID: proof.BenefitID,
		Key: key, Status: KeyGranted, answeredAt: proof.Issued, proof: proof, receiptSecret: secret,
	}
}

// Over the network.

// leaseFor asks the license server for a lease of a key for an activation: the next one, or,
// for an activation without a lease, the first. An answer that was lost does no harm: asking
// again gives the same activation.
func (g *Gate) leaseFor(ctx context.Context, s *seat, key Key, borrow time.Duration) (*LicenseKey, error) {
	rec := g.holding()
	own := g.fingerprints(&rec.state)
	q := lease.Request{
		ID: rand.Text(), Made: g.now(), OrganizationID: g.client.organizationID, Key: lease.NewSecret(key.Reveal()),
		Newest: rec.state.Newest, Fingerprint: s.Machine, Borrow: borrow,
		App: g.config.App, Version: shorten(cleanText(g.config.Version), 100), Label: shorten(cleanText(s.Label), 100),
	}
	secret := rand.Text()
	if held := s.Lease; held != nil {
		q.LeaseID, q.Fingerprint = held.ID, held.Fingerprint
		secret = cmp.Or(held.Secret, secret)
	}
	if !slices.Contains(own, q.Fingerprint) {
		own, q.Newest = []string{q.Fingerprint}, time.Time{} // of another computer
	}
	q.ReceiptHash = lease.ReceiptHash(lease.NewSecret(secret))
	request, err := q.Encode()
	if err != nil {
		return nil, &InputError{fieldKey, "has characters that no license key has: copy it again"}
	}
	answer, err := g.askLeaseServer(ctx, opValidate, request, key)
	if err != nil {
		return nil, err
	}
	text, err := lease.Unarmor(answer, lease.KindLease)
	if err != nil {
		return nil, &Error{Op: opValidate, Reason: ErrUnreachable, Detail: "the answer is no lease", Err: err}
	}
	proof, err := g.readLease(text, own)
	if err == nil && !proof.Issued.After(q.Newest) {
		err = &lease.Error{Reason: lease.ErrOlder} // not an answer to this request
	}
	if err != nil {
		return nil, &Error{Op: opValidate, Reason: ErrUnreachable, Detail: "the answer is no lease for this program here", Err: err}
	}
	return leasedKey(key, proof, secret), nil
}

// Borrow keeps the place of a floating license for a trip without a network: for d, or for as
// long as the vendor's pool allows if that is less; the Status says until when. The program must
// be activated, and needs Config.LeaseURL. Nobody else can use the place meanwhile: Deactivate
// gives it back earlier. A license that doesn't float is renewed, as by Refresh. Errors are
// those of Refresh.
func (g *Gate) Borrow(ctx context.Context, d time.Duration) (Status, error) {
	if err := g.enter(ctx); err != nil {
		return g.Status(), err
	}
	if !g.config.hasLeaseServer() {
		return g.Status(), &InputError{"LeaseURL", "is missing: only a license server lends licenses"}
	}
	if d < time.Second || d > maxBorrow {
		return g.Status(), &InputError{"d", "must be between a second and ten years"}
	}
	_, err := flight.Do(ctx, &g.flights, "borrow "+d.String(), func(ctx context.Context) (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, questionTime)
		defer cancel()
		rec := g.reload(ctx)
		s := rec.state.Seat
		if s == nil || s.byFile() || !s.held() {
			return struct{}{}, &Error{Op: "borrow", Reason: ErrNoLicense}
		}
		asked := g.now()
		license, err := g.leaseFor(ctx, s, newKey(s.Key), d)
		g.settle(ctx, rec, license, err, asked)
		return struct{}{}, err
	})
	status := g.Status()
	if err = g.callError("borrow", err); !status.OK() {
		err = statusError(status, err)
	}
	return status, err
}

// maxBorrow is the longest time that a request can ask for.
const maxBorrow = 3653 * 24 * time.Hour

// leaseTrial asks the license server for a trial if this computer has neither a license nor a
// trial. The error is why there is none. A server that can't be reached isn't asked again for
// half a minute.
func (g *Gate) leaseTrial(ctx context.Context, rec *record) error {
	if g.config.Trial.Days == 0 || !g.config.hasLeaseServer() || !rec.wantsTrialLease() || g.fallback.inUse() {
		return nil
	}
	g.mu.Lock()
	resting := time.Since(g.trialAsked) < vainFresh
	err := g.around.untried
	g.trialAsked = time.Now()
	g.mu.Unlock()
	if resting {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	given, err := g.askTrial(ctx, rec)
	if errors.Is(err, ErrTrialEnded) {
		now := g.now()
		given, err = &trial{Began: now, HighWater: now, Refused: true}, nil
	}
	if err == nil {
		_, _, err = g.change(ctx, trialLeased{given})
	}
	g.update(func() bool {
		known := g.around.untried == nil && err == nil
		g.around.untried = err
		return !known
	})
	return err
}

// askTrial asks the license server for the trial of this computer.
func (g *Gate) askTrial(ctx context.Context, rec *record) (*trial, error) {
	own := g.fingerprints(&rec.state)
	request, err := lease.Request{
		ID: rand.Text(), Made: g.now(), OrganizationID: g.client.organizationID, Fingerprint: own[0], ReceiptHash: lease.ReceiptHash(lease.NewSecret(rand.Text())),
		App: g.config.App, Version: shorten(cleanText(g.config.Version), 100), Label: shorten(cleanText(g.label(&rec.state)), 100),
	}.Encode()
	if err != nil {
		return nil, &InputError{"Fingerprint", "has characters that a request can't have"}
	}
	answer, err := g.askLeaseServer(ctx, "trial", request, Key{})
	if err != nil {
		return nil, err
	}
	text, err := lease.Unarmor(answer, lease.KindLease)
	if err != nil {
		return nil, &Error{Op: "trial", Reason: ErrUnreachable, Detail: "the answer is no lease", Err: err}
	}
	proof, err := g.readLease(text, own[:1])
	if err == nil && (!proof.Trial || proof.Expires.IsZero()) {
		err = errNoTrial
	}
	if err != nil {
		return nil, &Error{Op: "trial", Reason: ErrUnreachable, Detail: "the answer is no trial for this computer", Err: err}
	}
	return leasedTrialOf(proof, g.now()), nil
}

var errNoTrial = errors.New("the lease is no trial with an end")

// askLease is ask for a new activation, by the license server.
func (a *attempt) askLease(ctx, hard context.Context) (*seat, *LicenseKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, &Error{Op: opActivate, Reason: ErrUnreachable, Err: err, situation: callEnded}
	}
	hard, cancel := context.WithTimeout(hard, questionTime)
	defer cancel()
	machine := a.g.fingerprint(&a.rec.state)
	given := &seat{Key: a.key.Reveal(), Machine: machine, Label: a.g.label(&a.rec.state)}
	license, err := a.g.leaseFor(hard, given, a.key, 0)
	if e, ok := err.(*Error); ok {
		e.Op = opActivate
	}
	if err != nil {
		return nil, nil, err
	}
	if end := license.proof.Ends(); !end.IsZero() && !a.g.now().Add(-clockJump).Before(end) {
		// It was kept back, or this computer's clock is far ahead: nothing would be unlocked.
		return nil, nil, &Error{Op: opActivate, Reason: ErrUnreachable, Detail: "the lease has ended already", situation: causeClock}
	}
	given = given.leased(license)
	given.Conditions, err = json.Marshal(map[string]any{"fingerprint": machine})
	if err != nil {
		panic(err) // it is a text
	}
	return given, license, nil
}

// sendReceipt ends an activation at the license server. known is false if the server doesn't
// know it, so that it is Polar's alone.
func (g *Gate) sendReceipt(ctx context.Context, s *seat) (known bool, err error) {
	if s.Lease.Secret == "" {
		return false, nil
	}
	receipt, err := g.receiptFor(s)
	if err != nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	_, err = g.askLeaseServer(ctx, opDeactivate, receipt, newKey(s.Key))
	if e, ok := err.(*Error); ok && e.Code == "not_proven" {
		return false, nil
	}
	return true, err
}

// receiptFor is the receipt for an activation that was given up.
func (g *Gate) receiptFor(s *seat) (string, error) {
	return lease.Receipt{
		ID: rand.Text(), Made: g.now(), OrganizationID: g.client.organizationID, LeaseID: s.Lease.ID, Fingerprint: s.Lease.Fingerprint,
		LicenseKeyID: s.Lease.LicenseKeyID, ActivationID: s.ActivationID, Secret: lease.NewSecret(s.Lease.Secret),
	}.Encode()
}

// maxLeaseAnswer bounds what is read of an answer of the license server.
const maxLeaseAnswer = 64 << 10

// askLeaseServer posts a text, and returns the answer, again if the connection breaks. It is
// for this server alone: Polar's limits don't apply.
func (g *Gate) askLeaseServer(ctx context.Context, op, text string, key Key) ([]byte, error) {
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		answer, err := g.postOnce(ctx, op, text, key)
		if _, again := errors.AsType[*worthAnotherTry](err); !again || attempt == attempts || !pace.Sleep(ctx, pace.Jitter(backoff)) {
			return answer, err
		}
		backoff *= 4
	}
}

func (g *Gate) postOnce(ctx context.Context, op, text string, key Key) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, &Error{Op: op, Reason: ErrUnreachable, Err: err, situation: callEnded}
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	var wire transport.Trace
	ctx = wire.Watch(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.config.LeaseURL, strings.NewReader(text))
	if err != nil {
		return nil, errBadLeaseURL
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	req.Header.Set("User-Agent", g.client.userAgent)
	tidy := exchange{op: op, key: key, secret: text}
	failed := func(err error) error {
		err = endOf(ctx, err)
		cause := g.client.tidy(err, tidy)
		if !wire.NeverSent(err) { // without a network, it fails again
			cause = &worthAnotherTry{cause}
		}
		return &Error{Op: op, Reason: ErrUnreachable, Err: cause, situation: causes[transport.CauseOf(err)]}
	}
	resp, err := g.client.http.Do(req)
	if err != nil {
		return nil, failed(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLeaseAnswer))
	if err == nil {
		err = ctx.Err() // a body that was given up may seem complete
	}
	if err != nil {
		return nil, failed(err)
	}
	want := http.StatusOK
	if op == opDeactivate {
		want = http.StatusNoContent // a login page answers 200, too
	}
	if resp.StatusCode == want {
		return body, nil
	}
	return nil, g.leaseRefusal(op, resp, body, tidy)
}

// leaseRefusal is what an answer other than a lease means. Only a problem report of the
// issuer refuses; everything else proves nothing.
func (g *Gate) leaseRefusal(op string, resp *http.Response, body []byte, tidy exchange) *Error {
	e := &Error{Op: op, Reason: ErrUnreachable, StatusCode: resp.StatusCode}
	if header := resp.Header.Get("Retry-After"); header != "" {
		e.RetryAfter = retryAfter(header, g.now())
	}
	var report struct{ Reason, Detail string }
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case media == "text/html":
		e.Err, e.situation = errWebPage, causePage
		return e
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		e.Err, e.situation = errRedirect, causePage
		return e
	case media != "application/problem+json" || json.Unmarshal(body, &report) != nil || report.Reason == "":
		e.Detail = "the answer is not the license server's"
		return e
	}
	e.Code, e.Detail = cleanDetail(report.Reason), g.client.cleanDetail(report.Detail, tidy)
	reason := Reason(report.Reason)
	switch {
	case resp.StatusCode >= 500:
		e.situation = serverFailed
	case resp.StatusCode == http.StatusTooManyRequests:
		e.Reason, e.RetryAfter = ErrRateLimited, max(e.RetryAfter, time.Second)
	case reason == "pool_full":
		e.Reason, e.situation = ErrActivationLimit, limitPool
	case reason == "refused":
		e.Reason = ErrDenied
	case reason == Reason("trial_ended") && resp.StatusCode == http.StatusForbidden:
		e.Reason = ErrTrialEnded
	case reason == "bad_request", reason == "wrong_organization":
		e.Reason = ErrMisconfigured
	case reason.Denial() && (resp.StatusCode == http.StatusPaymentRequired || resp.StatusCode == http.StatusForbidden):
		e.Reason = reason
	}
	return e
}

// Without a network.

// OfflineRequest returns a request for a license file, for a computer without a network: a few
// hundred characters for a file, an e-mail or a QR code. The customer takes it to the vendor's
// page, enters the license key there, and brings back a file for [Gate.ActivateFile]. It has no
// license key in it. lease.Armor makes it fit for an e-mail.
//
// Until a file was loaded, calling it again returns the same request. Later, the request is for
// the next file of the same license. It needs Config.LeaseKeys. A *StoreError means that the
// request couldn't be stored, and there is none.
func (g *Gate) OfflineRequest() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), g.budget.all)
	defer cancel()
	if err := g.enterOffline(ctx); err != nil {
		return "", err
	}
	rec := g.reload(ctx)
	next := offlineRequest{ID: rand.Text(), Secret: rand.Text(), At: g.now()}
	if s := rec.state.Seat; s != nil && s.Lease != nil {
		next.LeaseID, next.Secret = s.Lease.ID, cmp.Or(s.Lease.Secret, next.Secret)
	}
	if _, _, err := g.change(ctx, requested{next}); err != nil {
		return "", g.callError("offline request", err)
	}
	rec = g.holding()
	request := rec.state.Request
	if request == nil {
		return "", &Error{Op: "offline request", Reason: ErrBusy} // answered in this moment
	}
	q := lease.Request{
		ID: request.ID, Made: request.At, OrganizationID: g.client.organizationID,
		Newest: rec.state.Newest, Fingerprint: g.fingerprint(&rec.state), ReceiptHash: lease.ReceiptHash(lease.NewSecret(request.Secret)),
		App: g.config.App, Version: shorten(cleanText(g.config.Version), 100), Label: shorten(cleanText(g.label(&rec.state)), 100),
	}
	if s := rec.state.Seat; s != nil && s.Lease != nil && slices.Contains(g.fingerprints(&rec.state), s.Lease.Fingerprint) {
		q.Fingerprint = s.Lease.Fingerprint
	}
	text, err := q.Encode()
	if err != nil {
		return "", &InputError{"Fingerprint", "has characters that a request can't have"}
	}
	return text, nil
}

// ActivateFile activates this computer by a license file that the vendor's page made from a
// [Gate.OfflineRequest]. data is the file as it is, or text that a person pasted. It needs no
// network, and Config.LeaseKeys. A license that was in use before is given up as by Activate.
//
// ErrBadLease means that this isn't a license file for this program, or that a newer one was
// loaded here; ErrOtherMachine, that it is for another computer; ErrExpired, ErrNotCovered and
// ErrClockSetBack, that it doesn't count now. None of them changes the license in use.
func (g *Gate) ActivateFile(data []byte) (Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), g.budget.all)
	defer cancel()
	if err := g.enterOffline(ctx); err != nil {
		return g.Status(), err
	}
	_, err := flight.Do(ctx, &g.flights, "file "+string(data), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, g.withSeat(ctx, func(ctx context.Context, rec record) error { return g.loadFile(ctx, rec, data) })
	})
	return g.Status(), g.callError(opActivate, err)
}

// loadFile is ActivateFile with the lock held.
func (g *Gate) loadFile(ctx context.Context, rec record, data []byte) error {
	text, err := lease.Unarmor(data, lease.KindLease)
	if err != nil {
		return fileError(err)
	}
	proof, err := g.readLease(text, g.fingerprints(&rec.state))
	if err != nil {
		return fileError(err)
	}
	want := lease.Want{
		OrganizationID: proof.OrganizationID, Fingerprint: proof.Fingerprint,
		Version: g.config.Version, Released: g.config.Released, Newest: rec.state.Newest,
	}
	if v := rec.verdict; v != nil && !proof.Issued.After(rec.state.Newest) {
		want.HighWater = v.latest() // a newer lease shows that the mark was wrong
	}
	if _, err := proof.Check(g.now(), want); err != nil {
		return notCoveredBy(fileError(err), proof, g.config.Version)
	}
	if !proof.Trial && !g.accepts(proof.BenefitID) {
		return &Error{Op: opActivate, Reason: ErrWrongBenefit}
	}
	s := seat{Machine: g.fingerprint(&rec.state), Label: g.label(&rec.state)}
	secret := ""
	if held := rec.state.Seat; held != nil {
		if rec.verdict.proven() && rec.verdict.proof.Text == proof.Text {
			return nil // it is in use
		}
		if held.activates((&seat{}).leased(leasedKey(Key{}, proof, ""))) {
			s.Key, s.Conditions = held.Key, held.Conditions
			if held.Lease != nil {
				secret = held.Lease.Secret
			}
		}
	}
	if rec.state.Request != nil {
		secret = rec.state.Request.Secret
	}
	license := leasedKey(newKey(s.Key), proof, secret)
	license.answeredAt = g.now() // the file may have taken days; its own clock proves nothing of now
	return g.settleSeat(ctx, rec, s.leased(license), license, false)
}

// fileError is why a license file doesn't count. err is a *lease.Error.
func fileError(err error) error {
	e := &Error{Op: opActivate, Reason: ErrBadLease, Err: err}
	switch {
	case errors.Is(err, lease.ErrOtherMachine):
		e.Reason, e.situation = ErrOtherMachine, fileElsewhere
	case errors.Is(err, lease.ErrOlder):
		e.situation = fileOlder
	case errors.Is(err, lease.ErrUnsupported), errors.Is(err, lease.ErrUnknownSigner):
		e.situation = fileUpdate
	case errors.Is(err, lease.ErrExpired):
		e.Reason, e.situation = ErrExpired, fileExpired
	case errors.Is(err, lease.ErrNotCovered):
		e.Reason = ErrNotCovered
	case errors.Is(err, lease.ErrClockBehind), errors.Is(err, lease.ErrNotYet):
		e.Reason, e.situation = ErrClockSetBack, fileClock
	}
	return e
}

// notCoveredBy has an error say what a license file covers, if that is what it is about.
func notCoveredBy(err error, proof *lease.Lease, version string) error {
	if e, ok := err.(*Error); ok && e.Reason == ErrNotCovered {
		e.covered = proof.CoversReleased
		if !proof.CoversVersion(version) {
			e.covers = proof.Covers
		}
	}
	return err
}

// OfflineReceipt returns the receipt of a computer that was deactivated without a network. The
// customer takes it to the vendor's page, which then counts the computer no longer. Call
// Deactivate first. It can be called again, and using a receipt twice does no harm. Without a
// deactivation by a license file, the error is ErrNoLicense.
func (g *Gate) OfflineReceipt() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), g.budget.all)
	defer cancel()
	if err := g.enterOffline(ctx); err != nil {
		return "", err
	}
	rec := g.reload(ctx)
	for _, s := range slices.Backward(rec.state.Outbox) {
		if s.Lease != nil && s.Lease.Secret != "" {
			return g.receiptFor(&s)
		}
	}
	return "", &Error{Op: "offline receipt", Reason: ErrNoLicense, store: rec.unread}
}

// enterOffline refuses calls that cannot be served.
func (g *Gate) enterOffline(ctx context.Context) error {
	if len(g.config.LeaseKeys) == 0 {
		return &InputError{"LeaseKeys", "is missing: license files need the public key that they are checked with"}
	}
	return g.enter(ctx)
}
