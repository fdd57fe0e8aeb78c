package vault

import (
	"bytes"
	"context"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
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

// found is what a worker found out about the spans of an item.
type found struct {
	segments []segment
	chunks   []foundChunk // what the data segments lie in, in order
	plain    int          // bytes of data, all chunks together
	read     int64
	changed  int64
}

// foundChunk is a chunk that the spans' data make: one that is to be packed, or
// one that is in place already.
type foundChunk struct {
	encodedChunk             // encoded is nil if it is in place
	at           point.Place // then
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

// look reads an item's spans and decides what is new. Its chunk is all that is
// neither zeros nor known to be the parent's, closed up.
func (d *diskWork) look(ctx context.Context, it *item, b *buffers) (found, error) {
	f, err := d.readSpans(ctx, it, b.plain[:])
	if err != nil || f.plain == 0 {
		return f, err
	}
	d.computing <- struct{}{}
	defer func() { <-d.computing }()
	compare := it.page.parent != nil && !d.mapped
	name := d.w.v.keys.Name(chunk.Data, b.plain[:f.plain])
	if compare && it.page.holds(f, name) {
		for i := range f.segments {
			f.segments[i].kind = same
		}
		f.plain, f.changed = 0, 0
		return f, nil
	}
	at, ok, err := d.w.known(ctx, chunk.Data, name)
	if err == nil && !ok && compare {
		if f, err = d.compare(ctx, it.page, f, b.plain[:f.plain]); err != nil || f.plain == 0 {
			return f, err
		}
		name = d.w.v.keys.Name(chunk.Data, b.plain[:f.plain])
		at, ok, err = d.w.known(ctx, chunk.Data, name)
	}
	if err != nil {
		return f, err
	}
	if ok {
		f.chunks = []foundChunk{{encodedChunk: encodedChunk{kind: chunk.Data, name: name, plain: f.plain}, at: at}}
		return f, nil
	}
	f.chunks, err = d.encode(ctx, name, b.plain[:f.plain], b.check[:])
	return f, err
}

// splitBytes is the largest encoded form of a chunk that is not cut in two, and
// how much content each part then has: what hardly compresses is stored in
// smaller chunks, so that reading a little of it costs little.
const splitBytes = 1 << 20

// encode makes the chunk of some content, or several where it hardly compresses.
func (d *diskWork) encode(ctx context.Context, name chunk.Name, content, check []byte) ([]foundChunk, error) {
	c, err := encodeChunk(name, content, check)
	if err != nil || len(c.encoded) <= splitBytes+chunk.Overhead || len(content) <= splitBytes {
		return []foundChunk{{encodedChunk: c}}, err
	}
	recycle(c.encoded)
	var out []foundChunk
	for len(content) > 0 {
		part := content[:min(splitBytes, len(content))]
		content = content[len(part):]
		name := d.w.v.keys.Name(chunk.Data, part)
		at, ok, err := d.w.known(ctx, chunk.Data, name)
		if err != nil {
			return nil, err
		}
		c := encodedChunk{kind: chunk.Data, name: name, plain: len(part)}
		if !ok {
			if c, err = encodeChunk(name, part, check); err != nil {
				return nil, err
			}
		}
		out = append(out, foundChunk{encodedChunk: c, at: at})
	}
	return out, nil
}

// encodeChunk encodes content and proves at once, while it is at hand, that it
// can be decoded to what was read. What is stored is later compared with what was
// put, so both together prove that the vault holds what was read.
func encodeChunk(name chunk.Name, content, check []byte) (encodedChunk, error) {
	c := encodedChunk{kind: chunk.Data, name: name, plain: len(content)}
	var err error
	if c.encoded, err = chunk.Encode((*encodings.Get().(*[]byte))[:0], content); err != nil {
		return c, err
	}
	again, err := chunk.Decode(check[:0], c.encoded, len(content))
	if err != nil || !bytes.Equal(again, content) {
		return c, backstay.Errorf(backstay.CodeValidateFailed, "a chunk does not decode to what was read").
			Becausef("compression or memory is at fault: %v", err).Do("check the host's memory, then back up again")
	}
	return c, nil
}

var encodings = sync.Pool{New: func() any {
	b := make([]byte, 0, chunk.MaxData+chunk.Overhead+64)
	return &b
}}

// recycle takes back the memory of an encoded chunk.
func recycle(encoded []byte) { encodings.Put(&encoded) }

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
			if &buf[f.plain] != &unit[0] {
				copy(buf[f.plain:], unit)
			}
			f.plain += chunk.Unit
		}
	}
	f.changed = int64(f.plain)
	return f, nil
}

