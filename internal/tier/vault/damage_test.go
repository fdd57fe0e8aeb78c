package vault_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// planted is a vault with two points, of which the second is an incremental.
type planted struct {
	*world
	points [2]backstay.PointID
	data   [2][]byte
}

func plant(t testing.TB) *planted {
	p := &planted{world: newWorld(t)}
	data := sparse(21, 6<<20)
	p.points = [2]backstay.PointID{newID(), newID()}
	p.data[0] = slices.Clone(data)
	p.backup(vault.WriteOptions{Point: p.points[0]}, source{target: "vda", disk: &disk{data: data}})
	changed := change(22, data, 12)
	p.data[1] = data
	p.backup(vault.WriteOptions{Point: p.points[1], Parent: p.points[0]}, source{target: "vda", disk: &disk{data: data}, changed: changed, mapped: true})
	return p
}

// read opens the vault afresh and restores both points. It fails the test if
// anything is served that was not backed up (I4).
func (p *planted) read(s blob.Store) error {
	p.t.Helper()
	id, master, err := vault.Unwrap(p.ctx, s, p.owner)
	if err != nil {
		return err
	}
	v, err := vault.Open(p.ctx, s, id, master)
	if err != nil {
		return err
	}
	var errs []error
	for i, point := range p.points {
		got, err := restore(p.ctx, v, point, "vda")
		if err == nil && !bytes.Equal(got, p.data[i]) {
			p.t.Errorf("wrong bytes were served of point %d", i)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// damage tells whether an error says what a person must know: damaged, or the
// wrong key; never "cannot be reached".
func isDamage(err error) bool {
	return backstay.IsCode(err, backstay.CodeDamaged) || backstay.IsCode(err, backstay.CodeVaultKey) || backstay.IsCode(err, backstay.CodeUnknownPoint) || backstay.IsCode(err, backstay.CodeUnknownVault)
}

// rebuildable tells whether restoring can do without an object: an index can be
// made again from packs, and without the chain points are offered with a warning.
func rebuildable(name string) bool {
	return strings.HasPrefix(name, "indexes/") || strings.HasPrefix(name, "chain/")
}

func TestAnyFlippedBitIsDetectedAndOneCopyIsEnough(t *testing.T) {
	p := plant(t)
	r := rand.New(rand.NewPCG(1, 1))
	for _, name := range p.objects("") {
		good := p.get(0, name)
		places := []int{0, 9, 13, 17, 33, 49, 55, 63, len(good) - 1, len(good) - 17, len(good) - 33, len(good) - 60}
		for range 5 {
			places = append(places, r.IntN(len(good)))
		}
		for _, at := range places {
			at = max(0, min(at, len(good)-1))
			bad := slices.Clone(good)
			bad[at] ^= 1 << r.IntN(8)
			if vault.CheckObject(vaultID, p.master, name, good) != nil {
				t.Fatalf("%s is said to be damaged", name)
			}
			if err := vault.CheckObject(vaultID, p.master, name, bad); err == nil && !strings.HasPrefix(name, "keys/") {
				t.Errorf("%s: a flipped bit of byte %d of %d is not noticed", name, at, len(good))
			}
			for i := range p.copies {
				p.copies[i].Replace(name, bad)
			}
			if err := p.read(p.store); err != nil && !isDamage(err) {
				t.Errorf("%s, byte %d: %v", name, at, err)
			} else if err == nil && (name == "vault.json" || strings.HasPrefix(name, "keys/") || strings.HasPrefix(name, "points/")) {
				t.Errorf("%s, byte %d: nobody noticed", name, at)
			}
			p.copies[r.IntN(3)].Replace(name, good)
			if err := p.read(p.store); err != nil {
				t.Errorf("%s, byte %d, one good copy: %v", name, at, err)
			}
		}
		for i := range p.copies {
			p.copies[i].Replace(name, good)
		}
	}
}

func TestCutEmptiedSwappedAndMissingObjectsAreDetected(t *testing.T) {
	p := plant(t)
	other := plant(t)
	all := p.objects("")
	for n, name := range all {
		good := p.get(0, name)
		bad := map[string][]byte{"cut": good[:len(good)-1], "cut in half": good[:len(good)/2], "empty": {}, "zeros": make([]byte, len(good)),
			"longer": append(slices.Clone(good), 0), "swapped": p.get(0, all[(n+1)%len(all)])}
		if theirs := other.objects(name[:strings.IndexAny(name+"/", "/")]); len(theirs) > 0 {
			bad["another vault's"] = other.get(0, theirs[0])
		}
		for what, data := range bad {
			if err := vault.CheckObject(vaultID, p.master, name, data); err == nil && !strings.HasPrefix(name, "keys/") {
				t.Errorf("%s, %s: not noticed", name, what)
			}
			for _, c := range p.copies {
				c.Replace(name, data)
			}
			if err := p.read(p.store); err != nil && !isDamage(err) {
				t.Errorf("%s, %s: %v", name, what, err)
			} else if err == nil && !rebuildable(name) && !(strings.HasPrefix(name, "packs/") && (what == "cut" || what == "longer")) {
				// A pack whose end alone is wrong still serves its chunks, rightly.
				t.Errorf("%s, %s: nobody noticed", name, what)
			}
			p.copies[2].Replace(name, good)
			p.must(p.read(p.store))
		}
		for _, c := range p.copies {
			p.must(c.Delete(p.ctx, name))
		}
		if err := p.read(p.store); err != nil && !isDamage(err) || err == nil && !rebuildable(name) {
			t.Errorf("%s missing: %v", name, err)
		}
		for _, c := range p.copies {
			c.Replace(name, good)
		}
	}
	p.must(p.read(p.store))
}

func TestDamagedPointIsListedNotHidden(t *testing.T) {
	p := plant(t)
	name := "points/" + string(p.points[0])
	for _, c := range p.copies {
		c.Replace(name, []byte("nonsense"))
	}
	headers, err := p.open(p.store).Points(p.ctx)
	p.must(err)
	if len(headers) != 2 || !backstay.IsCode(headers[0].Damage, backstay.CodeDamaged) || headers[1].Damage != nil {
		t.Errorf("points: %+v", headers)
	}
}

func TestUnreadableIsNotDamaged(t *testing.T) {
	p := plant(t)
	// Two copies of every pack are damaged, the third cannot be read: nobody may
	// say that the data is lost (I5).
	for _, name := range p.objects("packs/") {
		p.copies[0].Replace(name, []byte("x"))
		p.must(p.copies[1].Delete(p.ctx, name))
	}
	away := &fault.Fault{Kind: fault.Fail, Call: fault.Get, Prefix: "packs/"}
	s := replica.New(p.copies[0], p.copies[1], fault.Wrap(p.copies[2], away))
	if err := p.read(s); !backstay.IsCode(err, backstay.CodeVaultAway) || backstay.IsCode(err, backstay.CodeDamaged) || away.Hits() == 0 {
		t.Errorf("third copy away: %v", err)
	}
	p.must(p.read(p.store))
}

func TestLostIndexesAreMadeAgainFromPacks(t *testing.T) {
	p := plant(t)
	for _, name := range p.objects("indexes/") {
		for _, c := range p.copies {
			p.must(c.Delete(p.ctx, name))
		}
	}
	p.must(p.read(p.store))
}

func TestBackupHealsWhatItsParentLost(t *testing.T) {
	p := plant(t)
	// One copy of the parent's packs is gone: nothing of them may be referred to
	// by a new point (I2), so it stores them again.
	for _, name := range p.objects("packs/") {
		p.must(p.copies[1].Delete(p.ctx, name))
	}
	id := newID()
	v := p.open(p.store)
	_, err := backup(p.ctx, v, vault.WriteOptions{Point: id, Parent: p.points[1]}, source{target: "vda", disk: &disk{data: p.data[1]}, mapped: true})
	p.must(err)
	p.restored(p.open(p.copies[1]), id, "vda", p.data[1])
}

func TestBackupOnADamagedTableComparesEverything(t *testing.T) {
	p := plant(t)
	for _, name := range p.objects("packs/") {
		good := p.get(0, name)
		bad := make([]byte, len(good))
		for _, c := range p.copies {
			c.Replace(name, bad)
		}
	}
	data := slices.Clone(p.data[1])
	changed := change(9, data, 2)
	id := newID()
	stats, err := backup(p.ctx, p.open(p.store), vault.WriteOptions{Point: id, Parent: p.points[1]}, source{target: "vda", disk: &disk{data: data}, changed: changed, mapped: true})
	p.must(err)
	if !strings.Contains(stats[0].Mode, "full compare") {
		t.Errorf("mode: %s", stats[0].Mode)
	}
}

// flaky is a transfer into a world whose store has faults.
func (w *world) flaky(faults ...*fault.Fault) (*fault.Store, *vault.Vault) {
	s := fault.Wrap(w.copies[0], faults...)
	return s, w.open(replica.New(s, w.copies[1], w.copies[2]))
}

func TestKilledAtAnyPutNothingIsVisibleAndTheNextAttemptWorks(t *testing.T) {
	data := make([]byte, 18<<20)
	r := rand.New(rand.NewPCG(5, 5))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for _, kind := range []fault.Kind{fault.Fail, fault.FailLate} {
		for nth := 1; ; nth++ {
			w := newWorld(t)
			f := &fault.Fault{Kind: kind, Nth: nth, Onwards: true}
			_, v := w.flaky(f)
			id := newID()
			var packs []string
			o := vault.WriteOptions{Point: id, OnPack: func(id string) { packs = append(packs, id) }}
			_, err := backup(w.ctx, v, o, source{target: "vda", disk: &disk{data: data}})
			if f.Hits() == 0 {
				w.must(err)
				if nth < 5 {
					t.Fatalf("only %d puts", nth-1)
				}
				break
			}
			headers, listErr := w.open(w.store).Points(w.ctx)
			w.must(listErr)
			visible, manifest := len(headers) > 0, len(w.objects("points/")) > 0
			if err == nil != visible || err != nil && kind == fault.Fail && !backstay.IsCode(err, backstay.CodeVaultAway) {
				if kind == fault.Fail || !visible {
					t.Fatalf("%s at put %d: %v, visible: %v", kind, nth, err, visible)
				}
			}
			if _, err := w.open(w.store).OpenPoint(w.ctx, id); visible != (err == nil) {
				t.Fatalf("%s at put %d: visible: %v, and it opens: %v", kind, nth, visible, err)
			}
			left, err := w.open(w.store).Leftovers(w.ctx)
			w.must(err)
			if (len(left) == 1) != (manifest && !visible) || len(left) > 0 && left[0].Dropped {
				t.Fatalf("%s at put %d: leftovers %+v", kind, nth, left)
			}
			d := &disk{data: data}
			stats, err := backup(w.ctx, w.open(w.store), vault.WriteOptions{Point: id, Packs: packs}, source{target: "vda", disk: d})
			if manifest {
				if !backstay.IsCode(err, backstay.CodeExists) {
					t.Fatalf("%s at put %d: a committed point is written again: %v", kind, nth, err)
				}
			} else {
				w.must(err)
				if stats[0].BytesNew > max(0, int64(len(data))-int64(len(packs))*15<<20)+10000 && len(packs) > 0 {
					t.Errorf("%s at put %d: %d packs were durable, and %d bytes are stored again", kind, nth, len(packs), stats[0].BytesNew)
				}
			}
			w.restored(w.open(w.store), id, "vda", data)
		}
	}
}

func TestPutThatFailsInOneCopyLeavesNoPoint(t *testing.T) {
	data := sparse(2, 4<<20)
	for _, prefix := range []string{"packs/", "indexes/", "points/", "chain/"} {
		for n := range 3 {
			w := newWorld(t)
			f := &fault.Fault{Kind: fault.Full, Prefix: prefix}
			stores := []blob.Store{w.copies[0], w.copies[1], w.copies[2]}
			stores[n] = fault.Wrap(stores[n], f)
			id := newID()
			_, err := backup(w.ctx, w.open(replica.New(stores...)), vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
			if !backstay.IsCode(err, backstay.CodeVaultFull) || f.Hits() == 0 {
				t.Errorf("%s full in copy %d: %v", prefix, n, err)
			}
			headers, err := w.open(w.store).Points(w.ctx)
			w.must(err)
			// The chain's record counts from when the first copy has it: somebody may have read it.
			if counts := prefix == "chain/" && n > 0; len(headers) != 0 != counts {
				t.Errorf("%s full in copy %d: points %+v", prefix, n, headers)
			}
			// With the manifest in place, all that is left to do is done when the next attempt begins.
			_, err = backup(w.ctx, w.vault, vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
			if prefix != "chain/" || !backstay.IsCode(err, backstay.CodeExists) {
				w.must(err)
			}
			w.restored(w.open(w.store), id, "vda", data)
		}
	}
}

func TestManifestOfACrashedCommitIsCompleted(t *testing.T) {
	p := plant(t)
	name := "points/" + string(p.points[1])
	p.must(p.copies[1].Delete(p.ctx, name))
	p.must(p.copies[2].Delete(p.ctx, name))
	headers, err := p.vault.Points(p.ctx)
	p.must(err)
	if len(headers) != 2 || headers[1].Copies != 1 || headers[1].Want != 3 {
		t.Errorf("a manifest in one of three copies: %+v", headers)
	}
	if _, err := p.vault.Begin(p.ctx, vault.WriteOptions{Point: p.points[1]}); !backstay.IsCode(err, backstay.CodeExists) {
		t.Errorf("begin: %v", err)
	}
	for i := range p.copies {
		p.get(i, name)
	}
}

func TestWhatIsChangedOnItsWayIsNeverOffered(t *testing.T) {
	for _, prefix := range []string{"packs/", "indexes/", "points/"} {
		for _, kind := range []fault.Kind{fault.Corrupt, fault.Cut} {
			for n := range 3 {
				w := newWorld(t)
				f := &fault.Fault{Kind: kind, Prefix: prefix, Nth: 1}
				stores := []blob.Store{w.copies[0], w.copies[1], w.copies[2]}
				stores[n] = fault.Wrap(stores[n], f)
				s := replica.New(stores...)
				id := newID()
				var packs []string
				data := sparse(2, 4<<20)
				_, err := backup(w.ctx, w.open(s), vault.WriteOptions{Point: id, OnPack: func(id string) { packs = append(packs, id) }}, source{target: "vda", disk: &disk{data: data}})
				if !backstay.IsCode(err, backstay.CodeValidateFailed) || !strings.Contains(err.Error(), prefix) || f.Hits() != 1 {
					t.Errorf("%s %s in copy %d: %v", kind, prefix, n, err)
				}
				headers, err := w.open(s).Points(w.ctx)
				w.must(err)
				if len(headers) != 0 {
					t.Errorf("%s %s in copy %d: offered: %+v", kind, prefix, n, headers)
				}
				_, err = backup(w.ctx, w.open(s), vault.WriteOptions{Point: id, Packs: packs}, source{target: "vda", disk: &disk{data: data}})
				w.must(err)
				for _, c := range w.copies {
					w.restored(w.open(c), id, "vda", data)
				}
			}
		}
	}
}

func TestOfTwoWritersOfOnePointOneWins(t *testing.T) {
	w := newWorld(t)
	id := newID()
	var writers []*vault.Writer
	for seed := range uint64(2) {
		tr, err := w.open(w.store).Begin(w.ctx, vault.WriteOptions{Point: id})
		w.must(err)
		defer tr.Abort()
		_, err = tr.WriteDisk(w.ctx, vault.DiskSource{Target: "vda", Image: &disk{data: sparse(30+seed, 1<<20)}})
		w.must(err)
		writers = append(writers, tr)
	}
	_, err := writers[1].Commit(w.ctx, facts(id), definition)
	w.must(err)
	if _, err := writers[0].Commit(w.ctx, facts(id), definition); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("second commit: %v", err)
	}
	w.restored(w.open(w.store), id, "vda", sparse(31, 1<<20))
}

func TestStoreThatRefusesIsNamed(t *testing.T) {
	for kind, code := range map[fault.Kind]backstay.Code{fault.ReadOnly: backstay.CodeVaultReadOnly, fault.Full: backstay.CodeVaultFull, fault.Fail: backstay.CodeVaultAway} {
		w := newWorld(t)
		f := &fault.Fault{Kind: kind, Prefix: "packs/"}
		_, v := w.flaky(f)
		_, err := backup(w.ctx, v, vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: sparse(1, 1<<20)}})
		if !backstay.IsCode(err, code) || f.Hits() == 0 {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestFailingSourceAndCancelEndATransfer(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("disk is broken")
	_, err := backup(w.ctx, w.vault, vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: sparse(1, 9<<20), fail: broken}})
	if !backstay.IsCode(err, backstay.CodeTransferFailed) || !errors.Is(err, broken) {
		t.Errorf("broken source: %v", err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	o := vault.WriteOptions{Point: newID(), Progress: func(string, int64, int64) { cancel() }}
	if _, err := backup(ctx, w.vault, o, source{target: "vda", disk: &disk{data: sparse(1, 9<<20)}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if len(w.objects("points/")) != 0 {
		t.Error("a point is visible")
	}
}

func TestVaultOnFolders(t *testing.T) {
	var stores []blob.Store
	for range 3 {
		dir := t.TempDir()
		if err := file.Init(dir); err != nil {
			t.Fatal(err)
		}
		stores = append(stores, file.New(dir))
	}
	w := &world{t: t, ctx: t.Context(), store: replica.New(stores...), copies: []*mem.Store{mem.New()}}
	_, recipient, err := vault.NewIdentity()
	w.must(err)
	w.master, err = vault.Create(w.ctx, w.store, vault.CreateOptions{ID: vaultID, Name: "main", Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created})
	w.must(err)
	w.vault = w.open(w.store)
	data, id := sparse(1, 12<<20), newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
	w.restored(w.open(stores[2]), id, "vda", data)
}
