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
	// Exists are the VM's points that exist, for what only others had is forgotten.
	Exists []backstay.PointID
	// HashUpTo is the size in bytes up to which the content of files is hashed.
	HashUpTo int64
	// Services are the key services that the point's secrets may need.
	Services []KeyService
}

// Indexed says what an index holds.
type Indexed struct {
	Files   int64 // entries of all volumes
	Changed int64 // of them, those that differ from the point before
	Hashed  int64 // bytes of content that were read for hashes
	// Notes name volumes that could not be read, and why; and an older index that was
	// damaged, so that this one begins anew.
	Notes []string
}

// FindRequest asks for files over all points of a VM.
type FindRequest struct {
	VM    backstay.VMID
	Vault VaultAccess
	// Pattern is a glob if it holds any of *?[ and a part otherwise: of the whole path if
	// it holds a "/", of the name if not.
	Pattern string
	Fold    bool               // upper and lower case are the same
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
	VM                    backstay.VMID
	Before, After         backstay.PointID
	BeforeTier, AfterTier backstay.Tier
	Vault                 *VaultAccess
	Limit                 int // the most files
	// Services are the key services that the points' secrets may need.
	Services []KeyService
}

// Indexes keeps and searches the lists of files of points.
type Indexes interface {
	// IndexPoint lists the files of a point and keeps the list. Safe to repeat. CodeConflict
	// if a newer point is in the list already. Phases: open, list, keep.
	IndexPoint(ctx context.Context, r IndexRequest, progress Progress) (Indexed, error)
	// FindFiles searches the list of a VM's files. CodeDamaged if it is damaged; the next
	// IndexPoint makes it anew.
	FindFiles(ctx context.Context, r FindRequest) (FoundFiles, error)
	// DiffPoints compares two points of a VM, disk by disk and file by file: by the list
	// where both points are in it, otherwise by listing both.
	DiffPoints(ctx context.Context, r DiffRequest, progress Progress) (backstay.PointDiff, error)
}