// holds tells whether the parent's page maps the window just as it was found, to
// one chunk of this name.
func (p *pageWork) holds(f found, name chunk.Name) bool {
	for _, s := range f.segments {
		at, equal := s.from, true
		_ = p.parent.Slice(s.from, s.from+s.units, func(e point.Extent) error {
			if s.kind == zeros {
				equal = equal && e.Chunk == 0
			} else {
				_, there := p.place(e)
				equal = equal && there && p.parent.Name(e) == name && e.Offset == s.at+e.Start-at
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
	at, ok := p.place(e)
	if !ok {
		return nil, nil
	}
	plain, err := d.w.v.chunk(ctx, p.parent.Name(e), at)
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

// collect takes the items in the order of the disk, packs what is new and builds
// the pages.
func (d *diskWork) collect(ctx context.Context, order <-chan *item) error {
	for it := range order {
		if it.last {
			if err := d.endPage(ctx, it.page); err != nil {
				return err
			}
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

// take adds one item to its page and its chunks to the open pack.
func (d *diskWork) take(it *item) error {
	f, w := it.found, d.w
	for i := range f.chunks {
		if err := d.store(&f.chunks[i]); err != nil {
			return err
		}
	}
	for _, s := range f.segments {
		d.keepTo(it.page, s.from)
		switch s.kind {
		case zeros:
			it.page.out.Add(s.units, chunk.Name{}, point.Place{}, 0)
		case data:
			f.addTo(it.page.out, s)
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
	w.looked(looked)
	return w.failed()
}

// store puts a chunk into the open pack, unless it is in place.
func (d *diskWork) store(c *foundChunk) error {
	if c.encoded != nil {
		at, fresh, err := d.w.addChunk(c.encodedChunk)
		if err != nil {
			return err
		}
		if fresh {
			d.stats.ChunksNew++
			d.stats.BytesNew += int64(len(c.encoded))
		}
		recycle(c.encoded)
		c.encoded, c.at = nil, at
	}
	d.w.refs[c.at.Pack] = true
	return nil
}

// addTo adds a data segment to a page, chunk by chunk.
func (f *found) addTo(out *point.Builder, s segment) {
	first := uint32(0) // unit of the data in which the chunk begins
	for _, c := range f.chunks {
		units := uint32(c.plain / chunk.Unit)
		if at, end := max(s.at, first), min(s.at+s.units, first+units); at < end {
			out.Add(end-at, c.name, c.at, at-first)
		}
		first += units
	}
}

// keepTo fills a page up to a unit with what the parent has there. What was not
// in place was looked at, so here every chunk has its pack.
func (d *diskWork) keepTo(p *pageWork, unit uint32) {
	from := p.out.Units()
	if from >= unit {
		return
	}
	_ = p.parent.Slice(from, unit, func(e point.Extent) error {
		at, ok := p.place(e)
		if ok {
			d.w.refs[at.Pack] = true
		}
		p.out.Add(e.Units, p.parent.Name(e), at, e.Offset)
		return nil
	})
}

// endPage completes a page and stores it, unless the vault has it.
func (d *diskWork) endPage(ctx context.Context, p *pageWork) error {
	d.keepTo(p, p.units)
	page := p.out.Page()
	if page.AllZero() {
		return nil
	}
	for _, e := range page.Extents {
		if e.Chunk != 0 {
			d.stats.DataBytes += int64(e.Units) * chunk.Unit
		}
	}
	plain := page.Encode()
	if len(plain) > chunk.MaxTable {
		// It takes a page of which nearly each unit is in a pack of its own.
		return backstay.Errorf(backstay.CodeTransferFailed, "the table of 256 MiB at %d of disk %s would be too large", p.start, d.src.Target).
			Becausef("what is there lies in too many packs: its table takes %d bytes, and no reader takes more than %d", len(plain), chunk.MaxTable).
			Do("run `backstay vault reclaim`, which brings it together, then back up again")
	}
	name := d.w.v.keys.Name(chunk.Table, plain)
	at, ok, err := d.tableInPlace(ctx, p.index, name)
	if err != nil {
		return err
	}
	if ok {
		d.w.refs[at.Pack] = true
		d.table.SetPage(p.index, name, at)
		return nil
	}
	encoded, err := chunk.Encode(nil, plain)
	if err != nil {
		return err
	}
	d.stats.BytesNew += int64(len(encoded))
	return d.w.keepTable(encodedChunk{kind: chunk.Table, name: name, plain: len(plain), encoded: encoded}, pageOf{d.table, p.index})
}

// tableInPlace returns where a page that did not change is, if it is in place.
func (d *diskWork) tableInPlace(ctx context.Context, i int, name chunk.Name) (point.Place, bool, error) {
	if d.old != nil && i < d.old.disk.PageCount() && d.old.disk.Page(i) == name {
		at := d.old.disk.Place(i)
		err := d.w.rely.check(ctx, at)
		if err == nil {
			return at, true, nil
		}
		if !damaged(err) {
			return at, false, readError(at.Pack.Object(), err)
		}
	}
	return d.w.known(ctx, chunk.Table, name)
}
