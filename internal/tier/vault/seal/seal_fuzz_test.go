package seal

import (
	"bytes"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

// FuzzHead: a head has one form.
func FuzzHead(f *testing.F) {
	f.Add(Head{Type: Pack, Vault: [16]byte{1}, ID: [16]byte{2}, Epoch: 3}.Encode(nil))
	f.Add(make([]byte, HeadSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHead(data)
		if err == nil && !bytes.Equal(h.Encode(nil), data[:HeadSize]) {
			t.Error("a head with two forms is accepted")
		}
	})
}

// FuzzKeyset: whatever was wrapped is refused in words that show nothing of it
// (I10), or gives keys that give the same keyset.
func FuzzKeyset(f *testing.F) {
	const vault = "6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11"
	old, err := NewKeys(vault, backstay.NewSecret(bytes.Repeat([]byte{7}, MasterSize)))
	if err != nil {
		f.Fatal(err)
	}
	next, err := old.Rotated()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(next.Reveal())
	f.Add(bytes.Repeat([]byte{7}, MasterSize))
	f.Add([]byte(`{"vault":"` + vault + `","master":"AAAA","epochs":{"3":"AAAA"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := NewKeys(vault, backstay.NewSecret(data))
		if err != nil {
			if len(data) > 8 && strings.Contains(err.Error(), string(data)) {
				t.Errorf("the error shows the keyset: %v", err)
			}
			return
		}
		secret, err := keys.Keyset()
		if err != nil {
			t.Fatal(err)
		}
		again, err := NewKeys(vault, secret)
		if err != nil {
			t.Fatalf("its own keyset is refused: %v", err)
		}
		if again.Newest() != keys.Newest() || again.HeaderMAC([]byte("x")) != keys.HeaderMAC([]byte("x")) {
			t.Error("its own keyset gives other keys")
		}
	})
}
