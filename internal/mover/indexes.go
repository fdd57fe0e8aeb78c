package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// IndexRequest asks to list all files of a point for Find, and to keep that in the
// vault, sealed.
type IndexRequest struct {
	Job   backstay.JobID
	Point backstay.PointID
	VM    backstay.VMID
	Tier  backstay.Tier // from which the point is read
	Vault VaultAccess   // where the index is kept
	// HashUpTo is the size in bytes up to which the content of files is hashed.
	HashUpTo int64
}

// Indexed says what an index holds.
type Indexed struct {
	Files   int64 // entries of all volumes
	Changed int64 // of them, those that differ from the point before
	Hashed  int64 // bytes of content that were read for hashes
	// Notes name volumes that could not be read, and why.
	Notes []string
}

// FindRequest asks for files over all points of a VM.
type FindRequest struct {
	VM    backstay.VMID
	Vault VaultAccess
	// Pattern is a glob if it holds any of *?[ and a part of the path otherwise.
	Pattern string
	Points  []backstay.PointID // that exist; versions in no others are left out
	Limit   int                // the most paths
}

// FoundFiles answers a FindRequest.
type FoundFiles struct {
	Files []backstay.FoundFile
	More  bool // there were more than Limit
	// Without are the points that have no index.
	Without []backstay.PointID
}

// DiffRequest asks what differs between two points of one VM. Vault is that of the points;
// nil if both are in the snapshot tier alone.
type DiffRequest struct {
	Before, After         backstay.PointID
	BeforeTier, AfterTier backstay.Tier
	Vault                 *VaultAccess
	Limit                 int // the most files
}

// Indexes keeps and searches the lists of files of points.
type Indexes interface {
	// IndexPoint lists the files of a point and keeps the list. Safe to repeat.
	IndexPoint(ctx context.Context, r IndexRequest, progress Progress) (Indexed, error)
	// FindFiles searches the lists of a VM's points.
	FindFiles(ctx context.Context, r FindRequest) (FoundFiles, error)
	// DiffPoints compares two points, disk by disk and file by file.
	DiffPoints(ctx context.Context, r DiffRequest, progress Progress) (backstay.PointDiff, error)
}
