// Package recipes says how the disk images are made that tests of item-level
// restore read. They are made in a small machine of their own with more programs,
// the workshop: hosts lack drivers for half of it.
package recipes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/guest/guesttest/trees"
)

// Recipe makes the disks of one image.
type Recipe struct {
	Name  string
	Disks []int64 // bytes of each
	// Make is given the devices of the disks, in the workshop.
	Make func(b *Bench, disks []string) error
}

// What opens the locked images.
const (
	Passphrase = "correct horse"
	KeyFile    = "\x00\x01key\nfile\xff"
)

const (
	mib = 1 << 20
	// XFS of today takes no less.
	xfsLeast = 320 * mib
)

// All are the recipes.
var All = []Recipe{
	{"ext2", []int64{48 * mib}, fileSystem("ext2", trees.Plain, "mke2fs", "-q", "-t", "ext2", "-L", "ext2", "-O", "^has_journal")},
	{"ext3", []int64{48 * mib}, fileSystem("ext3", trees.Plain, "mke2fs", "-q", "-t", "ext3", "-L", "ext3")},
	{"ext4", []int64{128 * mib}, fileSystem("ext4", trees.Odd, "mke2fs", "-q", "-t", "ext4", "-L", "ext4", "-N", "8192")},
	{"ext4-big", []int64{260 * mib}, fileSystem("ext4", trees.Big, "mke2fs", "-q", "-t", "ext4", "-L", "big")},
	{"xfs", []int64{xfsLeast}, fileSystem("xfs", trees.Odd, "mkfs.xfs", "-q", "-f", "-L", "xfs")},
	{"xfs4", []int64{xfsLeast}, fileSystem("xfs", trees.Plain, "mkfs.xfs", "-q", "-f", "-L", "xfs4", "-m", "crc=0")},
	{"btrfs", []int64{300 * mib}, btrfs},
	{"btrfs-two", []int64{128 * mib, 128 * mib}, btrfsTwo},
	{"fat12", []int64{4 * mib}, plainFS("vfat", nil, "mkfs.vfat", "-F", "12", "-n", "FAT12")},
	{"fat16", []int64{32 * mib}, plainFS("vfat", trees.Plain, "mkfs.vfat", "-F", "16", "-n", "FAT16")},
	{"fat32", []int64{64 * mib}, plainFS("vfat", trees.Plain, "mkfs.vfat", "-F", "32", "-n", "FAT32")},
	{"exfat", []int64{32 * mib}, plainFS("exfat", trees.Plain, "mkfs.exfat", "-L", "exfat")},
	{"ntfs", []int64{64 * mib}, plainFS("ntfs", trees.Plain, "mkntfs", "-q", "-Q", "-F", "-L", "ntfs ü")},
	{"iso", []int64{16 * mib}, iso},
	{"squashfs", []int64{16 * mib}, squashfs},
	{"swap", []int64{8 * mib}, swap},
	{"empty", []int64{8 * mib}, func(*Bench, []string) error { return nil }},
	{"debian", []int64{xfsLeast + 160*mib}, debian},
	{"mbr", []int64{64 * mib}, mbr},
	{"gpt-damaged", []int64{32 * mib}, damagedGPT},
	{"thin", []int64{128 * mib}, thin},
	{"span", []int64{48 * mib, 48 * mib}, span},
	{"raid1", []int64{32 * mib, 32 * mib}, raid("raid1", "1.2")},
	{"raid1-end", []int64{32 * mib, 32 * mib}, raid("raid1", "1.0")},
	{"raid5", []int64{32 * mib, 32 * mib, 32 * mib}, raid("raid5", "1.2")},
	{"luks1", []int64{32 * mib}, luks1},
	{"luks2", []int64{48 * mib}, luks2},
	{"tower", []int64{xfsLeast + 96*mib, xfsLeast + 96*mib}, tower},
	{"ext4-crash", []int64{64 * mib}, crashed("ext4", "mke2fs", "-q", "-t", "ext4", "-L", "crashed")},
	{"xfs-crash", []int64{xfsLeast}, crashed("xfs", "mkfs.xfs", "-q", "-f", "-L", "crashed")},
	{"btrfs-crash", []int64{128 * mib}, crashed("btrfs", "mkfs.btrfs", "-q", "-f", "-L", "crashed")},
}

// Find returns a recipe.
func Find(name string) (Recipe, bool) {
	for _, r := range All {
		if r.Name == name {
			return r, true
		}
	}
	return Recipe{}, false
}

// Bench is where a recipe works.
type Bench struct {
	Load func(modules ...string) error
	Dir  string // empty, for this recipe

	devices []string // physical volumes
	count   int
}

// run runs a program.
func (b *Bench) run(name string, args ...string) error { return b.runWith("", name, args...) }

