package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// Source tells how a VM stands.
func (h *Host) Source(ctx context.Context, vm backstay.VMID) (mover.SourceState, error) {
	d, err := h.hv.Domain(ctx, vm)
	if err != nil {
		return mover.SourceState{}, h.hostError(err, "VM %s cannot be described", vm)
	}
	return mover.SourceState{
		Disks: persistentDisks(&d), State: d.VM.State, Persistent: d.InactiveXML != "", Saved: d.Saved, Snapshots: d.Snapshots, Copying: d.Mirrors,
	}, nil
}

// persistentDisks are the disks that a VM has once it is shut off.
func persistentDisks(d *hypervisor.Domain) []backstay.Disk {
	disks := []backstay.Disk{}
	_, root, err := readDomain(d.InactiveXML)
	if err != nil {
		return disks // one that has no such definition
	}
	for _, e := range root.FindElements("./devices/disk") {
		disk := backstay.Disk{Target: targetOf(e), Device: e.SelectAttrValue("device", "disk")}
		if at := slices.IndexFunc(d.VM.Disks, func(l backstay.Disk) bool { return l.Target == disk.Target }); at >= 0 {
			disks = append(disks, d.VM.Disks[at])
			continue
		}
		if source := e.SelectElement("source"); source != nil {
			disk.Source = source.SelectAttrValue("file", source.SelectAttrValue("dev", source.SelectAttrValue("name", "")))
		}
		if driver := e.SelectElement("driver"); driver != nil {
			disk.Format = driver.SelectAttrValue("type", "raw")
		}
		disks = append(disks, disk)
	}
	return disks
}

// stopEvery is how often a guest that was asked to shut down is looked at.
const stopEvery = 250 * time.Millisecond

// Stop shuts a VM off: by its guest, and if that takes too long by its power.
func (h *Host) Stop(ctx context.Context, r mover.StopRequest) (mover.Stopped, error) {
	unlock, err := h.vms.lock(ctx, string(r.VM))
	if err != nil {
		return mover.Stopped{}, err
	}
	defer unlock()
	stopped, err := h.stop(ctx, r)
	if err != nil {
		return stopped, h.hostError(err, "VM %s cannot be shut off", r.VM)
	}
	return stopped, nil
}

func (h *Host) stop(ctx context.Context, r mover.StopRequest) (mover.Stopped, error) {
	d, err := h.hv.Domain(ctx, r.VM)
	if err != nil {
		return mover.Stopped{}, err
	}
	stopped := mover.Stopped{Was: d.VM.State != backstay.VMShutOff}
	if stopped.Was {
		if stopped.Forced, err = h.shutDown(ctx, r, d.VM.State); err != nil {
			return stopped, err
		}
		stopped.At = h.now().UTC()
		if d, err = h.hv.Domain(ctx, r.VM); err != nil {
			return stopped, err
		}
	}
	switch {
	case !d.Saved:
		return stopped, nil
	case !r.DiscardSaved:
		return stopped, savedMemory(d.VM.Name)
	}
	return stopped, h.hv.DiscardSaved(ctx, r.VM)
}

func savedMemory(name string) error {
	return backstay.Errorf(backstay.CodeSavedMemory, "the memory of VM %s is saved", name).
		Becausef("resumed over other disks it would destroy their file systems")
}

func (h *Host) shutDown(ctx context.Context, r mover.StopRequest, state backstay.VMState) (forced bool, err error) {
	if state == backstay.VMRunning && r.Grace > 0 {
		if err := h.hv.Shutdown(ctx, r.VM); err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
			h.log.Warn("a guest cannot be asked to shut down", "vm", r.VM, "error", err)
		}
		over := time.NewTimer(r.Grace)
		defer over.Stop()
		tick := time.NewTicker(stopEvery)
		defer tick.Stop()
		for waiting := true; waiting; {
			d, err := h.hv.Domain(ctx, r.VM)
			if err != nil {
				return false, err
			}
			if d.VM.State == backstay.VMShutOff {
				return false, nil
			}
			select {
			case <-tick.C:
			case <-over.C:
				waiting = false
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
		}
	}
	return true, h.hv.Destroy(ctx, r.VM)
}

