package restore

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

// stopGrace is for how long a guest may shut down by itself.
const stopGrace = 60 * time.Second

// askSource asks how the VM stands whose disks are to be replaced.
func (r *Runner) askSource(ctx context.Context, m mover.Mover, request backstay.RestoreRequest, facts *Facts) error {
	if request.Kind != backstay.ReplaceDisks {
		return nil
	}
	facts.SafetyPoint = r.NewPoint()
	if facts.source() == nil {
		return nil
	}
	state, err := m.Source(ctx, facts.over())
	if err != nil {
		return err
	}
	facts.Source = &state
	item, err := r.Catalog.Items.Item(ctx, facts.over())
	if errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the protected item: %w", err)
	}
	facts.Item = &item
	return nil
}

// replaceState is what a later life of a replace, or of an undo, must know.
type replaceState struct {
	// Safety is the id of the safety point: the plan's, unless an earlier job with the
	// same plan took one of that id. Taken: it is taken, and in the catalogue.
	Safety backstay.PointID `json:"safety,omitempty"`
	Taken  bool             `json:"taken,omitempty"`
	// Stopped is when the job shut the VM off; nil if it did not.
	Stopped *time.Time `json:"stopped,omitempty"`
	// Ran: the VM ran when the job came to shut it off.
	Ran bool `json:"ran,omitempty"`
}

func (o original) run(ctx context.Context, a *attempt) error {
	run, m := a.run, a.mover
	var state replaceState
	if _, err := run.Load(&state); err != nil {
		return fmt.Errorf("load the job's state: %w", err)
	}
	err := run.Step(ctx, "plan", func(ctx context.Context) error { return o.recheck(ctx, a, &state) })
	if err != nil {
		return err
	}
	if a.request.Plan.SafetyPoint != "" {
		a.request.Plan.SafetyPoint = state.Safety
	}
	plan := a.request.Plan
	if err := run.Step(ctx, "stop", func(ctx context.Context) error { return a.stop(ctx, &state, plan.Stop, plan.DiscardSaved) }); err != nil {
		return err
	}
	if err := run.Step(ctx, "safety", func(ctx context.Context) error { return a.safety(ctx, &state, plan.SafetyPoint) }); err != nil {
		return err
	}
	staged, err := a.stage(ctx, m.StageReplace)
	if err != nil {
		return err
	}
	if err := run.Step(ctx, "switch", func(ctx context.Context) error {
		return a.whileAway(ctx, "switch", func() error { return o.switchDisks(ctx, a, staged) })
	}); err != nil {
		return err
	}
	return run.Step(ctx, "start", func(ctx context.Context) error {
		return a.whileAway(ctx, "start", func() error { return a.startAgain(ctx, state, plan.Start) })
	})
}

// recheck repeats the pre-flight checks: the job may have waited since. It chooses
// the safety point's id.
func (o original) recheck(ctx context.Context, a *attempt, state *replaceState) error {
	wish := a.wish
	wish.DryRun = false
	facts, err := a.gather(ctx, wish)
	if err != nil {
		return err
	}
	if facts.VaultWarning != "" {
		if err := a.run.Warn(facts.VaultWarning); err != nil {
			return err
		}
	}
	now := a.request.Plan
	now.Preflight = o.preflight(wish, facts, now)
	if err := now.Refusal(); err != nil {
		return err
	}
	if err := sameDisks(now, facts.source()); err != nil {
		return err
	}
	state.Safety = now.SafetyPoint
	if _, err := a.Catalog.Points.Point(ctx, state.Safety); err == nil {
		state.Safety = facts.SafetyPoint // this job repeats one that took it
	}
	return a.run.Save(state)
}

// sameDisks sees that the VM still has the disks that the plan was made for.
func sameDisks(plan backstay.RestorePlan, now *backstay.VM) error {
	for _, d := range plan.Disks {
		at := slices.IndexFunc(now.Disks, func(n backstay.Disk) bool { return n.Target == d.Target })
		if d.Action == backstay.DiskReplaced && at < 0 || d.Action == backstay.DiskReturned && at >= 0 {
			return backstay.Errorf(backstay.CodePreflight, "VM %s does not have the disks any more that the restore was planned for", now.Name).
				Becausef("disk %s was attached or detached since", d.Target).Do("start the restore again")
		}
	}
	return nil
}

