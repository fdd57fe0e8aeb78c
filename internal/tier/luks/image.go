package luks

import (
	"crypto/aes"
	"fmt"
	"io"
	"sync"

	"golang.org/x/crypto/xts"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// Open returns the decrypted content of the volume at offset of a disk, which it
// reads and does not close. ErrElsewhere if only the kernel can decrypt it.
func (v *Volume) Open(disk tier.Image, offset int64, volumeKey backstay.Secret) (tier.Image, error) {
	if v.refused != nil {
		return nil, v.refused
	}
	cipher, err := xts.NewCipher(aes.NewCipher, volumeKey.Reveal())
	if err != nil {
		return nil, fmt.Errorf("open LUKS volume: %w", err)
	}
	s := v.segment
	return &image{
		disk: disk, cipher: cipher, offset: offset + s.offset, sector: int64(s.sector),
		size: s.length / int64(s.sector) * int64(s.sector), tweak: s.tweak,
	}, nil
}

// image decrypts what is read of it. All of its state is fixed, so that it may be
// read concurrently.
type image struct {
	disk   tier.Image
	cipher *xts.Cipher
	offset int64 // of its first byte on the disk
	size   int64
	sector int64
	tweak  uint64
}

func (i *image) Size() int64 { return i.size }

// Close closes nothing: the disk is its opener's.
func (i *image) Close() error { return nil }

// Extents calls everything data: what is zeros on the disk is none once decrypted.
func (i *image) Extents(offset, length int64) ([]tier.Extent, error) {
	if offset < 0 || length < 0 || offset > i.size || length > i.size-offset {
		return nil, fmt.Errorf("extents of [%d, +%d) of a volume of %d bytes: %w", offset, length, i.size, io.ErrUnexpectedEOF)
	}
	return []tier.Extent{{Range: backstay.Range{Offset: offset, Length: length}}}, nil
}

// buffers are those of reads that begin or end within a sector.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 64<<10); return &b }}

// ReadAt implements io.ReaderAt.
func (i *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	if off >= i.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), i.size-off))
	end := off + int64(n)
	if off%i.sector == 0 && end%i.sector == 0 {
		if err := i.readSectors(p[:n], off); err != nil {
			return 0, err
		}
	} else if err := i.readWithin(p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readWithin reads the sectors around what is wanted.
func (i *image) readWithin(p []byte, off int64) error {
	from := off / i.sector * i.sector
	to := (off + int64(len(p)) + i.sector - 1) / i.sector * i.sector
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	if int64(cap(*b)) < to-from {
		*b = make([]byte, 0, to-from)
	}
	whole := (*b)[:to-from]
	defer clear(whole)
	if err := i.readSectors(whole, from); err != nil {
		return err
	}
	copy(p, whole[off-from:])
	return nil
}

// readSectors reads whole sectors and decrypts them in place. The tweak counts
// units of 512 bytes, however large a sector is.
func (i *image) readSectors(p []byte, off int64) error {
	if n, err := i.disk.ReadAt(p, i.offset+off); n < len(p) {
		return fmt.Errorf("read encrypted content at %d: %w", i.offset+off, err)
	}
	for at := int64(0); at < int64(len(p)); at += i.sector {
		sector := p[at : at+i.sector]
		i.cipher.Decrypt(sector, sector, i.tweak+uint64((off+at)/512))
	}
	return nil
}
