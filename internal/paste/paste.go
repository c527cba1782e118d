// Package paste finds a license key in a text that a person pasted. It removes what certainly
// isn't part of a key, and reports what may or may not be. It never drops a character that a
// key could contain, and doesn't know whether the key is valid.
package paste

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// How a license key is found in what a person pasted.
//
// A key that Polar makes is a random UUID in capital letters, after the benefit's prefix and a
// dash if there is a prefix. If a text has exactly one key of that form, it is clear where
// the key ends and what isn't part of it. Any other text may be a key that the vendor
// imported, so less is removed: only what no key contains. Letters keep their case. What may
// or may not be part of a key is never dropped silently: it stays, or it is reported.

// maxPasted is the longest text that is searched for a key. A whole purchase email is longer.
const maxPasted = 4 << 10

// Kind says why there is no key in a text.
type Kind string

const (
	// TooLong: the text is too long to be searched.
	TooLong Kind = "too_long"
	// Masked: the key is hidden behind asterisks.
	Masked Kind = "masked"
	// Two: the text has more than one key.
	Two Kind = "two"
	// Behind: the key is followed by something else.
	Behind Kind = "behind"
	// LookAlike: Char only looks like a Latin letter.
	LookAlike Kind = "look_alike"
	// LineBreak, Tab, Control and Bytes don't belong in a key. Control is Char, and Bytes are no
	// text.
	LineBreak Kind = "line_break"
	Tab       Kind = "tab"
	Control   Kind = "control"
	Bytes     Kind = "bytes"
	// Colon: what stands before it may be a label.
	Colon Kind = "colon"
	// Space: it stands on one side of a dash.
	Space Kind = "space"
)

// Problem is why there is no key in a text, and after how many characters. It doesn't repeat
// the text. The zero value is no problem.
type Problem struct {
	Kind  Kind
	After int
	Char  rune
}

// Clean returns the key in a pasted text. If there is none, the key is empty and the problem
// says why.
func Clean(pasted string) (text string, problem Problem) {
	text = fromUTF16(pasted)
	if isPlain(text) {
		return text, Problem{}
	}
	// Each round removes a layer: for example a label, and then the quotes behind it.
	for {
		before := text
		text = trimKey(text)
		if len(text) > maxPasted {
			return "", Problem{Kind: TooLong}
		}
		if i := firstInvalid(text); i >= 0 {
			return "", at(Bytes, text[:i])
		}
		text = plainLines(softHyphens(text))
		for layer := ""; layer != text; {
			layer = text
			text = unwrap(trimKey(text))
		}
		if strings.HasPrefix(text, "****") {
			return "", Problem{Kind: Masked}
		}
		polarMade := false
		if text, polarMade, problem = onlyKey(text); problem.Kind != "" {
			return "", problem
		}
		if !polarMade {
			text = fold(text)
		}
		if text == before {
			break
		}
	}
	if i := strings.IndexFunc(text, unicode.IsControl); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		problem = at(Control, text[:i])
		problem.Char = r
		switch r {
		case '\n':
			problem.Kind = LineBreak
		case '\t':
			problem.Kind = Tab
		}
		return "", problem
	}
	if i := lookAlike(text); i >= 0 {
		problem = at(LookAlike, text[:i])
		problem.Char, _ = utf8.DecodeRuneInString(text[i:])
		return "", problem
	}
	return text, Problem{}
}

// isPlain reports whether there is nothing to remove from a text.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// fromUTF16 reads a text that Windows programs call "Unicode". It is recognized by the mark
// at its beginning.
func fromUTF16(s string) string {
	var order binary.ByteOrder
	switch {
	case len(s)%2 != 0:
		return s
	case strings.HasPrefix(s, "\xff\xfe"):
		order = binary.LittleEndian
	case strings.HasPrefix(s, "\xfe\xff"):
		order = binary.BigEndian
	default:
		return s
	}
	units := make([]uint16, 0, len(s)/2)
	for b := []byte(s[2:]); len(b) > 0; b = b[2:] {
		units = append(units, order.Uint16(b))
	}
	return string(utf16.Decode(units))
}

func firstInvalid(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return -1
}

// at is a problem behind a text: after how many characters that can be seen.
func at(kind Kind, before string) Problem {
	n := 0
	for _, r := range before {
		if !invisible(r) {
			n++
		}
	}
	return Problem{Kind: kind, After: n}
}

