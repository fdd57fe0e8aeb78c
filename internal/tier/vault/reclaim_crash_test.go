package vault_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// again returns another world with the same vault in the same state.
func (w *world) again() *world {
	w.t.Helper()
	o := &world{t: w.t, ctx: w.ctx, master: w.master, owner: w.owner}
	for _, c := range w.copies {
		fresh := mem.New()
		w.must(c.List(w.ctx, "", func(i blob.Info) error {
			data, err := c.Get(w.ctx, i.Name, 0, -1)
			fresh.Replace(i.Name, data)
			return err
		}))
		o.copies = append(o.copies, fresh)
	}
	o.store = replica.New(o.copies[0], o.copies[1], o.copies[2])
	o.vault = o.open(o.store)
	return o
}

// mortal is a store of a process that dies at one of its writes: that one and
// all later ones do nothing, in no copy.
func (w *world) mortal(writes int) (blob.Store, *atomic.Int64) {
	left := &atomic.Int64{}
	left.Store(int64(writes))
	var copies []blob.Store
	for _, c := range w.copies {
		copies = append(copies, &mortalCopy{c, left})
	}
	return replica.New(copies...), left
}

type mortalCopy struct {
	blob.Store
	left *atomic.Int64
}

func (m *mortalCopy) write() error {
	if m.left.Add(-1) < 0 {
		return errors.Join(errors.New("the process died"), blob.ErrAway)
	}
	return nil
}

func (m *mortalCopy) Put(ctx context.Context, name string, data []byte) error {
	if err := m.write(); err != nil {
		return err
	}
	return m.Store.Put(ctx, name, data)
}

func (m *mortalCopy) Delete(ctx context.Context, name string) error {
	if err := m.write(); err != nil {
		return err
	}
	return m.Store.Delete(ctx, name)
}

func TestReclaimKilledAtAnyWriteHarmsNothingAndTheNextOneGoesOn(t *testing.T) {
	origin, k, ids := storied(t, 5)
	origin.drop(k, ids[0], ids[1], ids[3])
	o := vault.ReclaimOptions{LiveFraction: 0.95, Now: created.Add(time.Hour)}
	whole := origin.again()
	done := whole.reclaim(o)
	if done.Moved.Objects == 0 || done.Deleted.Objects == 0 {
		t.Fatalf("%+v", done)
	}
	usage := func(w *world) int64 {
		u, err := w.open(w.store).Usage(w.ctx)
		w.must(err)
		return u.StoredBytes
	}
	want, writes := usage(whole), 0
	for died := true; died; writes++ {
		w := origin.again()
		s, left := w.mortal(writes)
		_, err := w.reclaimAll(w.open(s), o)
		if died = left.Load() < 0; died == (err == nil) {
			t.Fatalf("dead at write %d: %v", writes+1, err)
		}
		k.checkIn(w, w.copies[writes%3])
		if _, err := w.reclaimAll(w.open(w.store), o); err != nil {
			t.Fatalf("after a death at write %d: %v", writes+1, err)
		}
		k.checkIn(w, w.copies[writes%3])
		// What the dead one had put and not named is condemned by the next one, and
		// all of it is gone then; the chain and its lists alone may be longer.
		if got := usage(w); got > want+want/10 {
			t.Errorf("after a death at write %d %d bytes are left, and %d without it", writes+1, got, want)
		}
	}
	if writes < 20 {
		t.Fatalf("only %d writes", writes)
	}
}

func TestWritesThatFailOrAreCutInOneCopyHarmNothing(t *testing.T) {
	origin, k, ids := storied(t, 4)
	origin.drop(k, ids[0], ids[2])
	o := vault.ReclaimOptions{LiveFraction: 0.95, Now: created.Add(time.Hour)}
	for n, f := range []*fault.Fault{
		{Kind: fault.Fail, Prefix: "packs/"}, {Kind: fault.Corrupt, Prefix: "packs/"}, {Kind: fault.Cut, Prefix: "packs/"},
		{Kind: fault.Corrupt, Prefix: "indexes/"}, {Kind: fault.Full, Prefix: "moved/"}, {Kind: fault.Corrupt, Prefix: "moved/"},
		{Kind: fault.Full, Prefix: "trash/"}, {Kind: fault.Corrupt, Prefix: "trash/"}, {Kind: fault.FailLate, Prefix: "chain/"},
		{Kind: fault.Fail, Prefix: "packs/", Call: fault.Delete, Nth: 1}, {Kind: fault.Fail, Prefix: "chain/", Nth: 2},
	} {
		for _, n := range []int{n % 3, (n + 1) % 3}[:1+n%2] {
			w := origin.again()
			planned := fault.Fault{Kind: f.Kind, Call: f.Call, Prefix: f.Prefix, Nth: f.Nth}
			stores := []blob.Store{w.copies[0], w.copies[1], w.copies[2]}
			stores[n] = fault.Wrap(stores[n], &planned)
			_, err := w.reclaimAll(w.open(replica.New(stores...)), o)
			if planned.Hits() == 0 {
				t.Errorf("%s of %s in copy %d was not hit (%v)", f.Kind, f.Prefix, n, err)
			}
			k.checkIn(w, w.store)
			if _, err := w.reclaimAll(w.open(w.store), o); err != nil {
				t.Errorf("after %s of %s in copy %d: %v", f.Kind, f.Prefix, n, err)
			}
			k.checkIn(w, w.copies[n])
		}
	}
}

// lying is a copy that leaves objects out of its listings.
type lying struct {
	blob.Store
	hides func(string) bool
}

func (l *lying) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return l.Store.List(ctx, prefix, func(i blob.Info) error {
		if l.hides(i.Name) {
			return nil
		}
		return fn(i)
	})
}

