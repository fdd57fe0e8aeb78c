// Command workshop is the only process of a small machine in which disk images for
// tests are made. What it prints on the console ends with Done or with why not.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/guest/guesttest/recipes"
)

func main() {
	if err := work(); err != nil {
		fmt.Println("workshop failed:", err)
	} else {
		fmt.Println("workshop done")
	}
	// Nothing is synchronised here: a recipe leaves a crashed file system by not
	// unmounting it.
	time.Sleep(100 * time.Millisecond)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func work() error {
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"},
		{"tmpfs", "/run", "tmpfs"}, {"tmpfs", "/tmp", "tmpfs"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	os.Setenv("LC_ALL", "C.UTF-8")
	unix.Umask(0)
	if err := load("virtio_pci", "virtio_scsi", "sd_mod"); err != nil {
		return err
	}
	command, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	for _, word := range strings.Fields(string(command)) {
		if names, ok := strings.CutPrefix(word, "recipes="); ok {
			return follow(strings.Split(names, ","))
		}
	}
	return errors.New("no recipes were asked for")
}

func follow(names []string) error {
	for _, name := range names {
		r, ok := recipes.Find(name)
		if !ok {
			return fmt.Errorf("there is no recipe %q", name)
		}
		var disks []string
		for i := range r.Disks {
			disk, err := diskOf(fmt.Sprintf("%s.%d", name, i))
			if err != nil {
				return err
			}
			disks = append(disks, disk)
		}
		dir := filepath.Join("/tmp", name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		began := time.Now()
		if err := r.Make(&recipes.Bench{Load: load, Dir: dir}, disks); err != nil {
			return fmt.Errorf("recipe %s: %w", name, err)
		}
		_ = os.RemoveAll(filepath.Join(dir, "tree"))
		_ = os.RemoveAll(filepath.Join(dir, "image"))
		fmt.Println("made", name, time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// diskOf waits for the disk with a serial number.
func diskOf(serial string) (string, error) {
	for range 1000 {
		pages, _ := filepath.Glob("/sys/block/sd*/device/vpd_pg80")
		for _, page := range pages {
			text, err := os.ReadFile(page)
			if err == nil && len(text) > 4 && strings.TrimRight(string(text[4:]), "\x00 ") == serial {
				return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(page))), nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("disk %s does not appear", serial)
}

var loaded = map[string]bool{}

// load loads modules in the order that the image's file says.
func load(names ...string) error {
	text, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for _, name := range names {
		for line := range strings.Lines(string(text)) {
			module, chain, _ := strings.Cut(strings.TrimSpace(line), ":")
			if module != strings.ReplaceAll(name, "-", "_") {
				continue
			}
			for _, m := range strings.Fields(chain) {
				if err := insert(m); err != nil {
					return fmt.Errorf("load %s: %w", m, err)
				}
			}
		}
	}
	return nil
}

func insert(name string) error {
	if loaded[name] {
		return nil
	}
	file, err := os.Open("/modules/" + name + ".ko")
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	loaded[name] = true
	return nil
}
