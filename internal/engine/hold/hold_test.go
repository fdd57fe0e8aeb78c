package hold_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/engine/hold"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/tier/vault"
)

// TestKilledAtAnyChangeThePairOffersOnlyWholePoints: of units and catalogue
// together, whichever change is the last of a process, everything that is offered
// restores, and the next push completes the rest.
func TestKilledAtAnyChangeThePairOffersOnlyWholePoints(t *testing.T) {
	h := newHome(t)
	first, second := h.backup("web01", day), h.backup("web01", day.Add(time.Hour))
	for n := 1; ; n++ {
		p := newPlace(t)
		p.live(n)
		err := h.push(p.from("west"), second, first)
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatalf("after %d changes: %v", n, err)
		}
		p.live(-1)
		p.check(h)
		must(t, h.push(p.from("west"), second, first))
		if entries, _ := p.catalog.Vaults.ListVaults(t.Context()); len(entries) == 1 {
			must(t, p.keeper.Settle(t.Context(), "main@west", true))
		}
		p.check(h, first, second)
		points, listErr := p.catalog.Points.ListPoints(t.Context(), "")
		must(t, listErr)
		if len(points) != 2 || points[0].Vault != "main@west" {
			t.Fatalf("after %d changes the catalogue lists %v", n, points)
		}
		if err == nil {
			if n < 20 {
				t.Fatalf("only %d changes were made", n)
			}
			return
		}
	}
}

// TestKilledWhileAPointIsLetGoItIsNeverOfferedHalf: from the first change on it is
// gone for good, and no other point is touched (I3).
func TestKilledWhileAPointIsLetGoItIsNeverOfferedHalf(t *testing.T) {
	h := newHome(t)
	old, young := h.backup("web01", day.Add(-40*24*time.Hour)), h.backup("web01", day)
	for n := 0; ; n++ {
		p := newPlace(t)
		must(t, h.push(p.from("west"), young, old))
		p.live(-1)
		entry, err := p.catalog.Vaults.Vault(t.Context(), "main@west")
		must(t, err)
		entry.Keep = &backstay.ReplicaKeep{Days: 30, Points: 1}
		must(t, p.catalog.Vaults.UpdateVault(t.Context(), entry))
		p.live(n)
		_, err = p.keeper.Expire(t.Context(), "main@west")
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		done := err == nil
		p.live(-1)
		held, err := p.from("west").Offer(t.Context(), h.offer())
		must(t, err)
		_, gone := held.Gone[old]
		if _, available := held.Available[old]; available == gone {
			t.Fatalf("after %d changes the old point is available: %t, gone: %t", n, available, gone)
		}
		if gone {
			_, manifest := h.object("points/" + string(old))
			wantCode(t, p.from("west").Complete(t.Context(), homeID, old, manifest), backstay.CodeReplicaRefused)
		}
		must(t, h.push(p.from("west"), young))
		_, err = p.keeper.Expire(t.Context(), "main@west")
		must(t, err)
		must(t, p.keeper.Settle(t.Context(), "main@west", true))
		before := objects(t, p.units[0])
		for range 2 { // the first spares what was asked for since
			_, err = p.keeper.Reclaim(t.Context(), "main@west", false, nil)
			must(t, err)
		}
		p.check(h, young)
		if after := objects(t, p.units[0]); after >= before {
			t.Fatalf("there were %d objects and are %d", before, after)
		}
		if ids := p.manifests(); !slices.Equal(ids, []backstay.PointID{young}) {
			t.Fatalf("manifests of %v are left", ids)
		}
		if done {
			return
		}
	}
}

func objects(t *testing.T, s *mem.Store) int {
	t.Helper()
	v, err := vault.NewReplica(s, homeID)
	must(t, err)
	u, err := v.Usage(t.Context())
	must(t, err)
	return int(u.Objects)
}

