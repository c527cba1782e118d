package transport

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"unicode"
)

// proxySettingError is about a variable whose value can't be read as a proxy. It doesn't
// repeat the value, which may hold a password.
type proxySettingError struct{ variable string }

func (p *proxySettingError) Error() string {
	return "the variable " + p.variable + " does not name a proxy, such as http://proxy.example:3128"
}

func isProxyFromEnvironment(proxy func(*http.Request) (*url.URL, error)) bool {
	return proxy != nil && reflect.ValueOf(proxy).Pointer() == reflect.ValueOf(http.ProxyFromEnvironment).Pointer()
}

// Proxy is http.ProxyFromEnvironment, except in two cases. White space and quotation marks
// around the value of a variable don't count. And a variable that can't be read is an
// error instead of no proxy: a program that silently bypasses its proxy reaches nothing
// and can't say why.
func Proxy(environ func(string) string) func(*http.Request) (*url.URL, error) {
	settings := map[string]proxySetting{
		"http":  readProxySetting(environ, "HTTP_PROXY", "http_proxy"),
		"https": readProxySetting(environ, "HTTPS_PROXY", "https_proxy"),
	}
	if environ("REQUEST_METHOD") != "" {
		delete(settings, "http") // in CGI, the web server's client chooses it
	}
	if !settings["http"].odd && !settings["https"].odd {
		return http.ProxyFromEnvironment
	}
	except := cmp.Or(environ("NO_PROXY"), environ("no_proxy"))
	return func(r *http.Request) (*url.URL, error) {
		s := settings[r.URL.Scheme]
		switch {
		case !s.odd:
			return http.ProxyFromEnvironment(r)
		case s.address == nil && s.err == nil, goesDirect(r.URL, except):
			return nil, nil
		}
		return s.address, s.err
	}
}

// proxySetting is what a variable says.
type proxySetting struct {
	odd     bool // net/http reads it in another way
	address *url.URL
	err     error
}

func readProxySetting(environ func(string) string, names ...string) (s proxySetting) {
	for _, name := range names {
		value := environ(name)
		if value == "" {
			continue
		}
		text := strings.TrimFunc(value, func(r rune) bool {
			return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Quotation_Mark, unicode.Cf)
		})
		if text == "" {
			s.odd = true
			continue
		}
		address, err := parseProxy(text)
		if err != nil {
			return proxySetting{odd: true, err: &proxySettingError{name}}
		}
		return proxySetting{odd: s.odd || text != value, address: address}
	}
	return s
}

// parseProxy reads the address of a proxy, with or without a scheme.
func parseProxy(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err == nil && u.Hostname() == "" {
		err = errors.New("no host")
	}
	return u, err
}

// goesDirect reports whether NO_PROXY has an exception for a server, read as net/http does.
func goesDirect(u *url.URL, except string) bool {
	host, port := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	ip := net.ParseIP(host)
	if host == "localhost" || ip != nil && ip.IsLoopback() {
		return true
	}
	for part := range strings.SplitSeq(strings.ToLower(except), ",") {
		part = strings.TrimSpace(part)
		if part == "*" {
			return true
		}
		if _, network, err := net.ParseCIDR(part); err == nil {
			if ip != nil && network.Contains(ip) {
				return true
			}
			continue
		}
		if h, p, err := net.SplitHostPort(part); err == nil {
			if p != port {
				continue
			}
			part = h
		}
		part = strings.TrimPrefix(part, "*")
		switch other := net.ParseIP(part); {
		case part == "":
		case other != nil:
			if ip != nil && other.Equal(ip) {
				return true
			}
		case host == part, strings.HasSuffix(host, "."+strings.TrimPrefix(part, ".")):
			return true
		}
	}
	return false
}
