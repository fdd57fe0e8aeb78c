// Package cache wraps a store that is far away with a folder of what was read from
// it, for reading the same ranges again and again: what a VM does that runs from a
// vault.
//
// It holds the store's bytes as they are, so what is sealed there is sealed here.
// It answers only callers that allow it (blob.AllowCached): who verifies a store,
// or reads back what he wrote, must see the store. What it holds carries a
// checksum: a folder that was damaged, or half written when the machine stopped,
// costs a request and nothing else. Several processes may use one folder; each
// keeps to the size on its own count.
package cache

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/backstay/backstay/internal/blob"
)

// Store answers from a folder what it can.
type Store struct {
	below blob.Store
	dir   string
	unit  string
	size  int64

	load    sync.Once
	mu      sync.Mutex
	recent  *list.List               // of *entry, the newest use first; guarded by mu
	entries map[string]*list.Element // by key; guarded by mu
	used    int64                    // bytes of the entries; guarded by mu
	hits    int64                    // guarded by mu
}

type entry struct {
	key   string
	bytes int64
}

// Options say where and how much to keep.
type Options struct {
	Dir  string // an absolute path; made if it is not there, mode 0700
	Unit string // tells this store's objects from those of others in the folder
	Size int64  // bytes; what was not used for longest goes first
}

// Wrap returns s with a cache.
func Wrap(s blob.Store, o Options) *Store {
	return &Store{below: s, dir: o.Dir, unit: o.Unit, size: o.Size, recent: list.New(), entries: map[string]*list.Element{}}
}

// Hits returns how many gets the folder answered.
func (s *Store) Hits() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits
}

// key names a range of an object: its first two digits are a folder.
func (s *Store) key(name string, offset, length int64) string {
	sum := sha256.Sum256(s.identity(name, offset, length))
	return hex.EncodeToString(sum[:])
}

// identity is what an entry is of. It is part of what the checksum covers.
func (s *Store) identity(name string, offset, length int64) []byte {
	id := append([]byte("backstay cache 1\x00"+s.unit+"\x00"+name+"\x00"), make([]byte, 16)...)
	binary.LittleEndian.PutUint64(id[len(id)-16:], uint64(offset))
	binary.LittleEndian.PutUint64(id[len(id)-8:], uint64(length))
	return id
}

func (s *Store) path(key string) string { return filepath.Join(s.dir, key[:2], key[2:]) }

// Get answers from the folder if the caller allows it and the range is there, and
// keeps what it had to ask for. A folder that cannot be used is no error.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	if !blob.CachedAllowed(ctx) || blob.CheckName(name) != nil {
		data, err := s.below.Get(ctx, name, offset, length)
		if key := s.key(name, offset, length); err == nil && s.holds(key) {
			s.keep(key, s.identity(name, offset, length), data) // what the store says now counts
		}
		return data, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.load.Do(s.scan)
	key, id := s.key(name, offset, length), s.identity(name, offset, length)
	if data, ok := s.read(key, id); ok {
		return data, nil
	}
	data, err := s.below.Get(ctx, name, offset, length)
	if err == nil {
		s.keep(key, id, data)
	}
	return data, err
}

// sum is the checksum of an entry.
func sum(id, data []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(id)
	h.Write(data)
	return [sha256.Size]byte(h.Sum(nil))
}

// holds tells whether there is an entry.
func (s *Store) holds(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.entries[key]
	return ok
}

// read returns an entry whose checksum is right.
func (s *Store) read(key string, id []byte) ([]byte, bool) {
	s.mu.Lock()
	at, ok := s.entries[key]
	if ok {
		s.recent.MoveToFront(at)
	}
	s.mu.Unlock()
	if !ok {
		return nil, false
	}
	file, err := os.ReadFile(s.path(key))
	if err != nil || len(file) < sha256.Size || sum(id, file[sha256.Size:]) != [sha256.Size]byte(file) {
		s.drop(key)
		return nil, false
	}
	s.mu.Lock()
	s.hits++
	s.mu.Unlock()
	return file[sha256.Size:], true
}