// TestARegionReachesNothingButItsOwnVaults: neither another region's, nor this
// one's own, by whatever id or name.
func TestARegionReachesNothingButItsOwnVaults(t *testing.T) {
	h := newHome(t)
	id := h.backup("web01", day)
	p := newPlace(t)
	own := backstay.Vault{Name: "own", ID: "11111111-8f0a-4a53-9c7b-0d6f0e5a7b11", Redundancy: backstay.LRS}
	must(t, p.catalog.Vaults.CreateVault(t.Context(), own))
	must(t, h.push(p.from("west"), id))
	evil := p.from("north")
	_, err := evil.Offer(t.Context(), h.offer())
	wantCode(t, err, backstay.CodeReplicaRefused)
	_, err = evil.Offer(t.Context(), pair.Offer{ID: own.ID, Name: "own"})
	wantCode(t, err, backstay.CodeReplicaRefused)
	o, data := h.object(h.names("packs/")[0])
	_, manifest := h.object("points/" + string(id))
	for what, err := range map[string]error{
		"put":      evil.Put(t.Context(), homeID, o, bytes.NewReader(data)),
		"own":      p.from("west").Put(t.Context(), own.ID, o, bytes.NewReader(data)),
		"complete": evil.Complete(t.Context(), homeID, id, manifest),
		"lacks":    second(evil.Lacks(t.Context(), homeID, []pair.Object{o})),
		"get":      second(evil.Get(t.Context(), homeID, o.Name)),
		"list":     evil.List(t.Context(), homeID, func(pair.Object) error { return nil }),
	} {
		if !backstay.IsCode(err, backstay.CodeUnknownVault) {
			t.Errorf("%s: error is %v", what, err)
		}
	}
	if all, err := evil.Vaults(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("it sees the vaults %v: %v", all, err)
	}
	for _, name := range []backstay.VaultName{"", "a/b", "../x", "x@y", backstay.VaultName(strings.Repeat("x", 65)), ".x"} {
		_, err := p.from("west").Offer(t.Context(), pair.Offer{ID: "22222222-8f0a-4a53-9c7b-0d6f0e5a7b11", Name: name})
		wantCode(t, err, backstay.CodeReplicaRefused)
	}
	for _, id := range []string{"", "x", strings.ToUpper(homeID), homeID + "0", "../../../../../../../../etc/passwd.."} {
		_, err := p.from("west").Offer(t.Context(), pair.Offer{ID: id, Name: "x"})
		wantCode(t, err, backstay.CodeReplicaRefused)
	}
	p.check(h, id)
}

func second[T any](_ T, err error) error { return err }

// TestAPointOfThisRegionIsNotReplacedByOneThatIsPushed: ids are chosen by whoever
// pushes.
func TestAPointOfThisRegionIsNotReplacedByOneThatIsPushed(t *testing.T) {
	h := newHome(t)
	id := h.backup("web01", day)
	p := newPlace(t)
	mine := backstay.RecoveryPoint{ID: id, Vault: "own", Time: day, VM: backstay.VMRef{Name: "mine", UUID: "mine", Host: "h9"}}
	must(t, p.catalog.Points.PutPoint(t.Context(), mine))
	wantCode(t, h.push(p.from("west"), id), backstay.CodeReplicaRefused)
	got, err := p.catalog.Points.Point(t.Context(), id)
	must(t, err)
	if got.Vault != "own" || got.VM.Name != "mine" {
		t.Fatalf("the point is %+v", got)
	}
}

// TestTheQuotaHoldsAndWhatIsThereStaysUsable: what is over it is refused, and after
// a restart it counts the same.
func TestTheQuotaHoldsAndWhatIsThereStaysUsable(t *testing.T) {
	h := newHome(t)
	first := h.backup("web01", day)
	p := newPlace(t)
	p.quota = 400 << 10
	must(t, h.push(p.from("west"), first))
	next := h.backup("web01", day.Add(time.Hour))
	for range 2 {
		wantCode(t, h.push(p.from("west"), next), backstay.CodeRegionQuota)
		held, err := p.from("west").Offer(t.Context(), h.offer())
		must(t, err)
		if held.Room < 0 || held.Room > 200<<10 {
			t.Fatalf("room is %d", held.Room)
		}
		p.check(h, first)
		p.live(-1)
	}
	p.quota = 4 << 20
	must(t, h.push(p.from("west"), next))
	p.check(h, first, next)
	// What came in vain is given back.
	before, err := p.from("west").Offer(t.Context(), h.offer())
	must(t, err)
	o, data := h.object(h.names("packs/")[0])
	o.Sum[0] ^= 1
	for range 20 {
		wantCode(t, p.from("west").Put(t.Context(), homeID, o, bytes.NewReader(data)), backstay.CodeReplicaRefused)
	}
	after, err := p.from("west").Offer(t.Context(), h.offer())
	must(t, err)
	if before.Room != after.Room {
		t.Fatalf("room was %d and is %d", before.Room, after.Room)
	}
}

