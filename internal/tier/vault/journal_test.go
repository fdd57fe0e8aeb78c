package vault_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// small is a backup of a disk of a few units.
func (w *world) small(v *vault.Vault, id backstay.PointID, seed uint64, o ...vault.WriteOptions) error {
	options := vault.WriteOptions{Point: id}
	if len(o) > 0 {
		options = o[0]
		options.Point = id
	}
	_, err := backup(w.ctx, v, options, source{target: "vda", disk: &disk{data: sparse(seed, 256<<10)}})
	return err
}

func (w *world) seals() *seal.Keys {
	w.t.Helper()
	keys, err := seal.NewKeys(vaultID, w.master)
	w.must(err)
	return keys
}

// chain returns the vault's chain, as one who holds the keys sees it.
func (w *world) chain() *chain.Log { return chain.Open(w.store, w.seals().ChainMAC) }

func (w *world) appended(r chain.Record) chain.State {
	w.t.Helper()
	r.Time = created
	s, err := w.chain().Append(w.ctx, func(chain.State) (chain.Record, error) { return r, nil })
	w.must(err)
	return s
}

// condemn puts packs into the trash and returns the condemn record.
func (w *world) condemn(packs ...string) chain.Record {
	w.t.Helper()
	var all []pack.ID
	for _, text := range packs {
		id, err := pack.ParseID(text)
		w.must(err)
		all = append(all, id)
	}
	id := ulid.Make()
	data, hash := chain.EncodeTrash(w.seals().TrashMAC, uuid.MustParse(vaultID), id, all)
	w.must(w.store.Put(w.ctx, chain.TrashObject(id), data))
	r := chain.Record{Op: chain.Condemn, Object: chain.TrashObject(id), Hash: hash}
	r.Seq = w.appended(r).Seq
	return r
}

// everywhere changes an object in every copy; nil removes it.
func (w *world) everywhere(name string, data []byte) {
	w.t.Helper()
	for _, c := range w.copies {
		if data == nil {
			w.must(c.Delete(w.ctx, name))
		} else {
			c.Replace(name, data)
		}
	}
}

// everything is what the copies hold: an older state of the vault to put back.
func (w *world) everything() map[string][]byte {
	all := map[string][]byte{}
	for _, name := range w.objects("") {
		all[name] = w.get(0, name)
	}
	return all
}

func (w *world) putBack(old map[string][]byte) {
	w.t.Helper()
	for _, name := range w.objects("") {
		if old[name] == nil {
			w.everywhere(name, nil)
		}
	}
	for name, data := range old {
		w.everywhere(name, data)
	}
}

// offered lists the points that the vault offers; it must open exactly those.
func (w *world) offered() []backstay.PointID {
	w.t.Helper()
	v := w.open(w.store)
	headers, err := v.Points(w.ctx)
	w.must(err)
	var ids []backstay.PointID
	for _, h := range headers {
		if h.Damage == nil {
			ids = append(ids, h.Point)
			_, err := v.OpenPoint(w.ctx, h.Point)
			w.must(err)
		}
	}
	return ids
}

func object(id backstay.PointID) string { return "points/" + string(id) }

