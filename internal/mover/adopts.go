package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// AdoptRequest joins what is recorded of VMs that were deleted, moved or made
// again by hand with the VM that goes on for them.
type AdoptRequest struct {
	VM  backstay.VMRef
	Old []backstay.VMID
}

// Adopts joins points by consent (architecture decision 11).
type Adopts interface {
	// Adopt lets the layers and points of the old VMs be those of the new one. Safe
	// to repeat, and no error if nothing is recorded of them.
	Adopt(ctx context.Context, r AdoptRequest) error
}
