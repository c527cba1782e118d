package metrics

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// ServeHTTP answers with all metrics in Prometheus' text format, version 0.0.4.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	header.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = m.WriteTo(w)
}

// WriteTo writes all metrics in Prometheus' text format, for a file that a collector reads.
func (m *Metrics) WriteTo(w io.Writer) (int64, error) {
	var text bytes.Buffer
	for _, metric := range m.Gather() {
		name, kind := metric.Prometheus(), "gauge"
		if metric.Counter {
			kind = "counter"
		}
		fmt.Fprintf(&text, "# HELP %s %s\n# TYPE %s %s\n", name, inHelp.Replace(metric.Help), name, kind)
		for _, s := range metric.Samples {
			text.WriteString(name)
			for i, l := range s.Labels {
				text.WriteByte("{,"[min(i, 1)])
				fmt.Fprintf(&text, `%s="%s"`, l.Name, inLabel.Replace(strings.ToValidUTF8(l.Value, "�")))
			}
			if len(s.Labels) > 0 {
				text.WriteByte('}')
			}
			text.WriteByte(' ')
			text.WriteString(strconv.FormatFloat(s.Value, 'g', -1, 64))
			text.WriteByte('\n')
		}
	}
	return text.WriteTo(w)
}

// What the format has to have escaped.
var (
	inHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	inLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)