func TestAListingThatIsEmptyShortOrFailsStopsReclaim(t *testing.T) {
	origin, k, ids := storied(t, 4)
	origin.drop(k, ids[1])
	needed := origin.objects("packs/")
	origin.reclaim(vault.ReclaimOptions{})
	needed = slices.DeleteFunc(needed, func(name string) bool { return !slices.Contains(origin.objects("packs/"), name) })
	origin.drop(k, ids[0])
	hide := func(match func(string) bool) func(blob.Store) blob.Store {
		return func(s blob.Store) blob.Store { return &lying{s, match} }
	}
	prefix := func(p string) func(string) bool { return func(name string) bool { return strings.HasPrefix(name, p) } }
	failing := func(p string) func(blob.Store) blob.Store {
		return func(s blob.Store) blob.Store {
			return fault.Wrap(s, &fault.Fault{Kind: fault.Fail, Call: fault.List, Prefix: p})
		}
	}
	for what, wrap := range map[string]func(blob.Store) blob.Store{
		"no pack is listed":         hide(prefix("packs/")),
		"one pack is not listed":    hide(func(name string) bool { return name == needed[len(needed)-1] }),
		"no manifest is listed":     hide(prefix("points/")),
		"one manifest is not":       hide(func(name string) bool { return name == "points/"+string(ids[3]) }),
		"nothing is listed":         hide(func(string) bool { return true }),
		"packs cannot be listed":    failing("packs/"),
		"points cannot be listed":   failing("points/"),
		"the chain cannot be":       failing("chain/"),
		"lists of packs are hidden": nil,
	} {
		if wrap == nil {
			continue
		}
		for n := range 3 {
			w := origin.again()
			stores := []blob.Store{w.copies[0], w.copies[1], w.copies[2]}
			stores[n] = wrap(stores[n])
			v, err := vault.Open(w.ctx, replica.New(stores...), vaultID, w.master)
			w.must(err)
			before := w.objects("packs/")
			_, err = w.reclaimAll(v, vault.ReclaimOptions{})
			if err == nil || !backstay.IsCode(err, backstay.CodeReclaimStopped) && !strings.HasPrefix(what, "the chain") && what != "nothing is listed" {
				t.Errorf("%s in copy %d: %v", what, n, err)
			}
			if !slices.Equal(w.objects("packs/"), before) {
				t.Errorf("%s in copy %d: packs were deleted", what, n)
			}
		}
	}
}

func TestAPointThatCannotBeReadStopsReclaim(t *testing.T) {
	origin, k, ids := storied(t, 3)
	origin.drop(k, ids[0])
	for what, spoil := range map[string]func(w *world){
		"its manifest is gone in every copy": func(w *world) {
			for _, c := range w.copies {
				w.must(c.Delete(w.ctx, "points/"+string(ids[2])))
			}
		},
		"its manifest is damaged in every copy": func(w *world) {
			for _, c := range w.copies {
				c.Replace("points/"+string(ids[2]), []byte("nonsense"))
			}
		},
		"another point's manifest is in its place": func(w *world) {
			for _, c := range w.copies {
				c.Replace("points/"+string(ids[2]), w.get(0, "points/"+string(ids[1])))
			}
		},
		"its manifest is gone in one copy": func(w *world) { w.must(w.copies[1].Delete(w.ctx, "points/"+string(ids[2]))) },
	} {
		w := origin.again()
		spoil(w)
		before := w.objects("packs/")
		_, err := w.reclaimAll(w.open(w.store), vault.ReclaimOptions{})
		if !backstay.IsCode(err, backstay.CodeReclaimStopped) || !slices.Equal(w.objects("packs/"), before) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Tables are read by a repack only: what it cannot read stops it as well.
	w := origin.again()
	for _, name := range w.objects("packs/") {
		bad := make([]byte, len(w.get(0, name)))
		for _, c := range w.copies {
			c.Replace(name, bad)
		}
	}
	if _, err := w.reclaimAll(w.open(w.store), vault.ReclaimOptions{}); !backstay.IsCode(err, backstay.CodeReclaimStopped) {
		t.Errorf("damaged tables: %v", err)
	}
}

func TestOneDamagedCopyOfAManifestIsNoReasonToStop(t *testing.T) {
	w, k, ids := storied(t, 3)
	w.drop(k, ids[2])
	w.copies[0].Replace("points/"+string(ids[1]), []byte("x"))
	if done := w.reclaim(vault.ReclaimOptions{}); done.Deleted.Objects == 0 {
		t.Errorf("%+v", done)
	}
	for id, want := range maps.Clone(k) {
		w.restored(w.open(w.store), id, "vda", want)
	}
}

func TestAListOfCondemnedPacksThatNobodyCanReadIsGivenUp(t *testing.T) {
	w, k, ids := storied(t, 3)
	data := k[ids[2]]
	w.drop(k, ids[2])
	r := w.vault.Reclaim(vault.ReclaimOptions{NoRepack: true, Now: created})
	if sum, err := r.Condemn(w.ctx); err != nil || sum.Objects == 0 {
		t.Fatal(sum, err)
	}
	lists, err := r.Lists(w.ctx)
	w.must(err)
	for _, c := range w.copies {
		c.Replace("trash/"+lists[0].ID, []byte("x"))
	}
	w.vault = w.open(w.store)
	if _, _, err := w.vault.Reclaim(vault.ReclaimOptions{Now: created}).Delete(w.ctx, lists[0].ID); err != nil {
		t.Error(err)
	}
	k.check(w)
	// And a later run condemns them anew.
	if done := w.reclaim(vault.ReclaimOptions{NoRepack: true}); done.Deleted.Objects == 0 {
		t.Errorf("%+v", done)
	}
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
	k[id] = data
	k.check(w)
}
