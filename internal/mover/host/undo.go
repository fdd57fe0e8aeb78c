package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// Undo takes a restore back.
func (h *Host) Undo(ctx context.Context, r mover.UndoRequest) (mover.Undone, error) {
	unlock, err := h.lockReplace(ctx, r.Job, r.Plan.UUID)
	if err != nil {
		return mover.Undone{}, err
	}
	defer unlock()
	undone, err := h.undo(ctx, r)
	if err != nil {
		return undone, h.hostError(err, "the restore of %s cannot be taken back", r.Plan.Name)
	}
	return undone, nil
}

func cannotUndo(r mover.UndoRequest, format string, args ...any) *backstay.Error {
	return backstay.Errorf(backstay.CodeCannotUndo, "the restore %s of %s cannot be taken back", r.Job, r.Plan.Name).Becausef(format, args...)
}

func (h *Host) undo(ctx context.Context, r mover.UndoRequest) (mover.Undone, error) {
	if r.Plan.Kind == backstay.ReplaceDisks {
		return h.undoReplace(ctx, r)
	}
	return h.undoMade(ctx, r)
}

// undoMade removes what a restore made beside everything that was there: the VM and
// its disks, or the folder of disks.
func (h *Host) undoMade(ctx context.Context, r mover.UndoRequest) (undone mover.Undone, err error) {
	j, err := h.loadJournal(r.Job)
	if err != nil {
		return undone, err
	}
	if j == nil {
		return undone, cannotUndo(r, "it was taken back already, or its time is over")
	}
	if err := j.of(r.Plan); err != nil {
		return undone, err
	}
	who, err := h.standOn(ctx, j)
	if err != nil {
		return undone, err
	}
	if len(who) > 0 {
		return undone, cannotUndo(r, "%s", strings.Join(who, "; "))
	}
	if r.Look {
		return undone, nil
	}
	undone.Removed = slices.DeleteFunc(slices.Clone(j.Files), func(p string) bool { return !exists(p) })
	return undone, h.abandon(context.WithoutCancel(ctx), j)
}

// keepForUndo keeps the journal of a restore that has ended until its undo's time is
// over: what it made is its owner's then.
func (h *Host) keepForUndo(j *restoreJournal) error {
	switch {
	case j.Until.IsZero():
		j.Until = h.now().UTC().Add(time.Duration(backstay.DefaultKeepOld))
		return j.write()
	case h.now().Before(j.Until):
		return nil
	}
	return j.remove()
}

// standOn names what else needs the files that a restore made.
func (h *Host) standOn(ctx context.Context, j *restoreJournal) (who []string, err error) {
	vms, err := h.hv.VMs(ctx)
	if err != nil {
		return nil, err
	}
	for _, vm := range vms {
		if vm.ID == j.VM && j.Defining {
			continue // the restore's own; of restored disks there is none
		}
		domain, err := h.hv.Domain(ctx, vm.ID)
		if errors.Is(err, hypervisor.ErrNoVM) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if at := slices.IndexFunc(j.Files, func(p string) bool { return domainUses(&domain, p) }); at >= 0 {
			who = append(who, fmt.Sprintf("VM %s stands on %s", vm.Name, j.Files[at]))
		}
	}
	points, err := h.tier.PointsOn(j.Files)
	if err != nil {
		return nil, err
	}
	for _, p := range points {
		who = append(who, fmt.Sprintf("point %s is on its disks", p))
	}
	return who, nil
}

// undoReplace puts a VM back on the disks that it had. Everything that the guest
// wrote since goes, but for what is in points.
func (h *Host) undoReplace(ctx context.Context, r mover.UndoRequest) (undone mover.Undone, err error) {
	j, err := h.loadReplace(r.Job)
	if err != nil {
		return undone, err
	}
	switch {
	case j == nil:
		return undone, cannotUndo(r, "its time is over, and what it replaced was removed")
	case j.Stage == replaceUndone && j.By == r.By:
		return undone, nil // by an earlier life of this job
	case j.Stage == replaceUndone:
		return undone, cannotUndo(r, "job %s did so already", j.By)
	case j.Stage != replaceSwitched && j.Stage != replaceUndoing:
		return undone, cannotUndo(r, "it has not replaced anything")
	}
	domain, err := h.hv.Domain(ctx, j.VM)
	if err != nil {
		return undone, err
	}
	if err := h.mayUndo(r, j, &domain); err != nil || r.Look {
		return undone, err
	}
	if err := mayRedefine(&domain); err != nil {
		return undone, err
	}
	if j.Stage == replaceSwitched {
		if err := h.unwritten(ctx, r.Safety, &domain, slices.Collect(maps.Keys(j.New))); err != nil {
			return undone, err
		}
	}
	// What was begun must not stop half-way; it takes a moment.
	return h.takeBack(context.WithoutCancel(ctx), r.By, j, &domain)
}

