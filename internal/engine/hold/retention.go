package hold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/pair"
)

// PlanExpire returns the points of a replica that this region lets go: those that
// are older than it keeps points, and are not among the newest of their VM. It is
// told by the pseudonym of the VM, so no key is needed.
func PlanExpire(points []catalog.HeldPoint, keep backstay.ReplicaKeep, now time.Time) []catalog.HeldPoint {
	newestFirst := slices.Clone(points)
	slices.SortFunc(newestFirst, func(a, b catalog.HeldPoint) int {
		return cmp.Or(b.Taken.Compare(a.Taken), strings.Compare(string(b.Point), string(a.Point)))
	})
	limit := now.Add(-time.Duration(keep.Days) * 24 * time.Hour)
	seen := map[string]int{}
	var gone []catalog.HeldPoint
	for _, p := range newestFirst {
		if p.Gone != nil {
			continue
		}
		seen[p.Item]++
		if seen[p.Item] > max(1, keep.Points) && p.Taken.Before(limit) {
			gone = append(gone, p)
		}
	}
	return gone
}

// Expired is what an expiry of a replica did.
type Expired struct {
	Gone []backstay.PointID
	// Kept are points that were to go and are in use, with what uses them.
	Kept map[backstay.PointID]string
}

// Expire lets go the points of a replica that its retention here no longer keeps.
// For each: that it is gone is noted, so that it is not pushed again; then the
// catalogue's point goes, then the manifest. Killed in between, the next sweep
// removes the manifest. No data object is touched. A point that is pinned or in
// use stays until the next time.
func (k *Keeper) Expire(ctx context.Context, name backstay.VaultName) (Expired, error) {
	done := Expired{Kept: map[backstay.PointID]string{}}
	one := lock(k, k.sweeps, name)
	one.Lock()
	defer one.Unlock()
	entry, err := k.entry(ctx, name)
	if err != nil {
		return done, err
	}
	points, err := k.Catalog.Held.ListHeld(ctx, name)
	if err != nil {
		return done, err
	}
	for _, p := range PlanExpire(points, entry.Kept(), k.Now().UTC()) {
		why, err := k.InUse(ctx, p.Point)
		if err != nil {
			return done, err
		}
		if why != "" {
			done.Kept[p.Point] = why
			continue
		}
		if err := k.letGo(ctx, entry, p); err != nil {
			return done, err
		}
		done.Gone = append(done.Gone, p.Point)
	}
	return done, nil
}

// LetGo lets one point of a replica go because somebody says so, in the order of
// Expire. Nobody is asked whether it is in use. It is no error if it is gone.
func (k *Keeper) LetGo(ctx context.Context, name backstay.VaultName, id backstay.PointID) error {
	one := lock(k, k.sweeps, name)
	one.Lock()
	defer one.Unlock()
	entry, err := k.entry(ctx, name)
	if err != nil {
		return err
	}
	held, err := k.Catalog.Held.HeldPoint(ctx, name, id)
	if errors.Is(err, catalog.ErrNotFound) {
		held, err = catalog.HeldPoint{Vault: name, Point: id}, nil
	}
	if err != nil || held.Gone != nil {
		return err
	}
	return k.letGo(ctx, entry, held)
}

func (k *Keeper) letGo(ctx context.Context, entry backstay.Vault, p catalog.HeldPoint) error {
	now := k.Now().UTC()
	p.Gone = &now
	if err := k.Catalog.Held.PutHeld(ctx, p); err != nil {
		return err
	}
	if err := k.forget(ctx, entry.Name, p.Point); err != nil {
		return err
	}
	r, err := k.replica(ctx, entry)
	if err != nil {
		return err
	}
	return r.Drop(ctx, p.Point)
}

// forget takes a point out of the catalogue, if it is the replica's.
func (k *Keeper) forget(ctx context.Context, name backstay.VaultName, id backstay.PointID) error {
	known, err := k.Catalog.Points.Point(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && known.Vault != name {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read point %s: %w", id, err)
	}
	return k.Catalog.Points.DeletePoint(ctx, id)
}

// Reclaim gives back what no point of a replica needs any more. With dry nothing
// is deleted, and what would be is told.
func (k *Keeper) Reclaim(ctx context.Context, name backstay.VaultName, dry bool, progress func(done, total int64)) (Swept, error) {
	one := lock(k, k.sweeps, name)
	one.Lock()
	defer one.Unlock()
	entry, err := k.entry(ctx, name)
	if err != nil {
		return Swept{}, err
	}
	if behind := len(entry.Units) - len(entry.Whole()); behind > 0 {
		return Swept{}, backstay.Errorf(backstay.CodeReclaimStopped, "reclaim of the replica %s stopped, and nothing was deleted", name).
			Becausef("%d of its storage units have no whole copy, and what is there cannot be told from what is missing", behind)
	}
	points, err := k.Catalog.Held.ListHeld(ctx, name)
	if err != nil {
		return Swept{}, err
	}
	o := SweepOptions{DryRun: dry, Progress: progress}
	for _, p := range points {
		if p.Gone != nil {
			o.Gone = append(o.Gone, p.Point)
		} else {
			o.Held = append(o.Held, p.Point)
		}
	}
	r, err := k.replica(ctx, entry)
	if err != nil {
		return Swept{}, err
	}
	swept, err := r.Sweep(ctx, o)
	if !dry {
		k.release(entry.Origin.Region, swept.Freed.Bytes)
	}
	return swept, err
}

// Rebuild notes every point as held whose manifest is there, whatever the catalogue
// had of it, and then settles. It is for a catalogue that was lost; a point that was
// let go and whose manifest is there is not taken back.
func (k *Keeper) Rebuild(ctx context.Context, name backstay.VaultName) error {
	entry, err := k.entry(ctx, name)
	if err != nil {
		return err
	}
	r, err := k.replica(ctx, entry)
	if err != nil {
		return err
	}
	var ids []backstay.PointID
	err = r.List(ctx, func(o pair.Object) error {
		if id, ok := strings.CutPrefix(o.Name, "points/"); ok {
			ids = append(ids, backstay.PointID(id))
		}
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if _, err := k.Catalog.Held.HeldPoint(ctx, name, id); !errors.Is(err, catalog.ErrNotFound) {
			errs = append(errs, err)
			continue
		}
		manifest, err := r.Get(ctx, "points/"+string(id))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p, _, err := r.Complete(ctx, id, manifest)
		if err == nil {
			err = k.note(ctx, entry, p)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, k.Settle(ctx, name, true))...)
}

// Settle makes the catalogue's points agree with what is held: one that was noted
// as held and not recorded is recorded, and one that is gone is taken out. With
// readable, because the vault's key is at hand, those are recorded again of which too
// little could be read before.
func (k *Keeper) Settle(ctx context.Context, name backstay.VaultName, readable bool) error {
	entry, err := k.entry(ctx, name)
	if err != nil {
		return err
	}
	points, err := k.Catalog.Held.ListHeld(ctx, name)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range points {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if h.Gone != nil {
			errs = append(errs, k.forget(ctx, name, h.Point))
			continue
		}
		known, err := k.Catalog.Points.Point(ctx, h.Point)
		if err == nil && (known.VM.UUID != "" || !readable) {
			continue
		}
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return fmt.Errorf("read point %s: %w", h.Point, err)
		}
		errs = append(errs, k.Record(ctx, entry, Point{ID: h.Point, Item: h.Item, Time: h.Taken, Root: h.Root, Packs: h.Packs}))
	}
	return errors.Join(errs...)
}
