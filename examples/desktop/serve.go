package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/polargate/polargate"
)

// serve shows the license page in the browser, until ctx ends.
func serve(ctx context.Context, gate *polargate.Gate, hasFiles bool, args []string, out io.Writer) error {
	openBrowser, err := serveFlags(args)
	if err != nil {
		return err
	}
	s := newSite(gate)
	if hasFiles {
		s.files = gate
	}
	return s.serve(ctx, openBrowser, out)
}

func serveFlags(args []string) (openBrowser bool, err error) {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	noBrowser := flags.Bool("no-browser", false, "")
	err = parse(flags, args)
	return !*noBrowser, err
}

func (s *site) serve(ctx context.Context, openBrowser bool, out io.Writer) error {
	// The system chooses a port, which only this computer can reach.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	door := newDoor(listener.Addr().String())
	link := door.link()
	fmt.Fprintf(out, "The license page is at\n\n  %s\n\nThe address works once. Press Ctrl-C to quit.\n", link)
	if openBrowser {
		if err := openPage(link); err != nil {
			fmt.Fprintln(out, "No browser could be started. Open the address yourself.")
		}
	}

	// The page stays current while it is open.
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = s.license.Run(ctx) })
	defer running.Wait()
	defer s.stop()
	defer cancel()

	server := &http.Server{Handler: door.guard(s.routes()), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	patient, done := context.WithTimeout(context.Background(), 2*time.Second)
	defer done()
	if err := server.Shutdown(patient); err != nil {
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// openPage starts the user's browser.
func openPage(link string) error {
	command := exec.Command("xdg-open", link)
	switch runtime.GOOS {
	case "darwin":
		command = exec.Command("open", link)
	case "windows":
		command = exec.Command("rundll32", "url.dll,FileProtocolHandler", link)
	}
	if err := command.Start(); err != nil {
		return err
	}
	go func() { _ = command.Wait() }()
	return nil
}

// door lets one browser in: who has the link from the terminal gets a cookie for
// it, once. Other programs and users of the computer, and pages of other sites,
// stay outside.
type door struct {
	host   string // host and port, as a browser has to call it
	cookie string

	mu    sync.Mutex
	token string // "" once it was used
}

func newDoor(host string) *door {
	return &door{host: host, cookie: rand.Text(), token: rand.Text()}
}

func (d *door) link() string { return "http://" + d.host + "/?token=" + d.token }

const sessionCookie = "license-page"

func (d *door) guard(inside http.Handler) http.Handler {
	inside = http.NewCrossOriginProtection().Handler(inside)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		switch {
		case r.Host != d.host:
			// Another name for this address: a page of that name could read it.
			http.Error(w, "This isn't the address that the program printed.", http.StatusMisdirectedRequest)
		case d.knows(r):
			if r.URL.RawQuery != "" {
				http.Redirect(w, r, r.URL.Path, http.StatusSeeOther)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			inside.ServeHTTP(w, r)
		case d.admit(r):
			http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: d.cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			http.Redirect(w, r, "/", http.StatusSeeOther)
		default:
			http.Error(w, "Open the address that the program printed. It works once: if you've used it, restart the program.", http.StatusForbidden)
		}
	})
}

func (d *door) knows(r *http.Request) bool {
	c, err := r.Cookie(sessionCookie)
	return err == nil && subtle.ConstantTimeCompare([]byte(c.Value), []byte(d.cookie)) == 1
}

func (d *door) admit(r *http.Request) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	given := r.URL.Query().Get("token")
	if r.Method != http.MethodGet || r.URL.Path != "/" || d.token == "" || subtle.ConstantTimeCompare([]byte(given), []byte(d.token)) != 1 {
		return false
	}
	d.token = ""
	return true
}

// maxForm is more than a license key takes, and the text of the toy.
const maxForm = 64 << 10
