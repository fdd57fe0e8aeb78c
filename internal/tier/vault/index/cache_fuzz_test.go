package index

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/seal"
	"github.com/oklog/ulid/v2"
)

// someRun returns the bytes of a run.
func someRun(f *testing.F, in scope, n int) []byte {
	d := newMemory()
	var all fresh
	for i := range n {
		name := chunkName(i)
		e := entryOf(name[:], uint32(i%7))
		if in.bits > 0 {
			e.hi = in.first().hi | e.hi>>in.bits
		}
		all.add(e)
	}
	w, err := writeRun(d, runID{number: 1}, in, shapeFor(n, 6, in))
	if err == nil {
		err = merge([]source{all.sorted()}, w.add)
	}
	if err == nil {
		_, err = w.finish()
	}
	if err != nil {
		f.Fatal(err)
	}
	return d.files[runID{number: 1}.file()].data
}

// FuzzRun reads a run whose checksums are right and whose content may be
// anything: it is refused, or it can be read to its end and asked anything.
func FuzzRun(f *testing.F) {
	f.Add(someRun(f, scope{}, 0))
	f.Add(someRun(f, scope{}, 10))
	f.Add(someRun(f, scope{bits: 2, value: 3}, 900))
	f.Fuzz(func(t *testing.T, data []byte) {
		id := runID{number: 1}
		d := newMemory()
		d.files[id.file()] = &memFile{data: fixed(slices.Clone(data), id)}
		r, err := openRun(d, id)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("not named as damage: %v", err)
			}
			return
		}
		var all []entry
		err = merge([]source{r.source(r.in)}, func(e entry) error { all = append(all, e); return nil })
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("not named as damage: %v", err)
		}
		for _, e := range append(all[:min(len(all), 8)], entry{}, entry{hi: ^uint64(0), lo: 0xfff}, r.in.first()) {
			if _, err := r.lookup(nil, e); err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatalf("not named as damage: %v", err)
			}
		}
	})
}

// fixed makes the checksums of a run right.
func fixed(b []byte, id runID) []byte {
	blocks := (len(b) - runFoot) / (blockSize + 4)
	if len(b) < runFoot {
		return b
	}
	for i := range blocks {
		block := b[i*blockSize:][:blockSize]
		binary.BigEndian.PutUint32(block, crc32.Update(id.seed(i), castagnoli, block[4:]))
	}
	foot := b[len(b)-runFoot:]
	binary.BigEndian.PutUint32(foot[56:], crc32.Checksum(b[blocks*blockSize:len(b)-runFoot], castagnoli))
	binary.BigEndian.PutUint32(foot[60:], crc32.Checksum(foot[:60], castagnoli))
	return b
}

// FuzzState decodes a state whose checksum is right.
func FuzzState(f *testing.F) {
	s := newState(1)
	s.Base, s.Fresh = []uint64{3, 4}, []uint64{5}
	data, err := s.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:len(data)-10], true)
	f.Add(data, false)
	f.Add([]byte(`{"format":"backstay index cache","version":1,"id":"00000000000000000000000000000000","next":1,"files":1,"packs":-1}`), true)
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		if fix {
			sum := crc32.Checksum(data, castagnoli)
			data = append(slices.Clone(data), '\n')
			data = append(data, hexSum(sum)...)
		}
		d := newMemory()
		d.files[stateFile] = &memFile{data: data}
		c, err := openDisk(d, tiny)
		if err != nil {
			t.Fatalf("a state from anywhere makes the cache unusable: %v", err)
		}
		if name, packs := object(1, span(0, 3)); c.Add(name, packs) != nil || c.Flush() != nil {
			t.Fatal("a state from anywhere makes the cache unusable")
		}
	})
}

func hexSum(sum uint32) []byte {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 9)
	for shift := 28; shift >= 0; shift -= 4 {
		out = append(out, digits[sum>>shift&15])
	}
	return append(out, '\n')
}

// FuzzDecode decodes an index object: only what was sealed comes back.
func FuzzDecode(f *testing.F) {
	keys, err := seal.NewKeys("6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11", backstay.NewSecret(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	id := ulid.ULID{1}
	_, packs := object(1, span(0, 3), nil)
	for i := range packs {
		packs[i].Size = 1 << 20
		offset := uint32(seal.HeadSize)
		for j := range packs[i].Entries {
			e := &packs[i].Entries[j]
			e.Offset, e.Sealed, e.Plain = offset, 100, 4096
			offset += e.Sealed
		}
	}
	data, err := Encode(keys, id, 1, packs)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-1])
	f.Fuzz(func(t *testing.T, got []byte) {
		if _, err := Decode(keys, id, got); err == nil && !slices.Equal(got, data) {
			t.Error("an index that was never sealed is accepted")
		}
		// Behind the seal, anything may be written by whoever has the keys.
		if len(got) > 0 {
			_, _ = decodeBody(got)
		}
	})
}
