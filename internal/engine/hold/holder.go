package hold

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/pair"
)

// holder is the pair.Holder of one region.
type holder struct {
	k      *Keeper
	region backstay.RegionName
}

func refused(format string, args ...any) *backstay.Error {
	return backstay.Errorf(backstay.CodeReplicaRefused, "what was pushed is not taken in").Becausef(format, args...)
}

// Offer implements pair.Holder. The first region to offer a vault is the one whose
// it is here. The row of the replica is written when its units are ready: killed
// before it, the next offer finds the units, and makes the row.
func (h *holder) Offer(ctx context.Context, o pair.Offer) (pair.Held, error) {
	entry, err := h.take(ctx, o)
	if err != nil {
		return pair.Held{}, err
	}
	if err := h.witness(ctx, entry, o.Head); err != nil {
		return pair.Held{}, err
	}
	held := pair.Held{Available: map[backstay.PointID]time.Time{}, Gone: map[backstay.PointID]time.Time{}}
	points, err := h.k.Catalog.Held.ListHeld(ctx, entry.Name)
	if err != nil {
		return held, err
	}
	for _, p := range points {
		if p.Gone != nil {
			held.Gone[p.Point] = *p.Gone
		} else {
			held.Available[p.Point] = p.Since
		}
	}
	if held.Room, err = h.k.room(ctx, h.region); err != nil {
		return held, err
	}
	held.Head = o.Head
	if now, err := h.k.entry(ctx, entry.Name); err == nil && now.Head != nil {
		held.Head = *now.Head
	}
	return held, nil
}

// take returns the row of an offered vault, which is made if it is the first offer.
func (h *holder) take(ctx context.Context, o pair.Offer) (backstay.Vault, error) {
	if !vaultName.MatchString(string(o.Name)) {
		return backstay.Vault{}, refused("%q is not the name of a vault", o.Name)
	}
	if !validID(o.ID) {
		return backstay.Vault{}, refused("%q is not the id of a vault", o.ID)
	}
	h.k.taking.Lock() // also from another region: two replicas never choose the same units
	defer h.k.taking.Unlock()
	all, err := h.k.Catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return backstay.Vault{}, fmt.Errorf("list vaults: %w", err)
	}
	origin := backstay.VaultOrigin{Region: h.region, Vault: o.Name}
	name, own := backstay.ReplicaName(origin), 0
	for _, v := range all {
		theirs := v.Origin != nil && v.Origin.Region == h.region
		switch {
		case v.ID == o.ID && theirs:
			return v, nil // whatever it is called there by now
		case v.ID == o.ID:
			return v, refused("the vault %s (%s) is not one of the region %s here", o.Name, o.ID, h.region)
		case v.Name == name:
			return v, refused("another vault %s of the region %s is held already: its id is %s, and that of this one %s", o.Name, h.region, v.ID, o.ID)
		case theirs:
			own++
		}
	}
	if own >= maxVaults {
		return backstay.Vault{}, backstay.Errorf(backstay.CodeRegionQuota, "the region %s has %d vaults held here, and no more are taken", h.region, own)
	}
	entry := backstay.Vault{Name: name, ID: o.ID, Redundancy: backstay.LRS, Created: o.Created.UTC(), Origin: &origin}
	if entry, err = h.k.Make(ctx, entry); err != nil {
		return entry, err
	}
	if err := h.k.Catalog.Vaults.CreateVault(ctx, entry); err != nil {
		return entry, fmt.Errorf("record vault %s: %w", entry.Name, err)
	}
	return entry, nil
}