func TestTwoTransfersAtOnceAreBothCommitted(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	var ids []backstay.PointID
	for n := range 6 {
		id := newID()
		ids = append(ids, id)
		wg.Go(func() {
			if err := w.small(w.open(w.store), id, uint64(n)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := w.offered(); !slices.Equal(got, ids) {
		t.Errorf("offered %v, want %v", got, ids)
	}
	s, err := w.chain().Read(w.ctx)
	w.must(err)
	if s.Seq != 7 || s.HeaderGeneration != 1 {
		t.Errorf("chain: %d records, header %d", s.Seq, s.HeaderGeneration)
	}
}

func TestManifestThatWasTakenAwayIsNamedNotHidden(t *testing.T) {
	w := newWorld(t)
	id, other := newID(), newID()
	w.must(w.small(w.vault, id, 1))
	w.must(w.small(w.vault, other, 2))
	w.everywhere(object(id), nil)
	v := w.open(w.store)
	headers, err := v.Points(w.ctx)
	w.must(err)
	if len(headers) != 2 || headers[0].Point != id || !backstay.IsCode(headers[0].Damage, backstay.CodeDamaged) ||
		!strings.Contains(headers[0].Damage.Error(), "taken away") || headers[1].Damage != nil {
		t.Errorf("points: %+v", headers)
	}
	if _, err := v.OpenPoint(w.ctx, id); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("open: %v", err)
	}
	if err := w.small(v, id, 1); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("written again: %v", err)
	}
	// It may be dropped all the same.
	w.must(v.DropPoint(w.ctx, id, created))
	if got := w.offered(); !slices.Equal(got, []backstay.PointID{other}) {
		t.Errorf("offered: %v", got)
	}
}

func TestDroppedPointStaysDroppedWhenItsManifestIsPutBack(t *testing.T) {
	w := newWorld(t)
	id, other := newID(), newID()
	w.must(w.small(w.vault, id, 1))
	w.must(w.small(w.vault, other, 2))
	manifest := w.get(0, object(id))
	w.must(w.vault.DropPoint(w.ctx, id, created))
	w.everywhere(object(id), manifest)
	if got := w.offered(); !slices.Equal(got, []backstay.PointID{other}) {
		t.Errorf("offered: %v", got)
	}
	v := w.open(w.store)
	if _, err := v.OpenPoint(w.ctx, id); !backstay.IsCode(err, backstay.CodeUnknownPoint) || !strings.Contains(err.Error(), "dropped") {
		t.Errorf("open: %v", err)
	}
	left, err := v.Leftovers(w.ctx)
	w.must(err)
	if len(left) != 1 || left[0].Point != id || !left[0].Dropped || !strings.Contains(left[0].Reason, "next reclaim") {
		t.Errorf("leftovers: %+v", left)
	}
	if err := w.small(v, id, 1); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("written again: %v", err)
	}
	w.must(v.DropPoint(w.ctx, newID(), created)) // any drop removes what is left
	if len(w.objects("points/")) != 1 {
		t.Errorf("manifests: %v", w.objects("points/"))
	}
}

func TestManifestOfAnotherStateIsNotServed(t *testing.T) {
	w, before := newWorld(t), newWorld(t)
	before.master = w.master
	id := newID()
	old := w.everything()
	w.must(w.small(w.vault, id, 1))
	first := w.get(0, object(id))
	w.putBack(old) // as if the point had been written otherwise in another life
	w.must(w.small(w.open(w.store), id, 2))
	second := w.get(0, object(id))
	w.everywhere(object(id), first)
	v := w.open(w.store)
	if _, err := v.OpenPoint(w.ctx, id); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("open: %v", err)
	}
	headers, err := v.Points(w.ctx)
	w.must(err)
	if len(headers) != 1 || !backstay.IsCode(headers[0].Damage, backstay.CodeDamaged) {
		t.Errorf("points: %+v", headers)
	}
	// One copy that has the right one is enough, and is what counts.
	w.copies[2].Replace(object(id), second)
	w.restored(v, id, "vda", sparse(2, 256<<10))
	if headers, err = v.Points(w.ctx); err != nil || headers[0].Copies != 1 || headers[0].Damage != nil {
		t.Errorf("points: %+v, %v", headers, err)
	}
}

func TestOlderStateOfAVaultIsNoticedByItsWitness(t *testing.T) {
	w := newWorld(t)
	id := newID()
	w.must(w.small(w.vault, id, 1))
	old := w.everything()
	w.must(w.small(w.vault, newID(), 2))
	head, err := w.vault.Head(w.ctx)
	w.must(err)
	w.must(w.open(w.store).Expect(w.ctx, head))
	w.must(w.open(w.store).Expect(w.ctx, backstay.VaultHead{}))
	w.putBack(old)
	v := w.open(w.store)
	if err := v.Expect(w.ctx, head); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("older state: %v", err)
	}
	if err := w.small(w.vault, newID(), 3); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("who had it open writes on: %v", err)
	}
	w.restored(v, id, "vda", sparse(1, 256<<10)) // what is there can be restored
	// Another history of the same length is another state, too.
	w.must(w.small(v, newID(), 4))
	w.must(w.small(v, newID(), 5))
	if err := w.open(w.store).Expect(w.ctx, head); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("other state: %v", err)
	}
	for _, name := range w.objects(chain.Prefix) {
		w.everywhere(name, nil)
	}
	if err := w.open(w.store).Expect(w.ctx, head); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("no chain: %v", err)
	}
	if err := w.small(w.open(w.store), newID(), 6); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("a chain was begun in a vault that had one: %v", err)
	}
}

