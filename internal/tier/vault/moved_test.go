package vault_test

import (
	"testing"

	"github.com/backstay/backstay/internal/tier/vault"
)

// Pages of kept points still say where chunks were before reclaim moved them, and
// the indexes can be lost: then the packs themselves are asked.
func TestMovedChunksAreFoundWithNoIndexAtAll(t *testing.T) {
	w, k, ids := storied(t, 5)
	w.drop(k, ids[0], ids[2], ids[3])
	if done := w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95}); done.Moved.Objects == 0 || done.Deleted.Objects == 0 {
		t.Fatalf("nothing was moved: %+v", done)
	}
	for _, name := range w.objects("indexes/") {
		w.must(w.store.Delete(w.ctx, name))
	}
	v := w.open(w.store)
	for id, data := range k {
		w.restored(v, id, "vda", data)
	}
}
