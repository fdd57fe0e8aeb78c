package recover

import (
	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault"
)

// OpenEscrow opens what a point keeps of a secret for the vault's recovery
// recipients. CodeVaultKey if the key is none of theirs.
func OpenEscrow(sealed []byte, uuid string, key backstay.Secret) (backstay.Secret, error) {
	return vault.OpenEscrow(sealed, backstay.SecretAbout(uuid), key)
}
