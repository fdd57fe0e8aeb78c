package vault

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// windowUnits is how much of a disk a chunk holds at most. Windows lie at whole
// multiples of it, so that the same content at the same place makes the same chunk.
const windowUnits = chunk.MaxData / chunk.Unit

// span is a run of units of a page.
type span struct {
	from, to uint32
	zero     bool // the source says that it is zeros
}

// diskWork is the transfer of one disk.
type diskWork struct {
	w       *Writer
	src     DiskSource
	old     *image // the parent's disk; nil if there is none to build on
	changed []backstay.Range
	mapped  bool // changed is complete
	stats   DiskStats
	table   *point.Disk
	// computing has a place for each core: more workers than that read, but they
	// do not take turns in hashing and compressing, which would cost them the
	// processors' caches.
	computing chan struct{}
}

// pageWork is one page of it.
type pageWork struct {
	start  int64 // in bytes
	units  uint32
	index  int
	parent *point.Page   // nil: nothing to build on
	at     []point.Place // where the parent's chunks are sure to be; unknown: not in place
	out    *point.Builder
}

// place returns where the chunk of a parent's extent is sure to be.
func (p *pageWork) place(e point.Extent) (point.Place, bool) {
	if e.Chunk == 0 {
		return point.Place{}, false
	}
	at := p.at[e.Chunk-1]
	return at, at.Known()
}

// item is what flows from the producer over the workers to the collector, in
// the order of the disk: spans that make one chunk, or the end of a page.
type item struct {
	page  *pageWork
	spans []span
	last  bool // the page ends
	done  chan struct{}
	found
	err error
}

// WriteDisk carries one disk into the vault. Only what the change map names is
// read, if it can be relied on; otherwise everything, and what is found to be
// there already is not stored again (I7).
func (w *Writer) WriteDisk(ctx context.Context, d DiskSource) (DiskStats, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return DiskStats{}, fmt.Errorf("write disk %s: the transfer has ended", d.Target)
	}
	if slices.ContainsFunc(w.disks, func(o *point.Disk) bool { return o.Target == d.Target }) {
		return DiskStats{}, fmt.Errorf("write disk %s: written already", d.Target)
	}
	work := &diskWork{w: w, src: d}
	work.table = &point.Disk{Target: d.Target, Size: d.Image.Size(), Format: d.Format, PageBytes: point.PageBytes}
	work.table.MakePages()
	work.decide(ctx)
	w.report.Lock()
	if work.mapped {
		w.total += backstay.TotalLength(work.changed)
	} else {
		w.total += work.table.Size
	}
	w.report.Unlock()
	if err := work.run(ctx); err != nil {
		return work.stats, transferError(d.Target, cmp.Or(w.failed(), err))
	}
	w.disks = append(w.disks, work.table)
	return work.stats, nil
}

// transferError keeps coded errors and codes what the source said.
func transferError(target backstay.DiskTarget, err error) error {
	if coded := passed(err); coded != nil {
		return coded
	}
	return backstay.Errorf(backstay.CodeTransferFailed, "disk %s could not be carried into the vault", target).Because(err)
}

// decide finds out what the disk can be compared with, and whether its change
// map can be relied on.
func (d *diskWork) decide(ctx context.Context) {
	w, size := d.w, d.table.Size
	if w.o.Parent == "" {
		d.stats.Mode = "first copy"
		return
	}
	if w.parent == nil {
		d.stats.Mode = "full compare: " + w.ParentNote
		return
	}
	old, ok := w.parent.disk(d.src.Target)
	if !ok || old.PageBytes != d.table.PageBytes {
		d.stats.Mode = fmt.Sprintf("full compare: the parent %s has no such disk", w.o.Parent)
		return
	}
	d.old = &image{ctx: ctx, v: w.v, disk: old}
	switch {
	case old.Size != size:
		d.stats.Mode = fmt.Sprintf("full compare: the disk had %d bytes in the parent and has %d", old.Size, size)
	case !d.src.HasMap:
		d.stats.Mode = "full compare: no change map"
	default:
		d.mapped, d.stats.Mode = true, "changed layers"
		d.changed = normal(d.src.Changed, size)
	}
}

