package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// Cache is the local form of a vault's indexes: which packs may hold a chunk,
// answered without a read from the store. On disk it takes about 9 bytes for
// each chunk and 30 for each pack; in memory a few MiB, 1 MiB for every 100
// million chunks, and about 40 bytes for each index object.
//
// What it answers are candidates. It keeps 76 bits of a name, so it may name a
// pack for a chunk that is nowhere (less than 2^-48 for each question), and a
// pack may be gone since; whoever relies on a candidate proves it against the
// pack itself. It is made again from the index objects whenever something is
// wrong with it.
//
// A folder belongs to the first process that opens it. Another one, and another
// Cache in the same process, sees what was durable when it opened the folder,
// keeps what it adds in memory and writes nothing: it neither waits nor harms.
//
// All methods may be called concurrently. One adds at a time; Lookup, Has and
// HasPack go on meanwhile.
type Cache struct {
	disk    disk     // of the runs that were opened
	out     disk     // of the runs that are written; another one in a borrowed cache
	owned   bool     // whether state is written
	lock    *os.File // held while owned; nil in memory
	dropped error
	limits  limits

	writing sync.Mutex // held by whoever changes anything
	state   state      // guarded by writing

	mu      sync.RWMutex
	recent  *fresh                // guarded by mu; changed under both locks
	base    []*run                // guarded by mu; changed under both locks
	fresh   []*run                // guarded by mu; changed under both locks
	packs   ids                   // guarded by mu; changed under both locks
	objects ids                   // guarded by mu; changed under both locks
	known   map[[16]byte]struct{} // the ids in objects; guarded by mu; changed under both locks

	failing sync.Mutex
	err     error // the first error of a read; guarded by failing
}

// limits are numbers of entries.
type limits struct {
	recent int // kept in memory before a run is written
	small  int // smaller runs count as so large
	fresh  int // in fresh runs before they are merged into the base, and 1/16 of the base
	part   int // in one run of the base
}

var usual = limits{recent: 128 << 10, small: 16 << 10, fresh: 1 << 20, part: 4 << 20}

// OpenCache opens the cache in a folder, which is made if it is missing (its
// parent is not). With dir "" all is kept in memory, about 10 bytes for each
// chunk. A cache that is damaged or of another version is emptied: Dropped says
// so. An error means that the folder cannot be used.
func OpenCache(dir string) (*Cache, error) { return openCache(dir, usual) }

func openCache(dir string, l limits) (*Cache, error) {
	if dir == "" {
		return openDisk(newMemory(), l)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make folder of the index cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of the index cache: %w", err)
	}
	switch err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		_ = lock.Close()
		return borrow(folder{dir}, l)
	case err != nil:
		_ = lock.Close()
		return nil, fmt.Errorf("lock index cache: %w", err)
	}
	c, err := openDisk(folder{dir}, l)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	c.lock = lock
	return c, nil
}

// openDisk opens a cache that is ours alone.
func openDisk(d disk, l limits) (*Cache, error) {
	c := &Cache{disk: d, out: d, owned: true, limits: l}
	s, err := readState(d)
	if err == nil {
		err = c.load(s)
	}
	switch {
	case err == nil:
		err = sweep(d, s)
	case errors.Is(err, ErrDamaged), errors.Is(err, os.ErrNotExist):
		if !errors.Is(err, os.ErrNotExist) || s.Format != "" {
			c.dropped = err
		}
		err = c.Reset()
	}
	if err != nil {
		c.closeFiles()
		return nil, fmt.Errorf("open index cache: %w", err)
	}
	return c, nil
}

// borrow opens a cache that another one owns. While that one replaces files, a
// state may name some that are gone; the next state does not.
func borrow(d disk, l limits) (*Cache, error) {
	var err error
	for range 100 {
		c := &Cache{disk: d, out: newMemory(), limits: l}
		var s state
		if s, err = readState(d); err == nil {
			err = c.load(s)
		}
		if err == nil {
			// What was opened is never merged here, which would take memory for all of it.
			c.base, c.fresh = append(c.base, c.fresh...), nil
			return c, nil
		}
		c.closeFiles()
	}
	// Not a reason to fail: an empty cache is filled from the index objects.
	c, e := openDisk(newMemory(), l)
	if e == nil {
		c.dropped = err
	}
	return c, e
}

