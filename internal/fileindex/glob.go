package fileindex

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	backstay "github.com/backstay/backstay"
)

// Pattern is what Find looks for.
type Pattern struct {
	tokens []token
	fold   bool
	whole  bool   // it is matched with whole paths, not with names
	part   bool   // it may be any part of what it is matched with
	plain  string // with part and without fold: the bytes
}

type tokenKind int

const (
	literal  tokenKind = iota // one rune, or one byte that is none
	anyRune                   // ?
	class                     // […]
	star                      // *
	starstar                  // **
	folders                   // **/ : no folder or some
)

type token struct {
	kind   tokenKind
	r      rune // of literal; -b for the byte b that is no UTF-8
	not    bool
	ranges [][2]rune
}

// maxPattern is the longest pattern, in bytes.
const maxPattern = 8 << 10

// ParsePattern reads a pattern. With any of *?[ in it, it is a glob: * is what has no
// "/" in it, ** is anything, ? one character but "/", […] one of some, [!…] one of no such.
// Otherwise it is a part of what is looked for. It is matched with the whole path if a
// "/" is in it, and with the name alone if not. A backslash takes the meaning from what
// follows it, and \xNN is a byte, as in paths that are printed. fold passes over upper
// and lower case.
func ParsePattern(text string, fold bool) (Pattern, error) {
	p := Pattern{fold: fold, whole: strings.Contains(text, "/"), part: true}
	if text == "" || len(text) > maxPattern {
		return p, badPattern(text, "it has %d bytes; 1 to %d are possible", len(text), maxPattern)
	}
	for rest := text; rest != ""; {
		t, n, err := p.token(rest)
		if err != nil {
			return p, badPattern(text, "%v", err)
		}
		rest = rest[n:]
		if t.kind != literal {
			p.part = false
		}
		p.tokens = append(p.tokens, t)
	}
	if p.part && !fold {
		for _, t := range p.tokens {
			p.plain += string(t.bytes())
		}
	}
	if p.part {
		any := []token{{kind: starstar}}
		p.tokens = append(append(any, p.tokens...), any...)
	}
	return p, nil
}

func badPattern(text, why string, args ...any) error {
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return backstay.Errorf(backstay.CodeUsage, "the pattern %q cannot be used", text).Becausef(why, args...).
		Do(`write e.g. '*.conf', '/etc/**/*.conf' or a part of a name; \ before a character takes its meaning away`)
}

func (t token) bytes() []byte {
	if t.r < 0 {
		return []byte{byte(-t.r)}
	}
	return utf8.AppendRune(nil, t.r)
}

// token reads the first token of a text, and how many bytes it has.
func (p Pattern) token(text string) (token, int, error) {
	switch text[0] {
	case '*':
		n := len(text) - len(strings.TrimLeft(text, "*"))
		begin := len(p.tokens) == 0 || p.tokens[len(p.tokens)-1].kind == literal && p.tokens[len(p.tokens)-1].r == '/'
		switch {
		case n == 1:
			return token{kind: star}, 1, nil
		case begin && strings.HasPrefix(text[n:], "/"):
			return token{kind: folders}, n + 1, nil
		default:
			return token{kind: starstar}, n, nil
		}
	case '?':
		return token{kind: anyRune}, 1, nil
	case '[':
		return p.class(text)
	}
	r, n, err := p.char(text)
	return token{kind: literal, r: r}, n, err
}

// char reads one character, escaped or not.
func (p Pattern) char(text string) (rune, int, error) {
	if text[0] == '\\' {
		if len(text) == 1 {
			return 0, 0, fmt.Errorf("nothing follows its last backslash")
		}
		if text[1] == 'x' && len(text) >= 4 {
			if b, err := backstay.ParseFilePath(text[:4]); err == nil {
				if b[0] < utf8.RuneSelf {
					return p.lower(rune(b[0])), 4, nil
				}
				return -rune(b[0]), 4, nil
			}
		}
		r, n := decode(text[1:])
		return p.lower(r), n + 1, nil
	}
	r, n := decode(text)
	return p.lower(r), n, nil
}

