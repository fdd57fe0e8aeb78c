package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// slowBytes is the size of a slow folder's file system.
const slowBytes = 2 << 30

// SlowFolder mounts a file system on a disk that moves only so many bytes per
// second, reading and writing together, as an old disk does that a guest and its
// backup share. It is there at the same path for this process and for the host. What
// is returned takes it away; the VMs on it must be off.
func (w *World) SlowFolder(ctx context.Context, host string, bytesPerSecond int64) (folder string, remove func() error, err error) {
	h, err := w.Host(host)
	if err != nil {
		return "", nil, err
	}
	folder = w.slowFolder()
	store, disk := folder+".store", folder+".disk"
	if err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(store, nil, 0o600), os.WriteFile(disk, nil, 0o600), os.Truncate(store, slowBytes)); err != nil {
		return "", nil, fmt.Errorf("make a slow folder: %w", err)
	}
	rate := fmt.Sprintf("x-bps-total=%d", bytesPerSecond)
	daemon, err := w.launch(exec.Command("qemu-storage-daemon", // it outlives ctx, as the world does
		"--object", "throttle-group,id=slow,"+rate,
		"--blockdev", "driver=file,node-name=store,filename="+store,
		"--blockdev", "driver=throttle,node-name=throttled,throttle-group=slow,file=store",
		"--export", "type=fuse,id=export,node-name=throttled,writable=on,mountpoint="+disk), folder+".log")
	if err != nil {
		return "", nil, err
	}
	if err := poll(ctx, 20*time.Millisecond, func() error {
		if info, err := os.Stat(disk); err != nil || info.Size() != slowBytes {
			return fmt.Errorf("%s is not served yet: %s", disk, tail(folder+".log"))
		}
		return nil
	}); err != nil {
		return "", nil, err
	}
	steps := [][]string{{"mkfs.ext4", "-q", "-F", "-N", "4096", "-E", "lazy_itable_init=0,nodiscard", disk}, {"losetup", "--find", "--show", disk}}
	var device string
	for _, s := range steps {
		out, err := exec.CommandContext(ctx, s[0], s[1:]...).CombinedOutput()
		if err != nil {
			return "", nil, fmt.Errorf("make a slow folder: %s: %w: %s", s[0], err, out)
		}
		device = strings.TrimSpace(string(out))
	}
	remove = func() error {
		// What is still written is lost with the world anyway.
		_ = h.Command(context.Background(), "umount", "-l", folder).Run()
		if err := detach(folder); err != nil {
			return err
		}
		return daemon.end(context.Background(), 10*time.Second)
	}
	err = errors.Join(
		exec.CommandContext(ctx, "mount", device, folder).Run(),
		h.Command(ctx, "mount", device, folder).Run(),
		// Mounted as it is, the device goes with the last mount.
		exec.CommandContext(ctx, "losetup", "-d", device).Run())
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("mount a slow folder: %w", err), remove())
	}
	return folder, remove, nil
}

func (w *World) slowFolder() string { return filepath.Join(w.Dir, "slow") }

// detach takes the mount of a slow folder out of this process's view; no error if
// there is none.
func detach(folder string) error {
	err := unix.Unmount(folder, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", folder, err)
	}
	return nil
}
