package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// Comparer is implemented by the images that Point.Disk returns: it tells where
// another disk may hold something else, and reads only there.
type Comparer interface {
	BulkReader
	// ChunksIn is Chunks for some ranges alone, which are in order, without overlap
	// and in whole units of 4 KiB, but for the end of the disk.
	ChunksIn(ctx context.Context, ranges []backstay.Range, workers int, fn func(offset int64, data []byte) error) error
	// DiffersFrom lists where the disk may not hold what another point's disk of
	// the same vault holds, by their tables alone: the same part of the same chunk is
	// the same content. ok is false if they cannot be compared.
	DiffersFrom(ctx context.Context, other tier.Image) (ranges []backstay.Range, ok bool, err error)
	// Unproved lists which data of the disk a local disk of its size could not be
	// shown to hold as well. It reads the local disk and names what it finds, which
	// takes nothing but tables from the vault. A chunk of which the disk uses only a
	// part cannot be named: it is listed. looked gets the bytes that were read.
	Unproved(ctx context.Context, local io.ReaderAt, workers int, looked func(int64)) ([]backstay.Range, error)
}

var _ Comparer = (*image)(nil)

// DiffersFrom implements Comparer.
func (m *image) DiffersFrom(ctx context.Context, other tier.Image) ([]backstay.Range, bool, error) {
	o, ok := other.(*image)
	if !ok || o.v != m.v || o.disk.Size != m.disk.Size || o.disk.PageBytes != m.disk.PageBytes {
		return nil, false, nil
	}
	var found []backstay.Range
	for i := range m.disk.PageCount() {
		if m.disk.Page(i) == o.disk.Page(i) {
			continue
		}
		start := int64(i) * m.disk.PageBytes
		mine, err := m.page(ctx, i)
		if err != nil {
			return nil, false, err
		}
		its, err := o.page(ctx, i)
		if backstay.IsCode(err, backstay.CodeDamaged) { // says nothing of what we want
			its, err = nil, nil
		}
		if err != nil {
			return nil, false, err
		}
		for _, r := range unlike(mine, its) {
			found = append(found, backstay.Range{Offset: start + r.Offset, Length: r.Length})
		}
	}
	return clip(normal(found, m.disk.Size), m.disk.Size), true, nil
}

// unlike lists where two pages of one length do not refer to the same content, in
// bytes from their start; all of it if the other is nil.
func unlike(a, b *point.Page) []backstay.Range {
	if b == nil {
		return []backstay.Range{{Length: int64(a.Units) * chunk.Unit}}
	}
	var found []backstay.Range
	for i, j, at := 0, 0, uint32(0); at < a.Units; {
		x, y := a.Extents[i], b.Extents[j]
		end := min(x.End(), y.End())
		same := a.Name(x) == b.Name(y) && (x.Chunk == 0 || x.Offset+(at-x.Start) == y.Offset+(at-y.Start))
		if !same {
			found = append(found, backstay.Range{Offset: int64(at) * chunk.Unit, Length: int64(end-at) * chunk.Unit})
		}
		if at = end; at == x.End() {
			i++
		}
		if at == y.End() {
			j++
		}
	}
	return found
}

// clip ends ranges where the disk ends.
func clip(ranges []backstay.Range, size int64) []backstay.Range {
	if n := len(ranges); n > 0 && ranges[n-1].End() > size {
		ranges[n-1].Length = size - ranges[n-1].Offset
	}
	return ranges
}

// Unproved implements Comparer.
func (m *image) Unproved(ctx context.Context, local io.ReaderAt, workers int, looked func(int64)) ([]backstay.Range, error) {
	c := &comparing{image: m, local: local, looked: looked}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(max(workers, 1))
	for i := range m.disk.PageCount() {
		page, err := m.page(within, i)
		if err != nil {
			return nil, errors.Join(err, g.Wait())
		}
		for n, pieces := range piecesOf(m.disk, i, page) {
			if within.Err() != nil {
				break
			}
			g.Go(func() error { return c.chunk(page.Names[n], page.Places[n], pieces) })
		}
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return nil, err
	}
	return clip(normal(c.found, m.disk.Size), m.disk.Size), nil
}

// piecesOf lists for each name of a page what the disk uses of that chunk.
func piecesOf(d *point.Disk, i int, page *point.Page) [][]extent {
	start := int64(i) * d.PageBytes
	all := make([][]extent, len(page.Names))
	for _, e := range page.Extents {
		if e.Chunk != 0 {
			all[e.Chunk-1] = append(all[e.Chunk-1], extent{
				offset: start + int64(e.Start)*chunk.Unit, at: e.Offset * chunk.Unit, length: e.Units * chunk.Unit,
			})
		}
	}
	return all
}

// comparing is one comparison with a local disk.
type comparing struct {
	image  *image
	local  io.ReaderAt
	looked func(int64)

	mu    sync.Mutex
	found []backstay.Range // guarded by mu
}

// chunk compares what a page uses of one chunk.
func (c *comparing) chunk(name chunk.Name, at point.Place, pieces []extent) error {
	same, err := c.same(name, at, pieces)
	if err != nil || same {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range pieces {
		c.found = append(c.found, backstay.Range{Offset: x.offset, Length: int64(x.length)})
	}
	return nil
}

// same tells whether the local disk holds a whole chunk, in the places in which the
// point has it: its name is a keyed hash, which nobody can make other content have.
func (c *comparing) same(name chunk.Name, at point.Place, pieces []extent) (bool, error) {
	slices.SortFunc(pieces, func(a, b extent) int { return cmp.Compare(a.at, b.at) })
	total := uint32(0)
	for _, x := range pieces {
		if x.at != total {
			return false, nil
		}
		total += x.length
	}
	if total > chunk.MaxData || (at.Known() && total != at.Plain) {
		return false, nil
	}
	b := workBuffers.Get().(*buffers)
	defer workBuffers.Put(b)
	plain := b.plain[:total]
	for _, x := range pieces {
		to := plain[x.at:][:x.length]
		n := min(int64(x.length), c.image.disk.Size-x.offset)
		clear(to[n:]) // behind the disk's end
		if got, err := c.local.ReadAt(to[:n], x.offset); int64(got) < n {
			return false, fmt.Errorf("read %d bytes at %d: %w", n, x.offset, err)
		}
		c.looked(n)
	}
	return c.image.v.keys.Name(chunk.Data, plain) == name, nil
}