func TestPointsRestoreWithoutTheChainAndSaySo(t *testing.T) {
	w := newWorld(t)
	id := newID()
	w.must(w.small(w.vault, id, 1))
	w.must(w.small(w.vault, newID(), 2))
	for what, damage := range map[string]func(){
		"damaged": func() { w.everywhere(chain.Object(2), []byte("x")) },
		"removed": func() { w.everywhere(chain.Object(2), nil) },
	} {
		damage()
		v := w.open(w.store)
		w.restored(v, id, "vda", sparse(1, 256<<10))
		p, err := v.OpenPoint(w.ctx, id)
		w.must(err)
		headers, err := v.Points(w.ctx)
		w.must(err)
		if len(headers) != 2 || headers[0].Unchained == nil || p.Header().Unchained == nil {
			t.Errorf("%s: no warning: %+v", what, headers)
		}
		if err := w.small(v, newID(), 3); !backstay.IsCode(err, backstay.CodeDamaged) {
			t.Errorf("%s: written: %v", what, err)
		}
		if err := v.DropPoint(w.ctx, id, created); !backstay.IsCode(err, backstay.CodeDamaged) {
			t.Errorf("%s: dropped: %v", what, err)
		}
	}
	away := &fault.Fault{Kind: fault.Fail, Call: fault.List, Prefix: chain.Prefix}
	stores := []blob.Store{fault.Wrap(w.copies[0], away), fault.Wrap(w.copies[1], away), fault.Wrap(w.copies[2], away)}
	p, err := w.open(replica.New(stores...)).OpenPoint(w.ctx, id)
	w.must(err)
	if !backstay.IsCode(p.Header().Unchained, backstay.CodeVaultAway) || away.Hits() == 0 {
		t.Errorf("the chain is away: %v", p.Header().Unchained)
	}
}

func TestPointIsReadWithoutReadingTheChainAgain(t *testing.T) {
	w := newWorld(t)
	ids := []backstay.PointID{newID(), newID()}
	for n, id := range ids {
		w.must(w.small(w.vault, id, uint64(n)))
	}
	reads := &fault.Fault{Kind: fault.Slow, Call: fault.Get, Prefix: chain.Prefix}
	lists := &fault.Fault{Kind: fault.Slow, Call: fault.List, Prefix: chain.Prefix}
	v := w.open(replica.New(fault.Wrap(w.copies[0], reads, lists), w.copies[1], w.copies[2]))
	for range 5 {
		for _, id := range ids {
			_, err := v.OpenPoint(w.ctx, id)
			w.must(err)
		}
	}
	// Three records, and the newest is asked of every copy once more.
	if reads.Hits() != 4 || lists.Hits() != 1 {
		t.Errorf("%d reads and %d listings of the chain for ten points", reads.Hits(), lists.Hits())
	}
	late := newID()
	w.must(w.small(w.open(w.store), late, 9))
	if _, err := v.OpenPoint(w.ctx, late); err != nil {
		t.Errorf("a point that came since: %v", err)
	}
}

func TestKilledAtAnyStepOfADropItIsWhollyThereOrNotOffered(t *testing.T) {
	for _, call := range []fault.Call{fault.Put, fault.Delete} {
		for _, kind := range []fault.Kind{fault.Fail, fault.FailLate} {
			for nth := 1; ; nth++ {
				w := newWorld(t)
				id, other := newID(), newID()
				w.must(w.small(w.vault, id, 1))
				w.must(w.small(w.vault, other, 2))
				var stores []blob.Store
				f := &fault.Fault{Kind: kind, Call: call, Nth: nth, Onwards: true}
				for _, c := range w.copies {
					stores = append(stores, fault.Wrap(c, f))
				}
				err := w.open(replica.New(stores...)).DropPoint(w.ctx, id, created)
				if f.Hits() == 0 {
					w.must(err)
					break
				}
				if kind == fault.Fail && err == nil {
					t.Fatalf("%s %s at %d: no error", call, kind, nth)
				}
				got := w.offered()
				if !slices.Equal(got, []backstay.PointID{other}) && !slices.Equal(got, []backstay.PointID{id, other}) {
					t.Fatalf("%s %s at %d: offered %v", call, kind, nth, got)
				}
				if slices.Contains(got, id) {
					w.restored(w.open(w.store), id, "vda", sparse(1, 256<<10))
				}
				w.must(w.open(w.store).DropPoint(w.ctx, id, created))
				if got := w.offered(); !slices.Equal(got, []backstay.PointID{other}) || len(w.objects("points/")) != 1 {
					t.Fatalf("%s %s at %d: after the next drop %v, manifests %v", call, kind, nth, got, w.objects("points/"))
				}
				w.restored(w.open(w.store), other, "vda", sparse(2, 256<<10))
			}
		}
	}
}

