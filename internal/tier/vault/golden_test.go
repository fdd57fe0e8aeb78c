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

var makeGolden = flag.Bool("make-golden", false, "write testdata/v2, which is kept for ever, if it is not there")

const (
	goldenFirst  = backstay.PointID("01KAMZ0000000000000000000A")
	goldenSecond = backstay.PointID("01KAMZ0000000000000000000B")
	goldenGone   = backstay.PointID("01KAMZ0000000000000000000C")
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

// TestVaultsOfEveryReleasedFormatRestore is I14: the folders in testdata are
// never written again.
func TestVaultsOfEveryReleasedFormatRestore(t *testing.T) {
	for _, g := range []struct {
		version string
		packs   int // that the second point needs
		epochs  uint32
	}{{"v1", 2, 1}, {"v2", 2, 2}} {
		t.Run(g.version, func(t *testing.T) {
			dir, err := filepath.Abs("testdata/" + g.version)
			if err != nil {
				t.Fatal(err)
			}
			keyFile := dir + "-recovery-key.txt"
			w := &world{t: t, ctx: t.Context(), store: file.New(dir)}
			if *makeGolden && g.version == "v2" {
				makeV2(w, dir, keyFile)
			}
			key, err := os.ReadFile(keyFile)
			w.must(err)
			id, keyset, err := vault.Unwrap(w.ctx, w.store, backstay.NewSecret(key))
			w.must(err)
			v, err := vault.Open(w.ctx, w.store, id, keyset)
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
			if len(headers) != 2 || !headers[1].Time.Equal(created) || len(headers[1].Packs) != g.packs || headers[1].Epoch&0xffffff != g.epochs {
				t.Errorf("points: %+v", headers)
			}
			w.must(w.store.List(w.ctx, "", func(i blob.Info) error {
				data, err := w.store.Get(w.ctx, i.Name, 0, -1)
				w.must(err)
				return vault.CheckObject(id, keyset, i.Name, data)
			}))
		})
	}
}

// makeV2 makes a vault with everything that format 2 has: two epochs of keys, a
// change map, a dropped point, and a list of packs that are to go.
func makeV2(w *world, dir, keyFile string) {
	w.t.Helper()
	if _, err := os.Stat(keyFile); err == nil {
		return
	}
	w.must(file.Init(dir))
	identity, recipient, err := vault.NewIdentity()
	w.must(err)
	w.must(os.WriteFile(keyFile, append(identity.Reveal(), '\n'), 0o600))
	w.master, err = vault.Create(w.ctx, w.store, vault.CreateOptions{ID: vaultID, Name: "golden", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created})
	w.must(err)
	w.vault = w.open(w.store)
	w.backup(vault.WriteOptions{Point: goldenFirst}, source{target: "vda", disk: &disk{data: goldenDisk(1)}})
	w.master, _, err = w.vault.Rotate(w.ctx, vault.RotateOptions{Now: created})
	w.must(err)
	w.vault = w.open(w.store)
	changed := []backstay.Range{{Offset: 700_000, Length: 9000}, {Offset: 8192, Length: 8192}}
	w.backup(vault.WriteOptions{Point: goldenSecond, Parent: goldenFirst}, source{target: "vda", disk: &disk{data: goldenDisk(2)}, changed: changed, mapped: true})
	w.backup(vault.WriteOptions{Point: goldenGone}, source{target: "vda", disk: &disk{data: sparse(9, 1<<20)}})
	w.must(w.vault.DropPoint(w.ctx, goldenGone, created))
	r := w.vault.Reclaim(vault.ReclaimOptions{Now: created, NoRepack: true})
	_, err = r.Plan(w.ctx)
	w.must(err)
	condemned, err := r.Condemn(w.ctx)
	w.must(err)
	if condemned.Objects == 0 {
		w.t.Fatal("nothing was condemned")
	}
}
