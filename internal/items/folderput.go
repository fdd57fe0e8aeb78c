package items

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"golang.org/x/sys/unix"
)

// partPrefix begins the names of what is not finished.
const partPrefix = ".backstay-part-"

// part returns a name for something unfinished.
func (f *folderWriter) part() string {
	if f.nonce == "" {
		f.nonce = rand.Text()[:10]
	}
	f.parts++
	return fmt.Sprintf("%s%s-%d", partPrefix, f.nonce, f.parts)
}

// put writes a file, a symbolic link or a node.
func (f *folderWriter) put(l *level, name string, it *Item) error {
	there, err := lstat(l.fd, name)
	replace := false
	switch {
	case err == nil:
		original := name
		if name, replace, err = f.clash(l, name, it, there); err != nil {
			return err
		}
		if name == "" {
			f.sameThere(l, original, it, there)
			return nil
		}
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	part := f.part()
	var st unix.Stat_t
	switch it.Type {
	case backstay.TypeFile:
		st, err = f.file(l, part, it, replace)
	case backstay.TypeLink:
		st, err = f.link(l, part, it)
	default:
		st, err = f.node(l, part, it)
	}
	var broken *Broken
	if errors.As(err, &broken) {
		f.report.remark(Unread, it.Path, broken.Reason)
		return nil
	}
	if err == nil {
		err = commit(l.fd, part, name, replace)
	}
	if err != nil {
		_ = unix.Unlinkat(l.fd, part, 0) // the first error says more
		return err
	}
	if it.Linked {
		f.linked[it.Path] = made{dest: l.join(name), dev: st.Dev, ino: st.Ino}
	}
	f.report.count(it)
	return nil
}

// sameThere notes a file that was skipped, if it looks like the item, for the sake of
// its other names: a restore that is run again makes those that are missing.
func (f *folderWriter) sameThere(l *level, name string, it *Item, there unix.Stat_t) {
	same := there.Mode&unix.S_IFMT == unix.S_IFREG && it.Type == backstay.TypeFile && there.Size == it.Size &&
		there.Mtim.Sec == it.ModTime.Unix() && there.Mtim.Nsec == int64(it.ModTime.Nanosecond())
	if it.Linked && same {
		f.linked[it.Path] = made{dest: l.join(name), dev: there.Dev, ino: there.Ino}
	}
}

// commit gives what is finished its name. Without replace it replaces nothing, not even
// what has appeared meanwhile.
func commit(dir int, part, name string, replace bool) error {
	if replace {
		if err := unix.Renameat(dir, part, dir, name); err != nil {
			return err
		}
		// Two names of one inode: renaming one to the other leaves both.
		if err := unix.Unlinkat(dir, part, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	}
	err := unix.Renameat2(dir, part, dir, name, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// A file system that cannot: the moment between looking and renaming remains.
	if _, err := lstat(dir, name); err == nil {
		return unix.EEXIST
	}
	return unix.Renameat(dir, part, dir, name)
}

// file writes a file's content and metadata under an unfinished name.
func (f *folderWriter) file(l *level, part string, it *Item, replace bool) (st unix.Stat_t, err error) {
	fd, err := unix.Openat(l.fd, part, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return st, err
	}
	defer func() {
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
		if err != nil {
			_ = unix.Unlinkat(l.fd, part, 0) // err says more
		}
	}()
	end, err := f.content(fd)
	if err != nil {
		return st, err
	}
	if end < it.Size {
		if err := unix.Ftruncate(fd, it.Size); err != nil {
			return st, err
		}
	}
	if err := f.meta(fd, it); err != nil {
		f.report.remark(Lacking, it.Path, err.Error())
	}
	if replace { // what is there must not be lost to a crash for what was never written
		if err := unix.Fsync(fd); err != nil {
			return st, err
		}
	}
	return st, unix.Fstat(fd, &st)
}

// content writes the runs of the item and returns where the last one ended.
func (f *folderWriter) content(fd int) (int64, error) {
	var end int64
	for {
		run, err := f.stream.Run()
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return end, err
		}
		if err := f.ctx.Err(); err != nil {
			return end, err
		}
		for at, data := run.Offset, run.Data; len(data) > 0; {
			n, err := unix.Pwrite(fd, data, at)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return end, err
			}
			at, data = at+int64(n), data[n:]
		}
		end = run.Offset + int64(len(run.Data))
		f.report.Bytes += int64(len(run.Data))
		if len(run.Data) >= 64<<10 {
			f.progress()
		}
	}
}

func (f *folderWriter) link(l *level, part string, it *Item) (unix.Stat_t, error) {
	if err := unix.Symlinkat(string(it.Target), l.fd, part); err != nil {
		return unix.Stat_t{}, err
	}
	return f.nameMeta(l, part, it)
}

func (f *folderWriter) node(l *level, part string, it *Item) (unix.Stat_t, error) {
	kind := map[backstay.FileType]uint32{backstay.TypeFIFO: unix.S_IFIFO, backstay.TypeBlock: unix.S_IFBLK, backstay.TypeChar: unix.S_IFCHR}[it.Type]
	if err := unix.Mknodat(l.fd, part, kind|0o600, int(unix.Mkdev(it.Major, it.Minor))); err != nil {
		return unix.Stat_t{}, err
	}
	st, err := f.nameMeta(l, part, it)
	if err != nil {
		return st, err
	}
	// No link can be there: the name is ours, and nobody else knows it.
	return st, unix.Fchmodat(l.fd, part, it.Mode&0o777, 0)
}

// hardLink makes another name of a file that was written before.
func (f *folderWriter) hardLink(l *level, name string, it *Item) error {
	first, ok := f.linked[it.HardLink]
	if !ok {
		return refuse("it is another name of %s, which was not written", it.HardLink)
	}
	there, err := lstat(l.fd, name)
	replace := false
	switch {
	case err == nil && there.Dev == first.dev && there.Ino == first.ino:
		f.report.count(it)
		return nil
	case err == nil:
		if name, replace, err = f.clash(l, name, it, there); err != nil || name == "" {
			return err
		}
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	part := f.part()
	if err := f.linkTo(first, l.fd, part); err != nil {
		return err
	}
	if err := commit(l.fd, part, name, replace); err != nil {
		_ = unix.Unlinkat(l.fd, part, 0) // the first error says more
		return err
	}
	f.report.count(it)
	return nil
}

// linkTo makes a name of a file that this writing made, and of no other that somebody
// may have put in its place.
func (f *folderWriter) linkTo(first made, dir int, part string) error {
	parent, name := "", first.dest
	if i := strings.LastIndexByte(first.dest, '/'); i >= 0 {
		parent, name = first.dest[:i], first.dest[i+1:]
	}
	from, err := f.reach(parent)
	if err != nil {
		return refuse("%s, of which it is another name, cannot be reached any more: %v", backstay.FilePath(first.dest), err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, name, dir, part, 0); err != nil {
		return err
	}
	st, err := lstat(dir, part)
	if err == nil && (st.Dev != first.dev || st.Ino != first.ino) {
		err = refuse("%s, of which it is another name, was replaced meanwhile", backstay.FilePath(first.dest))
	}
	if err != nil {
		_ = unix.Unlinkat(dir, part, 0)
	}
	return err
}

// reach opens a folder of the target, name by name, through no link.
func (f *folderWriter) reach(path string) (int, error) {
	at, err := unix.Openat(f.levels[0].fd, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if path == "" || err != nil {
		return at, err
	}
	for name := range strings.SplitSeq(path, "/") {
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}