// mayUndo sees that nothing else has become of the VM since.
func (h *Host) mayUndo(r mover.UndoRequest, j *replaceJournal, domain *hypervisor.Domain) error {
	if j.Stage == replaceUndoing {
		return nil
	}
	if !j.onNew(domain) {
		return cannotUndo(r, "the VM is not on the disks that it was given then; if a later restore replaced them, take that one back first")
	}
	if later, err := h.laterReplace(j, domain); err != nil {
		return err
	} else if later != "" {
		// Its layers may stand on this one's, with disks that are not in this one.
		return cannotUndo(r, "job %s replaced disks of the VM after it", later).Do("take that one back first: `backstay restore undo %s`", later)
	}
	if h.now().After(j.Until) {
		return cannotUndo(r, "its time ended at %s", j.Until.Format("2006-01-02 15:04 MST"))
	}
	for _, file := range j.oldFiles() {
		if hypervisor.IsPath(file) && !exists(file) {
			return cannotUndo(r, "%s is not there any more", file)
		}
	}
	return nil
}

// laterReplace returns the job of a replace that came after this one and that the
// VM is on; "" if there is none.
func (h *Host) laterReplace(j *replaceJournal, domain *hypervisor.Domain) (backstay.JobID, error) {
	journals, err := h.replaceJournals()
	if err != nil {
		return "", err
	}
	for _, o := range journals {
		if o.VM == j.VM && o.Job != j.Job && o.Stage == replaceSwitched && o.switchedAt().After(j.switchedAt()) && o.onNew(domain) {
			return o.Job, nil
		}
	}
	return "", nil
}

func (h *Host) takeBack(ctx context.Context, by backstay.JobID, j *replaceJournal, domain *hypervisor.Domain) (undone mover.Undone, err error) {
	if j.onNew(domain) {
		var now []string
		for target := range j.New {
			now = append(now, sourceOf(domain, target))
		}
		// So that they are found when the VM is off them.
		if err := h.tier.KeepFor(by, now); err != nil {
			return undone, err
		}
		if j.By != "" && j.By != by { // it failed, with the VM still on them
			if _, err := h.tier.EndUse(ctx, snapshot.UserUndo, j.By); err != nil {
				return undone, err
			}
		}
		j.By = by
		if err := j.enter(replaceUndoing); err != nil {
			return undone, err
		}
		if err := h.putBack(ctx, j, domain); err != nil {
			return undone, err
		}
	}
	undone.Removed, err = h.finishUndo(ctx, j)
	return undone, err
}

// finishUndo removes what the VM had until the undo. The journal stays until its
// time is over, to say what became of the restore.
func (h *Host) finishUndo(ctx context.Context, j *replaceJournal) (removed []string, err error) {
	if err := j.TPM.put(false); err != nil {
		return nil, err
	}
	for _, job := range []backstay.JobID{j.By, j.Job} {
		gone, err := h.tier.EndUse(ctx, snapshot.UserUndo, job)
		if removed = append(removed, gone...); err != nil {
			return removed, err
		}
	}
	if err := h.tier.Leave(ctx, j.Whole); err != nil {
		return removed, err
	}
	if err := h.discardState(ctx, j, j.NVRAM); err != nil {
		return removed, err
	}
	return removed, j.enter(replaceUndone)
}

// EndUndos removes what is kept for undos whose time is over.
func (h *Host) EndUndos(ctx context.Context) (removed []string, err error) {
	journals, err := h.replaceJournals()
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, j := range journals {
		if j.Until.IsZero() || h.now().Before(j.Until) {
			continue
		}
		gone, err := h.endUndo(ctx, j.Job, j.VM)
		removed = append(removed, gone...)
		failed = append(failed, err)
	}
	return removed, errors.Join(failed...)
}

