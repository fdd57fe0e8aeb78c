package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// heldPoint is a snapshot-tier point with what keeps it there; Why is empty for
// one that may go.
type heldPoint struct {
	backstay.RecoveryPoint
	Why string
}

// toDrop orders the snapshot-tier points of a VM as they go when the chain of
// layers is full, and says of the others what keeps them. The newest point in the
// vault is the one that change maps are relative to, and the newest of all is the
// one that is missed first: they go last, in this order.
func toDrop(points []backstay.RecoveryPoint, now time.Time) (order []backstay.RecoveryPoint, kept []heldPoint) {
	points = slices.DeleteFunc(slices.Clone(points), func(p backstay.RecoveryPoint) bool { return !inSnapshotTier(p) })
	slices.SortFunc(points, func(a, b backstay.RecoveryPoint) int { return a.Time.Compare(b.Time) })
	var newest, newestInVault backstay.PointID
	for _, p := range points {
		newest = p.ID
		if p.Has(backstay.VaultTier) {
			newestInVault = p.ID
		}
	}
	var last []backstay.RecoveryPoint
	for _, p := range points {
		switch {
		case p.Pinned:
			kept = append(kept, heldPoint{p, "it is pinned"})
		case p.Expires != nil && p.Expires.After(now) && !p.Has(backstay.VaultTier):
			kept = append(kept, heldPoint{p, "it is kept until " + p.Expires.UTC().Format(time.RFC3339) + " and in no vault"})
		case stateOf(p, backstay.VaultTier) == backstay.TierCreating:
			kept = append(kept, heldPoint{p, "job " + string(p.Job) + " carries it to its vault"})
		case p.ID == newestInVault && p.ID != newest:
			last = slices.Insert(last, 0, p)
		case p.ID == newest:
			last = append(last, p)
		default:
			order = append(order, p)
		}
	}
	return append(order, last...), kept
}

// inSnapshotTier also counts a point whose drop has only begun: its layer is there.
func inSnapshotTier(p backstay.RecoveryPoint) bool { return stateOf(p, backstay.SnapshotTier) != "" }

func stateOf(p backstay.RecoveryPoint, tier backstay.Tier) backstay.TierState {
	for _, t := range p.Tiers {
		if t.Tier == tier {
			return t.State
		}
	}
	return ""
}

// makeRoom drops the oldest points that may go from the snapshot tier, until the
// chain of layers takes one more. CodeTooDeep says what keeps each of the others.
func (b *backupRun) makeRoom(ctx context.Context, m *member) error {
	points, err := b.inChain(ctx, m)
	if err != nil {
		return err
	}
	order, kept := toDrop(points, b.Now())
	bound := m.policy.Snapshot.MaxPoints()
	left := len(order) + len(kept)
	var dropped []string
	for _, p := range order {
		if left < bound {
			break
		}
		err := b.drop(ctx, m, p)
		switch {
		case backstay.IsCode(err, backstay.CodeLayerInUse):
			kept = append(kept, heldPoint{p, backstay.AsError(err).Cause})
			continue
		case err != nil:
			return err
		}
		left--
		dropped = append(dropped, string(p.ID))
		detail := fmt.Sprintf("dropped from the snapshot tier of %s, which holds %d points at most: %s", m.label(), bound, strings.Join(dropped, ", "))
		if err := b.run.Note("prepare", detail); err != nil {
			return err
		}
	}
	if left < bound {
		return nil
	}
	var why []string
	for _, k := range kept {
		why = append(why, fmt.Sprintf("point %s: %s", k.ID, k.Why))
	}
	return backstay.Errorf(backstay.CodeTooDeep, "the snapshot tier of %s holds %d points, and %d is the most", m.label(), left, bound).
		Becausef("none can go: %s", strings.Join(why, "; "))
}

// inChain returns the points of a VM whose layers are in its chain: those that its
// host lists, also if another host took them, and those that it should have.
func (b *backupRun) inChain(ctx context.Context, m *member) ([]backstay.RecoveryPoint, error) {
	listed, err := m.mover.Points(ctx)
	if err != nil {
		return nil, err
	}
	points, err := b.Catalog.Points.ListPoints(ctx, m.VM)
	if err != nil {
		return nil, fmt.Errorf("list points: %w", err)
	}
	return slices.DeleteFunc(points, func(p backstay.RecoveryPoint) bool {
		here := slices.ContainsFunc(listed, func(t mover.Taken) bool { return t.Point == p.ID })
		return !here && p.VM.Host != m.item.VM.Host
	}), nil
}

// drop takes one point out of the snapshot tier. It is marked first, so that it is
// not offered any more when its layers begin to be merged.
func (b *backupRun) drop(ctx context.Context, m *member, p backstay.RecoveryPoint) error {
	before := stateOf(p, backstay.SnapshotTier)
	if err := b.mark(ctx, p.ID, backstay.TierDeleting); err != nil {
		return err
	}
	needed := mover.Needed{Point: p.ID, Why: "a backup of its VM needed the room of a layer that it read"}
	err := mover.DropNeeded(ctx, m.mover, needed, func(r mover.Report) { b.run.Progress(r.Done, r.Total) })
	if backstay.IsCode(err, backstay.CodeLayerInUse) && before == backstay.TierAvailable {
		if markErr := b.mark(ctx, p.ID, before); markErr != nil {
			return markErr
		}
	}
	if err != nil {
		return err
	}
	return forget(ctx, b.Catalog, p.ID, backstay.SnapshotTier)
}

func (b *backupRun) mark(ctx context.Context, id backstay.PointID, state backstay.TierState) error {
	err := b.Catalog.Points.ChangePoint(ctx, id, func(p *backstay.RecoveryPoint) error {
		p.SetTier(backstay.SnapshotTier, state, b.Now())
		return nil
	})
	if err != nil {
		return fmt.Errorf("mark point %s as %s: %w", id, state, err)
	}
	return nil
}
