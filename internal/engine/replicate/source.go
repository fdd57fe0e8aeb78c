// Package replicate pushes what a paired region lacks of a vault of this region:
// the newest points first, each whole before the next, and only what is missing
// there. It keeps no state that it could not ask for again, so it can be cut off
// anywhere; and it asks for no deletion, neither here nor there (I11).
//
// It knows neither a vault's format nor how the other region is reached: a Source
// says what the points of a vault need, a pair.Holder takes it.
package replicate

import (
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
)

// Tasks are the steps of a replicate job.
var Tasks = []string{"push", "chain"}

// ErrGone comes from a Source whose copies all say that there is no such object
// (any more): a reclaim or a repack removed it after it was named.
var ErrGone = errors.New("the object is in the vault no more")

// Class is a kind of objects of which all are pushed, whatever the points need.
type Class string

// The classes.
const (
	// Frame is what a vault is opened with: wrapped keys, then headers.
	Frame Class = "frame"
	// Indexes say which pack holds which chunk.
	Indexes Class = "indexes"
	// Chain is the records of what was committed and dropped, and the lists of packs
	// that they name.
	Chain Class = "chain"
)

// Needs is what a point needs besides the frame and the indexes, by the names of
// the objects.
type Needs struct {
	// Packs hold what the point consists of, where it is now.
	Packs []string
	// Moved are the lists that lead from the packs in the manifest to those.
	Moved []string
	// Manifest is what makes the point, as it was committed.
	Manifest []byte
}

// Source is a vault of this region that is pushed. All that it returns was checked
// here: what is sound in one copy is taken from there.
type Source interface {
	// Offer says what vault it is, with the newest record of its chain, read anew.
	Offer(ctx context.Context) (pair.Offer, error)
	// Points are those that the vault offers, as of the last Offer, in no order.
	Points(ctx context.Context) ([]backstay.PointID, error)
	// Needs is CodeUnknownPoint for one that was dropped since, and CodeDamaged for
	// one whose manifest no copy shows unharmed.
	Needs(ctx context.Context, id backstay.PointID) (Needs, error)
	// Names are those of all objects of a class, in the order in which they are put.
	Names(ctx context.Context, class Class) ([]string, error)
	// Sizes are the sizes of objects, in bytes; one that is gone is left out.
	Sizes(ctx context.Context, names []string) (map[string]int64, error)
	// Read returns an object that is sound as far as can be told without its users'
	// keys. ErrGone, or CodeDamaged if no copy is sound.
	Read(ctx context.Context, name string) (pair.Object, []byte, error)
	// Close lets go of the vault.
	Close() error
}

// Pace says when something may be sent. It may be called concurrently.
type Pace interface {
	// Open returns why nothing may be sent now: replication to the region is paused,
	// or its window is shut; nil if nothing is in the way.
	Open(ctx context.Context) error
	// Wait returns when so many more bytes may be sent.
	Wait(ctx context.Context, bytes int) error
}
