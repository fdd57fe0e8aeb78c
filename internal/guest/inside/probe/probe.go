// Package probe tells by magic numbers what lies on a disk: partition tables, file
// systems, and what they are stacked on. It reads a few kilobytes of hostile
// input and believes none of it: no length that it finds is allocated or read
// unless it lies within the disk. It mounts nothing and starts nothing.
package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Class is what can be done with a content.
type Class string

// The classes of content.
const (
	Files   Class = "files"   // a file system that the small machine mounts
	Swap    Class = "swap"    // swap space
	Locked  Class = "locked"  // encrypted; opened, it holds a content of its own
	Member  Class = "member"  // a part of an array, a volume group or a file system over several disks
	Refused Class = "refused" // known by name, and read by nothing here
	Empty   Class = "empty"   // zeros where anything would begin
	Unknown Class = "unknown" // neither zeros nor anything known
)

// The types on which others decide. Type holds others too: those of file systems.
const (
	TypeLUKS      = "crypto_LUKS"
	TypeBitLocker = "BitLocker"
	TypeLVM       = "LVM2_member"
	TypeRAID      = "linux_raid_member"
	TypeBtrfs     = "btrfs"
	TypeSwap      = "swap"
)

// Content is what a disk, a partition or anything stacked on them holds.
type Content struct {
	Class Class
	// Type is its name in the kernel's words: ext4, xfs, vfat, crypto_LUKS, …
	Type    string
	Version int    // of LUKS: 1 or 2; of FAT: 12, 16 or 32
	Label   string // as in the superblock, with what is no UTF-8 replaced
	UUID    string // as in fstab's UUID=
	Size    int64  // bytes that it says it takes; 0 if it does not say
	Used    int64  // bytes; 0 if not known
	// Header is how many bytes at its beginning are needed to open it with a key, of
	// LUKS; 0 if that is not known.
	Header int64
	// Group is what holds members together: the UUID of an array or of a file system
	// over several disks.
	Group string
	// Members is how many belong to the group, 0 if not known; Part tells this one
	// from the others.
	Members int
	Part    string
	// Reason says, for people, why it cannot be read, or what else they must know.
	Reason string
	// LastMounted is where the guest had it mounted last, as ext2 to ext4 remember.
	LastMounted string
}

// Identify tells what begins at the start of r, which has size bytes. Partition
// tables are not looked for: see ReadTable. An error is one of reading.
func Identify(r io.ReaderAt, size int64) (Content, error) {
	a := &area{r: r, size: size}
	// Those that hold others come first: a mirror's members look like the file
	// system on it as well.
	for _, look := range []func(*area) (Content, bool){
		raid, foreignRAID, lvm, luks, bitlocker, xfs, btrfs, ext, exfat, ntfs, swap, squashfs, iso, fat, named,
	} {
		c, ok := look(a)
		if a.err != nil {
			return Content{}, fmt.Errorf("probe: %w", a.err)
		}
		if ok {
			return c, nil
		}
	}
	zeros := a.zeros(0, min(size, 1<<20))
	if a.err != nil {
		return Content{}, fmt.Errorf("probe: %w", a.err)
	}
	if zeros {
		return Content{Class: Empty}, nil
	}
	return Content{Class: Unknown, Reason: "what it holds is not known"}, nil
}

// area reads a disk within its bounds and remembers the first error.
type area struct {
	r    io.ReaderAt
	size int64
	err  error
	// What was read last, since most looks are at the same few kilobytes.
	at   int64
	kept []byte
}

const keep = 68 << 10

// bytes returns n bytes at off; nil if they do not lie within the disk or cannot
// be read.
func (a *area) bytes(off int64, n int) []byte {
	if a.err != nil || off < 0 || n < 0 || off > a.size || int64(n) > a.size-off {
		return nil
	}
	if a.kept != nil && off >= a.at && off+int64(n) <= a.at+int64(len(a.kept)) {
		return a.kept[off-a.at:][:n]
	}
	want := max(n, int(min(keep, a.size-off)))
	buf := make([]byte, want)
	if got, err := a.r.ReadAt(buf, off); got < want {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		a.err = err
		return nil
	}
	if off == 0 || a.kept == nil {
		a.at, a.kept = off, buf
	}
	return buf[:n]
}

// has tells whether magic lies at off.
func (a *area) has(off int64, magic string) bool {
	return string(a.bytes(off, len(magic))) == magic
}

func (a *area) zeros(off, n int64) bool {
	for n > 0 {
		part := a.bytes(off, int(min(n, keep)))
		if part == nil {
			return false
		}
		for _, b := range part {
			if b != 0 {
				return false
			}
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return true
}

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// uuid prints 16 bytes in their order.
func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// guid prints 16 bytes as Microsoft and UEFI do: the first three fields are little endian.
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
