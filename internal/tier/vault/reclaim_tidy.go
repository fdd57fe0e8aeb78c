package vault

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

const (
	// smallIndex is below which size an index object is joined with others, in
	// bytes: a full one has about four times as many.
	smallIndex = 768 << 10
	// manyIndexes is how many small index objects may be.
	manyIndexes = 32
	// orphanAge is how old a list must be by its name that no record names, before
	// it is removed: another reclaim may be about to append that record.
	orphanAge = 7 * 24 * time.Hour
)

// Tidy removes what is not data and not needed: manifests of dropped points and
// of commits that nobody will finish, records of the chain before its
// checkpoints, lists that no record names, and those of the files of VMs without
// points; and it joins small index objects.
func (r *Reclaim) Tidy(ctx context.Context) error {
	if _, err := r.v.writable(ctx, r.o.Now); err != nil {
		return err
	}
	lists, err := r.names(ctx, filesFolder)
	if err != nil {
		return err
	}
	w, err := r.look(ctx)
	if err != nil {
		return err
	}
	if err := r.tidyFiles(ctx, w, lists); err != nil {
		return err
	}
	for _, step := range []func(context.Context, *view) error{r.tidyManifests, r.joinIndexes, r.tidyLists, r.prune} {
		if err := step(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// tidyManifests removes manifests of dropped points, and drops those that were
// never committed and that no job under way has in hand.
func (r *Reclaim) tidyManifests(ctx context.Context, w *view) error {
	_, writing, err := r.writing(ctx)
	if err != nil {
		return err
	}
	remove := slices.Clone(w.dropped)
	for _, p := range w.points {
		if p.committed() || writing == nil || writing[p.id] {
			continue
		}
		gone := false
		err := r.append(ctx, func(s chain.State) (chain.Record, error) {
			_, live := s.Live[p.id]
			if gone = !live; live || s.Dropped[p.id] > 0 {
				return chain.Record{}, nil
			}
			return chain.Record{Op: chain.Drop, Point: p.id}, nil
		})
		if err != nil {
			return err
		}
		if gone {
			remove = append(remove, p.id)
		}
	}
	for _, id := range remove {
		if err := r.v.removeManifest(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// tidyLists removes lists of condemned and of moved packs that no record needs.
func (r *Reclaim) tidyLists(ctx context.Context, w *view) error {
	named := map[string]bool{}
	for _, c := range w.state.Condemned {
		named[c.Object] = true
	}
	for _, f := range w.state.Fences {
		named[f.Object] = true
	}
	for _, m := range w.state.Moves {
		named[m.Object] = true
	}
	for _, prefix := range []string{chain.TrashPrefix, chain.MovesPrefix} {
		names, err := r.names(ctx, prefix)
		if err != nil {
			return err
		}
		for _, name := range names {
			id, err := ulid.ParseStrict(strings.TrimPrefix(name, prefix))
			if err != nil || named[name] || r.o.Now.Sub(ulid.Time(id.Time())) < orphanAge {
				continue
			}
			if err := r.v.store.Delete(ctx, name); err != nil {
				return writeError("removing "+name, err)
			}
		}
	}
	return nil
}

// names lists the objects with a prefix that any copy has; every copy must answer.
func (r *Reclaim) names(ctx context.Context, prefix string) ([]string, error) {
	found := map[string]bool{}
	for i, c := range r.v.copies {
		err := c.List(ctx, prefix, func(info blob.Info) error {
			found[info.Name] = true
			return nil
		})
		if err != nil {
			return nil, r.halt("list "+prefix+" in "+unitName(ctx, c, i), err)
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// prune removes records that lie before the checkpoints, the oldest first.
func (r *Reclaim) prune(ctx context.Context, _ *view) error {
	names, err := r.v.chain.Prunable(ctx)
	if err != nil {
		return r.halt("read the vault's chain", err)
	}
	for _, name := range names {
		if err := r.v.store.Delete(ctx, name); err != nil {
			return writeError("removing "+name, err)
		}
	}
	return nil
}

// indexes lists the index objects.
func (r *Reclaim) indexes(ctx context.Context) ([]blob.Info, error) {
	var all []blob.Info
	err := r.v.store.List(ctx, "indexes/", func(i blob.Info) error {
		if _, err := ulid.ParseStrict(strings.TrimPrefix(i.Name, "indexes/")); err == nil {
			all = append(all, i)
		}
		return nil
	})
	if err != nil {
		return nil, readError("the list of indexes", err)
	}
	return all, nil
}

// joinIndexes makes few index objects of many small ones, and leaves packs out
// that are in no copy any more. The new ones are durable before an old one goes;
// whoever meets the state between finds a pack twice. One that cannot be read is
// left where it is.
func (r *Reclaim) joinIndexes(ctx context.Context, _ *view) error {
	objects, err := r.indexes(ctx)
	if err != nil {
		return err
	}
	var j joined
	for _, o := range toJoin(objects) {
		packs, err := r.v.readIndex(ctx, o.Name)
		if err != nil && damaged(err) {
			continue
		}
		if err != nil {
			return readError(o.Name, err)
		}
		there := packs[:0]
		for _, d := range packs {
			switch gone, err := r.gone(ctx, d.ID); {
			case err != nil:
				return err
			case !gone:
				there = append(there, d)
			}
		}
		if j.chunks+chunksOf(there) > index.MaxChunks {
			if err := r.replaceIndexes(ctx, &j); err != nil {
				return err
			}
		}
		j.add(o.Name, there)
	}
	return r.replaceIndexes(ctx, &j)
}

// joined gathers what will be one index object.
type joined struct {
	names  []string
	packs  []pack.Directory
	known  map[pack.ID]bool
	chunks int
}

func (j *joined) add(name string, packs []pack.Directory) {
	if j.known == nil {
		j.known = map[pack.ID]bool{}
	}
	j.names = append(j.names, name)
	for _, d := range packs {
		if !j.known[d.ID] {
			j.known[d.ID] = true
			j.packs = append(j.packs, d)
			j.chunks += len(d.Entries)
		}
	}
}

func chunksOf(packs []pack.Directory) int {
	n := 0
	for _, d := range packs {
		n += len(d.Entries)
	}
	return n
}

// gone tells whether no copy has the pack; every copy must answer.
func (r *Reclaim) gone(ctx context.Context, id pack.ID) (bool, error) {
	for _, c := range r.v.copies {
		if _, err := c.Stat(ctx, id.Object()); err == nil {
			return false, nil
		} else if !damaged(err) {
			return false, readError(id.Object(), err)
		}
	}
	return true, nil
}

// replaceIndexes puts one index object and then removes those that it replaces.
func (r *Reclaim) replaceIndexes(ctx context.Context, j *joined) error {
	defer func() { *j = joined{} }()
	if len(j.names) < 2 && len(j.packs) > 0 || len(j.names) == 0 {
		return nil
	}
	if len(j.packs) > 0 {
		if err := r.putIndexes(ctx, j.packs); err != nil {
			return err
		}
	}
	for _, name := range j.names {
		if err := r.v.store.Delete(ctx, name); err != nil {
			return writeError("removing "+name, err)
		}
	}
	return nil
}

// putIndexes puts index objects that list the packs.
func (r *Reclaim) putIndexes(ctx context.Context, packs []pack.Directory) error {
	for len(packs) > 0 {
		n, chunks := 1, len(packs[0].Entries)
		for n < len(packs) && chunks+len(packs[n].Entries) <= index.MaxChunks {
			chunks += len(packs[n].Entries)
			n++
		}
		id := ulid.Make()
		data, err := index.Encode(r.v.keys, id, r.v.header.Epoch, packs[:n])
		if err != nil {
			return err
		}
		if err := r.put(ctx, index.Object(id), data); err != nil {
			return err
		}
		r.v.places.add(index.Object(id), packs[:n])
		packs = packs[n:]
	}
	return nil
}
