package trees

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Make makes entries in a folder; plain leaves out owners, modes and attributes,
// for file systems that have none. It takes root.
func Make(folder string, entries []Entry, plain bool) error {
	for _, e := range entries {
		if err := in(folder, e.Path, func(dir int, name string) error { return create(folder, dir, name, e) }); err != nil {
			return fmt.Errorf("make %q: %w", e.Path, err)
		}
	}
	// What is in a folder changes its time, so the innermost come first.
	for _, e := range slices.Backward(entries) {
		if e.Type == Hard {
			continue
		}
		if err := in(folder, e.Path, func(dir int, name string) error { return dress(dir, name, e, plain) }); err != nil {
			return fmt.Errorf("dress %q: %w", e.Path, err)
		}
	}
	return nil
}

// in calls fn with the folder that holds a path, which may be longer than the
// kernel takes in one piece.
func in(folder, p string, fn func(dir int, name string) error) error {
	at, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	parts := strings.Split(p, "/")
	for _, part := range parts[:len(parts)-1] {
		next, err := unix.Openat(at, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(at)
		if err != nil {
			return err
		}
		at = next
	}
	defer unix.Close(at)
	return fn(at, parts[len(parts)-1])
}

func create(folder string, dir int, name string, e Entry) error {
	switch e.Type {
	case Folder:
		return unix.Mkdirat(dir, name, 0o755)
	case Link:
		return unix.Symlinkat(e.Target, dir, name)
	case Hard:
		return unix.Linkat(unix.AT_FDCWD, path.Join(folder, e.Target), dir, name, 0)
	case FIFO:
		return unix.Mknodat(dir, name, unix.S_IFIFO|0o600, 0)
	case Char:
		return unix.Mknodat(dir, name, unix.S_IFCHR|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	case Block:
		return unix.Mknodat(dir, name, unix.S_IFBLK|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, e.Mode&0o777|0o200)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	if e.Data == nil {
		if _, err := io.CopyBuffer(struct{ io.Writer }{file}, e.Content(), make([]byte, 1<<20)); err != nil {
			return err
		}
		return file.Close()
	}
	if err := file.Truncate(e.Size); err != nil {
		return err
	}
	all := newContent(e)
	for _, d := range e.Data {
		if _, err := io.Copy(io.NewOffsetWriter(file, d.Offset), io.NewSectionReader(all, d.Offset, d.Length)); err != nil {
			return err
		}
	}
	return file.Close()
}

// dress gives an entry its owner, mode, attributes and times, in the order in which
// none takes another away.
func dress(dir int, name string, e Entry, plain bool) error {
	if !plain {
		if e.UID != 0 || e.GID != 0 {
			if err := unix.Fchownat(dir, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		// A file is made with its mode, if the mask is none and its owner may write.
		if e.Type != Link && (e.Type != File || e.Mode&0o7200 != 0o200) {
			if err := unix.Fchmodat(dir, name, e.Mode, 0); err != nil {
				return err
			}
		}
		if err := attributes(dir, name, e); err != nil {
			return err
		}
	}
	// Of times before 1970, the fraction counts forwards.
	times := []unix.Timespec{unix.NsecToTimespec(e.ModTime.UnixNano()), unix.NsecToTimespec(e.ModTime.UnixNano())}
	return unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

func attributes(dir int, name string, e Entry) error {
	if len(e.Xattrs) == 0 {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for key, value := range e.Xattrs {
		if err := unix.Fsetxattr(fd, key, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	return nil
}