func TestKilledAtAnyPutInAnyCopyACommitIsWholeOrNotOffered(t *testing.T) {
	for _, kind := range []fault.Kind{fault.Fail, fault.FailLate} {
		for nth := 1; ; nth++ {
			w := newWorld(t)
			first := newID()
			w.must(w.small(w.vault, first, 1))
			var stores []blob.Store
			f := &fault.Fault{Kind: kind, Nth: nth, Onwards: true}
			dead := &fault.Fault{Kind: fault.Fail, Call: fault.Delete} // the process cannot tidy up either
			for _, c := range w.copies {
				stores = append(stores, fault.Wrap(c, f, dead))
			}
			id := newID()
			err := w.small(w.open(replica.New(stores...)), id, 2)
			if f.Hits() == 0 {
				w.must(err)
				if nth < 12 {
					t.Fatalf("only %d puts", nth-1)
				}
				break
			}
			got := w.offered()
			if !slices.Equal(got, []backstay.PointID{first}) && !slices.Equal(got, []backstay.PointID{first, id}) {
				t.Fatalf("%s at put %d: offered %v", kind, nth, got)
			}
			if slices.Contains(got, id) {
				// The newest record may be in one copy only; all that it makes visible is in each.
				for _, c := range w.copies {
					w.copyHolds(w.withRecords(c), id, sparse(2, 256<<10))
				}
			}
			if err := w.small(w.open(w.store), id, 2); err != nil && !backstay.IsCode(err, backstay.CodeExists) {
				t.Fatalf("%s at put %d: next attempt: %v", kind, nth, err)
			}
			if got := w.offered(); !slices.Equal(got, []backstay.PointID{first, id}) {
				t.Fatalf("%s at put %d: offered in the end %v", kind, nth, got)
			}
			for _, c := range w.copies {
				w.copyHolds(c, first, sparse(1, 256<<10))
				w.copyHolds(c, id, sparse(2, 256<<10))
			}
		}
	}
}

// copyHolds demands that one copy alone restores a point (I2).
func (w *world) copyHolds(c blob.Store, id backstay.PointID, want []byte) {
	w.t.Helper()
	v, err := vault.Open(w.ctx, c, vaultID, w.master)
	w.must(err)
	got, err := restore(w.ctx, v, id, "vda")
	w.must(err)
	if !bytes.Equal(got, want) {
		w.t.Fatal("other bytes")
	}
}

// withRecords is one copy with the chain as all copies together have it.
func (w *world) withRecords(c blob.Store) blob.Store {
	w.t.Helper()
	out := mem.New()
	for _, from := range append([]blob.Store{c}, w.copies[0], w.copies[1], w.copies[2]) {
		w.must(from.List(w.ctx, "", func(i blob.Info) error {
			if from != c && !strings.HasPrefix(i.Name, chain.Prefix) {
				return nil
			}
			data, err := from.Get(w.ctx, i.Name, 0, -1)
			out.Replace(i.Name, data)
			return err
		}))
	}
	return out
}

// brokenOff leaves a manifest whose writer died before the chain's record.
func (w *world) brokenOff(id backstay.PointID, seed uint64) {
	w.t.Helper()
	f := &fault.Fault{Kind: fault.Fail, Prefix: chain.Prefix}
	_, v := w.flaky(f)
	if err := w.small(v, id, seed); err == nil || f.Hits() == 0 {
		w.t.Fatalf("the commit was not cut off: %v", err)
	}
}