// normal widens ranges to whole units, clips them to the disk, and sorts and
// joins them.
func normal(ranges []backstay.Range, size int64) []backstay.Range {
	limit := (size + chunk.Unit - 1) / chunk.Unit * chunk.Unit
	var out []backstay.Range
	for _, r := range slices.SortedFunc(slices.Values(ranges), func(a, b backstay.Range) int { return cmp.Compare(a.Offset, b.Offset) }) {
		from, to := max(r.Offset, 0)/chunk.Unit*chunk.Unit, limit
		if end := r.End(); end >= r.Offset && end < limit { // else it overflows, or reaches the end
			to = (end + chunk.Unit - 1) / chunk.Unit * chunk.Unit
		}
		if r.Length <= 0 || from >= to {
			continue
		}
		if n := len(out); n > 0 && from <= out[n-1].End() {
			out[n-1].Length = max(to, out[n-1].End()) - out[n-1].Offset
			continue
		}
		out = append(out, backstay.Range{Offset: from, Length: to - from})
	}
	return out
}

// run is the pipeline: one producer, a worker or two more than there are cores
// (they read as well), and the calling goroutine as the collector. What is in
// flight is bounded by the order queue: about 1 MiB for each place in it.
func (d *diskWork) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0) + 2
	d.computing = make(chan struct{}, runtime.GOMAXPROCS(0))
	work, order := make(chan *item), make(chan *item, 2*workers)
	g.Go(func() error {
		defer close(work)
		defer close(order)
		return d.produce(ctx, func(it *item) error {
			select {
			case order <- it:
			case <-ctx.Done():
				return ctx.Err()
			}
			if it.last {
				return nil
			}
			select {
			case work <- it:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for range workers {
		g.Go(func() error {
			defer d.w.gently()()
			b := workBuffers.Get().(*buffers)
			defer workBuffers.Put(b)
			for it := range work {
				it.found, it.err = d.look(ctx, it, b)
				close(it.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer d.w.gently()()
		return d.collect(ctx, order)
	})
	return g.Wait()
}

// buffers are what a worker looks at disks with.
type buffers struct{ plain, check [chunk.MaxData]byte }

var workBuffers = sync.Pool{New: func() any { return new(buffers) }}

// produce walks the disk's pages and emits what is to be looked at.
func (d *diskWork) produce(ctx context.Context, emit func(*item) error) error {
	for i := range d.table.PageCount() {
		p, err := d.openPage(ctx, i)
		if err != nil {
			return err
		}
		spans, err := d.wanted(p)
		if err != nil {
			return err
		}
		for len(spans) > 0 {
			n := d.group(spans)
			if err := emit(&item{page: p, spans: spans[:n], done: make(chan struct{})}); err != nil {
				return err
			}
			spans = spans[n:]
		}
		if err := emit(&item{page: p, last: true}); err != nil {
			return err
		}
	}
	return nil
}

// group returns how many of the spans make one chunk: those of a window, and
// with a change map those of as many windows as fit, if none of them changed as a
// whole. So a database's page writes are packed closely, and do not cross a page
// of the table, which a restore reads as one.
func (d *diskWork) group(spans []span) int {
	total := uint32(0)
	for n := 0; n < len(spans); {
		end, units, m := (spans[n].from/windowUnits+1)*windowUnits, uint32(0), n
		for ; m < len(spans) && spans[m].from < end; m++ {
			if !spans[m].zero {
				units += spans[m].to - spans[m].from
			}
		}
		if n > 0 && (!d.mapped || units == windowUnits || total+units > windowUnits) {
			return n
		}
		if n, total = m, total+units; total == windowUnits {
			return n
		}
	}
	return len(spans)
}

// openPage finds what a page can build on: the parent's page, if it covers the
// same units and can be authenticated. A damaged one costs a full compare of this
// page and no more.
func (d *diskWork) openPage(ctx context.Context, i int) (*pageWork, error) {
	p := &pageWork{start: int64(i) * d.table.PageBytes, units: d.table.PageUnits(i), index: i, out: point.NewBuilder()}
	if d.old == nil || i >= d.old.disk.PageCount() || d.old.disk.PageUnits(i) != p.units {
		return p, nil
	}
	page, err := d.old.page(ctx, i)
	if backstay.IsCode(err, backstay.CodeDamaged) {
		d.stats.Mode += fmt.Sprintf("; full compare of %d bytes at %d: %v", int64(p.units)*chunk.Unit, p.start, err)
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	p.parent, p.at = page, make([]point.Place, len(page.Names))
	for n, name := range page.Names {
		if p.at[n], err = d.w.inPlace(ctx, name, page.Places[n]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// inPlace returns where a chunk of the parent is sure to be: where the parent's
// page says, or where reclaim has moved it; unknown if it is gone.
func (w *Writer) inPlace(ctx context.Context, name chunk.Name, at point.Place) (point.Place, error) {
	err := w.rely.check(ctx, at)
	if err == nil {
		return at, nil
	}
	if !damaged(err) {
		return point.Place{}, readError(at.Pack.Object(), err)
	}
	at, _, err = w.known(ctx, chunk.Data, name)
	return at, err
}

// wanted lists the spans of a page that must be looked at, none of which
// crosses a window's border.
func (d *diskWork) wanted(p *pageWork) ([]span, error) {
	var whole []span
	if p.parent == nil || !d.mapped {
		whole = []span{{to: p.units}}
	} else {
		whole = d.changedIn(p)
	}
	if len(whole) == 0 {
		return nil, nil
	}
	from, to := int64(whole[0].from)*chunk.Unit, int64(whole[len(whole)-1].to)*chunk.Unit
	extents, err := d.src.Image.Extents(p.start+from, min(p.start+to, d.table.Size)-p.start-from)
	if err != nil {
		return nil, fmt.Errorf("ask disk for its extents: %w", err)
	}
	var zeros []span // whole units of zeros, in order
	for _, e := range extents {
		s := span{from: uint32((e.Offset - p.start + chunk.Unit - 1) / chunk.Unit), to: uint32((e.End() - p.start) / chunk.Unit)}
		if e.End() == d.table.Size {
			s.to = p.units
		}
		if e.Zero && s.from < s.to {
			zeros = append(zeros, s)
		}
	}
	var out []span
	for _, s := range whole {
		out = cut(out, s, zeros)
	}
	return out, nil
}

// changedIn returns the spans of a page that the change map names, and those
// whose chunks in the parent are not in place any more.
func (d *diskWork) changedIn(p *pageWork) []span {
	var ranges []backstay.Range
	end := p.start + int64(p.units)*chunk.Unit
	first, _ := slices.BinarySearchFunc(d.changed, p.start, func(r backstay.Range, at int64) int { return cmp.Compare(r.End(), at+1) })
	for _, r := range d.changed[first:] {
		if r.Offset >= end {
			break
		}
		from := max(r.Offset, p.start)
		ranges = append(ranges, backstay.Range{Offset: from - p.start, Length: min(r.End(), end) - from})
	}
	for _, e := range p.parent.Extents {
		if _, ok := p.place(e); e.Chunk != 0 && !ok {
			ranges = append(ranges, backstay.Range{Offset: int64(e.Start) * chunk.Unit, Length: int64(e.Units) * chunk.Unit})
		}
	}
	var out []span
	for _, r := range normal(ranges, int64(p.units)*chunk.Unit) {
		out = append(out, span{from: uint32(r.Offset / chunk.Unit), to: uint32(r.End() / chunk.Unit)})
	}
	return out
}

// cut appends a span in parts that are zeros or not, none across a window's border.
func cut(out []span, s span, zeros []span) []span {
	at, _ := slices.BinarySearchFunc(zeros, s.from+1, func(z span, from uint32) int { return cmp.Compare(z.to, from) })
	for s.from < s.to {
		part := span{from: s.from, to: min(s.to, (s.from/windowUnits+1)*windowUnits)}
		for at < len(zeros) && zeros[at].to <= s.from {
			at++
		}
		switch {
		case at == len(zeros):
		case zeros[at].from <= s.from:
			part.zero, part.to = true, min(part.to, zeros[at].to)
		default:
			part.to = min(part.to, zeros[at].from)
		}
		out, s.from = append(out, part), part.to
	}
	return out
}

// read fills b with units of the source from an offset; what lies behind the
// disk's end is zeros.
func (d *diskWork) read(b []byte, offset int64) (int64, error) {
	n := min(int64(len(b)), d.table.Size-offset)
	clear(b[n:])
	got, err := d.src.Image.ReadAt(b[:n], offset)
	if int64(got) < n && err == nil {
		err = io.ErrUnexpectedEOF
	}
	if int64(got) == n && errors.Is(err, io.EOF) {
		err = nil
	}
	if err != nil {
		return 0, fmt.Errorf("read disk %s at %d: %w", d.src.Target, offset, err)
	}
	return n, nil
}

var zeroUnit [chunk.Unit]byte

func isZero(unit []byte) bool { return bytes.Equal(unit, zeroUnit[:]) }
