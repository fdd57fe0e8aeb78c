package vault_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
)

// reclaimAll runs every step of a reclaim of the vault, with no delay, and
// returns the error of the first that fails.
func (w *world) reclaimAll(v *vault.Vault, o vault.ReclaimOptions) (backstay.Reclaimed, error) {
	var done backstay.Reclaimed
	var err error
	if o.Now.IsZero() {
		o.Now = created.Add(time.Hour)
	}
	r := v.Reclaim(o)
	if _, err = r.Plan(w.ctx); err != nil {
		return done, err
	}
	if done.Moved, err = r.Repack(w.ctx); err != nil {
		return done, err
	}
	if done.Condemned, err = r.Condemn(w.ctx); err != nil {
		return done, err
	}
	lists, err := r.Lists(w.ctx)
	if err != nil {
		return done, err
	}
	for _, l := range lists {
		deleted, rescued, err := r.Delete(w.ctx, l.ID)
		done.Deleted.Objects += deleted.Objects
		done.Deleted.Bytes += deleted.Bytes
		done.Rescued.Objects += rescued.Objects
		if err != nil {
			return done, err
		}
	}
	return done, r.Tidy(w.ctx)
}

func (w *world) reclaim(o vault.ReclaimOptions) backstay.Reclaimed {
	w.t.Helper()
	done, err := w.reclaimAll(w.vault, o)
	w.must(err)
	return done
}

// kept is what points of a vault must restore to.
type kept map[backstay.PointID][]byte

// check demands that exactly these points are offered, by a vault opened afresh
// on each single copy and on all, and restore to their bytes.
func (k kept) check(w *world) {
	w.t.Helper()
	k.checkIn(w, w.store, w.copies[0], w.copies[2])
}

func (k kept) checkIn(w *world, stores ...blob.Store) {
	w.t.Helper()
	for _, s := range stores {
		v := w.open(s)
		headers, err := v.Points(w.ctx)
		w.must(err)
		if len(headers) != len(k) {
			w.t.Fatalf("%d points are offered, want %d", len(headers), len(k))
		}
		for id, want := range k {
			w.restored(v, id, "vda", want)
		}
	}
}

// storied is a vault with points of one disk: the first, and increments on it
// which replace a good part of the disk each.
func storied(t testing.TB, points int) (*world, kept, []backstay.PointID) {
	w, k := newWorld(t), kept{}
	data := make([]byte, 3*chunk.MaxData+512)
	for i := range 3 {
		fill(uint64(60+i), data[i*chunk.MaxData:][:chunk.MaxData]) // a chunk each
	}
	var ids []backstay.PointID
	var parent backstay.PointID
	var changed []backstay.Range
	for i := range points {
		id := newID()
		w.backup(vault.WriteOptions{Point: id, Parent: parent}, source{target: "vda", disk: &disk{data: data}, changed: changed, mapped: i > 0})
		k[id], parent = slices.Clone(data), id
		ids = append(ids, id)
		changed = change(uint64(80+i), data, 4)
		from := i % 3 * chunk.MaxData
		fill(uint64(i), data[from:][:chunk.MaxData])
		changed = append(changed, backstay.Range{Offset: int64(from), Length: chunk.MaxData})
	}
	return w, k, ids
}

func (w *world) drop(k kept, ids ...backstay.PointID) {
	w.t.Helper()
	for _, id := range ids {
		w.must(w.vault.DropPoint(w.ctx, id, created))
		delete(k, id)
	}
}

// snapshot is every object of every copy.
func (w *world) snapshot() map[string]string {
	all := map[string]string{}
	for i, c := range w.copies {
		w.must(c.List(w.ctx, "", func(info blob.Info) error {
			data, err := c.Get(w.ctx, info.Name, 0, -1)
			all[string(rune('0'+i))+" "+info.Name] = string(data)
			return err
		}))
	}
	return all
}

func TestWhatNoPointNeedsIsGivenBackAndNothingElse(t *testing.T) {
	w, k, ids := storied(t, 4)
	if done := w.reclaim(vault.ReclaimOptions{NoRepack: true}); done != (backstay.Reclaimed{}) {
		t.Errorf("every pack is needed, and %+v", done)
	}
	packs := len(w.objects("packs/"))
	w.drop(k, ids[3], ids[1])
	done := w.reclaim(vault.ReclaimOptions{NoRepack: true})
	if done.Deleted.Objects == 0 || done.Deleted != done.Condemned || len(w.objects("packs/")) != packs-int(done.Deleted.Objects) {
		t.Errorf("%+v, %d packs of %d are left", done, len(w.objects("packs/")), packs)
	}
	k.check(w)
	w.drop(k, ids[0], ids[2])
	w.reclaim(vault.ReclaimOptions{NoRepack: true})
	if left := w.objects("packs/"); len(left) > 0 {
		t.Errorf("no point is left, and %v is", left)
	}
	k.check(w)
}

