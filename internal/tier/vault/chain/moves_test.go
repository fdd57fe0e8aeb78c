package chain

import (
	"reflect"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

func testMoves() []Moves {
	m := Moves{
		Points: [][16]byte{{2}, {1}},
		Packs:  []MovedPack{{From: pack.ID{9}, To: []pack.ID{{4}, {3}, {4}}}, {From: pack.ID{7}}},
	}
	SortMoves(&m)
	return []Moves{m, {Points: [][16]byte{{5}}, Packs: []MovedPack{}}}
}

func plainMAC(b []byte) [32]byte { return seal.Hash([]byte("mac"), b) }

func TestMovesComeBackAsTheyWereWritten(t *testing.T) {
	id, vault := ulid.Make(), [16]byte{1}
	data, hash := EncodeMoves(plainMAC, vault, id, testMoves())
	if hash != seal.Hash(data) {
		t.Error("the hash is not that of the bytes")
	}
	got, err := DecodeMoves(plainMAC, vault, id, data)
	if err != nil || !reflect.DeepEqual(got, testMoves()) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := DecodeMoves(plainMAC, vault, ulid.Make(), data); err == nil {
		t.Error("a list under the name of another is accepted")
	}
	if _, err := DecodeMoves(plainMAC, [16]byte{2}, id, data); err == nil {
		t.Error("another vault's list is accepted")
	}
}

func TestAnyFlippedBitOfAListOfMovesIsDetected(t *testing.T) {
	id, vault := ulid.Make(), [16]byte{1}
	data, _ := EncodeMoves(plainMAC, vault, id, testMoves())
	for i := range data {
		bad := slices.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if _, err := DecodeMoves(plainMAC, vault, id, bad); err == nil {
			t.Errorf("byte %d", i)
		}
		if _, err := DecodeMoves(plainMAC, vault, id, data[:i]); err == nil {
			t.Errorf("cut to %d bytes", i)
		}
	}
}

// FuzzDecodeMoves has no key that matters: what the reader must survive is what
// lies behind an honest MAC.
func FuzzDecodeMoves(f *testing.F) {
	id, vault := ulid.Make(), [16]byte{1}
	data, _ := EncodeMoves(plainMAC, vault, id, testMoves())
	f.Add(data[seal.HeadSize : len(data)-64])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		out := append(seal.Head{Type: movesType, Vault: vault, ID: id}.Encode(nil), body...)
		sum := plainMAC(out)
		out = append(out, sum[:]...)
		sum = seal.Hash(out)
		out = append(out, sum[:]...)
		moves, err := DecodeMoves(plainMAC, vault, id, out)
		if err != nil {
			return
		}
		if again, _ := EncodeMoves(plainMAC, vault, id, moves); !slices.Equal(again, out) {
			t.Error("a second form of one list is accepted")
		}
	})
}
