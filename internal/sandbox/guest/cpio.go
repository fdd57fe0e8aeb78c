package guest

import (
	"fmt"
	"io"
)

// cpioWriter writes an initramfs in the kernel's "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst): a header of 110
// ASCII bytes, the name and the data, each padded to 4 bytes. Everything is
// owned by root and has no time, so equal content gives equal bytes.
type cpioWriter struct {
	w     io.Writer
	inode int
	err   error // the first error; later calls do nothing
}

const (
	cpioFolder  = 0o040755
	cpioProgram = 0o100755
	cpioLink    = 0o120777
)

func (c *cpioWriter) folder(name string)            { c.entry(name, cpioFolder, nil) }
func (c *cpioWriter) program(name string, b []byte) { c.entry(name, cpioProgram, b) }
func (c *cpioWriter) link(name, to string)          { c.entry(name, cpioLink, []byte(to)) }

// close writes the trailer and returns the first error of all calls.
func (c *cpioWriter) close() error {
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}

func (c *cpioWriter) entry(name string, mode int, data []byte) {
	c.inode++
	// magic ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.write([]byte(header + name + "\x00"))
	c.pad(len(header) + len(name) + 1)
	c.write(data)
	c.pad(len(data))
}

func (c *cpioWriter) pad(written int) {
	c.write(make([]byte, (4-written%4)%4))
}

func (c *cpioWriter) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
}
