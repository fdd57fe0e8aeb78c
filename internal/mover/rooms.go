package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Rooms watches over the room that layers take beside the guests' disks.
type Rooms interface {
	// Room tells for each file system with layers what is left on it and who takes
	// it. It is cheap enough to be asked several times a second. Host names and
	// floors are left empty.
	Room(ctx context.Context) ([]backstay.Room, error)
	// Unstall lets a VM go on that stands still since a disk failed it, and
	// tells whether it did.
	Unstall(ctx context.Context, vm backstay.VMID) (bool, error)
}
