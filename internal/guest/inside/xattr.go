package inside

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/backstay/backstay/internal/items"
	"golang.org/x/sys/unix"
)

// maxXattrBytes is how much of extended attributes one item carries; a file system may
// hold more than any other could take.
const maxXattrBytes = 512 << 10

// xattrReader reads extended attributes. It belongs to one goroutine.
type xattrReader struct {
	t     *tree
	names []byte
	value []byte
}

// ofFile returns the attributes of an open file or folder, and a note if some are left out.
func (x *xattrReader) ofFile(fd int) ([]items.Xattr, string) {
	return x.read(
		func(dest []byte) (int, error) { return unix.Flistxattr(fd, dest) },
		func(name string, dest []byte) (int, error) { return unix.Fgetxattr(fd, name, dest) })
}

// ofName returns those of a name in an open folder, without following it.
func (x *xattrReader) ofName(dir int, name string) ([]items.Xattr, string) {
	if x.t.plain.Load() {
		return nil, ""
	}
	path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	return x.read(
		func(dest []byte) (int, error) { return unix.Llistxattr(path, dest) },
		func(name string, dest []byte) (int, error) { return unix.Lgetxattr(path, name, dest) })
}

func (x *xattrReader) read(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]items.Xattr, string) {
	if x.t.plain.Load() {
		return nil, ""
	}
	if x.names == nil {
		x.names, x.value = make([]byte, 64<<10), make([]byte, 64<<10) // the kernel's limits of both
	}
	n, err := list(x.names)
	switch {
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS):
		x.t.plain.Store(true)
		return nil, ""
	case err != nil:
		return nil, "the extended attributes cannot be read: " + err.Error()
	case n == 0:
		return nil, ""
	}
	var all []items.Xattr
	note, sum := "", 0
	for raw := range bytes.SplitSeq(x.names[:n], []byte{0}) {
		name := string(raw)
		if name == "" || strings.HasPrefix(name, "trusted.SGI_ACL_") { // XFS's form of an ACL that is told already
			continue
		}
		size, err := get(name, x.value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			note = fmt.Sprintf("the extended attribute %s cannot be read: %v", name, err)
			continue
		}
		if sum += len(name) + size + 8; sum > maxXattrBytes || len(all) == items.MaxXattrs {
			return all, fmt.Sprintf("of the extended attributes only the first %d are here", len(all))
		}
		all = append(all, items.Xattr{Name: name, Value: bytes.Clone(x.value[:size])})
	}
	return all, note
}
