package inside

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/items"
	"golang.org/x/sys/unix"
)

// chosen is one of the paths to take.
type chosen struct {
	path     backstay.FilePath // on the volume
	relative string            // of its item; "" to take what is in it and not the folder itself
}

// take answers OpTake: a stream of items. What is chosen must be there; of everything
// below it an error goes into the stream, and taking goes on.
//
// Three kinds of goroutine share the work, since a file system that lies on a vault
// answers slowly: the scout lists folders ahead, the workers look at what it found and
// read small files, and whoever called writes it all in the scout's order and reads large
// files. Work goes round in batches: passing single files costs more than reading them.
func (t *tree) take(ctx context.Context, r wire.TakeRequest, w io.Writer) error {
	all, err := choose(r)
	if err != nil {
		return err
	}
	for _, c := range all {
		e, err := t.stat(c.path)
		if err != nil {
			return err
		}
		if c.relative == "" && e.Type != backstay.TypeFolder {
			return backstay.Errorf(backstay.CodeUsage, "%s is no folder to which paths could be relative", c.path)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	tk := &taker{t: t, ctx: ctx, order: make(chan *batch, batchesAhead), work: make(chan *batch, batchesAhead)}
	var running sync.WaitGroup
	for range takeWorkers {
		running.Go(tk.worker)
	}
	running.Go(func() { tk.scout(all) })
	out := &itemWriter{t: t, ctx: ctx, w: items.NewWriter(w), seen: map[inode]*linkedName{}}
	err = out.all(tk.order)
	cancel()
	for b := range tk.order {
		<-b.done
		b.dir.release()
	}
	running.Wait()
	if err != nil {
		return err
	}
	return out.w.Close()
}

// choose orders the paths as a stream must have them, without those that lie in others.
func choose(r wire.TakeRequest) ([]chosen, error) {
	if len(r.Paths) == 0 {
		return nil, backstay.Errorf(backstay.CodeUsage, "no path to take is given")
	}
	paths := make([]backstay.FilePath, len(r.Paths))
	for i, p := range r.Paths {
		paths[i] = backstay.FilePath(strings.TrimRight(string(p), "/"))
		if paths[i] != "" && !wire.CleanPath(paths[i]) {
			return nil, backstay.Errorf(backstay.CodeUsage, "%q is no path of a volume", p.String()).Do("give a path that begins with / and holds no . or ..")
		}
	}
	slices.SortFunc(paths, wire.ComparePaths)
	strip := strings.TrimRight(string(r.Strip), "/")
	var all []chosen
	names := map[string]backstay.FilePath{}
	for _, p := range paths {
		if n := len(all); n > 0 && within(string(p), string(all[n-1].path)) {
			continue
		}
		c := chosen{path: p}
		switch {
		case r.Strip == "":
			c.relative = strings.TrimLeft(string(p[strings.LastIndexByte(string(p), '/')+1:]), "/")
			if other, ok := names[c.relative]; ok {
				return nil, backstay.Errorf(backstay.CodeUsage, "%s and %s cannot be taken at once under their own names", other, p).
					Do("take a folder that holds both, or one after the other")
			}
			names[c.relative] = p
		case !within(string(p), strip):
			return nil, backstay.Errorf(backstay.CodeUsage, "%s does not lie in %s", p, r.Strip)
		default:
			c.relative = strings.TrimLeft(string(p)[len(strip):], "/")
		}
		if p == "" {
			c.path = "/"
		}
		all = append(all, c)
	}
	return all, nil
}

// within tells whether a path is a folder or lies in it; "" is the root.
func within(path, folder string) bool {
	return strings.HasPrefix(path, folder) && (len(path) == len(folder) || path[len(folder)] == '/')
}

// The measures of taking. What is ahead is held in memory: batchesAhead + takeWorkers
// batches with up to batchBytes of content each.
const (
	takeWorkers  = 6
	batchesAhead = 8
	batchSize    = 64        // entries
	batchBytes   = 2 << 20   // of content
	smallFile    = 256 << 10 // read by a worker; larger ones by the writer
	maxFolder    = 3_000_000 // entries that are taken of one folder
)

// openDir is a folder that is being taken; the last to release it closes it.
type openDir struct {
	fd   int
	path string // of its item; "" for the top
	mu   sync.Mutex
	refs int // guarded by mu
}

func (d *openDir) hold() *openDir {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refs++
	return d
}

func (d *openDir) release() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refs--; d.refs == 0 {
		unix.Close(d.fd)
	}
}

func (d *openDir) join(name string) string {
	if d.path == "" {
		return name
	}
	return d.path + "/" + name
}

// batch is some entries of one folder. A worker fills it in, and closes done.
type batch struct {
	dir     *openDir
	self    *taken // the folder itself, before the others; nil if it has no item, or had it
	entries []taken
	content []byte
	ahead   int64 // bytes of content that will be read
	done    chan struct{}
}

// taken is one entry on its way.
type taken struct {
	name string
	kind byte
	item items.Item
	id   inode
	// names is how many there are of the inode.
	names uint64
	holes bool // its content may have holes
	fd    int  // open for a worker to read its content, if it is not 0
	// content is all of it if inline; else the writer reads it.
	content []byte
	inline  bool
	reason  string // why content ends early
}

// inode names a file whatever its name.
type inode struct{ dev, ino uint64 }

// taker is one take; scout and workers share it.
type taker struct {
	t     *tree
	ctx   context.Context
	order chan *batch // closed by the scout
	work  chan *batch // closed by the scout
}

// scout lists what is chosen, in the order of the stream.
func (tk *taker) scout(all []chosen) {
	defer close(tk.order)
	defer close(tk.work)
	var above string // the folder of the item before
	for _, c := range all {
		parents := ancestors(c.relative)
		for i, parent := range parents {
			if !within(above, parent) {
				tk.ancestor(c, parent, len(parents)-i)
			}
		}
		if len(parents) > 0 {
			above = parents[len(parents)-1]
		}
		tk.chosen(c)
	}
}

// ancestors are the folders of a path, outermost first.
func ancestors(path string) (all []string) {
	for i := range len(path) {
		if path[i] == '/' {
			all = append(all, path[:i])
		}
	}
	return all
}

// ancestor sends the item of a folder in which a chosen path lies, up folders above it.
func (tk *taker) ancestor(c chosen, relative string, up int) {
	path := string(c.path)
	for range up {
		path = path[:strings.LastIndexByte(path, '/')]
	}
	fd, err := tk.t.openFolder(backstay.FilePath(path))
	if err != nil {
		tk.sendError(relative, err)
		return
	}
	tk.send(&batch{dir: &openDir{fd: fd, path: relative, refs: 1}, self: &taken{}})
}

// chosen sends one of the chosen paths, with all that is in it.
func (tk *taker) chosen(c chosen) {
	var st unix.Stat_t
	look, err := tk.t.open(c.path, unix.O_PATH|unix.O_NOFOLLOW)
	if err == nil {
		err = unix.Fstat(look, &st)
		unix.Close(look)
	}
	if err != nil {
		tk.sendError(c.relative, err)
		return
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		fd, err := tk.t.openFolder(c.path)
		if err != nil {
			tk.sendError(c.relative, err)
			return
		}
		tk.folder(&openDir{fd: fd, path: c.relative, refs: 1}, nil)
		return
	}
	path, name := string(c.path), baseName(c.path)
	fd, err := tk.t.openFolder(backstay.FilePath("/" + strings.Trim(path[:len(path)-len(name)], "/")))
	if err != nil {
		tk.sendError(c.relative, err)
		return
	}
	dir := &openDir{fd: fd, path: strings.TrimSuffix(strings.TrimSuffix(c.relative, name), "/"), refs: 1}
	tk.send(&batch{dir: dir, entries: []taken{{name: name}}})
}

// send gives a batch to the workers and to the writer; false if nobody wants it any more.
// The batch's hold of its folder goes with it.
func (tk *taker) send(b *batch) bool {
	b.done = make(chan struct{})
	select {
	case tk.order <- b:
	case <-tk.ctx.Done():
		b.dir.release()
		return false
	}
	tk.work <- b // has room, or a worker makes some
	return true
}

// sendError sends an item of which nothing but its path can be said.
func (tk *taker) sendError(path string, err error) {
	tk.sendFailed(path, backstay.TypeFolder, err.Error())
}

func (tk *taker) sendFailed(path string, kind backstay.FileType, reason string) {
	item := items.Item{Path: backstay.FilePath(path), Type: kind, Error: reason}
	b := &batch{self: &taken{item: item}}
	tk.send(b)
}

// folder sends a folder and all that is in it. It takes over the hold of dir.
func (tk *taker) folder(dir *openDir, above []inode) {
	defer dir.release()
	var st unix.Stat_t
	if err := unix.Fstat(dir.fd, &st); err != nil {
		tk.sendError(dir.path, err)
		return
	}
	id := inode{st.Dev, st.Ino}
	self := &taken{}
	switch {
	case slices.Contains(above, id):
		self.item.Error = "the folder is one of those that it lies in"
	case len(above) >= items.MaxDepth-1:
		self.item.Error = fmt.Sprintf("it lies deeper than %d folders", items.MaxDepth)
	}
	var files, folders []dirent
	if self.item.Error == "" {
		var err error
		if files, folders, err = readFolder(dir.fd); err != nil {
			self.item.Error = err.Error()
		}
	}
	if dir.path == "" {
		if self.item.Error != "" {
			tk.sendFailed("(the volume)", backstay.TypeFolder, self.item.Error)
		}
		self = nil
	}
	for first := true; first || len(files) > 0; first = false {
		n := min(len(files), batchSize)
		b := &batch{dir: dir.hold(), self: self, entries: make([]taken, n)}
		for i, e := range files[:n] {
			b.entries[i] = taken{name: e.name, kind: e.kind}
		}
		files, self = files[n:], nil
		if !tk.send(b) {
			return
		}
	}
	tk.folders(dir, folders, append(above, id))
}

func (tk *taker) folders(dir *openDir, folders []dirent, above []inode) {
	for _, e := range folders {
		if tk.ctx.Err() != nil {
			return
		}
		path := dir.join(e.name)
		fd, err := openat2(dir.fd, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW,
			unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
		if err != nil {
			tk.sendError(path, err)
			continue
		}
		tk.folder(&openDir{fd: fd, path: path, refs: 1}, above[:len(above):len(above)])
	}
}

// readFolder returns what is in an open folder: folders apart from the rest, both in the
// order of their inodes, which is how they lie on the disk.
func readFolder(fd int) (files, folders []dirent, err error) {
	n := 0
	for d := newDirReader(fd); ; n++ {
		e, ok, nextErr := d.next()
		if n >= maxFolder && ok {
			nextErr = fmt.Errorf("only %d of its entries are here", maxFolder)
		}
		if nextErr != nil || !ok {
			err = nextErr
			break
		}
		if e.kind == unix.DT_UNKNOWN {
			var st unix.Stat_t
			if unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				e.kind = unix.DT_DIR
			}
		}
		if e.kind == unix.DT_DIR {
			folders = append(folders, e)
		} else {
			files = append(files, e)
		}
	}
	slices.SortFunc(files, byInode)
	slices.SortFunc(folders, byInode)
	return files, folders, err
}
