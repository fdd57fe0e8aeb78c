package hypervisor

import (
	"context"
	"errors"
	"strings"

	backstay "github.com/backstay/backstay"
)

// Errors by which callers of Pulls decide.
var (
	// ErrBusy: another job runs on the VM, which is not ours to end.
	ErrBusy = errors.New("another job runs on the VM")
	// ErrCheckpoint: the changes since a checkpoint cannot be told; its dirty
	// bitmap is missing or broken.
	ErrCheckpoint = errors.New("the checkpoint cannot be used")
	// ErrNotRunning: the VM does not run, so nobody can serve its disks.
	ErrNotRunning = errors.New("the VM does not run")
)

// PullRequest asks QEMU to serve disks of a running VM as they are at one instant.
type PullRequest struct {
	// Socket is the path of the unix socket to listen on; it is not there yet,
	// and QEMU may make it.
	Socket string
	// Checkpoint is the name of a checkpoint of the same instant, which names
	// the disks that are marked; "" makes none.
	Checkpoint string
	Disks      []PullDisk
}

// PullDisk is one disk that is served, as the export of its target's name.
type PullDisk struct {
	Target backstay.DiskTarget
	// Scratch is an empty qcow2 image of the disk's size which nobody else uses:
	// QEMU keeps in it what the guest overwrites meanwhile.
	Scratch string
	// Secret is the UUID of the libvirt secret that opens an encrypted scratch
	// image; "" for one that is not.
	Secret string
	// Since is the checkpoint since which changes are told, in the meta context
	// PullContext; "" tells none.
	Since string
	// Mark lets the new checkpoint name the disk. Only a qcow2 image can.
	Mark bool
}

// PullContext is the NBD meta context with the changes of a served disk; the
// flag 1 is on what has changed.
func PullContext(target backstay.DiskTarget) string {
	return "qemu:dirty-bitmap:" + PullBitmap(target)
}

// PullBitmap is the name by which the changes of a served disk are exported.
func PullBitmap(target backstay.DiskTarget) string { return "changed-" + string(target) }

// PullJob is a backup job that runs on a VM, whoever began it.
type PullJob struct {
	// Socket is where it serves; "" for one that writes files or listens on a port.
	Socket string
	// What describes it in words.
	What string
}

// Checkpoint is one of libvirt's checkpoints of a VM.
type Checkpoint struct {
	Name   string
	Parent string // the checkpoint before it; "" for the first
	Disks  []backstay.DiskTarget
}

// Ours tells whether the checkpoint was made by backstay.
func (c Checkpoint) Ours() bool { return strings.HasPrefix(c.Name, backstay.CheckpointPrefix) }

// Pulls lets QEMU serve the disks of a running VM as they were at one instant,
// with what changed since an earlier one. The guest goes on; what it overwrites
// is copied to scratch images first.
type Pulls interface {
	// BeginPull begins to serve. ErrNotRunning, ErrBusy, and ErrCheckpoint if the
	// changes of one of the disks cannot be told. After any other error it may
	// have begun all the same: EndPull ends it. A checkpoint may be left behind
	// by a call that failed.
	BeginPull(ctx context.Context, id backstay.VMID, r PullRequest) error
	// Pulling tells whether a backup job runs on the VM, and which.
	Pulling(ctx context.Context, id backstay.VMID) (PullJob, bool, error)
	// EndPull ends the job that serves on this socket; no error if there is none.
	// ErrBusy if another one runs: it is left alone.
	EndPull(ctx context.Context, id backstay.VMID, socket string) error
	// Checkpoints lists the VM's checkpoints, parents first.
	Checkpoints(ctx context.Context, id backstay.VMID) ([]Checkpoint, error)
	// DropCheckpoint forgets a checkpoint and, unless metadataOnly, removes its
	// bitmaps from the images, which takes a running VM (ErrNotRunning). No error
	// if it is not there.
	DropCheckpoint(ctx context.Context, id backstay.VMID, name string, metadataOnly bool) error
}
