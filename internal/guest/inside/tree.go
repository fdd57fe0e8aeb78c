package inside

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	backstay "github.com/backstay/backstay"
	"golang.org/x/sys/unix"
)

// tree is the files of one mounted volume, seen from its root. Nothing in it leads
// out: links are resolved within it, and a device or a FIFO is never opened. It is
// safe for several goroutines.
type tree struct {
	root int // O_PATH or read-only; owned by whoever made the tree
	// plain is set once the file system said that it has no extended attributes.
	plain atomic.Bool

	mu   sync.Mutex
	last nameList // of the folder that was listed last; guarded by mu
}

// newTree returns the files below a directory. The descriptor must stay open.
func newTree(root int) *tree { return &tree{root: root} }

// pieceLength is how much of a path the kernel takes at once, a little below PATH_MAX.
const pieceLength = 4000

// open opens a path of the volume. Symbolic links on the way are resolved as if the
// volume's root were the machine's; with O_NOFOLLOW the last name is not. Only
// O_PATH, or O_DIRECTORY, keeps it from opening a device: use openFile for files.
func (t *tree) open(path backstay.FilePath, flags int) (int, error) {
	if !strings.HasPrefix(string(path), "/") || strings.IndexByte(string(path), 0) >= 0 {
		return -1, backstay.Errorf(backstay.CodeUsage, "%q is no path of a volume", path.String()).
			Do("give a path that begins with /")
	}
	at, rest := t.root, strings.Trim(string(path), "/")
	resolve := uint64(unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV)
	for len(rest) > pieceLength {
		cut := strings.LastIndexByte(rest[:pieceLength], '/')
		if cut <= 0 {
			return -1, t.failed(path, unix.ENAMETOOLONG)
		}
		fd, err := openat2(at, rest[:cut], unix.O_PATH|unix.O_DIRECTORY, resolve)
		if at != t.root {
			unix.Close(at)
		}
		if err != nil {
			return -1, t.failed(path, err)
		}
		// A folder so deep is no root: an absolute link in it cannot be resolved from there.
		at, rest, resolve = fd, strings.TrimLeft(rest[cut:], "/"), unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_XDEV
	}
	if rest == "" {
		rest = "."
	}
	fd, err := openat2(at, rest, flags, resolve)
	if at != t.root {
		unix.Close(at)
	}
	if err != nil {
		return -1, t.failed(path, err)
	}
	return fd, nil
}

func openat2(at int, path string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for {
		fd, err := unix.Openat2(at, path, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// openFolder opens a folder for listing, through a link if it is one.
func (t *tree) openFolder(path backstay.FilePath) (int, error) {
	return t.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openFile opens a regular file for reading, through a link if it is one. It looks
// before it opens: opening a device does something, and opening a FIFO waits.
func (t *tree) openFile(path backstay.FilePath) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	look, err := t.open(path, unix.O_PATH)
	if err != nil {
		return -1, st, err
	}
	defer unix.Close(look)
	if err := unix.Fstat(look, &st); err != nil {
		return -1, st, t.failed(path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, st, backstay.Errorf(backstay.CodeFileUnfit, "%s is a %s, which has no content to read", path, typeWords[fileType(st.Mode)])
	}
	fd, err := reopen(look)
	if err != nil {
		return -1, st, t.failed(path, err)
	}
	return fd, st, nil
}

// reopen opens for reading what an O_PATH descriptor stands for.
func reopen(fd int) (int, error) {
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	return unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
}

// reopenFolder opens an open folder once more.
func reopenFolder(fd int) (int, error) {
	return openat2(fd, ".", unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_BENEATH)
}

func closeFD(fd int) { unix.Close(fd) }

// failed says in the product's words why a path could not be had.
func (t *tree) failed(path backstay.FilePath, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		if link, target := t.linkOn(path); target != "" {
			return backstay.Errorf(backstay.CodeUnknownFile, "%s leads through the link %s to %s, which is not on this volume", path, link, target).
				Because(err).Do("look for it on the volume that the guest mounts there: `backstay files ls POINT` lists the volumes")
		}
		return backstay.Errorf(backstay.CodeUnknownFile, "there is no %s on this volume", path).Because(err)
	case errors.Is(err, unix.ENAMETOOLONG):
		return backstay.Errorf(backstay.CodeFileUnfit, "the path %.60s… is longer than a file system can have", path).Because(err)
	default:
		return backstay.Errorf(backstay.CodeVolumeUnread, "%s cannot be read", path).Because(err)
	}
}

// linkOn returns the first symbolic link on a path, and where it points; "" if none is.
func (t *tree) linkOn(path backstay.FilePath) (link, target backstay.FilePath) {
	names := strings.Split(strings.Trim(string(path), "/"), "/")
	at, err := openat2(t.root, ".", unix.O_PATH, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return "", ""
	}
	defer func() { unix.Close(at) }()
	for i, name := range names {
		fd, err := openat2(at, name, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV)
		if err != nil {
			return "", ""
		}
		unix.Close(at)
		at = fd
		if to, err := readLink(at, ""); err == nil {
			return backstay.FilePath("/" + strings.Join(names[:i+1], "/")), to
		}
	}
	return "", ""
}

// readLink returns where a symbolic link points. Name "" means the descriptor itself.
func readLink(at int, name string) (backstay.FilePath, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Readlinkat(at, name, buf)
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return backstay.FilePath(buf[:n]), nil
		}
		buf = make([]byte, 2*len(buf))
	}
}
