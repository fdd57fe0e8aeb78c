package mover

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// PullRequest asks for a point that goes straight into a vault: the disks of a
// running VM are read from its QEMU, those of one that is shut off from its
// images, and there is nothing beside the disks afterwards.
type PullRequest struct {
	Job         backstay.JobID
	Point       backstay.PointID
	VM          backstay.VMID
	Disks       []backstay.DiskTarget
	Consistency backstay.Consistency // what is wished for
	// Fallback are the weaker consistencies that may be taken, as in a policy.
	Fallback []backstay.Consistency
	Guest    backstay.GuestRules
	Time     time.Time
	// The rest is as in TransferRequest.
	Vault   VaultAccess
	Parent  backstay.PointID
	Packs   []string
	Avoid   []string
	Expires *time.Time
	Host    backstay.HostName
	LeftOut []backstay.PointDisk
	// Policy is the one under which the point is taken.
	Policy backstay.PolicyName
	// Keys are as in PrepareRequest.
	Keys *KeyPolicy
}

// Pulled is a point that was pulled into a vault.
type Pulled struct {
	Taken       Taken
	Transferred Transferred
	// Notes are warnings for the job.
	Notes []string
}

// Pulls makes points without layers.
type Pulls interface {
	// Pull makes a point in the vault, or nothing. Phases: prepare, snapshot,
	// transfer, validate. CodeConflict if another tool's backup job runs on the
	// VM, which is left alone; CodeNoSpace if it was ended because the guest would
	// have run out of room. A point that an earlier attempt stored is returned as
	// it is.
	Pull(ctx context.Context, r PullRequest, progress Progress) (Pulled, error)
	// EndPulls forgets what pulls keep of a VM: its checkpoints and their record.
	EndPulls(ctx context.Context, vm backstay.VMID) error
}
