package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/rebuild"
	"github.com/backstay/backstay/internal/engine/verify"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/tier/vault"
)

// verifyTick is how often it is looked whether a vault is due to be verified.
const verifyTick = 10 * time.Minute

// verified shows an opened vault as the engines that verify, repair and rebuild
// want to see it.
type verified struct{ *vault.Vault }

// Scrub implements verify.Vault.
func (v verified) Scrub(ctx context.Context, o verify.ScrubOptions) (verify.ScrubReport, error) {
	options := vault.ScrubOptions{From: o.From, Budget: o.Budget, Points: o.Points, Known: o.Known,
		Expect: o.Expect, Suspects: o.Suspects, Pace: o.Pace}
	if o.Progress != nil {
		options.Progress = func(r vault.ScrubReport) error { return o.Progress(verify.ScrubReport(r)) }
	}
	report, err := v.Vault.Scrub(ctx, options)
	return verify.ScrubReport(report), err
}

// Repair implements verify.Vault.
func (v verified) Repair(ctx context.Context, damages []backstay.Damage, o verify.RepairOptions) (verify.RepairReport, error) {
	report, err := v.Vault.Repair(ctx, damages, vault.RepairOptions{Gone: o.Gone, Pace: o.Pace})
	return verify.RepairReport(report), err
}

// Found implements rebuild.Vault.
func (v verified) Found(ctx context.Context) ([]rebuild.Found, error) {
	contents, err := v.Contents(ctx)
	if err != nil {
		return nil, err
	}
	var found []rebuild.Found
	for _, c := range contents {
		f := rebuild.Found{ID: c.Point, Facts: c.Facts}
		if c.Damage != nil {
			f.Damage = backstay.AsError(c.Damage).Error()
		}
		found = append(found, f)
	}
	return found, nil
}

// verifyVaults makes the engine that verifies and repairs the region's vaults.
func (r *region) verifyVaults() *verify.VaultRunner {
	return &verify.VaultRunner{
		Catalog: r.catalog, Now: utcNow,
		Open: func(ctx context.Context, name backstay.VaultName) (verify.Vault, error) {
			if _, replica := name.Origin(); replica {
				return r.vaults.verifiedReplica(ctx, name)
			}
			return r.vaults.openWhole(ctx, name)
		},
		QueueRepair: func(ctx context.Context, name backstay.VaultName) error {
			waiting, err := r.vaultJobs(ctx, name, backstay.JobRepair, backstay.JobQueued)
			if err != nil || len(waiting) > 0 {
				return err
			}
			_, err = r.queue.Submit(ctx, job.Request{Kind: backstay.JobRepair, Target: string(name), User: scheduler,
				Params: backstay.RepairParams{Vault: name}})
			return err
		},
	}
}

func (r *region) rebuilder() *rebuild.Runner {
	return &rebuild.Runner{
		Catalog: r.catalog, Now: utcNow,
		Open: func(ctx context.Context, name backstay.VaultName) (rebuild.Vault, error) {
			v, err := r.vaults.open(ctx, name)
			return verified{v}, err
		},
	}
}

// vaultJobs lists the jobs of a kind that work on the whole vault.
func (r *region) vaultJobs(ctx context.Context, name backstay.VaultName, kind backstay.JobKind, states ...backstay.JobState) ([]backstay.Job, error) {
	jobs, err := r.queue.List(ctx, 0, states...)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return slices.DeleteFunc(jobs, func(j backstay.Job) bool { return j.Kind != kind || j.Target != string(name) }), nil
}

// verifyJob is what a verify job may be asked for: a point or a vault.
type verifyJob struct {
	backstay.VerifyParams
	backstay.VerifyVaultParams
}

func (e *engines) runVerify(ctx context.Context, run backstay.Run, params verifyJob) error {
	if params.Vault != "" {
		return e.vaults.Verify(ctx, run, params.VerifyVaultParams)
	}
	return e.verify.Run(ctx, run, params.VerifyParams)
}

// scheduleVerify queues a verify of each vault in its turn, until ctx ends.
func (r *region) scheduleVerify(ctx context.Context) {
	r.every(ctx, verifyTick, func() error { return r.queueVerifies(ctx, utcNow()) })
}

// queueVerifies queues a verify of each vault that is due, has none waiting or
// running, and was not tried a short while ago: a vault that is away is not tried
// at every tick.
func (r *region) queueVerifies(ctx context.Context, now time.Time) error {
	all, err := r.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return fmt.Errorf("list vaults: %w", err)
	}
	points, err := r.catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return fmt.Errorf("list points: %w", err)
	}
	jobs, err := r.queue.List(ctx, 0)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, v := range all {
		last := slices.IndexFunc(jobs, func(j backstay.Job) bool { return j.Kind == backstay.JobVerify && j.Target == string(v.Name) }) // newest first
		if last >= 0 && (!jobs[last].State.Ended() || verify.TooSoon(now, jobs[last].Created)) {
			continue
		}
		h, err := r.catalog.Health.VaultHealth(ctx, v.Name)
		if err != nil {
			return err
		}
		in := slices.DeleteFunc(slices.Clone(points), func(p backstay.RecoveryPoint) bool { return p.Vault != v.Name || !p.Has(backstay.VaultTier) })
		if !verify.Due(now, v.Created, h, in) {
			continue
		}
		_, err = r.queue.Submit(ctx, job.Request{Kind: backstay.JobVerify, Target: string(v.Name), User: scheduler,
			Params: backstay.VerifyVaultParams{Vault: v.Name, Points: true, Whole: true, Days: r.config.Verify.Days, Rate: r.config.Verify.Rate}})
		if err != nil {
			return fmt.Errorf("queue a verify of vault %s: %w", v.Name, err)
		}
	}
	return nil
}
