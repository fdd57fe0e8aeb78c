package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// scrubbing is the two ways to scrub and repair.
type scrubbing struct {
	name   string
	scrub  func(blob.Store, vault.ScrubOptions) (vault.ScrubReport, error)
	repair func(blob.Store, []vault.Damage) (vault.RepairReport, error)
}

func (w *world) scrubbings() []scrubbing {
	return []scrubbing{{"with the key",
		func(s blob.Store, o vault.ScrubOptions) (vault.ScrubReport, error) { return w.open(s).Scrub(w.ctx, o) },
		func(s blob.Store, d []vault.Damage) (vault.RepairReport, error) {
			return w.open(s).Repair(w.ctx, d, vault.RepairOptions{})
		},
	}, {"without a key",
		func(s blob.Store, o vault.ScrubOptions) (vault.ScrubReport, error) {
			return vault.ScrubKeyless(w.ctx, s, vaultID, o)
		},
		func(s blob.Store, d []vault.Damage) (vault.RepairReport, error) {
			return vault.RepairKeyless(w.ctx, s, vaultID, d, vault.RepairOptions{})
		},
	}}
}

// plantSmall is plant with small disks, for tests that look at them often.
func plantSmall(t testing.TB) *planted {
	p := &planted{world: newWorld(t), points: [2]backstay.PointID{newID(), newID()}}
	data := sparse(21, 512<<10)
	p.data[0] = slices.Clone(data)
	p.backup(vault.WriteOptions{Point: p.points[0]}, source{target: "vda", disk: &disk{data: data}})
	changed := change(22, data, 4)
	p.data[1] = data
	p.backup(vault.WriteOptions{Point: p.points[1], Parent: p.points[0]}, source{target: "vda", disk: &disk{data: data}, changed: changed, mapped: true})
	return p
}

// all returns the objects of all copies.
func (w *world) all() []map[string][]byte {
	var copies []map[string][]byte
	for i, c := range w.copies {
		copies = append(copies, map[string][]byte{})
		w.must(c.List(w.ctx, "", func(info blob.Info) error {
			copies[i][info.Name] = w.get(i, info.Name)
			return nil
		}))
	}
	return copies
}

// demandSame fails unless every copy has exactly these objects.
func (w *world) demandSame(want map[string][]byte) {
	w.t.Helper()
	for i, got := range w.all() {
		if !maps.EqualFunc(got, want, bytes.Equal) {
			w.t.Fatalf("copy %d does not have the same objects with the same bytes", i+1)
		}
	}
}

// hurt returns the damages that can be done to an object. A nil value removes it.
func hurt(good, other []byte) map[string][]byte {
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 4
	return map[string][]byte{"deleted": nil, "cut": good[:len(good)/2], "emptied": {}, "zeroed": make([]byte, len(good)), "flipped": flipped, "swapped": other}
}

func (w *world) plantIn(copy int, name string, data []byte) {
	w.t.Helper()
	if data == nil {
		w.must(w.copies[copy].Delete(w.ctx, name))
		return
	}
	w.copies[copy].Replace(name, data)
}

func TestDamageInOneCopyIsFoundNamedAndRepairedToIdenticalBytes(t *testing.T) {
	p := plantSmall(t)
	names, good := p.objects(""), p.all()[0]
	for _, way := range p.scrubbings() {
		for n, name := range names {
			for what, data := range hurt(good[name], good[names[(n+1)%len(names)]]) {
				at := n % 3
				p.plantIn(at, name, data)
				report, err := way.scrub(p.store, vault.ScrubOptions{})
				p.must(err)
				want := vault.CopyDamaged
				if data == nil {
					want = vault.CopyMissing
				}
				if len(report.Damages) != 1 || report.Damages[0].Object != name || report.Damages[0].Copies[at] != want ||
					report.Damages[0].Lost() || len(report.Damages[0].Points) > 0 {
					t.Fatalf("%s: %s %s in copy %d: found %v", way.name, name, what, at+1, report.Damages)
				}
				for i, c := range report.Copies {
					if c.Unreadable != 0 || (c.Damaged+c.Missing == 1) != (i == at) {
						t.Fatalf("%s: %s %s in copy %d: counted %+v in copy %d", way.name, name, what, at+1, c, i+1)
					}
				}
				fixed, err := way.repair(p.store, report.Damages)
				p.must(err)
				if fixed.Copies != 1 || len(fixed.Lost)+len(fixed.Failed) != 0 {
					t.Fatalf("%s: %s %s: repaired %+v", way.name, name, what, fixed)
				}
				p.demandSame(good)
			}
		}
	}
	p.must(p.read(p.store))
}

