package vault_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"lukechampine.com/blake3"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// other is another region that holds the world's vault.
type other struct {
	*world
	units   []*mem.Store
	store   blob.Store
	replica *vault.Replica
}

func newOther(w *world) *other {
	o := &other{world: w}
	for range 3 {
		o.units = append(o.units, mem.New())
	}
	o.store = replica.New(o.units[0], o.units[1], o.units[2])
	o.restart()
	return o
}

// restart forgets what the process knew.
func (o *other) restart() {
	o.t.Helper()
	var err error
	o.replica, err = vault.NewReplica(o.store, vaultID)
	o.must(err)
}

func offered(name string, data []byte) vault.ReplicaObject {
	return vault.ReplicaObject{Name: name, Size: int64(len(data)), Sum: blake3.Sum256(data)}
}

// push puts the world's objects with a prefix, those that are lacking.
func (o *other) push(prefix string) {
	o.t.Helper()
	for _, name := range o.objects(prefix) {
		data := o.world.get(0, name)
		lacks, err := o.replica.Lacks(o.ctx, []vault.ReplicaObject{{Name: name}})
		o.must(err)
		if len(lacks) == 0 {
			continue
		}
		_, err = o.replica.Put(o.ctx, offered(name, data), data)
		o.must(err)
	}
}

func (o *other) pushAll(points ...backstay.PointID) {
	o.t.Helper()
	for _, prefix := range []string{"keys/", "vault.json", "headers/", "packs/", "indexes/", "moved/"} {
		o.push(prefix)
	}
	for _, id := range points {
		o.must(o.complete(id))
	}
}

func (o *other) complete(id backstay.PointID) error {
	_, _, err := o.replica.Complete(o.ctx, id, o.world.get(0, "points/"+string(id)))
	return err
}

// open opens the replica with the vault's keys, as the other region restores from it.
func (o *other) open() *vault.Vault {
	o.t.Helper()
	v, err := vault.Open(o.ctx, o.store, vaultID, o.master, vault.AsReplica())
	o.must(err)
	return v
}

func (o *other) names(unit int, prefix string) []string {
	o.t.Helper()
	var names []string
	o.must(o.units[unit].List(o.ctx, prefix, func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	}))
	return names
}

func wantCode(t *testing.T, err error, code backstay.Code, part string) {
	t.Helper()
	if !backstay.IsCode(err, code) || !strings.Contains(fmt.Sprint(err), part) {
		t.Fatalf("error is %v, want %s with %q", err, code, part)
	}
}

// TestAReplicaRestoresByteForByteWithoutTheHomeRegion: what was pushed is all that
// a restore needs, and a point is there only when it is whole.
func TestAReplicaRestoresByteForByteWithoutTheHomeRegion(t *testing.T) {
	w := newWorld(t)
	content := sparse(1, 6<<20)
	first, second := newID(), newID()
	w.backup(vault.WriteOptions{Point: first}, source{target: "vda", disk: &disk{data: content}})
	before := slices.Clone(content)
	changed := change(2, content, 9)
	w.backup(vault.WriteOptions{Point: second, Parent: first}, source{target: "vda", disk: &disk{data: content}, changed: changed, mapped: true})
	o := newOther(w)
	o.push("keys/")
	o.push("vault.json")
	wantCode(t, o.complete(second), backstay.CodeReplicaRefused, "packs/")
	if headers, err := o.open().Points(w.ctx); err != nil || len(headers) != 0 {
		t.Fatalf("%d points are offered before one is whole: %v", len(headers), err)
	}
	o.pushAll(second)
	if headers, err := o.open().Points(w.ctx); err != nil || len(headers) != 1 || headers[0].Copies != 3 {
		t.Fatalf("points are %v: %v", headers, err)
	}
	o.must(o.complete(first))
	v := o.open()
	w.restored(v, second, "vda", content)
	w.restored(v, first, "vda", before)
	report, err := o.replica.Scrub(w.ctx, vault.ScrubOptions{Expect: []backstay.PointID{first, second}})
	w.must(err)
	if len(report.Damages) != 0 || report.Unproved != 0 {
		t.Fatalf("a sound replica has damages %v", report.Damages)
	}
}