// TestWhatIsAnnouncedIsAllThatIsRead: a size is a bound, and a body that goes on or
// ends early is refused.
func TestWhatIsAnnouncedIsAllThatIsRead(t *testing.T) {
	h := newHome(t)
	h.backup("web01", day)
	p := newPlace(t)
	west := p.from("west")
	_, err := west.Offer(t.Context(), h.offer())
	must(t, err)
	o, data := h.object("vault.json")
	endless := &counted{}
	wantCode(t, west.Put(t.Context(), homeID, o, endless), backstay.CodeReplicaRefused)
	if endless.n > 64<<10 {
		t.Errorf("%d bytes were read of %d", endless.n, o.Size)
	}
	wantCode(t, west.Put(t.Context(), homeID, o, bytes.NewReader(data[1:])), backstay.CodeReplicaRefused)
	for _, size := range []int64{-1, 0, pair.MaxObject + 1, 1 << 62} {
		wantCode(t, west.Put(t.Context(), homeID, pair.Object{Name: "vault.json", Size: size}, bytes.NewReader(data)), backstay.CodeReplicaRefused)
	}
	_, err = west.Lacks(t.Context(), homeID, make([]pair.Object, pair.MaxAsked+1))
	wantCode(t, err, backstay.CodeReplicaRefused)
}

type counted struct{ n int }

func (c *counted) Read(b []byte) (int, error) {
	c.n += len(b)
	return len(b), nil
}

// TestAnOlderStateOfTheVaultIsRefused: this region is a witness of the vault's
// chain.
func TestAnOlderStateOfTheVaultIsRefused(t *testing.T) {
	h := newHome(t)
	id := h.backup("web01", day)
	older := h.offer()
	h.backup("web01", day.Add(time.Hour))
	p := newPlace(t)
	must(t, h.push(p.from("west"), id))
	_, err := p.from("west").Offer(t.Context(), older)
	wantCode(t, err, backstay.CodeVaultRolledBack)
	forked := h.offer()
	forked.Head.Hash = strings.Repeat("0", 64)
	_, err = p.from("west").Offer(t.Context(), forked)
	wantCode(t, err, backstay.CodeVaultRolledBack)
	offers, err := p.from("west").Vaults(t.Context())
	must(t, err)
	if len(offers) != 1 || offers[0].Head != h.offer().Head || offers[0].Name != "main" {
		t.Fatalf("it says %+v", offers)
	}
}

// TestAPointInUseIsNotLetGo: retention waits, and says for what.
func TestAPointInUseIsNotLetGo(t *testing.T) {
	h := newHome(t)
	old, young := h.backup("web01", day.Add(-40*24*time.Hour)), h.backup("web01", day)
	p := newPlace(t)
	must(t, h.push(p.from("west"), young, old))
	entry, err := p.catalog.Vaults.Vault(t.Context(), "main@west")
	must(t, err)
	entry.Keep = &backstay.ReplicaKeep{Days: 1, Points: 1}
	must(t, p.catalog.Vaults.UpdateVault(t.Context(), entry))
	p.use[old] = "a restore reads it"
	done, err := p.keeper.Expire(t.Context(), "main@west")
	must(t, err)
	if len(done.Gone) != 0 || done.Kept[old] == "" {
		t.Fatalf("done: %+v", done)
	}
	p.check(h, old, young)
	delete(p.use, old)
	_, err = p.keeper.Expire(t.Context(), "main@west")
	must(t, err)
	p.check(h, young)
}

