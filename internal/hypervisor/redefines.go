package hypervisor

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Redefines changes VMs that are there already.
type Redefines interface {
	// Redefine replaces the persistent definition of a VM that is shut off, in one
	// step: it is wholly the old one or wholly the new. Name and UUID must be those
	// that it has. Chains of encrypted images are spelt out in it, and recorded
	// chains that are not needed are left out. ErrNoVM if there is no such VM.
	Redefine(ctx context.Context, id backstay.VMID, xml string) error
	// Shutdown asks the guest to shut down, by its agent or as its power button
	// would, and does not wait until it has. No error if the VM does not run.
	Shutdown(ctx context.Context, id backstay.VMID) error
}
