package vault

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// CreateOptions describe a vault that is made.
type CreateOptions struct {
	ID         string // a UUID
	Name       backstay.VaultName
	Redundancy backstay.Redundancy
	// Recipients can open the vault: at least one for recovery.
	Recipients []NewRecipient
	// NoRecovery makes a vault that nobody can open once its server is lost.
	NoRecovery bool
	Created    time.Time
}

// Header is the clear, authenticated part of a committed point's manifest.
type Header struct {
	Point backstay.PointID
	// Item is the pseudonym of the protected VM: a keyed hash of its UUID.
	Item    string
	Time    time.Time
	Expires *time.Time
	// Packs are the ids of all packs that the point needs.
	Packs []string
	// Root is the keyed hash over everything that the point consists of.
	Root [32]byte
	// Epoch is that of the data key with which the newest packs are sealed.
	Epoch uint32
	// Copies is in how many copies the manifest was found, of Want. Fewer means
	// a damaged copy, or a commit that ended between two copies.
	Copies, Want int
	// Unchained says why the vault's chain cannot tell whether this point is what
	// was committed, and was not dropped since: the chain is damaged or cannot be
	// read. Restoring such a point is a risk that a person takes; nil if it is none.
	Unchained error
	// Damage says why the manifest of Point is not to be trusted; every other
	// field is then empty. A damaged point is listed, never hidden.
	Damage error
}

// BulkReader is implemented by the images that Point.Disk returns.
type BulkReader interface {
	// Chunks reads the whole disk but its zeros and calls fn with runs of plain
	// data, concurrently from the given number of goroutines, in roughly the
	// order of the disk. data is only valid during the call. The first error ends it.
	Chunks(ctx context.Context, workers int, fn func(offset int64, data []byte) error) error
}

// WriteOptions describe a transfer of one point.
type WriteOptions struct {
	Point backstay.PointID
	// Parent is the point relative to which change maps are; "" for none.
	Parent backstay.PointID
	// Packs are those which an interrupted attempt made durable; what can be
	// verified of them is used again.
	Packs []string
	// Avoid are packs that are known to be damaged in every copy: the new point
	// does not refer to them, and what it needs of them is stored anew.
	Avoid []string
	// OnPack is called with the id of each pack that became durable in all copies.
	OnPack func(id string)
	// Progress is called with bytes done and the best estimate of the total;
	// phases: transfer, validate. Calls come from one goroutine at a time.
	Progress func(phase string, done, total int64)
	// Gentle lets the work on disk content wait for whoever else wants a core:
	// guests, where it runs on their host (I12).
	Gentle bool
	// Now is the clock for the vault's chain; nil: the point's own time is taken.
	Now func() time.Time
}

// DiskSource is a disk that is to be written into a point.
type DiskSource struct {
	Target backstay.DiskTarget
	Format string
	Image  tier.Image
	// Changed are the only ranges that may differ from the parent's disk of the
	// same target, if HasMap. A size that changed, or a parent without this
	// disk, makes the map worthless, and everything is compared (I7).
	Changed []backstay.Range
	HasMap  bool
}

// DiskStats say what writing one disk cost, in bytes.
type DiskStats struct {
	// BytesRead were read from the source, BytesChanged differ from the parent
	// as far as was looked, BytesNew is what the vault grew by (one copy, before
	// the packs' own frames).
	BytesRead, BytesChanged, BytesNew int64
	ChunksNew                         int64
	// DataBytes are what the disk consists of beside zeros: what a restore writes.
	DataBytes int64
	// Mode says how changes were found: first copy, changed layers, or full
	// compare, and why.
	Mode string
}

// CommitStats say what a commit put and proved.
type CommitStats struct {
	Packs       int   // new packs, the resumed ones that are used included
	BytesStored int64 // of new packs, indexes and the manifest, in one copy
	BytesRead   int64 // read back over all copies
	Copies      int   // copies in which everything was proved
	// Head is the vault's chain with the point in it: what it must not be behind
	// of from now on.
	Head backstay.VaultHead
}
