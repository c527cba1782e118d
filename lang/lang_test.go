package lang

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/licensepage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var all = map[string]func() *polargate.Language{
	"de": German, "fr": French, "es": Spanish, "pt-BR": Portuguese, "ja": Japanese, "zh-Hans": Chinese,
}

// english is all there is to translate.
func english() map[polargate.Phrase]string {
	phrases := polargate.Phrases()
	maps.Copy(phrases, licensepage.Phrases())
	for name := range phrases {
		if forServers.MatchString(string(name)) {
			delete(phrases, name)
		}
	}
	return phrases
}

// forServers are the phrases that only whoever runs a server reads, in a log. They stand beside
// technical details that are English too.
var forServers = regexp.MustCompile(`^(misconfigured\.(server|customers|lists|field|scope|session|team|members)|unknown_key\.id|in_doubt\.(rotated|assigned)|denied\.server|unknown_customer\.(server|member)|unreachable\.server|seat_released\.server|closed\.customers)(\.do)?$`)

var field = regexp.MustCompile(`\{\w+\}`)

func fields(text string) []string {
	found := field.FindAllString(text, -1)
	slices.Sort(found)
	return slices.Compact(found)
}

func TestEveryLanguageHasEveryPhraseWithItsFieldsAndNoOther(t *testing.T) {
	t.Parallel()
	wanted := english()
	require.Greater(t, len(wanted), 300)
	for tag, language := range all {
		l := language()
		assert.Equal(t, tag, l.Tag)
		for name, text := range wanted {
			own, ok := l.Phrases[name]
			if assert.True(t, ok, "lang/%s.txt has no %s: %q", tag, name, text) {
				assert.Equal(t, fields(text), fields(own), "%s of %s: %q", name, tag, text)
				assert.Equal(t, strings.TrimSpace(own), own, "%s of %s", name, tag)
				assert.NotContains(t, own, "%", "%s of %s", name, tag)
			}
		}
		for name := range l.Phrases {
			assert.Contains(t, wanted, name, "lang/%s.txt has a phrase that doesn't exist", tag)
		}
	}
}

// same are phrases that a language has as English has them.
var same = map[string]string{
	"de": "page.in report.server report.proxy report.pause report.installation report.problem", "fr": "report.proxy report.pause report.activation report.installation report.one_activation report.activations",
	"es": "report.proxy", "pt-BR": "report.proxy",
}

// foreign are English words that none of these languages has.
var foreign = regexp.MustCompile(`(?i)\b(the|your|you|this|that|with|isn't|can't|couldn't|doesn't|please|try again|license|key|keys|activate|activated|computer's|customer|support's|check|unknown|until|behind|ahead|uses)\b`)

// names are words that are the same everywhere.
var names = regexp.MustCompile(`HTTPS?_PROXY|http://\S+|sudo chown -R \$USER|systemd|StateDirectory|HOME|Wi-Fi|QR|\{\w+\}`)

func TestNoEnglishIsLeft(t *testing.T) {
	t.Parallel()
	wanted := english()
	for tag, language := range all {
		for name, text := range language().Phrases {
			said := names.ReplaceAllString(text, "")
			assert.NotRegexp(t, foreign, said, "%s of %s", name, tag)
			if field.ReplaceAllString(text, "") != "" && regexp.MustCompile(`\pL`).MatchString(field.ReplaceAllString(text, "")) && !slices.Contains(strings.Fields(same[tag]), string(name)) {
				assert.NotEqual(t, wanted[name], text, "%s of %s", name, tag)
			}
			if tag == "ja" || tag == "zh-Hans" {
				assert.NotRegexp(t, `[a-z]{3,}`, regexp.MustCompile(`root|Web|ID`).ReplaceAllString(said, ""), "%s of %s", name, tag)
			}
		}
	}
}

