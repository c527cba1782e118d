// Package refusalpage decides in which form a request is refused, a page or JSON, and makes the
// page. It promises that the page loads nothing and that no redirect leads back to itself.
// It knows nothing of why a request is refused, and writes no answers.
package refusalpage

import (
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// template is the page: a heading, a sentence, and at most a link.
const template = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%[1]s</title>
<style>
:root { color-scheme: light dark; font: 1.125rem/1.5 system-ui, sans-serif; }
body { max-width: 36rem; margin: 15vh auto 0; padding: 0 1rem; overflow-wrap: anywhere; }
</style>
</head>
<body>
<main>
<h1>%[1]s</h1>
<p>%[2]s</p>
%[3]s</main>
</body>
</html>
`

// Policy is the Content-Security-Policy of a page: its style is allowed, and nothing else.
const Policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

// Page is a page for a person. It loads nothing, so it also works while everything else is
// down. plans leads to your plans, or is nil.
func Page(heading, text string, plans *url.URL) string {
	more := ""
	if plans != nil {
		more = `<p><a href="` + escape.Replace(plans.String()) + `">See plans and pricing</a></p>` + "\n"
	}
	return fmt.Sprintf(template, escape.Replace(heading), escape.Replace(text), more)
}

// escape is html.EscapeString. Package html links its table of every entity into each program,
// also into those that show no page.
var escape = strings.NewReplacer("&", "&amp;", "'", "&#39;", "<", "&lt;", ">", "&gt;", `"`, "&#34;")

// Plans is the page to which a refusal sends people, from its address: nil if the address is
// none, or if it is the page that was requested, which would redirect them forever.
func Plans(r *http.Request, address string) *url.URL {
	link, err := url.Parse(address)
	if err != nil || address == "" || link.Opaque != "" || !slices.Contains([]string{"", "http", "https"}, link.Scheme) {
		return nil
	}
	// RequestURI is what the browser requested: http.StripPrefix and routers change URL.
	asked, err := url.ParseRequestURI(r.RequestURI)
	if err != nil {
		asked = r.URL
	}
	there := (&url.URL{Path: asked.Path, RawQuery: asked.RawQuery}).ResolveReference(link)
	forwarded, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Host"), ",")
	if there.Host != "" && !sameHost(there.Host, r.Host) && !sameHost(there.Host, strings.TrimSpace(forwarded)) {
		return link
	}
	if cleanPath(there.Path) != cleanPath(asked.Path) {
		return link
	}
	// The request may have more in its query, such as a tracking parameter.
	query := asked.Query()
	for name, values := range there.Query() {
		for _, value := range values {
			if !slices.Contains(query[name], value) {
				return link
			}
		}
	}
	return nil
}

func cleanPath(p string) string { return path.Clean("/" + p) }

// sameHost compares hosts without the ports that stand for http and https: proxies
// between here and the browser may use either.
func sameHost(a, b string) bool {
	name := func(host string) string {
		if name, port, err := net.SplitHostPort(host); err == nil && (port == "80" || port == "443" || port == "") {
			host = name
		}
		return strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	}
	return strings.EqualFold(name(a), name(b))
}

// Navigates reports whether a browser requests a page to show, so that it can be
// redirected. A script in the background may not follow to another origin, and would take
// what it finds there for what it asked for.
func Navigates(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	// Browsers send no mode to servers without TLS, and sent none until 2023.
	for _, name := range []string{"Origin", "Hx-Request", "Turbo-Frame", "X-Turbo-Request-Id", "X-Inertia", "X-Pjax", "X-Up-Version"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	return !strings.EqualFold(r.Header.Get("X-Requested-With"), "XMLHttpRequest")
}

// offer is how well a kind of answer fits Accept (RFC 9110, 12.5.1).
type offer struct {
	exact  int // 3 if the kind is named, 2 for its family, 1 for anything, 0 if it is not there
	weight float64
	place  int // in the list
}

// consider adds a range of an Accept that names the kind so exactly.
func (o *offer) consider(exact int, weight float64, place int) {
	if exact > o.exact || exact > 0 && exact == o.exact && weight > o.weight {
		*o = offer{exact, weight, place}
	}
}

// PrefersPage reports whether a page fits the request's Accept better than JSON: by weight,
// then by the more exact range, then by order.
func PrefersPage(r *http.Request) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	var page, report offer
	place := 0
	for accepted := range strings.SplitSeq(accept, ",") {
		kind, parameters, err := mime.ParseMediaType(accepted)
		if err != nil {
			continue
		}
		weight := 1.0
		if q, ok := parameters["q"]; ok {
			if weight, err = strconv.ParseFloat(q, 64); err != nil || !(weight >= 0 && weight <= 1) {
				continue
			}
		}
		place++
		switch {
		case kind == "text/html":
			page.consider(3, weight, place)
		case strings.HasSuffix(kind, "json"):
			report.consider(3, weight, place)
		case kind == "text/*":
			page.consider(2, weight, place)
		case kind == "application/*":
			report.consider(2, weight, place)
		case kind == "*/*" || kind == "*":
			page.consider(1, weight, place)
			report.consider(1, weight, place)
		}
	}
	switch {
	case page.weight != report.weight:
		return page.weight > report.weight
	case page.exact != report.exact:
		return page.exact > report.exact && page.weight > 0
	case page.place != report.place:
		return page.place < report.place && page.weight > 0
	}
	return r.Header.Get("Sec-Fetch-Mode") == "navigate" && (page.weight > 0 || accept == "")
}
