package point

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const fuzzedPoint backstay.PointID = "01KAMZ0000000000000000000A"

func fuzzKeys(f *testing.F) *seal.Keys {
	f.Helper()
	keys, err := seal.NewKeys("6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11", backstay.NewSecret(make([]byte, seal.MasterSize)))
	if err != nil {
		f.Fatal(err)
	}
	return keys
}

func fuzzBody() Body {
	return Body{
		Facts:      backstay.RecoveryPoint{ID: fuzzedPoint},
		Definition: json.RawMessage(`{}`),
		Disks:      []Disk{{Target: "vda", Size: chunk.Unit, PageBytes: PageBytes, Pages: make([]byte, len(chunk.Name{}))}},
	}
}

// FuzzManifest: of all that a storage unit may give only what was sealed is
// accepted, also where the hash for readers without a key is right.
func FuzzManifest(f *testing.F) {
	keys := fuzzKeys(f)
	id, err := ParseID(fuzzedPoint)
	if err != nil {
		f.Fatal(err)
	}
	vault := keys.Head(seal.Manifest, id, 1).Vault
	body, err := json.Marshal(fuzzBody())
	if err != nil {
		f.Fatal(err)
	}
	data, err := sealed(keys, body)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-1])
	f.Add(data[:clearFixed+3*hashSize])
	f.Fuzz(func(t *testing.T, got []byte) {
		if len(got) >= hashSize {
			got = bytes.Clone(got)
			sum := seal.Hash(got[:len(got)-hashSize])
			copy(got[len(got)-hashSize:], sum[:])
		}
		_, _ = ClearPacks(vault, fuzzedPoint, got)
		if _, err := DecodeHeader(keys, fuzzedPoint, got); err == nil && !bytes.Equal(got[:min(len(got), clearFixed)], data[:clearFixed]) {
			t.Error("a header that was never sealed is accepted")
		}
		if _, _, err := Decode(keys, fuzzedPoint, got); err == nil && !bytes.Equal(got, data) {
			t.Error("a manifest that was never sealed is accepted")
		}
	})
}

// FuzzBody: behind the seal, whoever has the keys may have written anything. It
// is refused by name, or its disks are such as can be read.
func FuzzBody(f *testing.F) {
	keys := fuzzKeys(f)
	body, err := json.Marshal(fuzzBody())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"facts":{"id":"` + string(fuzzedPoint) + `"},"disks":[{"size":-1,"pageBytes":0},{"size":9223372036854775807,"pageBytes":1048576}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		data, err := sealed(keys, plain)
		if err != nil {
			t.Fatal(err)
		}
		_, got, err := Decode(keys, fuzzedPoint, data)
		if err != nil {
			if !errors.Is(err, ErrBad) && !errors.Is(err, seal.ErrWrong) {
				t.Fatalf("refused without a name: %v", err)
			}
			return
		}
		for i := range got.Disks {
			d := &got.Disks[i]
			if n := d.PageCount(); n < 0 || n*len(chunk.Name{}) != len(d.Pages) || int64(n) < d.Size/d.PageBytes {
				t.Errorf("disk of %d bytes has %d pages of %d", d.Size, n, d.PageBytes)
			}
		}
	})
}

// sealed returns a manifest with this plain body, the same at each call: its salt
// is all zeros, as those of real ones never are.
func sealed(keys *seal.Keys, plain []byte) ([]byte, error) {
	// Another manifest gives what else is in the clear.
	empty, _, err := Encode(keys, fuzzedPoint, Header{Epoch: 1, Time: time.Unix(1, 0), Packs: []pack.ID{{1}, {2}}}, Body{})
	if err != nil {
		return nil, err
	}
	encoded, err := chunk.Encode(nil, plain)
	if err != nil {
		return nil, err
	}
	id, err := ParseID(fuzzedPoint)
	if err != nil {
		return nil, err
	}
	head := keys.Head(seal.Manifest, id, 1)
	clear := slices.Clone(empty[:clearFixed+2*len(pack.ID{})])
	root := keys.Root(id, plain)
	rest := clear[seal.HeadSize:]
	copy(rest[48:], root[:])
	copy(rest[80:96], make([]byte, 16))
	put32(rest[96:], len(plain))
	put32(rest[100:], len(encoded)+seal.Overhead)
	mac := keys.ManifestMAC(clear)
	clear = append(clear, mac[:]...)
	box, err := keys.Box(head, rest[80:96])
	if err != nil {
		return nil, err
	}
	out := box.Seal(clear, 0, encoded, slices.Clone(clear))
	sum := seal.Hash(out)
	return append(out, sum[:]...), nil
}

func put32(b []byte, n int) {
	b[0], b[1], b[2], b[3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
}
