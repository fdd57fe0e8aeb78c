package vault_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/tier/vault"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

func (w *world) outgoing() *vault.Outgoing {
	w.t.Helper()
	o, err := w.vault.Outgoing()
	w.must(err)
	head, err := o.Look(w.ctx)
	w.must(err)
	now, err := w.vault.Head(w.ctx)
	w.must(err)
	if head != now {
		w.t.Fatalf("the vault is offered with head %v and has %v", head, now)
	}
	return o
}

// carry copies objects to another store, which has some of them already.
func (w *world) carry(o *vault.Outgoing, to blob.Store, names ...string) {
	w.t.Helper()
	for _, name := range names {
		data, sum, err := o.Read(w.ctx, name)
		w.must(err)
		if sum != seal.Hash(data) {
			w.t.Fatalf("another sum of %s", name)
		}
		if err := to.Put(w.ctx, name, data); err != nil && !errors.Is(err, blob.ErrExist) {
			w.t.Fatal(err)
		}
	}
}

// carryPoint copies all that one point needs, as a region that holds it gets it.
func (w *world) carryPoint(o *vault.Outgoing, to blob.Store, id backstay.PointID) {
	w.t.Helper()
	packs, moved, manifest, err := o.Needs(w.ctx, id)
	w.must(err)
	indexes, err := o.Indexes(w.ctx)
	w.must(err)
	records, err := o.Chain(w.ctx)
	w.must(err)
	w.carry(o, to, slices.Concat(o.Frame(), packs, indexes, moved, records)...)
	w.must(to.Put(w.ctx, "points/"+string(id), manifest))
}

// A point that was carried with what it is said to need can be restored there with
// nothing else: also after its chunks were moved, and with no other point.
func TestWhatAPointIsSaidToNeedRestoresItElsewhere(t *testing.T) {
	w, k, ids := storied(t, 5)
	for _, moved := range []bool{false, true} {
		if moved {
			w.drop(k, ids[0], ids[2], ids[3])
			if done := w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95}); done.Moved.Objects == 0 || done.Deleted.Objects == 0 {
				t.Fatalf("nothing was moved: %+v", done)
			}
		}
		o := w.outgoing()
		for _, id := range o.Points() {
			there := mem.New()
			w.carryPoint(o, there, id)
			w.restored(w.open(there), id, "vda", k[id])
			if n := count(t, there, "points/"); n != 1 {
				t.Fatalf("%d manifests there", n)
			}
		}
	}
}

func count(t *testing.T, s blob.Store, prefix string) (n int) {
	t.Helper()
	if err := s.List(t.Context(), prefix, func(blob.Info) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// Of each object a sound copy is read, whichever copy that is; if none is sound
// nothing is, and an object that is gone is told from one that is damaged.
func TestOnlySoundCopiesGoOut(t *testing.T) {
	w, _, ids := storied(t, 2)
	o := w.outgoing()
	packs, _, _, err := o.Needs(w.ctx, ids[1])
	w.must(err)
	indexes, err := o.Indexes(w.ctx)
	w.must(err)
	records, err := o.Chain(w.ctx)
	w.must(err)
	for _, name := range slices.Concat(o.Frame(), packs[:1], indexes[:1], records[len(records)-1:]) {
		want := w.get(0, name)
		for i := range w.copies {
			if i > 0 {
				data, _, err := o.Read(w.ctx, name)
				w.must(err)
				if !bytes.Equal(data, want) {
					t.Fatalf("%s: with %d bad copies another content is read", name, i)
				}
			}
			bad := slices.Clone(want)
			bad[len(bad)/2] ^= 1
			w.must(w.copies[i].Delete(w.ctx, name))
			w.must(w.copies[i].Put(w.ctx, name, bad))
		}
		if _, _, err := o.Read(w.ctx, name); !backstay.IsCode(err, backstay.CodeDamaged) {
			t.Fatalf("%s is damaged in every copy, and read: %v", name, err)
		}
		for _, c := range w.copies {
			w.must(c.Delete(w.ctx, name))
		}
		if _, _, err := o.Read(w.ctx, name); !errors.Is(err, blob.ErrNotExist) {
			t.Fatalf("%s is gone: %v", name, err)
		}
		for _, c := range w.copies {
			w.must(c.Put(w.ctx, name, want))
		}
	}
}

// A point that was dropped is not said to need anything; one whose manifest was
// taken away, or exchanged, is damaged.
func TestDroppedPointsDoNotGoOut(t *testing.T) {
	w, k, ids := storied(t, 3)
	o := w.outgoing()
	w.drop(k, ids[0])
	if _, _, _, err := o.Needs(w.ctx, ids[0]); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Fatalf("a point that was dropped after a look: %v", err)
	}
	_, err := o.Look(w.ctx)
	w.must(err)
	if got := o.Points(); !slices.Equal(got, ids[1:]) {
		t.Fatalf("points %v, want %v", got, ids[1:])
	}
	for _, c := range w.copies {
		w.must(c.Delete(w.ctx, "points/"+string(ids[1])))
	}
	if _, _, _, err := o.Needs(w.ctx, ids[1]); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Fatalf("a manifest that was taken away: %v", err)
	}
}