// StageReplace makes the new disks beside the old ones and verifies them. A repeat
// after it succeeded does nothing; after a crash it goes on with what is there. On
// error the caller abandons the restore.
func (h *Host) StageReplace(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Staged, error) {
	unlock, err := h.lockRestore(ctx, r.Job)
	if err != nil {
		return mover.Staged{}, err
	}
	defer unlock()
	staged, err := h.stageReplace(ctx, r, oneAtATime(progress))
	if err != nil {
		return mover.Staged{}, restoreError(ctx, r.Plan, err)
	}
	return staged, nil
}

func (h *Host) stageReplace(ctx context.Context, r mover.StageRequest, progress mover.Progress) (staged mover.Staged, err error) {
	j, err := h.loadReplace(r.Job)
	if err != nil {
		return staged, err
	}
	if j != nil {
		if err := j.of(r.Plan); err != nil {
			return staged, err
		}
		if j.Stage != replaceStaging && j.Staged != nil {
			return *j.Staged, nil
		}
	} else if j, err = h.beginReplace(ctx, r); err != nil {
		return staged, err
	}
	if err := h.replaceSecrets(ctx, r, j); err != nil {
		return staged, err
	}
	forks, whole := h.splitDisks(r.Plan)
	on := r.Plan.SafetyPoint
	if r.Plan.Tier == backstay.SnapshotTier {
		on = r.Plan.Point
	}
	progress(mover.Report{Phase: "write"})
	if err := h.fork(ctx, r, on, forks); err != nil {
		return staged, err
	}
	if r.Plan.Tier == backstay.VaultTier {
		if staged, err = h.fillDisks(ctx, r, j, forks, whole, progress); err != nil {
			return staged, err
		}
	}
	progress(mover.Report{Phase: "verify"})
	staged.Paths = j.newFiles()
	j.Staged = &staged
	return staged, j.enter(replaceStaged)
}

// replaceSecrets sees to it that the host has the secrets of the new disks.
func (h *Host) replaceSecrets(ctx context.Context, r mover.StageRequest, j *replaceJournal) error {
	held, err := h.heldOf(ctx, r)
	if err != nil {
		return err
	}
	var disks []backstay.PlannedDisk
	for _, d := range r.Plan.Disks {
		if made(d) {
			disks = append(disks, d)
		}
	}
	// The TPM stays the VM's own, with the secret that it has.
	return h.secretBook(r.Services, held.layers).makeSecrets(ctx, j, neededSecrets(held.definition, disks, false))
}

// beginReplace journals a replace before anything of it is made.
func (h *Host) beginReplace(ctx context.Context, r mover.StageRequest) (*replaceJournal, error) {
	unlock, err := h.vms.lock(ctx, "restore journals")
	if err != nil {
		return nil, err
	}
	defer unlock()
	j, err := h.newReplace(r)
	if err != nil {
		return nil, err
	}
	_, whole := h.splitDisks(r.Plan)
	for _, d := range whole {
		j.Whole = append(j.Whole, d.Path)
	}
	for _, path := range j.newFiles() {
		if exists(path) {
			return nil, taken(path)
		}
	}
	return j, j.write()
}

// splitDisks tells which of the planned disks become layers on frozen ones, and
// which are whole files.
func (h *Host) splitDisks(plan backstay.RestorePlan) (forks, whole []backstay.PlannedDisk) {
	for _, d := range plan.Disks {
		switch {
		case !made(d):
		case plan.Tier == backstay.SnapshotTier || d.Difference:
			forks = append(forks, d)
		default:
			whole = append(whole, d)
		}
	}
	return forks, whole
}

// fork makes the layers on which the VM will go on, while nobody else changes it.
func (h *Host) fork(ctx context.Context, r mover.StageRequest, on backstay.PointID, disks []backstay.PlannedDisk) error {
	if len(disks) == 0 {
		return nil
	}
	unlock, err := h.vms.lock(ctx, string(r.Plan.UUID))
	if err != nil {
		return err
	}
	defer unlock()
	fork := snapshot.ForkRequest{Job: r.Job, Point: on, VM: r.Plan.UUID}
	for _, d := range disks {
		fork.Disks = append(fork.Disks, snapshot.ForkDisk{Target: d.Target, Path: d.Path})
	}
	return h.tier.Fork(ctx, fork)
}

