package vault_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/cache"
	"github.com/backstay/backstay/internal/tier/vault"
)

// wrongOnce changes the first answer to each get of a pack.
type wrongOnce struct {
	blob.Store
	mu   sync.Mutex
	seen map[[3]any]bool
}

func (s *wrongOnce) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	data, err := s.Store.Get(ctx, name, offset, length)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := [3]any{name, offset, length}; err == nil && strings.HasPrefix(name, "packs/") && !s.seen[k] {
		s.seen[k] = true
		data[len(data)/2] ^= 1
	}
	return data, err
}

// What comes wrong over the line once is not damage of the store (I5), however
// long a cache keeps it.
func TestACacheThatKeptAWrongAnswerDoesNotMakeTheStoreDamaged(t *testing.T) {
	w := newWorld(t)
	id, data := newID(), sparse(4, 3<<20)
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
	below := &wrongOnce{Store: w.copies[1], seen: map[[3]any]bool{}}
	cached := cache.Wrap(below, cache.Options{Dir: t.TempDir(), Unit: "u", Size: 1 << 30})
	for range 2 {
		got, err := restore(blob.AllowCached(w.ctx), w.open(cached), id, "vda")
		w.must(err)
		if !bytes.Equal(got, data) {
			t.Error("other content than was backed up")
		}
	}
}

// The local index is a cache of what the vault knows itself.
func TestNothingFailsForAFolderOfTheLocalIndexThatCannotBeUsed(t *testing.T) {
	for what, spoil := range map[string]func(dir string) error{
		"it is a file":        func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"it has no parent":    func(dir string) error { return os.RemoveAll(filepath.Dir(dir)) },
		"its lock is not one": func(dir string) error { return os.MkdirAll(filepath.Join(dir, "lock"), 0o700) },
	} {
		w := newWorld(t)
		dir := filepath.Join(t.TempDir(), "parent", "index")
		w.must(os.Mkdir(filepath.Dir(dir), 0o700))
		w.must(spoil(dir))
		v, err := vault.Open(w.ctx, w.store, vaultID, w.master, vault.IndexDir(dir))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if v.LocalIndex() == nil {
			t.Errorf("%s, and nobody is told", what)
		}
		w.must(w.small(v, newID(), 1))
		w.must(v.Close())
	}
}

// It goes while the vault is open: its disk is full, read-only, unmounted.
func TestABackupGoesOnWithoutTheFolderOfItsLocalIndex(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "index")
	v, err := vault.Open(w.ctx, w.store, vaultID, w.master, vault.IndexDir(dir))
	w.must(err)
	first := newID()
	w.must(w.small(v, first, 1))
	w.must(w.small(w.vault, newID(), 2)) // by another one: the next look has something to keep
	w.must(os.RemoveAll(dir))
	id := newID()
	stats, err := backup(w.ctx, v, vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: sparse(2, 256<<10)}})
	w.must(err)
	if stats[0].ChunksNew != 0 {
		t.Errorf("%d chunks that the vault has were stored again", stats[0].ChunksNew)
	}
	w.restored(v, first, "vda", sparse(1, 256<<10))
	w.restored(v, id, "vda", sparse(2, 256<<10))
	if v.LocalIndex() == nil {
		t.Error("nobody is told")
	}
	w.must(v.Close())
}

// A change map that names more than there is names all of it (I7).
func TestAChangeMapBeyondAllBoundsIsEverything(t *testing.T) {
	const most = 1<<63 - 1
	for _, changed := range []backstay.Range{{Offset: 0, Length: most}, {Offset: 4096, Length: most}, {Offset: -5, Length: most}} {
		w := newWorld(t)
		data := sparse(5, 5<<20)
		parent, id := newID(), newID()
		w.backup(vault.WriteOptions{Point: parent}, source{target: "vda", disk: &disk{data: bytes.Clone(data)}})
		change(6, data[8192:], 20)
		w.backup(vault.WriteOptions{Point: id, Parent: parent}, source{target: "vda", disk: &disk{data: data}, changed: []backstay.Range{changed}, mapped: true})
		w.restored(w.open(w.store), id, "vda", data)
	}
}
