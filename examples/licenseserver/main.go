// Licenseserver is a vendor's license server in one file: it issues leases to programs, over
// the network or, for computers without one, on a page.
//
// With nothing set, it starts an embedded Polar with license keys to try, makes a signing key
// that ends with it, listens on 127.0.0.1:8090 and prints how to start a program with it. With
// POLAR_ACCESS_TOKEN set, it asks the real Polar.
//
//	POST /lease     programs: a request is answered with a lease, a receipt with nothing
//	GET  /          the page for computers without a network
//	POST /offline   its form: a request or a receipt, as a file or as text
//	GET  /healthz   for a load balancer
//
// POLAR_ORGANIZATION_ID is the organization, and POLAR_API_URL another base URL, for a proxy or
// a test. LEASE_KEY is the private signing key, and LEASE_KEY_FILE a file with it: set one of
// them. Make it with polargate-keygen. LEASE_STATE is the folder for what was issued.
// POLARGATE_FEATURES lists the features that benefits unlock, as
// "benefit=feature,feature;benefit=…", and POLARGATE_POOLS the benefits that are floating, as
// "benefit=5;benefit=…", with how many computers may use a key at once. POLARGATE_TRIAL has each
// computer try the program once without a license key: it has the days and the features, as
// "14=feature,feature". ADDR is the address to listen on.
//
// Behind a proxy, all requests seem to come from one address: set issuer.Config.Address.
package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/examples/internal/setting"
	"github.com/polargate/polargate/lease"
	"github.com/polargate/polargate/lease/issuer"
	"github.com/polargate/polargate/polartest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	err := run(ctx, os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// drain is how long requests in progress may take once the server is told to end.
const drain = 10 * time.Second

