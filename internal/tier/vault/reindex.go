package vault

import (
	"context"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// replaceIndexes makes indexes anew in the place of those that no copy can show.
// An index says nothing that the packs do not say, so what is left of it is
// removed afterwards. It returns the damages that remain.
func (v *Vault) replaceIndexes(ctx context.Context, lost []Damage) ([]Damage, error) {
	isIndex := func(d Damage) bool { return d.Lost() && strings.HasPrefix(d.Object, "indexes/") }
	if !slices.ContainsFunc(lost, isIndex) {
		return lost, nil
	}
	listed, err := v.listedPacks(ctx, func(object string) bool {
		return slices.ContainsFunc(lost, func(d Damage) bool { return d.Object == object && isIndex(d) })
	})
	if err != nil {
		return lost, err
	}
	var unlisted []pack.ID
	err = v.store.List(ctx, "packs/", func(info blob.Info) error {
		if id, ok := packOf(info.Name); ok && !listed[id] {
			unlisted = append(unlisted, id)
		}
		return nil
	})
	if err != nil {
		return lost, readError("the list of packs", err)
	}
	if err := v.indexAgain(ctx, unlisted); err != nil {
		return lost, err
	}
	for _, d := range lost {
		if isIndex(d) {
			if err := v.store.Delete(ctx, d.Object); err != nil {
				return lost, writeError("removing "+d.Object, err)
			}
		}
	}
	return slices.DeleteFunc(lost, isIndex), nil
}

// listedPacks returns the packs that the indexes list, without those to skip.
func (v *Vault) listedPacks(ctx context.Context, skip func(object string) bool) (map[pack.ID]bool, error) {
	var objects []string
	err := v.store.List(ctx, "indexes/", func(info blob.Info) error {
		if !skip(info.Name) {
			objects = append(objects, info.Name)
		}
		return nil
	})
	if err != nil {
		return nil, readError("the list of indexes", err)
	}
	listed := map[pack.ID]bool{}
	for _, object := range objects {
		packs, err := v.readIndex(ctx, object)
		if err != nil {
			return nil, readError(object, err)
		}
		for _, d := range packs {
			listed[d.ID] = true
		}
	}
	return listed, nil
}

// indexAgain puts indexes of packs that are proved now, in every copy. A pack
// that is not is left out: nothing may build on it.
func (v *Vault) indexAgain(ctx context.Context, ids []pack.ID) error {
	var packs []pack.Directory
	chunks := 0
	put := func() error {
		if len(packs) == 0 {
			return nil
		}
		id := ulid.Make()
		data, err := index.Encode(v.keys, id, v.keys.Epoch(), packs)
		if err != nil {
			return err
		}
		if err := v.store.Put(ctx, index.Object(id), data); err != nil {
			return writeError(index.Object(id), err)
		}
		packs, chunks = nil, 0
		return v.sameInAll(ctx, index.Object(id), data)
	}
	for _, id := range ids {
		d, err := v.provePack(ctx, id)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			continue
		}
		if len(packs) > 0 && chunks+len(d.Entries) > index.MaxChunks {
			if err := put(); err != nil {
				return err
			}
		}
		packs, chunks = append(packs, d), chunks+len(d.Entries)
	}
	return put()
}
