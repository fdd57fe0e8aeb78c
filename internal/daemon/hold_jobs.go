package daemon

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/reclaim"
	"github.com/backstay/backstay/internal/engine/verify"
	"github.com/backstay/backstay/internal/tier/vault"
)

// verifiedReplica shows a replica as the engine that verifies and repairs wants to
// see it. No key is needed, and none is used: what the home region sealed is
// compared by the hashes that it carries in the clear.
type verifiedReplica struct{ *vault.Replica }

func (v *vaults) verifiedReplica(ctx context.Context, name backstay.VaultName) (verify.Vault, error) {
	entry, err := v.entry(ctx, name)
	if err != nil {
		return nil, err
	}
	opened, err := v.replica(ctx, entry)
	return verifiedReplica{opened}, err
}

// Scrub implements verify.Vault.
func (v verifiedReplica) Scrub(ctx context.Context, o verify.ScrubOptions) (verify.ScrubReport, error) {
	options := vault.ScrubOptions{From: o.From, Budget: o.Budget, Points: o.Points, Known: o.Known,
		Expect: o.Expect, Suspects: o.Suspects, Pace: o.Pace}
	if o.Progress != nil {
		options.Progress = func(r vault.ScrubReport) error { return o.Progress(verify.ScrubReport(r)) }
	}
	report, err := v.Replica.Scrub(ctx, options)
	return verify.ScrubReport(report), err
}

// Repair implements verify.Vault.
func (v verifiedReplica) Repair(ctx context.Context, damages []backstay.Damage, o verify.RepairOptions) (verify.RepairReport, error) {
	report, err := v.Replica.Repair(ctx, damages, vault.RepairOptions{Gone: o.Gone, Pace: o.Pace})
	return verify.RepairReport(report), err
}

// Close implements verify.Vault; nothing is held open.
func (v verifiedReplica) Close() error { return nil }

// replicaUsage says what a replica holds. The sizes of the disks are those that the
// catalogue knows: without a key nothing else tells.
func (v *vaults) replicaUsage(ctx context.Context, name backstay.VaultName) (backstay.VaultUsage, error) {
	entry, err := v.entry(ctx, name)
	if err != nil {
		return backstay.VaultUsage{}, err
	}
	opened, err := v.replica(ctx, entry)
	if err != nil {
		return backstay.VaultUsage{}, err
	}
	usage, err := opened.Usage(ctx)
	if err != nil {
		return usage, err
	}
	usage.Vault = name
	points, err := v.catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return usage, fmt.Errorf("list points: %w", err)
	}
	for _, p := range points {
		if p.Vault != name || !p.Has(backstay.VaultTier) {
			continue
		}
		for _, d := range p.Disks {
			if d.Included {
				usage.LogicalBytes += d.Size
			}
		}
	}
	return usage, nil
}

// planReplicaReclaim says what a reclaim of a replica would give back.
func (e *engines) planReplicaReclaim(ctx context.Context, params backstay.ReclaimParams) (backstay.ReclaimPlan, error) {
	plan := backstay.ReclaimPlan{Vault: params.Vault, At: utcNow(), Trash: []backstay.CondemnedPacks{}, Repack: []backstay.PackToMove{}}
	swept, err := e.region.held.Reclaim(ctx, params.Vault, true, nil)
	if err != nil {
		return plan, err
	}
	plan.Packs, plan.Points = swept.Packs, swept.Points
	plan.Condemn, plan.Now = swept.Freed, swept.Freed.Bytes
	return plan, nil
}

// reclaimReplica runs a reclaim of a replica: first its points are let go that this
// region's retention no longer keeps, then the packs that none needs. Each step can
// be done again.
func (e *engines) reclaimReplica(ctx context.Context, run backstay.Run, params backstay.ReclaimParams) error {
	err := run.Step(ctx, reclaim.Tasks[0], func(ctx context.Context) error {
		done, err := e.region.held.Expire(ctx, params.Vault)
		if err != nil {
			return err
		}
		for id, why := range done.Kept {
			if err := run.Warn(fmt.Sprintf("point %s stays for now: %s", id, why)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range reclaim.Tasks[1:] {
		step := func(context.Context) error { return nil }
		if name == "delete" {
			step = func(ctx context.Context) error {
				swept, err := e.region.held.Reclaim(ctx, params.Vault, false, run.Progress)
				if err != nil {
					return err
				}
				return run.Update(func(j *backstay.Job) { j.Result.Reclaimed = &backstay.Reclaimed{Deleted: swept.Freed} })
			}
		}
		if err := run.Step(ctx, name, step); err != nil {
			return err
		}
	}
	return nil
}

// rebuildReplica makes the catalogue agree with what is held, and forgets which state
// of its home vault was seen: the next that is offered counts.
func (e *engines) rebuildReplica(ctx context.Context, run backstay.Run, name backstay.VaultName) error {
	return run.Step(ctx, "record", func(ctx context.Context) error {
		if err := e.region.held.Rebuild(ctx, name); err != nil {
			return err
		}
		return e.region.vaults.change(ctx, name, func(entry *backstay.Vault) bool {
			entry.Head = nil
			return true
		})
	})
}
