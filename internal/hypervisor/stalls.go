package hypervisor

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Stalls tells which VMs stand still since a disk failed them, and lets them go
// on. QEMU pauses a VM whose write finds the file system full, and leaves it to
// others to see when there is room again.
type Stalls interface {
	// Stalled tells whether the hypervisor paused the VM because a request to a disk
	// failed; for want of room, as a rule, which the caller must see for itself. A
	// VM that somebody paused is not stalled.
	Stalled(ctx context.Context, id backstay.VMID) (bool, error)
	// Unstall lets a stalled VM go on: the requests that failed are made again. It
	// tells whether the VM was stalled, and does nothing to one that was not.
	Unstall(ctx context.Context, id backstay.VMID) (bool, error)
}
