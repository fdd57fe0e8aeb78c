package pack

import (
	"bytes"
	"encoding/binary"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// FuzzFrame reads packs whose directory has the hash that it says, as whoever
// has no key can make them: they may pass the check without keys, but with the
// keys only the directory that was sealed comes back.
func FuzzFrame(f *testing.F) {
	keys, err := seal.NewKeys("6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11", backstay.NewSecret(make([]byte, seal.MasterSize)))
	if err != nil {
		f.Fatal(err)
	}
	id := ID{1}
	b, err := NewBuilder(keys, id, 1)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		encoded, err := chunk.Encode(nil, bytes.Repeat([]byte{byte(i)}, chunk.Unit))
		if err != nil {
			f.Fatal(err)
		}
		b.Add(chunk.Data, chunk.Name{byte(i)}, chunk.Unit, encoded)
	}
	whole := b.Finish()
	f.Add(whole)
	f.Add(whole[:seal.HeadSize+footerSize+seal.Overhead])
	f.Fuzz(func(t *testing.T, data []byte) {
		data = rehashed(bytes.Clone(data))
		if Check(data) == nil && len(data) < seal.HeadSize+footerSize {
			t.Error("a pack without a frame passes")
		}
		d, err := Parse(keys, id, data)
		if err != nil {
			return
		}
		if len(d.Entries) != 3 || int(d.Size) != len(data) || d.Epoch != 1 {
			t.Errorf("a directory that was never sealed is accepted: %+v", d)
		}
		if _, err := Verify(keys, id, data); err == nil {
			t.Error("chunks are accepted that do not have their names")
		}
	})
}

// rehashed gives a pack the hash over its directory that it should have.
func rehashed(data []byte) []byte {
	if len(data) < seal.HeadSize+footerSize {
		return data
	}
	footer := data[len(data)-footerSize:]
	if at := int(binary.BigEndian.Uint32(footer)); at <= len(data)-footerSize {
		hash := seal.Hash(data[:seal.HeadSize], data[at:len(data)-footerSize], footer[:16])
		copy(footer[16:], hash[:])
	}
	copy(footer[48:], footerMagic[:])
	return data
}
