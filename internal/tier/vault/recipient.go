package vault

import (
	"strings"

	"filippo.io/age"

	backstay "github.com/backstay/backstay"
)

// Recipient returns the public side of an identity, to which keys are wrapped.
func Recipient(identity backstay.Secret) (string, error) {
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(identity.Reveal())))
	if err != nil {
		return "", backstay.Errorf(backstay.CodeVaultKey, "the identity cannot be read").Becausef("it is not an age X25519 identity")
	}
	return id.Recipient().String(), nil
}
