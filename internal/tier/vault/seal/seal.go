// Package seal holds a vault's keys and everything that is done with them:
// naming, sealing, opening, authenticating. All keys follow from one master key;
// no key leaves the package.
//
// It knows no format but the head that every binary object of a vault starts
// with, because the head is what binds an object to its vault, kind and name (I4).
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/crypto/chacha20poly1305"
	"lukechampine.com/blake3"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
)

// ErrWrong: something is not what was sealed for this place.
var ErrWrong = errors.New("cannot be authenticated")

// Overhead is by how much sealing enlarges, in bytes.
const Overhead = 16

// MasterSize is the length of a master key, in bytes.
const MasterSize = 32

// Keys are the keys of one vault.
type Keys struct {
	vault    [16]byte
	header   []byte // authenticates vault.json
	naming   []byte // lives as long as the vault
	data     []byte // from which the data keys of the epochs follow
	manifest []byte
	item     []byte
	root     []byte
}

// NewKeys derives the keys of the vault with this UUID from its master key.
func NewKeys(vaultID string, master backstay.Secret) (*Keys, error) {
	id, err := uuid.Parse(vaultID)
	if err != nil || id.String() != vaultID {
		return nil, fmt.Errorf("vault id %q is not a UUID", vaultID)
	}
	if len(master.Reveal()) != MasterSize {
		return nil, fmt.Errorf("master key has %d bytes, want %d", len(master.Reveal()), MasterSize)
	}
	k := &Keys{vault: id}
	for _, d := range []struct {
		key  *[]byte
		info string
	}{
		{&k.header, "backstay vault 1 header"}, {&k.naming, "backstay vault 1 naming"}, {&k.data, "backstay vault 1 data"},
		{&k.manifest, "backstay vault 1 manifest"}, {&k.item, "backstay vault 1 item"}, {&k.root, "backstay vault 1 root"},
	} {
		if *d.key, err = hkdf.Key(sha256.New, master.Reveal(), id[:], d.info, 32); err != nil {
			return nil, fmt.Errorf("derive key: %w", err)
		}
	}
	return k, nil
}

func keyed(key []byte, parts ...[]byte) [32]byte {
	h := blake3.New(32, key)
	for _, p := range parts {
		h.Write(p)
	}
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// Hash is the keyless BLAKE3-256 of stored bytes: how a copy is checked without keys.
func Hash(parts ...[]byte) [32]byte { return keyed(nil, parts...) }

// Name returns the name of a chunk. The kind is hashed after the content, where
// it does not disturb the content's alignment.
func (k *Keys) Name(kind chunk.Kind, plain []byte) chunk.Name {
	return keyed(k.naming, plain, []byte{byte(kind)})
}

// Item returns the pseudonym of a VM.
func (k *Keys) Item(vm backstay.VMID) [32]byte { return keyed(k.item, []byte(vm)) }

// Root returns the hash over the whole content of a point's manifest.
func (k *Keys) Root(point [16]byte, body []byte) [32]byte {
	return keyed(k.root, k.vault[:], point[:], body)
}

// HeaderMAC authenticates the vault's header.
func (k *Keys) HeaderMAC(header []byte) [32]byte { return keyed(k.header, header) }

// ManifestMAC authenticates the clear part of a manifest.
func (k *Keys) ManifestMAC(clear []byte) [32]byte { return keyed(k.manifest, clear) }

// Equal compares two hashes without telling by its time where they differ.
func Equal(a, b [32]byte) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }

// Box seals and opens the parts of one object: each part with its own counter.
// A Box may be used concurrently.
type Box struct{ aead cipher.AEAD }

// Box returns the box of the object with this head. salt makes the key of an
// object that may be written twice under one name differ; it may be nil.
func (k *Keys) Box(h Head, salt []byte) (*Box, error) {
	secret := k.data
	if h.Type == Manifest {
		secret = k.manifest
	}
	key, err := hkdf.Key(sha256.New, secret, append(h.Encode(nil), salt...), "backstay object 1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive object key: %w", err)
	}
	aead, err := newAEAD(h.Epoch>>CipherShift, key)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	return &Box{aead}, nil
}

// The ciphers: the high byte of a head's epoch field. Everything that carries an
// epoch (directories, places) so carries the cipher with it.
const (
	AES256GCM                = 0
	XChaCha20Poly1305        = 1 // for writers without AES in their CPU
	CipherShift              = 24
	MaxEpoch          uint32 = 1<<CipherShift - 1
)

func newAEAD(c uint32, key []byte) (cipher.AEAD, error) {
	switch c {
	case AES256GCM:
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	case XChaCha20Poly1305:
		return chacha20poly1305.NewX(key)
	default:
		return nil, fmt.Errorf("cipher %d is unknown to this release: %w", c, ErrWrong)
	}
}

// nonce is the counter behind as many zeros as the cipher wants.
func (b *Box) nonce(counter uint64) []byte {
	n := make([]byte, b.aead.NonceSize())
	binary.BigEndian.PutUint64(n[len(n)-8:], counter)
	return n
}

// Seal appends the sealed plain to dst. No counter is used twice in one object.
func (b *Box) Seal(dst []byte, counter uint64, plain, bound []byte) []byte {
	return b.aead.Seal(dst, b.nonce(counter), plain, bound)
}

// Open returns what was sealed with the same counter and bound data, or ErrWrong.
func (b *Box) Open(dst []byte, counter uint64, sealed, bound []byte) ([]byte, error) {
	plain, err := b.aead.Open(dst, b.nonce(counter), sealed, bound)
	if err != nil {
		return nil, ErrWrong
	}
	return plain, nil
}

// Type is the type of a binary object.
type Type [4]byte

// The types of object.
var (
	Pack     = Type{'P', 'A', 'C', 'K'}
	Index    = Type{'I', 'N', 'D', 'X'}
	Manifest = Type{'P', 'O', 'N', 'T'}
)

// Version is the version of every format in this release.
const Version = 1

// HeadSize is the length of an encoded head, in bytes.
const HeadSize = 64

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
// vault, type and id.
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
	return h, nil
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
	h.Epoch = binary.BigEndian.Uint32(data[48:])
	if !bytes.Equal(data[52:HeadSize], make([]byte, 12)) {
		return h, fmt.Errorf("reserved bytes are set: %w", ErrWrong)
	}
	return h, nil
}
