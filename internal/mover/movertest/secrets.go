package movertest

import (
	"context"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// SecretStates is mover.Secrets': the fake's disks are plain, unless States says
// otherwise.
func (f *Fake) SecretStates(ctx context.Context, r mover.SecretsRequest) ([]mover.SecretState, error) {
	if err := f.enter(ctx, "SecretStates"); err != nil {
		return nil, err
	}
	if _, err := f.point(r.Point, r.Tier); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]mover.SecretState{}, f.States...), nil
}

// GiveSecrets is mover.Secrets'.
func (f *Fake) GiveSecrets(ctx context.Context, r mover.GiveRequest) error {
	if err := f.enter(ctx, "GiveSecrets"); err != nil {
		return err
	}
	if _, err := f.point(r.Point, r.Tier); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, given := range r.Secrets {
		known := false
		for i := range f.States {
			if f.States[i].UUID == given.UUID {
				f.States[i].Present, f.States[i].Problem, known = true, nil, true
			}
		}
		if !known {
			return backstay.Errorf(backstay.CodeUsage, "point %s needs no secret %s", r.Point, given.UUID)
		}
	}
	return nil
}

// testNoSecrets: a point whose disks are plain needs no secret, and is given none.
func testNoSecrets(t *testing.T, s Subject) {
	taken := take(t, s)
	r := mover.SecretsRequest{Point: taken.Point, Tier: backstay.SnapshotTier}
	states, err := s.Mover.SecretStates(t.Context(), r)
	if err != nil || len(states) != 0 {
		t.Errorf("secrets of plain disks: %+v, %v", states, err)
	}
	given := []mover.GivenSecret{{UUID: "5ec2e700-0000-4000-8000-000000000001", Value: backstay.NewSecret([]byte("open"))}}
	if err := s.Mover.GiveSecrets(t.Context(), mover.GiveRequest{SecretsRequest: r, Secrets: given}); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("a secret that nobody needs was taken: %v", err)
	}
}
