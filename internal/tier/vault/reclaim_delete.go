package vault

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// sizedPack is all that deleting has to know of a pack: there may be many.
type sizedPack struct {
	id   pack.ID
	size int64
}

// Condemn puts every pack that no point needs into a list in the trash, and says
// so in the chain: writers that begin from then on leave them alone. Nothing is
// deleted. A point that is committed meanwhile may refer to such a pack; that is
// found out before anything of the list is deleted.
func (r *Reclaim) Condemn(ctx context.Context) (backstay.ObjectSum, error) {
	var sum backstay.ObjectSum
	if _, err := r.v.writable(ctx, r.o.Now); err != nil {
		return sum, err
	}
	view, err := r.look(ctx)
	if err != nil {
		return sum, err
	}
	var packs []sizedPack
	s := &survey{r: r, view: view}
	err = s.each(ctx, func(p *surveyedPack) error {
		if !p.needed && !p.held && len(packs) < r.o.CondemnPacks && !view.condemned(p.id) {
			packs = append(packs, sizedPack{p.id, p.size})
		}
		return nil
	})
	if err != nil {
		return sum, err
	}
	r.o.OnStage(StageLooked)
	kept, _, err := r.writing(ctx)
	if err != nil {
		return sum, err
	}
	var ids []pack.ID
	for _, p := range packs {
		if !kept[p.id] {
			ids = append(ids, p.id)
			sum.Add(p.size)
		}
	}
	if err := r.putList(ctx, ids); err != nil {
		return backstay.ObjectSum{}, err
	}
	return sum, r.giveUp(ctx, view)
}

// putList makes a list durable in every copy and then binding.
func (r *Reclaim) putList(ctx context.Context, packs []pack.ID) error {
	if len(packs) == 0 {
		return nil
	}
	object, hash, err := r.v.putTrash(ctx, packs)
	if err != nil {
		return err
	}
	r.o.OnStage(StageListed)
	err = r.append(ctx, func(chain.State) (chain.Record, error) {
		return chain.Record{Op: chain.Condemn, Object: object, Hash: hash}, nil
	})
	if err != nil {
		return err
	}
	r.o.OnStage(StageCondemned)
	return nil
}

// giveUp closes lists that no copy can show: nobody can tell what they condemn,
// so nothing of them is deleted.
func (r *Reclaim) giveUp(ctx context.Context, w *view) error {
	for _, l := range w.lists {
		if l.lost == nil {
			continue
		}
		if err := r.closeList(ctx, l.Condemned); err != nil {
			return err
		}
	}
	return nil
}

// put writes an object that is there in every copy, as it was written, when it
// returns without an error.
func (r *Reclaim) put(ctx context.Context, object string, data []byte) error {
	if err := r.v.store.Put(ctx, object, data); err != nil && !errors.Is(err, blob.ErrExist) {
		return writeError(object, err)
	}
	return r.v.sameInAll(ctx, object, data)
}

// Delete fences a list of condemned packs, finds out which of them a point needs
// after all, deletes the others from every copy, and closes the list. The caller
// has waited until nobody who began before the list reads or writes any more. A
// list that is closed already is no error.
func (r *Reclaim) Delete(ctx context.Context, list string) (deleted, rescued backstay.ObjectSum, err error) {
	object := chain.TrashPrefix + list
	if _, err := chain.ParseTrashObject(object); err != nil {
		return deleted, rescued, backstay.Errorf(backstay.CodeUsage, "there is no list %q of condemned packs", list).Because(err)
	}
	if _, err := r.v.writable(ctx, r.o.Now); err != nil {
		return deleted, rescued, err
	}
	if err := r.fence(ctx, object); err != nil {
		return deleted, rescued, err
	}
	// Everything that was committed before the fence is seen from here on, and
	// nothing that is committed later refers to the list.
	view, err := r.look(ctx)
	if err != nil {
		return deleted, rescued, err
	}
	var doomed *viewList
	for i := range view.lists {
		if view.lists[i].Object == object {
			doomed = &view.lists[i]
		}
	}
	if doomed == nil {
		return deleted, rescued, nil
	}
	if doomed.lost != nil {
		return deleted, rescued, r.closeList(ctx, doomed.Condemned)
	}
	if doomed.Fence == 0 {
		return deleted, rescued, r.stopped("the list %s has no fence", list)
	}
	var packs []sizedPack
	s := &survey{r: r, view: view}
	err = s.each(ctx, func(p *surveyedPack) error {
		switch {
		case !doomed.has(p.id) || p.copies == 0:
		case p.needed || p.held:
			rescued.Add(p.size)
		default:
			packs = append(packs, sizedPack{p.id, p.size})
		}
		return nil
	})
	if err != nil {
		return deleted, rescued, err
	}
	r.o.OnStage(StageChosen)
	if deleted, err = r.deletePacks(ctx, packs); err != nil {
		return deleted, rescued, err
	}
	r.o.OnStage(StageDeleted)
	return deleted, rescued, r.closeList(ctx, doomed.Condemned)
}

// fence appends the record from which on no writer that began before the list
// may refer to its packs.
func (r *Reclaim) fence(ctx context.Context, object string) error {
	err := r.append(ctx, func(s chain.State) (chain.Record, error) {
		c, ok := s.Condemned[object]
		if !ok || c.Fence != 0 {
			return chain.Record{}, nil
		}
		return chain.Record{Op: chain.Reclaim, Object: object, Of: c.Seq}, nil
	})
	if err == nil {
		r.o.OnStage(StageFenced)
	}
	return err
}

// closeList says that nothing of a list will be deleted any more.
func (r *Reclaim) closeList(ctx context.Context, c chain.Condemned) error {
	return r.append(ctx, func(s chain.State) (chain.Record, error) {
		if s.Condemned[c.Object].Seq != c.Seq {
			return chain.Record{}, nil
		}
		return chain.Record{Op: chain.Reclaimed, Object: c.Object, Of: c.Seq}, nil
	})
}

// deletesAtOnce is how many packs are deleted at once.
const deletesAtOnce = 8

// deletePacks deletes packs from every copy. What it did not come to is done by
// the next run: the list stays until all is gone.
func (r *Reclaim) deletePacks(ctx context.Context, packs []sizedPack) (backstay.ObjectSum, error) {
	var mu sync.Mutex
	var sum backstay.ObjectSum
	var total int64
	for _, p := range packs {
		total += p.size
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesAtOnce)
	for _, p := range packs {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.v.store.Delete(ctx, p.id.Object()); err != nil {
				return writeError("removing "+p.id.Object(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			sum.Add(p.size)
			r.o.Progress(sum.Bytes, total)
			return nil
		})
	}
	return sum, g.Wait()
}