// stop shuts the VM off, if that was asked for.
func (a *attempt) stop(ctx context.Context, state *replaceState, consent, discard bool) error {
	plan := a.request.Plan
	source, err := a.mover.Source(ctx, plan.UUID)
	if err != nil {
		return err
	}
	if source.State != backstay.VMShutOff && !consent {
		return backstay.Errorf(backstay.CodeNotShutOff, "VM %s is %s", plan.Name, source.State).Becausef("its disks cannot be replaced while it may write to them")
	}
	if source.State != backstay.VMShutOff && !state.Ran {
		state.Ran = true
		if err := a.run.Save(state); err != nil {
			return err
		}
	}
	stopped, err := a.mover.Stop(ctx, mover.StopRequest{VM: plan.UUID, Grace: stopGrace, DiscardSaved: discard})
	if err != nil {
		return err
	}
	if stopped.Forced {
		why := fmt.Sprintf("the guest did not shut down in %s", stopGrace)
		if source.State != backstay.VMRunning {
			why = fmt.Sprintf("the VM was %s", source.State)
		}
		if err := a.run.Warn(why + ", and its power was cut"); err != nil {
			return err
		}
	}
	if state.Ran && state.Stopped == nil {
		at := stopped.At
		if !stopped.Was {
			at = a.Now().UTC() // an earlier life shut it off
		}
		state.Stopped = &at
	}
	return a.run.Save(state)
}

// safety takes a point of the present state, like any other of the item.
func (a *attempt) safety(ctx context.Context, state *replaceState, id backstay.PointID) error {
	if id == "" || state.Taken {
		return nil
	}
	point, err := a.takeSafety(ctx, id)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return backstay.Errorf(backstay.CodeSafetyPoint, "the safety point of %s could not be taken, so its disks stay as they are", a.request.Plan.Name).Because(err)
	}
	err = a.Catalog.Points.ChangePoint(ctx, id, func(p *backstay.RecoveryPoint) error {
		p.Job, p.Expires, p.ConsistencyReason = point.Job, point.Expires, point.ConsistencyReason
		return nil
	})
	if errors.Is(err, catalog.ErrNotFound) {
		err = a.Catalog.Points.PutPoint(ctx, point)
	}
	if err != nil {
		return fmt.Errorf("record the safety point: %w", err)
	}
	state.Taken = true
	if err := a.run.Save(state); err != nil {
		return err
	}
	return a.run.Update(func(j *backstay.Job) { j.Result.SafetyPoint = id })
}

func (a *attempt) takeSafety(ctx context.Context, id backstay.PointID) (backstay.RecoveryPoint, error) {
	plan, none := a.request.Plan, backstay.RecoveryPoint{}
	item, err := a.Catalog.Items.Item(ctx, plan.UUID)
	if err != nil {
		return none, backstay.Errorf(backstay.CodeNotProtected, "the VM %s is not protected any more", plan.Name).Because(err)
	}
	vms, err := a.mover.VMs(ctx)
	if err != nil {
		return none, err
	}
	at := slices.IndexFunc(vms, func(vm backstay.VM) bool { return vm.ID == plan.UUID })
	if at < 0 {
		return none, backstay.Errorf(backstay.CodeUnknownVM, "host %s has no VM %s any more", plan.Host, plan.Name)
	}
	targets, out := safetyDisks(plan, item, vms[at])
	taken, found, err := a.mover.Settle(ctx, plan.UUID, id) // of an earlier life
	if err != nil {
		return none, err
	}
	if !found {
		job := a.run.Job().ID
		keys, err := a.keysOf(ctx, item)
		if err != nil {
			return none, err
		}
		prepared, err := a.mover.Prepare(ctx, mover.PrepareRequest{
			Job: job, Point: id, VM: plan.UUID, Disks: targets, Consistency: backstay.CrashConsistent, Keys: keys,
		})
		if err != nil {
			return none, err
		}
		for _, warning := range prepared.Warnings {
			if err := a.run.Warn(warning); err != nil {
				return none, err
			}
		}
		taken, err = a.mover.Take(ctx, mover.TakeRequest{Job: job, Point: id, VM: plan.UUID, Consistency: backstay.CrashConsistent, Time: a.Now().UTC()})
		if err != nil {
			return none, err
		}
	}
	point := mover.PointOf(taken, item.Vault, a.Now())
	point.Job, point.VM.Host = a.run.Job().ID, plan.Host
	point.ConsistencyReason = fmt.Sprintf("safety point of job %s; %s", point.Job, point.ConsistencyReason)
	point.Disks = append(point.Disks, out...)
	keep := plan.KeepOld
	if keep <= 0 {
		keep = backstay.DefaultKeepOld
	}
	expires := point.Time.Add(time.Duration(keep))
	point.Expires = &expires
	return point, nil
}

