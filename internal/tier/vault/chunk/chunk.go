// Package chunk is the lowest rung of the vault's ladder: a piece of content,
// the name that follows from it, and the form in which it is packed.
//
// It knows no keys and no places: names are made by package seal, because they
// are keyed, and places are the business of packs.
package chunk

import (
	"encoding/hex"
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Name is the name of a chunk: the keyed BLAKE3-256 of its plain content and
// its kind. The zero Name stands for content that is all zeros.
type Name [32]byte

// String returns the name in hex.
func (n Name) String() string { return hex.EncodeToString(n[:]) }

// IsZero tells whether the name stands for zeros.
func (n Name) IsZero() bool { return n == Name{} }

// Kind is what a chunk holds. Kinds have separate names: the same bytes as data
// and as a table are two chunks.
type Kind byte

// The kinds of chunk.
const (
	Data  Kind = 1 // disk content
	Table Kind = 2 // a table page
)

const (
	// Unit is the step in which content is addressed, in bytes.
	Unit = 4096
	// MaxData is the largest plain length of a data chunk, in bytes.
	MaxData = 2 << 20
	// MaxTable is the largest plain length of a table chunk, in bytes.
	MaxTable = 4 << 20
)

// Max returns the largest plain length of a kind, in bytes; 0 for no kind.
func (k Kind) Max() int {
	switch k {
	case Data:
		return MaxData
	case Table:
		return MaxTable
	default:
		return 0
	}
}

// The forms of packed content: its first byte.
const (
	formPlain = 0
	formZstd  = 1
)

// Overhead is by how much Encode can enlarge content, in bytes.
const Overhead = 1

var coders = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(MaxData), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
})

var decoders = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderLowmem(true))
})

// Encode appends the packed form of content to dst: compressed with zstd at its
// fastest level, or as it is where that saves less than one part in 32. (The
// encoder itself gives up early on what does not compress.)
func Encode(dst, plain []byte) ([]byte, error) {
	enc, err := coders()
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	start := len(dst)
	dst = append(dst, formZstd)
	dst = enc.EncodeAll(plain, dst)
	if len(dst)-start-1 > len(plain)-len(plain)/32 {
		dst = append(append(dst[:start], formPlain), plain...)
	}
	return dst, nil
}

// Decode returns the content of a packed form, which must be of exactly the
// given length. Memory is bounded by that length, whatever the input says. buf is
// used for the content if it is large enough.
func Decode(buf, packed []byte, length int) ([]byte, error) {
	if len(packed) == 0 {
		return nil, fmt.Errorf("decode chunk: empty")
	}
	form, body := packed[0], packed[1:]
	if cap(buf) < length {
		buf = make([]byte, 0, length)
	}
	switch form {
	case formPlain:
		if len(body) != length {
			return nil, fmt.Errorf("decode chunk: %d bytes, want %d", len(body), length)
		}
		return append(buf[:0], body...), nil
	case formZstd:
		dec, err := decoders()
		if err != nil {
			return nil, fmt.Errorf("make zstd decoder: %w", err)
		}
		plain, err := dec.DecodeAll(body, buf[:0:length])
		if err != nil {
			return nil, fmt.Errorf("decode chunk: %w", err)
		}
		if len(plain) != length {
			return nil, fmt.Errorf("decode chunk: %d bytes, want %d", len(plain), length)
		}
		return plain, nil
	default:
		return nil, fmt.Errorf("decode chunk: unknown form %d", form)
	}
}
