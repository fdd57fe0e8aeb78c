package inside

import (
	"time"

	backstay "github.com/backstay/backstay"
	"golang.org/x/sys/unix"
)

// typeWords are the types of entry as a sentence has them.
var typeWords = map[backstay.FileType]string{
	backstay.TypeFile: "file", backstay.TypeFolder: "folder", backstay.TypeLink: "symbolic link",
	backstay.TypeBlock: "block device", backstay.TypeChar: "character device", backstay.TypeFIFO: "FIFO", backstay.TypeSocket: "socket",
}

func fileType(mode uint32) backstay.FileType {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return backstay.TypeFile
	case unix.S_IFDIR:
		return backstay.TypeFolder
	case unix.S_IFLNK:
		return backstay.TypeLink
	case unix.S_IFBLK:
		return backstay.TypeBlock
	case unix.S_IFCHR:
		return backstay.TypeChar
	case unix.S_IFIFO:
		return backstay.TypeFIFO
	default:
		return backstay.TypeSocket
	}
}

// The last second of the year 9999 and the first of -9999: what prints times breaks on
// others, and a damaged inode may hold any.
const lastSecond = 253402300799

func timeOf(ts unix.Timespec) time.Time {
	seconds := min(max(ts.Sec, -lastSecond), lastSecond)
	return time.Unix(seconds, min(max(ts.Nsec, 0), 999_999_999)).UTC()
}

// entryOf is what a folder shows of an inode. Only files have a size; what a folder
// takes is its Used.
func entryOf(name string, st *unix.Stat_t) backstay.FileEntry {
	e := backstay.FileEntry{
		Name: backstay.FilePath(name), Type: fileType(st.Mode), Used: max(st.Blocks, 0) * 512, Mode: st.Mode & 0o7777,
		UID: st.Uid, GID: st.Gid, ModTime: timeOf(st.Mtim), Links: st.Nlink, Inode: st.Ino,
	}
	if e.Type == backstay.TypeFile {
		e.Size = max(st.Size, 0)
	}
	if st.Ctim.Sec != 0 || st.Ctim.Nsec != 0 {
		changed := timeOf(st.Ctim)
		e.Changed = &changed
	}
	return e
}

// look returns the entry of a name in an open folder, without following it.
func look(dir int, name string) (backstay.FileEntry, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return backstay.FileEntry{}, err
	}
	e := entryOf(name, &st)
	if e.Type == backstay.TypeLink {
		target, err := readLink(dir, name)
		if err != nil {
			return backstay.FileEntry{}, err
		}
		e.Target = target
	}
	return e, nil
}
