package host

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openPty returns the master of a fresh terminal in raw mode and its slave's path.
func openPty(t *testing.T) (*os.File, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	path := fmt.Sprintf("/dev/pts/%d", n)
	keep, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = keep.Close() })
	attr, err := unix.IoctlGetTermios(int(keep.Fd()), unix.TCGETS)
	must(t, err)
	attr.Lflag &^= unix.ICANON | unix.ECHO
	attr.Oflag &^= unix.OPOST
	must(t, unix.IoctlSetTermios(int(keep.Fd()), unix.TCSETS, attr))
	return master, path
}