// TestWhatIsPushedIsHostileUntilItWasChecked: nothing that is not what its name and
// hashes say reaches any copy, and nothing is ever overwritten.
func TestWhatIsPushedIsHostileUntilItWasChecked(t *testing.T) {
	w := newWorld(t)
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: sparse(3, 2<<20)}})
	stranger := newStranger(t)
	theirs := newID()
	stranger.backup(vault.WriteOptions{Point: theirs}, source{target: "vda", disk: &disk{data: sparse(4, 1<<20)}})
	o := newOther(w)
	pack, index := w.objects("packs/")[0], w.objects("indexes/")[0]
	data := w.get(0, pack)
	flipped := slices.Clone(data)
	flipped[len(flipped)/2] ^= 1
	foreign := stranger.objects("packs/")[0]
	for why, put := range map[string]vault.ReplicaObject{
		"a sum that is not the content's": {Name: pack, Size: int64(len(data)), Sum: [32]byte{1}},
		"another size":                    {Name: pack, Size: int64(len(data)) - 1, Sum: blake3.Sum256(data)},
		"a pack under an index's name":    offered(index, data),
		"a pack in another folder":        offered("packs/xx/"+strings.TrimPrefix(pack, pack[:9]), data),
		"an escape":                       offered("../"+pack, data),
		"an unknown folder":               offered("find/x/h-0000000000000001", data),
		"a manifest before its time":      offered("points/"+string(id), data),
		"another name for a pack":         offered("packs/"+pack, data),
	} {
		_, err := o.replica.Put(w.ctx, put, data)
		if !backstay.IsCode(err, backstay.CodeReplicaRefused) {
			t.Errorf("%s: error is %v", why, err)
		}
	}
	for why, put := range map[string][]byte{"a flipped bit": flipped, "half a pack": data[:len(data)/2], "no pack": []byte("x")} {
		if _, err := o.replica.Put(w.ctx, offered(pack, put), put); !backstay.IsCode(err, backstay.CodeReplicaRefused) {
			t.Errorf("%s: error is %v", why, err)
		}
	}
	for _, name := range []string{foreign, "vault.json", stranger.objects("indexes/")[0]} {
		d := stranger.get(0, name)
		if _, err := o.replica.Put(w.ctx, offered(name, d), d); !backstay.IsCode(err, backstay.CodeReplicaRefused) {
			t.Errorf("%s of another vault: error is %v", name, err)
		}
	}
	key := w.objects("keys/")[0]
	if _, err := o.replica.Put(w.ctx, offered(key, []byte("another key")), []byte("another key")); !backstay.IsCode(err, backstay.CodeReplicaRefused) {
		t.Errorf("another key: error is %v", err)
	}
	for i := range o.units {
		if left := o.names(i, ""); len(left) != 0 {
			t.Fatalf("unit %d holds %v", i, left)
		}
	}
	o.pushAll()
	manifest := w.get(0, "points/"+string(id))
	for why, m := range map[string][]byte{
		"a manifest of another point":       rename(manifest),
		"a manifest cut short":              manifest[:len(manifest)-1],
		"a manifest of another vault":       stranger.get(0, "points/"+string(theirs)),
		"a manifest with a flipped bit":     append(slices.Clone(manifest[:60]), append([]byte{manifest[60] ^ 1}, manifest[61:]...)...),
		"a manifest that claims more packs": morePacks(manifest),
	} {
		_, _, err := o.replica.Complete(w.ctx, id, m)
		if !backstay.IsCode(err, backstay.CodeReplicaRefused) {
			t.Errorf("%s: error is %v", why, err)
		}
	}
	// What is there is not replaced by other bytes that are right by themselves.
	o.must(o.complete(id))
	again := resum(slices.Clone(manifest), func(m []byte) { m[len(m)-40] ^= 1 })
	_, _, err := o.replica.Complete(w.ctx, id, again)
	wantCode(t, err, backstay.CodeReplicaRefused, "another one")
	w.restored(o.open(), id, "vda", mustRestore(t, w.vault, id))
}