func TestARenamedObjectIsMissingUnderItsName(t *testing.T) {
	p := plant(t)
	for _, prefix := range []string{"packs/", "indexes/"} {
		name := p.objects(prefix)[0]
		last := name[len(name)-1]
		other := name[:len(name)-1] + string(rune('0'+(last-'0'+1)%10))
		p.plantIn(1, other, p.get(1, name))
		p.plantIn(1, name, nil)
		report, err := p.vault.Scrub(p.ctx, vault.ScrubOptions{})
		p.must(err)
		found := map[string]vault.CopyState{}
		for _, d := range report.Damages {
			found[d.Object] = d.Copies[1]
		}
		if found[name] != vault.CopyMissing || found[other] != vault.CopyDamaged {
			t.Fatalf("%s was renamed to %s: found %v", name, other, report.Damages)
		}
		_, err = p.vault.Repair(p.ctx, report.Damages, vault.RepairOptions{})
		p.must(err)
		if !bytes.Equal(p.get(1, name), p.get(0, name)) {
			t.Fatalf("%s was not put back", name)
		}
		p.plantIn(1, other, nil)
	}
}

func TestWhatIsDamagedInEveryCopyIsLostAndNamesItsPointsAndIsLeftAsItIs(t *testing.T) {
	p := plantSmall(t)
	headers, err := p.vault.Points(p.ctx)
	p.must(err)
	good := p.all()[0]
	for _, way := range p.scrubbings() {
		for _, name := range slices.Concat(p.objects("packs/"), p.objects("points/")) {
			bad := slices.Clone(good[name])
			clear(bad[:len(bad)/2])
			for i := range p.copies {
				p.plantIn(i, name, bad)
			}
			var need []backstay.PointID
			for _, h := range headers {
				id := name[strings.LastIndexByte(name, '/')+1:]
				if slices.Contains(h.Packs, id) || string(h.Point) == id {
					need = append(need, h.Point)
				}
			}
			report, err := way.scrub(p.store, vault.ScrubOptions{})
			p.must(err)
			if len(report.Damages) != 1 || !report.Damages[0].Lost() || !slices.Equal(report.Damages[0].Points, need) {
				t.Fatalf("%s: %s is needed by %v: found %+v", way.name, name, need, report.Damages)
			}
			fixed, err := way.repair(p.store, report.Damages)
			p.must(err)
			if fixed.Copies != 0 || len(fixed.Lost) != 1 || !slices.Equal(fixed.Lost[0].Points, need) || !bytes.Equal(p.get(2, name), bad) {
				t.Fatalf("%s: %s cannot be repaired: %+v", way.name, name, fixed)
			}
			for i := range p.copies {
				p.plantIn(i, name, good[name])
			}
		}
	}
}

func TestAPackThatIsGoneFromEveryCopyIsLost(t *testing.T) {
	p := plant(t)
	name := p.objects("packs/")[0]
	for i := range p.copies {
		p.plantIn(i, name, nil)
	}
	for _, way := range p.scrubbings() {
		report, err := way.scrub(p.store, vault.ScrubOptions{})
		p.must(err)
		if len(report.Damages) != 1 || report.Damages[0].Object != name || len(report.Damages[0].Points) == 0 {
			t.Fatalf("%s: found %v", way.name, report.Damages)
		}
	}
}