func (p Pattern) class(text string) (token, int, error) {
	t := token{kind: class}
	at := 1
	if at < len(text) && (text[at] == '!' || text[at] == '^') {
		t.not = true
		at++
	}
	for first := true; ; first = false {
		if at >= len(text) {
			return t, 0, fmt.Errorf("its [ has no ]")
		}
		if text[at] == ']' && !first {
			return t, at + 1, nil
		}
		from, n, err := p.char(text[at:])
		if err != nil {
			return t, 0, err
		}
		at += n
		to := from
		if at+1 < len(text) && text[at] == '-' && text[at+1] != ']' {
			if to, n, err = p.char(text[at+1:]); err != nil {
				return t, 0, err
			}
			at += n + 1
		}
		if from > to || from < 0 {
			return t, 0, fmt.Errorf("the range in its [ ] is empty")
		}
		t.ranges = append(t.ranges, [2]rune{from, to})
	}
}

// lower is a rune as it is compared.
func (p Pattern) lower(r rune) rune {
	if !p.fold || r < 0 {
		return r
	}
	return unicode.ToLower(r)
}

// decode is the first rune of s, or the negative of its first byte if that is none.
func decode(s string) (rune, int) {
	r, n := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && n == 1 {
		return -rune(s[0]), 1
	}
	return r, n
}

// Match tells whether a path of a volume is what is looked for. mount is where the guest
// mounts the volume, or "": a pattern with "/" may also mean the guest's own path.
func (p Pattern) Match(mount, path backstay.FilePath) bool {
	text := string(path)
	if !p.whole {
		return p.match(text[strings.LastIndexByte(text, '/')+1:])
	}
	return p.match(text) || mount != "" && mount != "/" && p.match(strings.TrimRight(string(mount), "/")+text)
}

func (p Pattern) match(s string) bool {
	if p.plain != "" {
		return strings.Contains(s, p.plain)
	}
	return p.glob(s)
}

// back is where matching goes on when the last wildcard takes one character more.
type back struct {
	kind  tokenKind
	token int // behind the wildcard
	at    int // what it takes ends here
	ok    bool
}

// glob matches the whole of s. What a wildcard takes is made longer until the rest
// matches: the last * first, which takes no "/", then the last **. No others need be
// tried: each is followed by what matched as early as it could.
func (p Pattern) glob(s string) bool {
	var one, all back
	t, at := 0, 0
	for {
		if t == len(p.tokens) && at == len(s) {
			return true
		}
		if t < len(p.tokens) {
			switch k := p.tokens[t]; k.kind {
			case star:
				t++
				one = back{star, t, at, true}
				continue
			case starstar, folders:
				t++
				all, one = back{k.kind, t, at, true}, back{}
				continue
			default:
				if n := p.one(k, s[at:]); n > 0 {
					t, at = t+1, at+n
					continue
				}
			}
		}
		if one.ok && one.longer(s) {
			t, at = one.token, one.at
			continue
		}
		if !all.ok || !all.longer(s) {
			return false
		}
		t, at, one = all.token, all.at, back{}
	}
}

// longer lets a wildcard take more; false if it cannot.
func (b *back) longer(s string) bool {
	switch {
	case b.at >= len(s), b.kind == star && s[b.at] == '/':
		return false
	case b.kind == folders:
		i := strings.IndexByte(s[b.at:], '/')
		b.at += i + 1
		return i >= 0
	default:
		_, n := decode(s[b.at:])
		b.at += n
		return true
	}
}

// one is how many bytes of s a token of one character matches; 0 if it does not.
func (p Pattern) one(t token, s string) int {
	if s == "" {
		return 0
	}
	r, n := decode(s)
	switch t.kind {
	case anyRune:
		if r == '/' {
			return 0
		}
		return n
	case class:
		in := false
		for _, c := range t.ranges {
			in = in || p.lower(r) >= c[0] && p.lower(r) <= c[1]
		}
		if r == '/' || in == t.not {
			return 0
		}
		return n
	}
	if t.r < 0 && s[0] == byte(-t.r) {
		return 1
	}
	if p.lower(r) != t.r {
		return 0
	}
	return n
}