func run(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer) error {
	config, client, err := configure(getenv)
	if err != nil {
		return err
	}
	config.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	var demo *demo
	if getenv("POLAR_ACCESS_TOKEN") == "" {
		if demo, err = newDemo(&config, &client); err != nil {
			return err
		}
		defer demo.close()
	}
	polar, err := polargate.NewClient(client)
	if err != nil {
		return err
	}
	defer polar.Close()
	config.Client = polar
	server, err := issuer.New(config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cmp.Or(getenv("ADDR"), "127.0.0.1:8090"))
	if err != nil {
		return fmt.Errorf("cannot listen: %w (set ADDR to another address, such as 127.0.0.1:8091, or 127.0.0.1:0 for any free port)", err)
	}
	address := "http://" + listener.Addr().String()
	web := &http.Server{Handler: routes(server), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(listener) }()
	fmt.Fprintf(stdout, "Listening on %s\n", address)
	if demo != nil {
		demo.introduce(stdout, address, config)
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(stdout, "Ending after the requests in progress.")
	patient, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if err := web.Shutdown(patient); err != nil {
		return fmt.Errorf("some requests were cut short: %w", err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// configure reads the environment.
func configure(getenv func(string) string) (config issuer.Config, client polargate.ClientConfig, err error) {
	client = polargate.ClientConfig{
		OrganizationID: getenv("POLAR_ORGANIZATION_ID"), AccessToken: getenv("POLAR_ACCESS_TOKEN"), BaseURL: getenv("POLAR_API_URL"),
		App: "polargate-licenseserver-example", Version: "1.0.0",
	}
	if config.Features, err = setting.Features(getenv("POLARGATE_FEATURES")); err != nil {
		return config, client, err
	}
	if config.Pools, err = pools(getenv("POLARGATE_POOLS")); err != nil {
		return config, client, err
	}
	if config.Trial, err = trial(getenv("POLARGATE_TRIAL")); err != nil {
		return config, client, err
	}
	if folder := getenv("LEASE_STATE"); folder != "" {
		config.Store = polargate.FileStore(folder)
	}
	text, file := getenv("LEASE_KEY"), getenv("LEASE_KEY_FILE")
	switch {
	case text != "" && file != "":
		return config, client, errors.New("LEASE_KEY and LEASE_KEY_FILE are both set: set one of them")
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return config, client, fmt.Errorf("LEASE_KEY_FILE: %w", err)
		}
		text = string(data)
	case text == "" && client.AccessToken != "":
		return config, client, errors.New("LEASE_KEY_FILE is not set: make a signing key with polargate-keygen, and set it to its file")
	}
	if text != "" {
		private, err := lease.ParsePrivateKey(text)
		if err != nil {
			return config, client, err
		}
		config.Key = private
	}
	return config, client, nil
}

// pools reads POLARGATE_POOLS.
func pools(text string) (map[string]issuer.Pool, error) {
	all := make(map[string]issuer.Pool)
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		benefit, number, _ := strings.Cut(part, "=")
		most, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil {
			return nil, errors.New("POLARGATE_POOLS must look like benefit=5;benefit=10")
		}
		all[strings.TrimSpace(benefit)] = issuer.Pool{Max: most, Borrow: 7 * 24 * time.Hour}
	}
	return all, nil
}

// trial reads POLARGATE_TRIAL.
func trial(text string) (issuer.Trial, error) {
	if text == "" {
		return issuer.Trial{}, nil
	}
	number, features, _ := strings.Cut(text, "=")
	days, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil {
		return issuer.Trial{}, errors.New("POLARGATE_TRIAL must look like 14 or 14=feature,feature")
	}
	t := issuer.Trial{Days: days}
	for name := range strings.SplitSeq(features, ",") {
		if name = strings.TrimSpace(name); name != "" {
			t.Features = append(t.Features, name)
		}
	}
	return t, nil
}

func routes(server *issuer.Issuer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /lease", server.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { show(w, http.StatusOK, view{}) })
	mux.HandleFunc("POST /offline", func(w http.ResponseWriter, r *http.Request) { offline(server, w, r) })
	mux.HandleFunc("GET /page.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		_, _ = io.WriteString(w, pageScript)
	})
	return http.NewCrossOriginProtection().Handler(mux)
}

// maxForm is more than a request in a mail takes.
const maxForm = 512 << 10

// view is what the page shows.
type view struct {
	Lease       string // armored; "" if none was issued
	Deactivated bool
	Problem     string
	Text, Key   string // as they were entered, after a problem
}

// offline answers the form: a request with a lease, a receipt with a deactivation.
func offline(server *issuer.Issuer, w http.ResponseWriter, r *http.Request) {
	if wait := server.RetryAfter(r); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
		show(w, http.StatusTooManyRequests, view{Problem: "Too many requests. Try again in a minute."})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	text, err := entered(r)
	if err != nil {
		show(w, http.StatusBadRequest, view{Problem: "The file couldn't be read. Choose the one that your program saved."})
		return
	}
	v := view{Text: string(text), Key: r.PostFormValue("key")}
	if bare, err := lease.Unarmor(text, lease.KindReceipt); err == nil {
		if receipt, err := lease.ParseReceipt(bare); err == nil {
			if err := server.Release(r.Context(), receipt); err != nil {
				v.Problem = issuer.Message(err)
				show(w, http.StatusConflict, v)
				return
			}
			show(w, http.StatusOK, view{Deactivated: true})
			return
		}
	}
	var request lease.Request
	bare, err := lease.Unarmor(text, lease.KindRequest)
	if err == nil {
		request, err = lease.ParseRequest(bare)
	}
	if err != nil {
		v.Problem = "This isn't a whole request. Save it again in your program, and choose that file here, or paste all of its text."
		show(w, http.StatusBadRequest, v)
		return
	}
	if v.Key != "" {
		request.Key = lease.NewSecret(v.Key)
	}
	if request.Key.IsZero() {
		v.Problem = "Enter your license key, too. You'll find it in your purchase email."
		show(w, http.StatusBadRequest, v)
		return
	}
	issued, err := server.Issue(r.Context(), request)
	if err != nil {
		v.Problem = issuer.Message(err)
		show(w, http.StatusConflict, v)
		return
	}
	show(w, http.StatusOK, view{Lease: lease.Armor(issued)})
}

// entered is the file of the form, or else its text.
func entered(r *http.Request) ([]byte, error) {
	file, _, err := r.FormFile("file")
	if err == nil {
		defer file.Close()
		data, err := io.ReadAll(file)
		if err != nil || len(data) > 0 {
			return data, err
		}
	} else if !errors.Is(err, http.ErrMissingFile) && !errors.Is(err, http.ErrNotMultipart) {
		return nil, err
	}
	return []byte(r.PostFormValue("request")), nil
}

func show(w http.ResponseWriter, status int, v view) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store") // a license key can be in it
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = page.Execute(w, v)
}

// File is the lease as a link that a browser saves.
func (v view) File() template.URL {
	return template.URL("data:application/octet-stream;base64," + base64.StdEncoding.EncodeToString([]byte(v.Lease)))
}

