// Package paste finds a license key in what a person pasted: it takes off what surely
// is no part of a key, and names what might be one. It never drops a character that a key
// could hold, and knows nothing of whether the key is good.
package paste

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// How a license key is found in what a person pasted.
//
// Polar makes a key of a random UUID in capital letters, with the benefit's prefix and
// a dash before it if there is one. Where the text holds exactly one of that form, it is
// known where the key ends and what cannot be part of it. Any other text may be a key
// that the vendor brought along, so less is taken off: only what no key has.
// Letters always keep their case. What may or may not be part of a key is never
// dropped in silence: it stays, or it is named.

// maxPasted bounds what a key is looked for in. A purchase mail is longer.
const maxPasted = 4 << 10

// TooLong is the problem of a text in which no key is looked for.
const TooLong = "is too long: copy only the key from your purchase email"

// Clean is the key in what was pasted, without what came along. It is empty if there is
// none, and the problem says what is in the way, without repeating the key.
func Clean(pasted string) (text string, problem string) {
	text = fromUTF16(pasted)
	if isPlain(text) {
		return text, ""
	}
	// Each round takes off a layer: quotes within a label's text, say.
	for {
		before := text
		text = trimKey(text)
		if len(text) > maxPasted {
			return "", TooLong
		}
		if i := firstInvalid(text); i >= 0 {
			return "", noKeyHas("bytes that are no text", text[:i])
		}
		text = plainLines(softHyphens(text))
		for layer := ""; layer != text; {
			layer = text
			text = unwrap(trimKey(text))
		}
		if strings.HasPrefix(text, "****") {
			return "", "is hidden behind asterisks: copy the whole key from your purchase email or the customer portal"
		}
		polarMade := false
		if text, polarMade, problem = onlyKey(text); problem != "" {
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
		return "", noKeyHas(controlName(r), text[:i])
	}
	if i := lookAlike(text); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		return "", fmt.Sprintf("has %c (%U) %s, which only looks like a Latin letter: copy the key from your purchase email instead of typing it", r, r, place(text[:i]))
	}
	return text, ""
}

// isPlain reports whether a text has nothing that could have come along.
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

// fromUTF16 reads what Windows programs write as "Unicode": with a mark at its
// beginning, so that it is certain.
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

// place says where something is, by what is before it.
func place(before string) string {
	n := 0
	for _, r := range before {
		if !invisible(r) {
			n++
		}
	}
	if n == 1 {
		return "after 1 character"
	}
	return fmt.Sprintf("after %d characters", n)
}

func noKeyHas(what, before string) string {
	return fmt.Sprintf("has %s %s, which doesn't belong in a key: copy only the key from your purchase email", what, place(before))
}

func controlName(r rune) string {
	switch r {
	case '\n':
		return "a line break"
	case '\t':
		return "a tab"
	}
	return fmt.Sprintf("a control character (%U)", r)
}

// trimKey drops what comes along at the ends when a key is copied: white space,
// quotation marks of any script, back ticks, characters that cannot be seen, and what
// a terminal puts around a paste.
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

// softHyphens makes dashes of soft hyphens where that makes a key of Polar's form: some
// programs write the one for the other. Everywhere else they are not seen.
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

// plainLines makes all line ends alike, and takes off lines what mail programs put
// there: spaces, marks of a quotation, and the "=" at the end of a line that was
// cut for transport.
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

// unwrap takes off what a mail or a chat puts around a key: marks of emphasis and of
// lists, angle brackets, a label before, a full stop after.
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

// keyWords are in what people write before a license key, in the languages of many
// mails; in small letters.
var keyWords = []string{
	"key", "licen", "serial", "code",
	"schlüssel", "schluessel", "lizenz", "seriennummer", "clé", "clef", "clave", "código", "chiave", "codice", "chave",
	"sleutel", "nyckel", "nøgle", "nøkkel", "lisens", "avain", "lisenssi", "klucz", "klíč", "kľúč", "kulcs", "anahtar", "lisans", "cheie",
	"ключ", "лиценз", "ліценз", "κλειδί", "άδεια", "مفتاح", "ترخيص", "מפתח", "רישיון",
	"キー", "ライセンス", "鍵", "密钥", "密鑰", "金鑰", "许可", "許可", "授权", "授權", "序列号", "序號", "키", "라이선스",
}