func TestCommitThatBrokeOffIsCompletedIfAllOfItIsInPlace(t *testing.T) {
	w := newWorld(t)
	id := newID()
	w.brokenOff(id, 1)
	if got := w.offered(); len(got) != 0 {
		t.Fatalf("offered: %v", got)
	}
	if _, err := w.vault.OpenPoint(w.ctx, id); !backstay.IsCode(err, backstay.CodeUnknownPoint) || !strings.Contains(err.Error(), "broke off") {
		t.Errorf("open: %v", err)
	}
	if err := w.small(w.vault, id, 1); !backstay.IsCode(err, backstay.CodeExists) {
		t.Errorf("next attempt: %v", err)
	}
	w.restored(w.open(w.store), id, "vda", sparse(1, 256<<10))

	for what, spoil := range map[string]func(pack string){
		"a pack is gone in one copy": func(p string) { w.must(w.copies[1].Delete(w.ctx, p)) },
		"a pack is cut short":        func(p string) { w.copies[2].Replace(p, w.get(2, p)[:100]) },
		"a pack is condemned":        func(p string) { w.condemn(p[strings.LastIndexByte(p, '/')+1:]) },
		"its manifest is damaged":    func(string) { w.everywhere(w.objects("points/")[len(w.objects("points/"))-1], []byte("x")) },
	} {
		before := w.objects("packs/")
		id, seed := newID(), uint64(len(before)+50)
		w.brokenOff(id, seed)
		fresh := slices.DeleteFunc(w.objects("packs/"), func(p string) bool { return slices.Contains(before, p) })
		if len(fresh) == 0 {
			t.Fatalf("%s: nothing was stored", what)
		}
		spoil(fresh[0])
		if err := w.small(w.open(w.store), id, seed); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, c := range w.copies {
			w.copyHolds(c, id, sparse(seed, 256<<10))
		}
		if what == "a pack is condemned" {
			p, err := w.vault.OpenPoint(w.ctx, id)
			w.must(err)
			if slices.Contains(p.Header().Packs, fresh[0][strings.LastIndexByte(fresh[0], '/')+1:]) {
				t.Errorf("%s, and the point refers to it", what)
			}
		}
	}
}

func TestPointThatIsDroppedWhileItIsWrittenDoesNotAppear(t *testing.T) {
	w := newWorld(t)
	id := newID()
	tr, err := w.open(w.store).Begin(w.ctx, vault.WriteOptions{Point: id})
	w.must(err)
	defer tr.Abort()
	w.brokenOff(id, 1) // by another attempt
	w.must(w.open(w.store).DropPoint(w.ctx, id, created))
	if _, err := tr.Commit(w.ctx, facts(id), definition); !backstay.IsCode(err, backstay.CodeConflict) || !strings.Contains(err.Error(), "dropped") {
		t.Errorf("commit: %v", err)
	}
	if got := w.offered(); len(got) != 0 {
		t.Errorf("offered %v", got)
	}
	w.must(w.open(w.store).DropPoint(w.ctx, id, created))
	if err := w.small(w.vault, id, 1); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("a dropped point came back: %v", err)
	}
	if len(w.objects("points/")) != 0 {
		t.Errorf("manifests %v", w.objects("points/"))
	}
}

func TestTransferThatBeganBeforeAReclaimDoesNotReferToWhatThatDeletes(t *testing.T) {
	w := newWorld(t)
	parent := newID()
	w.must(w.small(w.vault, parent, 1))
	p, err := w.vault.OpenPoint(w.ctx, parent)
	w.must(err)
	packs := p.Header().Packs
	begin := func(seed uint64) (*vault.Writer, backstay.PointID) {
		id := newID()
		tr, err := w.open(w.store).Begin(w.ctx, vault.WriteOptions{Point: id, Parent: parent})
		w.must(err)
		_, err = tr.WriteDisk(w.ctx, vault.DiskSource{Target: "vda", Image: &disk{data: sparse(seed, 256<<10)}})
		w.must(err)
		return tr, id
	}
	before, beforeID := begin(1) // deduplicates against the parent
	apart, apartID := begin(7)   // does not
	condemned := w.condemn(packs...)
	between, betweenID := begin(1)
	// The list is condemned and not being deleted: such a commit still rescues it.
	early, earlyID := begin(1)
	_, err = early.Commit(w.ctx, facts(earlyID), definition)
	w.must(err)
	w.appended(chain.Record{Op: chain.Reclaim, Object: condemned.Object, Of: condemned.Seq})
	if _, err := before.Commit(w.ctx, facts(beforeID), definition); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("a point refers to packs that are being deleted: %v", err)
	}
	_, err = apart.Commit(w.ctx, facts(apartID), definition)
	w.must(err)
	_, err = between.Commit(w.ctx, facts(betweenID), definition)
	w.must(err)
	for _, id := range []backstay.PointID{earlyID, betweenID} {
		p, err := w.open(w.store).OpenPoint(w.ctx, id)
		w.must(err)
		for _, used := range p.Header().Packs {
			if slices.Contains(packs, used) {
				t.Errorf("a transfer that began later refers to %s", used)
			}
		}
	}
	if got := w.offered(); slices.Contains(got, beforeID) {
		t.Errorf("offered: %v", got)
	}
	w.must(w.small(w.open(w.store), beforeID, 1)) // the next attempt succeeds
	for _, packs := range packs {
		id, _ := pack.ParseID(packs)
		w.everywhere(id.Object(), nil)
	}
	w.restored(w.open(w.store), beforeID, "vda", sparse(1, 256<<10))
	w.restored(w.open(w.store), betweenID, "vda", sparse(1, 256<<10))
}

