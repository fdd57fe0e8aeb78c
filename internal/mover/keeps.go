package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Keeps says what of a VM's points stays beside its disks.
type Keeps interface {
	// Pin keeps a point in the snapshot tier whatever is asked of it, or lets it go
	// again: while it is pinned DropPoint, KeepMap and Release refuse with
	// CodeLayerInUse. It is written beside the disks, so it holds also when the
	// catalogue is lost. CodeUnknownPoint if the point is not there.
	Pin(ctx context.Context, p backstay.PointID, pinned bool) error
	// KeepMap takes a point that its vault has out of the snapshot tier, all but
	// what the next change map is relative to: it is not offered any more, and its
	// layer goes when a later point is in the vault. Those of the VM's earlier
	// points of which only this was left go now. No error if it is not there.
	KeepMap(ctx context.Context, p backstay.PointID, progress Progress) error
}

// Released says how a VM was put back on files of its own.
type Released struct {
	// Notes say what is not as it was before the VM's protection began, and why.
	Notes []string
}
