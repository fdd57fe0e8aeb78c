package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	// chunkCache and pageCache bound what an opened vault keeps for reading, in
	// bytes of plain content.
	chunkCache = 24 << 20
	pageCache  = 16 << 20
)

// Vault is an opened vault. It may be used concurrently.
type Vault struct {
	store   blob.Store
	copies  []blob.Store
	joining []int        // which of the copies are being filled
	spare   []blob.Store // copies that are not kept up, for chunks that no other has
	keys    *seal.Keys
	header  header
	opened  state // what the copies said of the header
	chain   *chain.Log
	journal journal
	led     ledReaders
	places  *places
	chunks  *cache[chunk.Name, []byte]
	pages   *cache[chunk.Name, *point.Page]
	replica bool // of another region's vault, to be read only
	// onDamage is told of copies that were wrong while others were not.
	onDamage func(object, unit string)
}

// copiesOf returns the copies of a store, or the store itself as the only one.
func copiesOf(s blob.Store) []blob.Store {
	if c, ok := s.(blob.Copies); ok {
		return c.Copies()
	}
	return []blob.Store{s}
}

// whole returns the copies that have everything: those that are not being filled.
// Where all are, there is nothing better than they.
func (v *Vault) whole() []blob.Store {
	if len(v.joining) == 0 || len(v.joining) >= len(v.copies) {
		return v.copies
	}
	var whole []blob.Store
	for i, c := range v.copies {
		if !slices.Contains(v.joining, i) {
			whole = append(whole, c)
		}
	}
	return whole
}

// unitName is what a copy is called in errors.
func unitName(ctx context.Context, c blob.Store, i int) string {
	if d, ok := c.(blob.Describer); ok {
		if place, err := d.Describe(ctx); err == nil && place.URL != "" {
			return place.URL
		}
	}
	return fmt.Sprintf("storage unit %d", i+1)
}

// Open opens the vault with this id and its keyset (a bare master key opens what
// the first epoch sealed). The newest header that any copy holds counts.
// CodeVaultKey if the keyset is not that of the vault that the store holds, or if
// that is another vault; CodeVaultRolledBack if the vault's header is older than
// the keyset.
func Open(ctx context.Context, s blob.Store, id string, keyset backstay.Secret, options ...OpenOption) (*Vault, error) {
	o := openOptions{cache: chunkCache}
	for _, set := range options {
		set(&o)
	}
	keys, err := seal.NewKeys(id, keyset)
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeVaultKey, "the vault cannot be opened").Because(err)
	}
	v := &Vault{store: s, copies: copiesOf(s), keys: keys, chain: chain.Open(s, keys.ChainMAC)}
	if v.places, err = newPlaces(v, o.indexDir); err != nil {
		return nil, err
	}
	v.onDamage, v.joining, v.spare = o.onDamage, o.joining, o.spare
	v.replica = o.replica
	v.chunks = newCache[chunk.Name](o.cache, func(b []byte) int { return len(b) })
	v.pages = newCache[chunk.Name](pageCache, func(p *point.Page) int { return 72*len(p.Names) + 16*len(p.Extents) + 64 })
	if v.opened, err = headerState(ctx, v.copies, id, keys); err != nil {
		return nil, err
	}
	v.header = v.opened.newest.header
	// What is written is sealed with the newest keys of which every copy knows.
	v.header.Epoch = keys.Field(min(v.opened.complete, keys.Newest()))
	return v, nil
}

// Close lets go of the local index. What the vault's points and writers still
// do may fail after it.
func (v *Vault) Close() error { return v.places.close() }

// Name returns the vault's name as its header has it.
func (v *Vault) Name() backstay.VaultName { return v.header.Name }

// Points returns the header of every point that the vault offers, in the order
// of their ids. A point that was committed, and whose manifest no copy can show
// as it was then, is in the list with its Damage. If the chain cannot be read,
// every manifest is in the list, with the reason in Unchained.
func (v *Vault) Points(ctx context.Context) ([]Header, error) {
	ids, err := v.listManifests(ctx)
	if err != nil {
		return nil, err
	}
	if !v.chained() {
		return v.headers(ctx, ids, nil)
	}
	st, err := v.chainState(ctx, true)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		headers, listErr := v.headers(ctx, ids, nil)
		for i := range headers {
			headers[i].Unchained = err
		}
		return headers, listErr
	}
	headers, err := v.headers(ctx, slices.Sorted(maps.Keys(st.Live)), st.Live)
	if err != nil || !slices.ContainsFunc(headers, func(h Header) bool { return h.Damage != nil }) {
		return headers, err
	}
	// What has no manifest may have been dropped since the chain was read.
	if st, err = v.chainState(ctx, true); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(headers, func(h Header) bool { return h.Damage != nil && st.Dropped[h.Point] > 0 }), nil
}