func TestPhrasesAreShapedLikeTheEnglishOnes(t *testing.T) {
	t.Parallel()
	wanted := english()
	for tag, language := range all {
		for name, text := range language().Phrases {
			want := wanted[name]
			ends := strings.HasSuffix(text, ".") || strings.HasSuffix(text, "。")
			if strings.HasSuffix(string(name), ".do") {
				assert.True(t, ends, "%s of %s is a whole sentence", name, tag)
			} else if !strings.HasSuffix(want, ".") && !strings.HasPrefix(string(name), "page.link") {
				assert.False(t, ends, "%s of %s stands in a sentence or is none", name, tag)
			}
			assert.Equal(t, strings.HasSuffix(want, "…"), strings.HasSuffix(text, "…"), "%s of %s", name, tag)
		}
	}
}

func TestMessagesDoNotLeakEnglishAndJoinTheirSentencesAsTheLanguageDoes(t *testing.T) {
	t.Parallel()
	for tag, language := range all {
		l := language()
		said := func(text string) {
			assert.NotRegexp(t, foreign, names.ReplaceAllString(text, ""), tag)
			assert.NotContains(t, text, "{", tag)
			assert.NotRegexp(t, `。 |\.\.|。。`, text, tag)
			assert.NotRegexp(t, `^\p{Ll}`, text, "%s: a sentence starts with a capital letter", tag)
		}
		for name := range english() {
			reason := polargate.Reason(name)
			if english()[name+".do"] == "" || strings.Contains(string(name), ".") {
				continue
			}
			said(l.Message(&polargate.Error{Op: "check", Reason: reason, RetryAfter: 90 * time.Second}))
			said(l.Message(&polargate.Error{Op: "check", Reason: reason, Err: &polargate.Error{Op: "validate", Reason: polargate.ErrUnreachable}}))
		}
		said(l.Message(&polargate.StoreError{Op: "save", Err: os.ErrPermission}))
		for _, pasted := range []string{
			"", strings.Repeat("k", 600), "****-0A1B2C", "A\nB", "A\tB", "A\x1eB", "A\xffB", "8224EВ8D", "Inkwell Pro: ONE-1", "License key: ONE- 1",
			"8224EB8D-5310-4D2C-B21D-72338A766D45 9224EB8D-5310-4D2C-B21D-72338A766D45", "8224EB8D-5310-4D2C-B21D-72338A766D45 (three)",
		} {
			_, err := polargate.ParseKey(pasted)
			require.Error(t, err)
			said(l.Message(err))
		}
	}
}

func TestTimesAndDurationsAreWrittenAsTheLanguageWritesThem(t *testing.T) {
	t.Parallel()
	first, later := time.Date(2030, 3, 1, 9, 5, 0, 0, time.Local), time.Date(2030, 12, 24, 22, 30, 0, 0, time.Local)
	for tag, want := range map[string][]string{
		"de":      {"1. März 2030, 09:05 Uhr", "24. Dezember 2030, 22:30 Uhr", "einigen Sekunden", "20 Sekunden", "einer Minute", "2 Minuten", "einer Stunde", "5 Stunden", "3 Tagen"},
		"fr":      {"1er mars 2030 à 09:05", "24 décembre 2030 à 22:30", "quelques secondes", "20 secondes", "une minute", "2 minutes", "une heure", "5 heures", "3 jours"},
		"es":      {"1 de marzo de 2030, 09:05", "24 de diciembre de 2030, 22:30", "unos segundos", "20 segundos", "un minuto", "2 minutos", "una hora", "5 horas", "3 días"},
		"pt-BR":   {"1º de março de 2030, 09:05", "24 de dezembro de 2030, 22:30", "alguns segundos", "20 segundos", "um minuto", "2 minutos", "uma hora", "5 horas", "3 dias"},
		"ja":      {"2030年3月1日 09:05", "2030年12月24日 22:30", "数秒", "20秒", "1分", "2分", "1時間", "5時間", "3日"},
		"zh-Hans": {"2030年3月1日 09:05", "2030年12月24日 22:30", "几秒", "20秒", "1分钟", "2分钟", "1小时", "5小时", "3天"},
	} {
		l := all[tag]()
		got := []string{l.FormatTime(first), l.FormatTime(later)}
		for _, d := range []time.Duration{time.Second, 20 * time.Second, time.Minute, 90 * time.Second, time.Hour, 5 * time.Hour, 72 * time.Hour} {
			got = append(got, l.FormatDuration(d))
		}
		assert.Equal(t, want, got, tag)
	}
}

