package vault_test

import (
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault"
)

// older puts one copy into the state that it had then.
func (w *world) older(n int, then map[string][]byte) {
	w.t.Helper()
	var names []string
	w.must(w.copies[n].List(w.ctx, "", func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	}))
	for _, name := range names {
		if then[name] == nil {
			w.must(w.copies[n].Delete(w.ctx, name))
		}
	}
	for name, data := range then {
		w.copies[n].Replace(name, data)
	}
}

// TestACopyThatWasPutBackIntoAnOlderStateIsMendedFromTheOthers: a storage unit
// that was itself restored from a backup. Nothing is lost by what is done before
// it is repaired, and a repair makes it like the others.
func TestACopyThatWasPutBackIntoAnOlderStateIsMendedFromTheOthers(t *testing.T) {
	for n := range 3 {
		for _, first := range []string{"repair", "reclaim", "backup"} {
			w, k, ids := storied(t, 3)
			then := map[string][]byte{}
			for _, name := range w.objects("") {
				then[name] = w.get(n, name)
			}
			data := sparse(77, 1<<20)
			later := newID()
			w.backup(vault.WriteOptions{Point: later}, source{target: "vda", disk: &disk{data: data}})
			k[later] = data
			w.drop(k, ids[0], ids[1])
			w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95})
			w.older(n, then)
			k.checkIn(w, w.store)
			v := w.open(w.store)
			switch first {
			case "reclaim":
				if _, err := w.reclaimAll(v, vault.ReclaimOptions{}); err != nil && !backstay.IsCode(err, backstay.CodeReclaimStopped) {
					t.Errorf("copy %d: reclaim: %v", n, err)
				}
			case "backup":
				id := newID()
				if err := w.small(v, id, 8); err == nil {
					k[id] = sparse(8, 256<<10)
				} else {
					t.Logf("copy %d: backup: %v", n, err)
				}
			}
			k.checkIn(w, w.store)
			v = w.open(w.store)
			report, err := v.Scrub(w.ctx, vault.ScrubOptions{})
			w.must(err)
			done, err := v.Repair(w.ctx, report.Damages, vault.RepairOptions{})
			w.must(err)
			if len(done.Lost)+len(done.Failed) > 0 {
				t.Errorf("copy %d, %s first: %+v", n, first, done)
			}
			for id := range k {
				w.copyHolds(w.copies[n], id, k[id])
			}
			id := newID()
			w.must(w.small(w.open(w.store), id, 9))
			k[id] = sparse(9, 256<<10)
			w.reclaim(vault.ReclaimOptions{})
			k.check(w)
			for id := range k {
				w.copyHolds(w.copies[n], id, k[id])
			}
		}
	}
}