// newStranger is a world with another vault.
func newStranger(t *testing.T) *world {
	t.Helper()
	const id = "11111111-8f0a-4a53-9c7b-0d6f0e5a7b11"
	w := &world{t: t, ctx: t.Context(), copies: []*mem.Store{mem.New()}}
	w.store = w.copies[0]
	_, recipient, err := vault.NewIdentity()
	w.must(err)
	w.master, err = vault.Create(w.ctx, w.store, vault.CreateOptions{ID: id, Name: "main", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created})
	w.must(err)
	w.vault, err = vault.Open(w.ctx, w.store, id, w.master)
	w.must(err)
	return w
}

// resum changes the bytes of an object and makes its checksum right again.
func resum(data []byte, change func([]byte)) []byte {
	change(data)
	sum := blake3.Sum256(data[:len(data)-32])
	copy(data[len(data)-32:], sum[:])
	return data
}

func rename(m []byte) []byte {
	return resum(slices.Clone(m), func(m []byte) { _, _ = rand.Read(m[30:36]) })
}

// morePacks makes the count of packs a huge one.
func morePacks(m []byte) []byte {
	return resum(slices.Clone(m), func(m []byte) {
		const headSize = 64 // see docs/formats/vault.md
		for at := headSize; at < len(m)-36; at++ {
			if binary.BigEndian.Uint32(m[at:]) == 1 {
				binary.BigEndian.PutUint32(m[at:], 1<<31)
				return
			}
		}
	})
}

func mustRestore(t *testing.T, v *vault.Vault, id backstay.PointID) []byte {
	t.Helper()
	data, err := restore(t.Context(), v, id, "vda")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestADamagedCopyIsMadeRightByWhatIsPushedAgain: Lacks says what is missing in any
// copy, and Put repairs a copy that is damaged, but never replaces a sound one.
func TestADamagedCopyIsMadeRightByWhatIsPushedAgain(t *testing.T) {
	w := newWorld(t)
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: sparse(5, 2<<20)}})
	o := newOther(w)
	o.pushAll(id)
	pack := w.objects("packs/")[0]
	data := w.get(0, pack)
	w.must(o.units[1].Delete(w.ctx, pack))
	lacks, err := o.replica.Lacks(w.ctx, []vault.ReplicaObject{{Name: pack}, {Name: "vault.json"}})
	w.must(err)
	if !slices.Equal(lacks, []string{pack}) {
		t.Fatalf("it lacks %v", lacks)
	}
	bad := slices.Clone(data)
	bad[100] ^= 1
	for i := range o.units {
		w.must(o.units[i].Delete(w.ctx, pack))
		w.must(o.units[i].Put(w.ctx, pack, bad))
	}
	if _, err := o.replica.Put(w.ctx, offered(pack, data), data); err != nil {
		t.Fatalf("a pack that is damaged in every copy is not taken anew: %v", err)
	}
	for i := range o.units {
		got, err := o.units[i].Get(w.ctx, pack, 0, -1)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("unit %d holds something else: %v", i, err)
		}
	}
}

// TestADropAtHomeTakesNothingAwayInTheOtherRegion is I11: also when the chain that
// tells of it, and lists of moved packs, come along.
func TestADropAtHomeTakesNothingAwayInTheOtherRegion(t *testing.T) {
	w, k, ids := storied(t, 5)
	all := maps.Clone(k)
	o := newOther(w)
	o.pushAll(ids[0], ids[2])
	w.drop(k, ids[0], ids[2], ids[3])
	w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95})
	if len(w.objects("moved/")) == 0 {
		t.Fatal("nothing was repacked: the test proves nothing")
	}
	o.restart()
	o.pushAll(ids[4], ids[1])
	o.push("chain/")
	o.push("trash/")
	delete(all, ids[3]) // it was never pushed
	check := func(want kept) {
		t.Helper()
		o.restart()
		v := o.open()
		headers, err := v.Points(w.ctx)
		w.must(err)
		if len(headers) != len(want) {
			t.Fatalf("%d points are offered, want %d", len(headers), len(want))
		}
		var held []backstay.PointID
		for id, data := range want {
			w.restored(v, id, "vda", data)
			held = append(held, id)
		}
		report, err := o.replica.Scrub(w.ctx, vault.ScrubOptions{Expect: held})
		w.must(err)
		if len(report.Damages) != 0 || report.Unproved != 0 {
			t.Fatalf("damages: %v", report.Damages)
		}
	}
	check(all)
	// Nothing that any of them needs is swept, now or later.
	sweep := func(gone ...backstay.PointID) (freed int64) {
		t.Helper()
		var held []backstay.PointID
		for id := range all {
			held = append(held, id)
		}
		for range 3 {
			swept, err := o.replica.Sweep(w.ctx, vault.SweepOptions{Held: held, Gone: gone})
			w.must(err)
			freed += swept.Freed.Objects
		}
		return freed
	}
	sweep()
	check(all)
	// This region's own retention lets go of what only some need.
	delete(all, ids[0])
	delete(all, ids[2])
	delete(all, ids[4])
	if sweep(ids[0], ids[2], ids[4]) == 0 {
		t.Error("nothing was given back")
	}
	check(all)
}

