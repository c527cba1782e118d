package polartest

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Request is one request as it came in, and what became of it.
type Request struct {
	// Method, Path, RawQuery and Header are as they came.
	Method, Path, RawQuery string
	Header                 http.Header
	// Body is what was sent, license key and all. It is empty for a body that Polar refused to read.
	Body []byte
	At   time.Time // by this Polar's clock
	// Client is the address that the rate limits count by.
	Client string
	// Status is what was answered, also if the answer was then lost; 0 if nothing was.
	Status int
	// Fault is the name of the fault that struck, as its constructor is called; empty if none did.
	Fault string
}

func (r *Request) clone() Request {
	c := *r
	c.Header = r.Header.Clone()
	c.Body = bytes.Clone(r.Body)
	return c
}

// Requests gives copies of all requests that arrived, in order, those struck by a fault included.
// What was sent while offline never arrived.
func (p *Polar) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Request, 0, len(p.records))
	for _, r := range p.records {
		out = append(out, r.clone())
	}
	return out
}

// Count is how many of [Polar.Requests] have a path that ends so: "/activate", or "" for all.
func (p *Polar) Count(pathSuffix string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, r := range p.records {
		if strings.HasSuffix(r.Path, pathSuffix) {
			n++
		}
	}
	return n
}

// ForgetRequests empties [Polar.Requests]. Keys, limits and faults stay.
func (p *Polar) ForgetRequests() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records = slices.Delete(p.records, 0, len(p.records))
}
