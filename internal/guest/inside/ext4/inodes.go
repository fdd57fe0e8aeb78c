package ext4

import (
	"context"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// Inode is what the kernel would tell of an inode.
type Inode struct {
	Number  uint64
	Mode    uint32
	Size    int64
	ModTime unix.Timespec
	Changed unix.Timespec
}

// pieceSize is how much of a table is read at once, in bytes.
const pieceSize = 1 << 20

// reader reads the inodes of one file system after the other group.
type reader struct {
	*System
	buf  []byte
	bits []byte
	fn   func(Inode) error
}

// Inodes calls fn with each inode that is in use, by number.
func (s *System) Inodes(ctx context.Context, fn func(Inode) error) error {
	groups, err := s.descriptors()
	if err != nil {
		return err
	}
	r := &reader{System: s, fn: fn, buf: make([]byte, max(pieceSize, int(s.block))), bits: make([]byte, (s.perGroup+7)/8)}
	for i, g := range groups {
		if err := ctx.Err(); err != nil {
			return err
		}
		if g.used == 0 {
			continue
		}
		if err := r.group(uint32(i), g); err != nil {
			return fmt.Errorf("group %d: %w", i, err)
		}
	}
	return nil
}

// group reads those pieces of a group's table that hold inodes in use.
func (r *reader) group(number uint32, g group) error {
	if _, err := r.device.ReadAt(r.bits, g.bitmap); err != nil {
		return fmt.Errorf("read map of inodes: %w", err)
	}
	perBlock := uint32(r.block) / uint32(r.inodeSize)
	most := uint32(len(r.buf)) / uint32(r.inodeSize)
	for at := uint32(0); at < g.used; {
		if !r.any(at, perBlock) {
			at += perBlock
			continue
		}
		n := perBlock
		for n+perBlock <= most && at+n < g.used && r.any(at+n, perBlock) {
			n += perBlock
		}
		data := r.buf[:int(n)*r.inodeSize]
		if _, err := r.device.ReadAt(data, g.table+int64(at)*int64(r.inodeSize)); err != nil {
			return fmt.Errorf("read table of inodes: %w", err)
		}
		for i := range min(n, g.used-at) {
			if r.inUse(at + i) {
				if err := r.inode(number*r.perGroup+at+i+1, data[int(i)*r.inodeSize:][:r.inodeSize]); err != nil {
					return err
				}
			}
		}
		at += n
	}
	return nil
}

func (r *reader) inUse(i uint32) bool { return r.bits[i/8]&(1<<(i%8)) != 0 }

// any tells whether one of n inodes is in use; n is that of a block.
func (r *reader) any(from, n uint32) bool {
	if from%8 == 0 && n%8 == 0 {
		count := 0
		for _, b := range r.bits[from/8:][:min(int(n/8), len(r.bits)-int(from/8))] {
			count += bits.OnesCount8(b)
		}
		return count > 0
	}
	for i := from; i < min(from+n, r.perGroup); i++ {
		if r.inUse(i) {
			return true
		}
	}
	return false
}

// Where fields lie in an inode, in bytes, and how long it was before it could grow.
const (
	oldInode  = 128
	fullInode = 160 // what the kernel knows of
	sumLow    = 124
	sumHigh   = 130
)

// inode decodes one inode, which the kernel must have written as it is.
func (r *reader) inode(number uint32, raw []byte) error {
	mode, links := uint32(le.Uint16(raw)), le.Uint16(raw[26:])
	if mode == 0 || links == 0 {
		return nil // deleted, or never made: no path leads to it
	}
	extra := 0
	if r.inodeSize > oldInode {
		extra = int(le.Uint16(raw[oldInode:]))
		if extra%4 != 0 || oldInode+extra > r.inodeSize {
			return unfit("inode %d is damaged", number)
		}
	}
	if !r.intact(number, raw, extra) {
		return unfit("inode %d is damaged", number)
	}
	if r.inodeSize > oldInode && extra == 0 {
		extra = fullInode - oldInode // as the kernel takes it
	}
	one := Inode{Number: uint64(number), Mode: mode, Size: int64(uint64(le.Uint32(raw[4:])) | uint64(le.Uint32(raw[108:]))<<32)}
	one.Changed = timestamp(raw, 12, 132, extra)
	one.ModTime = timestamp(raw, 16, 136, extra)
	return r.fn(one)
}

// intact tells whether an inode's checksum is right.
func (r *reader) intact(number uint32, raw []byte, extra int) bool {
	var id [4]byte
	le.PutUint32(id[:], number)
	zero := []byte{0, 0}
	sum := checksum(checksum(r.seed, id[:]), raw[100:104]) // the generation
	sum = checksum(checksum(checksum(sum, raw[:sumLow]), zero), raw[sumLow+2:oldInode])
	want := uint32(le.Uint16(raw[sumLow:]))
	if r.inodeSize > oldInode {
		sum = checksum(sum, raw[oldInode:sumHigh])
		if extra >= sumHigh+2-oldInode {
			sum = checksum(sum, zero)
			want |= uint32(le.Uint16(raw[sumHigh:])) << 16
			sum = checksum(sum, raw[sumHigh+2:])
			return sum == want
		}
		sum = checksum(sum, raw[sumHigh:])
	}
	return sum&0xffff == want
}

// timestamp decodes a time, with the bits that it has if the inode is long enough.
func timestamp(raw []byte, at, more, extra int) unix.Timespec {
	ts := unix.Timespec{Sec: int64(int32(le.Uint32(raw[at:])))}
	if more+4 <= oldInode+extra {
		bits := le.Uint32(raw[more:])
		ts.Sec += int64(bits&3) << 32
		ts.Nsec = int64(bits >> 2)
	}
	return ts
}
