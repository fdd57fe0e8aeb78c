package filemount

import (
	"context"
	"hash/fnv"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	backstay "github.com/backstay/backstay"
)

// forever is how long the kernel may believe what it was told: a point never changes.
const forever = 24 * time.Hour

// guestFolder is the folder in which the volumes lie as the guest's fstab puts them.
const guestFolder = "guest"

// view is one mount of a source.
type view struct {
	source Source
	life   context.Context
	ended  func(error) // told of errors that mean the end
	opened time.Time
	// mounts are the volumes by the places that the guest's fstab gives them.
	mounts map[string]backstay.VolumeID
}

// errno is what the kernel is told of an error.
func (v *view) errno(err error) syscall.Errno {
	switch {
	case err == nil:
		return 0
	case over(err):
		v.ended(err)
		return syscall.EIO
	case backstay.IsCode(err, backstay.CodeUnknownFile):
		return syscall.ENOENT
	case backstay.IsCode(err, backstay.CodeVolumeLocked):
		return syscall.EACCES
	case backstay.IsCode(err, backstay.CodeNotAllowed):
		return syscall.EPERM
	}
	return syscall.EIO
}

// newView looks at the session's volumes.
func newView(life context.Context, source Source, session backstay.FileSession, ended func(error)) *root {
	v := &view{source: source, life: life, ended: ended, opened: session.Created, mounts: map[string]backstay.VolumeID{}}
	r := &root{view: v, volumes: map[string]*node{}}
	for _, vol := range session.Volumes {
		if vol.Kind != backstay.VolumeFiles {
			continue
		}
		r.add(volumeName(vol.ID), &node{view: v, volume: vol.ID, path: "/"})
		if path.IsAbs(vol.MountPoint) {
			v.mounts[path.Clean(vol.MountPoint)] = vol.ID
		}
	}
	if vol, ok := v.mounts["/"]; ok {
		r.add(guestFolder, &node{view: v, volume: vol, path: "/", guest: "/"})
	}
	return r
}

// volumeName is a volume's id as the name of a folder.
func volumeName(id backstay.VolumeID) string {
	return strings.NewReplacer("/", "-", "\x00", "-").Replace(string(id))
}

// root is the folder of volumes.
type root struct {
	fs.Inode
	*view
	names   []string
	volumes map[string]*node
}

func (r *root) add(name string, n *node) {
	for taken := r.volumes[name]; taken != nil || name == "." || name == ".."; taken = r.volumes[name] {
		name += "_"
	}
	r.names = append(r.names, name)
	r.volumes[name] = n
}

// OnAdd makes the folders of the volumes.
func (r *root) OnAdd(ctx context.Context) {
	for i, name := range r.names {
		child := r.NewPersistentInode(ctx, r.volumes[name], fs.StableAttr{Mode: syscall.S_IFDIR, Ino: uint64(i) + 2})
		r.AddChild(name, child, false)
	}
}

// Getattr describes the root itself.
func (r *root) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = syscall.S_IFDIR | 0o555
	t := r.opened
	out.SetTimes(&t, &t, &t)
	return 0
}

// node is a file or folder of a volume. guest is its path in the guest's own tree, or
// "" outside of that.
type node struct {
	fs.Inode
	*view
	volume backstay.VolumeID
	path   backstay.FilePath
	guest  string

	mu     sync.Mutex
	entry  *backstay.FileEntry           // guarded by mu: nil for the root of a volume until it is asked for
	recent map[string]backstay.FileEntry // guarded by mu: entries that were listed last
	whole  bool                          // guarded by mu: recent is all of the folder
	partly bool                          // guarded by mu: pages before those in recent were forgotten
}

var (
	_ fs.NodeGetattrer      = (*node)(nil)
	_ fs.NodeLookuper       = (*node)(nil)
	_ fs.NodeOpendirHandler = (*node)(nil)
	_ fs.NodeOpener         = (*node)(nil)
	_ fs.NodeReadlinker     = (*node)(nil)
	_ fs.NodeStatfser       = (*node)(nil)
)

// about is the node's own entry.
func (n *node) about(ctx context.Context) (backstay.FileEntry, error) {
	n.mu.Lock()
	known := n.entry
	n.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	e, err := n.source.Entry(ctx, n.volume, n.path)
	if err != nil {
		return e, err
	}
	n.mu.Lock()
	n.entry = &e
	n.mu.Unlock()
	return e, nil
}

// Getattr implements fs.NodeGetattrer.
func (n *node) Getattr(ctx context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	e, err := n.about(ctx)
	if err != nil {
		return n.errno(err)
	}
	describe(&out.Attr, &e)
	return 0
}

