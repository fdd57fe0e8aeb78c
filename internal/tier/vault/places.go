package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// places finds chunks by their names: for deduplication, and for reading what is
// not where its page says. The index names packs that may hold a chunk; the
// pack's own directory decides.
type places struct {
	v *Vault

	loading sync.Mutex   // held while the index objects are read
	cache   *index.Cache // of proved packs: what index objects list
	scanned *index.Cache // of packs that no index lists: serves reading only

	mu     sync.Mutex
	bad    map[string]error // index objects that no copy could show; guarded by mu
	folder error            // why the local index is not in its folder; guarded by mu

	directories *cache[pack.ID, *directory]
}

// directory is what a pack says of itself, by the names of its chunks.
type directory struct {
	pack.Directory
	at map[nameOfKind]int // index into Entries
}

func (d *directory) place(kind chunk.Kind, name chunk.Name) (point.Place, bool) {
	i, ok := d.at[nameOfKind{kind, name}]
	if !ok {
		return point.Place{}, false
	}
	return point.PlaceOf(d.ID, d.Epoch, d.Entries[i]), true
}

// directoryCache bounds the directories that are kept, in bytes: about 150 for
// each chunk.
const directoryCache = 8 << 20

func newPlaces(v *Vault, dir string) (*places, error) {
	c, folder := index.OpenCache(dir)
	if folder != nil {
		var err error
		if c, err = index.OpenCache(""); err != nil {
			return nil, fmt.Errorf("open the local index: %w", errors.Join(folder, err))
		}
	}
	scanned, err := index.OpenCache("")
	if err != nil {
		return nil, fmt.Errorf("open the local index: %w", err)
	}
	return &places{v: v, cache: c, scanned: scanned, bad: map[string]error{}, folder: folder,
		directories: newCache[pack.ID](directoryCache, func(d *directory) int { return 150 * len(d.Entries) })}, nil
}

func (p *places) close() error { return errors.Join(p.cache.Close(), p.scanned.Close()) }

// errLocal is an error of the local index, and says nothing of the vault.
var errLocal = errors.New("the local index")

// refresh takes in the index objects that came since. One that is damaged in
// every copy is remembered, not fatal: the packs know the same. A local index
// that turns out to be damaged is made anew, and one whose folder cannot be
// written is kept in memory: it is a cache, and nothing is to fail for it.
func (p *places) refresh(ctx context.Context) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	err := p.load(ctx)
	if p.cache.Err() == nil && !errors.Is(err, errLocal) {
		return err
	}
	if err = p.cache.Reset(); err == nil {
		err = p.load(ctx)
		if p.cache.Err() == nil && !errors.Is(err, errLocal) {
			return err
		}
	}
	p.mu.Lock()
	p.folder = cmp.Or(err, p.cache.Err())
	p.mu.Unlock()
	if err := p.cache.Forsake(); err != nil {
		return fmt.Errorf("keep the local index in memory: %w", err)
	}
	return p.load(ctx)
}

// LocalIndex says why the local index is not kept in the folder that it was to
// have (IndexDir), but in memory; nil if it is.
func (v *Vault) LocalIndex() error {
	v.places.mu.Lock()
	defer v.places.mu.Unlock()
	return v.places.folder
}

