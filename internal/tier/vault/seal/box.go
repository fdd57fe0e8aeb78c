package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"
)

// Box seals and opens the parts of one object: each part with its own counter.
// A Box may be used concurrently.
type Box struct{ aead cipher.AEAD }

// Box returns the box of the object with this head. salt makes the key of an
// object that may be written twice under one name differ; it may be nil.
func (k *Keys) Box(h Head, salt []byte) (*Box, error) {
	e, err := k.sealing(h.Epoch)
	if err != nil {
		return nil, err
	}
	secret := e.data
	if h.Type == Manifest {
		secret = e.manifest
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

// preferredCipher is that of new objects: without AES in the CPU, GCM is several
// times slower than ChaCha20, and not in constant time.
func preferredCipher() uint32 {
	switch {
	case cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41,
		cpu.ARM64.HasAES && cpu.ARM64.HasPMULL,
		cpu.S390X.HasAES && cpu.S390X.HasAESGCM,
		cpu.PPC64.IsPOWER8:
		return AES256GCM
	default:
		return XChaCha20Poly1305
	}
}

// WithCipher returns the same keys that seal new objects with this cipher,
// whatever the CPU has.
func (k *Keys) WithCipher(cipher uint32) *Keys {
	other := *k
	other.cipher = cipher
	return &other
}

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