// smallWords stand around those.
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

// isLabel reports whether what stands before a colon or an equals sign cannot be the
// beginning of a key.
func isLabel(s string) bool {
	return hasKeyWord(s) && !strings.ContainsAny(s, "-0123456789")
}

// withoutLabel is what stands behind a label such as "License key:", "LICENSE_KEY=" or
// "Your license key is".
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
	at := 0 // behind the words that are known
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

// onlyKey finds the one key of Polar's own making in a text. Without one, it puts
// together what was broken into lines.
func onlyKey(s string) (key string, polarMade bool, problem string) {
	folded, origin := foldedFrom(s)
	start, end := findUUID(folded, 0)
	if start < 0 {
		key, problem = joinLines(s)
		return key, false, problem
	}
	uuid := withoutSpace(folded[start:end])
	for from, to := findUUID(folded, end); from >= 0; from, to = findUUID(folded, to) {
		if withoutSpace(folded[from:to]) != uuid {
			return "", false, "is more than one key: enter only one"
		}
	}
	behind, _, _ := strings.Cut(folded[end:], "\n")
	text := strings.TrimLeft(behind, ".,;:!?)]}>*_~\"'`")
	switch {
	case trimKey(text) == "", text[0] == '<', text != behind && startsWithSpace(text):
		// The key has ended, and with it a sentence or an element.
	case startsWithSpace(text):
		return "", false, fmt.Sprintf("is followed by something else %s: enter only the key", place(withoutSpace(folded[:end])))
	default:
		return s, false, "" // the UUID is a part of something
	}
	key, polarMade, problem = withPrefix(s[:origin[start]], uuid, s[origin[start]:origin[end]])
	if !polarMade && problem == "" {
		key, problem = joinLines(s)
	}
	return key, polarMade, problem
}

// withPrefix puts before a UUID what there is of a prefix in the text ahead of it.
// pasted is the UUID as it came. ok is false if it may be another kind of key.
func withPrefix(ahead, uuid, pasted string) (key string, ok bool, problem string) {
	ahead = strings.TrimRightFunc(ahead, unicode.IsSpace)
	last, size := utf8.DecodeLastRuneInString(ahead)
	if foldRune(last) != '-' {
		return uuid, ahead == "" || onlyWords(ahead, uuid), ""
	}
	prefix := strings.TrimRightFunc(ahead[:len(ahead)-size], unicode.IsSpace)
	if prefix = foldPrefix(prefix, pasted+string(last)); prefix == "" {
		return "", false, ""
	}
	// The prefix may be broken at a dash of its own. Lines before it are no part of it
	// if they end in a colon.
	lines := strings.Split(prefix, "\n")
	first := len(lines) - 1
	for first > 0 && (strings.HasSuffix(lines[first-1], "-") || strings.HasPrefix(lines[first], "-")) {
		first--
	}
	if first > 0 && !strings.HasSuffix(lines[first-1], ":") && !strings.HasSuffix(lines[first-1], "：") {
		return "", false, noKeyHas("a line break", strings.Join(lines[:first], ""))
	}
	prefix = strings.Join(lines[first:], "")
	// Polar makes prefixes of capitals: words with small letters before are none of it.
	words := strings.Fields(prefix)
	if len(words) > 0 && isCapital(uuid) && isCapital(words[len(words)-1]) {
		for i := len(words) - 2; i >= 0; i-- {
			if !isCapital(words[i]) {
				prefix = strings.Join(words[i+1:], " ")
				break
			}
		}
	}
	return prefix + "-" + uuid, true, ""
}

// onlyWords reports whether what is before a key without a prefix is no part of it.
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

