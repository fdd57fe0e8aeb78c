package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	backstay "github.com/backstay/backstay"
)

// OpInodes reads the inodes of a volume as they lie on the disk, without a look into
// its folders.
const OpInodes = "inodes" // InodesRequest → stream of InodeWriter

// InodesRequest asks for the inodes of a volume.
type InodesRequest struct {
	Volume backstay.VolumeID `json:"volume"`
	// System is what the stream said of the volume earlier: only if it still says so,
	// inodes follow. "" asks only what it says.
	System string `json:"system,omitempty"`
}

// MaxInodes is the most inodes of one stream.
const MaxInodes = 2 << 20

// MaxSystem is the longest name of a file system, in bytes.
const MaxSystem = 200

// Inode is what an inode tells of every path that leads to it; see Row.
type Inode struct {
	Inode   uint64
	Type    backstay.FileType
	Size    int64
	ModTime int64
	Changed int64
}

// InodeWriter writes inodes, by number: first which file system it is, with its length
// before it, then for each inode one byte (index of the type), its number less that of
// the one before, size, mod time and changed, all of them varints. A byte 0xff ends the
// stream. A file system whose inodes cannot be read so has no name.
type InodeWriter struct {
	w    *bufio.Writer
	last uint64
	buf  []byte
}

// NewInodeWriter returns a writer of the inodes of a file system to w.
func NewInodeWriter(w io.Writer, system string) (*InodeWriter, error) {
	out := &InodeWriter{w: bufio.NewWriterSize(w, 64<<10)}
	_, err := out.w.Write(append(binary.AppendUvarint(nil, uint64(len(system))), system...))
	return out, err
}

// Write adds an inode.
func (w *InodeWriter) Write(i Inode) error {
	kind := byte(0)
	for n, t := range rowTypes {
		if t == i.Type {
			kind = byte(n)
		}
	}
	b := append(w.buf[:0], kind)
	b = binary.AppendUvarint(b, i.Inode-w.last)
	b = binary.AppendUvarint(b, uint64(max(i.Size, 0)))
	b = binary.AppendVarint(b, i.ModTime)
	b = binary.AppendVarint(b, i.Changed)
	w.buf, w.last = b, i.Inode
	_, err := w.w.Write(b)
	return err
}

// Close writes the end and flushes. It does not close what is below.
func (w *InodeWriter) Close() error {
	if err := w.w.WriteByte(rowsEnd); err != nil {
		return err
	}
	return w.w.Flush()
}

// ReadInodes reads what an InodeWriter wrote, and believes none of it: the name of the
// file system, and its inodes by number.
func ReadInodes(from io.Reader) (system string, all []Inode, err error) {
	r := bufio.NewReaderSize(from, 64<<10)
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return "", nil, broken(err)
	}
	if n > MaxSystem {
		return "", nil, fmt.Errorf("a name of %d bytes: %w", n, ErrBadRows)
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(r, name); err != nil {
		return "", nil, broken(err)
	}
	last := uint64(0)
	for {
		one, err := readInode(r, last)
		if errors.Is(err, io.EOF) {
			return string(name), all, nil
		}
		if err == nil && len(all) >= MaxInodes {
			err = fmt.Errorf("more than %d inodes: %w", MaxInodes, ErrBadRows)
		}
		if err != nil {
			return "", nil, err
		}
		all, last = append(all, one), one.Inode
	}
}

// readInode returns io.EOF behind the last one.
func readInode(r *bufio.Reader, last uint64) (Inode, error) {
	kind, err := r.ReadByte()
	if err != nil {
		return Inode{}, early(err)
	}
	if kind == rowsEnd {
		return Inode{}, io.EOF
	}
	if int(kind) >= len(rowTypes) {
		return Inode{}, fmt.Errorf("type %d: %w", kind, ErrBadRows)
	}
	one := Inode{Type: rowTypes[kind]}
	step, err := binary.ReadUvarint(r)
	var size uint64
	if err == nil {
		size, err = binary.ReadUvarint(r)
	}
	if err == nil {
		one.ModTime, err = binary.ReadVarint(r)
	}
	if err == nil {
		one.Changed, err = binary.ReadVarint(r)
	}
	one.Inode, one.Size = last+step, int64(size)
	if err != nil || step == 0 || one.Inode < last || one.Size < 0 {
		return Inode{}, broken(err)
	}
	return one, nil
}
