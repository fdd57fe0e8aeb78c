package servertest

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// SecretUUID is the secret that every point of this world needs.
const SecretUUID = "5ec2e700-0000-4000-8000-000000000001"

// pointSecrets has one secret, which any value makes.
type pointSecrets struct{}

func (pointSecrets) SecretsOf(_ context.Context, p backstay.PointID, host backstay.HostName, tier backstay.Tier) (api.PointSecrets, error) {
	return api.PointSecrets{Point: p, Host: host, Tier: tier, Secrets: []api.SecretState{{
		PointSecret: backstay.PointSecret{UUID: SecretUUID, Scheme: backstay.SecretInPoint},
	}}}, nil
}

func (pointSecrets) GiveSecrets(_ context.Context, p backstay.PointID, r api.GiveSecretsRequest) error {
	for _, s := range r.Secrets {
		if s.UUID != SecretUUID {
			return backstay.Errorf(backstay.CodeUsage, "point %s needs no secret %s", p, s.UUID).Becausef("none of its disks is encrypted with it")
		}
	}
	return nil
}

func (pointSecrets) KeyServices() []string { return []string{"corp"} }
