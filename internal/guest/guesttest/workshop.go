package guesttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay/backstay/internal/debian"
	"github.com/backstay/backstay/internal/guest/guesttest/recipes"
	"github.com/backstay/backstay/internal/guest/image"
)

// sources is the code that makes images, for their key.
//
//go:embed *.go recipes/*.go trees/*.go workshop/*.go
var sources embed.FS

// tools are the programs of the workshop beside those of every small machine: path
// to the package it comes from.
var tools = map[string]string{
	"sbin/mke2fs": "e2fsprogs", "sbin/mkfs.xfs": "xfsprogs", "bin/btrfs": "btrfs-progs", "sbin/mkfs.btrfs": "btrfs-progs",
	"sbin/mkfs.vfat": "dosfstools", "usr/sbin/mkfs.exfat": "exfatprogs", "sbin/mkntfs": "ntfs-3g",
	"sbin/sfdisk": "fdisk", "sbin/blockdev": "util-linux", "sbin/mkswap": "util-linux",
	"usr/bin/genisoimage": "genisoimage", "usr/bin/mksquashfs": "squashfs-tools",
}

// libraries are the packages of which the tools need libraries that a small machine
// lacks.
var libraries = []string{
	"libext2fs2", "libcom-err2", "libss2", "libinih1", "liburcu8", "libfdisk1", "libsmartcols1", "libreadline8", "liblzo2-2", "zlib1g", "libmagic1",
	"libbz2-1.0", "libc6", "libblkid1", "libuuid1", "libtinfo6", "liblzma5", "liblz4-1", "libzstd1", "libgcc-s1", "libntfs-3g89", "libedit2", "libbsd0",
	"libmd0", "libselinux1", "libpcre2-8-0", "libudev1", "libmount1", "libreiserfscore0", "libstdc++6", "libcap2", "libicu72", "libgcrypt20", "libgpg-error0", "libsystemd0",
}

// Dir returns the folder of a recipe's images, and makes all of them if that was not
// done before: once for a state of the source tree. The files must not be changed.
func Dir(ctx context.Context, recipe string) (string, error) {
	if _, ok := recipes.Find(recipe); !ok {
		return "", fmt.Errorf("there is no recipe %q", recipe)
	}
	cache, err := image.CacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	key, err := sourceKey()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "disks-"+key)
	if _, err := os.Stat(dir); err == nil {
		return filepath.Join(dir, recipe), nil
	}
	parts, err := image.Ensure(ctx, cache)
	if err != nil {
		return "", err
	}
	unlock, err := debian.Lock(filepath.Join(cache, "lock-disks"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return filepath.Join(dir, recipe), nil
	}
	if err := makeDisks(ctx, cache, parts, dir); err != nil {
		return "", err
	}
	return filepath.Join(dir, recipe), nil
}

func sourceKey() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		// What only serves the images changes none.
		if !strings.Contains(path, "/") && path != "workshop.go" {
			return nil
		}
		text, err := sources.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s\n", path, len(text), text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}

// makeDisks makes the images of all recipes in one workshop. The caller holds the
// lock.
func makeDisks(ctx context.Context, cache, parts, dir string) error {
	for _, pattern := range []string{"disks-*", "making-*"} {
		old, _ := filepath.Glob(filepath.Join(cache, pattern))
		for _, path := range old {
			if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 2*time.Hour {
				_ = os.RemoveAll(path)
			}
		}
	}
	work, err := os.MkdirTemp(cache, "making-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	initrd := filepath.Join(work, "initrd")
	if err := writeInitrd(ctx, cache, parts, initrd, work); err != nil {
		return fmt.Errorf("furnish the workshop: %w", err)
	}
	made := filepath.Join(work, "disks")
	if err := os.Mkdir(made, 0o755); err != nil {
		return err
	}
	if err := runWorkshop(ctx, filepath.Join(parts, image.KernelFile), initrd, made); err != nil {
		return fmt.Errorf("make disk images: %w", err)
	}
	return os.Rename(made, dir)
}

// writeInitrd writes the small machine's own with the tools, and the workshop's
// program in place of the machine's.
func writeInitrd(ctx context.Context, cache, parts, to, work string) error {
	program := filepath.Join(work, "program")
	if _, err := debian.Run(ctx, "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "go", "build", "-buildvcs=false", "-trimpath",
		"-o", program, "github.com/backstay/backstay/internal/guest/guesttest/workshop"); err != nil {
		return err
	}
	file, err := os.Create(to)
	if err != nil {
		return err
	}
	defer file.Close()
	base, err := os.ReadFile(filepath.Join(parts, image.InitrdFile))
	if err != nil {
		return err
	}
	if _, err := file.Write(base); err != nil {
		return err
	}
	a := debian.NewArchive(file)
	if err := addTools(ctx, a, cache); err != nil {
		return err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	a.Program("init", data)
	if err := a.Close(); err != nil {
		return err
	}
	return file.Close()
}

func addTools(ctx context.Context, a *debian.Archive, cache string) error {
	packages := append([]string{}, libraries...)
	for _, p := range tools {
		packages = append(packages, p)
	}
	versions, err := debian.Candidates(ctx, packages...)
	if err != nil {
		return err
	}
	folder, roots := map[string]string{}, []string{}
	for _, p := range packages {
		if folder[p] != "" || versions[p] == "" {
			continue
		}
		dir, _, err := debian.Unpacked(ctx, cache, p, versions[p])
		if err != nil {
			return err
		}
		folder[p] = dir
		roots = append(roots, dir)
	}
	libs := map[string]string{}
	for path, p := range tools {
		from, err := filepath.EvalSymlinks(filepath.Join(folder[p], path))
		if err != nil {
			return err
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		a.Program("usr/"+strings.TrimPrefix(path, "usr/"), data)
		more, err := debian.Libraries(from, roots...)
		if err != nil {
			return err
		}
		for to, from := range more {
			libs[strings.TrimPrefix(to, "/usr")] = from
		}
	}
	for path, from := range libs {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		a.Program("usr"+path, data)
	}
	return nil
}

// runWorkshop starts the workshop with empty disks and waits until it has made all.
func runWorkshop(ctx context.Context, kernel, initrd, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "1536", "-smp", "2",
		"-machine", "q35,sata=off,smbus=off,usb=off,graphics=off", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off",
		"-kernel", kernel, "-initrd", initrd, "-serial", "stdio", "-device", "virtio-scsi-pci,id=scsi,virtqueue_size=128",
	}
	var names []string
	for _, r := range recipes.All {
		names = append(names, r.Name)
		if err := os.Mkdir(filepath.Join(dir, r.Name), 0o755); err != nil {
			return err
		}
		for i, size := range r.Disks {
			path := filepath.Join(dir, r.Name, fmt.Sprint(i))
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
			if err := os.Truncate(path, size); err != nil {
				return err
			}
			id := fmt.Sprintf("d%d", len(args))
			args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,format=raw,file=%s,cache=unsafe,discard=unmap,detect-zeroes=unmap", id, path),
				"-device", fmt.Sprintf("scsi-hd,bus=scsi.0,drive=%s,serial=%s.%d", id, r.Name, i))
		}
	}
	args = append(args, "-append", "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests mitigations=off recipes="+strings.Join(names, ","))
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, out.String())
	}
	if !strings.Contains(out.String(), "workshop done") {
		return fmt.Errorf("the workshop did not finish: %s", out.String())
	}
	return nil
}