// validID demands the one form of a UUID.
func validID(id string) bool {
	if len(id) != 36 {
		return false
	}
	for i, c := range []byte(id) {
		switch dash := i == 8 || i == 13 || i == 18 || i == 23; {
		case dash && c == '-':
		case !dash && strings.IndexByte("0123456789abcdef", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// witness refuses a vault that is in an older state than was seen of it, and
// remembers a newer one.
func (h *holder) witness(ctx context.Context, entry backstay.Vault, head backstay.VaultHead) error {
	var rolled error
	err := h.k.Change(ctx, entry.Name, func(now *backstay.Vault) bool {
		seen := backstay.VaultHead{}
		if now.Head != nil {
			seen = *now.Head
		}
		if head.Seq < seen.Seq || head.Seq == seen.Seq && head.Seq > 0 && head.Hash != seen.Hash {
			rolled = backstay.Errorf(backstay.CodeVaultRolledBack, "the vault %s is in an older state than this region has seen of it", entry.Origin.Vault).
				Becausef("its chain ends with record %d (%.12s), and record %d (%.12s) was seen before", head.Seq, head.Hash, seen.Seq, seen.Hash).
				Do("find out who put an older state on its storage units; if that state is to count from now on, say so in both regions: `backstay vault catalog %s rebuild` at home, `backstay vault catalog %s rebuild` here", entry.Origin.Vault, entry.Name)
			return false
		}
		if head.Seq <= seen.Seq {
			return false
		}
		now.Head = &head
		return true
	})
	return errors.Join(rolled, err)
}

// of returns the replica of a vault of this region.
func (h *holder) of(ctx context.Context, id string) (backstay.Vault, *replica, error) {
	own, err := h.k.held(ctx, h.region)
	if err != nil {
		return backstay.Vault{}, nil, err
	}
	entry, ok := own[id]
	if !ok {
		return entry, nil, backstay.Errorf(backstay.CodeUnknownVault, "the region %s has no such vault here", h.region).Becausef("%q was not offered", id)
	}
	r, err := h.k.replica(ctx, entry)
	return entry, r, err
}

// do calls fn with the replica, and once more if another set of units is written
// after it failed.
func (h *holder) do(ctx context.Context, id string, fn func(backstay.Vault, *replica) error) error {
	for again := 0; ; again++ {
		entry, r, err := h.of(ctx, id)
		if err == nil {
			err = fn(entry, r)
		}
		if err == nil || ctx.Err() != nil || h.k.Failed == nil || again == 3 || entry.Name == "" || !h.k.Failed(ctx, entry.Name, err) {
			return full(err)
		}
	}
}

// Lacks implements pair.Holder.
func (h *holder) Lacks(ctx context.Context, vault string, objects []pair.Object) (lacks []string, err error) {
	if len(objects) > pair.MaxAsked {
		return nil, refused("%d objects were asked for at once, and %d is the most", len(objects), pair.MaxAsked)
	}
	err = h.do(ctx, vault, func(_ backstay.Vault, r *replica) error {
		lacks, err = r.Lacks(ctx, objects)
		return err
	})
	return lacks, err
}

// Put implements pair.Holder.
func (h *holder) Put(ctx context.Context, vault string, o pair.Object, content io.Reader) error {
	if o.Size <= 0 || o.Size > pair.MaxObject {
		return refused("%s is announced with %d bytes, and %d is the most", o.Name, o.Size, int64(pair.MaxObject))
	}
	if strings.HasPrefix(o.Name, "points/") {
		return refused("%s is a manifest, which comes last", o.Name)
	}
	if _, _, err := h.of(ctx, vault); err != nil {
		return err
	}
	if err := h.k.reserve(ctx, h.region, o.Size); err != nil {
		return err
	}
	reserved := max(o.Size, leastSize)
	leave, err := h.k.enter(ctx, h.region)
	if err != nil {
		h.k.release(h.region, reserved)
		return err
	}
	defer leave()
	data, err := readAll(content, o.Size)
	if err == nil {
		err = h.do(ctx, vault, func(_ backstay.Vault, r *replica) error {
			grown, err := r.Put(ctx, o, data)
			if grown > 0 {
				reserved = 0
			}
			return err
		})
	}
	h.k.release(h.region, reserved)
	return err
}

// readAll reads exactly so many bytes; more or fewer are refused.
func readAll(content io.Reader, size int64) ([]byte, error) {
	var data bytes.Buffer
	data.Grow(int(min(size, 4<<20)) + bytes.MinRead) // a size is a claim until the bytes came
	n, err := data.ReadFrom(io.LimitReader(content, size+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("receive an object: %w", err)
	case n != size:
		return nil, refused("%d bytes were announced, and others came", size)
	}
	return data.Bytes(), nil
}

// Complete implements pair.Holder. The manifest is put, then the point is noted as
// held, then the catalogue's points learn of it. Killed in between, the manifest
// is there and all that it needs, and the next Complete notes it.
func (h *holder) Complete(ctx context.Context, vault string, point backstay.PointID, manifest []byte) error {
	if len(manifest) > pair.MaxObject {
		return refused("the manifest of point %s has %d bytes, and %d is the most", point, len(manifest), int64(pair.MaxObject))
	}
	if err := h.k.reserve(ctx, h.region, int64(len(manifest))); err != nil {
		return err
	}
	reserved := max(int64(len(manifest)), leastSize)
	err := h.do(ctx, vault, func(entry backstay.Vault, r *replica) error {
		if err := h.completable(ctx, entry, point); err != nil {
			return err
		}
		p, grown, err := r.Complete(ctx, point, manifest)
		if grown > 0 {
			reserved = 0
		}
		if err != nil {
			return err
		}
		return h.k.note(ctx, entry, p)
	})
	h.k.release(h.region, reserved)
	return err
}

// completable refuses a point that was let go here, and one that is a point of
// another vault of this region: ids are chosen by whoever pushes.
func (h *holder) completable(ctx context.Context, entry backstay.Vault, id backstay.PointID) error {
	held, err := h.k.Catalog.Held.HeldPoint(ctx, entry.Name, id)
	switch {
	case err == nil && held.Gone != nil:
		return refused("the point %s was let go here by this region's own retention on %s", id, held.Gone.Format(time.RFC3339))
	case err != nil && !errors.Is(err, catalog.ErrNotFound):
		return err
	}
	known, err := h.k.Catalog.Points.Point(ctx, id)
	switch {
	case err == nil && known.Vault != entry.Name:
		return refused("the point %s is one of another vault of this region", id)
	case err != nil && !errors.Is(err, catalog.ErrNotFound):
		return err
	}
	return nil
}

// note makes the catalogue know a point that is there: first as held, then among
// the points.
func (k *Keeper) note(ctx context.Context, entry backstay.Vault, p Point) error {
	held, err := k.Catalog.Held.HeldPoint(ctx, entry.Name, p.ID)
	if errors.Is(err, catalog.ErrNotFound) {
		held = catalog.HeldPoint{Vault: entry.Name, Point: p.ID, Since: k.Now().UTC(), Taken: p.Time, Item: p.Item, Root: p.Root, Packs: p.Packs}
		err = k.Catalog.Held.PutHeld(ctx, held)
	}
	if err != nil || held.Gone != nil {
		return err // let go meanwhile
	}
	return k.Record(ctx, entry, p)
}

// List implements pair.Holder. The sums are left out: whoever pulls believes none.
func (h *holder) List(ctx context.Context, vault string, fn func(pair.Object) error) error {
	_, r, err := h.of(ctx, vault)
	if err != nil {
		return err
	}
	return r.List(ctx, fn)
}

// Get implements pair.Holder.
func (h *holder) Get(ctx context.Context, vault, name string) (io.ReadCloser, error) {
	_, r, err := h.of(ctx, vault)
	if err != nil {
		return nil, err
	}
	data, err := r.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Vaults implements pair.Holder.
func (h *holder) Vaults(ctx context.Context) ([]pair.Offer, error) {
	own, err := h.k.held(ctx, h.region)
	if err != nil {
		return nil, err
	}
	offers := make([]pair.Offer, 0, len(own))
	for _, v := range own {
		o := pair.Offer{ID: v.ID, Name: v.Origin.Vault, Created: v.Created}
		if v.Head != nil {
			o.Head = *v.Head
		}
		offers = append(offers, o)
	}
	slices.SortFunc(offers, func(a, b pair.Offer) int { return strings.Compare(a.ID, b.ID) })
	return offers, nil
}
