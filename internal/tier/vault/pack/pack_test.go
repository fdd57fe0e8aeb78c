package pack

import (
	"bytes"
	"errors"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

func some(t testing.TB) (*seal.Keys, ID, []byte) {
	t.Helper()
	keys, err := seal.NewKeys("6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11", backstay.NewSecret(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	id := NewID()
	b, err := NewBuilder(keys, id, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		plain := bytes.Repeat([]byte{byte(i + 1)}, 4096*(i+1))
		encoded, err := chunk.Encode(nil, plain)
		if err != nil {
			t.Fatal(err)
		}
		b.Add(chunk.Data, keys.Name(chunk.Data, plain), len(plain), encoded)
	}
	return keys, id, b.Finish()
}

func TestPackCanBeCheckedWithoutAKey(t *testing.T) {
	keys, id, data := some(t)
	d, err := Verify(keys, id, data)
	if err != nil || len(d.Entries) != 5 {
		t.Fatalf("%+v %v", d, err)
	}
	for at := range data {
		bad := bytes.Clone(data)
		bad[at] ^= 1
		if Check(bad) == nil {
			t.Errorf("byte %d of %d is not covered", at, len(data))
		}
	}
}

func TestPackNeverExceedsItsTarget(t *testing.T) {
	keys, _, _ := some(t)
	b, err := NewBuilder(keys, NewID(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for b.Fits(3000) {
		b.Add(chunk.Data, chunk.Name{}, 3000, make([]byte, 3000))
	}
	if n := len(b.Finish()); n > Target || n < Target-4000 {
		t.Errorf("%d bytes", n)
	}
}

func FuzzCheck(f *testing.F) {
	keys, id, data := some(f)
	f.Add(data)
	f.Add(data[:len(data)-1])
	f.Add(make([]byte, 200))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = Check(data)
		_, _ = Verify(keys, id, data)
	})
}

// TestChunkUnderAWrongNameIsFound is what sealing alone cannot find: content
// that was changed between its naming and its sealing.
func TestChunkUnderAWrongNameIsFound(t *testing.T) {
	keys, _, _ := some(t)
	b, err := NewBuilder(keys, NewID(), 1)
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte{7}, 4096)
	name := keys.Name(chunk.Data, plain)
	plain[100] ^= 1
	encoded, err := chunk.Encode(nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	b.Add(chunk.Data, name, len(plain), encoded)
	if _, err := Verify(keys, b.ID(), b.Finish()); !errors.Is(err, seal.ErrWrong) {
		t.Errorf("verify: %v", err)
	}
}

func TestSizeOfAPackFollowsFromItsChunks(t *testing.T) {
	keys, id, data := some(t)
	d, err := Parse(keys, id, data)
	if err != nil {
		t.Fatal(err)
	}
	var sealed int64
	for _, e := range d.Entries {
		sealed += int64(e.Sealed)
	}
	if got := SizeOf(len(d.Entries), sealed); got != int64(len(data)) {
		t.Errorf("%d bytes, and it has %d", got, len(data))
	}
}

func TestAShortAnswerSaysNothingOfAPack(t *testing.T) {
	keys, id, data := some(t)
	for nth := range 3 {
		for _, keep := range []int64{0, 1, 20} {
			n := 0
			_, err := ReadDirectory(keys, id, int64(len(data)), func(offset, length int64) ([]byte, error) {
				if n++; n == nth+1 {
					length = keep
				}
				return data[offset:][:length], nil
			})
			if err == nil || errors.Is(err, seal.ErrWrong) {
				t.Errorf("answer %d has %d bytes: %v", nth+1, keep, err)
			}
		}
	}
}
