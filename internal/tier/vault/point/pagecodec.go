package point

import (
	"encoding/binary"
	"fmt"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// packRef is a pack of a page with the epoch of its key: 20 bytes.
type packRef struct {
	id    pack.ID
	epoch uint32
}

const packRefSize = 20

// Encode returns the page's bytes.
func (p *Page) Encode() []byte {
	refs, at := p.packRefs()
	out := make([]byte, 0, 16+packRefSize*len(refs)+48*len(p.Names)+8*len(p.Extents))
	out = append(out, pageV2)
	for _, n := range []int{int(p.Units), len(refs), len(p.Names), len(p.Extents)} {
		out = binary.AppendUvarint(out, uint64(n))
	}
	for _, r := range refs {
		out = append(out, r.id[:]...)
		out = binary.BigEndian.AppendUint32(out, r.epoch)
	}
	for i, n := range p.Names {
		l := p.Places[i]
		out = append(out, n[:]...)
		for _, v := range []uint32{at[i], l.Ordinal, l.Offset, l.Sealed, l.Plain / chunk.Unit} {
			out = binary.AppendUvarint(out, uint64(v))
		}
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

// packRefs lists the page's packs in the order of their first use, and for each
// name which of them is its.
func (p *Page) packRefs() ([]packRef, []uint32) {
	var refs []packRef
	index, at := map[packRef]uint32{}, make([]uint32, len(p.Places))
	for i, l := range p.Places {
		r := packRef{l.Pack, l.Epoch}
		n, ok := index[r]
		if !ok {
			n = uint32(len(refs))
			index[r] = n
			refs = append(refs, r)
		}
		at[i] = n
	}
	return refs, at
}

// reader takes numbers and bytes off a slice.
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

func (r *reader) bytes(n int) []byte {
	if n > len(r.data) {
		r.err = ErrBad
		r.data = nil
		return make([]byte, n)
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

// DecodePage reads a page, of any version, that must describe exactly the given
// number of units.
func DecodePage(data []byte, units uint32) (*Page, error) {
	bad := func(what string) (*Page, error) { return nil, fmt.Errorf("table page: %s: %w", what, ErrBad) }
	if len(data) == 0 || data[0] != pageV1 && data[0] != pageV2 {
		return bad("unknown version")
	}
	version, r := data[0], &reader{data: data[1:]}
	p := &Page{Units: r.number(maxPageUnits)}
	var refs []packRef
	packs := uint32(0)
	if version == pageV2 {
		packs = r.number(maxPageUnits)
	}
	names, extents := r.number(maxPageUnits), r.number(maxPageUnits)
	if r.err != nil || p.Units != units || int(packs)*packRefSize+int(names)*len(chunk.Name{})+int(extents)*2 > len(r.data) {
		return bad("inconsistent lengths")
	}
	for range packs {
		b := r.bytes(packRefSize)
		refs = append(refs, packRef{pack.ID(b), binary.BigEndian.Uint32(b[16:])})
	}
	if err := p.readNames(r, version, int(names), refs); err != nil {
		return bad(err.Error())
	}
	b := NewBuilder()
	for range extents {
		n, c := r.number(uint64(units)), r.number(uint64(names))
		var name chunk.Name
		var at Place
		var offset uint32
		if c != 0 {
			name, at, offset = p.Names[c-1], p.Places[c-1], r.number(chunk.MaxData/chunk.Unit-1)
			if end := uint64(offset) + uint64(n); end > chunk.MaxData/chunk.Unit || at.Known() && end > uint64(at.Plain/chunk.Unit) {
				return bad("extent behind its chunk")
			}
		}
		if r.err != nil || n == 0 || n > units-b.Units() || c != 0 && name.IsZero() {
			return bad("bad extent")
		}
		b.Add(n, name, at, offset)
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

// readNames reads names, and in version 2 their places.
func (p *Page) readNames(r *reader, version byte, count int, refs []packRef) error {
	p.Names, p.Places = make([]chunk.Name, count), make([]Place, count)
	used := uint32(0) // packs that were named so far
	for i := range p.Names {
		copy(p.Names[i][:], r.bytes(len(chunk.Name{})))
		if version == pageV1 {
			continue
		}
		n := r.number(maxPageUnits)
		l := Place{Ordinal: r.number(pack.Target), Offset: r.number(pack.Target), Sealed: r.number(pack.Target),
			Plain: r.number(chunk.MaxData/chunk.Unit) * chunk.Unit}
		if r.err != nil || n >= uint32(len(refs)) || n > used || !l.Known() || l.Offset > pack.Target-l.Sealed {
			return fmt.Errorf("bad place")
		}
		if n == used {
			used++
		}
		l.Pack, l.Epoch = refs[n].id, refs[n].epoch
		p.Places[i] = l
	}
	if used != uint32(len(refs)) {
		return fmt.Errorf("a pack that no name uses")
	}
	if again, _ := p.packRefs(); version == pageV2 && len(again) != len(refs) {
		return fmt.Errorf("a pack twice")
	}
	return nil
}
