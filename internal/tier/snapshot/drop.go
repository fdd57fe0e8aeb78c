package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// Progress is told how far a merge is, in bytes.
type Progress func(done, total int64)

// Drop takes a point out of the tier. For each disk the layer above the point's
// is committed down into it, so that every other point and the VM keep their
// content; then the layer above is gone and what rested on it rests on the
// point's old layer. The point is marked first: from then on its layers may hold
// more than it, and it is never offered again.
//
// CodeUnknownPoint if it is not recorded; CodeLayerInUse, with who, if something
// else stands on a layer. Safe to repeat.
func (t *Tier) Drop(ctx context.Context, id backstay.PointID, progress Progress) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	p := b.Points[id]
	if p == nil {
		return backstay.Errorf(backstay.CodeUnknownPoint, "no point %s in the snapshot tier of host %s", id, t.host)
	}
	if p.Pinned {
		return inUse(id, "it is pinned")
	}
	if err := t.finishMerges(ctx, p.VM.UUID); err != nil {
		return err
	}
	if err := t.mark(ctx, id); err != nil {
		return err
	}
	for _, d := range p.Disks {
		if d.Layer == "" {
			continue
		}
		if err := t.dropDisk(ctx, id, d.Target, progress); err != nil {
			return t.unmark(id, err)
		}
	}
	return t.change(func(b *book) error {
		if p := b.Points[id]; p != nil {
			return b.RemovePoint(p)
		}
		return nil
	})
}

// unmark takes a refusal back as far as it can be: a point of which no layer
// was touched is offered again. Of one that is half merged the refusal becomes
// a failure, since the point is lost and only the rest of the drop is open.
func (t *Tier) unmark(id backstay.PointID, cause error) error {
	if !backstay.IsCode(cause, backstay.CodeLayerInUse) {
		return cause
	}
	err := t.change(func(b *book) error {
		p := b.Points[id]
		if p == nil || p.State == record.PointBroken {
			return nil
		}
		touched := slices.ContainsFunc(b.Merges, func(m *mergeIntent) bool { return m.Point == id })
		for _, d := range p.Disks {
			l := b.Layers[d.Layer]
			touched = touched || d.Layer != "" && (l == nil || !slices.Contains(l.Points, id))
		}
		if touched {
			cause = backstay.Errorf(backstay.CodeSnapshotFailed, "point %s is dropped by half", id).Because(cause).
				Do("see the cause; the next sweep or drop goes on with it")
			return nil
		}
		p.State, p.StateReason, p.Was = cmp.Or(p.Was, record.PointAvailable), "", ""
		return b.PutPoint(p)
	})
	return errors.Join(cause, err)
}

// mark sees that every disk can be merged, and marks the point in the same
// step in which no user can register.
func (t *Tier) mark(ctx context.Context, id backstay.PointID) error {
	b, err := t.load()
	if err != nil {
		return err
	}
	seen := map[backstay.DiskTarget]surroundings{}
	if p := b.Points[id]; p != nil && whole(p) {
		for _, d := range p.Disks {
			if l := b.Layers[d.Layer]; l != nil {
				if seen[d.Target], err = t.lookAt(ctx, b, l); err != nil {
					return err
				}
			}
		}
	}
	return t.change(func(b *book) error {
		p := b.Points[id]
		if p == nil || !whole(p) {
			return nil
		}
		if p.Pinned {
			return inUse(id, "it is pinned")
		}
		for _, d := range p.Disks {
			if _, err := b.planDrop(p, d.Target, seen[d.Target]); err != nil {
				return err
			}
		}
		p.Was, p.State, p.StateReason = p.State, record.PointDropping, "it is being dropped"
		return b.PutPoint(p)
	})
}

// whole tells whether a point's layers hold it and nothing else.
func whole(p *PointRecord) bool {
	return p.State == record.PointAvailable || p.State == record.PointMap
}

// dropKind is what is to be done with one disk of a point that is dropped.
type dropKind int

