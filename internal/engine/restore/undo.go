package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// PlanUndo decides how a restore is taken back; it changes nothing. CodeCannotUndo,
// with the reason, if it cannot be.
func (r *Runner) PlanUndo(ctx context.Context, id backstay.JobID, wish backstay.UndoRequest) (backstay.UndoPlan, backstay.UndoParams, error) {
	params, job, err := r.undoable(ctx, id)
	if err != nil {
		return backstay.UndoPlan{}, params, err
	}
	params.Stop, params.Start = wish.Stop, wish.Start
	of := params.Plan
	plan := backstay.UndoPlan{Job: id, Kind: of.Kind, VM: backstay.VMRef{Name: of.Name, UUID: of.UUID, Host: of.Host}, Until: job.Result.UndoUntil}
	m, err := r.Mover(of.Host)
	if err != nil {
		return plan, params, err
	}
	if _, err := m.Undo(ctx, mover.UndoRequest{Job: id, Plan: of, Look: true}); err != nil {
		return plan, params, err
	}
	item, err := r.itemOf(ctx, of.UUID)
	if err != nil {
		return plan, params, err
	}
	if of.Kind != backstay.ReplaceDisks {
		if item != nil && (of.Kind == backstay.CreateVM || of.Kind == backstay.DeployPlan) {
			return plan, params, backstay.Errorf(backstay.CodeCannotUndo, "the VM %s, which the restore made, cannot be removed", of.Name).
				Becausef("it is protected by now").Do("end its protection first: `backstay unprotect %s/%s`", of.Host, of.Name)
		}
		plan.Tasks, plan.Effects = []string{"plan", "remove"}, removals(of)
		return plan, params, nil
	}
	source, err := m.Source(ctx, of.UUID)
	if err != nil {
		return plan, params, err
	}
	if source.State != backstay.VMShutOff && !wish.Stop {
		return plan, params, backstay.Errorf(backstay.CodeNotShutOff, "VM %s is %s", of.Name, source.State).
			Becausef("its disks cannot be put back while it may write to them").Do("shut it down first, or let the undo do it with --stop")
	}
	if item != nil && item.Method != backstay.MethodPull && !wish.NoSafetyPoint {
		params.SafetyPoint = r.NewPoint()
	}
	plan.SafetyPoint = params.SafetyPoint
	plan.Tasks = []string{"plan", "stop", "safety", "switch", "start"}
	plan.Effects = comebacks(of, source, params)
	return plan, params, nil
}

// undoUntil is until when a VM can be removed again that is made now: the mover
// keeps its journal at least so long.
func (r *Runner) undoUntil() *time.Time {
	until := r.Now().UTC().Add(time.Duration(backstay.DefaultKeepOld))
	return &until
}

// undoable finds the restore that is to be taken back.
func (r *Runner) undoable(ctx context.Context, id backstay.JobID) (params backstay.UndoParams, job backstay.Job, err error) {
	record, err := r.Catalog.Jobs.Job(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) {
		return params, job, backstay.Errorf(backstay.CodeUnknownJob, "there is no job %q", id).
			Becausef("the catalogue of this region does not have it")
	}
	if err != nil {
		return params, job, fmt.Errorf("read job %s: %w", id, err)
	}
	switch {
	case record.Kind != backstay.JobRestore && record.Kind != backstay.JobDeploy:
		return params, job, backstay.Errorf(backstay.CodeCannotUndo, "the job %s cannot be taken back", id).Becausef("it is a %s and no restore", record.Kind)
	case !record.Job.State.Ended():
		return params, job, backstay.Errorf(backstay.CodeConflict, "the restore %s has not ended", id).Becausef("it is %s", record.Job.State).
			Do("wait for it, or cancel it: `backstay job cancel %s`", id)
	}
	var of backstay.RestoreParams
	if err := json.Unmarshal(record.Params, &of); err != nil {
		return params, job, fmt.Errorf("read the parameters of job %s: %w", id, err)
	}
	return backstay.UndoParams{Job: id, Plan: of.Plan}, record.Job, nil
}

// itemOf returns what a VM is protected by; nil if it is not.
func (r *Runner) itemOf(ctx context.Context, vm backstay.VMID) (*backstay.ProtectedItem, error) {
	item, err := r.Catalog.Items.Item(ctx, vm)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the protected item: %w", err)
	}
	return &item, nil
}

