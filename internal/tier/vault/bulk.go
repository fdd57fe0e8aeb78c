package vault

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

const (
	// runBytes bounds how much of a pack one ranged get asks for.
	runBytes = 4 << 20
	// gapBytes is how much unwanted data between two chunks is read rather than
	// asked around.
	gapBytes = 128 << 10
)

// wanted is a chunk of a page with everything that is to be made of it.
type wanted struct {
	place  index.Place
	name   chunk.Name
	pieces []piece
}

// Chunks implements BulkReader: page by page, chunks in the order of the packs
// in which they lie side by side, neighbours by one ranged get.
func (m *image) Chunks(ctx context.Context, workers int, fn func(offset int64, data []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	runs := make(chan []wanted)
	g.Go(func() error {
		defer close(runs)
		for i := range m.disk.PageCount() {
			if err := m.pageRuns(ctx, i, runs); err != nil {
				return err
			}
		}
		return nil
	})
	for range max(workers, 1) {
		g.Go(func() error {
			for run := range runs {
				if err := m.bulk(ctx, run, fn); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// pageRuns sends the chunks of one page in runs that one get can answer.
func (m *image) pageRuns(ctx context.Context, i int, runs chan<- []wanted) error {
	chunks, err := m.wantedOf(ctx, i)
	if err != nil {
		return err
	}
	for len(chunks) > 0 {
		n := 1
		first, last := chunks[0].place, chunks[0].place
		for n < len(chunks) {
			next := chunks[n].place
			end := last.Entry.Offset + last.Entry.Sealed
			if next.Pack.ID != first.Pack.ID || next.Entry.Offset > end+gapBytes ||
				next.Entry.Offset+next.Entry.Sealed-first.Entry.Offset > runBytes {
				break
			}
			last = next
			n++
		}
		select {
		case runs <- chunks[:n]:
		case <-ctx.Done():
			return ctx.Err()
		}
		chunks = chunks[n:]
	}
	return nil
}

// wantedOf lists the chunks of a page, sorted by where they lie.
func (m *image) wantedOf(ctx context.Context, i int) ([]wanted, error) {
	page, err := m.page(ctx, i)
	if err != nil {
		return nil, err
	}
	chunks := make([]wanted, len(page.Names))
	for n, name := range page.Names {
		places, err := m.v.places.find(ctx, chunk.Data, name)
		if err != nil {
			return nil, err
		}
		chunks[n].name = name
		if len(places) > 0 {
			chunks[n].place = places[0]
		}
	}
	start := int64(i) * m.disk.PageBytes
	err = page.Slice(0, page.Units, func(e point.Extent) error {
		if e.Chunk == 0 {
			return nil
		}
		p := piece{offset: start + int64(e.Start)*chunk.Unit, length: int64(e.Units) * chunk.Unit, at: int64(e.Offset) * chunk.Unit, name: page.Name(e)}
		p.length = min(p.length, m.disk.Size-p.offset)
		chunks[e.Chunk-1].pieces = append(chunks[e.Chunk-1].pieces, p)
		return nil
	})
	packs := map[pack.ID]int{} // in the order in which the disk first uses them
	for _, c := range chunks {
		if _, ok := packs[c.place.Pack.ID]; !ok {
			packs[c.place.Pack.ID] = len(packs)
		}
	}
	slices.SortStableFunc(chunks, func(a, b wanted) int {
		return cmp.Or(cmp.Compare(packs[a.place.Pack.ID], packs[b.place.Pack.ID]),
			cmp.Compare(a.place.Entry.Offset, b.place.Entry.Offset))
	})
	return chunks, err
}

// bulk reads one run and hands out its pieces. What the run's get does not give
// unharmed is fetched chunk by chunk, from the other copies too.
func (m *image) bulk(ctx context.Context, run []wanted, fn func(offset int64, data []byte) error) error {
	first, last := run[0].place.Entry, run[len(run)-1].place.Entry
	id := run[0].place.Pack.ID
	var data []byte
	box, err := pack.Box(m.v.keys, id, run[0].place.Pack.Epoch)
	if err == nil && first.Sealed > 0 {
		data, err = m.v.store.Get(ctx, id.Object(), int64(first.Offset), int64(last.Offset+last.Sealed-first.Offset))
	}
	whole := err == nil && int64(len(data)) == int64(last.Offset+last.Sealed-first.Offset)
	var buf []byte
	for _, w := range run {
		var content []byte
		err := fmt.Errorf("not read")
		if e := w.place.Entry; whole && e.Sealed > 0 {
			if content, err = pack.Open(m.v.keys, box, e, buf, data[e.Offset-first.Offset:][:e.Sealed]); err == nil {
				buf = content
			}
		}
		if err != nil {
			if content, err = m.v.fetch(ctx, chunk.Data, w.name); err != nil {
				return err
			}
		}
		for _, p := range w.pieces {
			part, err := p.part(content)
			if err != nil {
				return err
			}
			if err := fn(p.offset, part); err != nil {
				return err
			}
		}
	}
	return nil
}
