package index

import (
	"reflect"
	"testing"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

func some(t testing.TB) (*seal.Keys, []pack.Directory) {
	t.Helper()
	keys, err := seal.NewKeys("6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11", backstay.NewSecret(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	var packs []pack.Directory
	for i := range 3 {
		d := pack.Directory{ID: pack.ID{byte(i)}, Epoch: 1, Size: 1 << 20}
		offset := uint32(pack.First)
		for j := range 700 {
			e := pack.Entry{Kind: chunk.Data, Name: keys.Name(chunk.Data, []byte{byte(i), byte(j), byte(j >> 8)}), Ordinal: uint32(j),
				Offset: offset, Sealed: uint32(100 + j), Plain: 4096}
			offset += e.Sealed
			d.Entries = append(d.Entries, e)
		}
		packs = append(packs, d)
	}
	return keys, packs
}

func TestIndexFindsEveryChunkWhereItIs(t *testing.T) {
	keys, packs := some(t)
	id := ulid.Make()
	data, err := Encode(keys, id, 1, packs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(keys, id, data)
	if err != nil || !reflect.DeepEqual(got, packs) {
		t.Fatalf("another index came back: %v", err)
	}
	if _, err := Decode(keys, ulid.Make(), data); err == nil {
		t.Error("an index under the name of another is accepted")
	}
}

func FuzzDecodeBody(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Add(append([]byte{0, 0, 0, 1}, make([]byte, packEntry)...))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = decodeBody(data) })
}
