package restore

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// copyTask is the task of a live restore in which the VM runs already.
const copyTask = "copy"

// liveTasks are those of a create-vm that starts the VM from the vault at once.
var liveTasks = []string{"plan", "stage", "switch", "start", copyTask}

// checkLive refuses what a live restore cannot be.
func checkLive(r backstay.RestoreRequest) error {
	switch {
	case !r.Live:
		return nil
	case r.Tier == backstay.SnapshotTier:
		return backstay.Errorf(backstay.CodeUsage, "a live restore reads the vault").
			Becausef("the snapshot tier was asked for, from which a VM starts at once in any case").Do("leave out --live, or say --tier vault")
	case r.NoStart:
		return backstay.Errorf(backstay.CodeUsage, "a live restore starts the VM").
			Becausef("it was asked for not to start it, and its disks are copied in while it runs").Do("leave out --live or --no-start")
	}
	return nil
}

// checkServed says what the VM stands on until its disks were copied.
func checkServed(f Facts, plan backstay.RestorePlan) backstay.Check {
	if f.Point.Encrypted.Host {
		return refuseDo("live", backstay.CodeEncrypted, "leave out --live",
			"a disk is encrypted on the host, and what the guest writes before it was copied would lie in the clear")
	}
	return ok("live", "the VM of %d disks starts from vault %s, and waits whenever the vault is away until they were copied in", len(plan.Disks), plan.Vault)
}

// runLive carries out a live restore. Once the VM runs, nothing but an explicit
// abandon ends the job before the disks were copied: the guest's writes are in them.
func (alternate) runLive(ctx context.Context, a *attempt) error {
	run, m, request := a.run, a.mover, a.request
	plan := request.Plan
	if err := run.Step(ctx, "plan", func(ctx context.Context) error { return a.recheck(ctx, run, request) }); err != nil {
		return err
	}
	err := run.Step(ctx, "stage", func(ctx context.Context) error {
		_, err := m.Stage(ctx, request, func(mover.Report) {})
		return err
	})
	if err != nil {
		return err
	}
	if err := run.Step(ctx, "switch", func(ctx context.Context) error { return define(ctx, run, m, request) }); err != nil {
		return err
	}
	if err := run.Update(func(j *backstay.Job) {
		j.Result.Disks = paths(plan)
		j.Result.VM = &backstay.VMRef{Name: plan.Name, UUID: plan.UUID, Host: plan.Host}
	}); err != nil {
		return err
	}
	if err := run.Step(ctx, "start", func(ctx context.Context) error { return a.startLive(ctx) }); err != nil {
		return err
	}
	return run.Step(ctx, copyTask, func(ctx context.Context) error {
		if err := a.copyBehind(ctx); err != nil {
			return err
		}
		return run.Update(func(j *backstay.Job) { j.Result.UndoUntil = a.undoUntil() })
	})
}

// startLive starts the VM. One that runs and does not come up in time is no reason
// to end: its guest may have written by now.
func (a *attempt) startLive(ctx context.Context) error {
	err := a.whileAway(ctx, "start", func() error { return start(ctx, a.run, a.mover, a.request) })
	if backstay.IsCode(err, backstay.CodeNotUp) {
		return a.run.Warn(backstay.AsError(err).Error() + "; its disks are copied in all the same")
	}
	return err
}

func (a *attempt) copyBehind(ctx context.Context) error {
	var said string
	var total int64
	err := a.whileAway(ctx, copyTask, func() error {
		return a.mover.CopyBehind(ctx, a.request, func(r mover.Report) {
			total = r.Total
			a.run.Progress(r.Done, r.Total)
			if r.Note != said {
				said = r.Note
				a.note(copyTask, r.Note)
			}
		})
	})
	if err == nil && total > 0 {
		a.run.Progress(total, total) // nothing reports the last bytes
	}
	return err
}

// endLive decides what of a live restore that failed stays. Before the VM ran
// nothing does; from then on all of it, until somebody abandons it.
func (alternate) endLive(ctx context.Context, a *attempt, failure error) error {
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return failure
	}
	if !errors.Is(context.Cause(ctx), backstay.ErrCancelled) && a.mayHaveRun(context.WithoutCancel(ctx), failure) {
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

// mayHaveRun tells whether the guest of a live restore may have written by now. One
// that was started may run although the call that did so failed.
func (a *attempt) mayHaveRun(ctx context.Context, failure error) bool {
	switch {
	case began(a.run, copyTask):
		return true
	case !began(a.run, "start"):
		return false
	case !backstay.IsCode(failure, backstay.CodeStartFailed):
		return true
	}
	source, err := a.mover.Source(ctx, a.request.Plan.UUID)
	if err != nil {
		return !backstay.IsCode(err, backstay.CodeUnknownVM)
	}
	return source.State == backstay.VMRunning
}

// began tells whether a task of the job was begun in any of its lives.
func began(run backstay.Run, name string) bool {
	for _, task := range run.Job().Tasks {
		if task.Name == name {
			return task.State != backstay.TaskPending
		}
	}
	return false
}
