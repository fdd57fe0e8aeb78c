package fake

import (
	"context"
	"maps"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// CountIO adds requests to what a disk of a running VM has done for its guest.
func (h *Host) CountIO(id backstay.VMID, target backstay.DiskTarget, add hypervisor.IOStats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.vms[id]
	if v.live == nil {
		return
	}
	s := v.io[target]
	for _, c := range []struct {
		to  *hypervisor.IOCount
		add hypervisor.IOCount
	}{{&s.Reads, add.Reads}, {&s.Writes, add.Writes}, {&s.Flushes, add.Flushes}} {
		c.to.Requests += c.add.Requests
		c.to.Total += c.add.Total
	}
	if v.io == nil {
		v.io = map[backstay.DiskTarget]hypervisor.IOStats{}
	}
	v.io[target] = s
}

// IOStats returns what CountIO counted since the VM was started.
func (h *Host) IOStats(ctx context.Context, id backstay.VMID) (map[backstay.DiskTarget]hypervisor.IOStats, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return nil, hypervisor.ErrAway
	}
	v, ok := h.vms[id]
	if !ok {
		return nil, hypervisor.ErrNoVM
	}
	if v.live == nil {
		return nil, ctx.Err()
	}
	stats := map[backstay.DiskTarget]hypervisor.IOStats{}
	for _, d := range v.live.disks() {
		stats[d.Target] = hypervisor.IOStats{}
	}
	maps.Copy(stats, v.io)
	return stats, ctx.Err()
}
