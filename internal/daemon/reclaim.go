package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/reclaim"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/tier/vault"
)

// reclaimTick is how often it is looked whether a vault is due to be reclaimed.
const reclaimTick = 10 * time.Minute

// reclaimed shows a reclaim of an opened vault as its engine wants to see it, and
// tells the witness what became of the vault's chain. Only the server deletes in
// a vault (architecture decision 4).
type reclaimed struct {
	*vault.Reclaim
	vault *vault.Vault
	saw   func(context.Context, backstay.VaultHead) error
}

// reclaimer makes the engine that reclaims the region's vaults.
func (r *region) reclaimer() *reclaim.Runner {
	return &reclaim.Runner{
		Catalog: r.catalog, Now: utcNow, Trash: r.config.Reclaim.Trash,
		Open: func(ctx context.Context, name backstay.VaultName, o reclaim.OpenOptions) (reclaim.Vault, error) {
			if err := r.vaults.allWhole(ctx, name); err != nil {
				return nil, err
			}
			v, err := r.vaults.openToWrite(ctx, name)
			if err != nil {
				return nil, err
			}
			return reclaimed{
				vault: v,
				saw:   func(ctx context.Context, head backstay.VaultHead) error { return r.vaults.saw(ctx, name, head) },
				Reclaim: v.Reclaim(vault.ReclaimOptions{
					Now: utcNow(), NoRepack: o.NoRepack, Packs: o.Packs, OnPack: o.OnPack, Progress: o.Progress,
					Writing: func(ctx context.Context) (vault.Writing, error) {
						now, err := o.Writing(ctx)
						return vault.Writing(now), err
					},
				}),
			}, nil
		},
	}
}

// Close implements reclaim.Vault.
func (r reclaimed) Close() error { return r.vault.Close() }

// Plan implements reclaim.Vault.
func (r reclaimed) Plan(ctx context.Context) (backstay.ReclaimPlan, []reclaim.List, error) {
	plan, err := r.Reclaim.Plan(ctx)
	if err != nil {
		return plan, nil, err
	}
	lists, err := r.Lists(ctx)
	for i := range lists {
		for _, t := range plan.Trash {
			if t.List == lists[i].ID {
				lists[i].Packs, lists[i].Rescued = t.Packs, t.Rescued
			}
		}
	}
	return plan, lists, err
}

// Lists implements reclaim.Vault.
func (r reclaimed) Lists(ctx context.Context) ([]reclaim.List, error) {
	found, err := r.Reclaim.Lists(ctx)
	lists := make([]reclaim.List, 0, len(found))
	for _, l := range found {
		lists = append(lists, reclaim.List{ID: l.ID, Begun: l.Fenced})
	}
	return lists, err
}

// Repack implements reclaim.Vault.
func (r reclaimed) Repack(ctx context.Context) (backstay.ObjectSum, error) {
	moved, err := r.Reclaim.Repack(ctx)
	return moved, errors.Join(err, r.witness(ctx))
}

// Condemn implements reclaim.Vault.
func (r reclaimed) Condemn(ctx context.Context) (backstay.ObjectSum, error) {
	condemned, err := r.Reclaim.Condemn(ctx)
	return condemned, errors.Join(err, r.witness(ctx))
}

// Delete implements reclaim.Vault.
func (r reclaimed) Delete(ctx context.Context, list string) (deleted, rescued backstay.ObjectSum, err error) {
	deleted, rescued, err = r.Reclaim.Delete(ctx, list)
	return deleted, rescued, errors.Join(err, r.witness(ctx))
}

// Tidy implements reclaim.Vault.
func (r reclaimed) Tidy(ctx context.Context) error {
	err := r.Reclaim.Tidy(ctx)
	return errors.Join(err, r.witness(ctx))
}

// witness remembers the newest record of the chain. It is not told of a chain
// that cannot be read: that is the caller's error already, or the next one's.
func (r reclaimed) witness(ctx context.Context) error {
	head, err := r.vault.Head(context.WithoutCancel(ctx))
	if err != nil {
		return nil
	}
	return r.saw(context.WithoutCancel(ctx), head)
}

// PlanReclaim implements server.Planner.
func (e *engines) PlanReclaim(ctx context.Context, params backstay.ReclaimParams) (backstay.ReclaimPlan, error) {
	if _, replica := params.Vault.Origin(); replica {
		return e.planReplicaReclaim(ctx, params)
	}
	return e.reclaim.Plan(ctx, params)
}

// runReclaim runs a reclaim of a vault, or of a replica, which has neither keys to
// repack with nor a chain to write to.
func (e *engines) runReclaim(ctx context.Context, run backstay.Run, params backstay.ReclaimParams) error {
	if _, replica := params.Vault.Origin(); replica {
		return e.reclaimReplica(ctx, run, params)
	}
	return e.reclaim.Run(ctx, run, params)
}

// scheduleReclaim queues a reclaim of each vault in its turn, until ctx ends.
func (r *region) scheduleReclaim(ctx context.Context) {
	r.every(ctx, reclaimTick, func() error { return r.queueReclaims(ctx, utcNow()) })
}

// every calls fn at each tick until ctx ends. What fails is told, and tried again
// at the next tick.
func (r *region) every(ctx context.Context, interval time.Duration, fn func() error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := fn(); err != nil && ctx.Err() == nil {
			r.log.Error("jobs of vaults cannot be scheduled", "error", err)
		}
	}
}

// queueReclaims queues a reclaim of each vault that is due and has none waiting
// or running.
func (r *region) queueReclaims(ctx context.Context, now time.Time) error {
	vaults, err := r.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return fmt.Errorf("list vaults: %w", err)
	}
	jobs, err := r.queue.List(ctx, 0)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, v := range vaults {
		var last *time.Time
		pending := len(v.Standing(backstay.Joining)) > 0 // it would be stopped: a needed pack is not in every copy
		for _, j := range jobs {                         // newest first
			if j.Kind != backstay.JobReclaim || j.Target != string(v.Name) {
				continue
			}
			pending = pending || !j.State.Ended()
			if last == nil {
				last = &j.Created
			}
		}
		if pending || !reclaim.Due(v, last, r.config.Reclaim.Every, now) {
			continue
		}
		_, err := r.queue.Submit(ctx, job.Request{Kind: backstay.JobReclaim, Target: string(v.Name), User: scheduler,
			Params: backstay.ReclaimParams{Vault: v.Name}})
		if err != nil {
			return fmt.Errorf("queue a reclaim of vault %s: %w", v.Name, err)
		}
	}
	return nil
}
