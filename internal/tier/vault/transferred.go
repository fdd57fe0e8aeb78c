package vault

import (
	"sync"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// transferred knows the packs of one transfer and their chunks exactly: about
// 120 bytes of memory for each chunk.
type transferred struct {
	mu    sync.RWMutex
	packs []pack.Directory        // the last one may be open; guarded by mu
	at    map[[16]byte]chunkIndex // by the first half of the name; guarded by mu
}

// chunkIndex says which entry of which pack a chunk is.
type chunkIndex struct{ pack, entry uint32 }

func newTransferred() *transferred { return &transferred{at: map[[16]byte]chunkIndex{}} }

// begin adds an empty pack, to which add adds chunks.
func (t *transferred) begin(id pack.ID, epoch uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.packs = append(t.packs, pack.Directory{ID: id, Epoch: epoch})
}

// add adds a chunk to the last pack and returns its place.
func (t *transferred) add(e pack.Entry) point.Place {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := &t.packs[len(t.packs)-1]
	t.at[[16]byte(e.Name[:16])] = chunkIndex{uint32(len(t.packs) - 1), uint32(len(last.Entries))}
	last.Entries = append(last.Entries, e)
	return point.PlaceOf(last.ID, last.Epoch, e)
}

// end sets the size of the last pack.
func (t *transferred) end(size int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.packs[len(t.packs)-1].Size = uint32(size)
}

// addPack adds a whole pack.
func (t *transferred) addPack(d pack.Directory) {
	t.begin(d.ID, d.Epoch)
	for _, e := range d.Entries {
		t.add(e)
	}
	t.end(int(d.Size))
}

// find returns the place of a chunk, if it is in one of the packs.
func (t *transferred) find(kind chunk.Kind, name chunk.Name) (point.Place, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i, ok := t.at[[16]byte(name[:16])]
	if !ok {
		return point.Place{}, false
	}
	d := &t.packs[i.pack]
	e := d.Entries[i.entry]
	if e.Kind != kind || e.Name != name {
		return point.Place{}, false
	}
	return point.PlaceOf(d.ID, d.Epoch, e), true
}

// has tells whether a pack is one of the transfer's.
func (t *transferred) has(id pack.ID) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i := range t.packs {
		if t.packs[i].ID == id {
			return true
		}
	}
	return false
}

// used returns the packs that are in refs.
func (t *transferred) used(refs map[pack.ID]bool) []pack.Directory {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []pack.Directory
	for _, d := range t.packs {
		if refs[d.ID] {
			out = append(out, d)
		}
	}
	return out
}
