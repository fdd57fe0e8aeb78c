package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
)

// Changes lists the only ranges of a disk that may differ between two points of
// a VM, in order and without overlap: what the layers above the parent's, up to
// the point's own, hold. A layer into which another was merged holds at least
// what changed, so a merge never makes the list wrong, only longer.
//
// Where this cannot be proved from the records and the files, ok is false and
// reason says why: everything must be compared (I7). An error means that the
// layers could not be read.
func (t *Tier) Changes(ctx context.Context, point, parent backstay.PointID, target backstay.DiskTarget) (ranges []backstay.Range, ok bool, reason string, err error) {
	b, err := t.load()
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
	case b.Unusable(below) != "":
		return nil, fmt.Sprintf("point %s: %s", parent, b.Unusable(below))
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
