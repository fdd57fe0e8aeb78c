// Package point is the top rung of the vault's ladder: what makes chunks a
// recovery point. A table page maps one stretch of a disk onto parts of chunks;
// the manifest names the pages and holds everything else of the point.
//
// Both are only codecs: bytes in, values out, and an error for anything that is
// not exactly what the codec would have written.
package point

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
)

// ErrBad: the bytes are not what the codec writes.
var ErrBad = errors.New("malformed")

const (
	// PageBytes is how much of a disk a page of this release describes.
	PageBytes = 256 << 20
	// maxPageUnits bounds pages of any release with this format.
	maxPageUnits = PageBytes / chunk.Unit
	pageVersion  = 1
)

// Extent is a run of units of a page: zeros, or a part of a chunk.
type Extent struct {
	Start  uint32 // in units, from the start of the page
	Units  uint32
	Chunk  uint32 // 0: zeros; else 1 + index into the page's names
	Offset uint32 // into the chunk, in units
}

// End returns the first unit behind the extent.
func (e Extent) End() uint32 { return e.Start + e.Units }

// Page maps Units units of a disk, without gaps.
type Page struct {
	Units   uint32
	Names   []chunk.Name // each used by at least one extent, in order of first use
	Extents []Extent
}

// ZeroPage returns the page that is all zeros.
func ZeroPage(units uint32) *Page {
	return &Page{Units: units, Extents: []Extent{{Units: units}}}
}

// AllZero tells whether the page refers to no chunk.
func (p *Page) AllZero() bool { return len(p.Names) == 0 }

// At returns the index of the extent that holds a unit of the page.
func (p *Page) At(unit uint32) int {
	return sort.Search(len(p.Extents), func(i int) bool { return p.Extents[i].End() > unit })
}

// Name returns the chunk of an extent; the zero Name for zeros.
func (p *Page) Name(e Extent) chunk.Name {
	if e.Chunk == 0 {
		return chunk.Name{}
	}
	return p.Names[e.Chunk-1]
}

// Slice calls fn for the parts of extents in [from, to), in order.
func (p *Page) Slice(from, to uint32, fn func(Extent) error) error {
	for i := p.At(from); i < len(p.Extents) && p.Extents[i].Start < to; i++ {
		e := p.Extents[i]
		if e.Start < from {
			if e.Chunk != 0 {
				e.Offset += from - e.Start
			}
			e.Start, e.Units = from, e.End()-from
		}
		if e.End() > to {
			e.Units = to - e.Start
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// Builder makes a page from its start to its end. Equal content makes equal
// pages, however it was added.
type Builder struct {
	page  Page
	index map[chunk.Name]uint32
}

// NewBuilder starts a page.
func NewBuilder() *Builder { return &Builder{index: map[chunk.Name]uint32{}} }

// Add appends units that are zeros (the zero Name) or lie at an offset in a chunk.
func (b *Builder) Add(units uint32, name chunk.Name, offset uint32) {
	if units == 0 {
		return
	}
	e := Extent{Start: b.page.Units, Units: units}
	if !name.IsZero() {
		if b.index[name] == 0 {
			b.page.Names = append(b.page.Names, name)
			b.index[name] = uint32(len(b.page.Names))
		}
		e.Chunk, e.Offset = b.index[name], offset
	}
	b.page.Units += units
	if n := len(b.page.Extents); n > 0 {
		last := &b.page.Extents[n-1]
		if last.Chunk == e.Chunk && (e.Chunk == 0 || last.Offset+last.Units == e.Offset) {
			last.Units += units
			return
		}
	}
	b.page.Extents = append(b.page.Extents, e)
}

// Units returns how many units were added.
func (b *Builder) Units() uint32 { return b.page.Units }

// Page returns the page. The builder must not be used after it.
func (b *Builder) Page() *Page { return &b.page }

// Encode returns the page's bytes.
func (p *Page) Encode() []byte {
	out := []byte{pageVersion}
	out = binary.AppendUvarint(out, uint64(p.Units))
	out = binary.AppendUvarint(out, uint64(len(p.Names)))
	out = binary.AppendUvarint(out, uint64(len(p.Extents)))
	for _, n := range p.Names {
		out = append(out, n[:]...)
	}
	for _, e := range p.Extents {
		out = binary.AppendUvarint(out, uint64(e.Units))
		out = binary.AppendUvarint(out, uint64(e.Chunk))
		if e.Chunk != 0 {
			out = binary.AppendUvarint(out, uint64(e.Offset))
		}
	}
	return out
}

// reader takes numbers off a slice.
type reader struct {
	data []byte
	err  error
}

func (r *reader) number(limit uint64) uint32 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 || v > limit || n > 1 && r.data[n-1] == 0 {
		r.err = ErrBad
		r.data = nil
		return 0
	}
	r.data = r.data[n:]
	return uint32(v)
}

// DecodePage reads a page that must describe exactly the given number of units.
func DecodePage(data []byte, units uint32) (*Page, error) {
	bad := func(what string) (*Page, error) { return nil, fmt.Errorf("table page: %s: %w", what, ErrBad) }
	if len(data) == 0 || data[0] != pageVersion {
		return bad("unknown version")
	}
	r := &reader{data: data[1:]}
	p := &Page{Units: r.number(maxPageUnits)}
	names, extents := r.number(maxPageUnits), r.number(maxPageUnits)
	if r.err != nil || p.Units != units || int(names)*len(chunk.Name{})+int(extents)*2 > len(r.data) {
		return bad("inconsistent lengths")
	}
	p.Names = make([]chunk.Name, names)
	for i := range p.Names {
		copy(p.Names[i][:], r.data)
		r.data = r.data[len(chunk.Name{}):]
	}
	b := NewBuilder()
	for range extents {
		n, c := r.number(uint64(units)), r.number(uint64(names))
		var name chunk.Name
		var offset uint32
		if c != 0 {
			name, offset = p.Names[c-1], r.number(chunk.MaxData/chunk.Unit-1)
			if uint64(offset)+uint64(n) > chunk.MaxData/chunk.Unit {
				return bad("extent behind its chunk")
			}
		}
		if r.err != nil || n == 0 || n > units-b.Units() || c != 0 && name.IsZero() {
			return bad("bad extent")
		}
		b.Add(n, name, offset)
	}
	// What the builder would not have written is not a page: one form for each content.
	if r.err != nil || len(r.data) != 0 || b.Units() != units || len(b.page.Extents) != int(extents) || len(b.page.Names) != int(names) {
		return bad("not in its one form")
	}
	for i := range p.Names {
		if p.Names[i] != b.page.Names[i] {
			return bad("names out of order")
		}
	}
	return b.Page(), nil
}
