package recipes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/guest/guesttest/trees"
)

// partition writes a table and returns the devices of the numbered partitions.
func (b *Bench) partition(disk, script string, numbers ...int) ([]string, error) {
	if err := b.runWith(script, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", disk); err != nil {
		return nil, err
	}
	if err := b.run("blockdev", "--rereadpt", disk); err != nil {
		return nil, err
	}
	var parts []string
	for _, n := range numbers {
		part := fmt.Sprintf("%s%d", disk, n)
		if err := appears(part); err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// appears waits for a device.
func appears(path string) error {
	for range 500 {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s does not appear", path)
}

func (b *Bench) lvm(args ...string) error {
	if err := b.Load("dm_mod", "dm_thin_pool", "dm_snapshot", "dm_crypt"); err != nil {
		return err
	}
	// Groups of other recipes may have the same name.
	if len(b.devices) > 0 {
		args = append(args, "--devices", strings.Join(b.devices, ","))
	}
	return b.run("lvm", append(args, "--config", `activation { udev_sync=0 udev_rules=0 monitoring=0 } devices { use_devicesfile=0 obtain_device_list_from_udev=0 } global { use_lvmpolld=0 thin_check_executable="" } backup { backup=0 archive=0 }`)...)
}

// group makes a volume group.
func (b *Bench) group(name string, devices ...string) error {
	b.devices = devices
	if err := b.lvm(append([]string{"pvcreate", "-q", "-y"}, devices...)...); err != nil {
		return err
	}
	return b.lvm(append([]string{"vgcreate", "-q", "-y", name}, devices...)...)
}

func (b *Bench) logical(group, name, size string) error {
	return b.lvm("lvcreate", "-q", "-y", "-Wn", "-Zn", "-L", size, "-n", name, group)
}

// debian is a disk as Debian's installer makes it: a boot partition for UEFI, /boot,
// and a volume group with the rest. Its fstab names things in every way.
func debian(b *Bench, disks []string) error {
	parts, err := b.partition(disks[0], "label: gpt\nsize=36M,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name=esp\nsize=32M,type=linux\ntype=lvm\n", 1, 2, 3)
	if err != nil {
		return err
	}
	if err := b.run("mkfs.vfat", "-F", "32", "-i", "AAAABBBB", "-n", "EFI", parts[0]); err != nil {
		return err
	}
	if err := b.fill(parts[0], "vfat", trees.Named("esp.txt"), true); err != nil {
		return err
	}
	if err := b.make(parts[1], "ext4", trees.Named("kernel"), "mke2fs", "-q", "-t", "ext4", "-U", "11111111-2222-3333-4444-555555555555"); err != nil {
		return err
	}
	if err := b.group("vg0", parts[2]); err != nil {
		return err
	}
	for name, size := range map[string]string{"root": "40M", "data-1": "304M", "swap": "8M"} {
		if err := b.logical("vg0", name, size); err != nil {
			return err
		}
	}
	fstab := strings.Join([]string{
		"# <file system> <mount point> <type> <options> <dump> <pass>",
		"/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1",
		"UUID=11111111-2222-3333-4444-555555555555 /boot ext4 defaults 0 2",
		"UUID=AAAA-BBBB /boot/efi vfat umask=0077 0 1",
		`/dev/vg0/data-1 /srv/with\040space xfs defaults 0 2`,
		"/dev/mapper/vg0-swap none swap sw 0 0",
		"tmpfs /tmp tmpfs defaults 0 0",
	}, "\n") + "\n"
	if err := b.make("/dev/vg0/root", "ext4", trees.Root("debian", fstab), "mke2fs", "-q", "-t", "ext4"); err != nil {
		return err
	}
	if err := b.make("/dev/vg0/data-1", "xfs", trees.Plain(), "mkfs.xfs", "-q", "-f"); err != nil {
		return err
	}
	if err := b.run("mkswap", "/dev/vg0/swap"); err != nil {
		return err
	}
	return b.lvm("vgchange", "-an", "vg0")
}

func mbr(b *Bench, disks []string) error {
	parts, err := b.partition(disks[0], "label: dos\nlabel-id: 0xcafe0001\nsize=16M,type=83,bootable\ntype=extended\nsize=16M,type=83\nsize=4M,type=82\nsize=16M,type=c\n", 1, 5, 6, 7)
	if err != nil {
		return err
	}
	fstab := "PARTUUID=cafe0001-01 / ext4 defaults 0 1\nLABEL=logical /home ext4 defaults 0 2\n/dev/disk/by-partuuid/cafe0001-07 /mnt/fat vfat defaults 0 0\n"
	if err := b.make(parts[0], "ext4", trees.Root("mbr", fstab), "mke2fs", "-q", "-t", "ext4"); err != nil {
		return err
	}
	if err := b.make(parts[1], "ext4", trees.Named("logical"), "mke2fs", "-q", "-t", "ext4", "-L", "logical"); err != nil {
		return err
	}
	if err := b.run("mkswap", parts[2]); err != nil {
		return err
	}
	if err := b.run("mkfs.vfat", "-F", "16", parts[3]); err != nil {
		return err
	}
	return b.fill(parts[3], "vfat", trees.Named("fat.txt"), true)
}

// damagedGPT has its first table overwritten, so that only the copy is left.
func damagedGPT(b *Bench, disks []string) error {
	parts, err := b.partition(disks[0], "label: gpt\nsize=24M,type=linux\n", 1)
	if err != nil {
		return err
	}
	if err := b.make(parts[0], "ext4", trees.Named("by the copy"), "mke2fs", "-q", "-t", "ext4", "-L", "copy"); err != nil {
		return err
	}
	file, err := os.OpenFile(disks[0], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(make([]byte, 4096), 512); err != nil {
		return err
	}
	return file.Sync()
}

// thin has a thin volume and a snapshot of what it was before.
func thin(b *Bench, disks []string) error {
	if err := b.group("tvg", disks[0]); err != nil {
		return err
	}
	if err := b.lvm("lvcreate", "-q", "-y", "--type", "thin-pool", "-L", "80M", "--poolmetadatasize", "4M", "-n", "pool", "tvg"); err != nil {
		return err
	}
	if err := b.lvm("lvcreate", "-q", "-y", "-V", "64M", "--thinpool", "tvg/pool", "-n", "thin"); err != nil {
		return err
	}
	if err := b.make("/dev/tvg/thin", "ext4", trees.Plain(), "mke2fs", "-q", "-t", "ext4", "-L", "thin"); err != nil {
		return err
	}
	if err := b.lvm("lvcreate", "-q", "-y", "-s", "-n", "before", "tvg/thin"); err != nil {
		return err
	}
	if err := b.fill("/dev/tvg/thin", "ext4", trees.Named("after"), false); err != nil {
		return err
	}
	return b.lvm("vgchange", "-an", "tvg")
}

// span has one volume over two disks, and one on each.
func span(b *Bench, disks []string) error {
	if err := b.group("vg0", disks...); err != nil {
		return err
	}
	for i, disk := range disks {
		name := fmt.Sprint("only", i)
		if err := b.lvm("lvcreate", "-q", "-y", "-Wn", "-Zn", "-L", "12M", "-n", name, "vg0", disk); err != nil {
			return err
		}
		if err := b.make("/dev/vg0/"+name, "ext4", trees.Named(name), "mke2fs", "-q", "-t", "ext4", "-L", name); err != nil {
			return err
		}
	}
	if err := b.lvm("lvcreate", "-q", "-y", "-Wn", "-Zn", "-l", "100%FREE", "-n", "both", "vg0"); err != nil {
		return err
	}
	if err := b.make("/dev/vg0/both", "ext4", trees.Plain(), "mke2fs", "-q", "-t", "ext4", "-L", "both"); err != nil {
		return err
	}
	return b.lvm("vgchange", "-an", "vg0")
}

// array makes an array called name and returns its device.
func (b *Bench) array(name, level, format string, disks []string) (string, error) {
	if err := b.Load("md_mod", "raid1", "raid456"); err != nil {
		return "", err
	}
	if err := os.MkdirAll("/run/mdadm", 0o755); err != nil {
		return "", err
	}
	device := "/dev/md" + fmt.Sprint(50+len(name)*7%40)
	args := []string{"--create", device, "--run", "--level=" + level, "--metadata=" + format, "--homehost=guest", "--name=" + name, "--assume-clean", "--bitmap=none", fmt.Sprintf("--raid-devices=%d", len(disks))}
	return device, b.run("mdadm", append(args, disks...)...)
}

func raid(level, format string) func(*Bench, []string) error {
	return func(b *Bench, disks []string) error {
		name := level
		if format == "1.0" {
			name = "0"
		}
		device, err := b.array(name, level, format, disks)
		if err != nil {
			return err
		}
		if err := b.make(device, "ext4", trees.Plain(), "mke2fs", "-q", "-t", "ext4", "-L", level+" "+format); err != nil {
			return err
		}
		return b.run("mdadm", "--stop", device)
	}
}

// lock makes a LUKS volume with a passphrase and a key file, and opens it.
func (b *Bench) lock(device, name string, args ...string) (string, error) {
	if err := b.Load("dm_mod", "dm_crypt", "aesni_intel", "xts", "sha256_generic", "algif_skcipher"); err != nil {
		return "", err
	}
	key := filepath.Join(b.Dir, "key")
	if err := os.WriteFile(key, []byte(KeyFile), 0o600); err != nil {
		return "", err
	}
	common := []string{"--batch-mode", "--disable-locks", "--key-file", "-"}
	weak := []string{"--pbkdf-force-iterations", "1000"}
	if strings.Contains(strings.Join(args, " "), "argon2id") {
		weak = []string{"--pbkdf-force-iterations", "4", "--pbkdf-memory", "32768", "--pbkdf-parallel", "1"}
	}
	if err := b.runWith(Passphrase, "cryptsetup", append(append(append([]string{"luksFormat"}, common...), append(args, weak...)...), device)...); err != nil {
		return "", err
	}
	slow := weak
	if len(weak) > 2 {
		slow = append(slow, "--pbkdf", "argon2id")
	}
	if err := b.runWith(Passphrase, "cryptsetup", append(append(append([]string{"luksAddKey"}, common...), slow...), device, key)...); err != nil {
		return "", err
	}
	return "/dev/mapper/" + name, b.runWith(Passphrase, "cryptsetup", append(append([]string{"open"}, common...), "--disable-keyring", device, name)...)
}

func (b *Bench) close(name string) error {
	return b.run("cryptsetup", "close", "--disable-locks", name)
}

func luks1(b *Bench, disks []string) error {
	device, err := b.lock(disks[0], "luks1", "--type", "luks1")
	if err != nil {
		return err
	}
	return errors.Join(b.make(device, "ext4", trees.Plain(), "mke2fs", "-q", "-t", "ext4", "-L", "in luks1"), b.close("luks1"))
}

// luks2 lies in a partition.
func luks2(b *Bench, disks []string) error {
	parts, err := b.partition(disks[0], "label: gpt\ntype=linux\n", 1)
	if err != nil {
		return err
	}
	device, err := b.lock(parts[0], "luks2", "--type", "luks2", "--pbkdf", "argon2id", "--label", "secret")
	if err != nil {
		return err
	}
	return errors.Join(b.make(device, "ext4", trees.Plain(), "mke2fs", "-q", "-t", "ext4", "-L", "in luks2"), b.close("luks2"))
}

// tower is LVM on LUKS on an array of two disks.
func tower(b *Bench, disks []string) error {
	device, err := b.array("tower", "raid1", "1.2", disks)
	if err != nil {
		return err
	}
	open, err := b.lock(device, "cr", "--type", "luks2", "--pbkdf", "argon2id")
	if err != nil {
		return err
	}
	if err := b.group("vg0", open); err != nil {
		return err
	}
	for name, size := range map[string]string{"root": "40M", "data": "304M"} {
		if err := b.logical("vg0", name, size); err != nil {
			return err
		}
	}
	fstab := "/dev/vg0/root / ext4 defaults 0 1\n/dev/vg0/data /srv xfs defaults 0 2\n"
	if err := b.make("/dev/vg0/root", "ext4", trees.Root("tower", fstab), "mke2fs", "-q", "-t", "ext4"); err != nil {
		return err
	}
	if err := b.make("/dev/vg0/data", "xfs", trees.Plain(), "mkfs.xfs", "-q", "-f"); err != nil {
		return err
	}
	return errors.Join(b.lvm("vgchange", "-an", "vg0"), b.close("cr"), b.run("mdadm", "--stop", device))
}

// btrfs has the subvolumes of today's installers and snapshots of one.
func btrfs(b *Bench, disks []string) error {
	if err := b.run("mkfs.btrfs", "-q", "-f", "-L", "btrfs", disks[0]); err != nil {
		return err
	}
	return b.mounted(disks[0], "btrfs", "", func(dir string) error {
		at := func(p string) string { return filepath.Join(dir, p) }
		for _, name := range []string{"@", "@home", "@odd"} {
			if err := b.run("btrfs", "-q", "subvolume", "create", at(name)); err != nil {
				return err
			}
		}
		fstab := "LABEL=btrfs / btrfs subvol=@ 0 0\nLABEL=btrfs /home btrfs subvol=/@home,compress=zstd 0 0\n"
		if err := trees.Make(at("@"), trees.Root("btrfs", fstab), false); err != nil {
			return err
		}
		if err := trees.Make(at("@home"), trees.Named("at home"), false); err != nil {
			return err
		}
		if err := trees.Make(at("@odd"), trees.Odd(), false); err != nil {
			return err
		}
		if err := os.Mkdir(at("snapshots"), 0o755); err != nil {
			return err
		}
		return snapshots(at("@"), at("snapshots"), 70)
	})
}

func btrfsTwo(b *Bench, disks []string) error {
	if err := b.run("mkfs.btrfs", append([]string{"-q", "-f", "-L", "two", "-d", "raid0", "-m", "raid1"}, disks...)...); err != nil {
		return err
	}
	if err := b.Load("btrfs", "xxhash_generic", "blake2b_generic"); err != nil {
		return err
	}
	if err := b.run("btrfs", "device", "scan"); err != nil {
		return err
	}
	return b.fill(disks[0], "btrfs", trees.Plain(), false)
}

// snapshots makes snapshots of a subvolume in a folder.
func snapshots(of, dir string, count int) error {
	source, err := os.Open(of)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer target.Close()
	for i := range count {
		var arg struct {
			fd   int64
			name [4088]byte
		}
		arg.fd = int64(source.Fd())
		copy(arg.name[:], fmt.Sprintf("%03d", i))
		const create = 0x50009401 // BTRFS_IOC_SNAP_CREATE
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, target.Fd(), create, uintptr(unsafe.Pointer(&arg))); errno != 0 {
			return fmt.Errorf("make a snapshot: %w", errno)
		}
	}
	return nil
}
