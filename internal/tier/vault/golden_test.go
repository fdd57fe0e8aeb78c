package vault_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/tier/vault"
)

var makeGolden = flag.Bool("make-golden", false, "write testdata/v1, which is kept for ever, if it is not there")

const (
	goldenFirst  = backstay.PointID("01KAMZ0000000000000000000A")
	goldenSecond = backstay.PointID("01KAMZ0000000000000000000B")
)

// goldenDisk is content that follows from nothing but these lines.
func goldenDisk(version byte) []byte {
	data := make([]byte, 1<<20+5*unit+512)
	x := uint32(1)
	for i := range 300_000 {
		x = x*1664525 + 1013904223
		data[i] = byte(x >> 24)
	}
	copy(data[500_000:], bytes.Repeat([]byte("a golden file is kept for ever. "), 4000))
	copy(data[1<<20:], bytes.Repeat([]byte{0xee}, 5000))
	if version == 2 {
		for i := range 9000 {
			data[700_000+i] = byte(i)
		}
		clear(data[8192:16384])
	}
	return data
}

// TestVaultsOfEveryReleasedFormatRestore is I14: testdata/v1 is never written again.
func TestVaultsOfEveryReleasedFormatRestore(t *testing.T) {
	dir, err := filepath.Abs("testdata/v1")
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(filepath.Dir(dir), "v1-recovery-key.txt")
	w := &world{t: t, ctx: t.Context(), store: file.New(dir)}
	if *makeGolden {
		makeV1(w, dir, keyFile)
	}
	key, err := os.ReadFile(keyFile)
	w.must(err)
	id, master, err := vault.Unwrap(w.ctx, w.store, backstay.NewSecret(key))
	w.must(err)
	v, err := vault.Open(w.ctx, w.store, id, master)
	w.must(err)
	w.restored(v, goldenFirst, "vda", goldenDisk(1))
	w.restored(v, goldenSecond, "vda", goldenDisk(2))
	p, err := v.OpenPoint(w.ctx, goldenSecond)
	w.must(err)
	if !bytes.Equal(p.Definition().NVRAM, definition.NVRAM) || p.Facts().VM.Name != "web01" {
		t.Errorf("%+v %+v", p.Facts(), p.Definition())
	}
	headers, err := v.Points(w.ctx)
	w.must(err)
	if len(headers) != 2 || !headers[1].Time.Equal(created) || len(headers[1].Packs) != 2 {
		t.Errorf("points: %+v", headers)
	}
	w.must(w.store.List(w.ctx, "", func(i blob.Info) error {
		data, err := w.store.Get(w.ctx, i.Name, 0, -1)
		w.must(err)
		return vault.CheckObject(id, master, i.Name, data)
	}))
}

func makeV1(w *world, dir, keyFile string) {
	w.t.Helper()
	w.must(file.Init(dir))
	identity, recipient, err := vault.NewIdentity()
	w.must(err)
	w.must(os.WriteFile(keyFile, append(identity.Reveal(), '\n'), 0o600))
	w.master, err = vault.Create(w.ctx, w.store, vault.CreateOptions{ID: vaultID, Name: "golden", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created})
	w.must(err)
	w.vault = w.open(w.store)
	w.backup(vault.WriteOptions{Point: goldenFirst}, source{target: "vda", disk: &disk{data: goldenDisk(1)}})
	changed := []backstay.Range{{Offset: 700_000, Length: 9000}, {Offset: 8192, Length: 8192}}
	w.backup(vault.WriteOptions{Point: goldenSecond, Parent: goldenFirst}, source{target: "vda", disk: &disk{data: goldenDisk(2)}, changed: changed, mapped: true})
}
