package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Lives brings VMs that were started from the vault onto disks of their own.
// Stage, Define, Start and Abandon make and remove them like others, where the
// plan says Live.
type Lives interface {
	// CopyBehind copies what the VM's disks do not hold yet in behind it, and
	// returns when they stand on nothing else. While the VM is shut off it waits.
	// It may be called again at any time; what was copied stays copied. Phase: copy.
	CopyBehind(ctx context.Context, r StageRequest, progress Progress) error
	// Hurry lets the copying of a job, now and in later calls, go as fast as it can
	// rather than as the guest allows. No error if nothing is to be copied.
	Hurry(ctx context.Context, job backstay.JobID) error
}