// fillDisks writes the content of a vault's point: what differs into the layers,
// and all of it into whole files.
func (h *Host) fillDisks(ctx context.Context, r mover.StageRequest, j *replaceJournal, forks, whole []backstay.PlannedDisk, progress mover.Progress) (staged mover.Staged, err error) {
	if len(forks) > 0 {
		if staged, err = h.fillForks(ctx, r, forks, progress); err != nil {
			return staged, err
		}
	}
	if len(whole) == 0 {
		return staged, nil
	}
	// As disks are written that stand beside everything: with a journal of their own
	// until the VM is on them, from which an attempt that was cut off is gone on with.
	part := r
	part.Plan.Disks = whole
	written, err := h.stage(ctx, part, progress)
	staged.BytesRead += written.BytesRead
	staged.BytesWritten += written.BytesWritten
	return staged, err
}

// fillForks lets the layers hold what differs between the present and the point.
func (h *Host) fillForks(ctx context.Context, r mover.StageRequest, forks []backstay.PlannedDisk, progress mover.Progress) (staged mover.Staged, err error) {
	now, err := h.openPoint(ctx, r.Plan.SafetyPoint)
	if err != nil {
		return staged, err
	}
	if r.Vault == nil {
		return staged, backstay.Errorf(backstay.CodeInternal, "a restore from the vault tier names no vault")
	}
	request := differencesRequest{Job: r.Job, Vault: *r.Vault, Point: r.Plan.Point, Now: r.Plan.SafetyPoint}
	for _, d := range forks {
		layers, ok := now.Disk(d.Target)
		if !ok {
			return staged, fmt.Errorf("disk %s is not part of the safety point", d.Target)
		}
		request.Disks = append(request.Disks, differencesDisk{
			Target: d.Target, Overlay: d.Path, Size: d.Size,
			Present: hypervisor.Image{Location: layers.Path, Format: layers.Format, Secret: layers.Secret},
		})
	}
	results, err := h.writeDifferences(ctx, request, progress)
	for _, result := range results {
		staged.BytesRead += result.BytesRead
		staged.BytesWritten += result.BytesWritten
		h.log.Info("a disk is replaced by what differs", "disk", result.Target, "mode", result.Mode, "written", result.BytesWritten)
		if result.Warning != "" {
			h.log.Warn("a change map lied", "disk", result.Target, "what", result.Warning)
		}
	}
	return staged, err
}

// SwitchDisks puts the VM on its new disks.
func (h *Host) SwitchDisks(ctx context.Context, r mover.StageRequest) (mover.DisksSwitched, error) {
	unlock, err := h.lockReplace(ctx, r.Job, r.Plan.UUID)
	if err != nil {
		return mover.DisksSwitched{}, err
	}
	defer unlock()
	// What was begun must not stop half-way; it takes a moment.
	switched, err := h.switchDisks(context.WithoutCancel(ctx), r)
	if err != nil {
		return switched, h.hostError(err, "the disks of %s cannot be replaced", r.Plan.Name)
	}
	return switched, nil
}

// lockReplace keeps the calls of one restore apart, and everybody else from the VM.
func (h *Host) lockReplace(ctx context.Context, job backstay.JobID, vm backstay.VMID) (func(), error) {
	first, err := h.lockRestore(ctx, job)
	if err != nil {
		return nil, err
	}
	second, err := h.vms.lock(ctx, string(vm))
	if err != nil {
		first()
		return nil, err
	}
	return func() { second(); first() }, nil
}

func (h *Host) switchDisks(ctx context.Context, r mover.StageRequest) (switched mover.DisksSwitched, err error) {
	j, err := h.loadReplace(r.Job)
	if err != nil {
		return switched, err
	}
	if j == nil || j.Staged == nil {
		return switched, errors.New("its new disks are not complete")
	}
	if err := j.of(r.Plan); err != nil {
		return switched, err
	}
	if j.Stage == replaceSwitched {
		return mover.DisksSwitched{Until: j.Until}, nil
	}
	domain, err := h.hv.Domain(ctx, j.VM)
	if err != nil {
		return switched, err
	}
	if !j.onNew(&domain) {
		if switched.Warnings, err = h.redefine(ctx, r, j, &domain); err != nil {
			return switched, err
		}
	}
	switched.Until, err = h.finishSwitch(ctx, j)
	return switched, err
}

