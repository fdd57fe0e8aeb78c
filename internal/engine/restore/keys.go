package restore

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// SecretsAt is where and from what a restore would need secrets.
type SecretsAt struct {
	Host backstay.HostName
	Tier backstay.Tier
}

// SecretsOf tells of each secret that a restore of the request's point needs
// whether its host has it.
func (r *Runner) SecretsOf(ctx context.Context, request backstay.RestoreRequest) (SecretsAt, []mover.SecretState, error) {
	m, at, ask, err := r.secretsAt(ctx, request)
	if err != nil {
		return at, nil, err
	}
	states, err := m.SecretStates(ctx, ask)
	return at, states, err
}

// GiveSecrets makes those that the host lacks with values that somebody brought.
func (r *Runner) GiveSecrets(ctx context.Context, request backstay.RestoreRequest, given []mover.GivenSecret) error {
	m, _, ask, err := r.secretsAt(ctx, request)
	if err != nil {
		return err
	}
	return m.GiveSecrets(ctx, mover.GiveRequest{SecretsRequest: ask, Secrets: given})
}

func (r *Runner) secretsAt(ctx context.Context, request backstay.RestoreRequest) (m mover.Mover, at SecretsAt, ask mover.SecretsRequest, err error) {
	point, err := r.Catalog.Points.Point(ctx, request.Point)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, at, ask, backstay.Errorf(backstay.CodeUnknownPoint, "there is no recovery point %s", request.Point)
	}
	if err != nil {
		return nil, at, ask, fmt.Errorf("read point %s: %w", request.Point, err)
	}
	if at.Host, err = r.hostFor(ctx, request, point); err != nil {
		return nil, at, ask, err
	}
	if m, err = r.Mover(at.Host); err != nil {
		return nil, at, ask, err
	}
	seen := Facts{Point: point, Host: backstay.Host{Name: at.Host}}
	if err := r.seeSnapshot(ctx, m, request, &seen); err != nil {
		return nil, at, ask, err
	}
	at.Tier, _ = ChooseTier(request, seen.Point, at.Host)
	ask = mover.SecretsRequest{Point: point.ID, Tier: at.Tier, Services: r.services()}
	if at.Tier == backstay.VaultTier {
		access, err := r.Vault(ctx, point.Vault)
		if err != nil {
			return nil, at, ask, err
		}
		ask.Vault = &access
	}
	return m, at, ask, nil
}