// pageScript takes the request out of the address that a phone scanned. What is behind the # of an address isn't sent to a server, so no log has it.
const pageScript = `"use strict";
const request = document.getElementById("request");
if (request !== null && request.value === "" && location.hash.length > 1) {
  request.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}
`

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Activate a computer without a network</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
  body { max-width: 38rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
  h1 { font-size: 1.5rem; line-height: 1.25; } label { display: block; font-weight: 600; margin-top: 1rem; }
  input, textarea { width: 100%; box-sizing: border-box; font: inherit; padding: .5rem; }
  input[name=key], textarea { font-family: ui-monospace, monospace; }
  textarea { font-size: .8rem; overflow-wrap: normal; white-space: pre; }
  button, .button { display: inline-block; font: inherit; min-height: 2.75rem; padding: .4rem 1.1rem; margin-top: 1.2rem; cursor: pointer; }
  .hint { margin: .2rem 0; font-size: .95rem; }
  [role=alert], [role=status] { border-left: .3rem solid; padding-left: .8rem; }
</style>
<script src="/page.js" defer></script>
<main>
{{if .Deactivated}}
<h1 id="headline">The computer was deactivated</h1>
<p role="status">You can use the license key on another computer now.</p>
<p><a href="/">Back</a></p>
{{else if .Lease}}
<h1 id="headline">Your license file is ready</h1>
<p role="status">Save it, take it to the computer that you want to activate, and open it in the program there.</p>
<p><a id="save" class="button" download="inkwell.lease" href="{{.File}}">Save the license file</a></p>
<label for="lease">Or copy its text</label>
<textarea id="lease" rows="12" readonly>{{.Lease}}</textarea>
<p><a href="/">Activate another computer</a></p>
{{else}}
<h1 id="headline">Activate a computer without a network</h1>
<p>In the program on that computer, choose “Activate without a network” and save the request. To deactivate a computer, use the receipt that the program saved.</p>
{{if .Problem}}<p role="alert" id="problem">{{.Problem}}</p>{{end}}
<form method="post" action="/offline" enctype="multipart/form-data">
  <label for="file">The file that the program saved</label>
  <input id="file" name="file" type="file">
  <label for="request">Or its text</label>
  <textarea id="request" name="request" rows="6" spellcheck="false">{{.Text}}</textarea>
  <label for="key">License key</label>
  <input id="key" name="key" type="text" maxlength="500" autocomplete="off" autocapitalize="off" spellcheck="false" aria-describedby="key-hint" value="{{.Key}}">
  <p id="key-hint" class="hint">You'll find it in your purchase email. A receipt needs none.</p>
  <button id="send">Continue</button>
</form>
{{end}}
</main>
</html>
`))

// demo is an embedded Polar with license keys to try.
type demo struct {
	polar         *polartest.Polar
	server        *polartest.Server
	desk, floated polartest.LicenseKey
}

func newDemo(config *issuer.Config, client *polargate.ClientConfig) (*demo, error) {
	polar := polartest.New(polartest.Config{})
	server, err := polar.Start()
	if err != nil {
		return nil, err
	}
	d := &demo{
		polar: polar, server: server,
		desk:    polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)}),
		floated: polar.AddKey(polartest.LicenseKey{}),
	}
	client.OrganizationID, client.BaseURL, client.AccessToken = polar.OrganizationID(), server.URL, polar.AddToken(polartest.Token{})
	config.Features = map[string][]string{d.desk.BenefitID: {"export", "sync"}, d.floated.BenefitID: {"export"}}
	config.Pools = map[string]issuer.Pool{d.floated.BenefitID: {Max: 2, Heartbeat: 10 * time.Second, Borrow: time.Hour}}
	if config.Key == nil {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		config.Key = private
	}
	return d, nil
}

func (d *demo) close() { _ = d.server.Close() }

// introduce prints how to try it.
func (d *demo) introduce(w io.Writer, address string, config issuer.Config) {
	public, _ := config.Key.Public().(ed25519.PublicKey)
	fmt.Fprintf(w, `
This is a demo on an embedded Polar. License keys to try:

  %s  for two computers
  %s  floating: for two computers at once

Start the desktop example with this license server:

  export POLAR_ORGANIZATION_ID=%s POLAR_API_URL=%s
  export POLARGATE_LEASE_URL=%s/lease POLARGATE_LEASE_KEYS=%s
  go run ./examples/desktop serve

The page for computers without a network is %s
`, d.desk.Key, d.floated.Key, d.polar.OrganizationID(), d.server.URL, address, lease.FormatPublicKey(public), address)
}