// trimKey removes from both ends what is easily copied with a key: white space, quotation
// marks of any script, back ticks, invisible characters, and the marks that a terminal puts
// around a paste.
func trimKey(s string) string {
	for {
		trimmed := strings.TrimFunc(s, func(r rune) bool {
			return r == '`' || unicode.IsSpace(r) || unicode.In(r, unicode.Quotation_Mark, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point)
		})
		trimmed = strings.TrimSuffix(strings.TrimPrefix(trimmed, "\x1b[200~"), "\x1b[201~")
		if trimmed == s {
			return s
		}
		s = trimmed
	}
}

// invisible reports whether a character shows nothing, wherever it is.
func invisible(r rune) bool {
	return r >= 0x80 && unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) && !unicode.Is(unicode.Prepended_Concatenation_Mark, r)
}

// softHyphens turns soft hyphens into dashes if that results in a key of Polar's form: some
// programs write them for dashes. Otherwise they are invisible.
func softHyphens(s string) string {
	const soft = "\u00ad"
	if !strings.Contains(s, soft) {
		return s
	}
	if start, _ := findUUID(foldForms(s), 0); start >= 0 {
		return s
	}
	hard := strings.ReplaceAll(s, soft, "-")
	if start, _ := findUUID(foldForms(hard), 0); start >= 0 {
		return hard
	}
	return s
}