// TestNothingIsWrittenThroughAnOpenedReplica: keys, points, lists of files and
// reclaim are the home region's.
func TestNothingIsWrittenThroughAnOpenedReplica(t *testing.T) {
	w := newWorld(t)
	id := newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: sparse(8, 1<<20)}})
	o := newOther(w)
	o.pushAll(id)
	before := o.names(0, "")
	v := o.open()
	_, beginErr := v.Begin(w.ctx, vault.WriteOptions{Point: newID()})
	_, _, rotateErr := v.Rotate(w.ctx, vault.RotateOptions{})
	_, repairErr := v.Repair(w.ctx, nil, vault.RepairOptions{})
	_, condemnErr := v.Reclaim(vault.ReclaimOptions{}).Condemn(w.ctx)
	for what, err := range map[string]error{"begin": beginErr, "drop": v.DropPoint(w.ctx, id, created), "rotate": rotateErr, "repair": repairErr, "condemn": condemnErr} {
		if !backstay.IsCode(err, backstay.CodeConflict) {
			t.Errorf("%s: error is %v", what, err)
		}
	}
	if after := o.names(0, ""); !slices.Equal(before, after) {
		t.Fatalf("objects were %v and are %v", before, after)
	}
}

// TestASweepThatSeesTooLittleDeletesNothing is I6.
func TestASweepThatSeesTooLittleDeletesNothing(t *testing.T) {
	w := newWorld(t)
	id, junk := newID(), newID()
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: sparse(9, 2<<20)}})
	w.backup(vault.WriteOptions{Point: junk}, source{target: "vda", disk: &disk{data: sparse(10, 2<<20)}})
	o := newOther(w)
	o.pushAll(id, junk)
	w.must(o.replica.Drop(w.ctx, junk))
	pack := ""
	for _, name := range w.objects("packs/") {
		if neededBy(t, w, id, name) {
			pack = name
		}
	}
	for why, f := range map[string]*fault.Fault{
		"a listing of points that fails":      {Kind: fault.Fail, Call: fault.List, Prefix: "points/"},
		"a listing of points without one":     {Kind: fault.LeaveOut, Call: fault.List, Prefix: "points/", Name: string(id)},
		"a listing of packs that fails":       {Kind: fault.Fail, Call: fault.List, Prefix: "packs/"},
		"a listing of packs without one":      {Kind: fault.LeaveOut, Call: fault.List, Prefix: "packs/", Name: strings.TrimPrefix(pack, pack[:9])},
		"a listing of moved packs that fails": {Kind: fault.Fail, Call: fault.List, Prefix: "moved/"},
	} {
		store := replica.New(fault.Wrap(o.units[0], f), fault.Wrap(o.units[1], f), fault.Wrap(o.units[2], f))
		r, err := vault.NewReplica(store, vaultID)
		w.must(err)
		swept, err := r.Sweep(w.ctx, vault.SweepOptions{Held: []backstay.PointID{id}})
		if err == nil || swept.Freed.Objects > 0 || f.Hits() == 0 {
			t.Errorf("%s (%d hits): swept %v, error %v", why, f.Hits(), swept, err)
		}
	}
	o.restart()
	swept, err := o.replica.Sweep(w.ctx, vault.SweepOptions{Held: []backstay.PointID{id}})
	w.must(err)
	if swept.Freed.Objects == 0 {
		t.Fatal("nothing was given back")
	}
	w.restored(o.open(), id, "vda", mustRestore(t, w.vault, id))
}

