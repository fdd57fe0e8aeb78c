package live

import (
	"context"
	"sync"
)

// What is read ahead: the blocks behind each one that is asked for, each once.
const (
	aheadBlock   = 1 << 20 // bytes
	aheadBlocks  = 2
	aheadWorkers = 2
	aheadQueue   = 32
)

// ahead reads the neighbours of what is asked for into the cache of the vault. It
// never keeps a request waiting: what does not fit its queue is left out.
type ahead struct {
	h     *holder
	queue chan place
	work  sync.WaitGroup

	mu   sync.Mutex
	seen []map[int64]bool // guarded by mu: of each disk, the blocks that were read
}

type place struct {
	disk  int
	block int64
}

func newAhead(ctx context.Context, h *holder) *ahead {
	a := &ahead{h: h, queue: make(chan place, aheadQueue)}
	for range h.order.Disks {
		a.seen = append(a.seen, map[int64]bool{})
	}
	for range aheadWorkers {
		a.work.Go(func() { a.run(ctx) })
	}
	return a
}

func (a *ahead) wait() { a.work.Wait() }

// asked notes what a client read.
func (a *ahead) asked(disk int, offset, length int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := (offset + length - 1) / aheadBlock
	for block := offset / aheadBlock; block <= last+aheadBlocks; block++ {
		if block*aheadBlock >= a.h.order.Disks[disk].Size || a.seen[disk][block] {
			continue
		}
		a.seen[disk][block] = true
		select {
		case a.queue <- place{disk, block}:
		default:
			delete(a.seen[disk], block)
		}
	}
}

// run reads until ctx ends. What cannot be read now is nobody's loss.
func (a *ahead) run(ctx context.Context) {
	buf := make([]byte, aheadBlock)
	for {
		select {
		case p := <-a.queue:
			disk := a.h.order.Disks[p.disk]
			from := p.block * aheadBlock
			_, _ = a.h.read(disk.Target, buf[:min(aheadBlock, disk.Size-from)], from)
		case <-ctx.Done():
			return
		}
	}
}
