package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/guest/inside/probe"
)

// partition returns the device of a partition: the kernel's, if it found the same
// one, or one that the kernel is told of, or a loop device where the kernel knows no
// partitions.
func (s *Set) partition(ctx context.Context, disk *node, p probe.Partition) (string, error) {
	name := filepath.Base(disk.device)
	if strings.HasPrefix(name, "dm-") || strings.HasPrefix(name, "loop") {
		return s.loop(disk.device, p)
	}
	// The kernel may just be reading the table itself.
	for try := 0; ; try++ {
		if device := kernelPartition(name, p); device != "" {
			return device, nil
		}
		err := addPartition(disk.device, p)
		if err != nil && (!errors.Is(err, unix.EBUSY) || try > 50) {
			if errors.Is(err, unix.EBUSY) {
				return "", errors.New("it overlaps another one")
			}
			return "", err
		}
		if err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// kernelPartition returns the device that the kernel has for a partition; "" if it
// has none.
func kernelPartition(disk string, p probe.Partition) string {
	starts, _ := filepath.Glob("/sys/class/block/" + disk + "/" + disk + "*/start")
	for _, start := range starts {
		dir := filepath.Dir(start)
		if number(start)*512 == p.Start && number(filepath.Join(dir, "size"))*512 == p.Length {
			return "/dev/" + filepath.Base(dir)
		}
	}
	return ""
}

// number reads a number out of sysfs; -1 if there is none.
func number(path string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return -1
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// addPartition tells the kernel of a partition (BLKPG).
func addPartition(device string, p probe.Partition) error {
	file, err := os.Open(device)
	if err != nil {
		return err
	}
	defer file.Close()
	var part struct {
		start, length int64
		number        int32
		_             [64 + 64 + 4]byte
	}
	part.start, part.length, part.number = p.Start, p.Length, int32(p.Number)
	arg := struct {
		op, flags, size int32
		_               int32
		data            unsafe.Pointer
	}{op: 1, size: int32(unsafe.Sizeof(part)), data: unsafe.Pointer(&part)}
	return ioctl(int(file.Fd()), unix.BLKPG, unsafe.Pointer(&arg))
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// loop makes a device of a part of another one.
func (s *Set) loop(device string, p probe.Partition) (string, error) {
	if err := s.load("loop"); err != nil {
		return "", err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("find a loop device: %w", err)
	}
	back, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer back.Close()
	name := fmt.Sprintf("/dev/loop%d", n)
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	config := unix.LoopConfig{Fd: uint32(back.Fd())}
	config.Info.Offset, config.Info.Sizelimit = uint64(p.Start), uint64(p.Length)
	if err := unix.IoctlLoopConfigure(int(file.Fd()), &config); err != nil {
		return "", fmt.Errorf("make a device of partition %d: %w", p.Number, err)
	}
	return name, nil
}

// sizeOf returns the size of a block device in bytes.
func sizeOf(device string) (int64, error) {
	file, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return file.Seek(0, 2)
}
