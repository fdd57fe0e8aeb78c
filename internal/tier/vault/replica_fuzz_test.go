package vault_test

import (
	"slices"
	"testing"

	"lukechampine.com/blake3"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/tier/vault"
)

// FuzzIncoming: whatever bytes come under whatever name, nothing panics, and what is
// taken in is what its name says: it is read back as it came.
func FuzzIncoming(f *testing.F) {
	w := newWorld(f)
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: sparse(3, 64<<10)}})
	for _, name := range w.objects("") {
		data := w.get(0, name)
		f.Add(name, data, uint16(0), byte(0))
		f.Add(name, data, uint16(len(data)/2), byte(1))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte, at uint16, flip byte) {
		if len(data) > 32 && flip != 0 { // the checksum behind most objects is made right again
			data = slices.Clone(data)
			data[int(at)%(len(data)-32)] ^= flip
			sum := blake3.Sum256(data[:len(data)-32])
			copy(data[len(data)-32:], sum[:])
		}
		r, err := vault.NewReplica(mem.New(), vaultID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Put(t.Context(), offered(name, data), data); err == nil {
			got, err := r.Get(t.Context(), name)
			if err != nil || !slices.Equal(got, data) {
				t.Fatalf("%q was taken in and reads otherwise: %v", name, err)
			}
		} else if !backstay.IsCode(err, backstay.CodeReplicaRefused) {
			t.Fatalf("%q: %v", name, err)
		}
		if _, _, err := r.Complete(t.Context(), id, data); err != nil && !backstay.IsCode(err, backstay.CodeReplicaRefused) {
			t.Fatalf("complete: %v", err)
		}
	})
}
