package vault_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// joining is the two ways to bring a copy to what others have.
type joining struct {
	name      string
	introduce func(sound, to blob.Store) error
	fill      func(sound, to blob.Store, o vault.FillOptions) (vault.FillReport, error)
}

func (w *world) joinings() []joining {
	return []joining{{"with the key",
		func(sound, to blob.Store) error { return w.open(sound).Introduce(w.ctx, to) },
		func(sound, to blob.Store, o vault.FillOptions) (vault.FillReport, error) {
			return w.open(sound).Fill(w.ctx, to, o)
		},
	}, {"without a key",
		func(sound, to blob.Store) error { return vault.IntroduceKeyless(w.ctx, sound, to, vaultID) },
		func(sound, to blob.Store, o vault.FillOptions) (vault.FillReport, error) {
			return vault.FillKeyless(w.ctx, sound, to, vaultID, o)
		},
	}}
}

// sound is the vault without its last copy, which is the one that joins.
func (w *world) sound() blob.Store { return replica.New(w.copies[0], w.copies[1]) }

func (j joining) join(w *world, to blob.Store) vault.FillReport {
	w.t.Helper()
	w.must(j.introduce(w.sound(), to))
	report, err := j.fill(w.sound(), to, vault.FillOptions{})
	w.must(err)
	return report
}

// empty puts an empty unit in the place of the last copy.
func (w *world) empty() {
	w.copies[2] = mem.New()
	w.store = replica.New(w.copies[0], w.copies[1], w.copies[2])
}

func TestAnEmptyUnitThatJoinsHasEverythingAfterwards(t *testing.T) {
	p := plantSmall(t)
	good := p.all()[0]
	for _, way := range p.joinings() {
		p.empty()
		w := way.join(p.world, p.copies[2])
		p.demandSame(good)
		if w.Next != "" || w.Replaced != 0 || len(w.Bad)+len(w.Unsound) != 0 {
			t.Errorf("%s: %+v", way.name, w)
		}
		p.must(p.read(p.copies[2]))
		again, err := way.fill(p.sound(), p.copies[2], vault.FillOptions{})
		p.must(err)
		if again.Copied != 0 || again.Objects < int64(len(good)) {
			t.Errorf("%s: what was there was copied again: %+v", way.name, again)
		}
	}
}

func TestTheNewestPointIsFilledInFirst(t *testing.T) {
	p := plantSmall(t)
	p.empty()
	p.must(vault.IntroduceKeyless(p.ctx, p.sound(), p.copies[2], vaultID))
	stop := errors.New("enough")
	_, err := vault.FillKeyless(p.ctx, p.sound(), p.copies[2], vaultID, vault.FillOptions{
		First:  []backstay.PointID{p.points[1], p.points[0]},
		Filled: func(id backstay.PointID) error { return stop },
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	v := p.open(p.copies[2])
	p.restored(v, p.points[1], "vda", p.data[1])
}

func TestAUnitThatReturnsKeepsWhatIsRightAndGetsTheRest(t *testing.T) {
	p := plantSmall(t)
	good := p.all()[0]
	names := p.objects("")
	for _, way := range p.joinings() {
		for n, name := range names {
			for what, data := range hurt(good[name], good[names[(n+1)%len(names)]]) {
				p.plantIn(2, name, data)
				w := way.join(p.world, p.copies[2])
				p.demandSame(good)
				control := !strings.HasPrefix(name, "packs/") && !strings.HasPrefix(name, "indexes/") && !strings.HasPrefix(name, "points/")
				if w.Copied > 1 || w.Copied == 0 && !control {
					t.Fatalf("%s: %s %s: %d objects were copied", way.name, name, what, w.Copied)
				}
			}
		}
	}
}

func TestWhatOnlyTheReturningUnitHasOfHeadersKeysAndChainIsRemoved(t *testing.T) {
	p := plantSmall(t)
	// A change of keys, and a commit, that reached the third copy alone.
	before := p.all()
	_, recipient, err := vault.NewIdentity()
	p.must(err)
	_, err = p.vault.AddRecipient(p.ctx, vault.NewRecipient{Recipient: recipient, Purpose: backstay.ForPerson}, created)
	p.must(err)
	p.backup(vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: p.data[0]}})
	for i, c := range p.copies[:2] {
		p.must(c.List(p.ctx, "", func(info blob.Info) error {
			if _, ok := before[i][info.Name]; !ok {
				return c.Delete(p.ctx, info.Name)
			}
			return nil
		}))
		for name, data := range before[i] {
			c.Replace(name, data)
		}
	}
	stale := p.all()[2]
	for _, way := range p.joinings() {
		for name, data := range stale {
			p.plantIn(2, name, data)
		}
		way.join(p.world, p.copies[2])
		v := p.open(p.store)
		points, err := v.Points(p.ctx)
		p.must(err)
		if got, _ := v.Generation(); got != 1 || len(points) != 2 {
			t.Fatalf("%s: header %d, %d points: what was never committed counts", way.name, got, len(points))
		}
		for name := range p.all()[2] {
			folder, _, _ := strings.Cut(name, "/")
			if _, ok := before[0][name]; !ok && slices.Contains([]string{"chain", "headers", "keys"}, folder) {
				t.Errorf("%s: %s is still there", way.name, name)
			}
		}
		p.must(p.read(p.store))
	}
}