// findUUID finds a UUID that may be broken by spaces and line ends, and with which the
// word that it is in ends.
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

// endsInUUID reports whether a text can be a key of Polar's own making, with something
// before it.
func endsInUUID(s string) bool {
	s = foldForms(s)
	start, end := findUUID(s, 0)
	return start >= 0 && trimKey(s[end:]) == ""
}

// isPolarMade reports whether a text is nothing but a key of Polar's own making.
func isPolarMade(s string) bool {
	s = strings.TrimRight(s, ".,;:!?)]}>*_~")
	return endsInUUID(s) && !strings.ContainsFunc(s, unicode.IsSpace)
}

// joinLines puts together a key that was broken at a dash. Of any other line break it
// is not known what it means.
func joinLines(s string) (joined, problem string) {
	lines := strings.Split(s, "\n")
	joined = lines[0]
	for _, line := range lines[1:] {
		if !strings.HasSuffix(joined, "-") && !strings.HasPrefix(line, "-") || line == "" || strings.Trim(line, "- ") == "" {
			return "", noKeyHas("a line break", joined)
		}
		joined += line
	}
	if label, rest, ok := strings.Cut(joined, ":"); ok && label != "" && startsWithSpace(rest) {
		return "", fmt.Sprintf("has a colon %s: enter only the key, without what comes before it", place(label))
	}
	if i := brokenAtDash(foldForms(joined)); i >= 0 {
		return "", fmt.Sprintf("has a space %s, on one side of a dash: if a line was broken there, leave it out", place(foldForms(joined)[:i]))
	}
	return joined, ""
}

// brokenAtDash finds a space on one side of a dash alone, where a line may have been
// broken; -1 if there is none. Between words a dash has spaces on both sides.
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

// fold makes of typographic forms the characters that they stand for, and drops what
// cannot be seen. Where a key has letters of other scripts, only what is never typed
// on purpose is changed.
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

// foldSure is fold where a key may have characters of all kinds.
func foldSure(s string) string {
	joiners := strings.ContainsFunc(s, func(r rune) bool { return unicode.IsLetter(r) && r >= 0x80 || unicode.Is(unicode.So, r) })
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\u2010', r == '\u2011':
			return '-'
		case r == '\u00a0', r == '\u202f', r == '\u2007':
			return ' '
		case joiners && isJoiner(r):
			return r // part of words, and of pictures
		case invisible(r):
			return -1
		}
		return r
	}, s)
}

func isJoiner(r rune) bool {
	return r == '\u200c' || r == '\u200d' || unicode.Is(unicode.Variation_Selector, r) || r >= 0xe0020 && r <= 0xe007f
}

// foldForms is fold for a text whose letters are all Latin.
func foldForms(s string) string {
	folded, _ := foldedFrom(s)
	return folded
}

// foldedFrom is foldForms, and where each byte of its result comes from, the end
// included.
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

// foldPrefix is fold for a prefix, of which Polar lets the vendor choose the
// characters: typography is undone if it did the same to the UUID behind it.
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

// foldRune is the character of ASCII that a typographic form stands for.
func foldRune(r rune) rune {
	switch {
	case r < 0x80:
	case r >= 0xff01 && r <= 0xff5e: // full width, of an Asian keyboard
		return r - 0xff01 + '!'
	case r >= 0x2010 && r <= 0x2015, r == 0x2043, r == 0x2212, r == 0x02d7, r == 0x2796, r == 0xfe58, r == 0xfe63,
		r == 0x30fc, r == 0xff70, r == 0x2500: // the last three by keyboards for Japanese, and in tables
		return '-'
	case unicode.IsSpace(r) && !unicode.IsControl(r) && r != '\u2028' && r != '\u2029':
		return ' '
	}
	return r
}

// lookAlikes are letters of other scripts that look like Latin ones.
const lookAlikes = "АВЕЅІЈКМНОРСТУХаеѕіјорсухΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρ"

// lookAlike finds a letter that only looks like one of those around it; -1 if none.
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