// TestRetentionKeepsTheDaysAndTheNewestOfEachVM is the rule, by table.
func TestRetentionKeepsTheDaysAndTheNewestOfEachVM(t *testing.T) {
	at := func(item string, days ...int) (out []catalog.HeldPoint) {
		for _, d := range days {
			out = append(out, catalog.HeldPoint{Point: backstay.PointID(fmt.Sprintf("%s%03d", item, d)), Item: item, Taken: day.Add(-time.Duration(d) * 24 * time.Hour)})
		}
		return out
	}
	gone := at("g", 100)
	gone[0].Gone = &day
	for why, c := range map[string]struct {
		points []catalog.HeldPoint
		keep   backstay.ReplicaKeep
		want   []backstay.PointID
	}{
		"young ones stay":                 {at("a", 1, 2, 3, 4), backstay.ReplicaKeep{Days: 30, Points: 1}, nil},
		"old ones go":                     {at("a", 1, 31, 40), backstay.ReplicaKeep{Days: 30, Points: 1}, []backstay.PointID{"a031", "a040"}},
		"the newest stay at any age":      {at("a", 400, 500, 600), backstay.ReplicaKeep{Days: 30, Points: 2}, []backstay.PointID{"a600"}},
		"of each VM":                      {append(at("a", 400), at("b", 1, 400)...), backstay.ReplicaKeep{Days: 30, Points: 1}, []backstay.PointID{"b400"}},
		"the last one is never let go":    {at("a", 400), backstay.ReplicaKeep{}, nil},
		"what is gone counts for nothing": {append(gone, at("g", 200, 300)...), backstay.ReplicaKeep{Days: 30, Points: 2}, nil},
		"exactly as old as it is kept":    {at("a", 1, 30), backstay.ReplicaKeep{Days: 30, Points: 1}, nil},
	} {
		var ids []backstay.PointID
		for _, p := range hold.PlanExpire(c.points, c.keep, day) {
			ids = append(ids, p.Point)
		}
		if !slices.Equal(ids, c.want) {
			t.Errorf("%s: %v goes, want %v", why, ids, c.want)
		}
	}
}

// TestALostCatalogueIsMadeAgainFromWhatIsHeld: the units tell which points are
// whole.
func TestALostCatalogueIsMadeAgainFromWhatIsHeld(t *testing.T) {
	h := newHome(t)
	first, next := h.backup("web01", day), h.backup("db01", day.Add(time.Hour))
	p := newPlace(t)
	must(t, h.push(p.from("west"), next, first))
	lost := newPlace(t)
	lost.units = p.units
	lost.live(-1)
	_, err := lost.from("west").Offer(t.Context(), h.offer())
	must(t, err)
	must(t, lost.keeper.Rebuild(t.Context(), "main@west"))
	lost.check(h, first, next)
}

// TestEverythingComesBackToARegionThatRejoins: List and Get give each object as it
// was pushed.
func TestEverythingComesBackToARegionThatRejoins(t *testing.T) {
	h := newHome(t)
	id := h.backup("web01", day)
	p := newPlace(t)
	must(t, h.push(p.from("west"), id))
	back := mem.New()
	west := p.from("west")
	err := west.List(t.Context(), homeID, func(o pair.Object) error {
		r, err := west.Get(t.Context(), homeID, o.Name)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		must(t, errors.Join(err, r.Close()))
		if int64(len(data)) != o.Size {
			t.Errorf("%s has %d bytes and was said to have %d", o.Name, len(data), o.Size)
		}
		return back.Put(t.Context(), o.Name, data)
	})
	must(t, err)
	v, err := vault.Open(t.Context(), back, homeID, h.key)
	must(t, err)
	headers, err := v.Points(t.Context())
	must(t, err)
	if len(headers) != 1 || headers[0].Point != id || headers[0].Unchained != nil {
		t.Fatalf("the vault that came back has %+v", headers)
	}
}

// TestSweepsBesidePushesTakeNothingThatIsOnItsWay: points come and go while this
// region reclaims, and each that is said to be held is whole at every moment.
func TestSweepsBesidePushesTakeNothingThatIsOnItsWay(t *testing.T) {
	h := newHome(t)
	var all []backstay.PointID
	for i := range 6 {
		all = append(all, h.backup(fmt.Sprintf("vm%d", i%2), day.Add(time.Duration(i)*time.Hour)))
	}
	p := newPlace(t)
	_, err := p.from("west").Offer(t.Context(), h.offer())
	must(t, err)
	pushed := make(chan error, 3)
	for i := range 3 {
		go func() {
			var err error
			for range 20 { // a sweep may win: then what it took is pushed again
				if err = h.push(p.from("west"), all[2*i:2*i+2]...); err == nil {
					break
				}
			}
			pushed <- err
		}()
	}
	for n := 0; n < 3; {
		select {
		case err := <-pushed:
			must(t, err)
			n++
		default:
			_, err := p.keeper.Reclaim(t.Context(), "main@west", false, nil)
			must(t, err)
			p.check(h)
		}
	}
	p.check(h, all...)
	_, err = p.keeper.Reclaim(t.Context(), "main@west", false, nil)
	must(t, err)
	p.check(h, all...)
}
