package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay/backstay/internal/debian"
)

// packages are unpacked into the cache, not installed: the programs, and the
// libraries that they need.
var packages = []string{
	"lvm2", "mdadm", "cryptsetup-bin", "ntfs-3g", "thin-provisioning-tools", "util-linux",
	"libc6", "libgcc-s1", "libstdc++6", "libaio1", "libblkid1", "libuuid1", "libedit2", "libtinfo6", "libbsd0", "libmd0",
	"libselinux1", "libpcre2-8-0", "libsystemd0", "libudev1", "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "liblzma5",
	"libzstd1", "libdevmapper1.02.1", "libdevmapper-event1.02.1", "libcryptsetup12", "libpopt0", "libssl3", "libjson-c5",
	"libargon2-1", "libntfs-3g89", "libexpat1",
}

// programs are what the machine runs: path in it to the package it comes from.
var programs = map[string]string{
	"sbin/lvm": "lvm2", "sbin/mdadm": "mdadm", "sbin/cryptsetup": "cryptsetup-bin", "bin/ntfs-3g": "ntfs-3g",
	"usr/sbin/pdata_tools": "thin-provisioning-tools", "sbin/blkid": "util-linux",
}

// loadedByName are libraries that programs load while they run: cryptsetup's
// argon2 ends its threads with one.
var loadedByName = []string{"libgcc_s.so.1"}

// modules are what disks, file systems and stacks of volumes need; what is built
// into the kernel, or is not there, is left out.
var modules = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_console",
	"ext4", "xfs", "btrfs", "vfat", "msdos", "exfat", "fuse", "isofs", "udf", "squashfs", "f2fs", "hfsplus", "loop", "overlay",
	"nls_cp437", "nls_ascii", "nls_utf8", "nls_iso8859-1",
	"dm_mod", "dm_crypt", "dm_zero", "dm_snapshot", "dm_thin_pool", "dm_raid", "dm_mirror", "dm_cache", "dm_cache_smq", "dm_integrity", "dm_writecache",
	"linear", "raid0", "raid1", "raid10", "raid456",
	"aesni_intel", "aes_x86_64", "aes_generic", "xts", "cbc", "ecb", "essiv", "cryptd", "sha256_generic", "sha256_ssse3", "sha512_generic",
	"sha512_ssse3", "sha1_generic", "sha1_ssse3", "twofish_generic", "serpent_generic", "camellia_generic", "adiantum",
	"crc32c_generic", "crc32c_intel", "xxhash_generic", "blake2b_generic", "algif_skcipher", "algif_hash", "af_alg", "dm_bufio",
}

const lvmConf = `devices { use_devicesfile = 0 obtain_device_list_from_udev = 0 multipath_component_detection = 0 external_device_info_source = "none" }
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 verify_udev_operations = 0 }
global { use_lvmpolld = 0 locking_type = 1 wait_for_locks = 0 }
backup { backup = 0 archive = 0 }
`

// inputs is where the parts come from.
type inputs struct {
	kernel, modules string
	roots           []string          // folder of each package
	folder          map[string]string // package to its folder
	versions        []string
}

// ensureBase returns the folder of the cache that holds kernel and initramfs
// without our program.
func ensureBase(ctx context.Context, cacheDir, work string) (string, error) {
	in, err := gather(ctx, cacheDir)
	if err != nil {
		return "", fmt.Errorf("gather what a small machine is made of: %w", err)
	}
	k, err := key(in.versions)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cacheDir, "base-"+k)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	made := filepath.Join(work, "base")
	if err := os.Mkdir(made, 0o755); err != nil {
		return "", err
	}
	if err := buildBase(in, made); err != nil {
		return "", fmt.Errorf("build a small machine: %w", err)
	}
	return dir, os.Rename(made, dir)
}

// gather finds the parts and downloads what is not there yet. Where apt's lists
// turn out to be missing or old, root fetches them.
func gather(ctx context.Context, cacheDir string) (inputs, error) {
	in, err := find(ctx, cacheDir)
	if !errors.Is(err, debian.ErrLists) || os.Geteuid() != 0 {
		return in, err
	}
	if _, failed := debian.Run(ctx, "apt-get", "update", "-q"); failed != nil {
		return in, errors.Join(err, failed)
	}
	return find(ctx, cacheDir)
}

