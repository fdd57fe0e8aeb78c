package items

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	backstay "github.com/backstay/backstay"
	"golang.org/x/sys/unix"
)

// FolderOptions say how a stream is written into a folder.
type FolderOptions struct {
	// Conflict is for what is there already; "" means ConflictSkip. Folders that are there
	// are used as they are, and get the metadata of the item with ConflictOverwrite only.
	Conflict backstay.Conflict
	// Ask answers ConflictAsk with one of the others.
	Ask func(Clash) (backstay.Conflict, error)
	// Owner keeps the numeric owner and group, which root can do alone, and with them the
	// set-uid and set-gid bits, file capabilities and trusted attributes. Without it
	// all belongs to whoever writes, and has none of those.
	Owner bool
	// Nodes makes FIFOs and device nodes instead of leaving them out.
	Nodes bool
	// Progress is told after each item, and within large ones, how many items and bytes
	// there were so far.
	Progress func(items, bytes int64)
}

// Clash is an item whose name is taken.
type Clash struct {
	Path  backstay.FilePath
	Item  Item
	There fs.FileMode // type and permissions of what is there
	Size  int64       // of it
}

// Folder writes a stream into an existing folder. It follows no symbolic link, neither
// those that are there already nor those of the stream. A file appears under its name when
// it is whole: it is written beside under a name that begins with ".backstay-part-", and
// what could not be finished is removed.
//
// An item that cannot be written is a remark in the report. An error ends the writing: the
// stream is damaged or cut, ctx ended, or the target is full or broken; the report says
// what was written before.
func Folder(ctx context.Context, dir string, stream *Reader, o FolderOptions) (Report, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Report{}, fmt.Errorf("open folder %s: %w", dir, err)
	}
	if o.Conflict == "" {
		o.Conflict = backstay.ConflictSkip
	}
	f := &folderWriter{ctx: ctx, o: o, stream: stream, levels: []*level{{fd: fd}}, linked: map[backstay.FilePath]made{}}
	err = f.all()
	for len(f.levels) > 0 {
		f.leave()
	}
	return f.report, err
}

// folderWriter is one writing of a stream. It belongs to one goroutine.
type folderWriter struct {
	ctx    context.Context
	o      FolderOptions
	stream *Reader
	report Report
	levels []*level // the open folders, outermost first
	linked map[backstay.FilePath]made
	items  int64
	parts  int // unfinished names that were given out
	nonce  string
}

// level is an open folder.
type level struct {
	path string // of its item; "" for the target itself
	fd   int    // -1 if what is in it is left out
	// dest is where it lies in the target; another than path if something was renamed.
	dest string
	item Item
	// finish says that the folder gets the item's metadata when all in it is written.
	finish bool
}

// made is where a Linked item was written.
type made struct {
	dest     string
	dev, ino uint64
}

// errItem is an error of one item: writing goes on with the next.
type errItem struct{ reason string }

func (e *errItem) Error() string { return e.reason }

func refuse(format string, args ...any) error { return &errItem{fmt.Sprintf(format, args...)} }

func (f *folderWriter) all() error {
	for {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		it, err := f.stream.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		parent, name := split(it.Path)
		for len(f.levels) > 1 && f.levels[len(f.levels)-1].path != parent {
			f.leave()
		}
		if err := f.item(f.levels[len(f.levels)-1], name, &it); err != nil {
			return fmt.Errorf("write %s: %w", it.Path, err)
		}
		f.items++
		f.progress()
	}
}

func (f *folderWriter) progress() {
	if f.o.Progress != nil {
		f.o.Progress(f.items, f.report.Bytes)
	}
}

func split(path backstay.FilePath) (parent, name string) {
	s := string(path)
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+1:]
}

func (l *level) join(name string) string {
	if l.dest == "" {
		return name
	}
	return l.dest + "/" + name
}

// item writes one item. An error is one that ends the writing.
func (f *folderWriter) item(l *level, name string, it *Item) error {
	if l.fd < 0 { // the remark on the folder says why
		if it.Type == backstay.TypeFolder {
			f.levels = append(f.levels, &level{path: string(it.Path), fd: -1})
		}
		return nil
	}
	if it.Error != "" {
		f.report.remark(Unread, it.Path, it.Error)
		if it.Type != backstay.TypeFolder {
			return nil
		}
	}
	if it.Note != "" {
		f.report.remark(Lacking, it.Path, it.Note)
	}
	var err error
	switch {
	case it.Type == backstay.TypeFolder:
		err = f.folder(l, name, it)
	case it.HardLink != "":
		err = f.hardLink(l, name, it)
	case it.Type == backstay.TypeFile, it.Type == backstay.TypeLink:
		err = f.put(l, name, it)
	case !f.o.Nodes || it.Type == backstay.TypeSocket:
		f.report.remark(LeftOut, it.Path, "it is a "+string(it.Type))
	default:
		err = f.put(l, name, it)
	}
	var one *errItem
	if !errors.As(asItem(err), &one) {
		return err
	}
	f.report.remark(Refused, it.Path, one.reason)
	if it.Type == backstay.TypeFolder {
		f.levels = append(f.levels, &level{path: string(it.Path), fd: -1})
	}
	return nil
}

