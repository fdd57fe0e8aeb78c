package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// Pin keeps a point whatever is asked of it, or lets it go again. It is written
// beside the disks and so outlives the catalogue.
func (t *Tier) Pin(_ context.Context, id backstay.PointID, pinned bool) error {
	return t.change(func(b *book) error {
		p := b.Points[id]
		if p == nil {
			return backstay.Errorf(backstay.CodeUnknownPoint, "no point %s in the snapshot tier of host %s", id, t.host)
		}
		if p.Pinned == pinned {
			return nil
		}
		if why := b.Unusable(p); pinned && why != "" {
			return backstay.Errorf(backstay.CodeNotRestorable, "point %s cannot be pinned in the snapshot tier", id).Becausef("%s", why)
		}
		p.Pinned = pinned
		return b.PutPoint(p)
	})
}

// Vaulted notes that a point is in its vault: later change maps are relative to
// it, and what was saved for earlier ones is not needed any more.
func (t *Tier) Vaulted(_ context.Context, id backstay.PointID) error {
	return t.change(func(b *book) error {
		p := b.Points[id]
		if p == nil {
			return nil
		}
		if !p.Vaulted {
			p.Vaulted = true
			if err := b.PutPoint(p); err != nil {
				return err
			}
		}
		return b.RemoveMaps(p.VM.UUID, func(m *record.ChangeMap) bool { return m.From < id })
	})
}

// KeepMap takes a point that is in its vault out of the tier, all but what the
// next change map is relative to, and drops those earlier ones of the VM of which
// only this was left. So a disk has never more than its file, one frozen overlay
// for a moment, and the one that is written to. No error if there is no such point.
func (t *Tier) KeepMap(ctx context.Context, id backstay.PointID, progress Progress) error {
	var vm backstay.VMID
	err := t.change(func(b *book) error {
		p := b.Points[id]
		if p == nil {
			return nil
		}
		vm = p.VM.UUID
		switch {
		case p.Pinned:
			return inUse(id, "it is pinned")
		case p.State != record.PointAvailable:
			return nil
		}
		p.State, p.Vaulted = record.PointMap, true
		return b.PutPoint(p)
	})
	if err != nil || vm == "" {
		return err
	}
	return t.dropMaps(ctx, vm, progress)
}

// dropMaps drops the points of a VM of which only the map is kept, if a later
// one is in the vault. One that something stands on waits.
func (t *Tier) dropMaps(ctx context.Context, vm backstay.VMID, progress Progress) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	newest := b.newestVaulted(vm)
	var old []backstay.PointID
	for _, p := range b.Points {
		if p.VM.UUID == vm && p.State == record.PointMap && p.ID < newest {
			old = append(old, p.ID)
		}
	}
	slices.Sort(old)
	for _, id := range old {
		err := t.Drop(ctx, id, progress)
		switch {
		case backstay.IsCode(err, backstay.CodeLayerInUse), halfDropped(err):
			t.log.Info("a drop waits", "point", id, "reason", err)
		case err != nil:
			return err
		}
	}
	return nil
}

// newestVaulted returns the newest point of a VM that was seen to be in its
// vault, or "".
func (b *book) newestVaulted(vm backstay.VMID) (newest backstay.PointID) {
	for _, p := range b.Points {
		if p.VM.UUID == vm && p.Vaulted {
			newest = max(newest, p.ID)
		}
	}
	return newest
}

// longestMap is the most ranges that a saved map has. One that has more is made
// coarser: it may name what did not change, never omit what did.
const longestMap = 100_000

// saveMap saves what changed from a point to the next one, if a transfer that is
// pending or failed may still need it, before the merge that makes them one. A
// map that cannot be proved is not saved: then everything is compared (I7). Nor
// is one for which there is no room: the guest's comes first (I12).
func (t *Tier) saveMap(ctx context.Context, id backstay.PointID, target backstay.DiskTarget) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	p := b.Points[id]
	if p == nil {
		return nil
	}
	child, next := b.nextOn(p, target)
	if child == nil {
		return nil
	}
	if wanted, err := t.wantsMap(b, p); err != nil || !wanted {
		return err
	}
	held, err := t.images.Allocated(ctx, imageOf(child))
	if err != nil {
		return fmt.Errorf("save change map of disk %s: %w", target, err)
	}
	if !child.Intact() {
		return nil
	}
	m := &record.ChangeMap{
		VM: p.VM.UUID, Target: target, From: p.ID, To: next, Size: child.Size,
		Layer: child.ID, Stamp: *child.Stamp, Ranges: coarser(union(held), longestMap),
	}
	err = t.change(func(b *book) error { return b.PutMap(m, child) })
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		t.log.Warn("a change map is not saved: the file system is full", "point", id, "disk", target)
		return nil
	}
	return err
}

// nextOn returns the frozen layer that alone tells what changed on a disk from a
// point to the next, and that next point; nil if none does.
func (b *book) nextOn(p *PointRecord, target backstay.DiskTarget) (*Layer, backstay.PointID) {
	l := b.Layers[p.LayerOf(target)]
	if l == nil || p.State == record.PointBroken || !slices.Contains(l.Points, p.ID) {
		return nil, ""
	}
	above := b.Children(l.ID)
	if len(above) != 1 || len(above[0].Points) == 0 {
		return nil, ""
	}
	child := above[0]
	next := b.Points[child.Points[0]]
	if next == nil || next.VM.UUID != p.VM.UUID || child.Format != "qcow2" || child.Size != l.Size || !child.Intact() {
		return nil, ""
	}
	return child, next.ID
}

// wantsMap tells whether a transfer may be relative to a point: it is the newest
// in the vault, or a saved map leads from that one to it, or it is not known
// which one is.
func (t *Tier) wantsMap(b *book, p *PointRecord) (bool, error) {
	newest := b.newestVaulted(p.VM.UUID)
	if newest == "" || newest == p.ID {
		return true, nil
	}
	if newest > p.ID {
		return false, nil
	}
	maps, err := t.maps(p.VM.UUID)
	return slices.ContainsFunc(maps, func(m *record.ChangeMap) bool { return m.To == p.ID }), err
}

// maps reads the saved change maps of a VM.
func (t *Tier) maps(vm backstay.VMID) (maps []*record.ChangeMap, err error) {
	err = t.change(func(b *book) error {
		maps, err = b.Maps(vm)
		return err
	})
	return maps, err
}

// coarser returns ordered ranges that cover all of the given ones and are at
// most so many: the smallest gaps are closed first.
func coarser(ranges []backstay.Range, most int) []backstay.Range {
	if len(ranges) <= most {
		return ranges
	}
	gaps := make([]int64, 0, len(ranges)-1)
	for i := range ranges[1:] {
		gaps = append(gaps, ranges[i+1].Offset-ranges[i].End())
	}
	slices.SortFunc(gaps, func(a, b int64) int { return cmp.Compare(b, a) })
	least := gaps[most-1] // gaps this small, and smaller ones, are closed
	joined := ranges[:1:1]
	for _, r := range ranges[1:] {
		last := &joined[len(joined)-1]
		if r.Offset-last.End() <= least {
			last.Length = r.End() - last.Offset
			continue
		}
		joined = append(joined, r)
	}
	return joined
}