// safetyDisks are the disks that a safety point holds: all that the item's points
// hold, and all that are replaced. The others are named in it with the reason.
func safetyDisks(plan backstay.RestorePlan, item backstay.ProtectedItem, vm backstay.VM) (in []backstay.DiskTarget, out []backstay.PointDisk) {
	for _, d := range vm.Disks {
		verdict := item.Judge(d)
		replaced := slices.ContainsFunc(plan.Disks, func(p backstay.PlannedDisk) bool {
			return p.Target == d.Target && (p.Action == backstay.DiskReplaced || p.Action == backstay.DiskDetached)
		})
		if d.Reason == "" && (verdict.Included || replaced) {
			in = append(in, d.Target)
			continue
		}
		out = append(out, backstay.PointDisk{Target: d.Target, Size: d.Size, Format: d.Format, Reason: verdict.Reason, Excluded: verdict.Excluded})
	}
	return in, out
}

func (original) switchDisks(ctx context.Context, a *attempt, staged mover.Staged) error {
	plan := a.request.Plan
	switched, err := a.mover.SwitchDisks(ctx, a.request)
	if err != nil {
		return err
	}
	for _, warning := range switched.Warnings {
		if err := a.run.Warn(warning); err != nil {
			return err
		}
	}
	return a.run.Update(func(j *backstay.Job) {
		j.Result.Disks, j.Result.UndoUntil = nil, &switched.Until
		for _, d := range plan.Disks {
			if d.Path != "" {
				j.Result.Disks = append(j.Result.Disks, d.Path)
			}
		}
		j.Result.VM = &backstay.VMRef{Name: plan.Name, UUID: plan.UUID, Host: plan.Host}
		j.Stats.BytesRead, j.Stats.BytesNew = max(j.Stats.BytesRead, staged.BytesRead), max(j.Stats.BytesNew, staged.BytesWritten)
	})
}

// startAgain starts the VM, if asked for, and tells for how long it was down.
func (a *attempt) startAgain(ctx context.Context, state replaceState, wanted bool) error {
	if !wanted {
		return nil
	}
	request := a.request
	request.Plan.Start = true
	up, err := a.mover.Start(ctx, request)
	if err != nil {
		return err
	}
	return a.run.Update(func(j *backstay.Job) {
		j.Result.UpSeconds = up.Seconds
		if state.Stopped != nil {
			j.Result.DownSeconds = max(0, a.Now().Sub(*state.Stopped).Seconds()-up.Seconds)
		}
	})
}

// end decides what of a failed replace stays. Once the VM is on its new disks it
// stays there, and can be put back with an undo; earlier, nothing stays but the
// safety point, and a VM that the job shut off runs again.
func (original) end(ctx context.Context, a *attempt, failure error) error {
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) || taskDone(a.run, "switch") {
		return failure
	}
	clean := context.WithoutCancel(ctx)
	if err := a.mover.AbandonReplace(clean, a.request); err != nil {
		return fmt.Errorf("%w (and what it left could not be removed yet: %v)", failure, err)
	}
	return a.runAgain(clean, failure)
}

// runAgain starts a VM again that the job shut off for nothing.
func (a *attempt) runAgain(ctx context.Context, failure error) error {
	var state replaceState
	if _, err := a.run.Load(&state); err != nil || !state.Ran {
		return failure
	}
	source, err := a.mover.Source(ctx, a.request.Plan.UUID)
	if err != nil || source.State != backstay.VMShutOff {
		return failure
	}
	request := a.request
	request.Plan.Start, request.Plan.Probe = true, backstay.Probe{Kind: backstay.ProbeNone}
	if _, err := a.mover.Start(ctx, request); err != nil {
		return fmt.Errorf("%w (and the VM, which ran before, could not be started again: %v)", failure, err)
	}
	return failure
}

func taskDone(run backstay.Run, name string) bool {
	return slices.ContainsFunc(run.Job().Tasks, func(t backstay.Task) bool { return t.Name == name && t.State == backstay.TaskSucceeded })
}
