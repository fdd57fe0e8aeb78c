package index

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// keyBits is how many bits of a name a cache keeps. Among 10^8 chunks a name
// that is not there is taken for one of them with a probability of less than
// 10^8 × 2^-76, which is less than 2^-49.
const keyBits = 76

// entry says that a pack holds a chunk. It is ordered by name, then pack.
type entry struct {
	hi   uint64 // bits 0 to 63 of the name
	pack uint32 // number of the pack in this cache
	lo   uint16 // bits 64 to 75 of the name
}

// entryOf returns the entry of a name of at least 10 bytes: a chunk's, or the id
// of a pack, which is as random.
func entryOf(name []byte, pack uint32) entry {
	return entry{hi: binary.BigEndian.Uint64(name), lo: binary.BigEndian.Uint16(name[8:]) >> 4, pack: pack}
}

func (e entry) sameName(o entry) bool { return e.hi == o.hi && e.lo == o.lo }

func compareEntries(a, b entry) int {
	if a.hi != b.hi { // nearly always: what a merge does most
		return cmp.Compare(a.hi, b.hi)
	}
	return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(a.pack, b.pack))
}

// fresh holds what was added since the last run was written: a hash table with
// open addressing, 24 to 32 bytes for each entry.
type fresh struct {
	entries []entry
	slots   []uint32 // 0 is free, else 1 + index into entries
}

// slot is where the search for a name starts. Names are uniform already, but a
// test's may not be.
func (f *fresh) slot(e entry) int {
	return int((e.hi^uint64(e.lo)<<20)*0x9e3779b97f4a7c15>>20) & (len(f.slots) - 1)
}

// add adds an entry, once.
func (f *fresh) add(e entry) {
	if (len(f.entries)+1)*4 > len(f.slots)*3 {
		f.slots = make([]uint32, max(1024, 2*len(f.slots)))
		for i, old := range f.entries {
			f.place(old, uint32(i+1))
		}
	}
	if f.place(e, uint32(len(f.entries)+1)) {
		f.entries = append(f.entries, e)
	}
}

// place puts a number where the entry belongs, unless the entry is there.
func (f *fresh) place(e entry, number uint32) bool {
	at := f.slot(e)
	for f.slots[at] != 0 {
		if f.entries[f.slots[at]-1] == e {
			return false
		}
		at = (at + 1) & (len(f.slots) - 1)
	}
	f.slots[at] = number
	return true
}

// lookup appends the packs of a name.
func (f *fresh) lookup(packs []uint32, name entry) []uint32 {
	if len(f.slots) == 0 {
		return packs
	}
	for at := f.slot(name); f.slots[at] != 0; at = (at + 1) & (len(f.slots) - 1) {
		if e := f.entries[f.slots[at]-1]; e.sameName(name) {
			packs = append(packs, e.pack)
		}
	}
	return packs
}

// sorted returns a source of all entries, in order.
func (f *fresh) sorted() source {
	s := sliceSource(slices.Clone(f.entries))
	slices.SortFunc(s, compareEntries)
	return &s
}

// sliceSource is a source over entries in order.
type sliceSource []entry

func (s *sliceSource) next() (entry, bool, error) {
	if len(*s) == 0 {
		return entry{}, false, nil
	}
	e := (*s)[0]
	*s = (*s)[1:]
	return e, true, nil
}
