package inside

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// dirent is an entry as the folder itself has it: without a look at its inode.
type dirent struct {
	name  string
	inode uint64
	kind  byte // DT_…; DT_UNKNOWN where the file system does not say
}

// dirReader reads the entries of an open folder, in the order of the file system.
type dirReader struct {
	fd   int
	buf  []byte
	rest []byte
}

func newDirReader(fd int) *dirReader { return &dirReader{fd: fd, buf: make([]byte, 64<<10)} }

// next returns the next entry, false at the end. "." and ".." are left out, and so is
// what cannot be a name: a damaged folder may hold that.
func (d *dirReader) next() (dirent, bool, error) {
	for {
		if len(d.rest) == 0 {
			n, err := unix.Getdents(d.fd, d.buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n <= 0 {
				return dirent{}, false, err
			}
			d.rest = d.buf[:n]
		}
		if len(d.rest) < 20 {
			return dirent{}, false, unix.EIO
		}
		size := int(binary.NativeEndian.Uint16(d.rest[16:]))
		if size < 20 || size > len(d.rest) {
			return dirent{}, false, unix.EIO
		}
		raw := d.rest[:size]
		d.rest = d.rest[size:]
		name := raw[19:]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		if len(name) == 0 || string(name) == "." || string(name) == ".." || bytes.IndexByte(name, '/') >= 0 {
			continue
		}
		return dirent{name: string(name), inode: binary.NativeEndian.Uint64(raw), kind: raw[18]}, true, nil
	}
}
