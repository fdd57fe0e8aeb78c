package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

const (
	// runBytes bounds how much of a pack one ranged get asks for: all of it.
	runBytes = pack.Target
	// gapBytes is how much unwanted data between two chunks is read rather than
	// asked around.
	gapBytes = 512 << 10
	// planBytes bounds the memory of a plan: so many pages of the disk are looked
	// at together, and what they share is read once.
	planBytes = 24 << 20
	// runsAhead is how many runs may be in memory besides those being decoded.
	runsAhead = 1
)

// extent is a part of a chunk and where it belongs on the disk, in bytes.
type extent struct {
	offset     int64
	at, length uint32
}

// wanted is a chunk with everything that is to be made of it.
type wanted struct {
	ref
	pieces []extent
}

// run is a stretch of one pack with the chunks that are wanted of it; data is
// nil if the get that was to bring them failed.
type run struct {
	chunks []wanted
	data   []byte
	err    error
}

// Chunks implements BulkReader: as many pages at a time as the plan has room
// for, their chunks in the order of the packs in which they lie side by side,
// each once, neighbours by one ranged get.
func (m *image) Chunks(ctx context.Context, workers int, fn func(offset int64, data []byte) error) error {
	return m.ChunksIn(ctx, []backstay.Range{{Length: m.disk.Size}}, workers, fn)
}

// ChunksIn implements Comparer.
func (m *image) ChunksIn(ctx context.Context, ranges []backstay.Range, workers int, fn func(offset int64, data []byte) error) error {
	for next := 0; next < m.disk.PageCount(); {
		plan := newReadPlan()
		for ; next < m.disk.PageCount() && plan.bytes < planBytes; next++ {
			start := int64(next) * m.disk.PageBytes
			wanted := inRange(ranges, start, start+m.disk.PageBytes)
			if len(wanted) == 0 {
				continue
			}
			page, err := m.page(ctx, next)
			if err != nil {
				return m.at(start, err)
			}
			if err := plan.add(m.disk, next, page, wanted); err != nil {
				return err
			}
		}
		if err := m.execute(ctx, plan, max(workers, 1), fn); err != nil {
			return err
		}
	}
	return nil
}

// readPlan says what is to be read for some pages of a disk.
type readPlan struct {
	chunks []wanted
	index  map[chunk.Name]int
	bytes  int // about what the plan takes
}

func newReadPlan() *readPlan { return &readPlan{index: map[chunk.Name]int{}} }

// add puts what the wanted ranges of page i of a disk are made of into the plan.
func (p *readPlan) add(d *point.Disk, i int, page *point.Page, ranges []backstay.Range) error {
	start := int64(i) * d.PageBytes
	at := make([]int, len(page.Names)) // 1 + index into chunks
	add := func(e point.Extent) error {
		if e.Chunk == 0 {
			return nil
		}
		n := &at[e.Chunk-1]
		if *n == 0 {
			*n = 1 + p.chunk(page.Names[e.Chunk-1], page.Places[e.Chunk-1])
		}
		x := extent{offset: start + int64(e.Start)*chunk.Unit, at: e.Offset * chunk.Unit}
		x.length = uint32(min(int64(e.Units)*chunk.Unit, d.Size-x.offset))
		c := &p.chunks[*n-1]
		c.pieces = append(c.pieces, x)
		p.bytes += 24
		return nil
	}
	for _, r := range ranges {
		from, to := max(r.Offset-start, 0)/chunk.Unit, min((r.End()-start+chunk.Unit-1)/chunk.Unit, int64(page.Units))
		if err := page.Slice(uint32(from), uint32(to), add); err != nil {
			return err
		}
	}
	return nil
}

// chunk returns the index of a chunk in the plan.
func (p *readPlan) chunk(name chunk.Name, at point.Place) int {
	k, ok := p.index[name]
	if !ok {
		k = len(p.chunks)
		p.index[name] = k
		p.chunks = append(p.chunks, wanted{ref: ref{chunk.Data, name, at}})
		p.bytes += 256
	}
	return k
}

// inRange returns those of ordered ranges that reach into [from, to).
func inRange(ranges []backstay.Range, from, to int64) []backstay.Range {
	first, _ := slices.BinarySearchFunc(ranges, from, func(r backstay.Range, at int64) int { return cmp.Compare(r.End(), at+1) })
	last := first
	for last < len(ranges) && ranges[last].Offset < to {
		last++
	}
	return ranges[first:last]
}

