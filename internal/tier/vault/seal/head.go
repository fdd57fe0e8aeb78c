package seal

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Type is the type of a binary object.
type Type [4]byte

// The types of object.
var (
	Pack     = Type{'P', 'A', 'C', 'K'}
	Index    = Type{'I', 'N', 'D', 'X'}
	Manifest = Type{'P', 'O', 'N', 'T'}
	Files    = Type{'F', 'I', 'L', 'E'} // of the list of a VM's files
)

// Version is the version of every format in this release.
const Version = 1

// HeadSize is the length of an encoded head, in bytes.
const HeadSize = 64

// epochAt is where the epoch field is in a head.
const epochAt = 48

var magic = [8]byte{'B', 'A', 'C', 'K', 'S', 'T', 'A', 'Y'}

// Head is what every binary object starts with.
type Head struct {
	Type  Type
	Vault [16]byte
	ID    [16]byte
	// Epoch is that of the data key in the low 24 bits, and the cipher above.
	Epoch uint32
}

// Head returns the head of an object of this vault.
func (k *Keys) Head(t Type, id [16]byte, epoch uint32) Head {
	return Head{Type: t, Vault: k.vault, ID: id, Epoch: epoch}
}

// Encode appends the head's 64 bytes.
func (h Head) Encode(dst []byte) []byte {
	dst = append(append(dst, magic[:]...), h.Type[:]...)
	dst = binary.BigEndian.AppendUint32(dst, Version)
	dst = append(append(dst, h.Vault[:]...), h.ID[:]...)
	dst = binary.BigEndian.AppendUint32(dst, h.Epoch)
	return append(dst, make([]byte, 12)...)
}

// CheckHead parses the head at the start of data and demands that it is of this
// vault, type and id, and of an epoch that the keys have (else ErrNewerKey).
func (k *Keys) CheckHead(data []byte, t Type, id [16]byte) (Head, error) {
	h, err := ParseHead(data)
	switch {
	case err != nil:
		return h, err
	case h.Vault != k.vault:
		return h, fmt.Errorf("object of another vault: %w", ErrWrong)
	case h.Type != t:
		return h, fmt.Errorf("object of type %q, want %q: %w", h.Type[:], t[:], ErrWrong)
	case h.ID != id:
		return h, fmt.Errorf("object with the id of another: %w", ErrWrong)
	}
	_, err = k.sealing(h.Epoch)
	return h, err
}

// ParseHead parses the head at the start of data.
func ParseHead(data []byte) (Head, error) {
	var h Head
	if len(data) < HeadSize || !bytes.Equal(data[:8], magic[:]) {
		return h, fmt.Errorf("not an object of a vault: %w", ErrWrong)
	}
	copy(h.Type[:], data[8:])
	if v := binary.BigEndian.Uint32(data[12:]); v != Version {
		return h, fmt.Errorf("format version %d, this release reads %d: %w", v, Version, ErrWrong)
	}
	copy(h.Vault[:], data[16:])
	copy(h.ID[:], data[32:])
	h.Epoch = binary.BigEndian.Uint32(data[epochAt:])
	if !bytes.Equal(data[52:HeadSize], make([]byte, 12)) {
		return h, fmt.Errorf("reserved bytes are set: %w", ErrWrong)
	}
	return h, nil
}
