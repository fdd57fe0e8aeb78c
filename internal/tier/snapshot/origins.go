package snapshot

import (
	"context"
	"slices"

	backstay "github.com/backstay/backstay"
)

// Origins lists the points, newest first, relative to which Changes may tell what
// changed up to a point of the tier: those of its VM that were seen to be in their
// vault, and those of which a change map was saved. Each is a hint; Changes proves.
func (t *Tier) Origins(_ context.Context, point backstay.PointID) ([]backstay.PointID, error) {
	b, err := t.load()
	if err != nil || b.Points[point] == nil {
		return nil, err
	}
	vm := b.Points[point].VM.UUID
	maps, err := t.maps(vm)
	if err != nil {
		return nil, err
	}
	var found []backstay.PointID
	for _, p := range b.Points {
		if p.VM.UUID == vm && p.Vaulted {
			found = append(found, p.ID)
		}
	}
	for _, m := range maps {
		found = append(found, m.From)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	slices.Reverse(found)
	return found, nil
}
