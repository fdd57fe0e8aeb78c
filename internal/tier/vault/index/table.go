package index

import (
	"encoding/binary"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// Pack is what a table knows of a pack.
type Pack struct {
	ID    pack.ID
	Size  uint32
	Epoch uint32
	// Proved tells whether the pack was listed by an index object or verified,
	// rather than found by scanning. Only such packs serve deduplication.
	Proved bool
}

// Place is where a chunk is.
type Place struct {
	Pack  Pack
	Entry pack.Entry
}

// record is one chunk in memory: 40 bytes. The first half of the name is enough
// to find it (a clash of 128 bits of a keyed hash is beyond reach), and whoever
// reads the chunk compares the whole name.
type record struct {
	name                         [16]byte
	pack, ordinal, offset, plain uint32
	sealed                       uint32
	kind                         chunk.Kind
}

// Table finds chunks: about 50 bytes of memory for each. A chunk may be in
// several packs. It is not for concurrent use while it is added to.
type Table struct {
	packs   []Pack
	known   map[pack.ID]int // index into packs
	records []record
	slots   []uint32 // open addressing; 0 is free, else 1 + index into records
}

// NewTable returns an empty table.
func NewTable() *Table { return &Table{known: map[pack.ID]int{}} }

// Len returns the number of chunks.
func (t *Table) Len() int { return len(t.records) }

// Has tells whether the pack is in the table.
func (t *Table) Has(id pack.ID) bool {
	_, ok := t.known[id]
	return ok
}

// Proved tells whether the pack is in the table and proved.
func (t *Table) Proved(id pack.ID) bool {
	at, ok := t.known[id]
	return ok && t.packs[at].Proved
}

// AddPack adds a pack with all its chunks; of one that is
// there already only Proved can change, to true.
func (t *Table) AddPack(d pack.Directory, proved bool) {
	if at, ok := t.known[d.ID]; ok {
		t.packs[at].Proved = t.packs[at].Proved || proved
		return
	}
	t.known[d.ID] = len(t.packs)
	t.packs = append(t.packs, Pack{ID: d.ID, Size: d.Size, Epoch: d.Epoch, Proved: proved})
	for _, e := range d.Entries {
		t.add(uint32(len(t.packs)-1), e)
	}
}

func (t *Table) add(p uint32, e pack.Entry) {
	if (len(t.records)+1)*4 > len(t.slots)*3 {
		t.grow()
	}
	t.records = append(t.records, record{name: [16]byte(e.Name[:16]), pack: p, ordinal: e.Ordinal,
		offset: e.Offset, plain: e.Plain, sealed: e.Sealed, kind: e.Kind})
	t.place(uint32(len(t.records)))
}

func (t *Table) place(n uint32) {
	mask := uint64(len(t.slots) - 1)
	name := &t.records[n-1].name
	at := binary.LittleEndian.Uint64(name[:]) & mask
	for t.slots[at] != 0 {
		at = (at + 1) & mask
	}
	t.slots[at] = n
}

func (t *Table) grow() {
	t.slots = make([]uint32, max(1024, 2*len(t.slots)))
	for i := range t.records {
		t.place(uint32(i + 1))
	}
}

// Lookup returns the places of a chunk, in the order in which they were added.
func (t *Table) Lookup(kind chunk.Kind, name chunk.Name) []Place {
	if len(t.slots) == 0 {
		return nil
	}
	var found []Place
	mask := uint64(len(t.slots) - 1)
	for at := binary.LittleEndian.Uint64(name[:]) & mask; t.slots[at] != 0; at = (at + 1) & mask {
		r := &t.records[t.slots[at]-1]
		if r.kind == kind && r.name == [16]byte(name[:16]) {
			found = append(found, Place{Pack: t.packs[r.pack], Entry: pack.Entry{Kind: kind, Name: name,
				Ordinal: r.ordinal, Offset: r.offset, Sealed: r.sealed, Plain: r.plain}})
		}
	}
	return found
}