// asItem makes errors of one item of those that the system gives for one name, in
// contrast to those that the next item would meet as well.
func asItem(err error) error {
	for one, reason := range map[unix.Errno]string{
		unix.EINVAL: "the folder's file system takes no such name", unix.EILSEQ: "the folder's file system takes no such name",
		unix.ENAMETOOLONG: "its name is too long for the folder's file system", unix.EFBIG: "it is too big for the folder's file system",
		unix.EEXIST: "something has appeared under its name meanwhile", unix.EPERM: "the folder's file system or your rights do not allow it",
		unix.EACCES: "you may not write there", unix.EOPNOTSUPP: "the folder's file system knows nothing of the kind",
		unix.ENXIO: "what is there is a device that does not answer", unix.EBUSY: "what is there is in use", unix.EMLINK: "the folder's file system takes no more names of one file",
	} {
		if errors.Is(err, one) {
			return refuse("%s", reason)
		}
	}
	return err
}

// folder makes a folder, or uses the one that is there, and opens it.
func (f *folderWriter) folder(l *level, name string, it *Item) error {
	there, err := lstat(l.fd, name)
	next := &level{path: string(it.Path), item: *it, finish: true}
	switch {
	case err == nil && there.Mode&unix.S_IFMT == unix.S_IFDIR:
		next.finish = f.o.Conflict == backstay.ConflictOverwrite
	case err == nil:
		var replace bool
		if name, replace, err = f.clash(l, name, it, there); err != nil {
			return err
		}
		if name == "" {
			f.levels = append(f.levels, &level{path: string(it.Path), fd: -1})
			return nil
		}
		if replace {
			if err := unix.Unlinkat(l.fd, name, 0); err != nil {
				return fmt.Errorf("remove what is there: %w", err)
			}
		}
		fallthrough
	default:
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := unix.Mkdirat(l.fd, name, 0o700); err != nil {
			return err
		}
	}
	next.fd, err = unix.Openat(l.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	next.dest = l.join(name)
	f.levels = append(f.levels, next)
	f.report.count(it)
	return nil
}

// leave closes the innermost folder, with its metadata: what is written into a folder
// changes its times, and its mode may forbid writing.
func (f *folderWriter) leave() {
	l := f.levels[len(f.levels)-1]
	f.levels = f.levels[:len(f.levels)-1]
	if l.fd < 0 {
		return
	}
	if l.finish {
		if err := f.meta(l.fd, &l.item); err != nil {
			f.report.remark(Lacking, l.item.Path, err.Error())
		}
	}
	unix.Close(l.fd)
}

func lstat(dir int, name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// clash decides what becomes of an item whose name is taken: the name to write under,
// "" for none, and whether what is there is replaced.
func (f *folderWriter) clash(l *level, name string, it *Item, there unix.Stat_t) (string, bool, error) {
	how := f.o.Conflict
	if how == backstay.ConflictAsk {
		if f.o.Ask == nil {
			return "", false, refuse("there is something of that name, and nobody to ask")
		}
		mode := fs.FileMode(there.Mode & 0o777)
		if there.Mode&unix.S_IFMT == unix.S_IFDIR {
			mode |= fs.ModeDir
		} else if there.Mode&unix.S_IFMT == unix.S_IFLNK {
			mode |= fs.ModeSymlink
		}
		var err error
		if how, err = f.o.Ask(Clash{Path: it.Path, Item: *it, There: mode, Size: there.Size}); err != nil {
			return "", false, err
		}
	}
	switch how {
	case backstay.ConflictRename:
		free, err := freeName(l.fd, name)
		if err == nil {
			f.report.remark(Renamed, it.Path, backstay.FilePath(l.join(free)).String())
		}
		return free, false, err
	case backstay.ConflictOverwrite:
		if there.Mode&unix.S_IFMT == unix.S_IFDIR {
			return "", false, refuse("a folder is there, which no file replaces")
		}
		return name, true, nil
	default:
		f.report.remark(Skipped, it.Path, "")
		return "", false, nil
	}
}

// freeName returns a name like the one given that nothing has: "a (restored).txt",
// "a (restored 2).txt".
func freeName(dir int, name string) (string, error) {
	stem, ext := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 && len(name)-i < 16 {
		stem, ext = name[:i], name[i:]
	}
	for n := 1; n < 10_000; n++ {
		mark := " (restored)"
		if n > 1 {
			mark = fmt.Sprintf(" (restored %d)", n)
		}
		free := strings.ToValidUTF8(stem[:min(len(stem), 255-len(mark)-len(ext))], "?") + mark + ext
		if _, err := lstat(dir, free); errors.Is(err, unix.ENOENT) {
			return free, nil
		} else if err != nil {
			return "", err
		}
	}
	return "", refuse("all names like it are taken")
}
