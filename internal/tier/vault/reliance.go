package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// reliance decides which packs of the vault a new point may refer to: those that
// are in every copy with all their bytes, and are not condemned by reclaim (I2). A
// copy that is being filled gets what it lacks of them by whoever fills it.
// Each pack is asked for once in a transfer.
type reliance struct {
	v         *Vault
	condemned map[pack.ID]bool

	mu     sync.Mutex
	sizes  map[pack.ID]int64 // in every copy; guarded by mu
	absent map[pack.ID]error // not to be relied on, and why; guarded by mu
}

// statsAtMost is how many packs are asked for one by one; of more, a listing of
// all packs is cheaper (an object store lists 1,000 names at a time).
const statsAtMost = 64

// relyOn prepares reliance for a transfer that builds on these packs.
func (v *Vault) relyOn(ctx context.Context, packs []pack.ID, condemned map[pack.ID]bool) *reliance {
	r := &reliance{v: v, condemned: condemned, sizes: map[pack.ID]int64{}, absent: map[pack.ID]error{}}
	if len(packs) > statsAtMost {
		r.list(ctx, packs)
	}
	return r
}

var errLongList = errors.New("asking one by one is cheaper")

// list finds the packs in a listing of every copy. Where that fails or takes too
// long they are asked for one by one, so nothing rests on it.
func (r *reliance) list(ctx context.Context, packs []pack.ID) {
	found := make(map[pack.ID]int64, len(packs))
	for _, id := range packs {
		found[id] = -1
	}
	for i, c := range r.v.whole() {
		here, seen := make(map[pack.ID]int64, len(packs)), 0
		err := c.List(ctx, "packs/", func(info blob.Info) error {
			id, err := pack.ParseID(info.Name[strings.LastIndexByte(info.Name, '/')+1:])
			if _, wanted := found[id]; err == nil && wanted {
				here[id] = info.Size
			}
			if seen++; seen > 1000*len(packs) {
				return errLongList
			}
			return nil
		})
		if err != nil {
			return
		}
		for id, size := range found {
			if s, ok := here[id]; !ok || i > 0 && s != size {
				delete(found, id)
			} else {
				found[id] = s
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes = found
}

// check returns nil if a chunk's place may be relied on, an error that is damage
// if it may not, and any other if nobody can tell.
func (r *reliance) check(ctx context.Context, at point.Place) error {
	if !at.Known() {
		return fmt.Errorf("a chunk without a place: %w", seal.ErrWrong)
	}
	size, err := r.size(ctx, at.Pack)
	if err == nil && int64(at.Offset)+int64(at.Sealed) > size {
		err = fmt.Errorf("%s has %d bytes: %w", at.Pack.Object(), size, seal.ErrWrong)
	}
	return err
}

// size returns the size of a pack that may be relied on.
func (r *reliance) size(ctx context.Context, id pack.ID) (int64, error) {
	if r.condemned[id] {
		return 0, fmt.Errorf("%s is condemned: %w", id.Object(), blob.ErrNotExist)
	}
	r.mu.Lock()
	size, known := r.sizes[id]
	err := r.absent[id]
	r.mu.Unlock()
	if known || err != nil {
		return size, err
	}
	size = -1
	for i, c := range r.v.whole() {
		info, err := c.Stat(ctx, id.Object())
		if err == nil && size >= 0 && info.Size != size {
			err = fmt.Errorf("%d bytes, and %d in another copy: %w", info.Size, size, seal.ErrWrong)
		}
		if err != nil {
			err = fmt.Errorf("%s in %s: %w", id.Object(), unitName(ctx, c, i), err)
			if damaged(err) {
				r.mu.Lock()
				r.absent[id] = err
				r.mu.Unlock()
			}
			return 0, err
		}
		size = info.Size
	}
	r.mu.Lock()
	r.sizes[id] = size
	r.mu.Unlock()
	return size, nil
}

// known returns a place that is sure to hold the chunk: in a pack of this
// transfer, or in one that an index lists, whose own directory names the chunk
// and that may be relied on.
func (w *Writer) known(ctx context.Context, kind chunk.Kind, name chunk.Name) (point.Place, bool, error) {
	if at, ok := w.fresh.find(kind, name); ok {
		return at, true, nil
	}
	for _, id := range w.v.places.cache.Lookup(name) {
		err := w.rely.usable(ctx, id)
		if err == nil {
			var d *directory
			if d, err = w.v.places.directory(ctx, id); err == nil {
				if at, ok := d.place(kind, name); ok && w.rely.check(ctx, at) == nil {
					return at, true, nil
				}
				continue
			}
		}
		if !damaged(err) {
			return point.Place{}, false, readError(id.Object(), err)
		}
	}
	return point.Place{}, false, nil
}

func (r *reliance) usable(ctx context.Context, id pack.ID) error {
	_, err := r.size(ctx, id)
	return err
}
