package content

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// GatherBytes is how much a Gatherer holds before it is written, in bytes.
const GatherBytes = 16 << 20

// Piece is a run of a disk's content.
type Piece struct {
	Offset int64
	Data   []byte
}

// End is the first byte behind the piece.
func (p Piece) End() int64 { return p.Offset + int64(len(p.Data)) }

// Gatherer puts pieces, which a vault hands out in the order in which its packs
// have them, into the order of the disk: after many increments they are single
// steps from all over it, and writing each where it comes costs a request each. Add
// may be called concurrently. It holds a batch, and one for each caller that waits.
type Gatherer struct {
	// Write writes a batch, in order and without overlap, and may use neither it
	// nor its memory afterwards. It is called for one batch at a time.
	Write func(ctx context.Context, sorted []Piece) error

	mu      sync.Mutex
	pieces  []Piece // guarded by mu
	slab    []byte  // what the pieces lie in; guarded by mu
	writing sync.Mutex
	spare   sync.Pool // of *[]byte
}

func (g *Gatherer) fresh() []byte {
	if b, ok := g.spare.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, GatherBytes)
}

// Add copies a piece, and writes what was gathered once that is enough.
func (g *Gatherer) Add(ctx context.Context, offset int64, data []byte) error {
	g.mu.Lock()
	if g.slab == nil {
		g.slab = g.fresh()
	}
	var full []Piece
	var slab []byte
	if len(g.slab)+len(data) > cap(g.slab) {
		full, slab = g.pieces, g.slab
		g.pieces, g.slab = nil, g.fresh()
	}
	from := len(g.slab)
	g.slab = append(g.slab, data...)
	g.pieces = append(g.pieces, Piece{offset, g.slab[from:len(g.slab):len(g.slab)]})
	g.mu.Unlock()
	return g.flush(ctx, full, slab)
}

// End writes what is left. Nobody may Add meanwhile.
func (g *Gatherer) End(ctx context.Context) error {
	g.mu.Lock()
	full, slab := g.pieces, g.slab
	g.pieces, g.slab = nil, nil
	g.mu.Unlock()
	return g.flush(ctx, full, slab)
}

func (g *Gatherer) flush(ctx context.Context, pieces []Piece, slab []byte) error {
	if len(pieces) == 0 {
		return nil
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	slices.SortFunc(pieces, func(a, b Piece) int { return cmp.Compare(a.Offset, b.Offset) })
	err := g.Write(ctx, pieces)
	if cap(slab) == GatherBytes {
		g.spare.Put(&slab)
	}
	return err
}

// Near splits sorted pieces into groups of neighbours: no gap in one is larger
// than gap bytes, and none reaches over more than most, unless it is one piece.
func Near(sorted []Piece, gap, most int64) [][]Piece {
	var groups [][]Piece
	for first := 0; first < len(sorted); {
		n := first + 1
		for n < len(sorted) && sorted[n].Offset-sorted[n-1].End() <= gap && sorted[n].End()-sorted[first].Offset <= most {
			n++
		}
		groups, first = append(groups, sorted[first:n]), n
	}
	return groups
}

// Join returns pieces that touch each other as one.
func Join(touching []Piece) Piece {
	first, last := touching[0], touching[len(touching)-1]
	if len(touching) == 1 {
		return first
	}
	data := make([]byte, 0, last.End()-first.Offset)
	for _, p := range touching {
		data = append(data, p.Data...)
	}
	return Piece{first.Offset, data}
}
