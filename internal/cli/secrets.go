package cli

import (
	"context"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/recover"
)

// bringSecrets opens, here, what a point keeps for the recovery key, and hands the
// host those secrets that it lacks and would not get otherwise. The recovery key
// goes nowhere. A dry run opens them and makes none.
func (a *app) bringSecrets(ctx context.Context, c *client.Client, r backstay.RestoreRequest) error {
	if a.recoveryKey == "" {
		return nil
	}
	text, err := a.readSecret(a.recoveryKey)
	if err != nil {
		return err
	}
	key, err := recover.ReadKey(strings.NewReader(text), func() (backstay.Secret, error) {
		passphrase, err := a.askSecret("The passphrase of the key file: ")
		return backstay.NewSecret([]byte(passphrase)), err
	})
	if err != nil {
		return err
	}
	needs, err := c.PointSecrets(ctx, string(r.Point), r.Host, r.Tier)
	if err != nil {
		return err
	}
	give := api.GiveSecretsRequest{Host: needs.Host, Tier: needs.Tier}
	for _, s := range needs.Secrets {
		if s.Present || s.Problem == nil || len(s.Escrow) == 0 {
			continue // the restore says by itself what is wrong, if anything is
		}
		value, err := recover.OpenEscrow(s.Escrow, s.UUID, key)
		if err != nil {
			return err
		}
		give.Secrets = append(give.Secrets, api.GivenSecret{UUID: s.UUID, Value: value.Reveal()})
	}
	if len(give.Secrets) == 0 {
		a.note("the recovery key is not needed: no secret has to be brought back with it")
		return nil
	}
	for _, s := range give.Secrets {
		if r.DryRun {
			a.note("the recovery key opens secret %s; without --dry-run it is made on host %s", s.UUID, needs.Host)
		} else {
			a.note("secret %s comes back with the recovery key, on host %s", s.UUID, needs.Host)
		}
	}
	if r.DryRun {
		return nil
	}
	return c.GiveSecrets(ctx, string(r.Point), give)
}
