package guest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/backstay/backstay/internal/debian"
)

// The image: a master boot record, then the boot partition, then the root.
const (
	sector   = 512
	firstMiB = 1 // where partition 1 begins
	espMiB   = 32
	rootMiB  = 192
)

// ext4Options describe a file system to make in a file.
type ext4Options struct {
	Label string
	Size  int64  // bytes
	From  string // folder to copy into it; "" for an empty one
}

// makeExt4 makes a sparse file with an ext4 file system in it.
func makeExt4(ctx context.Context, path string, o ext4Options) error {
	if err := sparse(path, o.Size); err != nil {
		return err
	}
	args := []string{"-q", "-F", "-t", "ext4", "-L", o.Label, "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard"}
	if o.From != "" {
		args = append(args, "-d", o.From)
	}
	_, err := debian.Run(ctx, "mke2fs", append(args, path)...)
	return err
}

// DataDisk makes a sparse raw disk of a size in bytes that is one empty ext4 file
// system, which a guest mounts at /data.
func DataDisk(ctx context.Context, path string, size int64) error {
	if err := makeExt4(ctx, path, ext4Options{Label: DataLabel, Size: size}); err != nil {
		return fmt.Errorf("make data disk: %w", err)
	}
	return nil
}

// bootPartition makes the FAT file system from which both kinds of firmware
// boot: syslinux for BIOS, GRUB for UEFI, one kernel and one initramfs.
func bootPartition(ctx context.Context, in inputs, path, initrd string) error {
	if err := sparse(path, espMiB<<20); err != nil {
		return err
	}
	hidden := strconv.Itoa(firstMiB << 20 / sector)
	if _, err := debian.Run(ctx, "mkfs.vfat", "-n", "GUESTESP", "-h", hidden, path); err != nil {
		return err
	}
	if _, err := debian.Run(ctx, "mmd", "-i", path, "::EFI", "::EFI/BOOT", "::EFI/debian"); err != nil {
		return err
	}
	work := filepath.Dir(path)
	for _, name := range []string{"syslinux.cfg", "grub.cfg"} {
		text, err := sources.ReadFile("files/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, name), text, 0o644); err != nil {
			return err
		}
	}
	// Debian's ready-made GRUB looks for its configuration in EFI/debian.
	loader := filepath.Join(in.grub, "usr/lib/grub/x86_64-efi/monolithic/grubx64.efi")
	for _, file := range [][2]string{
		{in.kernel, "vmlinuz"}, {initrd, "initrd.gz"}, {loader, "EFI/BOOT/BOOTX64.EFI"},
		{filepath.Join(work, "syslinux.cfg"), "syslinux.cfg"}, {filepath.Join(work, "grub.cfg"), "EFI/debian/grub.cfg"},
	} {
		if _, err := debian.Run(ctx, "mcopy", "-i", path, file[0], "::"+file[1]); err != nil {
			return err
		}
	}
	_, err := debian.Run(ctx, "syslinux", "--install", path)
	return err
}

// assemble writes the boot record and the two partitions into a sparse file.
func assemble(path, esp, root string) error {
	boot, err := os.ReadFile("/usr/lib/SYSLINUX/mbr.bin")
	if err != nil {
		return err
	}
	if err := sparse(path, (firstMiB+espMiB+rootMiB)<<20); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(bootRecord(boot), 0); err != nil {
		return err
	}
	if err := copySparse(file, esp, firstMiB<<20); err != nil {
		return err
	}
	if err := copySparse(file, root, (firstMiB+espMiB)<<20); err != nil {
		return err
	}
	return file.Close()
}

// bootRecord is the first sector: boot code, disk id, and two partitions, the
// first active and an EFI system partition.
func bootRecord(code []byte) []byte {
	const table, signature = 446, 510
	record := make([]byte, sector)
	copy(record[:440], code)
	copy(record[440:], "BSTY")
	entry := func(i int, active, kind byte, startMiB, sizeMiB uint32) {
		e := record[table+16*i:]
		e[0], e[4] = active, kind
		// Cylinders say "see the sector numbers": nothing here is that small.
		copy(e[1:4], "\xfe\xff\xff")
		copy(e[5:8], "\xfe\xff\xff")
		binary.LittleEndian.PutUint32(e[8:], startMiB<<20/sector)
		binary.LittleEndian.PutUint32(e[12:], sizeMiB<<20/sector)
	}
	entry(0, 0x80, 0xef, firstMiB, espMiB)
	entry(1, 0, 0x83, firstMiB+espMiB, rootMiB)
	record[signature], record[signature+1] = 0x55, 0xaa
	return record
}

// sparse makes a file of a size in bytes without content.
func sparse(path string, size int64) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := file.Truncate(size); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

// copySparse copies a file to an offset of another and leaves out zero blocks.
func copySparse(to *os.File, from string, offset int64) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	const block = 64 << 10
	buf := make([]byte, block)
	zero := strings.Repeat("\x00", block)
	for {
		n, err := io.ReadFull(source, buf)
		if n > 0 && string(buf[:n]) != zero[:n] {
			if _, err := to.WriteAt(buf[:n], offset); err != nil {
				return err
			}
		}
		offset += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
