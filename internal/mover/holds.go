package mover

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// HoldRequest names one member of a group whose points are to be of one
// instant. Ready, Hold, Take (with Held) and LetGo of a member all name the same
// Job, Point and VM.
type HoldRequest struct {
	Job   backstay.JobID
	Point backstay.PointID // a point that Prepare made ready
	VM    backstay.VMID
	// Consistency is what is wished for. With crash the VM is paused for the
	// moment and its guest is not asked.
	Consistency backstay.Consistency
	// Fallback are the weaker consistencies that may be taken, as in a policy.
	Fallback []backstay.Consistency
	Guest    backstay.GuestRules
	// Budget is the longest that this member is held, from its Hold to its LetGo;
	// 0 means the freeze budget of Guest. It covers the holding of all members
	// and all their switches, so it is the same for all.
	Budget time.Duration
}

// Held is what holds of a member's point.
type Held struct {
	Consistency backstay.Consistency
	// Reason says why, and why nothing stronger.
	Reason string
	// FreezeMs is for how long the VM was held, once it was let go.
	FreezeMs int64
	// Notes are warnings for the job.
	Notes []string
}

// Holds keeps several VMs still at one instant: when Hold of every member has
// returned and no budget has passed, none of them changes its disks until its
// LetGo. The order is: Prepare all, Ready all, Hold all, Take all with Held, LetGo
// all; each step of all members at the same time. Whatever happens, LetGo each
// member that Ready or Hold was called for, also one for which it failed.
//
// A held VM is let go by a guard when its budget has passed or when the mover
// ends, so a member cannot be held for ever (I9). A Take that comes too late
// still succeeds and is crash-consistent, says why, and is not of the group's
// instant: Late tells. Settle of the point lets go as well.
type Holds interface {
	// Ready does what is slow and comes before the instant: it starts the guard
	// and runs the application's pre hook. Hold does it if nobody else did.
	// CodeInconsistent, or the hook's code, if the rules forbid what can be had.
	Ready(ctx context.Context, r HoldRequest) error
	// Hold freezes the guest's file systems, or, where that is not wished for or
	// cannot be done, pauses the VM; then nothing weaker than what it returns
	// will be told of the point, unless the budget passes. A VM that does not run
	// needs no holding. On error the VM is let go.
	Hold(ctx context.Context, r HoldRequest) (Held, error)
	// LetGo thaws or resumes, then runs the application's post hook, which may take
	// as long as its configuration allows. It returns what holds of the point in
	// the end; the point's record says the same: an application-consistent one is
	// called that only from here on. CodeSnapshotFailed if the point was taken
	// after the VM had been let go by somebody else, so that it is not of the
	// group's instant; the VM is let go all the same. No error if it is not held.
	LetGo(ctx context.Context, r HoldRequest) (Held, error)
}
