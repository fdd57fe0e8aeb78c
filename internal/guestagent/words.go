package guestagent

import (
	"strings"
	"unicode"
)

// MostOfError is how much of an agent's error is shown, in bytes.
const MostOfError = 500

// Error is an error in whose words the guest may have had a hand: they are
// shown to people on terminals, and kept.
type Error struct{ Err error }

// Error is what may be shown of it.
func (e Error) Error() string { return Shown(e.Err.Error(), MostOfError) }

// Unwrap returns the error as it came.
func (e Error) Unwrap() error { return e.Err }

// Printable has no character that does something to a terminal, turns the
// direction of text or hides; what is behind the first most bytes is cut off.
func Printable(words string, most int) string {
	words = words[:min(len(words), most)]
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(words, " "))
}

// Shown are words of the guest's as people may see them.
func Shown(words string, most int) string {
	cut := strings.TrimSpace(Printable(words, most))
	if len(words) > most {
		cut += "…"
	}
	return cut
}
