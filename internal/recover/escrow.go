package recover

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// EscrowCheck proves that the key opens the vault and that with it a point and a
// pack decode; see vault.EscrowCheck.
func (v *Vault) EscrowCheck(ctx context.Context, key backstay.Secret) (backstay.EscrowResult, error) {
	return vault.EscrowCheck(ctx, replica.New(v.used...), key)
}
