package licensepage

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// Serve shows the page in a browser of this computer until ctx ends, and returns nil then. It
// listens on a loopback port that the system chooses, and calls show with the address of the
// page: open it with [OpenURL], or print it. The address works once. The browser that opens it
// gets a cookie; other programs, other users of the computer and other sites stay outside.
//
// rest are the other pages of the program, if it has any: the license page is then at
// /license/, and rest gets all other requests. nil means that there are none.
func (p *Page) Serve(ctx context.Context, rest http.Handler, show func(link string)) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	all := http.Handler(p)
	if rest != nil {
		mux := http.NewServeMux()
		mux.Handle("/license/", http.StripPrefix("/license", p))
		mux.Handle("/", rest)
		all = mux
	}
	d := newDoor(p, listener.Addr().String())
	server := &http.Server{Handler: d.guard(all), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer func() { _ = p.Close() }()
	show(d.link())
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

// OpenURL opens an address in the user's browser, or a mailto: address in the mail program.
func OpenURL(url string) error {
	command := exec.Command("xdg-open", url)
	switch runtime.GOOS {
	case "darwin":
		command = exec.Command("open", url)
	case "windows":
		command = exec.Command("rundll32", "url.dll,FileProtocolHandler", url)
	}
	if err := command.Start(); err != nil {
		return err
	}
	go func() { _ = command.Wait() }()
	return nil
}

// door lets one browser in: the one with the link gets a cookie for it, once.
type door struct {
	page   *Page
	host   string // host and port, as a browser has to call it
	cookie string

	mu    sync.Mutex
	token string // "" once it was used
}

func newDoor(p *Page, host string) *door {
	return &door{page: p, host: host, cookie: rand.Text(), token: rand.Text()}
}

func (d *door) link() string { return "http://" + d.host + "/?token=" + d.token }

const sessionCookie = "license-page"

func (d *door) guard(inside http.Handler) http.Handler {
	inside = http.NewCrossOriginProtection().Handler(inside)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		switch {
		case r.Host != d.host:
			// Another name for this address: a page of that name could read it.
			http.Error(w, d.page.text("page.refused.address"), http.StatusMisdirectedRequest)
		case d.knows(r):
			if r.URL.Query().Has("token") {
				http.Redirect(w, r, r.URL.Path, http.StatusSeeOther)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			inside.ServeHTTP(w, r)
		case d.admit(r):
			http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: d.cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			http.Redirect(w, r, "/", http.StatusSeeOther)
		default:
			http.Error(w, d.page.text("page.refused.once"), http.StatusForbidden)
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
