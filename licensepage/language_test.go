package licensepage

import (
	"html"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lang"
	"github.com/stretchr/testify/assert"
)

func TestThePageIsWhollyInTheLanguageOfTheGate(t *testing.T) {
	t.Parallel()
	english := regexp.MustCompile(`(?i)\b(the|your|this|that|license|key|activate|check|until|computer's|with|try|please|back to)\b`)
	outside := regexp.MustCompile(`(?s)<style.*?</style>|<script.*?</script>|<[^>]*>`)
	attributes := regexp.MustCompile(`(?:alt|aria-label|title|data-\w+)="([^"]*)"`)
	for _, l := range []*polargate.Language{lang.German(), lang.French(), lang.Spanish(), lang.Portuguese(), lang.Japanese(), lang.Chinese()} {
		for _, s := range situations(t) {
			s.status.Message = l.Message(&polargate.Error{Op: "check", Reason: s.status.Reason})
			if s.status.Reason == "" {
				s.status.Message = l.Phrases["active"]
			}
			p := shown(&pretended{status: s.status, language: l, links: vendorLinks}, func(o *Options) { o.Home, o.Offline = "/", true })
			for _, path := range []string{"/", "/offline"} {
				for _, n := range []notice{{}, {Tone: "bad", Text: "–", Key: true, Buy: true, Full: true}} {
					n.seen = sight(s.status)
					p.notice = n
					w := httptest.NewRecorder()
					p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost"+path, nil))
					page := w.Body.String()
					assert.Contains(t, page, `<html lang="`+l.Tag+`"`)
					said := html.UnescapeString(outside.ReplaceAllString(page, " "))
					for _, found := range attributes.FindAllStringSubmatch(page, -1) {
						said += " " + html.UnescapeString(found[1])
					}
					assert.NotRegexp(t, english, said, "%s in %s", s.name, l.Tag)
					assert.NotContains(t, said, "{", "%s in %s", s.name, l.Tag)
				}
			}
		}
	}
	now := time.Date(2030, 3, 1, 12, 0, 0, 0, time.Local)
	p := shown(&pretended{language: lang.German()})
	assert.Equal(t, "24. März 2030, 12:00 Uhr (in 23 Tagen)", p.day(now.AddDate(0, 0, 23), now))
	assert.Equal(t, "2. März 2030, 12:00 Uhr (morgen)", p.day(now.AddDate(0, 0, 1), now))
	assert.Equal(t, "1. März 2030, 23:00 Uhr (heute)", p.day(now.Add(11*time.Hour), now))
	assert.Equal(t, "1. März 2030, 11:00 Uhr", p.day(now.Add(-time.Hour), now), "what is over isn't counted")
}