// endUndo ends the undo of one replace.
func (h *Host) endUndo(ctx context.Context, job backstay.JobID, vm backstay.VMID) (removed []string, err error) {
	unlock, err := h.lockReplace(ctx, job, vm)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return h.forgetOld(ctx, job)
}

// forgetOld ends an undo for a caller that has the VM. Layers that nobody needs go
// at once, others with the points on them. What was no layer is its owner's.
func (h *Host) forgetOld(ctx context.Context, job backstay.JobID) (removed []string, err error) {
	j, err := h.loadReplace(job)
	if err != nil || j == nil {
		return nil, err
	}
	switch j.Stage {
	case replaceUndone:
		return nil, j.remove()
	case replaceSwitched:
	default:
		return nil, nil // it is going on
	}
	if err := h.tier.KeepContent(j.detached()); err != nil {
		return nil, err
	}
	if removed, err = h.tier.EndUse(ctx, snapshot.UserUndo, j.Job); err != nil {
		return removed, err
	}
	nvram := j.OldNVRAM
	if !strings.Contains(filepath.Base(nvram), replacedMark) {
		nvram = "" // the file is its owner's, and no replace made it
	}
	if err := h.discardState(ctx, j, nvram); err != nil {
		return removed, err
	}
	return removed, j.remove()
}

// endUndosOf ends all undos of a VM whose protection ends, for a caller that has
// the VM: its layers go.
func (h *Host) endUndosOf(ctx context.Context, vm backstay.VMID) (ended int, err error) {
	journals, err := h.replaceJournals()
	if err != nil {
		return 0, err
	}
	for _, j := range journals {
		if j.VM != vm {
			continue
		}
		if _, err := h.forgetOld(ctx, j.Job); err != nil {
			return ended, err
		}
		ended++
	}
	return ended, nil
}

// sweepReplaces ends replaces and undos whose job will not go on, by what the VM is
// on: nothing of it stays, or all of it is done.
func (h *Host) sweepReplaces(ctx context.Context, live []backstay.JobID) (removed []string, err error) {
	journals, err := h.replaceJournals()
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, j := range journals {
		if slices.Contains(live, j.Job) || j.By != "" && slices.Contains(live, j.By) {
			continue
		}
		gone, err := h.sweepReplace(ctx, j.Job, j.VM)
		removed = append(removed, gone...)
		failed = append(failed, err)
	}
	gone, err := h.EndUndos(ctx)
	return append(removed, gone...), errors.Join(append(failed, err)...)
}

func (h *Host) sweepReplace(ctx context.Context, job backstay.JobID, vm backstay.VMID) ([]string, error) {
	unlock, err := h.lockReplace(ctx, job, vm)
	if err != nil {
		return nil, err
	}
	defer unlock()
	j, err := h.loadReplace(job)
	if err != nil || j == nil || j.Stage == replaceSwitched || j.Stage == replaceUndone {
		return nil, err
	}
	domain, err := h.hv.Domain(ctx, vm)
	if errors.Is(err, hypervisor.ErrNoVM) {
		h.log.Warn("the VM of a restore that was cut off is gone; what the restore made is kept until its undo's time is over", "vm", vm, "job", job)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	on := j.onNew(&domain)
	switch {
	case j.Stage == replaceSwitching && on:
		_, err := h.finishSwitch(ctx, j)
		return nil, err
	case j.Stage == replaceUndoing && on:
		return nil, h.stayOnNew(ctx, j, &domain)
	case j.Stage == replaceUndoing:
		return h.finishUndo(ctx, j)
	}
	removed, err := h.abandonReplace(ctx, j)
	if backstay.IsCode(err, backstay.CodeNotShutOff) {
		h.log.Info("a restore that was cut off is taken back when its VM is shut off", "vm", vm, "job", job, "reason", err)
		return removed, nil
	}
	return removed, err
}

// stayOnNew ends an undo that was cut off before the VM was off its new disks.
func (h *Host) stayOnNew(ctx context.Context, j *replaceJournal, domain *hypervisor.Domain) error {
	err := j.TPM.exchange(domain, true)
	if backstay.IsCode(err, backstay.CodeNotShutOff) {
		h.log.Info("an undo that was cut off is ended when its VM is shut off", "vm", j.VM, "job", j.By, "reason", err)
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := h.tier.EndUse(ctx, snapshot.UserUndo, j.By); err != nil {
		return err
	}
	return j.enter(replaceSwitched)
}
