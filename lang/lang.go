// Package lang has what package polargate and its license page say to customers in other
// languages: German, French, Spanish, Portuguese, Japanese and Chinese. Messages, times,
// durations, plurals, mistyped keys, the report for support and the license page are all there.
//
//	polargate.Config{Language: lang.Find(userLanguage)}
//
// A program links only the languages whose functions it calls; [Find] links them all. What only
// whoever runs a server reads stays English.
package lang

import (
	_ "embed"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/spoken"
)

//go:embed de.txt
var german string

// German addresses the user as "Sie".
func German() *polargate.Language { return read("de", german, onlyOne) }

//go:embed fr.txt
var french string

// French addresses the user as "vous".
func French() *polargate.Language { return read("fr", french, upToOne) }

//go:embed es.txt
var spanish string

// Spanish addresses the user as "usted".
func Spanish() *polargate.Language { return read("es", spanish, onlyOne) }

//go:embed pt-BR.txt
var portuguese string

// Portuguese is that of Brazil. It addresses the user as "você".
func Portuguese() *polargate.Language { return read("pt-BR", portuguese, upToOne) }

//go:embed ja.txt
var japanese string

// Japanese is in polite form.
func Japanese() *polargate.Language { return read("ja", japanese, never) }

//go:embed zh-Hans.txt
var chinese string

// Chinese is in simplified characters.
func Chinese() *polargate.Language { return read("zh-Hans", chinese, never) }

// Find returns the language of a tag such as "de", "pt-BR", "zh-Hans-CN" or "fr_CA.UTF-8". It
// returns nil, which means English, if there is no translation: also for Chinese in traditional
// characters.
func Find(tag string) *polargate.Language {
	tag, _, _ = strings.Cut(tag, ".")
	tag, _, _ = strings.Cut(tag, "@")
	parts := strings.FieldsFunc(strings.ToLower(tag), func(r rune) bool { return r == '-' || r == '_' })
	if len(parts) == 0 {
		return nil
	}
	switch parts[0] {
	case "de":
		return German()
	case "fr":
		return French()
	case "es":
		return Spanish()
	case "pt":
		return Portuguese()
	case "ja":
		return Japanese()
	case "zh":
		for _, part := range parts[1:] {
			switch part {
			case "hans":
				return Chinese()
			case "hant", "tw", "hk", "mo":
				return nil
			}
		}
		return Chinese()
	}
	return nil
}

// FromEnvironment returns the language that LC_ALL, LC_MESSAGES or LANG name, as [Find] does. It
// is for command lines on Unix; other systems say in another way what language their user reads.
func FromEnvironment() *polargate.Language {
	for _, variable := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if value := os.Getenv(variable); value != "" {
			return Find(value)
		}
	}
	return nil
}

// When a language has the form for one. None of these has more than two forms for a number that
// is whole and small: Unicode's "many" of French, Spanish and Portuguese is for millions.
func onlyOne(n int) bool { return n == 1 }
func upToOne(n int) bool { return n <= 1 }
func never(int) bool     { return false }

// own are the names in a file that are no phrases: how a language writes times and durations.
var own = map[string]bool{
	"months": true, "date": true, "first": true, "few": true, "seconds": true, "minute": true, "minutes": true,
	"hour": true, "hours": true, "day": true, "days": true,
}

// read reads a file of "name: text" lines.
func read(tag, file string, one func(int) bool) *polargate.Language {
	phrases, words := map[polargate.Phrase]string{}, map[string]string{}
	for line := range strings.SplitSeq(file, "\n") {
		name, text, ok := strings.Cut(strings.TrimRight(line, "\r"), ": ")
		switch {
		case !ok:
		case own[name]:
			words[name] = text
		default:
			phrases[polargate.Phrase(name)] = text
		}
	}
	return &polargate.Language{
		Tag:      tag,
		Phrases:  phrases,
		Time:     func(t time.Time) string { return formatTime(words, t.Local()) },
		Duration: func(d time.Duration) string { return formatDuration(words, one, d) },
	}
}

func formatTime(words map[string]string, t time.Time) string {
	day, month := strconv.Itoa(t.Day()), strconv.Itoa(int(t.Month()))
	if first := words["first"]; first != "" && t.Day() == 1 {
		day = first
	}
	if months := strings.Fields(words["months"]); len(months) == 12 {
		month = months[t.Month()-1]
	}
	return strings.NewReplacer("{day}", day, "{month}", month, "{year}", strconv.Itoa(t.Year()), "{time}", t.Format("15:04")).Replace(words["date"])
}

// units are the names of a unit: for one, and for any number.
var units = map[spoken.Unit]struct{ one, many string }{
	spoken.Seconds: {"", "seconds"}, spoken.Minutes: {"minute", "minutes"}, spoken.Hours: {"hour", "hours"}, spoken.Days: {"day", "days"},
}

func formatDuration(words map[string]string, one func(int) bool, d time.Duration) string {
	n, unit := spoken.Round(d)
	if unit == spoken.Moment {
		return words["few"]
	}
	text := words[units[unit].many]
	if single := words[units[unit].one]; single != "" && one(n) {
		text = single
	}
	return strings.ReplaceAll(text, "{n}", strconv.Itoa(n))
}