func TestARepackKeepsEveryByteAndFreesTheRest(t *testing.T) {
	w, k, ids := storied(t, 5)
	w.drop(k, ids[0], ids[2], ids[3])
	before, err := w.vault.Usage(w.ctx)
	w.must(err)
	done := w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95})
	after, err := w.vault.Usage(w.ctx)
	w.must(err)
	if done.Moved.Objects == 0 || done.Deleted.Objects < done.Moved.Objects {
		t.Errorf("%+v, %d bytes of %d are left", done, after.StoredBytes, before.StoredBytes)
	}
	k.check(w)
	if again := w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95}); again.Moved.Objects+again.Deleted.Objects > 0 {
		t.Errorf("a second run finds more to do: %+v", again)
	}
	// A point on a parent whose chunks were moved, with the vault as it was open.
	data := slices.Clone(k[ids[4]])
	changed := change(99, data, 3)
	id := newID()
	stats := w.backup(vault.WriteOptions{Point: id, Parent: ids[4]}, source{target: "vda", disk: &disk{data: data}, changed: changed, mapped: true})
	if stats[0].Mode != "changed layers" || stats[0].BytesNew > 100<<10 {
		t.Errorf("an increment on a repacked parent: %+v", stats[0])
	}
	k[id] = data
	k.check(w)
	w.drop(k, ids[4], ids[1])
	w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95})
	k.check(w)
}

func TestAVaultThatWasRepackedIsSound(t *testing.T) {
	w, k, ids := storied(t, 5)
	w.drop(k, ids[0], ids[1], ids[3])
	if done := w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95}); done.Deleted.Objects == 0 || done.Moved.Objects == 0 {
		t.Fatalf("%+v", done)
	}
	sound := func(what string) {
		t.Helper()
		report, err := w.open(w.store).Scrub(w.ctx, vault.ScrubOptions{})
		w.must(err)
		keyless, err := vault.ScrubKeyless(w.ctx, w.store, vaultID, vault.ScrubOptions{})
		w.must(err)
		if len(report.Damages)+len(keyless.Damages) > 0 {
			t.Errorf("%s: %v %v", what, report.Damages, keyless.Damages)
		}
	}
	sound("repacked")
	// What the moves lead to is needed: a copy that lost it is not sound, and is mended.
	for _, name := range w.objects("packs/") {
		good := w.get(0, name)
		w.must(w.copies[1].Delete(w.ctx, name))
		report, err := w.vault.Scrub(w.ctx, vault.ScrubOptions{})
		w.must(err)
		if len(report.Damages) != 1 || report.Damages[0].Object != name {
			t.Errorf("%s is lost in a copy: %v", name, report.Damages)
		}
		keyless, err := vault.ScrubKeyless(w.ctx, w.store, vaultID, vault.ScrubOptions{})
		w.must(err)
		if len(keyless.Damages) != 1 {
			t.Errorf("%s is lost in a copy, seen without a key: %v", name, keyless.Damages)
		}
		_, err = w.vault.Repair(w.ctx, report.Damages, vault.RepairOptions{})
		w.must(err)
		if got := w.get(1, name); string(got) != string(good) {
			t.Errorf("%s was not mended", name)
		}
	}
	sound("mended")
}

func TestTheSameVaultHandleStoresAnewWhatWasDeleted(t *testing.T) {
	w, k, ids := storied(t, 1)
	data := k[ids[0]]
	w.drop(k, ids[0])
	w.reclaim(vault.ReclaimOptions{})
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
	k[id] = data
	k.check(w)
}

func TestADryRunWritesNothing(t *testing.T) {
	w, k, ids := storied(t, 4)
	w.drop(k, ids[0], ids[3])
	before := w.snapshot()
	s := &readOnly{Store: w.store}
	plan, err := w.open(s).Reclaim(vault.ReclaimOptions{LiveFraction: 0.95, Now: created}).Plan(w.ctx)
	w.must(err)
	if s.writes > 0 {
		t.Errorf("%d writes", s.writes)
	}
	if plan.Condemn.Objects == 0 || len(plan.Repack) == 0 || plan.Repack[0].Reason == "" || plan.Points != 2 || plan.Live == 0 || plan.Live > plan.Packs.Bytes {
		t.Errorf("plan: %+v", plan)
	}
	after := w.snapshot()
	for name, data := range after {
		if before[name] != data {
			t.Errorf("%s was written", name)
		}
	}
	if len(after) != len(before) {
		t.Error("something was removed")
	}
	// What the plan says is what is done.
	done := w.reclaim(vault.ReclaimOptions{NoRepack: true})
	if done.Condemned != plan.Condemn {
		t.Errorf("planned %+v, done %+v", plan.Condemn, done.Condemned)
	}
}