func TestAPackIsPutTogetherFromCopiesNoneOfWhichIsWhole(t *testing.T) {
	p := plant(t)
	good := p.all()[0]
	for _, way := range p.scrubbings() {
		for _, name := range p.objects("packs/") {
			// Another place in each copy: the head, the middle, the footer.
			for i, at := range []int{20, len(good[name]) / 2, len(good[name]) - 40} {
				bad := slices.Clone(good[name])
				bad[at] ^= 1
				p.plantIn(i, name, bad)
			}
			report, err := way.scrub(p.store, vault.ScrubOptions{})
			p.must(err)
			fixed, err := way.repair(p.store, report.Damages)
			p.must(err)
			if fixed.Copies != 3 || len(fixed.Lost)+len(fixed.Failed) != 0 {
				t.Fatalf("%s: %s: %+v", way.name, name, fixed)
			}
			p.demandSame(good)
		}
	}
}

func TestUnreadableIsNoDamage(t *testing.T) {
	p := plant(t)
	good := p.all()[0]
	for _, call := range []fault.Call{fault.Get, fault.List} {
		for _, way := range p.scrubbings() {
			away := &fault.Fault{Kind: fault.Fail, Call: call}
			store := replica.New(p.copies[0], fault.Wrap(p.copies[1], away), p.copies[2])
			report, err := way.scrub(store, vault.ScrubOptions{})
			p.must(err)
			if len(report.Damages) != 0 || report.Copies[1].Unreadable != int64(len(good)) || report.Copies[1].Damaged+report.Copies[1].Missing != 0 || away.Hits() == 0 {
				t.Fatalf("%s, %s fails: %v, %+v", way.name, call, report.Damages, report.Copies[1])
			}
			// What is missing in one copy and unreadable in another is repaired in
			// the one, and the other is left alone.
			name := p.objects("packs/")[0]
			p.plantIn(2, name, nil)
			report, err = way.scrub(store, vault.ScrubOptions{})
			p.must(err)
			if len(report.Damages) != 1 || report.Damages[0].Copies[2] != vault.CopyMissing || call == fault.Get && report.Damages[0].Copies[1] != vault.CopyUnreadable {
				t.Fatalf("%s, %s fails: found %v", way.name, call, report.Damages)
			}
			_, err = way.repair(store, report.Damages)
			p.must(err)
			p.demandSame(good)
		}
	}
	all := &fault.Fault{Kind: fault.Fail, Call: fault.List, Prefix: "packs/"}
	store := replica.New(fault.Wrap(p.copies[0], all), fault.Wrap(p.copies[1], all), fault.Wrap(p.copies[2], all))
	if _, err := p.open(store).Scrub(p.ctx, vault.ScrubOptions{}); !backstay.IsCode(err, backstay.CodeVaultAway) {
		t.Fatalf("no copy can be listed: %v", err)
	}
}

// liar answers the first reads of an object with other bytes.
type liar struct {
	blob.Store
	mu    sync.Mutex
	lies  map[string]int // how many are left
	alike bool
}

func (l *liar) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	data, err := l.Store.Get(ctx, name, offset, length)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.lies[name] > 0 {
		l.lies[name]--
		at := 0
		if !l.alike {
			at = l.lies[name]
		}
		data[len(data)/2+at] ^= 8
	}
	return data, err
}

func TestOneWrongReadCondemnsNothing(t *testing.T) {
	p := plantSmall(t)
	for _, test := range []struct {
		lies  int
		alike bool
		want  vault.CopyState
	}{{1, true, vault.CopySound}, {2, true, vault.CopySound}, {9, false, vault.CopyUnreadable}, {9, true, vault.CopyDamaged}} {
		for _, name := range slices.Concat(p.objects("packs/")[:1], p.objects("points/")[:1], p.objects("keys/")[:1]) {
			for at := range p.copies {
				copies := []blob.Store{p.copies[0], p.copies[1], p.copies[2]}
				copies[at] = &liar{Store: copies[at], lies: map[string]int{name: test.lies}, alike: test.alike}
				report, err := vault.ScrubKeyless(p.ctx, replica.New(copies...), vaultID, vault.ScrubOptions{Points: p.points[:]})
				if strings.HasPrefix(name, "keys/") {
					report, err = vault.ScrubKeyless(p.ctx, replica.New(copies...), vaultID, vault.ScrubOptions{})
				}
				p.must(err)
				got := vault.CopySound
				if report.Copies[at].Unreadable > 0 {
					got = vault.CopyUnreadable
				}
				if report.Copies[at].Damaged > 0 {
					got = vault.CopyDamaged
				}
				if got != test.want {
					t.Errorf("%s read wrongly %d times (alike: %v) in copy %d: %s, want %s", name, test.lies, test.alike, at+1, got, test.want)
				}
			}
		}
	}
}

