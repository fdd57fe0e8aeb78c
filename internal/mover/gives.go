package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// GivesWay ends what must not stand in the way of what is needed more.
type GivesWay interface {
	// EndSessionsOn ends the sessions of item-level restore that keep layers of a point
	// from being merged, and returns them. why is what their users are told. For a
	// minute no new session can stand on these layers. No error if there is none.
	EndSessionsOn(ctx context.Context, p backstay.PointID, why string) ([]backstay.FileSessionID, error)
}

// Needed is a point that must leave the snapshot tier now, and why.
type Needed struct {
	Point backstay.PointID
	Why   string // in words that follow "session … has ended:"
}

// Dropper is the part of a Mover that DropNeeded uses.
type Dropper interface {
	// DropPoint is that of Snapshots.
	DropPoint(ctx context.Context, p backstay.PointID, progress Progress) error
	GivesWay
}

// DropNeeded is DropPoint for one whose room is needed: sessions of item-level
// restore give way to it.
func DropNeeded(ctx context.Context, m Dropper, n Needed, progress Progress) error {
	err := m.DropPoint(ctx, n.Point, progress)
	if !backstay.IsCode(err, backstay.CodeLayerInUse) {
		return err
	}
	ended, endErr := m.EndSessionsOn(ctx, n.Point, n.Why)
	if endErr != nil || len(ended) == 0 {
		return err
	}
	return m.DropPoint(ctx, n.Point, progress)
}