func TestPluralsFollowTheRulesOfTheLanguage(t *testing.T) {
	t.Parallel()
	for n, want := range map[int][3]bool{0: {false, true, false}, 1: {true, true, false}, 2: {false, false, false}, 21: {false, false, false}} {
		assert.Equal(t, want, [3]bool{onlyOne(n), upToOne(n), never(n)}, n)
	}
	for tag, want := range map[string]string{"de": "nach 1 Zeichen", "fr": "après 1 caractère", "es": "después de 1 carácter", "pt-BR": "depois de 1 caractere", "ja": "1文字目の後", "zh-Hans": "第1个字符"} {
		_, err := polargate.ParseKey("A\nB")
		assert.Contains(t, all[tag]().Message(err), want)
		_, err = polargate.ParseKey("ABC\nB")
		assert.Contains(t, all[tag]().Message(err), "3", tag)
	}
}

func TestALanguageIsFoundByTheTagsThatSystemsGive(t *testing.T) {
	for tag, want := range map[string]string{
		"de": "de", "de-AT": "de", "de_DE.UTF-8": "de", "DE": "de", "fr_CA.UTF-8@euro": "fr", "es-419": "es", "pt": "pt-BR", "pt-PT": "pt-BR", "ja-JP": "ja",
		"zh": "zh-Hans", "zh-CN": "zh-Hans", "zh-Hans-HK": "zh-Hans", "zh_TW": "", "zh-Hant": "", "en": "", "C": "", "C.UTF-8": "", "": "", "xx": "", "den": "",
	} {
		found := Find(tag)
		if want == "" {
			assert.Nil(t, found, tag)
		} else if assert.NotNil(t, found, tag) {
			assert.Equal(t, want, found.Tag)
		}
	}
	for _, variable := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		t.Setenv(variable, "")
	}
	assert.Nil(t, FromEnvironment())
	t.Setenv("LANG", "ja_JP.UTF-8")
	assert.Equal(t, "ja", FromEnvironment().Tag)
	t.Setenv("LC_ALL", "C")
	assert.Nil(t, FromEnvironment(), "who asks for no language gets English")
}

func TestAGateAndItsPageTakeEveryLanguage(t *testing.T) {
	t.Parallel()
	for tag, language := range all {
		gate, err := polargate.Open(polargate.Config{OrganizationID: "11111111-1111-4111-8111-111111111111", Store: &polargate.MemoryStore{}, Language: language()})
		require.NoError(t, err, tag)
		t.Cleanup(func() { _ = gate.Close() })
		assert.Equal(t, tag, gate.Language().Tag)
		assert.Equal(t, language().Phrases["page.no_license"], licensepage.Headline(gate.Status(), gate.Language()))
		assert.NotRegexp(t, foreign, names.ReplaceAllString(gate.Status().Message, ""))
	}
}

// The glossary and the files agree: whoever changes a term changes it everywhere.
func TestTheGlossaryNamesTermsThatTheTranslationsUse(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "docs", "translations.md"))
	require.NoError(t, err)
	tags := []string{"de", "fr", "es", "pt-BR", "ja", "zh-Hans"}
	terms := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != len(tags)+1 || strings.Contains(line, "---") || strings.Contains(line, "pt-BR") {
			continue
		}
		terms++
		for i, tag := range tags {
			var whole strings.Builder
			for _, text := range all[tag]().Phrases {
				fmt.Fprintln(&whole, strings.ToLower(text))
			}
			assert.Contains(t, whole.String(), strings.ToLower(strings.TrimSpace(cells[i+1])), "%s of %s", cells[0], tag)
		}
	}
	assert.GreaterOrEqual(t, terms, 10)
}