func TestAScrubInPartsLooksAtEverythingOnceAndKeepsWhatItFound(t *testing.T) {
	p := plant(t)
	names := p.objects("")
	for _, name := range names {
		p.plantIn(1, name, append(p.get(1, name), 0))
	}
	var objects int64
	var found []vault.Damage
	parts := 0
	for from := ""; ; parts++ {
		report, err := p.vault.Scrub(p.ctx, vault.ScrubOptions{From: from, Budget: 1, Suspects: found})
		p.must(err)
		objects += report.Objects
		found = report.Damages
		if from = report.Next; from == "" {
			break
		}
		if parts > len(names) {
			t.Fatal("it never ends")
		}
	}
	if parts < 3 || int(objects) != len(names) || len(found) != len(names) {
		t.Fatalf("in %d parts %d of %d objects were looked at and %d found damaged", parts, objects, len(names), len(found))
	}
}

func TestWhatIsPutOrRemovedMeanwhileIsNoDamage(t *testing.T) {
	p := plant(t)
	name, manifest := p.objects("packs/")[0], p.objects("points/")[0]
	suspects := []vault.Damage{
		{Object: name, Copies: []vault.CopyState{vault.CopySound, vault.CopyMissing, vault.CopySound}, Why: make([]string, 3)},
		{Object: manifest, Copies: []vault.CopyState{vault.CopySound, vault.CopyMissing, vault.CopyMissing}, Why: make([]string, 3)},
	}
	p.must(p.vault.DropPoint(p.ctx, p.points[0], created))
	report, err := p.vault.Scrub(p.ctx, vault.ScrubOptions{Suspects: suspects})
	p.must(err)
	if len(report.Damages) != 0 {
		t.Fatalf("found %v", report.Damages)
	}
}

func TestAPackThatNobodyNeedsMayBeMissingInSomeCopies(t *testing.T) {
	w := newWorld(t)
	points := [2]backstay.PointID{newID(), newID()}
	for i, id := range points {
		w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: sparse(uint64(5+i), 1<<20)}})
	}
	headers, err := w.vault.Points(w.ctx)
	w.must(err)
	w.must(w.vault.DropPoint(w.ctx, points[0], created))
	id := headers[0].Packs[0]
	w.plantIn(1, "packs/"+id[:2]+"/"+id, nil)
	report, err := w.vault.Scrub(w.ctx, vault.ScrubOptions{})
	w.must(err)
	if len(report.Damages) != 0 {
		t.Fatalf("found %v", report.Damages)
	}
}

func TestTheNewPacksOfAPointCanBeScrubbedAlone(t *testing.T) {
	p := plant(t)
	headers, err := p.vault.Points(p.ctx)
	p.must(err)
	report, err := p.vault.Scrub(p.ctx, vault.ScrubOptions{Points: p.points[:1]})
	p.must(err)
	if int(report.Objects) != 1+len(headers[0].Packs) {
		t.Fatalf("%d objects for a point with %d packs", report.Objects, len(headers[0].Packs))
	}
	fresh := slices.DeleteFunc(slices.Clone(headers[1].Packs), func(id string) bool { return slices.Contains(headers[0].Packs, id) })
	report, err = p.vault.Scrub(p.ctx, vault.ScrubOptions{Points: p.points[1:], Known: p.points[:1]})
	p.must(err)
	if len(fresh) == 0 || int(report.Objects) != 1+len(fresh) {
		t.Fatalf("%d objects for a point with %d new packs", report.Objects, len(fresh))
	}
}

// dying ends a process at its nth write: that one and all later ones do nothing.
type dying struct {
	blob.Store
	left *int
}

