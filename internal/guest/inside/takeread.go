package inside

import (
	"cmp"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/items"
	"golang.org/x/sys/unix"
)

func byInode(a, b dirent) int { return cmp.Compare(a.inode, b.inode) }

// worker fills in batches until there are no more.
func (tk *taker) worker() {
	x := &xattrReader{t: tk.t}
	for b := range tk.work {
		if tk.ctx.Err() == nil {
			tk.fill(b, x)
		}
		close(b.done)
	}
}

func (tk *taker) fill(b *batch, x *xattrReader) {
	if b.self != nil && b.dir != nil {
		fillFolder(b, x)
	}
	for i := range b.entries {
		e := &b.entries[i]
		e.item.Path = backstay.FilePath(b.dir.join(e.name))
		if len(e.item.Path) > items.MaxPath {
			e.item = items.Item{Path: backstay.FilePath(b.dir.path + "/(too long)"), Type: kindType(e.kind), Error: "its path is too long: " + e.name}
			continue
		}
		b.fillEntry(e, x)
	}
	// All reading has begun by now, at once: what lies side by side is one request, and a
	// vault is waited for once for all.
	for i := range b.entries {
		if e := &b.entries[i]; e.fd > 0 {
			b.readSmall(e)
		}
	}
}

// readSmall reads a file that fillFile opened.
func (b *batch) readSmall(e *taken) {
	size := int(e.item.Size)
	b.content = grow(b.content, size)
	at := len(b.content)
	n, err := pread(e.fd, b.content[at:at+size], 0)
	unix.Close(e.fd)
	e.fd = 0
	b.content = b.content[:at+n]
	e.content, e.inline = b.content[at:at+n:at+n], true
	e.reason = endReason(int64(n), e.item.Size, err)
}

// fillFolder looks at the folder itself.
func fillFolder(b *batch, x *xattrReader) {
	var st unix.Stat_t
	it := &b.self.item
	it.Path, it.Type = backstay.FilePath(b.dir.path), backstay.TypeFolder
	if err := unix.Fstat(b.dir.fd, &st); err != nil {
		it.Error = err.Error()
		return
	}
	setMeta(it, &st)
	it.Xattrs, it.Note = x.ofFile(b.dir.fd)
}

func setMeta(it *items.Item, st *unix.Stat_t) {
	it.Type, it.Mode, it.UID, it.GID, it.ModTime = fileType(st.Mode), st.Mode&0o7777, st.Uid, st.Gid, timeOf(st.Mtim)
}

func (b *batch) fillEntry(e *taken, x *xattrReader) {
	var st unix.Stat_t
	if err := unix.Fstatat(b.dir.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		e.item.Type, e.item.Error = kindType(e.kind), err.Error()
		return
	}
	setMeta(&e.item, &st)
	e.id, e.names = inode{st.Dev, st.Ino}, st.Nlink
	switch e.item.Type {
	case backstay.TypeFile:
		e.item.Size = max(st.Size, 0)
		b.fillFile(e, &st, x)
		return
	case backstay.TypeFolder:
		e.item.Error = "its folder has it as something that is no folder"
		return
	case backstay.TypeLink:
		target, err := readLink(b.dir.fd, e.name)
		if err == nil && target == "" {
			err = unix.EUCLEAN
		}
		if err != nil {
			e.item.Error = err.Error()
			return
		}
		e.item.Target = target
	case backstay.TypeBlock, backstay.TypeChar:
		e.item.Major, e.item.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	e.item.Xattrs, e.item.Note = x.ofName(b.dir.fd, e.name)
}

// fillFile opens a file for what is not in its inode, and begins to read it if it is
// small.
func (b *batch) fillFile(e *taken, st *unix.Stat_t, x *xattrReader) {
	size := e.item.Size
	e.inline = size == 0
	if size == 0 && x.t.plain.Load() {
		return
	}
	fd, err := unix.Openat(b.dir.fd, e.name, openContent, 0)
	if err != nil {
		e.item.Error = err.Error()
		return
	}
	e.item.Xattrs, e.item.Note = x.ofFile(fd)
	// A file of one block has no hole worth telling, and may lie within its inode.
	if e.holes = st.Blocks*512 < size && size > 4096; e.holes {
		e.item.Extents, e.item.Sparse = dataExtents(fd, size)
	}
	if size == 0 || size > smallFile || e.holes || e.names > 1 || b.ahead+size > batchBytes {
		unix.Close(fd)
		return
	}
	_ = unix.Fadvise(fd, 0, size, unix.FADV_WILLNEED) // a hint
	b.ahead += size
	e.fd = fd
}

// openContent are the flags to open a file whose type is known already: should that be
// a lie, opening waits for nobody and follows nothing. Volumes are mounted without devices.
const openContent = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC

// grow makes room for n bytes more. What points into the old ones stays right: they are
// not written again.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	return append(make([]byte, 0, max(2*cap(b), len(b)+n, 64<<10)), b...)
}

// endReason says why content ends at a place; "" if it ends where it should.
func endReason(at, size int64, err error) string {
	switch {
	case err != nil:
		return fmt.Sprintf("%v at byte %d", err, at)
	case at < size:
		return fmt.Sprintf("it ends at %d of the %d bytes that its inode says", at, size)
	}
	return ""
}

// dataExtents returns where a file has content, and false if that is more pieces than
// an item may name.
func dataExtents(fd int, size int64) ([]items.Extent, bool) {
	var all []items.Extent
	for at := int64(0); at < size; {
		part, ok := nextData(fd, at, size)
		if !ok {
			break
		}
		if len(all) == items.MaxExtents {
			return nil, false
		}
		all = append(all, items.Extent{Offset: part.from, Length: part.to - part.from})
		at = part.to
	}
	return all, true
}

// nextData returns the next piece of content from a place on. A file system that does
// not tell has content everywhere.
func nextData(fd int, at, size int64) (extent, bool) {
	from, err := unix.Seek(fd, at, unix.SEEK_DATA)
	if err == unix.ENXIO {
		return extent{}, false
	}
	if err != nil || from < at {
		return extent{at, size}, true
	}
	to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
	if err != nil || to <= from || to > size {
		to = size
	}
	return extent{from, to}, from < size
}
