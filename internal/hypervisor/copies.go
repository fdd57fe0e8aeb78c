package hypervisor

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Throttle tells how fast work on disks may go on, in bytes per second: 0 means
// as fast as it can, less than 0 that it is to wait. It is asked again and again
// while the work goes on, and must answer at once. nil means no limit.
type Throttle func() int64

// Limit is Throttle's answer.
func (t Throttle) Limit() int64 {
	if t == nil {
		return 0
	}
	return t()
}

// Copy is the request to put a disk of a running VM on another file. To exists,
// has at least the disk's size, and holds nothing.
type Copy struct {
	Target   backstay.DiskTarget
	To       Image
	Throttle Throttle
}

// Copies puts disks of running VMs on other files.
type Copies interface {
	// CopyLive copies all that the disk shows into another file and lets the VM
	// go on on it alone, in the live and in the persistent definition. The files
	// that it leaves stay as they are. If it fails or ctx ends before that, the VM
	// is where it was. A copy to the same file that an earlier call left running
	// is carried on with. progress gets bytes done and total.
	CopyLive(ctx context.Context, id backstay.VMID, c Copy, progress func(done, total int64)) error
}

// CommitOptions say how an overlay is merged.
type CommitOptions struct {
	// Throttle is asked once, at the start.
	Throttle Throttle
	// Progress gets bytes done and total; it may be nil.
	Progress func(done, total int64)
}

// Conversion is the request to copy what an image shows into a new one.
type Conversion struct {
	From, To Image
	// Throttle is asked once, at the start.
	Throttle Throttle
}

// Converts copies images that nobody writes to.
type Converts interface {
	// Convert copies all that an image shows, through its chain, into a new image,
	// durably and with mode 0600. ErrExists if the file is there. If it fails or
	// ctx ends, the new file is removed. progress may be nil.
	Convert(ctx context.Context, c Conversion, progress func(done, total int64)) error
}
