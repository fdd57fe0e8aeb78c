package items

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
	"golang.org/x/sys/unix"
)

// meta gives an open file or folder what the item says of it. What could not be set is
// named in one error; all else is set.
func (f *folderWriter) meta(fd int, it *Item) error {
	var lacks []string
	mode := it.Mode & 0o777
	if it.Type == backstay.TypeFolder {
		mode |= it.Mode & 0o1000
	}
	if f.o.Owner {
		// Before the mode: a change of owner takes the set-uid bit away.
		if err := unix.Fchown(fd, int(it.UID), int(it.GID)); err != nil {
			lacks = append(lacks, fmt.Sprintf("the owner %d:%d (%v)", it.UID, it.GID, err))
		} else {
			mode |= it.Mode & 0o7000
		}
	}
	if it.Type == backstay.TypeFile && it.Mode&0o6000 != mode&0o6000 {
		lacks = append(lacks, "the set-uid or set-gid bit (only with the owner)")
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		lacks = append(lacks, fmt.Sprintf("the mode %o (%v)", mode, err))
	}
	lacks = append(lacks, f.xattrs(it, func(x *Xattr) error { return unix.Fsetxattr(fd, x.Name, x.Value, 0) })...)
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(it)}
	if err := utimes(fd, times); err != nil {
		lacks = append(lacks, fmt.Sprintf("the time (%v)", err))
	}
	return lacking(lacks)
}

func lacking(lacks []string) error {
	if len(lacks) == 0 {
		return nil
	}
	return errors.New("without " + strings.Join(lacks, ", "))
}

func timespec(it *Item) unix.Timespec {
	return unix.Timespec{Sec: it.ModTime.Unix(), Nsec: int64(it.ModTime.Nanosecond())}
}

// utimes sets the times of what a descriptor stands for.
func utimes(fd int, times []unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times, 0)
}

// nameMeta gives a link or a node what the item says of it, mode aside.
func (f *folderWriter) nameMeta(l *level, name string, it *Item) (unix.Stat_t, error) {
	var lacks []string
	if f.o.Owner {
		if err := unix.Fchownat(l.fd, name, int(it.UID), int(it.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			lacks = append(lacks, fmt.Sprintf("the owner %d:%d (%v)", it.UID, it.GID, err))
		}
	}
	path := "/proc/self/fd/" + strconv.Itoa(l.fd) + "/" + name
	lacks = append(lacks, f.xattrs(it, func(x *Xattr) error { return unix.Lsetxattr(path, x.Name, x.Value, 0) })...)
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(it)}
	if err := unix.UtimesNanoAt(l.fd, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		lacks = append(lacks, fmt.Sprintf("the time (%v)", err))
	}
	if err := lacking(lacks); err != nil {
		f.report.remark(Lacking, it.Path, err.Error())
	}
	return lstat(l.fd, name)
}

// xattrs sets extended attributes and returns those that could not be. What gives rights
// or is believed by the system goes with the owner only.
func (f *folderWriter) xattrs(it *Item, set func(*Xattr) error) (lacks []string) {
	for i := range it.Xattrs {
		x := &it.Xattrs[i]
		var err error
		switch {
		case strings.HasPrefix(x.Name, "user."), x.Name == "system.posix_acl_access", x.Name == "system.posix_acl_default":
			err = set(x)
		case !f.o.Owner:
			err = errors.New("only with the owner")
		default:
			err = set(x)
		}
		if err != nil {
			lacks = append(lacks, fmt.Sprintf("the attribute %s (%v)", backstay.FilePath(x.Name), err))
		}
	}
	return lacks
}
