package movertest

import (
	"context"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Preview is mover.Previews'.
func (f *Fake) Preview(ctx context.Context, r mover.StageRequest) (mover.Preview, error) {
	if err := f.enter(ctx, "Preview"); err != nil {
		return mover.Preview{}, err
	}
	if r.Plan.Tier == backstay.VaultTier {
		if err := f.opens(r.Vault); err != nil {
			return mover.Preview{}, err
		}
	}
	if _, err := f.point(r.Plan.Point, r.Plan.Tier); err != nil {
		return mover.Preview{}, err
	}
	return mover.Preview{Differences: []backstay.Difference{{Path: "/domain/name", From: f.Machine.Name, To: r.Plan.Name}}}, nil
}

// testPreview: a preview names the fields that will differ, from either tier, and
// makes nothing.
func testPreview(t *testing.T, s Subject) {
	taken := take(t, s)
	plan := Plan(taken, backstay.SnapshotTier, s.Folder)
	for range 2 { // it changes nothing, so it can be had again
		p, err := s.Mover.Preview(t.Context(), mover.StageRequest{Job: job, Plan: plan})
		if err != nil {
			t.Fatal(err)
		}
		found := slices.ContainsFunc(p.Differences, func(d backstay.Difference) bool {
			return d.Path == "/domain/name" && d.To == plan.Name && d.From != plan.Name
		})
		if !found {
			t.Errorf("the new name is not among the differences: %+v", p.Differences)
		}
	}
	vms, err := s.Mover.VMs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(vms, func(vm backstay.VM) bool { return vm.ID == plan.UUID }) {
		t.Error("a preview made a VM")
	}
	infos, err := s.Mover.Paths(t.Context(), []string{plan.Disks[0].Path})
	if err != nil || len(infos) != 1 || infos[0].Exists {
		t.Errorf("a preview made a file: %+v %v", infos, err)
	}
}
