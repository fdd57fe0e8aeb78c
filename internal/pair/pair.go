// Package pair is the port to a paired region: what one region's server asks of
// the other's to have its vaults held there.
//
// The one that pushes knows nothing of the other's storage units and has no
// credential of theirs. The one that holds believes nothing: names, sizes and
// hashes of what comes are checked before any of it counts, and it needs no key for
// that. Nothing that is asked for here deletes anything there (I11).
//
// engine/hold implements Holder over a region's own units; pair/link carries the
// same calls between two servers, with certificates that were pinned at pairing.
package pair

import (
	"context"
	"io"
	"time"

	backstay "github.com/backstay/backstay"
)

// Object names one object of a vault and what it holds.
type Object struct {
	Name string   `json:"name"`
	Size int64    `json:"size"`
	Sum  [32]byte `json:"sum"` // BLAKE3-256 of its bytes
}

// Offer is what a region says of a vault that it wants held.
type Offer struct {
	ID      string             `json:"id"`
	Name    backstay.VaultName `json:"name"`
	Created time.Time          `json:"created"`
	// Head is the newest record of the vault's chain: the one that holds is a witness
	// of it, too. A vault with an older head than was seen is refused.
	Head backstay.VaultHead `json:"head"`
}

// Held is what the other region has of a vault.
type Held struct {
	// Points are those that are whole there, with when they became so, and those
	// that it let go by its own retention, which must not be sent again.
	Available map[backstay.PointID]time.Time `json:"available"`
	Gone      map[backstay.PointID]time.Time `json:"gone"`
	// Room is how many bytes may still be sent; -1 without a limit.
	Room int64 `json:"room"`
	// Head is the newest record of the vault's chain that was ever offered.
	Head backstay.VaultHead `json:"head"`
}

// Holder holds the vaults of one other region. Methods may be called concurrently.
// Errors are coded: CodeRegionQuota where there is no room, CodeReplicaRefused where
// what came is not what it should be, CodeUnknownVault for a vault that was never
// offered, CodeVaultRolledBack where the vault is older
// than what was seen of it, CodeRegionAway where the region cannot be reached.
type Holder interface {
	// Offer begins or goes on with a vault. It may be called at any time.
	Offer(ctx context.Context, o Offer) (Held, error)
	// Lacks returns those of the objects that are not there in all copies, in the order
	// of the question. At most MaxAsked are asked for at a time. A question is about
	// names: whoever asks need not have read the object, so Sum is zero, and Size is
	// only a hint (0: not known).
	Lacks(ctx context.Context, vault string, objects []Object) ([]string, error)
	// Put takes one object in. It is durable in every copy when Put returns, and was
	// compared with its size and sum, and with what an object of that name has to be.
	// One that is there with the same bytes is no error.
	Put(ctx context.Context, vault string, o Object, content io.Reader) error
	// Complete makes a point available: its manifest, which is put by this, is checked
	// and all that it needs is there in every copy. CodeReplicaRefused names what is not.
	// A pack that a point of the vault needs by its manifest goes on being needed while
	// it is there, whatever lists of moved packs come later: where such a list leads to
	// need not be there for points that were whole before it.
	Complete(ctx context.Context, vault string, point backstay.PointID, manifest []byte) error
	// List calls fn for each object that is held of the vault, for a region that
	// rejoins. A sum is zero where it is not known without reading the object. Get reads one.
	List(ctx context.Context, vault string, fn func(Object) error) error
	Get(ctx context.Context, vault string, name string) (io.ReadCloser, error)
	// Vaults are those of the asking region that are held, by id.
	Vaults(ctx context.Context) ([]Offer, error)
}

// MaxAsked bounds the objects of one question, MaxObject the size of one object in
// bytes: a pack and its frames are well below it.
const (
	MaxAsked  = 1000
	MaxObject = 64 << 20
)