// headers reads manifests; with roots, those of committed points.
func (v *Vault) headers(ctx context.Context, ids []backstay.PointID, roots map[backstay.PointID]chain.Hash) ([]Header, error) {
	headers := make([]Header, 0, len(ids))
	for _, id := range ids {
		root, committed := roots[id]
		h, err := v.pointHeader(ctx, id, root)
		if backstay.IsCode(err, backstay.CodeUnknownPoint) {
			if !committed {
				continue // dropped since
			}
			err = lostManifest(id, false)
		}
		if err != nil && !backstay.IsCode(err, backstay.CodeDamaged) && !errors.Is(err, seal.ErrNewerKey) {
			return nil, err
		}
		if err != nil {
			h = Header{Point: id, Want: len(v.copies), Damage: err}
		}
		headers = append(headers, h)
	}
	return headers, nil
}

// pointHeader authenticates a manifest in every copy, and counts those in which
// it is sound; with a root, and is of that root.
func (v *Vault) pointHeader(ctx context.Context, id backstay.PointID, root chain.Hash) (Header, error) {
	var found *Header
	var errs []error
	for _, c := range v.copies {
		data, err := c.Get(ctx, point.Object(id), 0, -1)
		var h point.Header
		if err == nil {
			h, _, err = point.Decode(v.keys, id, data)
		}
		if err == nil && !root.IsZero() && root != h.Root {
			err = fmt.Errorf("the manifest is not the one that was committed: %w", seal.ErrWrong)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if found == nil {
			found = v.publicHeader(id, h)
		}
		if found.Root == h.Root {
			found.Copies++
		}
	}
	if found == nil {
		return Header{}, noPoint(id, errs)
	}
	return *found, nil
}

func (v *Vault) publicHeader(id backstay.PointID, h point.Header) *Header {
	out := &Header{Point: id, Item: fmt.Sprintf("%x", h.Item), Time: h.Time, Expires: h.Expires,
		Root: h.Root, Epoch: h.Epoch & seal.MaxEpoch, Want: len(v.copies)}
	for _, p := range h.Packs {
		out.Packs = append(out.Packs, p.String())
	}
	return out
}

// noPoint says why no copy of a manifest could be used.
func noPoint(id backstay.PointID, errs []error) error {
	for _, err := range errs {
		if !errors.Is(err, blob.ErrNotExist) {
			return readError(point.Object(id), errs...)
		}
	}
	return backstay.Errorf(backstay.CodeUnknownPoint, "the vault has no recovery point %s", id).Because(errors.Join(errs...))
}

// Usage counts what the vault holds. Points that cannot be read count as points
// and add no logical bytes.
func (v *Vault) Usage(ctx context.Context) (backstay.VaultUsage, error) {
	u := backstay.VaultUsage{Vault: v.header.Name}
	err := v.store.List(ctx, "", func(i blob.Info) error {
		u.Objects++
		u.StoredBytes += i.Size
		return nil
	})
	if err != nil {
		return u, readError("the list of objects", err)
	}
	headers, err := v.Points(ctx)
	if err != nil {
		return u, err
	}
	u.Points = len(headers)
	for _, h := range headers {
		if h.Damage != nil {
			continue
		}
		p, err := v.OpenPoint(ctx, h.Point)
		if err != nil {
			return u, err
		}
		for _, d := range p.body.Disks {
			u.LogicalBytes += d.Size
		}
	}
	return u, nil
}

// sortedPacks returns the ids of a set in order.
func sortedPacks(set map[pack.ID]bool) []pack.ID {
	ids := make([]pack.ID, 0, len(set))
	for id := range set {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b pack.ID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// Requests is how many requests to its storage units this Vault made; 0 if they
// do not count.
func (v *Vault) Requests() int64 {
	if counter, ok := v.store.(blob.Counter); ok {
		return counter.Requests()
	}
	return 0
}
