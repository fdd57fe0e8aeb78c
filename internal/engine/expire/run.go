package expire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Tasks are the steps of an expire job.
var Tasks = []string{"plan", "drop"}

// Vault is what expiring needs of a vault. Only the server deletes in a vault
// (architecture decision 4), so this is not the mover's.
type Vault interface {
	// DropPoint records that the point goes, at this time, and removes its
	// manifest; no error if it is not there.
	DropPoint(ctx context.Context, id backstay.PointID, at time.Time) error
}

// Runner runs expire jobs.
type Runner struct {
	Catalog *catalog.Catalog
	Mover   func(backstay.HostName) (mover.Mover, error)
	Vault   func(context.Context, backstay.VaultName) (Vault, error)
	// Floor is how much must stay free on a file system of a host, in bytes.
	Floor func(backstay.HostName, backstay.Room) int64
	Now   func() time.Time
}

// Run drops what the VM's policy no longer keeps or, with params.Point, that
// point from both tiers; with params.Device it makes room, and with
// params.Release it puts the VM back on its own files.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.ExpireParams) error {
	switch {
	case params.Device != "":
		return r.makeRoom(ctx, run, params)
	case params.Release:
		return r.release(ctx, run, params)
	}
	var verdicts []Verdict
	err := run.Step(ctx, "plan", func(ctx context.Context) error {
		var err error
		if verdicts, err = r.plan(ctx, params); err != nil {
			return err
		}
		return run.Save(verdicts)
	})
	if err != nil {
		return err
	}
	if _, err := run.Load(&verdicts); err != nil {
		return fmt.Errorf("load the plan: %w", err)
	}
	return run.Step(ctx, "drop", func(ctx context.Context) error { return r.dropAll(ctx, run, params, verdicts) })
}

// Due tells whether an expire job for the VM would drop anything.
func (r *Runner) Due(ctx context.Context, vm backstay.VMID) (bool, error) {
	verdicts, err := r.plan(ctx, backstay.ExpireParams{VM: vm})
	for _, v := range verdicts {
		if v.Drop {
			return true, err
		}
	}
	return false, err
}

func (r *Runner) plan(ctx context.Context, params backstay.ExpireParams) ([]Verdict, error) {
	if params.Point != "" {
		return []Verdict{
			{Point: params.Point, Tier: backstay.SnapshotTier, Drop: true, Reason: "deleted by a user", Needed: "point " + string(params.Point) + ", on which it stood, is deleted"},
			{Point: params.Point, Tier: backstay.VaultTier, Drop: true, Reason: "deleted by a user"},
		}, nil
	}
	item, err := r.Catalog.Items.Item(ctx, params.VM)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, nil // no policy: everything is kept
	} else if err != nil {
		return nil, fmt.Errorf("read the protected item: %w", err)
	}
	policy, err := r.Catalog.Policies.Policy(ctx, item.Policy)
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", item.Policy, err)
	}
	points, err := r.Catalog.Points.ListPoints(ctx, params.VM)
	if err != nil {
		return nil, fmt.Errorf("list points: %w", err)
	}
	return NewPlan(policy, points, r.Now()), nil
}

func (r *Runner) dropAll(ctx context.Context, run backstay.Run, params backstay.ExpireParams, verdicts []Verdict) error {
	for _, v := range verdicts {
		if !v.Drop {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err := r.drop(ctx, run, v)
		switch {
		case err == nil:
		case params.Point == "" && backstay.IsCode(err, backstay.CodeLayerInUse):
			// A VM that was restored from the point still stands on it. It goes
			// when that VM has gone; until then it is a usable point.
			continue
		case params.Point == "":
			if err := run.Warn(fmt.Sprintf("point %s stays in the %s tier: %v", v.Point, v.Tier, err)); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

func (r *Runner) drop(ctx context.Context, run backstay.Run, v Verdict) error {
	point, err := r.Catalog.Points.Point(ctx, v.Point)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read point %s: %w", v.Point, err)
	}
	before := stateOf(point, v.Tier)
	if before == "" {
		return r.forgetIfGone(ctx, v.Point)
	}
	if err := r.mark(ctx, v, backstay.TierDeleting); err != nil {
		return err
	}
	if err := r.dropTier(ctx, run, point, v); err != nil {
		if backstay.IsCode(err, backstay.CodeLayerInUse) {
			return errors.Join(err, r.mark(ctx, v, before))
		}
		return err
	}
	err = r.Catalog.Points.ChangePoint(ctx, v.Point, func(p *backstay.RecoveryPoint) error {
		p.DropTier(v.Tier)
		return nil
	})
	if err != nil {
		return fmt.Errorf("record that point %s left the %s tier: %w", v.Point, v.Tier, err)
	}
	return r.forgetIfGone(ctx, v.Point)
}

func (r *Runner) mark(ctx context.Context, v Verdict, state backstay.TierState) error {
	err := r.Catalog.Points.ChangePoint(ctx, v.Point, func(p *backstay.RecoveryPoint) error {
		if state == backstay.TierDeleting && p.Pinned && stateOf(*p, v.Tier) != state {
			// Since the plan was made, which may be long ago.
			return backstay.Errorf(backstay.CodeLayerInUse, "point %s stays in the %s tier", p.ID, v.Tier).Becausef("it is pinned").Do("unpin it first")
		}
		p.SetTier(v.Tier, state, r.Now())
		return nil
	})
	if backstay.IsCode(err, backstay.CodeLayerInUse) {
		return err
	}
	if err != nil {
		return fmt.Errorf("mark point %s as %s: %w", v.Point, state, err)
	}
	return nil
}

func (r *Runner) dropTier(ctx context.Context, run backstay.Run, point backstay.RecoveryPoint, v Verdict) error {
	if v.Tier == backstay.VaultTier {
		opened, err := r.Vault(ctx, point.Vault)
		if err != nil {
			return err
		}
		return opened.DropPoint(ctx, point.ID, r.Now())
	}
	m, err := r.holder(ctx, point)
	if err != nil {
		return err
	}
	progress := func(p mover.Report) { run.Progress(p.Done, p.Total) }
	if v.KeepMap {
		return m.KeepMap(ctx, point.ID, progress)
	}
	if v.Needed != "" {
		return mover.DropNeeded(ctx, m, mover.Needed{Point: point.ID, Why: v.Needed}, progress)
	}
	return m.DropPoint(ctx, point.ID, progress)
}

// holder is the mover through which a point leaves the snapshot tier: that of the
// host on which the VM is now, if its layers came along with it. Only there is it
// known what the VM has open.
func (r *Runner) holder(ctx context.Context, point backstay.RecoveryPoint) (mover.Mover, error) {
	vm, err := r.Catalog.VMs.VM(ctx, point.VM.UUID)
	if err != nil || vm.Host == point.VM.Host {
		return r.Mover(point.VM.Host)
	}
	m, err := r.Mover(vm.Host)
	if err != nil {
		return nil, err
	}
	there, err := m.Points(ctx)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(there, func(t mover.Taken) bool { return t.Point == point.ID }) {
		return m, nil
	}
	return r.Mover(point.VM.Host)
}

// forgetIfGone takes a point that is in no tier any more out of the catalogue.
func (r *Runner) forgetIfGone(ctx context.Context, id backstay.PointID) error {
	point, err := r.Catalog.Points.Point(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && len(point.Tiers) > 0 {
		return nil
	} else if err != nil {
		return fmt.Errorf("read point %s: %w", id, err)
	}
	if err := r.Catalog.Points.DeletePoint(ctx, id); err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("delete point %s from the catalogue: %w", id, err)
	}
	return nil
}
