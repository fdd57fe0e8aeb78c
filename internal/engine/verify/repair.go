package verify

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
)

// RepairTasks are the steps of a repair job.
var RepairTasks = []string{"repair", "report"}

// Repair mends what verifying found: every damaged or missing copy that another
// copy can mend. CodeDamaged if a point cannot be restored whole after it.
func (r *VaultRunner) Repair(ctx context.Context, run backstay.Run, params backstay.RepairParams) error {
	var still backstay.VaultHealth
	err := run.Step(ctx, "repair", func(ctx context.Context) error {
		vault, err := r.Open(ctx, params.Vault)
		if err != nil {
			return err
		}
		defer vault.Close()
		h, err := r.Catalog.Health.VaultHealth(ctx, params.Vault)
		if err != nil || len(h.Damages) == 0 {
			return err
		}
		going, err := r.inVaultOf(ctx, params.Vault, backstay.TierDeleting)
		if err != nil {
			return err
		}
		var o RepairOptions
		for _, p := range going {
			o.Gone = append(o.Gone, p.ID)
		}
		report, err := vault.Repair(ctx, h.Damages, o)
		if err != nil {
			return err
		}
		return errors.Join(
			run.Update(func(j *backstay.Job) {
				j.Result.Repaired += report.Copies
				j.Stats.BytesNew += report.Bytes
			}),
			r.Catalog.Health.ChangeVaultHealth(ctx, params.Vault, func(now *backstay.VaultHealth) error {
				now.Damages = left(now.Damages, h.Damages, report)
				return nil
			}))
	})
	if err != nil {
		return err
	}
	return run.Step(ctx, "report", func(ctx context.Context) error {
		if still, err = r.settle(ctx, params.Vault); err != nil {
			return err
		}
		var failed []backstay.Damage
		for _, d := range still.Damages {
			if !d.Lost() {
				failed = append(failed, d)
			}
		}
		if len(failed) > 0 {
			if err := run.Warn(fmt.Sprintf("%d objects could not be mended: %s", len(failed), some(failed))); err != nil {
				return err
			}
		}
		return lost(params.Vault, still.Damages, run.Warn)
	})
}

// left are the damages after a repair of some: what it could not mend, and what
// was found meanwhile.
func left(now, tried []backstay.Damage, r RepairReport) []backstay.Damage {
	done := map[string]bool{}
	for _, d := range tried {
		done[d.Object] = true
	}
	var out []backstay.Damage
	for _, d := range now {
		if !done[d.Object] {
			out = append(out, d)
		}
	}
	return append(append(out, r.Lost...), r.Failed...)
}
