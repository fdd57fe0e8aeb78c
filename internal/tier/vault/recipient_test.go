package vault

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

// A changed object cannot make whoever tries a passphrase work for hours.
func TestWorkOfAPassphraseIsBounded(t *testing.T) {
	const words = "correct horse battery staple"
	sealed, _, err := NewRecipient{Passphrase: backstay.NewSecret([]byte(words))}.wrap(backstay.NewSecret([]byte("keyset")))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := parseIdentities(Passphrase(backstay.NewSecret([]byte(words))))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ids[0].unwrap(sealed); err != nil || string(got.Reveal()) != "keyset" {
		t.Fatalf("%v", err)
	}
	line, rest, _ := bytes.Cut(sealed[bytes.Index(sealed, []byte("-> scrypt")):], []byte("\n"))
	for _, cost := range []string{"19", "30", "99999999"} {
		at := bytes.LastIndexByte(line, ' ')
		changed := append([]byte(nil), sealed[:bytes.Index(sealed, []byte("-> scrypt"))]...)
		changed = append(append(append(append(changed, line[:at+1]...), cost...), '\n'), rest...)
		if _, err := ids[0].unwrap(changed); !errors.Is(err, errNotFor) || !strings.Contains(err.Error(), "too large") {
			t.Errorf("work factor %s: %v", cost, err)
		}
	}
	if workFactor > maxWorkFactor {
		t.Error("what is written cannot be read")
	}
}

// What is not one identity or recipient is refused without being repeated (I10).
func FuzzRecipient(f *testing.F) {
	identity, recipient, err := NewIdentity()
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{recipient, string(identity.Reveal()), "age1pq1x", "age1yubikey1x", "AGE-PLUGIN-X-1X", passphraseMark, "# x\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, kindErr := KindOf(text)
		_, idErr := parseIdentities(backstay.NewSecret([]byte(text)))
		for _, err := range []error{kindErr, idErr} {
			if err != nil && len(text) > 30 && strings.Contains(err.Error(), text) {
				t.Errorf("the error repeats %q", text)
			}
		}
	})
}
