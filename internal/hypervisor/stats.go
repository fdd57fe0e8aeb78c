package hypervisor

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// IOStats are what one disk of a running VM has done for its guest since the
// VM was started. Work of ours on the same files, block jobs included, is not in
// them.
type IOStats struct {
	Reads, Writes, Flushes IOCount
}

// IOCount counts the requests of one sort that were answered, and the time that
// they took together, each from its arrival to its answer.
type IOCount struct {
	Requests int64
	Total    time.Duration
}

// Sub returns what was added since an earlier count; false if the counts began
// anew in between, as they do when the VM is started.
func (c IOCount) Sub(earlier IOCount) (IOCount, bool) {
	d := IOCount{c.Requests - earlier.Requests, c.Total - earlier.Total}
	return d, d.Requests >= 0 && d.Total >= 0
}

// Stats tells what the guests feel of their disks.
type Stats interface {
	// IOStats returns the counts of all disks of a running VM, in one question to
	// the hypervisor: cheap enough for several a second. It is empty for a VM that
	// is shut off, and where the hypervisor is too busy to tell now.
	IOStats(ctx context.Context, id backstay.VMID) (map[backstay.DiskTarget]IOStats, error)
}
