// Package ext4 reads the inodes of a mounted ext4 file system from the tables on its
// disk: of a hundred thousand files in one pass, where asking the kernel for each
// takes many seconds. It knows neither names nor contents, and refuses every file
// system of which it could tell anything else than the kernel does.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrUnfit says that a file system cannot be read so, and has to be walked.
var ErrUnfit = errors.New("its inodes cannot be read from the tables")

func unfit(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnfit, fmt.Sprintf(format, args...))
}

var le = binary.LittleEndian

// What a file system may and must have. Checksums prove that what is read is what was
// written, and where tables end. Without a journal, a folder and its inode
// need not be of the same instant in a point. Encrypted and folded names, large
// clusters, inodes that hold files and tables elsewhere are left to the walk.
const (
	compatNeeded = 0x4                                                // has_journal
	compatKnown  = compatNeeded | 0x8 | 0x10 | 0x20 | 0x200 | 0x1000  // ext_attr, resize_inode, dir_index, sparse_super2, orphan_file
	incompatKnow = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x4000        // filetype, extents, 64bit, flex_bg, csum_seed, large_dir
	roNeeded     = 0x400                                              // metadata_csum
	roKnown      = roNeeded | 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x100 | // sparse_super, large_file, huge_file, dir_nlink, extra_isize, quota
		0x2000 | 0x10000 // project, orphan_present
	inSeed = 0x2000
	in64   = 0x80
)

// System is an ext4 file system on a device. What is read is of the moment at which it
// is read: the file system must be mounted read-only, since then the device's page
// cache holds what the kernel goes by, with the journal replayed.
type System struct {
	device io.ReaderAt
	// Name is the same as long as nobody made, checked or resized the file system:
	// whoever does that may change folders without their inodes saying so.
	Name string

	block     int64
	perGroup  uint32 // inodes
	groups    uint32
	inodes    uint32
	inodeSize int
	descSize  int
	first     uint64 // the block of the superblock
	seed      uint32
}

// Open reads the superblock. An error that is ErrUnfit is no damage.
func Open(device io.ReaderAt) (*System, error) {
	sb := make([]byte, 1024)
	if _, err := device.ReadAt(sb, 1024); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	compat, incompat, ro := le.Uint32(sb[92:]), le.Uint32(sb[96:]), le.Uint32(sb[100:])
	switch {
	case le.Uint16(sb[56:]) != 0xEF53 || le.Uint32(sb[76:]) != 1:
		return nil, unfit("no superblock of this kind")
	case checksum(^uint32(0), sb[:1020]) != le.Uint32(sb[1020:]) && ro&roNeeded != 0:
		return nil, unfit("its superblock is damaged")
	case compat&^compatKnown != 0 || compat&compatNeeded != compatNeeded || incompat&^incompatKnow != 0 || ro&^roKnown != 0 || ro&roNeeded != roNeeded:
		// A journal that was not replayed is among these.
		return nil, unfit("features %x, %x, %x", compat, incompat, ro)
	case le.Uint16(sb[58:])&2 != 0:
		return nil, unfit("the kernel met errors in it")
	}
	s := &System{device: device, inodes: le.Uint32(sb[0:]), perGroup: le.Uint32(sb[40:]), inodeSize: int(le.Uint16(sb[88:])),
		first: uint64(le.Uint32(sb[20:])), descSize: 32, seed: checksum(^uint32(0), sb[104:120])}
	if incompat&in64 != 0 {
		s.descSize = int(le.Uint16(sb[254:]))
	}
	if incompat&inSeed != 0 {
		s.seed = le.Uint32(sb[0x270:])
	}
	if scale := le.Uint32(sb[24:]); scale <= 6 {
		s.block = 1024 << scale
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	s.groups = s.inodes / s.perGroup
	// Made, checked last, and inodes: with the high bytes of the times.
	s.Name = fmt.Sprintf("ext4 %x made %x.%x checked %x.%x inodes %d", sb[104:120], le.Uint32(sb[264:]), sb[0x276], le.Uint32(sb[64:]), sb[0x277], s.inodes)
	return s, nil
}

// mostDescriptors bounds the descriptors of all groups, in bytes: those of 64 TiB.
const mostDescriptors = 32 << 20

// check sees that the measures make sense.
func (s *System) check() error {
	size := int64(s.inodeSize)
	switch {
	case s.block == 0 || s.perGroup == 0 || s.inodes == 0 || s.inodes%s.perGroup != 0 || int64(s.perGroup) > 8*s.block:
		return unfit("%d inodes, %d in each group, blocks of %d", s.inodes, s.perGroup, s.block)
	case size < 128 || size > s.block || size&(size-1) != 0 || int64(s.perGroup)*size%s.block != 0:
		return unfit("inodes of %d bytes", size)
	case int64(s.inodes/s.perGroup)*int64(s.descSize) > mostDescriptors:
		return unfit("%d groups", s.inodes/s.perGroup)
	case s.descSize < 32 || int64(s.descSize) > s.block || s.descSize&(s.descSize-1) != 0:
		return unfit("descriptors of %d bytes", s.descSize)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is crc32c as the kernel counts it: without turning the bits over at the
// beginning and the end, which package crc32 does.
func checksum(seed uint32, data []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli, data)
}

// group is a block group's inodes.
type group struct {
	table  int64  // offset of the table in bytes
	bitmap int64  // of the map of used inodes
	used   uint32 // how many inodes at its beginning may be in use
}

// descriptors reads where the tables are.
func (s *System) descriptors() ([]group, error) {
	raw := make([]byte, int(s.groups)*s.descSize)
	if _, err := s.device.ReadAt(raw, int64(s.first+1)*s.block); err != nil {
		return nil, fmt.Errorf("read group descriptors: %w", err)
	}
	all := make([]group, s.groups)
	for i := range all {
		d := raw[i*s.descSize:][:s.descSize]
		var number [4]byte
		le.PutUint32(number[:], uint32(i))
		sum := checksum(checksum(s.seed, number[:]), d[:30])
		sum = checksum(checksum(sum, []byte{0, 0}), d[32:])
		if uint16(sum) != le.Uint16(d[30:]) {
			return nil, unfit("the descriptor of group %d is damaged", i)
		}
		table, bitmap, unused := uint64(le.Uint32(d[8:])), uint64(le.Uint32(d[4:])), uint32(le.Uint16(d[28:]))
		if s.descSize >= 64 {
			table |= uint64(le.Uint32(d[40:])) << 32
			bitmap |= uint64(le.Uint32(d[36:])) << 32
			unused |= uint32(le.Uint16(d[50:])) << 16
		}
		if table >= 1<<48 || bitmap >= 1<<48 || unused > s.perGroup {
			return nil, unfit("the descriptor of group %d makes no sense", i)
		}
		all[i] = group{int64(table) * s.block, int64(bitmap) * s.block, s.perGroup - unused}
		if le.Uint16(d[18:])&1 != 0 { // its table was never written
			all[i].used = 0
		}
	}
	return all, nil
}
