package probe

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// text reads a name that ends with a zero or with its field.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	s = strings.TrimRight(s, " ")
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// wide reads a name in UTF-16, little endian.
func wide(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		u := le.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