var errDied = errors.New("the process died")

func (d *dying) write() error {
	if *d.left--; *d.left < 0 {
		return errDied
	}
	return nil
}

func (d *dying) Put(ctx context.Context, name string, data []byte) error {
	if err := d.write(); err != nil {
		return err
	}
	return d.Store.Put(ctx, name, data)
}

func (d *dying) Delete(ctx context.Context, name string) error {
	if err := d.write(); err != nil {
		return err
	}
	return d.Store.Delete(ctx, name)
}

func TestARepairThatDiesAtAnyWriteLosesNothingAndTheNextOneMendsIt(t *testing.T) {
	p := plantSmall(t)
	good := p.all()[0]
	pack := p.objects("packs/")[0]
	scenes := map[string]func(){
		"one copy of everything": func() {
			for n, name := range p.objects("") {
				p.plantIn(n%3, name, append(slices.Clone(good[name]), 1))
			}
		},
		"all but one": func() {
			for n, name := range p.objects("") {
				p.plantIn(n%3, name, good[name][1:])
				p.plantIn((n+1)%3, name, nil)
			}
		},
		"a pack in pieces": func() {
			for i, at := range []int{20, len(good[pack]) / 2, len(good[pack]) - 40} {
				bad := slices.Clone(good[pack])
				bad[at] ^= 1
				p.plantIn(i, pack, bad)
			}
		},
	}
	scenes["a pack of which one copy alone has the head"] = func() {
		for i, at := range []int{len(good[pack]) - 40, 20, 20} {
			bad := slices.Clone(good[pack])
			bad[at] ^= 1
			p.plantIn(i, pack, bad)
		}
	}
	for scene, spoil := range scenes {
		for _, way := range p.scrubbings() {
			writes := 0
			for died := true; died; writes++ {
				for name, data := range good {
					for i := range p.copies {
						p.plantIn(i, name, data)
					}
				}
				spoil()
				left := writes
				mortal := replica.New(&dying{p.copies[0], &left}, &dying{p.copies[1], &left}, &dying{p.copies[2], &left})
				report, err := way.scrub(p.store, vault.ScrubOptions{})
				p.must(err)
				_, err = way.repair(mortal, report.Damages)
				p.must(err)
				died = left < 0
				what := fmt.Sprintf("%s, %s, dead at write %d", scene, way.name, writes+1)
				report, err = way.scrub(p.store, vault.ScrubOptions{})
				p.must(err)
				fixed, err := way.repair(p.store, report.Damages)
				p.must(err)
				if len(fixed.Lost)+len(fixed.Failed) > 0 {
					t.Fatalf("%s: %+v", what, fixed)
				}
				p.demandSame(good)
			}
			if writes < 4 {
				t.Fatalf("%s: only %d writes", scene, writes)
			}
		}
	}
	p.must(p.read(p.store))
}

func TestAManifestThatWasTakenAwayIsLost(t *testing.T) {
	p := plant(t)
	for i := range p.copies {
		p.plantIn(i, "points/"+string(p.points[0]), nil)
	}
	for _, way := range p.scrubbings() {
		report, err := way.scrub(p.store, vault.ScrubOptions{})
		p.must(err)
		if len(report.Damages) != 1 || !report.Damages[0].Lost() || !slices.Equal(report.Damages[0].Points, p.points[:1]) {
			t.Fatalf("%s: found %v", way.name, report.Damages)
		}
	}
}

func TestWhatIsLeftOfADroppedPointIsNoDamageAndNotPutBack(t *testing.T) {
	p := plant(t)
	name := "points/" + string(p.points[0])
	good := p.get(1, name)
	p.must(p.vault.DropPoint(p.ctx, p.points[0], created))
	p.plantIn(1, name, good) // the removal did not reach this copy
	for _, way := range p.scrubbings() {
		report, err := way.scrub(p.store, vault.ScrubOptions{})
		p.must(err)
		if len(report.Damages) != 0 {
			t.Fatalf("%s: found %v", way.name, report.Damages)
		}
		_, err = way.repair(p.store, []vault.Damage{{Object: name}})
		p.must(err)
		if _, err := p.copies[0].Stat(p.ctx, name); !errors.Is(err, blob.ErrNotExist) {
			t.Fatalf("%s: the manifest came back: %v", way.name, err)
		}
	}
}

