package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// Changes lists the only ranges of a disk that may differ between two points of
// a VM, in order and without overlap: what the layers above the parent's, up to
// the point's own, hold. A layer into which another was merged holds at least
// what changed, so a merge never makes the list wrong, only longer. Where the
// parent was dropped, what was saved of its layer then stands for it.
//
// Where this cannot be proved from the records and the files, ok is false and
// reason says why: everything must be compared (I7). An error means that the
// layers could not be read.
func (t *Tier) Changes(ctx context.Context, point, parent backstay.PointID, target backstay.DiskTarget) (ranges []backstay.Range, ok bool, reason string, err error) {
	b, err := t.load()
	if err != nil {
		return nil, false, "", err
	}
	parent, ranges, err = t.saved(b, point, parent, target)
	if err != nil {
		return nil, false, "", err
	}
	between, reason := b.between(point, parent, target)
	if reason != "" {
		return nil, false, reason, nil
	}
	for _, l := range between {
		held, err := t.images.Allocated(ctx, imageOf(&l))
		if err != nil {
			return nil, false, "", fmt.Errorf("read what layer %s holds: %w", l.File, err)
		}
		ranges = append(ranges, held...)
	}
	for _, l := range between {
		if !l.Intact() {
			return nil, false, fmt.Sprintf("layer %s was modified after it was frozen", l.File), nil
		}
	}
	return union(ranges), true, "", nil
}

// saved follows saved change maps from a parent that was dropped, or is being
// dropped, to the first point above it that is here, and returns that one with
// what changed up to it.
func (t *Tier) saved(b *book, point, parent backstay.PointID, target backstay.DiskTarget) (backstay.PointID, []backstay.Range, error) {
	p := b.Points[point]
	here := func(id backstay.PointID) bool { return b.Points[id] != nil && whole(b.Points[id]) }
	if p == nil || parent == "" || here(parent) {
		return parent, nil, nil
	}
	maps, err := t.maps(p.VM.UUID)
	if err != nil {
		return "", nil, err
	}
	var ranges []backstay.Range
	at := parent
	for !here(at) {
		i := slices.IndexFunc(maps, func(m *record.ChangeMap) bool {
			return m.From == at && m.Target == target && m.Size == sizeOf(p, target)
		})
		if i < 0 {
			return parent, nil, nil
		}
		ranges, at = append(ranges, maps[i].Ranges...), maps[i].To
		maps = slices.Delete(maps, i, i+1) // so that it ends
	}
	return at, ranges, nil
}

// between returns the layers above the parent's up to the point's own, or why
// they prove nothing.
func (b *book) between(point, parent backstay.PointID, target backstay.DiskTarget) ([]Layer, string) {
	p, below := b.Points[point], b.Points[parent]
	switch {
	case parent == "":
		return nil, "there is no earlier point"
	case p == nil:
		return nil, "the point is not in the snapshot tier"
	case b.Unusable(p) != "":
		return nil, b.Unusable(p)
	case below == nil:
		return nil, fmt.Sprintf("point %s is not in the snapshot tier any more", parent)
	case below.State != record.PointMap && b.Unusable(below) != "":
		return nil, fmt.Sprintf("point %s: %s", parent, b.Unusable(below))
	case b.Damage(below) != "":
		return nil, fmt.Sprintf("point %s: %s", parent, b.Damage(below))
	case p.VM.UUID != below.VM.UUID:
		return nil, fmt.Sprintf("point %s is of another VM", parent)
	}
	base := b.Layers[below.LayerOf(target)]
	if base == nil {
		return nil, fmt.Sprintf("disk %s is not part of point %s", target, parent)
	}
	var between []Layer
	for _, l := range b.Chain(p.LayerOf(target)) {
		if l.Size != base.Size {
			return nil, fmt.Sprintf("the size of disk %s changed", target)
		}
		if !l.Intact() {
			return nil, fmt.Sprintf("layer %s was modified after it was frozen", l.File)
		}
		if l.ID == base.ID {
			return between, ""
		}
		if l.Format != "qcow2" {
			break
		}
		between = append(between, l)
	}
	return nil, fmt.Sprintf("the layer of point %s is not below that of point %s", parent, point)
}

// sizeOf returns the guest-visible size of a disk of a point, in bytes.
func sizeOf(p *PointRecord, target backstay.DiskTarget) int64 {
	for _, d := range p.Disks {
		if d.Target == target {
			return d.Size
		}
	}
	return 0
}

// union orders ranges and joins those that touch.
func union(ranges []backstay.Range) []backstay.Range {
	slices.SortFunc(ranges, func(a, b backstay.Range) int { return cmp.Compare(a.Offset, b.Offset) })
	joined := make([]backstay.Range, 0, len(ranges))
	for _, r := range ranges {
		if n := len(joined); n > 0 && r.Offset <= joined[n-1].End() {
			joined[n-1].Length = max(joined[n-1].End(), r.End()) - joined[n-1].Offset
			continue
		}
		joined = append(joined, r)
	}
	return joined
}
