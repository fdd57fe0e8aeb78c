package vault

// OpenOption changes how a vault is opened.
type OpenOption func(*openOptions)

type openOptions struct {
	indexDir string
	cache    int
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
