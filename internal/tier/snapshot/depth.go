package snapshot

import (
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// checkDepth refuses a point that would make a disk's chain too deep: with more
// points than most, or with more layers than the hypervisor is asked to carry,
// whoever made them. It is the last guard; the engines drop first.
func (b *book) checkDepth(domain *hypervisor.Domain, disks []backstay.Disk, most int) error {
	if most <= 0 || most > backstay.MaxDepth {
		most = backstay.MaxDepth
	}
	for _, d := range disks {
		points := b.pointsIn(domain.Chains[d.Target])
		// The lowest file is no layer of anybody's, and the new overlay is one.
		layers := len(domain.Chains[d.Target])
		if len(points) < most && layers <= backstay.MaxDepth {
			continue
		}
		err := backstay.Errorf(backstay.CodeTooDeep, "disk %s of %s would have too many layers", d.Target, domain.VM.Name)
		what := fmt.Sprintf("%d points are on its chain of %d files, and %d points and %d layers are the most", len(points), layers, most, backstay.MaxDepth)
		for _, p := range points {
			what += fmt.Sprintf("; point %s: %s", p.ID, strings.Join(b.held(p), ", "))
		}
		return err.Becausef("%s", what)
	}
	return nil
}

// pointsIn returns the points that rest on the files of a chain, oldest first, in
// whatever state they are: each keeps a layer.
func (b *book) pointsIn(chain []string) []*PointRecord {
	var points []*PointRecord
	for _, file := range chain {
		l := b.ByFile(file)
		if l == nil {
			continue
		}
		for _, id := range l.Points {
			if p := b.Points[id]; p != nil && !slices.Contains(points, p) {
				points = append(points, p)
			}
		}
	}
	slices.SortFunc(points, func(a, b *PointRecord) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return points
}

// held says what keeps a point in the tier.
func (b *book) held(p *PointRecord) []string {
	var why []string
	if p.Pinned {
		why = append(why, "it is pinned")
	}
	for _, d := range p.Disks {
		l := b.Layers[d.Layer]
		if l == nil {
			continue
		}
		why = append(why, b.standing(l.ID)...)
		if above := b.Children(l.ID); len(above) > 1 {
			why = append(why, fmt.Sprintf("%d layers stand on %s", len(above), l.File))
		}
	}
	if len(why) == 0 {
		return []string{"nothing holds it"}
	}
	slices.Sort(why)
	return slices.Compact(why)
}
