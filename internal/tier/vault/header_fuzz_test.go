package vault

import (
	"bytes"
	"os"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// Whatever a storage unit gives for a header is refused or has one form, and
// only with the vault's own MAC it is used.
func FuzzHeader(f *testing.F) {
	v1, err := os.ReadFile("testdata/v1/vault.json")
	if err != nil {
		f.Fatal(err)
	}
	const id = "6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11"
	keys, err := seal.NewKeys(id, backstay.NewSecret(make([]byte, seal.MasterSize)))
	if err != nil {
		f.Fatal(err)
	}
	mine, err := encodeHeader(keys, header{Format: formatName, Version: headerVersion, ID: id, Name: "main", Epoch: 1, Generation: 3, Previous: "ab",
		Recipients: []recipient{{Recipient: "age1x", Object: "keys/ab.age", Kind: backstay.KindX25519, Purpose: backstay.ForRecovery, ID: "ab"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("vault.json", v1)
	f.Add("headers/00000003.json", mine.data)
	f.Add("headers/00000003.json", bytes.ReplaceAll(mine.data, []byte("keys/ab.age"), []byte("k")))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		h, err := parseHeader(name, data)
		if err != nil {
			return
		}
		if headerName(h.Generation) != name {
			t.Errorf("header of generation %d is taken as %s", h.Generation, name)
		}
		if h.authenticate(keys) == nil && !bytes.Equal(data, mine.data) {
			t.Error("another header is authentic")
		}
		publicRecipients(h.header)
	})
}
