package pace

import (
	"maps"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// enough is how many requests make a mean that is worth being compared with.
const enough = 16

// meansOf returns the mean times of what was added between two counts, for
// sorts that had at least so many requests.
func meansOf(now, before counts, least int64) latencies {
	means := latencies{}
	for disk, n := range now {
		b := before[disk]
		for k, pair := range map[kind][2]hypervisor.IOCount{
			reads: {n.Reads, b.Reads}, writes: {n.Writes, b.Writes}, flushes: {n.Flushes, b.Flushes},
		} {
			added, ok := pair[0].Sub(pair[1])
			if !ok {
				added = pair[0] // the VM was started anew
			}
			if added.Requests >= least {
				means[sort{disk, k}] = added.Total / time.Duration(added.Requests)
			}
		}
	}
	return means
}

// baseOf is what the guest's requests took without us: between our last work and
// now, and where that were too few, since the VM was started.
func (p *Pacer) baseOf(vm backstay.VMID, now counts) latencies {
	p.mu.Lock()
	last := p.last[vm]
	p.mu.Unlock()
	base := meansOf(now, nil, enough)
	if last != nil {
		maps.Copy(base, meansOf(now, last, enough))
	}
	return base
}

// remember keeps the counts with which a piece of work ended.
func (p *Pacer) remember(vm backstay.VMID, at counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(at) == 0 {
		delete(p.last, vm)
		return
	}
	p.last[vm] = at
}
