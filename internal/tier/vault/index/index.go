// Package index says which pack may hold a chunk. An index object lists the
// chunks of some packs; the local cache joins all of them, and answers without
// reading the store. An index can always be made again from the packs' own
// directories, and the cache from the index objects, so neither holds anything
// that would be lost with it.
//
// It reads and writes no object of the vault: it turns packs into the bytes of an
// index object and back.
package index

import (
	"encoding/binary"
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	packEntry  = 28 // id, size, epoch, number of chunks
	chunkEntry = 41 // kind, plain length, sealed length, name
	hashSize   = 32
	// MaxChunks is how many chunks one index object lists at most, so that none
	// is larger than a few MiB. A pack is never split over two.
	MaxChunks = 64 << 10
)

// Object returns the name of an index object.
func Object(id ulid.ULID) string { return "indexes/" + id.String() }

// Encode returns the bytes of an index object that lists these packs.
func Encode(keys *seal.Keys, id ulid.ULID, epoch uint32, packs []pack.Directory) ([]byte, error) {
	body := binary.BigEndian.AppendUint32(nil, uint32(len(packs)))
	for _, d := range packs {
		body = append(body, d.ID[:]...)
		body = binary.BigEndian.AppendUint32(body, d.Size)
		body = binary.BigEndian.AppendUint32(body, d.Epoch)
		body = binary.BigEndian.AppendUint32(body, uint32(len(d.Entries)))
	}
	for _, d := range packs {
		for _, e := range d.Entries {
			body = append(body, byte(e.Kind))
			body = binary.BigEndian.AppendUint32(body, e.Plain)
			body = binary.BigEndian.AppendUint32(body, e.Sealed)
			body = append(body, e.Name[:]...)
		}
	}
	head := keys.Head(seal.Index, id, epoch)
	box, err := keys.Box(head, nil)
	if err != nil {
		return nil, err
	}
	bound := head.Encode(nil)
	out := box.Seal(head.Encode(nil), 0, body, bound)
	hash := seal.Hash(out)
	return append(out, hash[:]...), nil
}

// Decode authenticates an index object and returns the packs that it lists.
func Decode(keys *seal.Keys, id ulid.ULID, data []byte) ([]pack.Directory, error) {
	if len(data) < seal.HeadSize+seal.Overhead+4+hashSize {
		return nil, fmt.Errorf("index of %d bytes: %w", len(data), seal.ErrWrong)
	}
	end := len(data) - hashSize
	if !seal.Equal(seal.Hash(data[:end]), [32]byte(data[end:])) {
		return nil, fmt.Errorf("index has another hash than it says: %w", seal.ErrWrong)
	}
	head, err := keys.CheckHead(data, seal.Index, id)
	if err != nil {
		return nil, err
	}
	box, err := keys.Box(head, nil)
	if err != nil {
		return nil, err
	}
	body, err := box.Open(nil, 0, data[seal.HeadSize:end], data[:seal.HeadSize])
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	return decodeBody(body)
}

func decodeBody(body []byte) ([]pack.Directory, error) {
	wrong := func(what string) error { return fmt.Errorf("index: %s: %w", what, seal.ErrWrong) }
	if len(body) < 4 {
		return nil, wrong("too short")
	}
	count, rest := int64(binary.BigEndian.Uint32(body)), body[4:]
	if count*packEntry > int64(len(rest)) {
		return nil, wrong("more packs than bytes")
	}
	packs, chunks := make([]pack.Directory, count), rest[count*packEntry:]
	for i := range packs {
		p := rest[i*packEntry : (i+1)*packEntry]
		d := pack.Directory{ID: pack.ID(p[:16]), Size: binary.BigEndian.Uint32(p[16:]), Epoch: binary.BigEndian.Uint32(p[20:])}
		n := int64(binary.BigEndian.Uint32(p[24:]))
		if n*chunkEntry > int64(len(chunks)) {
			return nil, wrong("more chunks than bytes")
		}
		d.Entries = make([]pack.Entry, n)
		offset := uint32(pack.First)
		for j := range d.Entries {
			c := chunks[j*chunkEntry : (j+1)*chunkEntry]
			e := pack.Entry{Kind: chunk.Kind(c[0]), Ordinal: uint32(j), Offset: offset,
				Plain: binary.BigEndian.Uint32(c[1:]), Sealed: binary.BigEndian.Uint32(c[5:]), Name: chunk.Name(c[9:])}
			if int(e.Plain) > e.Kind.Max() || e.Sealed > d.Size || offset > d.Size-e.Sealed {
				return nil, wrong("a chunk outside its pack")
			}
			offset += e.Sealed
			d.Entries[j] = e
		}
		packs[i], chunks = d, chunks[n*chunkEntry:]
	}
	if len(chunks) != 0 {
		return nil, wrong("bytes behind the last chunk")
	}
	return packs, nil
}
