package debian

import (
	"fmt"
	"io"
)

// Archive writes an initramfs in the kernel's "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst): a header of 110
// ASCII bytes, the name and the data, each padded to 4 bytes. Everything is
// owned by root and has no time, so equal content gives equal bytes.
type Archive struct {
	w     io.Writer
	inode int
	err   error // the first error; later calls do nothing
}

// NewArchive writes an archive to w. Several of them after each other are one.
func NewArchive(w io.Writer) *Archive { return &Archive{w: w} }

const (
	cpioFolder  = 0o040755
	cpioProgram = 0o100755
	cpioLink    = 0o120777
)

// Folder adds a folder; its parent must be there.
func (c *Archive) Folder(name string) { c.entry(name, cpioFolder, nil) }

// Program adds a file that can be run.
func (c *Archive) Program(name string, b []byte) { c.entry(name, cpioProgram, b) }

// Link adds a symbolic link.
func (c *Archive) Link(name, to string) { c.entry(name, cpioLink, []byte(to)) }

// Close writes the trailer and returns the first error of all calls. It leaves w
// open.
func (c *Archive) Close() error {
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}

func (c *Archive) entry(name string, mode int, data []byte) {
	c.inode++
	// magic ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.write([]byte(header + name + "\x00"))
	c.pad(len(header) + len(name) + 1)
	c.write(data)
	c.pad(len(data))
}

func (c *Archive) pad(written int) {
	c.write(make([]byte, (4-written%4)%4))
}

func (c *Archive) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
}