func neededBy(t *testing.T, w *world, id backstay.PointID, pack string) bool {
	t.Helper()
	headers, err := w.vault.Points(w.ctx)
	w.must(err)
	for _, h := range headers {
		if h.Point == id {
			return slices.ContainsFunc(h.Packs, func(p string) bool { return strings.HasSuffix(pack, p) })
		}
	}
	return false
}

// TestAPointOnItsWayIsNotSweptAway: what was asked for or put since the last sweep
// stays, though no point needs it yet.
func TestAPointOnItsWayIsNotSweptAway(t *testing.T) {
	w := newWorld(t)
	id := newID()
	content := sparse(11, 2<<20)
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: content}})
	o := newOther(w)
	o.pushAll()
	swept, err := o.replica.Sweep(w.ctx, vault.SweepOptions{})
	w.must(err)
	if swept.Freed.Objects != 0 || swept.Spared.Objects == 0 {
		t.Fatalf("swept %+v", swept)
	}
	// The next question for them keeps them once more.
	var ask []vault.ReplicaObject
	for _, name := range w.objects("packs/") {
		ask = append(ask, vault.ReplicaObject{Name: name})
	}
	lacks, err := o.replica.Lacks(w.ctx, ask)
	w.must(err)
	_, err = o.replica.Sweep(w.ctx, vault.SweepOptions{})
	w.must(err)
	if len(lacks) != 0 {
		t.Fatalf("it lacks %v", lacks)
	}
	w.must(o.complete(id))
	w.restored(o.open(), id, "vda", content)
}

// mortals guards all deadlines.
var mortals sync.Mutex

// errKilled ends a process in the middle of what it does.
var errKilled = errors.New("killed")

// TestKilledAtEveryChangeOnlyWholePointsAreThere: whichever call to whichever unit
// is the last of a process, what is offered then restores, and the next process
// goes on to the end.
func TestKilledAtEveryChangeOnlyWholePointsAreThere(t *testing.T) {
	w := newWorld(t)
	content := sparse(12, 200<<10)
	first, second := newID(), newID()
	w.backup(vault.WriteOptions{Point: first}, source{target: "vda", disk: &disk{data: content}})
	before := slices.Clone(content)
	changed := change(13, content, 9)
	w.backup(vault.WriteOptions{Point: second, Parent: first}, source{target: "vda", disk: &disk{data: content}, changed: changed, mapped: true})
	want := map[backstay.PointID][]byte{first: before, second: content}
	for n := 1; ; n++ {
		o := newOther(w)
		d := &deadline{left: n}
		o.store = replica.New(d.wrap(o.units[0]), d.wrap(o.units[1]), d.wrap(o.units[2]))
		o.restart()
		done := o.pushUntilKilled(second, first)
		// The next life of the process.
		o.store = replica.New(o.units[0], o.units[1], o.units[2])
		o.restart()
		if len(o.names(0, "vault.json"))+len(o.names(1, "vault.json"))+len(o.names(2, "vault.json")) > 0 && len(o.names(0, "keys/")) > 0 {
			v := o.open()
			headers, err := v.Points(w.ctx)
			w.must(err)
			for _, h := range headers {
				w.restored(v, h.Point, "vda", want[h.Point])
			}
		}
		o.pushAll(second, first)
		for id, data := range want {
			w.restored(o.open(), id, "vda", data)
		}
		if done {
			if n < 20 {
				t.Fatalf("only %d changes were made", n)
			}
			return
		}
	}
}

// pushUntilKilled pushes all of it and tells whether it came to the end.
func (o *other) pushUntilKilled(points ...backstay.PointID) bool {
	for _, prefix := range []string{"keys/", "vault.json", "packs/", "indexes/"} {
		for _, name := range o.objects(prefix) {
			data := o.world.get(0, name)
			if _, err := o.replica.Put(o.ctx, offered(name, data), data); err != nil {
				return false
			}
		}
	}
	for _, id := range points {
		if o.complete(id) != nil {
			return false
		}
	}
	return true
}

