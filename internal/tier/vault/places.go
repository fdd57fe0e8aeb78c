package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// places knows where the chunks of the vault are: from the index objects, read
// when first needed, and where those fall short from the packs themselves.
type places struct {
	v *Vault

	mu     sync.RWMutex
	table  *index.Table     // guarded by mu
	loaded map[string]bool  // index objects that are in the table; guarded by mu
	bad    map[string]error // index objects that no copy could show; guarded by mu

	loading sync.Mutex // held while the store is read
	ready   bool       // guarded by loading
}

func newPlaces(v *Vault) *places {
	return &places{v: v, table: index.NewTable(), loaded: map[string]bool{}, bad: map[string]error{}}
}

// ensure loads the indexes once.
func (p *places) ensure(ctx context.Context) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	if p.ready {
		return nil
	}
	if err := p.load(ctx); err != nil {
		return err
	}
	p.ready = true
	return nil
}

// load adds the index objects that are not in the table yet. One that is
// damaged in every copy is remembered, not fatal: the packs know the same.
func (p *places) load(ctx context.Context) error {
	var fresh []string
	err := p.v.store.List(ctx, "indexes/", func(i blob.Info) error {
		p.mu.RLock()
		defer p.mu.RUnlock()
		if !p.loaded[i.Name] {
			fresh = append(fresh, i.Name)
		}
		return nil
	})
	if err != nil {
		return readError("the list of indexes", err)
	}
	for _, name := range fresh {
		packs, err := p.v.readIndex(ctx, name)
		if err != nil && !damaged(err) {
			return readError(name, err)
		}
		p.mu.Lock()
		p.loaded[name] = true
		if err != nil {
			p.bad[name] = err
		}
		for _, d := range packs {
			p.table.AddPack(d, true)
		}
		p.mu.Unlock()
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

// refresh adds the indexes that came since.
func (p *places) refresh(ctx context.Context) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	return p.load(ctx)
}

// proved tells whether an index lists the pack.
func (p *places) proved(id pack.ID) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.table.Proved(id)
}

// add takes in packs that were just committed.
func (p *places) add(packs []pack.Directory) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range packs {
		p.table.AddPack(d, true)
	}
}

// lookup returns where a chunk is, as far as is known now.
func (p *places) lookup(kind chunk.Kind, name chunk.Name) []index.Place {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.table.Lookup(kind, name)
}

// find is lookup that tries harder before it answers with nothing: indexes that
// came since, then the directories of packs that no index lists.
func (p *places) find(ctx context.Context, kind chunk.Kind, name chunk.Name) ([]index.Place, error) {
	if err := p.ensure(ctx); err != nil {
		return nil, err
	}
	if found := p.lookup(kind, name); len(found) > 0 {
		return found, nil
	}
	p.loading.Lock()
	defer p.loading.Unlock()
	if err := p.load(ctx); err != nil {
		return nil, err
	}
	if found := p.lookup(kind, name); len(found) > 0 {
		return found, nil
	}
	if err := p.scan(ctx); err != nil {
		return nil, err
	}
	return p.lookup(kind, name), nil
}

// scan rebuilds what the indexes lack from the packs' directories. What it finds
// serves reading; it does not serve deduplication, since nothing says that such
// a pack was ever proved.
func (p *places) scan(ctx context.Context) error {
	var unknown []pack.ID
	err := p.v.store.List(ctx, "packs/", func(i blob.Info) error {
		id, err := pack.ParseID(i.Name[strings.LastIndexByte(i.Name, '/')+1:])
		p.mu.RLock()
		defer p.mu.RUnlock()
		if err == nil && id.Object() == i.Name && !p.table.Has(id) {
			unknown = append(unknown, id)
		}
		return nil
	})
	if err != nil {
		return readError("the list of packs", err)
	}
	for _, id := range unknown {
		if err := p.scanPack(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// scanPack adds one pack. A pack that is damaged in every copy adds nothing; one
// that could not be read is an error, because it might hold what is sought (I5).
func (p *places) scanPack(ctx context.Context, id pack.ID) error {
	var unread []error
	for _, c := range p.v.copies {
		d, err := p.v.readDirectory(ctx, c, id)
		if err == nil {
			p.mu.Lock()
			p.table.AddPack(d, false)
			p.mu.Unlock()
			return nil
		}
		if !damaged(err) {
			unread = append(unread, err)
		}
	}
	if len(unread) > 0 {
		return readError(id.Object(), unread...)
	}
	return nil
}

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