// plainLines makes all line ends the same, and removes what mail programs add to lines:
// spaces, quotation marks such as ">", and the "=" at the end of a line that was cut.
func plainLines(s string) string {
	if !strings.ContainsAny(s, "\n\r\v\f\u0085\u2028\u2029") {
		return s
	}
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\v", "\n", "\f", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimFunc(line, func(r rune) bool { return unicode.IsSpace(r) || invisible(r) })
		if i > 0 {
			lines[i] = strings.TrimLeft(lines[i], "> ")
		}
	}
	var b strings.Builder
	for i, line := range lines {
		cut, soft := strings.CutSuffix(line, "=")
		if soft && i < len(lines)-1 && lines[i+1] != "" && cut != "" && !strings.HasSuffix(cut, "=") && !isLabel(cut) {
			b.WriteString(cut)
			continue
		}
		b.WriteString(line)
		if i < len(lines)-1 {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// unwrap removes what emails and chats have around a key: marks of emphasis and of lists,
// angle brackets, a label before the key, and a full stop after it.
func unwrap(s string) string {
	if inner, ok := between(s, "<", ">"); ok && !strings.ContainsAny(inner, "<>") {
		return inner
	}
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		if name, inner, ok := strings.Cut(s[1:], ">"); ok {
			name, _, _ = strings.Cut(name, " ")
			if inner, ok := strings.CutSuffix(inner, "</"+name+">"); ok {
				return inner
			}
		}
	}
	for _, mark := range []string{"**", "*", "~~", "__"} {
		if inner, ok := between(s, mark, mark); ok && !strings.HasPrefix(s, "****") {
			return inner
		}
	}
	for _, pair := range []string{"()", "[]", "{}"} {
		if inner, ok := between(s, pair[:1], pair[1:]); ok && endsInUUID(inner) {
			return inner
		}
	}
	for _, mark := range []string{"**", "*", "•", "·", "‣", "▪", "–", "—", "-", "→", ">"} {
		if rest, ok := strings.CutPrefix(s, mark); ok && startsWithSpace(rest) {
			return rest
		}
	}
	if rest := withoutLabel(s); rest != s {
		return rest
	}
	const stops = ".,;:。．，、；："
	if end := strings.TrimRight(s, stops); end != s && !strings.ContainsAny(s[:1], stops) && (endsInUUID(end) || !strings.ContainsFunc(end, unicode.IsSpace)) {
		return end
	}
	if end := strings.TrimRight(s, stops+"!?)]}>*_~"); end != s && endsInUUID(end) && !strings.ContainsAny(s[:1], "([{<") {
		return end
	}
	return s
}

func between(s, left, right string) (inner string, ok bool) {
	if len(s) <= len(left)+len(right) || !strings.HasPrefix(s, left) || !strings.HasSuffix(s, right) {
		return "", false
	}
	return s[len(left) : len(s)-len(right)], true
}

func startsWithSpace(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return unicode.IsSpace(r)
}

// keyWords are the words by which people announce a license key, in several languages and
// in lower case.
var keyWords = []string{
	"key", "licen", "serial", "code",
	"schlüssel", "schluessel", "lizenz", "seriennummer", "clé", "clef", "clave", "código", "chiave", "codice", "chave",
	"sleutel", "nyckel", "nøgle", "nøkkel", "lisens", "avain", "lisenssi", "klucz", "klíč", "kľúč", "kulcs", "anahtar", "lisans", "cheie",
	"ключ", "лиценз", "ліценз", "κλειδί", "άδεια", "مفتاح", "ترخيص", "מפתח", "רישיון",
	"キー", "ライセンス", "鍵", "密钥", "密鑰", "金鑰", "许可", "許可", "授权", "授權", "序列号", "序號", "키", "라이선스",
}

// smallWords are words that may stand beside those.
var smallWords = map[string]bool{
	"your": true, "my": true, "the": true, "this": true, "is": true, "for": true, "no": true, "nr": true, "number": true,
	"product": true, "activation": true, "software": true, "new": true, "here": true,
}

func hasKeyWord(s string) bool {
	s = strings.ToLower(s)
	for _, word := range keyWords {
		if strings.Contains(s, word) {
			return true
		}
	}
	return false
}

// isLabel reports whether the text before a colon or an equals sign can't be the beginning of
// a key.
func isLabel(s string) bool {
	return hasKeyWord(s) && !strings.ContainsAny(s, "-0123456789")
}

// withoutLabel is the text after a label such as "License key:", "LICENSE_KEY=" or "Your
// license key is".
func withoutLabel(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	if i := strings.IndexAny(line, ":=：＝"); i > 0 {
		r, size := utf8.DecodeRuneInString(s[i:])
		label, rest := s[:i], s[i+size:]
		colon := r == ':' || r == '：'
		text := trimKey(strings.TrimLeft(trimKey(rest), "*_~"))
		switch {
		case text == "":
		case isLabel(label), colon && startsWithSpace(rest) && hasKeyWord(label),
			isPolarMade(text) && (colon && startsWithSpace(rest) || isCapital(text) && !isCapital(label)):
			if rest = trimKey(rest); strings.HasPrefix(rest, "****") {
				return rest
			}
			return text
		}
	}
	words := strings.Fields(line)
	known, key, small := 0, false, false
	at := 0 // after the known words
	for i, word := range words {
		letters := strings.ToLower(strings.TrimFunc(word, func(r rune) bool { return !unicode.IsLetter(r) }))
		isKey := letters != "" && isLabel(word)
		if i == len(words)-1 && line == s || letters != "" && !isKey && !smallWords[letters] {
			break
		}
		if letters != "" {
			known++
		}
		key = key || isKey
		small = small || strings.ContainsFunc(word, unicode.IsLower)
		at += strings.Index(s[at:], word) + len(word)
	}
	if left := len(strings.Fields(line[at:])); key && (known > 1 || small) && (left < 2 || endsInUUID(line)) {
		return s[at:]
	}
	return s
}

// onlyKey finds the only key of Polar's form in a text. If there is none, it joins what was
// broken into lines.
func onlyKey(s string) (key string, polarMade bool, problem Problem) {
	folded, origin := foldedFrom(s)
	start, end := findUUID(folded, 0)
	if start < 0 {
		key, problem = joinLines(s)
		return key, false, problem
	}
	uuid := withoutSpace(folded[start:end])
	for from, to := findUUID(folded, end); from >= 0; from, to = findUUID(folded, to) {
		if withoutSpace(folded[from:to]) != uuid {
			return "", false, Problem{Kind: Two}
		}
	}
	behind, _, _ := strings.Cut(folded[end:], "\n")
	text := strings.TrimLeft(behind, ".,;:!?)]}>*_~\"'`")
	switch {
	case trimKey(text) == "", text[0] == '<', text != behind && startsWithSpace(text):
		// The key ends here, and so does a sentence or an element.
	case startsWithSpace(text):
		return "", false, at(Behind, withoutSpace(folded[:end]))
	default:
		return s, false, Problem{} // the UUID is part of something longer
	}
	key, polarMade, problem = withPrefix(s[:origin[start]], uuid, s[origin[start]:origin[end]])
	if !polarMade && problem.Kind == "" {
		key, problem = joinLines(s)
	}
	return key, polarMade, problem
}

// withPrefix adds to a UUID the prefix that the text before it has. pasted is the UUID as it
// was pasted. ok is false if it may be another kind of key.
func withPrefix(ahead, uuid, pasted string) (key string, ok bool, problem Problem) {
	ahead = strings.TrimRightFunc(ahead, unicode.IsSpace)
	last, size := utf8.DecodeLastRuneInString(ahead)
	if foldRune(last) != '-' {
		return uuid, ahead == "" || onlyWords(ahead, uuid), Problem{}
	}
	prefix := strings.TrimRightFunc(ahead[:len(ahead)-size], unicode.IsSpace)
	if prefix = foldPrefix(prefix, pasted+string(last)); prefix == "" {
		return "", false, Problem{}
	}
	// The prefix may be broken at one of its dashes. A line before it that ends in a colon
	// isn't part of it.
	lines := strings.Split(prefix, "\n")
	first := len(lines) - 1
	for first > 0 && (strings.HasSuffix(lines[first-1], "-") || strings.HasPrefix(lines[first], "-")) {
		first--
	}
	if first > 0 && !strings.HasSuffix(lines[first-1], ":") && !strings.HasSuffix(lines[first-1], "：") {
		return "", false, at(LineBreak, strings.Join(lines[:first], ""))
	}
	prefix = strings.Join(lines[first:], "")
	// Prefixes have capital letters only, so words with small letters aren't part of them.
	words := strings.Fields(prefix)
	if len(words) > 0 && isCapital(uuid) && isCapital(words[len(words)-1]) {
		for i := len(words) - 2; i >= 0; i-- {
			if !isCapital(words[i]) {
				prefix = strings.Join(words[i+1:], " ")
				break
			}
		}
	}
	return prefix + "-" + uuid, true, Problem{}
}

// onlyWords reports whether the text before a key without a prefix isn't part of it.
func onlyWords(s, uuid string) bool {
	for _, word := range strings.Fields(s) {
		if isCapital(word) && strings.ContainsFunc(word, unicode.IsLetter) {
			return false
		}
	}
	return isCapital(uuid) && strings.ContainsFunc(s, unicode.IsLetter)
}

func isCapital(s string) bool { return !strings.ContainsFunc(s, unicode.IsLower) }

func withoutSpace(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '\n' {
			return -1
		}
		return r
	}, s)
}

