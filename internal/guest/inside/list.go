package inside

import (
	"cmp"
	"context"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
	"golang.org/x/sys/unix"
)

// namesKept is how many names of a folder are sorted at a time and kept for the next
// page. A folder of more is read again for each such piece: a million entries are
// listed in order, with memory for 2 × namesKept names.
const namesKept = 200_000

// nameList is a piece of a folder's names in the order of their bytes.
type nameList struct {
	path  backstay.FilePath
	after string // all names behind this one
	names []dirent
	more  bool // than these
}

// sortedNames returns up to limit names of an open folder behind after, in the order of
// their bytes, and whether there are more. It keeps 2 × limit at most.
func sortedNames(ctx context.Context, fd int, after string, limit int) (names []dirent, more bool, err error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, false, err
	}
	order := func(a, b dirent) int { return strings.Compare(a.name, b.name) }
	last := "" // no name behind this one is among the first limit
	for d := newDirReader(fd); ; {
		e, ok, err := d.next()
		if err != nil {
			return nil, false, err
		}
		if !ok {
			break
		}
		if e.name <= after {
			continue
		}
		if last != "" && e.name > last {
			more = true
			continue
		}
		if names = append(names, e); len(names) < 2*limit {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		slices.SortFunc(names, order)
		names, more, last = names[:limit], true, names[limit-1].name
	}
	slices.SortFunc(names, order)
	names = slices.CompactFunc(names, func(a, b dirent) bool { return a.name == b.name })
	if len(names) > limit {
		names, more = names[:limit], true
	}
	return names, more, nil
}

// list answers OpList. Next is the last name that was given, so an answer does not
// depend on what was asked before.
func (t *tree) list(ctx context.Context, r wire.ListRequest) (wire.Folder, error) {
	limit := r.Limit
	if limit <= 0 || limit > wire.MaxEntries {
		limit = wire.MaxEntries
	}
	after := ""
	if r.After != "" {
		p, err := backstay.ParseFilePath(r.After)
		if err != nil {
			return wire.Folder{}, backstay.Errorf(backstay.CodeUsage, "%q is no place in a folder", r.After).Because(err)
		}
		after = string(p)
	}
	fd, err := t.openFolder(r.Path)
	if err != nil {
		return wire.Folder{}, t.noFolder(r.Path, err)
	}
	defer unix.Close(fd)
	names, more, err := t.names(ctx, fd, nameList{path: r.Path, after: after}, limit)
	if err != nil {
		return wire.Folder{}, t.failed(r.Path, err)
	}
	folder := wire.Folder{Entries: make([]backstay.FileEntry, len(names))}
	t.lookAll(fd, names, folder.Entries)
	if err := ctx.Err(); err != nil {
		return wire.Folder{}, err
	}
	if more {
		folder.Next = backstay.FilePath(names[len(names)-1].name).String()
	}
	return folder, nil
}

// noFolder tells a file apart from what is not there.
func (t *tree) noFolder(path backstay.FilePath, err error) error {
	fd, lookErr := t.open(path, unix.O_PATH)
	if lookErr != nil {
		return err
	}
	unix.Close(fd)
	if backstay.IsCode(err, backstay.CodeUnknownFile) {
		return backstay.Errorf(backstay.CodeFileUnfit, "%s is not a folder", path).Do("list the folder in which it is")
	}
	return err
}

// names returns at most limit names behind want.after, from those kept if they are the
// ones, and keeps what it reads.
func (t *tree) names(ctx context.Context, fd int, want nameList, limit int) ([]dirent, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := &t.last
	if kept.path != want.path || want.after < kept.after || !kept.reaches(want.after, limit) {
		names, more, err := sortedNames(ctx, fd, want.after, namesKept)
		if err != nil {
			return nil, false, err
		}
		*kept = nameList{path: want.path, after: want.after, names: names, more: more}
	}
	from := kept.behind(want.after)
	to := min(from+limit, len(kept.names))
	return kept.names[from:to:to], kept.more || to < len(kept.names), nil
}

// behind is the place of the first name behind after.
func (l *nameList) behind(after string) int {
	at, found := slices.BinarySearchFunc(l.names, after, func(e dirent, name string) int { return strings.Compare(e.name, name) })
	if found {
		at++
	}
	return at
}

// reaches tells whether the list holds the limit names behind after, or all that are.
func (l *nameList) reaches(after string, limit int) bool {
	return !l.more || l.behind(after)+limit <= len(l.names)
}

// lookAll fills in the entries of names. It goes through them in the order of their
// inodes, since that is how they lie on the disk.
func (t *tree) lookAll(fd int, names []dirent, entries []backstay.FileEntry) {
	order := make([]int, len(names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(names[a].inode, names[b].inode) })
	for _, i := range order {
		e, err := look(fd, names[i].name)
		if err != nil {
			// A damaged inode is one entry that cannot be read, not a folder that cannot.
			e = backstay.FileEntry{Name: backstay.FilePath(names[i].name), Type: kindType(names[i].kind), Inode: names[i].inode}
		}
		entries[i] = e
	}
}

// kindType is the type that a folder gives for an entry.
func kindType(kind byte) backstay.FileType {
	return fileType(uint32(kind) << 12)
}

// stat answers OpStat: the entry of a path, which is not followed if it is a link.
func (t *tree) stat(path backstay.FilePath) (backstay.FileEntry, error) {
	fd, err := t.open(path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return backstay.FileEntry{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return backstay.FileEntry{}, t.failed(path, err)
	}
	e := entryOf(baseName(path), &st)
	if e.Type == backstay.TypeLink {
		if e.Target, err = readLink(fd, ""); err != nil {
			return backstay.FileEntry{}, t.failed(path, err)
		}
	}
	return e, nil
}

// baseName is the last name of a path; that of the root is "/".
func baseName(path backstay.FilePath) string {
	s := strings.TrimRight(string(path), "/")
	if s == "" {
		return "/"
	}
	return s[strings.LastIndexByte(s, '/')+1:]
}
