// Package hold keeps what other regions push: each of their vaults becomes a
// replica, a vault of this region's catalogue on units of its own, which nothing in
// this region writes into but what is pushed, repair, and this region's own
// retention.
//
// It believes nothing of what comes. Names, sizes, hashes and what an object
// carries in the clear are checked by the Vault below (tier/vault), whose vault it
// is, how much room it may take and which points it gave up before are checked
// here. Nothing that is asked for from outside deletes anything (I11).
//
// A Keeper knows all replicas; For gives the pair.Holder of one region.
package hold

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/pair"
)

// Point is what the clear part of a point's manifest says.
type Point struct {
	ID    backstay.PointID
	Item  string // pseudonym of its VM, in hex
	Time  time.Time
	Root  string // in hex
	Packs int
}

// SweepOptions say what a sweep must find, what is gone, and that nothing is to be
// deleted.
type SweepOptions struct {
	Held, Gone []backstay.PointID
	DryRun     bool
	Progress   func(done, total int64)
}

// Swept is what a sweep found and did. Spared are packs that no point needs and that
// somebody may rely on for a point that is on its way.
type Swept struct {
	Packs, Freed, Spared backstay.ObjectSum
	Points               int
}

// Vault is what holding needs of a replica's units. Its methods may be called
// concurrently, but for Sweep, of which one runs at a time.
type Vault interface {
	// Lacks, Put and List are those of pair.Holder; Put and Complete tell how many bytes came
	// to what was there before.
	Lacks(ctx context.Context, objects []pair.Object) ([]string, error)
	Put(ctx context.Context, o pair.Object, data []byte) (grown int64, err error)
	// Complete puts the manifest of a point once all that it needs is there and proved.
	Complete(ctx context.Context, id backstay.PointID, manifest []byte) (p Point, grown int64, err error)
	List(ctx context.Context, fn func(pair.Object) error) error
	Get(ctx context.Context, name string) ([]byte, error)
	// Drop removes a point's manifest and nothing else. No error if it is not there.
	Drop(ctx context.Context, id backstay.PointID) error
	// Sweep deletes what no point needs.
	Sweep(ctx context.Context, o SweepOptions) (Swept, error)
}

// Options are what a Keeper works with.
type Options struct {
	Catalog *catalog.Catalog
	Now     func() time.Time
	// Make chooses the units of a new replica, makes them ready, and returns the row with
	// them. Called again for the same vault it returns the same.
	Make func(ctx context.Context, entry backstay.Vault) (backstay.Vault, error)
	// Open opens the units of a replica, as the catalogue has it now.
	Open func(ctx context.Context, entry backstay.Vault) (Vault, error)
	// Change changes a vault's row in the catalogue, in one step.
	Change func(ctx context.Context, name backstay.VaultName, change func(*backstay.Vault) bool) error
	// Record makes the catalogue's points know a point that is held. It may be called
	// again for the same one.
	Record func(ctx context.Context, entry backstay.Vault, p Point) error
	// InUse says what needs a point now; "" if nothing does.
	InUse func(ctx context.Context, id backstay.PointID) (string, error)
	// Quota is how many bytes a region may take here in one copy; 0 for no limit.
	Quota func(backstay.RegionName) int64
	// Failed is told of an error of a replica's units, and says whether trying again
	// may help, because another set of units is written from now on; nil: it does not.
	Failed func(ctx context.Context, name backstay.VaultName, err error) bool
}
