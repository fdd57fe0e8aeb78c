package chunk

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestContentSurvivesItsPackedForm(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	random := make([]byte, MaxData)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for name, plain := range map[string][]byte{"random": random, "text": bytes.Repeat([]byte("backstay "), 10000), "one": {1}, "empty": {}} {
		packed, err := Encode([]byte("before"), plain)
		if err != nil {
			t.Fatal(err)
		}
		packed = packed[len("before"):]
		if len(packed) > len(plain)+Overhead+16 {
			t.Errorf("%s grew from %d to %d", name, len(plain), len(packed))
		}
		got, err := Decode(nil, packed, len(plain))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %v", name, err)
		}
		for _, wrong := range []int{len(plain) + 1, len(plain) - 1} {
			if wrong < 0 {
				continue
			}
			if _, err := Decode(nil, packed, wrong); err == nil {
				t.Errorf("%s: %d bytes pass for %d", name, len(plain), wrong)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	packed, err := Encode(nil, bytes.Repeat([]byte("backstay "), 1000))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed, 9000)
	f.Add([]byte{0}, 0)
	f.Add([]byte{1, 0x28, 0xb5, 0x2f, 0xfd, 0xff}, 100)
	f.Fuzz(func(t *testing.T, data []byte, length int) {
		if length < 0 || length > MaxTable {
			return
		}
		if got, err := Decode(nil, data, length); err == nil && len(got) != length {
			t.Errorf("%d bytes, want %d", len(got), length)
		}
	})
}