func (p *places) load(ctx context.Context) error {
	var fresh []string
	listed, gone := map[string]bool{}, 0
	err := p.v.store.List(ctx, "indexes/", func(i blob.Info) error {
		listed[i.Name] = true
		if !p.cache.Has(i.Name) && !p.isBad(i.Name) {
			fresh = append(fresh, i.Name)
		}
		return nil
	})
	if err != nil {
		return readError("the list of indexes", err)
	}
	known := p.cache.Objects()
	for _, name := range known {
		if !listed[name] {
			gone++
		}
	}
	// What is stale costs a look at a pack that is gone, so a little of it may stay.
	if gone > staleObjects && gone*4 > len(known) {
		if err := p.cache.Reset(); err != nil {
			return fmt.Errorf("%w: reset: %w", errLocal, err)
		}
		fresh = slices.Sorted(maps.Keys(listed))
	}
	for _, name := range fresh {
		if err := p.take(ctx, name); err != nil {
			return err
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := p.cache.Flush(); err != nil {
		return fmt.Errorf("%w: keep: %w", errLocal, err)
	}
	return nil
}

// staleObjects is how many index objects may be gone before the local index is
// made anew.
const staleObjects = 16

func (p *places) isBad(object string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bad[object] != nil
}

// take reads one index object into the local index.
func (p *places) take(ctx context.Context, object string) error {
	packs, err := p.v.readIndex(ctx, object)
	if err != nil && damaged(err) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.bad[object] = err
		return nil
	}
	if err != nil {
		return readError(object, err)
	}
	if err := p.cache.Add(object, packs); err != nil {
		return fmt.Errorf("%w: add %s: %w", errLocal, object, err)
	}
	return nil
}

// readIndex reads an index object from the first copy that has it unharmed. The
// error is only "damaged" if every copy answered.
func (v *Vault) readIndex(ctx context.Context, name string) ([]pack.Directory, error) {
	id, err := ulid.ParseStrict(strings.TrimPrefix(name, "indexes/"))
	if err != nil {
		return nil, nil // not one of ours: nothing in it can be authenticated
	}
	var wrong, unread []error
	for _, c := range v.copies {
		data, err := c.Get(ctx, name, 0, -1)
		if err == nil {
			var packs []pack.Directory
			if packs, err = index.Decode(v.keys, id, data); err == nil {
				return packs, nil
			}
		}
		if damaged(err) {
			wrong = append(wrong, err)
		} else {
			unread = append(unread, err)
		}
	}
	if len(unread) > 0 {
		return nil, errors.Join(unread...)
	}
	return nil, fmt.Errorf("index %s: %w", name, errors.Join(wrong...))
}

// find returns where a chunk is, for reading. It tries harder before it answers
// with nothing: index objects that came since, then the directories of packs
// that no index lists.
func (p *places) find(ctx context.Context, kind chunk.Kind, name chunk.Name) ([]point.Place, error) {
	for _, harder := range []func(context.Context) error{nil, p.refresh, p.scan} {
		if harder != nil {
			if err := harder(ctx); err != nil {
				return nil, err
			}
		}
		found, err := p.among(ctx, append(p.cache.Lookup(name), p.scanned.Lookup(name)...), nameOfKind{kind, name})
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, nil
}

// among asks the candidates' directories. A pack that is gone or damaged holds
// nothing; one that could not be read is an error, because it might (I5).
func (p *places) among(ctx context.Context, candidates []pack.ID, want nameOfKind) ([]point.Place, error) {
	var found []point.Place
	for _, id := range candidates {
		d, err := p.directory(ctx, id)
		if err != nil && damaged(err) {
			continue
		}
		if err != nil {
			return nil, readError(id.Object(), err)
		}
		if at, ok := d.place(want.kind, want.name); ok {
			found = append(found, at)
		}
	}
	return found, nil
}

// directory returns what a pack says of itself in the first copy that shows it
// unharmed. The error is only "damaged" if every copy answered.
func (p *places) directory(ctx context.Context, id pack.ID) (*directory, error) {
	return p.directories.get(ctx, id, func() (*directory, error) {
		var wrong, unread []error
		for _, c := range p.v.copies {
			d, err := p.v.readDirectory(ctx, c, id)
			if err == nil {
				return indexed(d), nil
			}
			if damaged(err) {
				wrong = append(wrong, err)
			} else {
				unread = append(unread, err)
			}
		}
		if len(unread) > 0 {
			return nil, errors.Join(unread...)
		}
		return nil, errors.Join(wrong...)
	})
}

func indexed(d pack.Directory) *directory {
	out := &directory{Directory: d, at: make(map[nameOfKind]int, len(d.Entries))}
	for i, e := range d.Entries {
		out.at[nameOfKind{e.Kind, e.Name}] = i
	}
	return out
}

// scan finds the chunks that the index lacks in the packs' own directories. What
// it finds serves reading; it does not serve deduplication, since nothing says
// that such a pack was ever proved.
func (p *places) scan(ctx context.Context) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	var unknown []pack.ID
	err := p.v.store.List(ctx, "packs/", func(i blob.Info) error {
		id, err := pack.ParseID(i.Name[strings.LastIndexByte(i.Name, '/')+1:])
		if err == nil && id.Object() == i.Name && !p.cache.HasPack(id) && !p.scanned.HasPack(id) {
			unknown = append(unknown, id)
		}
		return nil
	})
	if err != nil {
		return readError("the list of packs", err)
	}
	for _, id := range unknown {
		d, err := p.directory(ctx, id)
		if err != nil && damaged(err) {
			continue
		}
		if err != nil {
			return readError(id.Object(), err)
		}
		if err := p.scanned.Add(index.Object(ulid.Make()), []pack.Directory{d.Directory}); err != nil {
			return fmt.Errorf("keep the local index: %w", err)
		}
	}
	return nil
}

// add takes in packs that this index object lists. The local index is a cache: if
// it cannot take them now, the next refresh reads the object.
func (p *places) add(object string, packs []pack.Directory) { _ = p.cache.Add(object, packs) }

// readDirectory reads the directory of a pack from one copy.
func (v *Vault) readDirectory(ctx context.Context, c blob.Store, id pack.ID) (pack.Directory, error) {
	info, err := c.Stat(ctx, id.Object())
	if err != nil {
		return pack.Directory{}, err
	}
	return pack.ReadDirectory(v.keys, id, info.Size, func(offset, length int64) ([]byte, error) {
		return c.Get(ctx, id.Object(), offset, length)
	})
}
