package movertest

import (
	"context"
	"slices"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// fakeReplace is one replace of the fake's VM.
type fakeReplace struct {
	old, new []backstay.Disk
	switched bool
	undone   backstay.JobID
}

// Source is mover.Replaces'.
func (f *Fake) Source(ctx context.Context, vm backstay.VMID) (mover.SourceState, error) {
	if err := f.enter(ctx, "Source"); err != nil {
		return mover.SourceState{}, err
	}
	if vm != f.Machine.ID {
		return mover.SourceState{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s", vm)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return mover.SourceState{State: f.Machine.State, Disks: slices.Clone(f.Machine.Disks), Persistent: true, Saved: f.Saved, Snapshots: f.LibvirtSnapshots}, nil
}

// Stop is mover.Replaces'.
func (f *Fake) Stop(ctx context.Context, r mover.StopRequest) (mover.Stopped, error) {
	if err := f.enter(ctx, "Stop"); err != nil {
		return mover.Stopped{}, err
	}
	if r.VM != f.Machine.ID {
		return mover.Stopped{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s", r.VM)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	stopped := mover.Stopped{Was: f.Machine.State != backstay.VMShutOff}
	if stopped.Was {
		stopped.At = time.Now().UTC()
	}
	f.Machine.State = backstay.VMShutOff
	if f.Saved && !r.DiscardSaved {
		return stopped, backstay.Errorf(backstay.CodeSavedMemory, "the memory of VM %s is saved", f.Machine.Name)
	}
	f.Saved = false
	return stopped, nil
}

// StageReplace is mover.Replaces'.
func (f *Fake) StageReplace(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Staged, error) {
	if err := f.enter(ctx, "StageReplace"); err != nil {
		return mover.Staged{}, err
	}
	if r.Plan.Tier == backstay.VaultTier {
		if err := f.opens(r.Vault); err != nil {
			return mover.Staged{}, err
		}
	}
	if _, err := f.point(r.Plan.Point, r.Plan.Tier); err != nil {
		return mover.Staged{}, err
	}
	for _, phase := range []string{"write", "verify"} {
		if err := f.report(ctx, phase, progress); err != nil {
			return mover.Staged{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	replace := &fakeReplace{old: slices.Clone(f.Machine.Disks), new: slices.Clone(f.Machine.Disks)}
	var staged mover.Staged
	for _, d := range r.Plan.Disks {
		at := slices.IndexFunc(replace.new, func(n backstay.Disk) bool { return n.Target == d.Target })
		disk := backstay.Disk{Target: d.Target, Device: "disk", Source: d.Path, Format: d.Format, Size: d.Size}
		switch {
		case d.Action == backstay.DiskReplaced && at >= 0:
			replace.new[at] = disk
		case d.Action == backstay.DiskReturned:
			replace.new = append(replace.new, disk)
		case d.Action == backstay.DiskDetached && at >= 0:
			replace.new = slices.Delete(replace.new, at, at+1)
		}
		if d.Path != "" {
			f.staged[d.Path] = r.Job
			staged.Paths = append(staged.Paths, d.Path)
		}
	}
	if f.replaces == nil {
		f.replaces = map[backstay.JobID]*fakeReplace{}
	}
	f.replaces[r.Job] = replace
	return staged, nil
}

// SwitchDisks is mover.Replaces'.
func (f *Fake) SwitchDisks(ctx context.Context, r mover.StageRequest) (mover.DisksSwitched, error) {
	if err := f.enter(ctx, "SwitchDisks"); err != nil {
		return mover.DisksSwitched{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	replace := f.replaces[r.Job]
	switch {
	case replace == nil:
		return mover.DisksSwitched{}, backstay.Errorf(backstay.CodeRestoreFailed, "the new disks of %s are not complete", r.Plan.Name)
	case f.Machine.State != backstay.VMShutOff && !replace.switched:
		return mover.DisksSwitched{}, backstay.Errorf(backstay.CodeNotShutOff, "VM %s is not shut off", r.Plan.Name)
	}
	if !replace.switched {
		f.Machine.Disks, replace.switched = replace.new, true
	}
	return mover.DisksSwitched{Until: time.Now().Add(time.Duration(backstay.DefaultKeepOld)).UTC()}, nil
}

// AbandonReplace is mover.Replaces'.
func (f *Fake) AbandonReplace(ctx context.Context, r mover.StageRequest) error {
	if err := f.enter(ctx, "AbandonReplace"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	replace := f.replaces[r.Job]
	if replace == nil {
		return nil
	}
	if replace.switched {
		f.Machine.Disks = replace.old
	}
	for path, owner := range f.staged {
		if owner == r.Job {
			delete(f.staged, path)
		}
	}
	delete(f.replaces, r.Job)
	return nil
}

// Undo is mover.Replaces'.
func (f *Fake) Undo(ctx context.Context, r mover.UndoRequest) (mover.Undone, error) {
	if err := f.enter(ctx, "Undo"); err != nil {
		return mover.Undone{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	replace := f.replaces[r.Job]
	switch {
	case replace == nil || !replace.switched || replace.undone != "" && replace.undone != r.By:
		return mover.Undone{}, backstay.Errorf(backstay.CodeCannotUndo, "the restore %s cannot be taken back", r.Job)
	case r.Look || replace.undone == r.By:
		return mover.Undone{}, nil
	case f.Machine.State != backstay.VMShutOff:
		return mover.Undone{}, backstay.Errorf(backstay.CodeNotShutOff, "VM %s is not shut off", r.Plan.Name)
	}
	f.Machine.Disks, replace.undone = replace.old, r.By
	return mover.Undone{}, nil
}

// EndUndos is mover.Replaces'.
func (f *Fake) EndUndos(ctx context.Context) ([]string, error) {
	return []string{}, f.enter(ctx, "EndUndos")
}

// testReplace: the disks of a VM that is shut off are replaced by those of a point,
// and come back.
func testReplace(t *testing.T, s Subject) {
	m := s.Mover
	taken := take(t, s)
	if _, err := m.Source(t.Context(), nobody); !backstay.IsCode(err, backstay.CodeUnknownVM) {
		t.Errorf("a VM that is not there: %v", err)
	}
	before := machine(t, s)
	r := mover.StageRequest{Job: job, Plan: ReplacePlan(before, taken)}
	look := mover.UndoRequest{Job: job, By: otherJob, Plan: r.Plan, Look: true}
	if _, err := m.Undo(t.Context(), look); !backstay.IsCode(err, backstay.CodeCannotUndo) {
		t.Errorf("what was not done can be undone: %v", err)
	}
	if err := m.AbandonReplace(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := m.StageReplace(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
	if before.State != backstay.VMShutOff {
		if _, err := m.SwitchDisks(t.Context(), r); !backstay.IsCode(err, backstay.CodeNotShutOff) {
			t.Errorf("the disks of a running VM were replaced: %v", err)
		}
	}
	for _, was := range []bool{before.State != backstay.VMShutOff, false} {
		if stopped, err := m.Stop(t.Context(), mover.StopRequest{VM: s.VM}); err != nil || stopped.Was != was {
			t.Fatalf("stopped %+v, %v", stopped, err)
		}
	}
	for range 2 { // a later life asks again
		if _, err := m.SwitchDisks(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range r.Plan.Disks {
		if got := sourceNow(t, s, d.Target); got != d.Path {
			t.Errorf("disk %s is on %s and not on %s", d.Target, got, d.Path)
		}
	}
	if _, err := m.Undo(t.Context(), look); err != nil {
		t.Errorf("it cannot be undone: %v", err)
	}
	undo := look
	undo.Look = false
	for range 2 {
		if _, err := m.Undo(t.Context(), undo); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range before.Disks {
		if got := sourceNow(t, s, d.Target); got != d.Source {
			t.Errorf("disk %s is on %s and not on %s again", d.Target, got, d.Source)
		}
	}
	undo.By = "01JB0000000000000000000003"
	if _, err := m.Undo(t.Context(), undo); !backstay.IsCode(err, backstay.CodeCannotUndo) {
		t.Errorf("it was undone twice: %v", err)
	}
	if _, err := m.EndUndos(t.Context()); err != nil {
		t.Error(err)
	}
}

func sourceNow(t *testing.T, s Subject, target backstay.DiskTarget) string {
	t.Helper()
	for _, d := range machine(t, s).Disks {
		if d.Target == target {
			return d.Source
		}
	}
	return ""
}

// ReplacePlan returns a replace of all disks of a VM by those of a point in the
// snapshot tier, as an engine would plan it.
func ReplacePlan(vm backstay.VM, taken mover.Taken) backstay.RestorePlan {
	plan := backstay.RestorePlan{
		Kind: backstay.ReplaceDisks, Point: taken.Point, Tier: backstay.SnapshotTier, Name: vm.Name, UUID: vm.ID,
		Source: taken.Shape.Ref(), Probe: backstay.Probe{Kind: backstay.ProbeNone}, Start: true,
	}
	for _, d := range taken.Disks {
		for _, now := range vm.Disks {
			if now.Target == d.Target {
				plan.Disks = append(plan.Disks, backstay.PlannedDisk{
					Target: d.Target, Path: now.Source + ".replaced.qcow2", Format: "qcow2", Size: d.Size,
					Action: backstay.DiskReplaced, Old: now.Source,
				})
			}
		}
	}
	return plan
}