func TestAVaultWithMorePacksThanTheBudgetIsReadInPasses(t *testing.T) {
	w, k, ids := storied(t, 6)
	w.drop(k, ids[0], ids[1], ids[3])
	plan := func(memory int64) backstay.ReclaimPlan {
		p, err := w.vault.Reclaim(vault.ReclaimOptions{LiveFraction: 0.95, Memory: memory, Now: created}).Plan(w.ctx)
		w.must(err)
		return p
	}
	want := plan(0)
	got := plan(600)
	if got.Condemn != want.Condemn || got.Packs != want.Packs || got.Live != want.Live || !slices.Equal(got.Repack, want.Repack) {
		t.Errorf("in passes: %+v\nat once: %+v", got, want)
	}
	done := w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95, Memory: 300})
	if done.Moved.Objects == 0 || done.Deleted.Objects == 0 {
		t.Errorf("%+v", done)
	}
	k.check(w)
}

func TestManifestsThatAreNotOfferedAreTidiedAway(t *testing.T) {
	w, k, ids := storied(t, 2)
	gone := "points/" + string(ids[0])
	left := w.get(0, gone)
	w.drop(k, ids[0])
	w.copies[1].Replace(gone, left) // a drop that broke off
	w.reclaim(vault.ReclaimOptions{})
	for i, c := range w.copies {
		if _, err := c.Stat(w.ctx, gone); err == nil {
			t.Errorf("copy %d has the manifest of a dropped point", i)
		}
	}
	k.check(w)
}

func TestIndexesAreJoinedAndServeAsBefore(t *testing.T) {
	w, k := newWorld(t), kept{}
	var ids []backstay.PointID
	for seed := range uint64(36) {
		id, data := newID(), sparse(seed, 300<<10)
		w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
		k[id], ids = data, append(ids, id)
	}
	w.drop(k, ids[3:12]...)
	before := len(w.objects("indexes/"))
	w.reclaim(vault.ReclaimOptions{NoRepack: true})
	if after := len(w.objects("indexes/")); after >= before/4 {
		t.Errorf("%d index objects of %d are left", after, before)
	}
	k.check(w)
	id, data := newID(), k[ids[35]]
	stats, err := backup(w.ctx, w.open(w.store), vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
	w.must(err)
	k[id] = data
	if stats[0].BytesNew > 0 {
		t.Errorf("the joined index does not serve deduplication: %+v", stats[0])
	}
	k.check(w)
}

// readOnly counts what it is asked to write, and does it.
type readOnly struct {
	blob.Store
	writes int
}

func (s *readOnly) Copies() []blob.Store {
	var out []blob.Store
	for _, c := range s.Store.(blob.Copies).Copies() {
		out = append(out, &readOnlyCopy{c, s})
	}
	return out
}

func (s *readOnly) Put(ctx context.Context, name string, data []byte) error {
	s.writes++
	return s.Store.Put(ctx, name, data)
}

func (s *readOnly) Delete(ctx context.Context, name string) error {
	s.writes++
	return s.Store.Delete(ctx, name)
}

type readOnlyCopy struct {
	blob.Store
	all *readOnly
}

func (s *readOnlyCopy) Put(ctx context.Context, name string, data []byte) error {
	s.all.writes++
	return s.Store.Put(ctx, name, data)
}

func (s *readOnlyCopy) Delete(ctx context.Context, name string) error {
	s.all.writes++
	return s.Store.Delete(ctx, name)
}

func writing(now vault.Writing) func(context.Context) (vault.Writing, error) {
	return func(context.Context) (vault.Writing, error) { return now, nil }
}

// cancelled is a context that has ended.
func cancelled(w *world) context.Context {
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	return ctx
}

// fill makes every unit another one, of which little is left when it is compressed.
func fill(seed uint64, b []byte) {
	r := rand.New(rand.NewPCG(seed, 10))
	for at := 0; at < len(b); at += unit {
		b[at], b[at+1], b[at+2], b[at+3] = byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), 1
	}
}

func scribbleAll(seed uint64, b []byte) {
	r := rand.New(rand.NewPCG(seed, 9))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}