// redefine lets the definition name the new disks, in one step, after everything
// that it names is in its place.
func (h *Host) redefine(ctx context.Context, r mover.StageRequest, j *replaceJournal, domain *hypervisor.Domain) (warnings []string, err error) {
	if err := mayRedefine(domain); err != nil {
		return nil, err
	}
	if err := h.unwritten(ctx, r.Plan.SafetyPoint, domain, slices.Collect(maps.Keys(j.Old))); err != nil {
		return nil, err
	}
	point, err := h.definitionOf(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := h.followOld(j, domain); err != nil {
		return nil, err
	}
	if err := h.tier.KeepFor(j.Job, j.oldFiles()); err != nil {
		return nil, err
	}
	if err := j.placeNVRAM(domain.NVRAM, point); err != nil {
		return nil, err
	}
	if err := j.placeTPM(domain.TPMState, point); err != nil {
		return nil, err
	}
	was := point.InactiveXML
	if was == "" {
		was = point.LiveXML
	}
	j.OldXML = domain.InactiveXML
	if j.NewXML, warnings, err = replacedDefinition(domain.InactiveXML, was, r.Plan, j.NVRAM); err != nil {
		return nil, err
	}
	if err := j.enter(replaceSwitching); err != nil {
		return nil, err
	}
	if err := j.TPM.put(true); err != nil {
		return nil, err
	}
	if err := h.hv.Redefine(ctx, j.VM, j.NewXML); err != nil {
		// Did it happen all the same, and only the answer was lost?
		now, askErr := h.hv.Domain(ctx, j.VM)
		if askErr != nil || !j.onNew(&now) {
			return nil, errors.Join(err, askErr)
		}
	}
	return warnings, nil
}

// mayRedefine refuses to change what a VM consists of while it may use it.
func mayRedefine(d *hypervisor.Domain) error {
	switch {
	case d.VM.State != backstay.VMShutOff:
		return backstay.Errorf(backstay.CodeNotShutOff, "VM %s is not shut off", d.VM.Name).Becausef("it is %s", d.VM.State)
	case d.Saved:
		return savedMemory(d.VM.Name)
	}
	return nil
}

// followOld notes on which files the VM is now: the safety point put it on new ones.
func (h *Host) followOld(j *replaceJournal, d *hypervisor.Domain) error {
	for _, disk := range d.VM.Disks {
		if _, ok := j.Old[disk.Target]; ok && disk.Source != "" {
			j.Old[disk.Target] = disk.Source
		}
	}
	return j.write()
}

// finishSwitch notes that the VM is on its new disks, and until when that can be
// undone.
func (h *Host) finishSwitch(ctx context.Context, j *replaceJournal) (time.Time, error) {
	domain, err := h.hv.Domain(ctx, j.VM)
	if err != nil {
		return time.Time{}, err
	}
	if !j.onNew(&domain) {
		return time.Time{}, fmt.Errorf("the hypervisor took the definition, and the VM is not on its new disks")
	}
	if err := h.tier.RemoveUser(snapshot.UserRestore, string(j.Job)); err != nil {
		return time.Time{}, err
	}
	if err := h.endWriting(j.Job); err != nil {
		return time.Time{}, err
	}
	keep := j.KeepOld
	if keep <= 0 {
		keep = time.Duration(backstay.DefaultKeepOld)
	}
	j.NewXML, j.Switched = domain.InactiveXML, h.now().UTC()
	if j.Until, err = h.keepUntil(j, j.Switched.Add(keep)); err != nil {
		return time.Time{}, err
	}
	return j.Until, j.enter(replaceSwitched)
}

// keepUntil is the end of a replace's undo: not before those of earlier ones of the
// VM, which cannot be taken back before it.
func (h *Host) keepUntil(j *replaceJournal, until time.Time) (time.Time, error) {
	journals, err := h.replaceJournals()
	for _, o := range journals {
		if o.VM == j.VM && o.Job != j.Job && o.Stage == replaceSwitched && o.Until.After(until) {
			until = o.Until
		}
	}
	return until, err
}

// endWriting ends the journal with which whole files were written.
func (h *Host) endWriting(job backstay.JobID) error {
	j, err := h.loadJournal(job)
	if err != nil || j == nil {
		return err
	}
	return errors.Join(j.removeSums(), j.remove())
}

// onNew tells whether a VM is on the new disks of a replace, or on layers above
// them. One without new disks had some detached.
func (j *replaceJournal) onNew(d *hypervisor.Domain) bool {
	for target, file := range j.New {
		if !slices.Contains(d.Chains[target], file) && sourceOf(d, target) != file {
			return false
		}
	}
	for target, file := range j.Old {
		if _, ours := j.New[target]; !ours && sourceOf(d, target) == file {
			return false
		}
	}
	return true
}

func sourceOf(d *hypervisor.Domain, target backstay.DiskTarget) string {
	for _, disk := range d.VM.Disks {
		if disk.Target == target {
			return disk.Source
		}
	}
	return ""
}

// AbandonReplace puts the VM back on its old disks, and removes all that was made.
func (h *Host) AbandonReplace(ctx context.Context, r mover.StageRequest) error {
	unlock, err := h.lockReplace(ctx, r.Job, r.Plan.UUID)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.loadReplace(r.Job)
	if err != nil || j == nil {
		return err
	}
	if err := j.of(r.Plan); err != nil {
		return err
	}
	if _, err := h.abandonReplace(context.WithoutCancel(ctx), j); err != nil {
		return h.hostError(err, "what the restore of %s made could not be removed", j.Name)
	}
	return nil
}

func (h *Host) abandonReplace(ctx context.Context, j *replaceJournal) (removed []string, err error) {
	domain, err := h.hv.Domain(ctx, j.VM)
	gone := errors.Is(err, hypervisor.ErrNoVM)
	if err != nil && !gone {
		return nil, err
	}
	if gone && (j.Stage == replaceSwitching || j.Stage == replaceSwitched) {
		return nil, backstay.Errorf(backstay.CodeUnknownVM, "VM %s is not there any more", j.Name).
			Becausef("it may have been on its new disks, with what its guest wrote to them").Do("define it again; nothing is removed until then")
	}
	if !gone && j.OldXML != "" {
		if err := h.putBack(ctx, j, &domain); err != nil {
			return nil, err
		}
	}
	return h.discardReplace(ctx, j)
}

// putBack lets the VM have its old definition, and its own TPM's state.
func (h *Host) putBack(ctx context.Context, j *replaceJournal, domain *hypervisor.Domain) error {
	if j.onNew(domain) {
		if err := mayRedefine(domain); err != nil {
			return err
		}
		xml, err := undoneDefinition(domain.InactiveXML, j)
		if err != nil {
			return err
		}
		if err := j.TPM.put(false); err != nil {
			return err
		}
		return h.hv.Redefine(ctx, j.VM, xml)
	}
	return j.TPM.exchange(domain, false)
}

// discardReplace removes what a replace made and the VM is not on: files first,
// then what is known of them, the journal last.
func (h *Host) discardReplace(ctx context.Context, j *replaceJournal) (removed []string, err error) {
	for _, kind := range []snapshot.UserKind{snapshot.UserRestore, snapshot.UserUndo} {
		gone, err := h.tier.EndUse(ctx, kind, j.Job)
		if removed = append(removed, gone...); err != nil {
			return removed, err
		}
	}
	if err := h.tier.Leave(ctx, j.Whole); err != nil {
		return removed, err
	}
	if err := h.endWriting(j.Job); err != nil {
		return removed, err
	}
	if err := h.discardState(ctx, j, j.NVRAM); err != nil {
		return removed, err
	}
	if err := h.dropSecrets(ctx, j.Job, j.noted()); err != nil {
		return removed, err
	}
	return removed, j.remove()
}

// discardState removes the firmware variables and the TPM's state that do not count.
func (h *Host) discardState(ctx context.Context, j *replaceJournal, nvram string) error {
	inUse := ""
	if domain, err := h.hv.Domain(ctx, j.VM); err == nil {
		inUse = domain.NVRAM
	} else if !errors.Is(err, hypervisor.ErrNoVM) {
		return err
	}
	return errors.Join(discardNVRAM(nvram, inUse), j.TPM.discard())
}
