// Package pack is the object that holds many sealed chunks: written once, never
// changed (I1), and self-describing. Its directory carries a hash of every sealed
// chunk in the clear, so that a copy can be checked without any key; the chunks'
// names are sealed.
//
// It puts and gets nothing: it turns chunks into the bytes of a pack and back.
package pack

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"sync"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// Target is the size that no pack exceeds, in bytes.
const Target = 16 << 20

const (
	clearEntry = 40 // offset, sealed length, hash
	nameEntry  = 37 // kind, plain length, name
	footerSize = 64
	// namesCounter seals the names; chunks count from 0.
	namesCounter = math.MaxUint64
	// First is the offset of the first chunk.
	First = seal.HeadSize
)

var footerMagic = [16]byte{'B', 'A', 'C', 'K', 'S', 'T', 'A', 'Y', ' ', 'P', 'A', 'C', 'K', 'E', 'N', 'D'}

// ID names a pack: 128 random bits.
type ID [16]byte

// NewID returns a fresh id.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return id
}

// ParseID reads an id in its hex form.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != s {
		return id, fmt.Errorf("pack id %q: want 32 lower-case hex digits", s)
	}
	copy(id[:], b)
	return id, nil
}

// String returns the id in hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Object returns the name of the pack's object.
func (id ID) Object() string { return "packs/" + id.String()[:2] + "/" + id.String() }

// Entry describes one chunk of a pack.
type Entry struct {
	Kind    chunk.Kind
	Name    chunk.Name
	Ordinal uint32 // place in the pack, from 0
	Offset  uint32 // of the sealed chunk in the pack, in bytes
	Sealed  uint32 // length, in bytes
	Plain   uint32 // length, in bytes
}

// Directory describes a whole pack.
type Directory struct {
	ID      ID
	Epoch   uint32
	Size    uint32 // of the pack, in bytes
	Entries []Entry
}

// bound is the data to which a sealed chunk is bound beside its key, which
// holds vault and pack: its kind, place and name.
func bound(e Entry) []byte {
	b := append(make([]byte, 0, 64), "backstay chunk"...)
	b = append(b, byte(e.Kind))
	b = binary.BigEndian.AppendUint32(b, e.Ordinal)
	return append(b, e.Name[:]...)
}

// Builder gathers chunks into the bytes of a pack. It is not for concurrent use.
type Builder struct {
	id    ID
	head  seal.Head
	box   *seal.Box
	data  []byte
	clear []byte
	names []byte
}

// NewBuilder starts a pack.
func NewBuilder(keys *seal.Keys, id ID, epoch uint32) (*Builder, error) {
	head := keys.Head(seal.Pack, id, epoch)
	box, err := keys.Box(head, nil)
	if err != nil {
		return nil, err
	}
	data := *spare.Get().(*[]byte)
	return &Builder{id: id, head: head, box: box, data: head.Encode(data[:0])}, nil
}

// spare keeps the memory of packs that were put, at most one Target each.
var spare = sync.Pool{New: func() any {
	b := make([]byte, 0, Target)
	return &b
}}

// Recycle takes back the bytes of a finished pack when nobody uses them any more.
func Recycle(data []byte) { spare.Put(&data) }

// ID returns the pack's id.
func (b *Builder) ID() ID { return b.id }

// Len returns how many chunks the pack holds.
func (b *Builder) Len() int { return len(b.clear) / clearEntry }

// Fits tells whether one more chunk with this many encoded bytes can be added.
func (b *Builder) Fits(encoded int) bool {
	return len(b.data)+len(b.clear)+len(b.names)+encoded+2*seal.Overhead+clearEntry+nameEntry+footerSize <= Target
}

// Add seals an encoded chunk into the pack. The caller asked Fits.
func (b *Builder) Add(kind chunk.Kind, name chunk.Name, plain int, encoded []byte) Entry {
	e := Entry{Kind: kind, Name: name, Ordinal: uint32(b.Len()), Offset: uint32(len(b.data)), Plain: uint32(plain)}
	b.data = b.box.Seal(b.data, uint64(e.Ordinal), encoded, bound(e))
	sealed := b.data[e.Offset:]
	e.Sealed = uint32(len(sealed))
	hash := seal.Hash(sealed)
	b.clear = binary.BigEndian.AppendUint32(b.clear, e.Offset)
	b.clear = binary.BigEndian.AppendUint32(b.clear, e.Sealed)
	b.clear = append(b.clear, hash[:]...)
	b.names = append(b.names, byte(kind))
	b.names = binary.BigEndian.AppendUint32(b.names, e.Plain)
	b.names = append(b.names, name[:]...)
	return e
}

// Finish returns the bytes of the pack. The builder must not be used after it.
func (b *Builder) Finish() []byte {
	head := b.head.Encode(nil)
	at, count := len(b.data), b.Len()
	sealedNames := b.box.Seal(nil, namesCounter, b.names, append(head, b.clear...))
	out := append(append(b.data, b.clear...), sealedNames...)
	var lengths []byte
	for _, n := range []int{at, count, len(sealedNames), 0} {
		lengths = binary.BigEndian.AppendUint32(lengths, uint32(n))
	}
	hash := seal.Hash(b.head.Encode(nil), b.clear, sealedNames, lengths)
	out = append(append(out, lengths...), hash[:]...)
	return append(out, footerMagic[:]...)
}

// Open authenticates one sealed chunk and returns its content, whose name was
// computed anew. buf is used for the content if it is large enough.
func Open(keys *seal.Keys, box *seal.Box, e Entry, buf, sealed []byte) ([]byte, error) {
	if int(e.Plain) > e.Kind.Max() {
		return nil, fmt.Errorf("chunk %s says to hold %d bytes: %w", e.Name, e.Plain, seal.ErrWrong)
	}
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	encoded, err := box.Open((*scratch)[:0], uint64(e.Ordinal), sealed, bound(e))
	*scratch = encoded[:0]
	if err != nil {
		return nil, fmt.Errorf("open chunk %s: %w", e.Name, err)
	}
	plain, err := chunk.Decode(buf, encoded, int(e.Plain))
	if err != nil {
		return nil, fmt.Errorf("open chunk %s: %w: %w", e.Name, seal.ErrWrong, err)
	}
	if keys.Name(e.Kind, plain) != e.Name {
		return nil, fmt.Errorf("open chunk %s: content has another name: %w", e.Name, seal.ErrWrong)
	}
	return plain, nil
}

// scratches are what chunks are decrypted into before they are decoded.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// Box returns the box of a pack's chunks.
func Box(keys *seal.Keys, id ID, epoch uint32) (*seal.Box, error) {
	return keys.Box(keys.Head(seal.Pack, id, epoch), nil)
}