func TestTransferThatIsOlderThanTheFencesIsRefused(t *testing.T) {
	w := newWorld(t)
	id := newID()
	tr, err := w.vault.Begin(w.ctx, vault.WriteOptions{Point: id})
	w.must(err)
	defer tr.Abort()
	for range 17 {
		r := w.condemn("00112233445566778899aabbccddeeff")
		w.appended(chain.Record{Op: chain.Reclaim, Object: r.Object, Of: r.Seq})
		w.appended(chain.Record{Op: chain.Reclaimed, Object: r.Object, Of: r.Seq})
		w.everywhere(r.Object, nil)
	}
	if _, err := tr.Commit(w.ctx, facts(id), definition); !backstay.IsCode(err, backstay.CodeConflict) || !strings.Contains(err.Error(), "so much was reclaimed") {
		t.Errorf("commit: %v", err)
	}
	if err := w.small(w.vault, id, 1); err != nil && !backstay.IsCode(err, backstay.CodeExists) {
		t.Errorf("next attempt: %v", err)
	}
}

func TestListThatNobodyCanReadStopsWriters(t *testing.T) {
	w := newWorld(t)
	w.must(w.small(w.vault, newID(), 1))
	tr, err := w.open(w.store).Begin(w.ctx, vault.WriteOptions{Point: newID()})
	w.must(err)
	defer tr.Abort()
	r := w.condemn("00112233445566778899aabbccddeeff")
	w.everywhere(r.Object, []byte("x"))
	if err := w.small(w.open(w.store), newID(), 2); !backstay.IsCode(err, backstay.CodeDamaged) || !strings.Contains(err.Error(), "about to be deleted") {
		t.Errorf("begin: %v", err)
	}
	w.appended(chain.Record{Op: chain.Reclaim, Object: r.Object, Of: r.Seq})
	if _, err := tr.Commit(w.ctx, facts(newID()), definition); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("commit: %v", err)
	}
	w.appended(chain.Record{Op: chain.Reclaimed, Object: r.Object, Of: r.Seq})
	w.must(w.small(w.open(w.store), newID(), 2))
}

func TestVaultWhoseMakerDiedBeforeTheChainIsWritable(t *testing.T) {
	w := newWorld(t)
	w.everywhere(chain.Object(1), nil)
	id := newID()
	w.must(w.small(w.open(w.store), id, 1))
	s, err := w.chain().Read(w.ctx)
	w.must(err)
	if s.Seq != 2 || s.HeaderGeneration != 1 || s.HeaderObject != "vault.json" || s.HeaderHash != chain.Hash(seal.Hash(w.get(0, "vault.json"))) {
		t.Errorf("chain: %+v", s)
	}
}

func TestVaultOfVersion1IsReadAndNotWritten(t *testing.T) {
	dir := t.TempDir()
	w := &world{t: t, ctx: t.Context(), store: file.New(dir)}
	w.must(os.CopyFS(dir, os.DirFS("testdata/v1")))
	key, err := os.ReadFile("testdata/v1-recovery-key.txt")
	w.must(err)
	id, master, err := vault.Unwrap(w.ctx, w.store, backstay.NewSecret(key))
	w.must(err)
	v, err := vault.Open(w.ctx, w.store, id, master)
	w.must(err)
	w.restored(v, goldenFirst, "vda", goldenDisk(1))
	if err := w.small(v, newID(), 1); !backstay.IsCode(err, backstay.CodeConflict) || !strings.Contains(err.Error(), "version 1") {
		t.Errorf("write: %v", err)
	}
	if err := v.DropPoint(w.ctx, goldenFirst, created); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("drop: %v", err)
	}
	w.restored(v, goldenFirst, "vda", goldenDisk(1))
}

func TestChainNeverSaysWhatAPointHolds(t *testing.T) {
	w := newWorld(t)
	w.must(w.small(w.vault, newID(), 1, vault.WriteOptions{Now: func() time.Time { return created }}))
	for _, name := range w.objects(chain.Prefix) {
		for _, secret := range []string{"web01", "0c3e1c58", "vda", fmt.Sprintf("%x", w.master.Reveal()[:8])} {
			if bytes.Contains(w.get(0, name), []byte(secret)) {
				t.Errorf("%s has %q", name, secret)
			}
		}
	}
}