// keep writes an entry aside and moves it into place. It is not synced: a torn
// file has a wrong checksum. One entry may take an eighth of the size.
func (s *Store) keep(key string, id, data []byte) {
	bytes := int64(len(data)) + sha256.Size
	if bytes > s.size/8 {
		return
	}
	temp := filepath.Join(s.dir, "new-"+rand.Text())
	check := sum(id, data)
	if os.MkdirAll(filepath.Dir(s.path(key)), 0o700) != nil {
		return
	}
	err := os.WriteFile(temp, slices.Concat(check[:], data), 0o600)
	if err == nil {
		err = os.Rename(temp, s.path(key))
	}
	if err != nil {
		_ = os.Remove(temp)
		return
	}
	s.mu.Lock()
	gone := s.add(key, bytes)
	s.mu.Unlock()
	s.remove(gone)
}

// add notes an entry as the newest and returns those that must go. The caller
// holds mu.
func (s *Store) add(key string, bytes int64) (gone []string) {
	if at, ok := s.entries[key]; ok {
		s.used -= at.Value.(*entry).bytes
		s.recent.Remove(at)
	}
	s.entries[key] = s.recent.PushFront(&entry{key, bytes})
	s.used += bytes
	for s.used > s.size {
		oldest := s.recent.Remove(s.recent.Back()).(*entry)
		delete(s.entries, oldest.key)
		s.used -= oldest.bytes
		gone = append(gone, oldest.key)
	}
	return gone
}

func (s *Store) remove(keys []string) {
	for _, key := range keys {
		_ = os.Remove(s.path(key))
	}
}

// drop forgets an entry that is no good.
func (s *Store) drop(key string) {
	s.mu.Lock()
	if at, ok := s.entries[key]; ok {
		s.used -= s.recent.Remove(at).(*entry).bytes
		delete(s.entries, key)
	}
	s.mu.Unlock()
	_ = os.Remove(s.path(key))
}

// scan learns what an earlier process left, the oldest first, and removes what it
// did not finish. Here a file's time may decide: it costs a request if it is wrong.
func (s *Store) scan() {
	type found struct {
		entry
		used time.Time
	}
	var all []found
	_ = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what cannot be read is not in the cache
		}
		info, err := d.Info()
		folder := filepath.Base(filepath.Dir(path))
		switch {
		case err != nil:
		case filepath.Dir(path) == filepath.Clean(s.dir):
			if len(d.Name()) > 4 && d.Name()[:4] == "new-" && time.Since(info.ModTime()) > time.Hour {
				_ = os.Remove(path)
			}
		case len(folder) == 2 && len(d.Name()) == 2*sha256.Size-2:
			all = append(all, found{entry{folder + d.Name(), info.Size()}, info.ModTime()})
		}
		return nil
	})
	slices.SortFunc(all, func(a, b found) int { return a.used.Compare(b.used) })
	s.mu.Lock()
	var gone []string
	for _, f := range all {
		gone = append(gone, s.add(f.key, f.bytes)...)
	}
	s.mu.Unlock()
	s.remove(gone)
}

// Put passes the object on and keeps nothing of it.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	return s.below.Put(ctx, name, data)
}

// Stat asks the store.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	return s.below.Stat(ctx, name)
}

// List asks the store.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return s.below.List(ctx, prefix, fn)
}

// Delete passes it on. Ranges of the object stay until they are the oldest:
// names are never used again for other content, and who allows a cache may read
// what is gone since.
func (s *Store) Delete(ctx context.Context, name string) error { return s.below.Delete(ctx, name) }

// Describe passes the question on.
func (s *Store) Describe(ctx context.Context) (blob.Place, error) {
	if d, ok := s.below.(blob.Describer); ok {
		return d.Describe(ctx)
	}
	return blob.Place{}, errors.New("the storage unit does not describe itself")
}
