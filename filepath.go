package backstay

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// FilePath is a path or a name in a guest's file system: bytes, which need be no
// UTF-8. As text, and so in JSON and on terminals, it is what String returns, from
// which ParseFilePath makes the same bytes again.
type FilePath string

// String returns the path with what is no printable character as \xNN, and a
// backslash as two.
func (p FilePath) String() string {
	if plainPath(string(p)) {
		return string(p)
	}
	var b strings.Builder
	for rest := string(p); rest != ""; {
		r, n := utf8.DecodeRuneInString(rest)
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError && n == 1, !unicode.IsPrint(r):
			for i := range n {
				fmt.Fprintf(&b, `\x%02x`, rest[i])
			}
		default:
			b.WriteString(rest[:n])
		}
		rest = rest[n:]
	}
	return b.String()
}

func plainPath(s string) bool {
	for i, r := range s {
		if r == '\\' || !unicode.IsPrint(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			return false
		}
	}
	return true
}

var errEscape = errors.New(`a backslash must be followed by another one, or by x and two hexadecimal digits`)

// ParseFilePath is String's inverse.
func ParseFilePath(text string) (FilePath, error) {
	if !strings.Contains(text, `\`) {
		return FilePath(text), nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		if strings.HasPrefix(rest, `\`) {
			b.WriteByte('\\')
			i++
			continue
		}
		var n byte
		if len(rest) < 3 || rest[0] != 'x' {
			return "", fmt.Errorf("read path %q: %w", text, errEscape)
		}
		for _, c := range []byte(rest[1:3]) {
			digit := strings.IndexByte("0123456789abcdef", c|0x20)
			if digit < 0 {
				return "", fmt.Errorf("read path %q: %w", text, errEscape)
			}
			n = n<<4 | byte(digit)
		}
		b.WriteByte(n)
		i += 3
	}
	return FilePath(b.String()), nil
}

// MarshalText is String.
func (p FilePath) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParseFilePath.
func (p *FilePath) UnmarshalText(text []byte) (err error) {
	*p, err = ParseFilePath(string(text))
	return err
}
