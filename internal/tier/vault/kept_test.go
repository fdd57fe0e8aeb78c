package vault_test

import (
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault"
)

// TestAnEscrowOpensForItsRecipientsAlone, for each of them, and only as what it is of.
func TestAnEscrowOpensForItsRecipientsAlone(t *testing.T) {
	const value, about = "open sesame", "secret 1 of point 2"
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one, to1, err := vault.NewIdentity()
	check(err)
	two, to2, err := vault.NewIdentity()
	check(err)
	other, _, err := vault.NewIdentity()
	check(err)
	sealed, err := vault.Escrow(backstay.NewSecret([]byte(value)), about, []string{to1, to2})
	check(err)
	if strings.Contains(string(sealed), value) {
		t.Error("it is in the clear")
	}
	for _, identity := range []backstay.Secret{one, two} {
		back, err := vault.OpenEscrow(sealed, about, identity)
		if err != nil || string(back.Reveal()) != value {
			t.Errorf("opened: %v", err)
		}
	}
	if _, err := vault.OpenEscrow(sealed, about, other); !backstay.IsCode(err, backstay.CodeVaultKey) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := vault.OpenEscrow(sealed, "secret 1 of point 3", one); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("as something else: %v", err)
	}
	sealed[len(sealed)-3] ^= 1
	if _, err := vault.OpenEscrow(sealed, about, one); err == nil {
		t.Error("a damaged one opens")
	}
	// One that cannot be used is said, and the others count all the same.
	sealed, err = vault.Escrow(backstay.NewSecret([]byte(value)), about, []string{to1, "age1nonsense"})
	if err == nil || sealed == nil {
		t.Errorf("with an unusable recipient: %v", err)
	}
	if _, err := vault.OpenEscrow(sealed, about, one); err != nil {
		t.Error(err)
	}
	if sealed, err := vault.Escrow(backstay.NewSecret([]byte(value)), about, nil); err == nil || sealed != nil {
		t.Errorf("for nobody: %v", err)
	}
}
