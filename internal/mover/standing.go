package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// PointPlace says of a point in which folders the layers of its disks were.
type PointPlace struct {
	Point   backstay.PointID
	Folders []string
}

// Standings answers what became of points that Points does not list.
type Standings interface {
	// Lost returns the points that cannot be read in the snapshot tier any more,
	// with the reason. It names a point only if it looked where the point must be
	// and saw that it is not there, or not what it was: a folder that cannot be
	// looked into loses no point (I5, I6).
	Lost(ctx context.Context, places []PointPlace) (map[backstay.PointID]string, error)
}