var types = map[backstay.FileType]uint32{
	backstay.TypeFile: syscall.S_IFREG, backstay.TypeFolder: syscall.S_IFDIR, backstay.TypeLink: syscall.S_IFLNK,
	backstay.TypeBlock: syscall.S_IFBLK, backstay.TypeChar: syscall.S_IFCHR, backstay.TypeFIFO: syscall.S_IFIFO, backstay.TypeSocket: syscall.S_IFSOCK,
}

func describe(out *fuse.Attr, e *backstay.FileEntry) {
	out.Mode = types[e.Type] | e.Mode&0o7777
	out.Size, out.Blocks, out.Blksize = uint64(e.Size), uint64(e.Used+511)/512, pageBytes
	out.Uid, out.Gid, out.Nlink = e.UID, e.GID, uint32(e.Links)
	changed := e.ModTime
	if e.Changed != nil {
		changed = *e.Changed
	}
	at := e.ModTime
	out.SetTimes(&at, &at, &changed)
}

// child is what a name in the folder stands for.
func (n *node) child(name string) *node {
	c := &node{view: n.view, volume: n.volume, path: backstay.FilePath(path.Join(string(n.path), name))}
	if n.guest == "" {
		return c
	}
	c.guest = path.Join(n.guest, name)
	if v, ok := n.mounts[c.guest]; ok {
		c.volume, c.path = v, "/"
	}
	return c
}

// Lookup implements fs.NodeLookuper.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	c := n.child(name)
	mounted := c.volume != n.volume
	n.mu.Lock()
	e, known := n.recent[name]
	whole := n.whole
	n.mu.Unlock()
	switch {
	case mounted || !known && !whole:
		var err error
		if e, err = n.source.Entry(ctx, c.volume, c.path); err != nil {
			return nil, n.errno(err)
		}
	case !known:
		return nil, syscall.ENOENT
	}
	c.entry = &e
	describe(&out.Attr, &e)
	return n.NewInode(ctx, c, fs.StableAttr{Mode: out.Mode & syscall.S_IFMT, Ino: c.number(&e)}), 0
}

// number is the inode number that the kernel sees: the same for all names of a file.
// Subvolumes within a volume use the same numbers again, so that the guest's alone does
// not name a file.
func (n *node) number(e *backstay.FileEntry) uint64 {
	h := fnv.New64a()
	parts := []string{string(n.volume), strconv.FormatBool(n.guest != "")}
	if e.Type == backstay.TypeFile && e.Links > 1 && e.Changed != nil {
		parts = append(parts, "inode", strconv.FormatUint(e.Inode, 10), e.Changed.Format(time.RFC3339Nano), strconv.FormatInt(e.Size, 10))
	} else {
		parts = append(parts, "path", string(n.path))
	}
	for _, p := range parts {
		_, _ = h.Write(append([]byte(p), 0)) // a hash never fails
	}
	return h.Sum64() | 1<<63 // out of the way of the root's
}

// Readlink implements fs.NodeReadlinker: the link as it is, wherever it leads.
func (n *node) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	e, err := n.about(ctx)
	if err != nil {
		return nil, n.errno(err)
	}
	return []byte(e.Target), 0
}

// Statfs says that nothing can be written.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.NameLen = 4096, 255
	return 0
}

// Open implements fs.NodeOpener.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&(syscall.O_WRONLY|syscall.O_RDWR) != 0 {
		return nil, 0, syscall.EROFS
	}
	e, err := n.about(ctx)
	if err != nil {
		return nil, 0, n.errno(err)
	}
	what := What{Volume: n.volume, Path: n.path}
	life, cancel := context.WithCancel(n.life)
	f := &file{view: n.view, cancel: cancel}
	f.pages = newPages(life, e.Size, readOf(n.source, what))
	return f, fuse.FOPEN_KEEP_CACHE, 0
}

// file is an open file.
type file struct {
	*view
	pages  *pages
	cancel func()
}

var (
	_ fs.FileReader   = (*file)(nil)
	_ fs.FileReleaser = (*file)(nil)
)

// Read implements fs.FileReader.
func (f *file) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := f.pages.readAt(ctx, dest, off)
	if err != nil && n == 0 && off < f.pages.size {
		if ctx.Err() != nil {
			return nil, syscall.EINTR
		}
		return nil, f.errno(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Release implements fs.FileReleaser.
func (f *file) Release(context.Context) syscall.Errno {
	f.cancel()
	return 0
}