// findUUID finds a UUID at the end of a word. It may be broken by spaces and line ends.
func findUUID(s string, from int) (start, end int) {
	for i := from; i < len(s); i++ {
		if i > 0 && isAlnum(s[i-1]) {
			continue
		}
		if end := uuidAt(s, i); end >= 0 {
			return i, end
		}
	}
	return -1, -1
}

func uuidAt(s string, i int) (end int) {
	skip := func() {
		for i < len(s) && (s[i] == ' ' || s[i] == '\n') {
			i++
		}
	}
	for group, digits := range [...]int{8, 4, 4, 4, 12} {
		if group > 0 {
			skip()
			if i == len(s) || s[i] != '-' {
				return -1
			}
			i++
		}
		for n := range digits {
			if group+n > 0 {
				skip()
			}
			if i == len(s) || !isHex(s[i]) {
				return -1
			}
			i++
		}
	}
	if i < len(s) && (isAlnum(s[i]) || s[i] == '-') {
		return -1
	}
	return i
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

// endsInUUID reports whether a text can be a key of Polar's form with something before it.
func endsInUUID(s string) bool {
	s = foldForms(s)
	start, end := findUUID(s, 0)
	return start >= 0 && trimKey(s[end:]) == ""
}

// isPolarMade reports whether a text is exactly a key of Polar's form.
func isPolarMade(s string) bool {
	s = strings.TrimRight(s, ".,;:!?)]}>*_~")
	return endsInUUID(s) && !strings.ContainsFunc(s, unicode.IsSpace)
}

// joinLines joins a key that was broken at a dash. What other line breaks mean isn't known.
func joinLines(s string) (joined string, problem Problem) {
	lines := strings.Split(s, "\n")
	joined = lines[0]
	for _, line := range lines[1:] {
		if !strings.HasSuffix(joined, "-") && !strings.HasPrefix(line, "-") || line == "" || strings.Trim(line, "- ") == "" {
			return "", at(LineBreak, joined)
		}
		joined += line
	}
	if label, rest, ok := strings.Cut(joined, ":"); ok && label != "" && startsWithSpace(rest) {
		return "", at(Colon, label)
	}
	if i := brokenAtDash(foldForms(joined)); i >= 0 {
		return "", at(Space, foldForms(joined)[:i])
	}
	return joined, Problem{}
}

// brokenAtDash finds a dash with a space on one side only, where a line may have been broken;
// -1 if there is none. A dash between words has spaces on both sides.
func brokenAtDash(s string) int {
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '-' && (s[i-1] == ' ') != (s[i+1] == ' ') && s[i-1] != '-' && s[i+1] != '-' {
			if s[i-1] == ' ' {
				return i - 1
			}
			return i + 1
		}
	}
	return -1
}

