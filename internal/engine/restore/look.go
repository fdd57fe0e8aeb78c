package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// look adds to a plan what must be asked for once the plan is there: how the
// definition will differ, and how long restores like it took.
func (r *Runner) look(ctx context.Context, plan *backstay.RestorePlan) error {
	past, err := r.past(ctx, plan.Host)
	if err != nil {
		return err
	}
	plan.Seconds = Estimate(*plan, past)
	if unreadable(*plan) {
		return nil // and a check says why
	}
	preview, err := r.preview(ctx, *plan)
	if ctx.Err() != nil {
		return err
	}
	addPreview(plan, preview, err)
	return nil
}

// unreadable tells whether a check has found already that the point cannot be read.
func unreadable(plan backstay.RestorePlan) bool {
	return slices.ContainsFunc(plan.Refused(), func(c backstay.Check) bool { return c.Name == "tier" || c.Name == "host" })
}

func (r *Runner) preview(ctx context.Context, plan backstay.RestorePlan) (mover.Preview, error) {
	request := mover.StageRequest{Plan: plan}
	host := plan.Host
	if plan.Tier == backstay.VaultTier {
		access, err := r.Vault(ctx, plan.Vault)
		if err != nil {
			return mover.Preview{}, err
		}
		request.Vault = &access
	} else {
		host = plan.Source.Host // where the definition lies
		request.Plan.StreamedFrom = ""
	}
	m, err := r.Mover(host)
	if err != nil {
		return mover.Preview{}, err
	}
	p, err := m.Preview(ctx, request)
	if host != plan.Host {
		// The differences are right; what the other host has is no matter.
		p.Checks, p.Warnings = nil, nil
	}
	return p, err
}

// addPreview puts what the host said into the plan. A preview that cannot be had
// stops nothing: what stands in the way of the restore itself has its own check.
func addPreview(plan *backstay.RestorePlan, p mover.Preview, err error) {
	if err != nil {
		plan.Preflight = append(plan.Preflight,
			ok("definition", "the differences and what the definition demands cannot be told now: %s", backstay.AsError(err).Error()))
		return
	}
	if p.Differences != nil {
		plan.Differences = p.Differences
	}
	plan.Preflight = append(plan.Preflight, p.Checks...)
	plan.Preflight = append(plan.Preflight, ok("definition", "%d fields of it will differ", len(plan.Differences)))
	for _, w := range p.Warnings {
		plan.Preflight = append(plan.Preflight, ok("definition", "warning: %s", w))
	}
}

// searched is how many ended jobs are looked at for restores like a plan.
const searched = 500

// past returns what restores on the host took, newest first.
func (r *Runner) past(ctx context.Context, host backstay.HostName) ([]Past, error) {
	jobs, err := r.Catalog.Jobs.ListJobs(ctx, searched, backstay.JobSucceeded, backstay.JobWarning)
	if err != nil {
		return nil, fmt.Errorf("list the jobs that ended: %w", err)
	}
	var all []Past
	for _, j := range jobs {
		var params backstay.RestoreParams
		if j.Kind != backstay.JobRestore || j.Host != host || j.Started == nil || j.Ended == nil || json.Unmarshal(j.Params, &params) != nil {
			continue
		}
		all = append(all, pastOf(j.Job, params.Plan))
	}
	return all, nil
}

// pastOf reads off an ended job what it took. Bytes are the planned ones: of what
// only the difference is written, most is read and compared all the same.
func pastOf(j backstay.Job, plan backstay.RestorePlan) Past {
	p := Past{Kind: plan.Kind, Tier: plan.Tier, Live: plan.Live, Full: plan.Full, Streamed: plan.StreamedFrom != "", Bytes: plan.Bytes, Seconds: j.Ended.Sub(*j.Started).Seconds()}
	for _, t := range j.Tasks {
		if (t.Name == "stage" || t.Name == "verify" || t.Name == "copy") && t.Started != nil && t.Ended != nil {
			p.Moving += t.Ended.Sub(*t.Started).Round(time.Millisecond).Seconds()
		}
	}
	return p
}
