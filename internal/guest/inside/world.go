package inside

import (
	"context"
	"os"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/volumes"
)

// world is what the machine knows of its disks and volumes.
type world struct {
	volumes *volumes.Set
}

func newWorld() *world { return &world{volumes: volumes.New(load)} }

// root returns the mounted root folder of a volume, and mounts it first if need be,
// which ends by itself. Whoever got the file closes it.
func (w *world) root(volume backstay.VolumeID) (*os.File, error) {
	return w.volumes.Root(context.Background(), volume)
}