// fold replaces typographic forms by the characters that they stand for, and drops invisible
// characters. In a key with letters of other scripts, it changes only what is never typed on
// purpose.
func fold(s string) string {
	if isASCII(s) {
		return s
	}
	foreign := strings.ContainsFunc(s, func(r rune) bool {
		return r >= 0x80 && foldRune(r) == r && !invisible(r)
	})
	if !foreign {
		return foldForms(s)
	}
	return foldSure(s)
}

// foldSure is fold for a key that may have characters of all kinds.
func foldSure(s string) string {
	joiners := strings.ContainsFunc(s, func(r rune) bool { return unicode.IsLetter(r) && r >= 0x80 || unicode.Is(unicode.So, r) })
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\u2010', r == '\u2011':
			return '-'
		case r == '\u00a0', r == '\u202f', r == '\u2007':
			return ' '
		case joiners && isJoiner(r):
			return r // they are part of words and of emojis
		case invisible(r):
			return -1
		}
		return r
	}, s)
}

func isJoiner(r rune) bool {
	return r == '\u200c' || r == '\u200d' || unicode.Is(unicode.Variation_Selector, r) || r >= 0xe0020 && r <= 0xe007f
}

// foldForms is fold for a text that has Latin letters only.
func foldForms(s string) string {
	folded, _ := foldedFrom(s)
	return folded
}

// foldedFrom is foldForms. It also returns where each byte of its result, and its end, comes
// from.
func foldedFrom(s string) (folded string, origin []int) {
	var b strings.Builder
	origin = make([]int, 0, len(s)+1)
	for i, r := range s {
		if invisible(r) {
			continue
		}
		b.WriteRune(foldRune(r))
		for len(origin) < b.Len() {
			origin = append(origin, i)
		}
	}
	return b.String(), append(origin, len(s))
}

// foldPrefix is fold for a prefix, whose characters the vendor chooses. It undoes only the
// typography that the UUID after it shows as well.
func foldPrefix(s, pasted string) string {
	wide := strings.ContainsFunc(pasted, func(r rune) bool { return r >= 0xff01 && r <= 0xff5e })
	s = strings.Map(func(r rune) rune {
		switch folded := foldRune(r); {
		case r < 0x80, folded == r:
		case folded == '-' && strings.ContainsRune(pasted, r), folded != '-' && folded != ' ' && wide:
			return folded
		}
		return r
	}, s)
	return foldSure(s)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// foldRune is the ASCII character that a typographic form stands for.
func foldRune(r rune) rune {
	switch {
	case r < 0x80:
	case r >= 0xff01 && r <= 0xff5e: // full-width forms, of East Asian keyboards
		return r - 0xff01 + '!'
	case r >= 0x2010 && r <= 0x2015, r == 0x2043, r == 0x2212, r == 0x02d7, r == 0x2796, r == 0xfe58, r == 0xfe63,
		r == 0x30fc, r == 0xff70, r == 0x2500: // the last three come from Japanese keyboards and from tables
		return '-'
	case unicode.IsSpace(r) && !unicode.IsControl(r) && r != '\u2028' && r != '\u2029':
		return ' '
	}
	return r
}

// lookAlikes are letters of other scripts that look like Latin letters.
const lookAlikes = "АВЕЅІЈКМНОРСТУХаеѕіјорсухΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρ"

// lookAlike finds a letter that only looks like those around it; -1 if there is none.
func lookAlike(s string) int {
	if isASCII(s) {
		return -1
	}
	for start := 0; start < len(s); {
		rest := s[start:]
		end := strings.IndexFunc(rest, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if end < 0 {
			end = len(rest)
		}
		latin, alike, other, first := 0, 0, 0, -1
		for i, r := range rest[:end] {
			switch {
			case r < 0x80:
				if isAlnum(byte(r)) {
					latin++
				}
			case strings.ContainsRune(lookAlikes, r):
				alike++
				if first < 0 {
					first = start + i
				}
			default:
				other++
			}
		}
		if alike > 0 && other == 0 && latin > alike {
			return first
		}
		start += end
		if start < len(s) {
			_, size := utf8.DecodeRuneInString(s[start:])
			start += size
		}
	}
	return -1
}
