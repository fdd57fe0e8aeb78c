// Package raw reads disk images that are plain files or block devices, as
// tier.Image, and makes new ones: content at its own offset, holes of the file as
// zeros.
//
// It knows no layers: what lies below or above an image is the snapshot tier's
// business. It never changes an image that exists. Nothing of a format is probed, so a guest that
// writes a header of another format onto its disk gains nothing.
package raw

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// Image is an opened raw image. Its methods may be called concurrently.
type Image struct {
	file *os.File
	size int64
}

// Open opens an image for reading. Its size in bytes is what the file or device
// has now; one that grows later keeps it.
func Open(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open raw image: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open raw image: %w", err), f.Close())
	}
	if !info.Mode().IsRegular() && info.Mode()&os.ModeDevice == 0 {
		return nil, errors.Join(fmt.Errorf("open raw image %s: it is neither a file nor a block device", path), f.Close())
	}
	size, err := f.Seek(0, io.SeekEnd) // a device's Stat has no size
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open raw image: %w", err), f.Close())
	}
	return &Image{file: f, size: size}, nil
}

// Size returns the guest-visible size in bytes.
func (m *Image) Size() int64 { return m.size }

// Close closes the file.
func (m *Image) Close() error { return m.file.Close() }

// ReadAt fills b or fails. A file that became shorter is io.ErrUnexpectedEOF, not
// the end of the disk.
func (m *Image) ReadAt(b []byte, offset int64) (int, error) {
	if offset >= m.size {
		return 0, io.EOF
	}
	atEnd := int64(len(b)) > m.size-offset
	if atEnd {
		b = b[:m.size-offset]
	}
	n, err := m.file.ReadAt(b, offset)
	switch {
	case n < len(b) && errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF
	case n < len(b):
		return n, err
	case atEnd:
		return n, io.EOF
	}
	return n, nil
}

// Extents tells the file's holes, which are zeros, from the rest. Where the file
// system knows no holes everything is data.
func (m *Image) Extents(offset, length int64) ([]tier.Extent, error) {
	if offset < 0 || length < 0 || offset > m.size || length > m.size-offset {
		return nil, fmt.Errorf("extents of raw image: %d bytes at %d are outside of it", length, offset)
	}
	var out []tier.Extent
	end := offset + length
	add := func(to int64, zero bool) {
		if to = min(to, end); to > offset {
			out = append(out, tier.Extent{Range: backstay.Range{Offset: offset, Length: to - offset}, Zero: zero})
			offset = to
		}
	}
	for offset < end {
		// The answers are absolute, so that concurrent calls may share the file.
		data, err := m.seek(offset, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // no data behind offset
			add(end, true)
			continue
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
			add(end, false)
			continue
		case err != nil:
			return nil, fmt.Errorf("extents of raw image: %w", err)
		}
		add(data, true)
		if offset >= end {
			break
		}
		hole, err := m.seek(offset, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) || err == nil && hole <= offset {
			return nil, fmt.Errorf("extents of raw image: it changed while it was read: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return nil, fmt.Errorf("extents of raw image: %w", err)
		}
		add(hole, false)
	}
	return out, nil
}

func (m *Image) seek(offset int64, whence int) (int64, error) {
	conn, err := m.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var at int64
	var seekErr error
	err = conn.Control(func(fd uintptr) { at, seekErr = unix.Seek(int(fd), offset, whence) })
	return at, errors.Join(err, seekErr)
}
