// Package luks opens LUKS volumes of a recovery point on the host: it has their
// volume key found, and decrypts what lies behind it. No device mapper is needed,
// and no kernel reads anything of the volume.
//
// The header was written by whoever owns the guest. cryptsetup reads it, as a
// process without rights, files, network or much memory.
package luks

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Errors by which callers decide.
var (
	// ErrNotLUKS: there is no LUKS header.
	ErrNotLUKS = errors.New("no LUKS header is there")
	// ErrWrongKey: no key slot opens with the key.
	ErrWrongKey = errors.New("the key opens none of the volume's key slots")
	// ErrElsewhere: the volume is one that only the kernel can decrypt. What the error
	// says is why; its volume key can be found all the same.
	ErrElsewhere = errors.New("the volume cannot be decrypted here")
)

// MaxHeader is how much of a volume is read to find its key, in bytes: what
// cryptsetup makes of LUKS 2 by default.
const MaxHeader = 16 << 20

// maxMemory is the most memory that a key slot may ask for, in bytes; cryptsetup
// makes none above it (CRYPT_MAX_PBKDF_MEMORY, 4 GiB).
const maxMemory = 4 << 30

var magic = []byte("LUKS\xba\xbe")

// Volume is a LUKS volume whose header was read.
type Volume struct {
	Version int
	UUID    string
	Cipher  string // in dm-crypt's words: aes-xts-plain64
	// Memory is the most that one of its key slots asks for, in bytes.
	Memory int64

	header  []byte
	size    int64 // of the volume with its header
	segment segment
	refused error // why it cannot be decrypted here; nil if it can
}

// segment is where the encrypted content lies in the volume.
type segment struct {
	offset, length int64
	sector         int    // bytes
	tweak          uint64 // of the first sector, in units of 512 bytes
}

// Read reads the header of the volume in [offset, offset+length) of a disk.
// ErrNotLUKS if there is none.
func Read(ctx context.Context, disk io.ReaderAt, offset, length int64) (*Volume, error) {
	header := make([]byte, min(MaxHeader, length))
	if n, err := disk.ReadAt(header, offset); n < len(header) {
		return nil, fmt.Errorf("read LUKS header: %w", err)
	}
	return Parse(ctx, header, length)
}

// Parse is Read for a header that was read before: the beginning of a volume of
// length bytes.
func Parse(ctx context.Context, header []byte, length int64) (*Volume, error) {
	v := &Volume{header: header, size: length}
	if len(header) < 4096 || !bytes.HasPrefix(header, magic) {
		return nil, ErrNotLUKS
	}
	v.UUID = text(header[168:208])
	v.Version = int(binary.BigEndian.Uint16(header[6:]))
	var err error
	switch v.Version {
	case 1:
		err = v.parse1()
	case 2:
		err = v.parse2(ctx)
	default:
		err = fmt.Errorf("LUKS version %d is not known", v.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("read LUKS header: %w", err)
	}
	return v, v.check()
}

// check refuses a layout that the volume cannot have.
func (v *Volume) check() error {
	s := v.segment
	if s.offset < 0 || s.length <= 0 || s.offset > v.size || s.length > v.size-s.offset {
		return fmt.Errorf("read LUKS header: its content at %d of %d bytes does not lie within the volume of %d bytes", s.offset, s.length, v.size)
	}
	if s.sector != 512 && s.sector != 1024 && s.sector != 2048 && s.sector != 4096 {
		return fmt.Errorf("read LUKS header: its sectors have %d bytes", s.sector)
	}
	if v.refused == nil && v.Cipher != "aes-xts-plain64" {
		v.refused = fmt.Errorf("%w: its cipher is %s", ErrElsewhere, v.Cipher)
	}
	return nil
}

func text(field []byte) string {
	s, _, _ := strings.Cut(string(field), "\x00")
	return s
}

// parse1 reads a header of version 1 (LUKS1 On-Disk Format 1.2.3, section 2.1).
func (v *Volume) parse1() error {
	v.Cipher = text(v.header[8:40]) + "-" + text(v.header[40:72])
	offset := int64(binary.BigEndian.Uint32(v.header[104:])) * 512
	v.segment = segment{offset: offset, length: v.size - offset, sector: 512}
	return nil
}

// metadata is what counts of a header of version 2 (LUKS2 On-Disk Format 1.1.1,
// section 3). Numbers of bytes are text there.
type metadata struct {
	Keyslots map[string]struct {
		KDF struct {
			Memory int64 `json:"memory"` // KiB
		} `json:"kdf"`
	} `json:"keyslots"`
	Segments map[string]struct {
		Type       string          `json:"type"`
		Offset     string          `json:"offset"`
		Size       string          `json:"size"`
		Tweak      string          `json:"iv_tweak"`
		Encryption string          `json:"encryption"`
		Sector     int             `json:"sector_size"`
		Integrity  json.RawMessage `json:"integrity"`
		Flags      []string        `json:"flags"`
	} `json:"segments"`
}

func (v *Volume) parse2(ctx context.Context) error {
	out, err := v.run(ctx, nil, floorMemory, "--dump-json-metadata")
	if err != nil {
		return err
	}
	var m metadata
	if err := json.Unmarshal(out, &m); err != nil {
		return fmt.Errorf("its metadata cannot be read: %w", err)
	}
	for id, slot := range m.Keyslots {
		if slot.KDF.Memory < 0 || slot.KDF.Memory > maxMemory>>10 {
			return fmt.Errorf("key slot %s asks for %d KiB of memory, and no more than %d are given", id, slot.KDF.Memory, maxMemory>>10)
		}
		v.Memory = max(v.Memory, slot.KDF.Memory<<10)
	}
	s, ok := m.Segments["0"]
	if !ok {
		return errors.New("it has no content")
	}
	v.Cipher = s.Encryption
	v.segment.sector = s.Sector
	if v.segment.tweak, err = strconv.ParseUint(s.Tweak, 10, 64); err != nil {
		return fmt.Errorf("its content begins with the tweak %q", s.Tweak)
	}
	if v.segment.offset, err = strconv.ParseInt(s.Offset, 10, 64); err != nil {
		return fmt.Errorf("its content is at %q", s.Offset)
	}
	v.segment.length = v.size - v.segment.offset
	if s.Size != "dynamic" {
		if v.segment.length, err = strconv.ParseInt(s.Size, 10, 64); err != nil {
			return fmt.Errorf("its content has %q bytes", s.Size)
		}
	}
	switch {
	case len(m.Segments) > 1:
		v.refused = fmt.Errorf("%w: it was being encrypted anew when the point was taken", ErrElsewhere)
	case s.Type != "crypt":
		v.refused = fmt.Errorf("%w: its content is of type %s", ErrElsewhere, s.Type)
	case s.Integrity != nil:
		v.refused = fmt.Errorf("%w: it is protected against change as well", ErrElsewhere)
	}
	return nil
}