func TestAJoinThatDiesAtAnyWriteIsGoneOnWith(t *testing.T) {
	p := plantSmall(t)
	good := p.all()[0]
	for _, way := range p.joinings() {
		for scene, spoil := range map[string]func(){
			"an empty unit": func() { p.empty() },
			"a unit with wrong objects": func() {
				for name := range good {
					p.plantIn(2, name, append(slices.Clone(good[name]), 1))
				}
				p.plantIn(2, "chain/000000000099.json", []byte("junk"))
			},
		} {
			died := true
			for writes := 0; died; writes += 1 + writes/4 {
				p.empty()
				spoil()
				left := writes
				mortal := &dying{p.copies[2], &left}
				err := way.introduce(p.sound(), mortal)
				if err == nil {
					_, err = way.fill(p.sound(), mortal, vault.FillOptions{First: p.points[:]})
				}
				if died = err != nil; died && !errors.Is(err, errDied) {
					t.Fatalf("%s, %s, %d writes: %v", way.name, scene, writes, err)
				}
				for i := range 2 {
					if !maps.EqualFunc(p.all()[i], good, bytes.Equal) {
						t.Fatalf("%s, %s, %d writes: a sound copy was changed", way.name, scene, writes)
					}
				}
				way.join(p.world, p.copies[2])
				p.demandSame(good)
			}
		}
	}
}

func TestTheLastSoundCopyIsNeverReplaced(t *testing.T) {
	p := plantSmall(t)
	good := p.all()[0]
	name := p.objects("packs/")[0]
	for _, way := range p.joinings() {
		for what, data := range hurt(good[name], good[p.objects("indexes/")[0]]) {
			p.plantIn(0, name, data)
			p.plantIn(1, name, data)
			w := way.join(p.world, p.copies[2])
			if !bytes.Equal(p.get(2, name), good[name]) || len(w.Unsound) != 0 {
				t.Fatalf("%s: %s: the last sound copy of %s is gone: %+v", way.name, what, name, w)
			}
			// And one that is wrong, too, is not taken away where nothing better is known.
			bad := append(slices.Clone(good[name]), 7)
			p.plantIn(2, name, bad)
			w = way.join(p.world, p.copies[2])
			if !bytes.Equal(p.get(2, name), bad) || !slices.Equal(w.Unsound, []string{name}) {
				t.Fatalf("%s: %s: %+v", way.name, what, w)
			}
			for i := range 3 {
				p.plantIn(i, name, good[name])
			}
		}
	}
}

func TestAUnitThatCannotBeReadIsNotFilledAndNothingInItIsTouched(t *testing.T) {
	p := plantSmall(t)
	good := p.all()[0]
	for _, way := range p.joinings() {
		for _, call := range []fault.Call{fault.Get, fault.List} {
			away := fault.Wrap(p.copies[2], &fault.Fault{Kind: fault.Fail, Call: call})
			if err := way.introduce(p.sound(), away); !backstay.IsCode(err, backstay.CodeVaultAway) {
				t.Errorf("%s: %s fails: introduce: %v", way.name, call, err)
			}
			if _, err := way.fill(p.sound(), away, vault.FillOptions{}); !backstay.IsCode(err, backstay.CodeVaultAway) {
				t.Errorf("%s: %s fails: fill: %v", way.name, call, err)
			}
			p.demandSame(good)
		}
		// Sound copies that cannot be asked: what is only in this one stays.
		p.plantIn(2, "headers/00000009.json", []byte("x"))
		shy := replica.New(p.copies[0], fault.Wrap(p.copies[1], &fault.Fault{Kind: fault.Fail, Call: fault.Stat}))
		if err := way.introduce(shy, p.copies[2]); !backstay.IsCode(err, backstay.CodeVaultAway) || len(p.get(2, "headers/00000009.json")) != 1 {
			t.Errorf("%s: a copy that did not answer was taken for one that has nothing: %v", way.name, err)
		}
		p.plantIn(2, "headers/00000009.json", nil)
	}
}

