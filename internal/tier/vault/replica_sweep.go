package vault

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// SweepOptions describe a sweep of a replica.
type SweepOptions struct {
	// Held are the points that must be there: a listing without one of them stops
	// everything (I6).
	Held []backstay.PointID
	// Gone are points that were let go: what is left of their manifests is removed.
	Gone []backstay.PointID
	// DryRun deletes nothing and tells what would be deleted.
	DryRun bool
	// Progress is called with bytes deleted and the best estimate of the total.
	Progress func(done, total int64)
}

// SweepReport is what a sweep found and did.
type SweepReport struct {
	// Packs are all that are there, Freed those that were deleted, Spared those that no
	// point needs and that were asked for or put since the sweep before.
	Packs, Freed, Spared backstay.ObjectSum
	Points               int
}

// sweepBatch is how many packs are deleted while nothing can be put.
const sweepBatch = 32

// Sweep deletes the packs that no point needs whose manifest is there. What is
// needed is told by the manifests, of which every copy must list those that are
// held; a listing decides what may go, never what must stay (I6). Packs that were
// asked for or put since the last sweep stay: a point that is on its way relies on
// them. It runs beside Put and Complete, one sweep at a time.
func (r *Replica) Sweep(ctx context.Context, o SweepOptions) (SweepReport, error) {
	ctx = blob.Uncached(ctx)
	var report SweepReport
	spared := r.use.nextSweep(o.DryRun)
	points, err := r.listed(ctx, o)
	if err != nil {
		return report, err
	}
	report.Points = len(points)
	needed, shelf, err := r.mark(ctx, points)
	if err != nil {
		return report, err
	}
	var doomed []sizedPack
	var total int64
	for _, id := range slices.SortedFunc(maps.Keys(shelf), comparePacks) {
		report.Packs.Add(shelf[id].size)
		if !needed[id] {
			doomed = append(doomed, sizedPack{id, shelf[id].size})
			total += shelf[id].size
		}
	}
	for batch := range slices.Chunk(doomed, sweepBatch) {
		if err := r.deleteBatch(ctx, batch, spared, o.DryRun, &report); err != nil {
			return report, err
		}
		if o.Progress != nil {
			o.Progress(report.Freed.Bytes, total)
		}
	}
	return report, nil
}

// nextSweep begins a sweep: what was touched before the one before may go.
func (u *ReplicaUse) nextSweep(dry bool) func(pack.ID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !dry {
		u.sweeps++
		maps.DeleteFunc(u.touched, func(_ pack.ID, at int) bool { return at < u.sweeps-1 })
	}
	return func(id pack.ID) bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		_, ok := u.touched[id]
		return ok
	}
}

// touch notes that somebody relies on packs: they were said to be here, or put, or
// are needed by a point that is made whole.
func (u *ReplicaUse) touch(packs ...pack.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.touched == nil {
		u.touched = map[pack.ID]int{}
	}
	for _, id := range packs {
		u.touched[id] = u.sweeps
	}
}

// listed returns the points whose manifests are there. Every copy must list those
// that are held.
func (r *Replica) listed(ctx context.Context, o SweepOptions) ([]backstay.PointID, error) {
	all := map[backstay.PointID]bool{}
	for i, c := range r.copies {
		here := map[backstay.PointID]bool{}
		err := c.List(ctx, "points/", func(info blob.Info) error {
			id := backstay.PointID(strings.TrimPrefix(info.Name, "points/"))
			if _, err := point.ParseID(id); err == nil {
				here[id], all[id] = true, true
			}
			return nil
		})
		if err != nil {
			return nil, sweepStopped(fmt.Errorf("list the points in %s: %w", unitName(ctx, c, i), err))
		}
		for _, id := range o.Held {
			if !here[id] {
				return nil, sweepStopped(fmt.Errorf("%s does not list the point %s: a short listing, or a lost object", unitName(ctx, c, i), id))
			}
		}
	}
	for _, id := range o.Gone {
		if all[id] && !o.DryRun {
			if err := r.Drop(ctx, id); err != nil {
				return nil, err
			}
		}
		delete(all, id)
	}
	return slices.Sorted(maps.Keys(all)), nil
}

func sweepStopped(err error) *backstay.Error {
	return backstay.Errorf(backstay.CodeReclaimStopped, "reclaim of the replica stopped, and nothing was deleted").Because(err).
		Do("look after the storage unit, run `backstay vault verify` and `backstay vault repair`, and reclaim then")
}

// mark finds out which packs the points need, and which are there.
func (r *Replica) mark(ctx context.Context, points []backstay.PointID) (map[pack.ID]bool, map[pack.ID]shelved, error) {
	shelf, err := r.shelf(ctx, nil)
	if err != nil {
		return nil, nil, sweepStopped(err)
	}
	moves, err := r.readMoves(ctx)
	if err != nil {
		return nil, nil, sweepStopped(err)
	}
	w := &ways{whole: func(id pack.ID) bool { return shelf[id].whole(len(r.whole)) }, moves: moves}
	needed := map[pack.ID]bool{}
	for _, id := range points {
		h, err := r.manifest(ctx, id)
		if err != nil {
			return nil, nil, sweepStopped(fmt.Errorf("read the manifest of point %s: %w", id, err))
		}
		name, err := point.ParseID(id)
		if err != nil {
			return nil, nil, sweepStopped(err)
		}
		for _, p := range h.Packs {
			needed[p] = true // also if another holds it as well: a copy of it may be all that is sound
			if w.whole(p) {
				continue
			}
			held, ok := w.find(name, p)
			if !ok {
				return nil, nil, sweepStopped(fmt.Errorf("the point %s needs %s, which is not in every copy: a short listing, or a lost object", id, p.Object()))
			}
			for _, h := range held {
				needed[h] = true
			}
		}
	}
	return needed, shelf, nil
}

// deleteBatch deletes a few packs while nothing can be put or made whole.
func (r *Replica) deleteBatch(ctx context.Context, batch []sizedPack, spared func(pack.ID) bool, dry bool, report *SweepReport) error {
	r.use.using.Lock()
	defer r.use.using.Unlock()
	for _, p := range batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		if spared(p.id) {
			report.Spared.Add(p.size)
			continue
		}
		if !dry {
			r.forget(p.id)
			if err := r.store.Delete(ctx, p.id.Object()); err != nil {
				return writeError("removing "+p.id.Object(), err)
			}
		}
		report.Freed.Add(p.size)
	}
	return nil
}

func (r *Replica) forget(id pack.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.proved, id)
}
