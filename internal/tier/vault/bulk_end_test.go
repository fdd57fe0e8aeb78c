package vault_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/backstay/backstay/internal/tier/vault"
)

// TestABulkReadThatIsStoppedEndsWithAllThatItBegan: by whoever takes the chunks,
// or by a caller who gives up, at any chunk. A goroutine that stays fails the test.
func TestABulkReadThatIsStoppedEndsWithAllThatItBegan(t *testing.T) {
	w := newWorld(t)
	id, data := newID(), sparse(9, 24<<20)
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
	w.restored(w.vault, id, "vda", data)
	var all atomic.Int64
	p, err := w.vault.OpenPoint(w.ctx, id)
	w.must(err)
	img, err := p.Disk(w.ctx, "vda")
	w.must(err)
	w.must(img.(vault.BulkReader).Chunks(w.ctx, 3, func(int64, []byte) error { all.Add(1); return nil }))
	enough := errors.New("enough")
	for stop := int64(1); stop < all.Load()/2; stop += 2 { // those that are handed out already end well
		for _, cancelled := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				v, err := vault.Open(ctx, w.store, vaultID, w.master)
				w.must(err)
				p, err := v.OpenPoint(ctx, id)
				w.must(err)
				img, err := p.Disk(ctx, "vda")
				w.must(err)
				var n atomic.Int64
				err = img.(vault.BulkReader).Chunks(ctx, 3, func(int64, []byte) error {
					if n.Add(1) < stop {
						return nil
					}
					if cancelled {
						cancel()
						return nil
					}
					return enough
				})
				if cancelled && !errors.Is(err, context.Canceled) || !cancelled && !errors.Is(err, enough) {
					t.Errorf("stopped at %d of %d: %v", stop, all.Load(), err)
				}
			})
		}
	}
}
