package daemon

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/mover"
)

// This file is the secrets of points; engines implements server.PointSecrets with it.

// SecretsOf implements server.PointSecrets.
func (e *engines) SecretsOf(ctx context.Context, p backstay.PointID, host backstay.HostName, tier backstay.Tier) (api.PointSecrets, error) {
	at, states, err := e.restore.SecretsOf(ctx, backstay.RestoreRequest{Point: p, Host: host, Tier: tier})
	out := api.PointSecrets{Point: p, Host: at.Host, Tier: at.Tier, Secrets: []api.SecretState{}}
	for _, s := range states {
		out.Secrets = append(out.Secrets, api.SecretState(s))
	}
	return out, err
}

// GiveSecrets implements server.PointSecrets.
func (e *engines) GiveSecrets(ctx context.Context, p backstay.PointID, r api.GiveSecretsRequest) error {
	var given []mover.GivenSecret
	for _, s := range r.Secrets {
		given = append(given, mover.GivenSecret{UUID: s.UUID, Value: backstay.NewSecret(s.Value)})
	}
	return e.restore.GiveSecrets(ctx, backstay.RestoreRequest{Point: p, Host: r.Host, Tier: r.Tier}, given)
}

// KeyServices implements server.PointSecrets.
func (e *engines) KeyServices() []string {
	var names []string
	for _, s := range e.region.config.KeyServices {
		names = append(names, s.Name)
	}
	return names
}