// deadline lets a number of changes through, over all stores, and then nothing at
// all: what a killed process does.
type deadline struct{ left int }

type mortal struct {
	blob.Store
	d *deadline
}

func (d *deadline) wrap(s blob.Store) blob.Store { return mortal{s, d} }

func (m mortal) Put(ctx context.Context, name string, data []byte) error {
	mortals.Lock()
	m.d.left--
	dead := m.d.left < 0
	mortals.Unlock()
	if dead {
		return errKilled
	}
	return m.Store.Put(ctx, name, data)
}

func (m mortal) Delete(ctx context.Context, name string) error {
	mortals.Lock()
	m.d.left--
	dead := m.d.left < 0
	mortals.Unlock()
	if dead {
		return errKilled
	}
	return m.Store.Delete(ctx, name)
}

func (m mortal) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	mortals.Lock()
	dead := m.d.left < 0
	mortals.Unlock()
	if dead {
		return nil, errKilled
	}
	return m.Store.Get(ctx, name, offset, length)
}

// TestACopyOfAReplicaIsFilledFromTheOthers: without keys, and whatever of the chain
// came, a copy that was lost gets everything that the others have.
func TestACopyOfAReplicaIsFilledFromTheOthers(t *testing.T) {
	w, k, ids := storied(t, 4)
	o := newOther(w)
	o.pushAll(ids[0])
	w.drop(k, ids[0], ids[2])
	w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95})
	o.pushAll(ids[3], ids[1])
	// A record of the middle of the chain, and none of the others.
	records := w.objects("chain/")
	data := w.get(0, records[len(records)/2])
	_, err := o.replica.Put(w.ctx, offered(records[len(records)/2], data), data)
	w.must(err)
	sound, err := vault.NewReplica(replica.New(o.units[0], o.units[1]), vaultID)
	w.must(err)
	fresh := mem.New()
	w.must(sound.Introduce(w.ctx, fresh))
	report, err := sound.Fill(w.ctx, fresh, vault.FillOptions{First: []backstay.PointID{ids[3]}})
	w.must(err)
	if report.Next != "" || len(report.Unsound)+len(report.Bad) != 0 {
		t.Fatalf("filled: %+v", report)
	}
	o.units[2] = fresh
	if a, b := o.names(0, ""), o.names(2, ""); !slices.Equal(a, b) {
		t.Fatalf("the copy has %v and the others %v", b, a)
	}
	alone, err := vault.Open(w.ctx, fresh, vaultID, w.master, vault.AsReplica())
	w.must(err)
	headers, err := alone.Points(w.ctx)
	w.must(err)
	if len(headers) != 3 {
		t.Fatalf("%d points are in the copy", len(headers))
	}
	for _, h := range headers {
		if h.Damage != nil {
			t.Errorf("point %s: %v", h.Point, h.Damage)
		}
	}
}

// TestACopyThatIsBeingFilledIsNotCountedOn: what it lacks is not asked for again, and
// what is new goes into it.
func TestACopyThatIsBeingFilledIsNotCountedOn(t *testing.T) {
	w := newWorld(t)
	content := sparse(14, 1<<20)
	first, second := newID(), newID()
	w.backup(vault.WriteOptions{Point: first}, source{target: "vda", disk: &disk{data: content}})
	o := newOther(w)
	o.pushAll(first)
	o.units[2] = mem.New()
	o.store = replica.New(o.units[0], o.units[1], o.units[2])
	var err error
	o.replica, err = vault.NewReplica(o.store, vaultID, vault.Joining(2))
	w.must(err)
	changed := change(15, content, 5)
	w.backup(vault.WriteOptions{Point: second, Parent: first}, source{target: "vda", disk: &disk{data: content}, changed: changed, mapped: true})
	before := len(o.names(2, "packs/"))
	o.pushAll(second)
	if after := len(o.names(2, "packs/")); before != 0 || after == 0 || after >= len(o.names(0, "packs/")) {
		t.Fatalf("the copy had %d packs and has %d of %d", before, after, len(o.names(0, "packs/")))
	}
	w.restored(o.open(), second, "vda", content)
}