const (
	// dropUnlink: only the record changes; the layer is needed as it is.
	dropUnlink dropKind = iota
	// dropMerge: the layer above is committed into the point's.
	dropMerge
	// dropDelete: nothing stands on the layer, and it goes with the point.
	dropDelete
)

// dropPlan is the decision for one disk. VM is the one that uses the layers,
// nil if none does.
type dropPlan struct {
	kind  dropKind
	layer *Layer
	child *Layer
	use   *chainUse
}

// surroundings are what the records do not know of a layer and of what stands on it.
type surroundings struct {
	// uses are the disks of VMs that have one of them in their chain.
	uses []chainUse
	// unknown says which files stand on one of them without a record.
	unknown []string
	// fit is why the layer has no room for the one above it.
	fit error
}

// lookAt looks at what may keep a layer from being merged or removed.
func (t *Tier) lookAt(ctx context.Context, b *book, l *Layer) (s surroundings, err error) {
	if s.uses, err = t.usesOf(ctx, b.around(l)...); err != nil {
		return s, err
	}
	if s.unknown, err = t.unknownOn(ctx, b, b.around(l)...); err != nil {
		return s, err
	}
	if above := b.Children(l.ID); len(above) == 1 {
		s.fit = t.checkFit(ctx, l, above[0])
	}
	return s, nil
}

// planDrop decides what dropping the point means for one disk. It refuses with
// CodeLayerInUse, or CodeNoSpace.
func (b *book) planDrop(p *PointRecord, target backstay.DiskTarget, seen surroundings) (dropPlan, error) {
	uses := seen.uses
	l := b.Layers[p.LayerOf(target)]
	if l == nil {
		return dropPlan{}, nil
	}
	plan := dropPlan{kind: dropUnlink, layer: l}
	if !slices.Contains(l.Points, p.ID) || len(l.Points) > 1 || p.State == record.PointBroken {
		return plan, nil
	}
	if who := append(b.standing(l.ID), awaited(l)...); len(who) > 0 {
		return plan, inUse(p.ID, who...)
	}
	if len(uses) > 1 {
		return plan, inUse(p.ID, usersInWords(l, uses)...)
	}
	children := b.Children(l.ID)
	if len(uses) == 1 {
		plan.use = &uses[0]
	}
	if plan.use != nil && plan.use.active() != l.File {
		if why := plan.use.forbids(b.around(l)...); why != "" {
			return plan, inUse(p.ID, why)
		}
	}
	switch {
	case plan.use != nil && plan.use.active() == l.File:
		return plan, nil // the VM is on the layer itself and goes on there
	case len(children) > 1:
		var who []string
		for _, c := range children {
			who = append(who, fmt.Sprintf("%s stands on %s", c.File, l.File))
		}
		return plan, inUse(p.ID, who...)
	case len(children) == 0 && plan.use != nil:
		return plan, inUse(p.ID, fmt.Sprintf("%s of VM %s, which backstay did not make, stands on %s", plan.use.active(), plan.use.vm.Name, l.File))
	case len(children) == 0 && (l.Bottom || l.Kept):
		return plan, nil
	case len(seen.unknown) > 0:
		return plan, inUse(p.ID, seen.unknown...)
	case len(children) == 0:
		plan.kind = dropDelete
		return plan, nil
	}
	plan, err := b.planMerge(p, plan, children[0])
	if err == nil && plan.kind == dropMerge {
		err = seen.fit
	}
	return plan, err
}

