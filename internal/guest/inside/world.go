package inside

import (
	"os"

	backstay "github.com/backstay/backstay"
)

// world is what the machine knows of its disks and volumes.
type world struct{}

func newWorld() *world { return &world{} }

// root returns the mounted root folder of a volume, and mounts it first if need be.
// Whoever got the file closes it.
func (w *world) root(volume backstay.VolumeID) (*os.File, error) {
	return nil, backstay.Errorf(backstay.CodeUnknownVolume, "there is no volume %q", volume)
}