// removals say what goes with a restore that made something new.
func removals(of backstay.RestorePlan) []string {
	if of.Kind == backstay.RestoreDisks {
		return []string{fmt.Sprintf("remove what the restore wrote to %s on host %s", of.Folder, of.Host)}
	}
	if of.Kind == backstay.DeployPlan {
		return []string{fmt.Sprintf("end the VM %s/%s and remove it; its disks stay in %s", of.Host, of.Name, of.Folder)}
	}
	var files []string
	for _, d := range of.Disks {
		files = append(files, d.Path)
	}
	return []string{
		fmt.Sprintf("end the VM %s/%s and remove it", of.Host, of.Name),
		"remove its disks with all that its guest wrote: " + strings.Join(files, ", "),
	}
}

// comebacks say what the undo of a replace does.
func comebacks(of backstay.RestorePlan, source mover.SourceState, params backstay.UndoParams) []string {
	var effects []string
	if source.State != backstay.VMShutOff {
		effects = append(effects, fmt.Sprintf("shut the VM %s/%s off", of.Host, of.Name))
	}
	effects = append(effects, fmt.Sprintf("put %s/%s back on the disks that it had before the restore", of.Host, of.Name))
	if params.SafetyPoint != "" {
		return append(effects, "keep what its guest wrote since as a recovery point")
	}
	return append(effects, "remove what its guest wrote since: no point of it is taken")
}

// Undo takes a restore back, or goes on with that after a crash.
func (r *Runner) Undo(ctx context.Context, run backstay.Run, params backstay.UndoParams) error {
	m, err := r.Mover(params.Plan.Host)
	if err != nil {
		return err
	}
	a := &attempt{Runner: r, run: run, mover: m, request: mover.StageRequest{Job: params.Job, Plan: params.Plan}}
	if params.Plan.Kind == backstay.ReplaceDisks {
		if err := a.undoReplace(ctx, params); err != nil {
			if errors.Is(context.Cause(ctx), backstay.ErrStopping) || taskDone(run, "switch") {
				return err
			}
			return a.runAgain(context.WithoutCancel(ctx), err)
		}
		return nil
	}
	if err := run.Step(ctx, "plan", func(ctx context.Context) error { return a.lookAgain(ctx, params) }); err != nil {
		return err
	}
	return run.Step(ctx, "remove", func(ctx context.Context) error {
		return a.whileAway(ctx, "remove", func() error { return a.takeBack(ctx, params) })
	})
}

func (a *attempt) undoReplace(ctx context.Context, params backstay.UndoParams) error {
	run := a.run
	var state replaceState
	if _, err := run.Load(&state); err != nil {
		return fmt.Errorf("load the job's state: %w", err)
	}
	if err := run.Step(ctx, "plan", func(ctx context.Context) error { return a.lookAgain(ctx, params) }); err != nil {
		return err
	}
	if err := run.Step(ctx, "stop", func(ctx context.Context) error { return a.stop(ctx, &state, params.Stop, false) }); err != nil {
		return err
	}
	// The plan's own safety point is of the restore.
	if err := run.Step(ctx, "safety", func(ctx context.Context) error { return a.safety(ctx, &state, params.SafetyPoint) }); err != nil {
		return err
	}
	if err := run.Step(ctx, "switch", func(ctx context.Context) error {
		return a.whileAway(ctx, "switch", func() error { return a.takeBack(ctx, params) })
	}); err != nil {
		return err
	}
	return run.Step(ctx, "start", func(ctx context.Context) error {
		return a.whileAway(ctx, "start", func() error { return a.startAgain(ctx, state, params.Start) })
	})
}

// lookAgain sees that it can still be done: the job may have waited since.
func (a *attempt) lookAgain(ctx context.Context, params backstay.UndoParams) error {
	_, err := a.mover.Undo(ctx, mover.UndoRequest{Job: params.Job, By: a.run.Job().ID, Plan: params.Plan, Look: true})
	return err
}

func (a *attempt) takeBack(ctx context.Context, params backstay.UndoParams) error {
	if _, err := a.mover.Undo(ctx, mover.UndoRequest{Job: params.Job, By: a.run.Job().ID, Plan: params.Plan, Safety: params.SafetyPoint}); err != nil {
		return err
	}
	if params.Plan.Kind != backstay.ReplaceDisks {
		return nil
	}
	plan := params.Plan
	return a.run.Update(func(j *backstay.Job) {
		j.Result.VM = &backstay.VMRef{Name: plan.Name, UUID: plan.UUID, Host: plan.Host}
	})
}