// load opens what a state names.
func (c *Cache) load(s state) error {
	c.state, c.recent, c.known = s, &fresh{}, map[[16]byte]struct{}{}
	packs, objects := s.logs()
	for _, l := range []struct {
		ids   *ids
		name  string
		count int
	}{{&c.packs, packs, s.Packs}, {&c.objects, objects, s.Objects}} {
		f, err := c.disk.Open(l.name)
		if err != nil {
			return fmt.Errorf("open %s: %w", l.name, err)
		}
		*l.ids = ids{name: l.name, file: f, count: l.count}
		if size, err := f.Size(); err != nil || size < int64(l.count)*idRecord {
			return errors.Join(err, fmt.Errorf("%s ends too early: %w", l.name, ErrDamaged))
		}
	}
	if err := c.objects.all(func(id [16]byte) { c.known[id] = struct{}{} }); err != nil {
		return err
	}
	for _, l := range []struct {
		runs    *[]*run
		numbers []uint64
	}{{&c.base, s.Base}, {&c.fresh, s.Fresh}} {
		for _, n := range l.numbers {
			r, err := openRun(c.disk, s.run(n))
			if err != nil {
				return err
			}
			*l.runs = append(*l.runs, r)
		}
	}
	return nil
}

// Dropped tells why OpenCache emptied the cache that it found; nil if it did not.
func (c *Cache) Dropped() error { return c.dropped }

// Err returns the first error of a read since the cache was opened or reset.
// From then on Lookup and HasPack may miss something, which costs deduplication
// and nothing else, and Add and Flush fail. Reset and filling it again helps.
func (c *Cache) Err() error {
	c.failing.Lock()
	defer c.failing.Unlock()
	return c.err
}

func (c *Cache) fail(err error) error {
	c.failing.Lock()
	defer c.failing.Unlock()
	if c.err == nil && err != nil {
		c.err = err
	}
	return err
}

// Has tells whether an index object is in the cache.
func (c *Cache) Has(object string) bool {
	id, err := parseObject(object)
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.known[id]
	return ok && err == nil
}

func parseObject(name string) (ulid.ULID, error) {
	id, err := ulid.ParseStrict(strings.TrimPrefix(name, "indexes/"))
	if err != nil || Object(id) != name {
		return id, fmt.Errorf("%q is not the name of an index object", name)
	}
	return id, nil
}

// Objects returns the names of the index objects in the cache, sorted.
func (c *Cache) Objects() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	names := make([]string, 0, len(c.known))
	for id := range c.known {
		names = append(names, Object(id))
	}
	slices.Sort(names)
	return names
}

// Len returns how many chunks the cache holds. One that is in several packs
// counts for each, and until runs are merged for each index object.
func (c *Cache) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := len(c.recent.entries) - c.packs.len() // each pack has an entry of its own
	for _, list := range [][]*run{c.base, c.fresh} {
		for _, r := range list {
			n += r.count
		}
	}
	return max(n, 0)
}

// Size returns the length of the cache's files, in bytes.
func (c *Cache) Size() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := int64(c.packs.count+c.objects.count) * idRecord
	for _, list := range [][]*run{c.base, c.fresh} {
		for _, r := range list {
			n += r.size()
		}
	}
	return n
}

// Lookup returns the packs that may hold a chunk, the one added last first. It
// reads a few blocks of 4 KiB from the local disk.
func (c *Cache) Lookup(name chunk.Name) []pack.ID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	numbers := c.numbers(entryOf(name[:], 0))
	if len(numbers) == 0 {
		return nil
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	slices.Reverse(numbers)
	packs := make([]pack.ID, 0, len(numbers))
	for _, n := range numbers {
		id, err := c.packs.get(int(n))
		if err != nil {
			_ = c.fail(err) // a candidate less; Err tells
			continue
		}
		packs = append(packs, id)
	}
	return packs
}

// HasPack tells whether some index object in the cache lists the pack. This
// answer is exact: it compares the whole id.
func (c *Cache) HasPack(id pack.ID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.numberOf(id)
	return ok
}

