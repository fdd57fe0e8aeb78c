package inside

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PortName is the name of the virtio-serial port on which the machine is spoken to.
const PortName = "backstay"

// Main is the machine's only process: it makes the machine ready, answers until the
// channel is closed, and turns the machine off. What it prints reaches the client's
// reason, should the machine fail.
func Main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "small machine:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	if err := prepare(); err != nil {
		return err
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	defer port.Close()
	s := newServer(port)
	if s.slots, err = sharedMemory(); err != nil {
		return err
	}
	w := newWorld()
	addVolumes(s, w)
	addFiles(s, w)
	return s.serve()
}

// prepare mounts what programs expect and loads the drivers of the machine's own
// devices.
func prepare() error {
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"},
		{"tmpfs", "/run", "tmpfs"}, {"tmpfs", "/tmp", "tmpfs"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, unix.MS_NOSUID, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	os.Setenv("PATH", "/usr/sbin:/usr/bin")
	os.Setenv("LC_ALL", "C")
	for _, name := range []string{"virtio_pci", "virtio_console", "virtio_scsi", "sd_mod"} {
		if err := load(name); err != nil {
			return err
		}
	}
	return nil
}

// openPort waits for the port to appear and opens it.
func openPort() (*os.File, error) {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil || strings.TrimSpace(string(text)) != PortName {
				continue
			}
			file, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_RDWR, 0)
			if err == nil || !os.IsNotExist(err) {
				return file, err
			}
		}
	}
	return nil, errors.New("the channel's port did not appear")
}
