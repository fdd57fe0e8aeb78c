package mover

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// SourceState is what may keep the disks of a VM from being replaced.
type SourceState struct {
	State backstay.VMState `json:"state"`
	// Persistent: the VM has a definition that stays when it is shut off.
	Persistent bool `json:"persistent"`
	// Disks are those that it has once it is shut off: of its persistent definition.
	// Of one that only that definition has nothing but Target, Device, Source and
	// Format is known.
	Disks []backstay.Disk `json:"disks"`
	// Saved: its memory was saved when it was shut off.
	Saved bool `json:"saved"`
	// Snapshots are libvirt's own, which stand on the disks as they are.
	Snapshots []string `json:"snapshots"`
	// Copying are the files that jobs on its disks copy to.
	Copying []string `json:"copying"`
}

// StopRequest asks to shut a VM off.
type StopRequest struct {
	VM backstay.VMID `json:"vm"`
	// Grace is for how long the guest may shut down by itself; then its power goes.
	Grace time.Duration `json:"grace"`
	// DiscardSaved throws away the memory that was saved when it was shut off.
	DiscardSaved bool `json:"discardSaved"`
}

// Stopped says how a VM came to be shut off.
type Stopped struct {
	// Was tells that it ran or was paused, and At since when it does not.
	Was bool      `json:"was"`
	At  time.Time `json:"at,omitzero"`
	// Forced: its guest did not shut down in time.
	Forced bool `json:"forced"`
}

// DisksSwitched says what a switch of a VM's disks left.
type DisksSwitched struct {
	// Until is until when it can be undone.
	Until time.Time `json:"until"`
	// Warnings say what of the point's VM did not come back.
	Warnings []string `json:"warnings"`
}

// UndoRequest asks to take a restore back.
type UndoRequest struct {
	// Job is that of the restore, and By the undo's own.
	Job  backstay.JobID       `json:"job"`
	By   backstay.JobID       `json:"by"`
	Plan backstay.RestorePlan `json:"plan"`
	// Safety is the point that has what the guest wrote since the restore, "" for
	// none: nothing may have been written after it.
	Safety backstay.PointID `json:"safety,omitempty"`
	// Look only tells whether it can be done now.
	Look bool `json:"look"`
}

// Undone says what an undo removed.
type Undone struct {
	Removed []string `json:"removed"`
}

// Replaces puts the disks of a point into the VM that it is of. StageReplace,
// SwitchDisks and Undo are each safe to repeat after they were cut off; whenever
// that happens the VM is wholly as it was or wholly as it is to be.
type Replaces interface {
	// Source tells how a VM stands. CodeUnknownVM if it is not there.
	Source(ctx context.Context, vm backstay.VMID) (SourceState, error)
	// Stop shuts a VM off. No error if it is. CodeSavedMemory if its memory is saved
	// and is not to be thrown away.
	Stop(ctx context.Context, r StopRequest) (Stopped, error)
	// StageReplace makes and verifies the new disks beside the old ones (I8).
	StageReplace(ctx context.Context, r StageRequest, progress Progress) (Staged, error)
	// SwitchDisks puts a VM that is shut off on the new disks, all in one step, with
	// the firmware variables and TPM state of the point. CodeNotShutOff if it runs.
	SwitchDisks(ctx context.Context, r StageRequest) (DisksSwitched, error)
	// AbandonReplace puts the VM back on its old disks, if it was switched, and
	// removes everything that the restore made.
	AbandonReplace(ctx context.Context, r StageRequest) error
	// Undo takes a restore of any kind back: what it made goes, and what it replaced
	// comes back. CodeCannotUndo if that is not possible, or not any more; CodeNotShutOff
	// if a VM whose disks were replaced runs.
	Undo(ctx context.Context, r UndoRequest) (Undone, error)
	// EndUndos removes what was kept for undos whose time is over, and returns the
	// files that it removed.
	EndUndos(ctx context.Context) ([]string, error)
}