// numberOf returns the number of a pack. The caller holds mu.
func (c *Cache) numberOf(id pack.ID) (uint32, bool) {
	for _, n := range c.numbers(entryOf(id[:], 0)) {
		if got, err := c.packs.get(int(n)); err != nil {
			_ = c.fail(err)
		} else if got == id {
			return n, true
		}
	}
	return 0, false
}

// numbers returns the packs of a name, in no order. The caller holds mu.
func (c *Cache) numbers(name entry) []uint32 {
	found := c.recent.lookup(nil, name)
	for _, list := range [][]*run{c.base, c.fresh} {
		for _, r := range list {
			var err error
			if found, err = r.lookup(found, name); err != nil {
				_ = c.fail(err)
			}
		}
	}
	return found
}

// Add takes in an index object: the packs that it lists. Lookup finds them at
// once; they are durable after Flush. An object that is in already changes
// nothing. An error leaves a part of it in, but not the object: Add it again.
func (c *Cache) Add(object string, packs []pack.Directory) error {
	id, err := parseObject(object)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.Has(object) {
		return nil
	}
	for _, d := range packs {
		if err := c.addPack(d); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[id] = struct{}{}
	c.objects.tail = append(c.objects.tail, id)
	return nil
}

// addPack adds a pack, by steps that keep memory bounded whatever its size. The
// caller holds writing.
func (c *Cache) addPack(d pack.Directory) error {
	number, ok := c.numberOf(d.ID) // only who holds writing changes anything
	if err := c.Err(); err != nil {
		return err
	}
	if !ok {
		if int64(c.packs.len()) >= 1<<32-1 {
			return errors.New("index cache is full: 2^32 packs")
		}
		number = uint32(c.packs.len())
		c.mu.Lock()
		c.packs.tail = append(c.packs.tail, d.ID)
		c.recent.add(entryOf(d.ID[:], number))
		c.mu.Unlock()
	}
	for part := range slices.Chunk(d.Entries, 4096) {
		if len(c.recent.entries) >= c.limits.recent {
			if err := c.flush(); err != nil {
				return err
			}
		}
		c.mu.Lock()
		for _, e := range part {
			c.recent.add(entryOf(e.Name[:], number))
		}
		c.mu.Unlock()
	}
	return nil
}

// Flush makes what was added durable, and merges runs where there are too many.
// In a borrowed cache it only bounds memory.
func (c *Cache) Flush() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.flush()
}

// Reset empties the cache.
func (c *Cache) Reset() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.owned {
		c.disk = newMemory()
		c.out, c.owned = c.disk, true // of its own memory
	}
	next, err := nextNumber(c.disk)
	if err != nil {
		return err
	}
	s := newState(max(next, c.state.Next))
	n := Cache{recent: &fresh{}, known: map[[16]byte]struct{}{}}
	n.packs.name, n.objects.name = s.logs()
	for _, l := range []*ids{&n.packs, &n.objects} {
		if l.file, err = c.disk.Create(l.name); err != nil {
			n.closeFiles()
			return fmt.Errorf("create %s: %w", l.name, err)
		}
	}
	if err := writeState(c.disk, s); err != nil {
		n.closeFiles()
		return err
	}
	c.mu.Lock()
	c.closeFiles()
	c.state, c.recent, c.known = s, n.recent, n.known
	c.packs, c.objects, c.base, c.fresh = n.packs, n.objects, nil, nil
	c.mu.Unlock()
	c.failing.Lock()
	c.err = nil
	c.failing.Unlock()
	return sweep(c.disk, s)
}

// Forsake empties the cache and leaves its folder alone: from now on all of it is
// in memory. It is for a folder that cannot be written any more.
func (c *Cache) Forsake() error {
	c.writing.Lock()
	c.owned = false
	c.writing.Unlock()
	return c.Reset()
}

// Close gives the folder free. What was not flushed is forgotten. The cache must
// not be used after it.
func (c *Cache) Close() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeFiles()
	if c.lock == nil {
		return nil
	}
	return c.lock.Close()
}

// closeFiles closes what was only read, or written and synced.
func (c *Cache) closeFiles() {
	for _, l := range []*ids{&c.packs, &c.objects} {
		if l.file != nil {
			_ = l.file.Close()
		}
	}
	for _, list := range [][]*run{c.base, c.fresh} {
		for _, r := range list {
			_ = r.file.Close()
		}
	}
}
