package vault

import "github.com/backstay/backstay/internal/blob"

// OpenOption changes how a vault is opened.
type OpenOption func(*openOptions)

type openOptions struct {
	indexDir string
	cache    int
	onDamage func(object, unit string)
	joining  []int
	spare    []blob.Store
	replica  bool
	use      *ReplicaUse
}

// IndexDir keeps the local index of the vault in a folder of its own, so that
// opening the vault again reads only what is new. Without it the index is kept in
// memory: about 12 bytes for each chunk.
func IndexDir(dir string) OpenOption { return func(o *openOptions) { o.indexDir = dir } }

// ServingCache is a CacheBytes for a process that serves disks for random reads:
// the working set of a guest that boots, and well within the memory that a
// process of ours may take.
const ServingCache = 96 << 20

// CacheBytes sets how much plain content is kept for reading, instead of 24 MiB.
func CacheBytes(n int) OpenOption { return func(o *openOptions) { o.cache = n } }

// OnDamage is told of each copy of an object that gave wrong bytes, or none, where
// another copy could be used: name it to people, nothing wrong was served (I4). It
// may be called concurrently, and again for the same copy.
func OnDamage(fn func(object, unit string)) OpenOption {
	return func(o *openOptions) { o.onDamage = fn }
}

// Joining says which copies, counted from 0, are still being filled. What is new is
// written to them as to all others, and a new point may refer to a pack that they
// lack. That they lack something is not damage.
func Joining(copies ...int) OpenOption { return func(o *openOptions) { o.joining = copies } }

// Spare are copies that are not kept up any more. Nothing is written to them, and
// they are asked only for chunks that no copy of the vault can show: a chunk proves
// itself, wherever it comes from (I4).
func Spare(copies ...blob.Store) OpenOption { return func(o *openOptions) { o.spare = copies } }

// AsReplica opens what another region pushed, to read it. Its points are those
// whose manifests are there, which were put last and only when all that they need
// was there; the vault's chain, which tells what became of them at home, decides
// nothing here (I11). Nothing can be written through a vault that is opened so.
func AsReplica() OpenOption { return func(o *openOptions) { o.replica = true } }
