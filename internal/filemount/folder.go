package filemount

import (
	"context"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	backstay "github.com/backstay/backstay"
)

// mostRecent bounds how many entries of one folder are remembered.
const mostRecent = 20_000

// OpendirHandle implements fs.NodeOpendirHandler. The kernel may keep the listing.
func (n *node) OpendirHandle(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return &listing{node: n}, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR, 0
}

// listing is a folder that is being read: one page of it at a time.
type listing struct {
	node  *node
	page  []backstay.FileEntry
	after string
	begun bool
	next  int    // in page
	at    uint64 // how many entries were given
}

var (
	_ fs.FileReaddirenter = (*listing)(nil)
	_ fs.FileSeekdirer    = (*listing)(nil)
)

// Readdirent implements fs.FileReaddirenter.
func (l *listing) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	for l.next == len(l.page) {
		if l.begun && l.after == "" {
			return nil, 0
		}
		if err := l.more(ctx); err != nil {
			return nil, l.node.errno(err)
		}
	}
	e := &l.page[l.next]
	l.next++
	l.at++
	return &fuse.DirEntry{Name: string(e.Name), Mode: types[e.Type], Off: l.at}, 0
}

// more gets the next page.
func (l *listing) more(ctx context.Context) error {
	first := !l.begun
	page, next, err := l.node.source.Folder(ctx, l.node.volume, l.node.path, l.after)
	if err != nil {
		return err
	}
	l.page = l.page[:0]
	for _, e := range page {
		// What no folder can have is not shown to programs that would trip over it.
		if e.Name != "" && e.Name != "." && e.Name != ".." && !strings.ContainsAny(string(e.Name), "/\x00") {
			l.page = append(l.page, e)
		}
	}
	l.begun, l.after, l.next = true, next, 0
	l.node.remember(l.page, first, next == "")
	return nil
}

// remember keeps entries for the lookups that follow a listing.
func (n *node) remember(page []backstay.FileEntry, first, last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if first || len(n.recent)+len(page) > mostRecent {
		n.recent, n.partly = make(map[string]backstay.FileEntry, len(page)), !first
	}
	for _, e := range page {
		n.recent[string(e.Name)] = e
	}
	n.whole = last && !n.partly
}

// Seekdir implements fs.FileSeekdirer, by reading again from the start.
func (l *listing) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	if off < l.at {
		*l = listing{node: l.node}
	}
	for l.at < off {
		e, errno := l.Readdirent(ctx)
		if errno != 0 {
			return errno
		}
		if e == nil {
			return syscall.EINVAL
		}
	}
	return 0
}
