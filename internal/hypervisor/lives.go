package hypervisor

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Below is the NBD export, on a unix socket, that a disk's image stands on.
type Below struct {
	Target backstay.DiskTarget
	Socket string
	Export string
}

// Location is how the image names it.
func (b Below) Location() string { return NBD{Socket: b.Socket, Export: b.Export}.String() }

// Policies say what becomes of a guest when a request to its disk fails, in the
// words of libvirt's error_policy and rerror_policy; "" means what is usual.
type Policies struct {
	Write string `json:"write,omitempty"`
	Read  string `json:"read,omitempty"`
}

// CopyIn is the request to copy all that a disk's image does not hold itself into
// it, from what it stands on.
type CopyIn struct {
	Target   backstay.DiskTarget
	Throttle Throttle
}

// Lives runs VMs whose disks stand on an export that may go away for a while.
type Lives interface {
	// StartPaused starts a VM that is shut off, with its processors stopped; Resume
	// lets it run.
	StartPaused(ctx context.Context, id backstay.VMID) error
	// Reconnect lets the named disks of a running VM read what they stand on
	// through connections that are made again when they break, so that the guest
	// waits and is told of no error. It must be done after each start of the VM. A
	// disk that stands on nothing any more is passed over.
	Reconnect(ctx context.Context, id backstay.VMID, disks []Below) error
	// CopyIn returns when the disk of the running VM stands on nothing but its own
	// image, and that is durable. Before it is, an image may name nothing that it
	// stands on and yet lack content, should the VM end: it must be rebased then. One that an earlier call began is carried on with. If it fails or ctx
	// ends, what was copied stays copied. progress gets bytes done and total.
	CopyIn(ctx context.Context, id backstay.VMID, c CopyIn, progress func(done, total int64)) error
	// SetPolicies changes what the persistent definition says of failed requests.
	SetPolicies(ctx context.Context, id backstay.VMID, disks map[backstay.DiskTarget]Policies) error
	// QEMUUser tells as whom the host runs QEMU.
	QEMUUser(ctx context.Context) (uid, gid int, err error)
}
