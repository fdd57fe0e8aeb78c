// Package point is the top rung of the vault's ladder: what makes chunks a
// recovery point. A table page maps one stretch of a disk onto parts of chunks;
// the manifest names the pages and holds everything else of the point.
//
// Both are only codecs: bytes in, values out, and an error for anything that is
// not exactly what the codec would have written.
package point

import (
	"errors"
	"sort"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// ErrBad: the bytes are not what the codec writes.
var ErrBad = errors.New("malformed")

const (
	// PageBytes is how much of a disk a page of this release describes.
	PageBytes = 256 << 20
	// maxPageUnits bounds pages of any release with this format.
	maxPageUnits = PageBytes / chunk.Unit
	// pageV1 pages say which chunks, pageV2 pages also where they are.
	pageV1 = 1
	pageV2 = 2
)

// Place says where a chunk was when the page that names it was written: enough to
// read it with one request and no index. It is a hint, since reclaim may move
// chunks; whoever follows it authenticates what is there, and asks the index
// where that fails. The zero Place is not known (pages of version 1).
type Place struct {
	Pack                           pack.ID
	Epoch                          uint32 // of the pack's data key, with its cipher
	Ordinal, Offset, Sealed, Plain uint32
}

// PlaceOf returns the place of an entry of a pack.
func PlaceOf(id pack.ID, epoch uint32, e pack.Entry) Place {
	return Place{Pack: id, Epoch: epoch, Ordinal: e.Ordinal, Offset: e.Offset, Sealed: e.Sealed, Plain: e.Plain}
}

// Known tells whether the place is one.
func (p Place) Known() bool { return p.Sealed != 0 }

// Entry returns the pack's entry for a chunk at this place.
func (p Place) Entry(kind chunk.Kind, name chunk.Name) pack.Entry {
	return pack.Entry{Kind: kind, Name: name, Ordinal: p.Ordinal, Offset: p.Offset, Sealed: p.Sealed, Plain: p.Plain}
}

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
	Places  []Place      // of the names
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

// Place returns where the chunk of an extent was; unknown for zeros.
func (p *Page) Place(e Extent) Place {
	if e.Chunk == 0 {
		return Place{}
	}
	return p.Places[e.Chunk-1]
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

// Builder makes a page from its start to its end. Equal content at equal places
// makes equal pages, however it was added.
type Builder struct {
	page  Page
	index map[chunk.Name]uint32
}

// NewBuilder starts a page.
func NewBuilder() *Builder { return &Builder{index: map[chunk.Name]uint32{}} }

// Add appends units that are zeros (the zero Name) or lie at an offset in a chunk.
// Of several places that are given for a chunk the first one counts.
func (b *Builder) Add(units uint32, name chunk.Name, at Place, offset uint32) {
	if units == 0 {
		return
	}
	e := Extent{Start: b.page.Units, Units: units}
	if !name.IsZero() {
		if b.index[name] == 0 {
			b.page.Names = append(b.page.Names, name)
			b.page.Places = append(b.page.Places, at)
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