func TestADroppedPointIsNotPutBack(t *testing.T) {
	p := plant(t)
	name := "points/" + string(p.points[0])
	p.plantIn(1, name, nil)
	report, err := p.vault.Scrub(p.ctx, vault.ScrubOptions{})
	p.must(err)
	_, err = p.vault.Repair(p.ctx, report.Damages, vault.RepairOptions{Gone: p.points[:1]})
	p.must(err)
	if _, err := p.copies[1].Stat(p.ctx, name); !errors.Is(err, blob.ErrNotExist) {
		t.Fatalf("the manifest is in copy 2: %v", err)
	}
}

func TestANewPointDoesNotReferToWhatIsKnownToBeLost(t *testing.T) {
	p := plant(t)
	var lost []string
	for _, name := range p.objects("packs/") {
		bad := slices.Clone(p.get(0, name))
		bad[len(bad)/2] ^= 1
		for i := range p.copies {
			p.plantIn(i, name, bad)
		}
		lost = append(lost, name[strings.LastIndexByte(name, '/')+1:])
	}
	p.vault = p.open(p.store)
	ids := [2]backstay.PointID{newID(), newID()}
	for i, avoid := range [][]string{nil, lost} {
		p.backup(vault.WriteOptions{Point: ids[i], Parent: p.points[1], Avoid: avoid},
			source{target: "vda", disk: &disk{data: p.data[1]}, mapped: true})
	}
	if _, err := restore(p.ctx, p.open(p.store), ids[0], "vda"); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Fatalf("the damage was not where it matters: %v", err)
	}
	p.restored(p.open(p.store), ids[1], "vda", p.data[1])
}

func TestAnIndexThatNoCopyHasIsMadeAnewFromThePacks(t *testing.T) {
	p := plant(t)
	lost := p.objects("indexes/")[0]
	for i := range p.copies {
		p.plantIn(i, lost, []byte("torn"))
	}
	p.vault = p.open(p.store)
	report, err := p.vault.Scrub(p.ctx, vault.ScrubOptions{})
	p.must(err)
	fixed, err := p.vault.Repair(p.ctx, report.Damages, vault.RepairOptions{})
	p.must(err)
	if len(fixed.Lost)+len(fixed.Failed) != 0 || slices.Contains(p.objects("indexes/"), lost) {
		t.Fatalf("%+v", fixed)
	}
	report, err = p.vault.Scrub(p.ctx, vault.ScrubOptions{})
	p.must(err)
	if len(report.Damages) != 0 {
		t.Fatalf("found %v", report.Damages)
	}
	// What it listed serves deduplication again.
	p.vault = p.open(p.store)
	stats := p.backup(vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: p.data[0]}})
	if stats[0].ChunksNew != 0 {
		t.Fatalf("%d chunks were stored again", stats[0].ChunksNew)
	}
}

func TestVaultsOfEveryReleasedFormatAreSound(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		dir, err := filepath.Abs("testdata/" + version)
		if err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(dir + "-recovery-key.txt")
		if err != nil {
			t.Fatal(err)
		}
		store := file.New(dir)
		id, keyset, err := vault.Unwrap(t.Context(), store, backstay.NewSecret(key))
		if err != nil {
			t.Fatal(err)
		}
		v, err := vault.Open(t.Context(), store, id, keyset)
		if err != nil {
			t.Fatal(err)
		}
		report, err := v.Scrub(t.Context(), vault.ScrubOptions{})
		if err != nil || len(report.Damages) != 0 || report.Unproved != 0 || report.Objects < 7 {
			t.Errorf("%s: %+v, %v", version, report, err)
		}
		report, err = vault.ScrubKeyless(t.Context(), store, id, vault.ScrubOptions{})
		if err != nil || len(report.Damages) != 0 || report.Unproved != 0 || report.Objects < 7 {
			t.Errorf("%s without a key: %+v, %v", version, report, err)
		}
	}
}
