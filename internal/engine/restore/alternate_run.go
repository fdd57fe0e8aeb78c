package restore

import (
	"context"
	"errors"
	"fmt"
	"path"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

func (w alternate) run(ctx context.Context, a *attempt) error {
	if a.request.Plan.Live {
		return w.runLive(ctx, a)
	}
	run, m, request := a.run, a.mover, a.request
	plan := request.Plan
	if err := run.Step(ctx, "plan", func(ctx context.Context) error { return a.recheck(ctx, run, request) }); err != nil {
		return err
	}
	staged, err := a.stage(ctx, m.Stage)
	if err != nil {
		return err
	}
	err = run.Update(func(j *backstay.Job) {
		j.Result.Disks = paths(plan)
		if staged.BytesRead > 0 {
			j.Stats.BytesRead = staged.BytesRead
		}
		if staged.BytesWritten > 0 {
			j.Stats.BytesNew = staged.BytesWritten
		}
	})
	if err != nil {
		return err
	}
	if err := run.Step(ctx, "switch", func(ctx context.Context) error {
		return a.whileAway(ctx, "switch", func() error { return define(ctx, run, m, request) })
	}); err != nil {
		return err
	}
	if err := run.Update(func(j *backstay.Job) {
		j.Result.VM = &backstay.VMRef{Name: plan.Name, UUID: plan.UUID, Host: plan.Host}
		j.Result.UndoUntil = a.undoUntil()
	}); err != nil {
		return err
	}
	return run.Step(ctx, "start", func(ctx context.Context) error {
		return a.whileAway(ctx, "start", func() error { return start(ctx, run, m, request) })
	})
}

// stagedBefore tells whether an earlier life of the job wrote and verified all
// disks: they are not written twice.
func stagedBefore(run backstay.Run) bool {
	for _, task := range run.Job().Tasks {
		if task.Name == "verify" {
			return task.State == backstay.TaskSucceeded
		}
	}
	return false
}

// recheck repeats the pre-flight checks: the job may have waited since.
func (r *Runner) recheck(ctx context.Context, run backstay.Run, request mover.StageRequest) error {
	plan := request.Plan
	facts, err := r.gather(ctx, backstay.RestoreRequest{Kind: plan.Kind, Point: plan.Point, Tier: plan.Tier, Host: plan.Host, Name: plan.Name})
	if err != nil {
		return err
	}
	if facts.VaultWarning != "" {
		if err := run.Warn(facts.VaultWarning); err != nil {
			return err
		}
	}
	var planned []string
	for _, d := range plan.Disks {
		planned = append(planned, d.Path)
	}
	m, err := r.Mover(plan.Host)
	if err != nil {
		return err
	}
	infos, err := m.Paths(ctx, planned)
	if err != nil {
		return err
	}
	for _, info := range infos {
		facts.Paths[info.Path] = info
	}
	now := plan
	now.Preflight = append([]backstay.Check{checkTier(facts, plan), checkHost(facts), checkName(facts, plan), checkUUID(facts, plan),
		checkMACs(backstay.RestoreRequest{}, facts, plan), checkRoom(facts, plan)}, checkDisks(facts, plan)...)
	now.Preflight = append(now.Preflight, checkKeys(facts, plan)...)
	return now.Refusal()
}

// define creates the VM, and warns of what it does not have of its source.
func define(ctx context.Context, run backstay.Run, m mover.Mover, request mover.StageRequest) error {
	defined, err := m.Define(ctx, request)
	if err != nil {
		return err
	}
	for _, warning := range defined.Warnings {
		if err := run.Warn(warning); err != nil {
			return err
		}
	}
	return nil
}

func start(ctx context.Context, run backstay.Run, m mover.Mover, request mover.StageRequest) error {
	if !request.Plan.Start {
		return nil
	}
	up, err := m.Start(ctx, request)
	if err != nil {
		return err
	}
	return run.Update(func(j *backstay.Job) { j.Result.UpSeconds = up.Seconds })
}

func paths(plan backstay.RestorePlan) []string {
	var all []string
	for _, d := range plan.Disks {
		all = append(all, d.Path)
	}
	return all
}

// leaveTemplate writes beside disks that are complete all that the VM can be made
// of by hand, where it could not be created (row B1g).
func leaveTemplate(ctx context.Context, a *attempt, failure error) error {
	if !backstay.IsCode(failure, backstay.CodeCreateVMFailed) {
		return failure
	}
	t, err := a.mover.Template(ctx, a.request, nil)
	if err != nil {
		// The disks are worth more than what could not be written beside them.
		return errors.Join(failure, a.run.Warn("no template could be written beside the disks: "+err.Error()))
	}
	if err := a.run.Update(func(j *backstay.Job) { j.Result.Files = t.Files }); err != nil {
		return err
	}
	for _, file := range t.Files {
		if path.Base(file) == "manifest.json" {
			return backstay.AsError(failure).Do("the disks are complete, and a template lies beside them: mend the cause, then `backstay deploy %s`", path.Dir(file))
		}
	}
	return failure
}

// end decides what of a failed restore stays. Creating the VM failed: the disks
// are complete and verified, so they stay and the job says where (row B1g). The
// VM did not start or come up: it stays, for a look. The vault stayed away while
// they were written: what there is waits for a retry, for a day. Anything else
// earlier, or a cancel: nothing stays.
func (w alternate) end(ctx context.Context, a *attempt, failure error) error {
	if a.request.Plan.Live {
		return w.endLive(ctx, a, failure)
	}
	run, m, request := a.run, a.mover, a.request
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return failure
	}
	cancelled := errors.Is(context.Cause(ctx), backstay.ErrCancelled)
	keeps := backstay.IsCode(failure, backstay.CodeCreateVMFailed) ||
		backstay.IsCode(failure, backstay.CodeStartFailed) || backstay.IsCode(failure, backstay.CodeNotUp)
	if keeps && !cancelled {
		return leaveTemplate(ctx, a, failure)
	}
	if a.waitsForRetry(ctx, failure) {
		return failure
	}
	if err := m.Abandon(context.WithoutCancel(ctx), request); err != nil {
		return fmt.Errorf("%w (and what it left could not be removed yet: %v)", failure, err)
	}
	if err := run.Update(func(j *backstay.Job) { j.Result = backstay.JobResult{} }); err != nil {
		return err
	}
	return failure
}