func (b *book) planMerge(p *PointRecord, plan dropPlan, child *Layer) (dropPlan, error) {
	l := plan.layer
	plan.kind, plan.child = dropMerge, child
	if child.Bottom {
		return plan, inUse(p.ID, fmt.Sprintf("%s, which backstay did not make, stands on %s", child.File, l.File))
	}
	if who := awaited(child); len(who) > 0 {
		return plan, inUse(p.ID, who...)
	}
	// Several may stand on the layer that is merged: none of them is open but the
	// one in the chain of the VM, and each is put on the layer that has its content.
	if plan.use == nil {
		if _, err := os.Stat(child.File); os.IsNotExist(err) && len(child.Points) == 0 {
			// The VM and the file it wrote to are gone; the layer stays as it is.
			plan.kind = dropUnlink
		}
		return plan, nil
	}
	if !slices.Contains(plan.use.chain, child.File) {
		return plan, inUse(p.ID, fmt.Sprintf("VM %s uses %s without %s", plan.use.vm.Name, l.File, child.File))
	}
	return plan, nil
}

// around lists the files that dropping a layer changes or removes.
func (b *book) around(l *Layer) []string {
	files := []string{l.File}
	for _, c := range b.Children(l.ID) {
		files = append(files, c.File)
	}
	return files
}

func usersInWords(l *Layer, uses []chainUse) []string {
	var who []string
	for _, u := range uses {
		if why := u.forbids(l.File); why != "" {
			who = append(who, why)
			continue
		}
		who = append(who, fmt.Sprintf("disk %s of VM %s stands on %s", u.target, u.vm.Name, l.File))
	}
	return who
}

// dropDisk decides and does what dropping the point means for one disk.
func (t *Tier) dropDisk(ctx context.Context, id backstay.PointID, target backstay.DiskTarget, progress Progress) error {
	if err := t.saveMap(ctx, id, target); err != nil {
		return err
	}
	plan, m, err := t.decide(ctx, id, target)
	if err != nil {
		return err
	}
	switch {
	case plan.layer == nil:
		return nil
	case plan.kind == dropMerge:
		return t.merge(ctx, m, false, progress)
	case plan.kind == dropDelete:
		return t.deleteLeaf(id, plan.layer)
	}
	return t.unlink(id, plan.layer.ID)
}

// decide plans one disk and journals its merge in the same step in which no
// user can register.
func (t *Tier) decide(ctx context.Context, id backstay.PointID, target backstay.DiskTarget) (plan dropPlan, m *mergeIntent, err error) {
	b, err := t.load()
	if err != nil {
		return plan, nil, err
	}
	p := b.Points[id]
	if p == nil || b.Layers[p.LayerOf(target)] == nil {
		return plan, nil, nil
	}
	seen, err := t.lookAt(ctx, b, b.Layers[p.LayerOf(target)])
	if err != nil {
		return plan, nil, err
	}
	err = t.change(func(b *book) error {
		p := b.Points[id]
		if p == nil {
			return nil
		}
		if plan, err = b.planDrop(p, target, seen); err != nil || plan.kind != dropMerge {
			return err
		}
		m = &mergeIntent{
			Point: id, VM: p.VM.UUID, Target: target,
			Into: plan.layer.ID, Child: plan.child.ID, Path: record.MergeFile(plan.layer),
		}
		return m.Write()
	})
	return plan, m, err
}

// unlink takes the point off a layer that stays.
func (t *Tier) unlink(id backstay.PointID, layer backstay.LayerID) error {
	return t.change(func(b *book) error {
		l := b.Layers[layer]
		if l == nil {
			return nil
		}
		l.Points = record.Without(l.Points, id)
		if b.idle(l) {
			return b.RemoveLayer(l)
		}
		return b.Put(l)
	})
}

// deleteLeaf removes a layer on which nothing stands: file first, record last.
func (t *Tier) deleteLeaf(id backstay.PointID, l *Layer) error {
	return t.change(func(b *book) error {
		now := b.Layers[l.ID]
		if now == nil {
			return nil
		}
		if now.Bottom || now.Kept || len(record.Without(now.Points, id)) > 0 || len(now.Users) > 0 || len(b.Children(l.ID)) > 0 {
			return inUse(id, "something came to stand on "+l.File)
		}
		if err := record.RemoveFile(l.File); err != nil {
			return err
		}
		return b.RemoveLayer(now)
	})
}