// sorted returns the plan's chunks by pack, in the order in which the disk first
// uses them, and by their place in it.
func (p *readPlan) sorted() []wanted {
	packs := map[pack.ID]int{}
	for _, c := range p.chunks {
		if _, ok := packs[c.at.Pack]; !ok {
			packs[c.at.Pack] = len(packs)
		}
	}
	slices.SortStableFunc(p.chunks, func(a, b wanted) int {
		return cmp.Or(cmp.Compare(packs[a.at.Pack], packs[b.at.Pack]), cmp.Compare(a.at.Offset, b.at.Offset))
	})
	return p.chunks
}

// nextRun returns how many of the chunks one get can bring.
func nextRun(chunks []wanted) int {
	first, n := chunks[0].at, 1
	if !first.Known() {
		return 1
	}
	end := first.Offset + first.Sealed
	for n < len(chunks) {
		next := chunks[n].at
		if next.Pack != first.Pack || next.Offset < end || next.Offset > end+gapBytes || next.Offset+next.Sealed-first.Offset > runBytes {
			break
		}
		end = next.Offset + next.Sealed
		n++
	}
	return n
}

// execute reads the plan: one goroutine gets, the others decode and hand out.
func (m *image) execute(ctx context.Context, plan *readPlan, workers int, fn func(offset int64, data []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	runs := make(chan *run, runsAhead)
	g.Go(func() error {
		defer close(runs)
		for i := range plan.chunks {
			plan.chunks[i].at = m.v.current(ctx, plan.chunks[i].ref)
		}
		chunks := plan.sorted()
		for len(chunks) > 0 {
			n := nextRun(chunks)
			r := &run{chunks: chunks[:n]}
			r.data, r.err = m.getRun(ctx, r.chunks)
			select {
			case runs <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
			chunks = chunks[n:]
		}
		return nil
	})
	parts := make(chan part)
	g.Go(func() error {
		defer close(parts)
		for r := range runs {
			for i := range r.chunks {
				select {
				case parts <- part{r, i}:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			var buf []byte
			for p := range parts {
				var err error
				if buf, err = m.handOut(ctx, p, buf, fn); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// part is one chunk of a run.
type part struct {
	run *run
	i   int
}

// getRun asks for the bytes of a run.
func (m *image) getRun(ctx context.Context, chunks []wanted) ([]byte, error) {
	first, last := chunks[0].at, chunks[len(chunks)-1].at
	if !first.Known() {
		return nil, fmt.Errorf("the place of chunk %s is not known", chunks[0].name)
	}
	length := int64(last.Offset + last.Sealed - first.Offset)
	data, err := m.v.store.Get(ctx, first.Pack.Object(), int64(first.Offset), length)
	if err == nil && int64(len(data)) != length {
		err = fmt.Errorf("%d bytes instead of %d", len(data), length)
	}
	return data, err
}

// handOut decodes one chunk and hands out its pieces. What the run's get did not
// bring unharmed is fetched by itself, from the other copies and places too.
func (m *image) handOut(ctx context.Context, p part, buf []byte, fn func(offset int64, data []byte) error) ([]byte, error) {
	w := p.run.chunks[p.i]
	content, err := m.openIn(p.run, w, buf)
	if err != nil {
		if content, err = m.v.fetch(ctx, w.ref); err != nil {
			return buf, m.at(w.pieces[0].offset, err)
		}
	}
	for _, x := range w.pieces {
		if int64(x.at)+int64(x.length) > int64(len(content)) {
			return buf, readError(fmt.Sprintf("chunk %s", w.name), fmt.Errorf("%d bytes at %d wanted of %d: %w", x.length, x.at, len(content), point.ErrBad))
		}
		if err := fn(x.offset, content[x.at:][:x.length]); err != nil {
			return buf, err
		}
	}
	return content, nil
}

// at says where on the disk what is damaged belongs.
func (m *image) at(offset int64, err error) error {
	var coded *backstay.Error
	if !errors.As(err, &coded) || coded.Code != backstay.CodeDamaged {
		return err
	}
	return backstay.Errorf(backstay.CodeDamaged, "disk %s cannot be read at byte %d: %s", m.disk.Target, offset, coded.Message).Becausef("%s", coded.Cause).Because(coded.Unwrap())
}

// openIn opens a chunk in the bytes of its run.
func (m *image) openIn(r *run, w wanted, buf []byte) ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	box, err := pack.Box(m.v.keys, w.at.Pack, w.at.Epoch)
	if err != nil {
		return nil, err
	}
	from := w.at.Offset - r.chunks[0].at.Offset
	return pack.Open(m.v.keys, box, w.at.Entry(w.kind, w.name), buf, r.data[from:][:w.at.Sealed])
}
