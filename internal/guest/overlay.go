package guest

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// overlay makes a file without a name in a folder that takes what a machine writes
// to a disk of so many bytes: an empty qcow2 of version 3. It is gone when the last
// process that has it open is.
func overlay(dir string, size int64) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make overlay in %s: %w", dir, err)
	}
	file := os.NewFile(uintptr(fd), "overlay")
	tables, length := emptyQCOW2(size)
	_, err = file.WriteAt(tables, 0)
	if err == nil {
		err = file.Truncate(length)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("make overlay in %s: %w", dir, err)
	}
	return file, nil
}

// largeDisk is where clusters become large, as the table of them would.
const largeDisk = 1 << 40

// emptyQCOW2 is the beginning of an image that holds nothing, and how long the
// image is: header, table of reference counts, first block of them, and the L1 table,
// which is zero. Offsets are those of the format's specification.
//
// A cluster is no larger than a block of most file systems, so that the replay of a
// journal, which writes blocks here and there, reads and keeps nothing beside them.
func emptyQCOW2(size int64) (tables []byte, length int64) {
	bits := int64(12)
	if size > largeDisk {
		bits = 16
	}
	cluster := int64(1) << bits
	perL1 := cluster / 8 * cluster // bytes of the disk for one entry of the L1 table
	entries := (size + perL1 - 1) / perL1
	clusters := 3 + (entries*8+cluster-1)/cluster
	b := make([]byte, 3*cluster)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], uint32(bits))
	be.PutUint64(b[24:], uint64(size))
	be.PutUint32(b[36:], uint32(entries))
	be.PutUint64(b[40:], uint64(3*cluster)) // L1 table
	be.PutUint64(b[48:], uint64(cluster))   // table of reference counts
	be.PutUint32(b[56:], 1)                 // of one cluster
	be.PutUint32(b[96:], 4)                 // counts of 16 bits
	be.PutUint32(b[100:], 104)              // length of the header
	be.PutUint64(b[cluster:], uint64(2*cluster))
	for i := range clusters {
		be.PutUint16(b[2*cluster+2*i:], 1)
	}
	return b, clusters * cluster
}