// runWith runs a program that reads text.
func (b *Bench) runWith(text, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(text)
	cmd.Env = append(os.Environ(), "MDADM_NO_UDEV=1", "DM_DISABLE_UDEV=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
	}
	return nil
}

// fill mounts a device, makes a tree in it and unmounts it.
func (b *Bench) fill(device, kind string, tree []trees.Entry, plain bool) error {
	return b.mounted(device, kind, "", func(dir string) error { return trees.Make(dir, tree, plain) })
}

// mounted calls fn with the folder in which a device is mounted.
func (b *Bench) mounted(device, kind, options string, fn func(dir string) error) error {
	dir, err := b.mount(device, kind, options)
	if err != nil {
		return err
	}
	if err := fn(dir); err != nil {
		return err
	}
	// The program that serves NTFS lets go a moment after it was asked to.
	for range 200 {
		if err = unix.Unmount(dir, 0); err != unix.EBUSY {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil && kind == "ntfs" {
		time.Sleep(500 * time.Millisecond)
	}
	return err
}

func (b *Bench) mount(device, kind, options string) (string, error) {
	b.count++
	dir := filepath.Join(b.Dir, fmt.Sprint("mnt", b.count))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	modules := []string{kind, "xxhash_generic", "blake2b_generic"}
	switch kind {
	case "vfat":
		modules = []string{"nls_cp437", "nls_iso8859-1", "nls_utf8", "vfat"}
		options = "utf8,codepage=437,iocharset=iso8859-1,tz=UTC"
	case "ntfs":
		if err := b.Load("fuse"); err != nil {
			return "", err
		}
		return dir, b.run("ntfs-3g", device, dir)
	}
	if err := b.Load(modules...); err != nil {
		return "", err
	}
	if err := unix.Mount(device, dir, kind, 0, options); err != nil {
		return "", fmt.Errorf("mount %s as %s: %w", device, kind, err)
	}
	return dir, nil
}

// make runs a mkfs on a device and fills it.
func (b *Bench) make(device, kind string, tree []trees.Entry, mkfs ...string) error {
	if err := b.run(mkfs[0], append(mkfs[1:], device)...); err != nil {
		return err
	}
	return b.fill(device, kind, tree, false)
}

func fileSystem(kind string, tree func() []trees.Entry, mkfs ...string) func(*Bench, []string) error {
	return func(b *Bench, disks []string) error {
		if kind == "ext2" || kind == "ext3" {
			kind = "ext4"
		}
		return b.make(disks[0], kind, tree(), mkfs...)
	}
}

func plainFS(kind string, tree func() []trees.Entry, mkfs ...string) func(*Bench, []string) error {
	return func(b *Bench, disks []string) error {
		if err := b.run(mkfs[0], append(mkfs[1:], disks[0])...); err != nil {
			return err
		}
		entries := trees.Named("TWELVE.TXT")
		if tree != nil {
			entries = tree()
		}
		return b.fill(disks[0], kind, entries, true)
	}
}

// packed makes an image out of a folder with a program, and copies it to the disk.
func (b *Bench) packed(disk, out string, args ...string) error {
	if err := b.run(args[0], args[1:]...); err != nil {
		return err
	}
	data, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

// folder makes a tree in memory.
func (b *Bench) folder(tree []trees.Entry) (dir, out string, err error) {
	dir, out = filepath.Join(b.Dir, "tree"), filepath.Join(b.Dir, "image")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", "", err
	}
	return dir, out, trees.Make(dir, tree, false)
}

func iso(b *Bench, disks []string) error {
	dir, out, err := b.folder(trees.Plain())
	if err != nil {
		return err
	}
	return b.packed(disks[0], out, "genisoimage", "-quiet", "-R", "-J", "-joliet-long", "-input-charset", "utf-8", "-V", "ISO", "-o", out, dir)
}

func squashfs(b *Bench, disks []string) error {
	dir, out, err := b.folder(trees.Plain())
	if err != nil {
		return err
	}
	return b.packed(disks[0], out, "mksquashfs", dir, out, "-quiet", "-no-progress", "-noappend")
}

func swap(b *Bench, disks []string) error { return b.run("mkswap", "-L", "swap", disks[0]) }

// crashed makes a file system and leaves it mounted: the workshop is turned off
// without a warning, so what was written lies in its journal alone.
func crashed(kind string, mkfs ...string) func(*Bench, []string) error {
	return func(b *Bench, disks []string) error {
		if err := b.run(mkfs[0], append(mkfs[1:], disks[0])...); err != nil {
			return err
		}
		dir, err := b.mount(disks[0], kind, "")
		if err != nil {
			return err
		}
		if err := trees.Make(dir, trees.Plain(), false); err != nil {
			return err
		}
		// One fsync of the last file brings the journal to the disk with all before it.
		if err := fsyncAll(dir); err != nil {
			return err
		}
		return nil
	}
}

func fsyncAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() && !d.IsDir() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		return file.Sync()
	})
}
