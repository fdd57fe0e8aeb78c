package restore

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

func (disksOnly) run(ctx context.Context, a *attempt) error {
	run, m, request := a.run, a.mover, a.request
	plan := request.Plan
	if err := run.Step(ctx, "plan", func(ctx context.Context) error { return a.recheckDisks(ctx) }); err != nil {
		return err
	}
	staged, err := a.stage(ctx, m.Stage)
	if err != nil {
		return err
	}
	return run.Step(ctx, "template", func(ctx context.Context) error {
		var written mover.Templated
		err := a.whileAway(ctx, "template", func() (err error) {
			written, err = m.Template(ctx, request, func(r mover.Report) { run.Progress(r.Done, r.Total) })
			return err
		})
		if err != nil {
			return err
		}
		return run.Update(func(j *backstay.Job) {
			j.Result.Disks, j.Result.Files, j.Result.Folder, j.Result.UndoUntil = paths(plan), written.Files, plan.Folder, written.Until
			if staged.BytesRead > 0 {
				j.Stats.BytesRead, j.Stats.BytesNew = staged.BytesRead, staged.BytesWritten
			}
		})
	})
}

// recheckDisks repeats the pre-flight checks: the job may have waited since.
func (a *attempt) recheckDisks(ctx context.Context) error {
	plan := a.request.Plan
	wish := a.wish
	wish.Point, wish.Host, wish.Tier = plan.Point, plan.Host, plan.Tier
	facts, err := a.gather(ctx, wish)
	if err != nil {
		return err
	}
	if facts.VaultWarning != "" {
		if err := a.run.Warn(facts.VaultWarning); err != nil {
			return err
		}
	}
	now := plan
	now.Preflight = disksOnly{}.preflight(wish, facts, plan)
	if to := where(wish, facts); to.folder != plan.Folder {
		now.Preflight = append(now.Preflight, refuse("folder", backstay.CodeFileExists, "%s is not as it was when the restore was planned", wish.To))
	}
	return now.Refusal()
}

// end removes everything: half of the disks are of no use to anybody.
func (disksOnly) end(ctx context.Context, a *attempt, failure error) error {
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return failure
	}
	if err := a.mover.Abandon(context.WithoutCancel(ctx), a.request); err != nil {
		return fmt.Errorf("%w (and what it left could not be removed yet: %v)", failure, err)
	}
	if err := a.run.Update(func(j *backstay.Job) { j.Result = backstay.JobResult{} }); err != nil {
		return err
	}
	return failure
}