func find(ctx context.Context, cacheDir string) (inputs, error) {
	in := inputs{folder: map[string]string{}}
	versions, err := debian.Candidates(ctx, packages...)
	if err != nil {
		return in, err
	}
	for _, p := range packages {
		dir, version, err := debian.Unpacked(ctx, cacheDir, p, versions[p])
		if err != nil {
			return in, err
		}
		in.folder[p] = dir
		in.roots = append(in.roots, dir)
		in.versions = append(in.versions, version)
	}
	if in.kernel, in.modules, err = debian.Kernel(ctx, cacheDir); err != nil {
		return in, err
	}
	in.versions = append(in.versions, filepath.Base(in.modules))
	return in, nil
}

// buildBase writes kernel, initramfs and manifest into a folder.
func buildBase(in inputs, dir string) error {
	image, err := os.ReadFile(in.kernel)
	if err != nil {
		return err
	}
	kernel, err := uncompressed(image)
	if err != nil {
		return fmt.Errorf("uncompress %s: %w", in.kernel, err)
	}
	if err := os.WriteFile(filepath.Join(dir, KernelFile), kernel, 0o644); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, InitrdFile))
	if err != nil {
		return err
	}
	defer file.Close()
	a := debian.NewArchive(file)
	folders(a)
	if err := addPrograms(a, in); err != nil {
		return err
	}
	if err := addModules(a, in); err != nil {
		return err
	}
	a.Program("etc/lvm/lvm.conf", []byte(lvmConf))
	if err := a.Close(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	n := len(in.versions) - 1
	return writeManifest(dir, Manifest{Kernel: in.versions[n], Packages: in.versions[:n]})
}

// folders makes the folders and links of a Debian system that programs look for.
func folders(a *debian.Archive) {
	for _, dir := range strings.Fields("usr usr/bin usr/sbin usr/lib usr/lib/x86_64-linux-gnu usr/lib64 etc etc/lvm proc sys dev run tmp mnt modules root") {
		a.Folder(dir)
	}
	for _, link := range strings.Fields("bin sbin lib lib64") {
		a.Link(link, "usr/"+link)
	}
}

// addPrograms adds the programs and their libraries, each once.
func addPrograms(a *debian.Archive, in inputs) error {
	libs := map[string]string{}
	merge := func(more map[string]string, err error) error {
		for to, from := range more {
			libs[strings.TrimPrefix(to, "/usr")] = from
		}
		return err
	}
	for _, path := range sortedKeys(programs) {
		from, err := filepath.EvalSymlinks(filepath.Join(in.folder[programs[path]], path))
		if err != nil {
			return err
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		a.Program("usr/"+strings.TrimPrefix(path, "usr/"), data)
		if err := merge(debian.Libraries(from, in.roots...)); err != nil {
			return err
		}
	}
	for _, name := range loadedByName {
		if err := merge(debian.Library(name, in.roots...)); err != nil {
			return err
		}
	}
	for _, path := range sortedKeys(libs) {
		data, err := os.ReadFile(libs[path])
		if err != nil {
			return err
		}
		a.Program("usr"+path, data)
	}
	a.Link("usr/sbin/thin_check", "pdata_tools")
	a.Link("usr/sbin/cache_check", "pdata_tools")
	return nil
}

// addModules adds the modules, and the order in which each and what it needs are
// loaded: lines of "name: first second … name".
func addModules(a *debian.Archive, in inputs) error {
	var order strings.Builder
	added := map[string]bool{}
	files, err := debian.ModuleFiles(in.modules, modules)
	if err != nil {
		return err
	}
	for _, path := range files {
		name := debian.ModuleName(strings.TrimSuffix(filepath.Base(path), ".ko"))
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !added[name] {
			added[name] = true
			a.Program("modules/"+name+".ko", data)
		}
		chain, err := debian.ModuleFiles(in.modules, []string{name})
		if err != nil {
			return err
		}
		order.WriteString(name + ":")
		for _, c := range chain {
			order.WriteString(" " + debian.ModuleName(strings.TrimSuffix(filepath.Base(c), ".ko")))
		}
		order.WriteString("\n")
	}
	a.Program("modules/order", []byte(order.String()))
	return nil
}
