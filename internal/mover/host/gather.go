package host

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/backstay/backstay/internal/tier/content"
)

// gatherBytes is how much of a disk is gathered before it is written, in bytes.
const gatherBytes = 16 << 20

// piece is a run of a disk's content.
type piece struct {
	offset int64
	data   []byte
}

func (p piece) end() int64 { return p.offset + int64(len(p.data)) }

// gatherer puts pieces, which a vault hands out in the order in which its packs
// have them, into the order of the disk: after many increments they are single
// steps from all over it. add may be called concurrently; write is called with one
// batch at a time. What it holds is bounded by a batch for each caller.
type gatherer struct {
	write func(ctx context.Context, sorted []piece) error

	mu      sync.Mutex
	pieces  []piece // guarded by mu
	slab    []byte  // what the pieces lie in; guarded by mu
	writing sync.Mutex
	spare   sync.Pool // of *[]byte
}

// slab returns memory for a batch.
func (g *gatherer) fresh() []byte {
	if b, ok := g.spare.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, gatherBytes)
}

// add copies a piece, and writes what was gathered once that is enough. A piece
// that is large by itself is written at once.
func (g *gatherer) add(ctx context.Context, offset int64, data []byte) error {
	g.mu.Lock()
	if g.slab == nil {
		g.slab = g.fresh()
	}
	var full []piece
	var slab []byte
	if len(g.slab)+len(data) > cap(g.slab) {
		full, slab = g.pieces, g.slab
		g.pieces, g.slab = nil, g.fresh()
	}
	from := len(g.slab)
	g.slab = append(g.slab, data...)
	g.pieces = append(g.pieces, piece{offset, g.slab[from:len(g.slab):len(g.slab)]})
	g.mu.Unlock()
	return g.flush(ctx, full, slab)
}

// end writes what is left.
func (g *gatherer) end(ctx context.Context) error {
	g.mu.Lock()
	full, slab := g.pieces, g.slab
	g.pieces, g.slab = nil, nil
	g.mu.Unlock()
	return g.flush(ctx, full, slab)
}

func (g *gatherer) flush(ctx context.Context, pieces []piece, slab []byte) error {
	if len(pieces) == 0 {
		return nil
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(a.offset, b.offset) })
	err := g.write(ctx, pieces)
	if cap(slab) == gatherBytes {
		g.spare.Put(&slab)
	}
	return err
}

// near splits sorted pieces into groups of neighbours: no gap in one is larger
// than gap, and none is longer than most.
func near(sorted []piece, gap, most int64) [][]piece {
	var groups [][]piece
	for first := 0; first < len(sorted); {
		n := first + 1
		for n < len(sorted) && sorted[n].offset-sorted[n-1].end() <= gap && sorted[n].end()-sorted[first].offset <= most {
			n++
		}
		groups, first = append(groups, sorted[first:n]), n
	}
	return groups
}

// stepSet is a set of a disk's steps. It takes memory only near its members.
// Its methods may be called concurrently.
type stepSet struct {
	mu    sync.Mutex
	pages map[int64]*[stepPage / 64]uint64 // guarded by mu
}

const stepPage = 1 << 16 // steps of a page of a stepSet: 256 MiB

// add puts [offset, offset+length) into the set; it begins on a step.
func (s *stepSet) add(offset, length int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pages == nil {
		s.pages = map[int64]*[stepPage / 64]uint64{}
	}
	for step := offset / content.Step; step*content.Step < offset+length; step++ {
		page := s.pages[step/stepPage]
		if page == nil {
			page = new([stepPage / 64]uint64)
			s.pages[step/stepPage] = page
		}
		page[step%stepPage/64] |= 1 << (step % 64)
	}
}

// has tells whether the step at an offset is in the set.
func (s *stepSet) has(offset int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	step := offset / content.Step
	page := s.pages[step/stepPage]
	return page != nil && page[step%stepPage/64]&(1<<(step%64)) != 0
}

// each calls fn for the runs of the set in order, until it fails. No run is longer
// than a page of the set.
func (s *stepSet) each(fn func(offset, length int64) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	order := make([]int64, 0, len(s.pages))
	for i := range s.pages {
		order = append(order, i)
	}
	slices.Sort(order)
	for _, i := range order {
		page := s.pages[i]
		for at := int64(0); at < stepPage; {
			if page[at/64]&(1<<(at%64)) == 0 {
				at++
				continue
			}
			from := at
			for at < stepPage && page[at/64]&(1<<(at%64)) != 0 {
				at++
			}
			if err := fn((i*stepPage+from)*content.Step, (at-from)*content.Step); err != nil {
				return err
			}
		}
	}
	return nil
}
