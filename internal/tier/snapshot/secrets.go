package snapshot

import (
	"context"

	"github.com/backstay/backstay/internal/tier"
)

// sealSecrets puts what a point will keep of the VM's secrets into its intent,
// sealed like the definition that they become part of.
func (t *Tier) sealSecrets(ctx context.Context, in *intent, secrets []tier.Secret) error {
	if len(secrets) == 0 {
		return nil
	}
	key, err := t.hostKey(ctx)
	if err != nil {
		return err
	}
	d := tier.Definition{Secrets: secrets}
	in.Secrets = d.References()
	in.Sealed, err = seal(key, in.ID, d)
	return err
}

// preparedSecrets returns what sealSecrets put there. An intent that is announced
// again has the whole definition, with the same secrets.
func preparedSecrets(key []byte, in *intent) ([]tier.Secret, error) {
	if len(in.Secrets) == 0 {
		return nil, nil
	}
	d, err := unseal(key, in.ID, in.Sealed)
	return d.Secrets, err
}
