package vault

import (
	"bytes"
	"context"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// segment is a run of units of a page, as it was found.
type segment struct {
	from, units uint32
	kind        segmentKind
	at          uint32 // offset in the window's chunk, in units; for data
}

type segmentKind byte

const (
	zeros segmentKind = iota
	data              // in the window's chunk
	same              // as in the parent
)

// found is what a worker found out about a window.
type found struct {
	segments []segment
	name     chunk.Name
	plain    int // length of the window's chunk; 0: it has none
	encoded  []byte
	pack     pack.ID // that holds the chunk already, if encoded is nil
	read     int64
	changed  int64
}

func (f *found) add(from uint32, kind segmentKind, at uint32) {
	if n := len(f.segments); n > 0 {
		last := &f.segments[n-1]
		if last.kind == kind && last.from+last.units == from && (kind != data || last.at+last.units == at) {
			last.units++
			return
		}
	}
	f.segments = append(f.segments, segment{from: from, units: 1, kind: kind, at: at})
}

// look reads a window's spans and decides what is new. The window's chunk is all
// that is neither zeros nor known to be the parent's, closed up.
func (d *diskWork) look(ctx context.Context, it *item, buf []byte) (found, error) {
	f, err := d.readSpans(ctx, it, buf)
	if err != nil || f.plain == 0 {
		return f, err
	}
	content := buf[:f.plain]
	f.name = d.w.v.keys.Name(chunk.Data, content)
	compare := it.page.parent != nil && !d.mapped
	if compare && it.page.holds(f) {
		for i := range f.segments {
			f.segments[i].kind = same
		}
		f.plain, f.changed = 0, 0
		return f, nil
	}
	id, ok, err := d.w.known(ctx, chunk.Data, f.name)
	if err != nil {
		return f, err
	}
	if !ok && compare {
		if f, err = d.compare(ctx, it.page, f, content); err != nil || f.plain == 0 {
			return f, err
		}
		content = buf[:f.plain]
		f.name = d.w.v.keys.Name(chunk.Data, content)
		if id, ok, err = d.w.known(ctx, chunk.Data, f.name); err != nil {
			return f, err
		}
	}
	if ok {
		f.pack = id
		return f, nil
	}
	f.encoded, err = chunk.Encode((*encodings.Get().(*[]byte))[:0], content)
	return f, err
}

var encodings = sync.Pool{New: func() any {
	b := make([]byte, 0, chunk.MaxData+chunk.Overhead+64)
	return &b
}}

// readSpans reads the spans into buf, leaving out the zeros.
func (d *diskWork) readSpans(ctx context.Context, it *item, buf []byte) (found, error) {
	var f found
	for _, s := range it.spans {
		if s.zero {
			f.segments = append(f.segments, segment{from: s.from, units: s.to - s.from, kind: zeros})
			continue
		}
		if err := ctx.Err(); err != nil {
			return f, err
		}
		b := buf[f.plain:][:int(s.to-s.from)*chunk.Unit]
		n, err := d.read(b, it.page.start+int64(s.from)*chunk.Unit)
		if err != nil {
			return f, err
		}
		f.read += n
		for u := s.from; u < s.to; u++ {
			unit := b[int(u-s.from)*chunk.Unit:][:chunk.Unit]
			if isZero(unit) {
				f.add(u, zeros, 0)
				continue
			}
			f.add(u, data, uint32(f.plain/chunk.Unit))
			copy(buf[f.plain:], unit)
			f.plain += chunk.Unit
		}
	}
	f.changed = int64(f.plain)
	return f, nil
}

// holds tells whether the parent's page maps the window just as it was found.
func (p *pageWork) holds(f found) bool {
	if _, ok := p.packs[f.name]; !ok {
		return false
	}
	for _, s := range f.segments {
		at, equal := s.from, true
		_ = p.parent.Slice(s.from, s.from+s.units, func(e point.Extent) error {
			if s.kind == zeros {
				equal = equal && e.Chunk == 0
			} else {
				equal = equal && p.parent.Name(e) == f.name && e.Offset == s.at+e.Start-at
			}
			return nil
		})
		if !equal {
			return false
		}
	}
	return true
}

// compare takes out of a window what is the same in the parent, unit by unit,
// and closes content up.
func (d *diskWork) compare(ctx context.Context, p *pageWork, f found, content []byte) (found, error) {
	out := found{read: f.read}
	for _, s := range f.segments {
		if s.kind == zeros {
			out.segments = append(out.segments, s)
			continue
		}
		err := p.parent.Slice(s.from, s.from+s.units, func(e point.Extent) error {
			old, err := d.oldContent(ctx, p, e)
			if err != nil {
				return err
			}
			for i := range e.Units {
				unit := content[(s.at+e.Start-s.from+i)*chunk.Unit:][:chunk.Unit]
				if old != nil && bytes.Equal(unit, old[i*chunk.Unit:][:chunk.Unit]) {
					out.add(e.Start+i, same, 0)
					continue
				}
				out.add(e.Start+i, data, uint32(out.plain/chunk.Unit))
				copy(content[out.plain:], unit)
				out.plain += chunk.Unit
			}
			return nil
		})
		if err != nil {
			return out, err
		}
	}
	out.changed = int64(out.plain)
	return out, nil
}

// oldContent returns what the parent has at an extent, or nil where it has zeros
// or nothing that can be relied on.
func (d *diskWork) oldContent(ctx context.Context, p *pageWork, e point.Extent) ([]byte, error) {
	name := p.parent.Name(e)
	if _, ok := p.packs[name]; !ok {
		return nil, nil
	}
	plain, err := d.w.v.chunk(ctx, name)
	if backstay.IsCode(err, backstay.CodeDamaged) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	from, to := int(e.Offset)*chunk.Unit, int(e.Offset+e.Units)*chunk.Unit
	if to > len(plain) {
		return nil, nil
	}
	return plain[from:to], nil
}

// collect takes the windows in the order of the disk, packs what is new and
// builds the pages.
func (d *diskWork) collect(ctx context.Context, order <-chan *item) error {
	index := 0
	for it := range order {
		if it.last {
			if err := d.endPage(ctx, it.page, index); err != nil {
				return err
			}
			index++
			continue
		}
		select {
		case <-it.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if it.err != nil {
			return it.err
		}
		if err := d.take(it); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// take adds one window to its page and its chunk to the open pack.
func (d *diskWork) take(it *item) error {
	f, w := it.found, d.w
	if f.plain > 0 {
		id := f.pack
		if f.encoded != nil {
			var fresh bool
			var err error
			if id, fresh, err = w.addChunk(chunk.Data, f.name, encodedTable{plain: f.plain, encoded: f.encoded}); err != nil {
				return err
			}
			if fresh {
				d.stats.ChunksNew++
				d.stats.BytesNew += int64(len(f.encoded))
			}
			encodings.Put(&f.encoded)
		}
		w.refs[id] = true
	}
	for _, s := range f.segments {
		d.keepTo(it.page, s.from)
		switch s.kind {
		case zeros:
			it.page.out.Add(s.units, chunk.Name{}, 0)
		case data:
			it.page.out.Add(s.units, f.name, s.at)
		case same:
			d.keepTo(it.page, s.from+s.units)
		}
	}
	d.stats.BytesRead += f.read
	d.stats.BytesChanged += f.changed
	var looked int64
	for _, s := range it.spans {
		looked += int64(s.to-s.from) * chunk.Unit
	}
	w.progress("transfer", looked)
	return w.failed()
}

// keepTo fills a page up to a unit with what the parent has there. What was not
// in place was looked at, so here every chunk has its pack.
func (d *diskWork) keepTo(p *pageWork, unit uint32) {
	from := p.out.Units()
	if from >= unit {
		return
	}
	_ = p.parent.Slice(from, unit, func(e point.Extent) error {
		name := p.parent.Name(e)
		if e.Chunk != 0 {
			d.w.refs[p.packs[name]] = true
		}
		p.out.Add(e.Units, name, e.Offset)
		return nil
	})
}

// endPage completes a page and stores it, unless the vault has it.
func (d *diskWork) endPage(ctx context.Context, p *pageWork, index int) error {
	d.keepTo(p, p.units)
	page := p.out.Page()
	if page.AllZero() {
		return nil
	}
	plain := page.Encode()
	name := d.w.v.keys.Name(chunk.Table, plain)
	copy(d.table.Pages[index*len(name):], name[:])
	id, ok, err := d.w.known(ctx, chunk.Table, name)
	if err != nil {
		return err
	}
	if ok {
		d.w.refs[id] = true
		return nil
	}
	encoded, err := chunk.Encode(nil, plain)
	if err != nil {
		return err
	}
	d.stats.BytesNew += int64(len(encoded))
	return d.w.keepTable(encodedTable{name: name, plain: len(plain), encoded: encoded})
}