func TestAUnitOfAnotherVaultDoesNotJoin(t *testing.T) {
	p, other := plantSmall(t), mem.New()
	identity, recipient, err := vault.NewIdentity()
	p.must(err)
	_ = identity
	_, err = vault.Create(p.ctx, other, vault.CreateOptions{ID: "7f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b12", Name: "other", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created})
	p.must(err)
	for _, way := range p.joinings() {
		if err := way.introduce(p.sound(), other); !backstay.IsCode(err, backstay.CodeConflict) {
			t.Errorf("%s: %v", way.name, err)
		}
	}
}

// TestWhatIsWrittenWhileAUnitJoins backs up between every two steps: with writers
// that know of the unit, and with one that began before it.
func TestWhatIsWrittenWhileAUnitJoinsIsInItInTheEnd(t *testing.T) {
	for _, way := range newWorld(t).joinings() {
		p := plantSmall(t)
		way = p.joinings()[slices.IndexFunc(p.joinings(), func(j joining) bool { return j.name == way.name })]
		p.empty()
		old := p.open(p.sound())
		add := func(v *vault.Vault, seed uint64) {
			_, err := backup(p.ctx, v, vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: sparse(seed, 256<<10)}})
			p.must(err)
		}
		add(old, 31)
		p.must(way.introduce(p.sound(), p.copies[2]))
		add(old, 32)
		all := p.open(p.store)
		add(all, 33)
		n := uint64(40)
		_, err := way.fill(p.sound(), p.copies[2], vault.FillOptions{Progress: func(vault.FillReport) error {
			if n++; n < 44 {
				add(all, n)
				add(old, n+100)
			}
			return nil
		}})
		p.must(err)
		report, err := way.fill(p.sound(), p.copies[2], vault.FillOptions{Quick: true}) // the old writer has ended
		p.must(err)
		if report.Copied == 0 {
			t.Error("the old writer wrote nothing that was missing")
		}
		p.demandSame(p.all()[0])
		found, err := p.open(p.store).Scrub(p.ctx, vault.ScrubOptions{})
		p.must(err)
		if len(found.Damages) != 0 {
			t.Errorf("%s: %v", way.name, found.Damages)
		}
	}
}

func TestAFillGoesOnWhereItWas(t *testing.T) {
	p := plantSmall(t)
	good := p.all()[0]
	for _, way := range p.joinings() {
		p.empty()
		p.must(way.introduce(p.sound(), p.copies[2]))
		from, lives := "", 0
		for ; lives == 0 || from != ""; lives++ {
			ctx, cancel := context.WithCancel(p.ctx)
			report, err := way.fill(p.sound(), p.copies[2], vault.FillOptions{From: from, Progress: func(r vault.FillReport) error {
				cancel()
				return ctx.Err()
			}})
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if report.Next == from && err != nil {
				t.Fatalf("%s: it does not come on from %q", way.name, from)
			}
			from = report.Next
		}
		if lives < 3 {
			t.Errorf("%s: %d lives", way.name, lives)
		}
		p.demandSame(good)
	}
}

// A record that lost its place to another, because its writer died, is in some copies.
// In a copy that joins it must not win it back, whatever that copy's place is.
func TestARecordThatLostItsPlaceDoesNotComeWithAUnitThatJoins(t *testing.T) {
	p := plantSmall(t)
	last := p.objects("chain/")[len(p.objects("chain/"))-1]
	before := p.get(0, last)
	for i := range p.copies {
		p.plantIn(i, last, nil)
	}
	third := newID()
	p.vault = p.open(p.store)
	p.backup(vault.WriteOptions{Point: third}, source{target: "vda", disk: &disk{data: p.data[1]}})
	right := p.get(0, last)
	for _, way := range p.joinings() {
		for scene, has := range map[string][3][]byte{
			"in the first copy":           {before, right, nil},
			"in the copy that joins":      {right, right, before},
			"in both, and the right once": {before, right, before},
		} {
			for i, data := range has {
				p.plantIn(i, last, data)
			}
			p.must(way.introduce(p.sound(), p.copies[2]))
			_, err := way.fill(p.sound(), p.copies[2], vault.FillOptions{})
			p.must(err)
			points, err := p.open(p.store).Points(p.ctx)
			p.must(err)
			if !slices.ContainsFunc(points, func(h vault.Header) bool { return h.Point == third }) {
				t.Errorf("%s, %s: the point that was committed is not offered any more", way.name, scene)
			}
		}
	}
}

func TestTheHeaderSaysTheRedundancyThatWasDeclared(t *testing.T) {
	p := plantSmall(t)
	for range 2 { // the second time nothing is to be done
		p.must(p.open(p.store).Declare(p.ctx, backstay.ZRS, created))
	}
	v := p.open(p.copies[1])
	if got, _ := v.Generation(); v.Redundancy() != backstay.ZRS || got != 2 {
		t.Fatalf("%s in header %d", v.Redundancy(), got)
	}
	p.must(p.read(p.store))
}
