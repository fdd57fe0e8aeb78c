package inside

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/items"
	"golang.org/x/sys/unix"
)

// The measures of a walk: how many names of a folder are looked at at once, and how many
// folders are listed ahead, of one folder and in all. Listing ahead matters where each
// folder is a read from a vault.
const (
	walkPiece   = 50_000
	walkAhead   = 6
	walkListing = 48
)

// walker is one walk.
type walker struct {
	t    *tree
	ctx  context.Context
	rows *wire.RowWriter
	// lasting says that inodes keep their numbers, and have a time of change.
	lasting bool
	flat    bool          // folders in the folder are not listed
	slots   chan struct{} // a listing that runs ahead has one
}

// listing is what a folder holds, or the first piece of it.
type listing struct {
	fd   int // -1 if it could not be opened
	id   inode
	rows []wire.Row // of its entries, with full paths
	more bool
	last string // name
	err  error
	done chan struct{}
	slot bool
}

// walk answers OpWalk: a row of all that is below a folder, in the order of
// wire.ComparePaths.
func (t *tree) walk(ctx context.Context, r wire.WalkRequest, w io.Writer) error {
	fd, err := t.openFolder(r.Path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wk := &walker{t: t, ctx: ctx, rows: wire.NewRowWriter(w), slots: make(chan struct{}, walkListing), lasting: lastingInodes(fd), flat: r.Flat}
	path := r.Path
	if path == "/" {
		path = ""
	}
	l := &listing{fd: fd}
	wk.fill(l, path, "")
	if l.err != nil {
		wk.close(l)
		return t.failed(r.Path, l.err)
	}
	if err := wk.folder(l, path, nil); err != nil {
		return err
	}
	return wk.rows.Close()
}

// lastingInodes tells whether the numbers of inodes belong to the file system, and are
// not made up when it is mounted.
func lastingInodes(fd int) bool {
	const exfat = 0x2011bab0
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type != unix.MSDOS_SUPER_MAGIC && st.Type != exfat
}

// list lists a folder within another.
func (wk *walker) list(l *listing, parent int, name string, path backstay.FilePath) {
	l.fd, l.err = openat2(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
	if l.err == nil {
		wk.fill(l, path, "")
	}
}

// fill looks at the entries of an open folder behind a name.
func (wk *walker) fill(l *listing, path backstay.FilePath, after string) {
	var st unix.Stat_t
	if l.err = unix.Fstat(l.fd, &st); l.err != nil {
		return
	}
	l.id = inode{st.Dev, st.Ino}
	names, more, err := sortedNames(wk.ctx, l.fd, after, walkPiece)
	if err != nil {
		l.err = err
		return
	}
	l.more, l.rows = more, make([]wire.Row, len(names))
	order := make([]int, len(names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(names[a].inode, names[b].inode) })
	for _, i := range order {
		l.rows[i] = wk.row(l.fd, path+"/"+backstay.FilePath(names[i].name), names[i])
	}
	if len(names) > 0 {
		l.last = names[len(names)-1].name
	}
}

func (wk *walker) row(fd int, path backstay.FilePath, e dirent) wire.Row {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return wire.Row{Path: path, Type: kindType(e.kind), Unread: true}
	}
	row := wire.Row{Path: path, Type: fileType(st.Mode), ModTime: nanoseconds(st.Mtim)}
	if row.Type == backstay.TypeFile {
		row.Size = max(st.Size, 0)
	}
	if wk.lasting {
		row.Changed, row.Inode = nanoseconds(st.Ctim), st.Ino
	}
	return row
}

func nanoseconds(ts unix.Timespec) int64 {
	const most = int64(math.MaxInt64/1_000_000_000 - 1)
	return min(max(ts.Sec, -most), most)*1_000_000_000 + min(max(ts.Nsec, 0), 999_999_999)
}

// folder writes the rows of what is in a listed folder, and closes it. Above are the
// folders that it lies in.
func (wk *walker) folder(l *listing, path backstay.FilePath, above []inode) error {
	defer wk.close(l)
	above = append(above[:len(above):len(above)], l.id)
	for {
		if err := wk.piece(l, above); err != nil {
			return err
		}
		if !l.more {
			return nil
		}
		if wk.fill(l, path, l.last); l.err != nil {
			return fmt.Errorf("list %s: %w", path, l.err)
		}
	}
}

// piece writes the rows of one piece of a folder, each with what is below it.
func (wk *walker) piece(l *listing, above []inode) error {
	folders := map[int]*listing{} // that are listed, or will be
	defer func() {
		for _, f := range folders {
			<-f.done
			wk.close(f)
		}
	}()
	next := 0 // of the rows, to list ahead
	for i := range l.rows {
		if err := wk.ctx.Err(); err != nil {
			return err
		}
		row := &l.rows[i]
		if row.Type != backstay.TypeFolder || row.Unread || wk.flat {
			if err := wk.rows.Write(*row); err != nil {
				return err
			}
			continue
		}
		next = wk.ahead(l, folders, max(next, i))
		f := folders[i]
		delete(folders, i)
		if f == nil {
			f = &listing{}
			wk.list(f, l.fd, baseName(row.Path), row.Path)
		} else {
			<-f.done
		}
		if err := wk.subfolder(f, row, above); err != nil {
			return err
		}
	}
	return nil
}

// subfolder writes the row of a folder and what is in it.
func (wk *walker) subfolder(f *listing, row *wire.Row, above []inode) error {
	// One that lies in itself, or deeper than any, comes from a damaged file system.
	if f.err != nil || slices.Contains(above, f.id) || len(above) >= items.MaxDepth-1 {
		row.Unread = true
		wk.close(f)
		return wk.rows.Write(*row)
	}
	if err := wk.rows.Write(*row); err != nil {
		wk.close(f)
		return err
	}
	return wk.folder(f, row.Path, above)
}

// ahead begins to list the next folders from a row on, as far as there is room, and
// returns the row where it stopped.
func (wk *walker) ahead(l *listing, folders map[int]*listing, from int) int {
	for ; from < len(l.rows) && len(folders) < walkAhead; from++ {
		row := &l.rows[from]
		if row.Type != backstay.TypeFolder || row.Unread {
			continue
		}
		select {
		case wk.slots <- struct{}{}:
		default:
			return from
		}
		f := &listing{done: make(chan struct{}), slot: true}
		folders[from] = f
		go func() {
			defer close(f.done)
			wk.list(f, l.fd, baseName(row.Path), row.Path)
		}()
	}
	return from
}

func (wk *walker) close(l *listing) {
	if l.fd >= 0 {
		unix.Close(l.fd)
		l.fd = -1
	}
	if l.slot {
		l.slot = false
		<-wk.slots
	}
	l.rows = nil
}
