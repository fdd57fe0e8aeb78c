package recover_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/recover"
	"github.com/backstay/backstay/internal/recover/recovertest"
	"github.com/backstay/backstay/internal/tier/vault"
)

// world is a vault with copies in memory.
type world struct {
	*testing.T
	*recovertest.World
	copies []*mem.Store
}

func newWorld(t *testing.T, points int) *world {
	t.Helper()
	w := &world{T: t}
	var units []blob.Store
	for range 3 {
		s := mem.New()
		w.copies, units = append(w.copies, s), append(units, s)
	}
	var err error
	if w.World, err = recovertest.Make(t.Context(), points, units...); err != nil {
		t.Fatal(err)
	}
	return w
}

// unit names a copy for recovery.
func (w *world) unit(i int) recover.Unit {
	return recover.Unit{URL: "mem://copy" + string(rune('1'+i)), Store: w.copies[i]}
}

func (w *world) open(units ...recover.Unit) *recover.Vault {
	w.Helper()
	v, err := recover.Open(w.Context(), units, w.Identity)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = v.Close() })
	return v
}

func (w *world) points(v *recover.Vault) []recover.Point {
	w.Helper()
	points, err := v.Points(w.Context(), "")
	if err != nil {
		w.Fatal(err)
	}
	return points
}

func (w *world) find(v *recover.Vault, text string) recover.Point {
	w.Helper()
	p, err := v.Find(w.Context(), text)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// change rewrites an object of a copy behind everybody's back.
func (w *world) change(copy int, name string, how func([]byte) []byte) {
	w.Helper()
	ctx := w.Context()
	data, err := w.copies[copy].Get(ctx, name, 0, -1)
	if err == nil {
		err = w.copies[copy].Delete(ctx, name)
	}
	if err == nil {
		err = w.copies[copy].Put(ctx, name, how(bytes.Clone(data)))
	}
	if err != nil {
		w.Fatal(err)
	}
}

func flip(data []byte) []byte {
	data[len(data)/2] ^= 0x10
	return data
}

func (w *world) names(copy int, prefix string) []string {
	w.Helper()
	var names []string
	if err := w.copies[copy].List(w.Context(), prefix, func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		w.Fatal(err)
	}
	return names
}

// largest is the longest object of a kind.
func (w *world) largest(prefix string) string {
	w.Helper()
	var name string
	var size int64
	if err := w.copies[0].List(w.Context(), prefix, func(i blob.Info) error {
		if i.Size > size {
			name, size = i.Name, i.Size
		}
		return nil
	}); err != nil {
		w.Fatal(err)
	}
	return name
}

func wantCode(t *testing.T, err error, code backstay.Code, words ...string) {
	t.Helper()
	if !backstay.IsCode(err, code) {
		t.Fatalf("%v, want %s", err, code)
	}
	e := backstay.AsError(err)
	for _, word := range words {
		if !strings.Contains(e.Message+e.Cause+e.Action, word) {
			t.Errorf("%+v does not name %q", e, word)
		}
	}
}

// TestOneCopyIsEnough: I14. The points are listed and restored from any of the
// copies, and what is missing is said.
func TestOneCopyIsEnough(t *testing.T) {
	w := newWorld(t, 2)
	for i := range w.copies {
		v := w.open(w.unit(i))
		points := w.points(v)
		if len(points) != 2 || points[0].ID != w.Points[1] || points[1].ID != w.Points[0] {
			t.Fatalf("points %+v", points)
		}
		p := points[0]
		if p.VM.Name != recovertest.VMName || len(p.Disks) != 2 || p.CopiesSound != 1 || p.CopiesWanted != 3 || p.Damage != "" || p.Vault != "main" {
			t.Errorf("point %+v", p)
		}
		if warnings := strings.Join(v.Warnings(t.Context()), "\n"); !strings.Contains(warnings, "1 of the 3 copies") {
			t.Errorf("warnings %q", warnings)
		}
		w.restored(v, p, recover.RestoreOptions{Dir: t.TempDir(), Verify: true})
	}
}

// restored restores and compares with what was backed up.
func (w *world) restored(v *recover.Vault, p recover.Point, o recover.RestoreOptions) recover.Restored {
	w.Helper()
	out, err := v.Restore(w.Context(), p, o)
	if err != nil {
		w.Fatal(err)
	}
	for _, d := range out.Disks {
		got, err := os.ReadFile(d.Path)
		if err != nil || !bytes.Equal(got, w.Disks[slices.Index(w.Points, p.ID)][d.Target]) {
			w.Errorf("disk %s is not what was backed up (%v)", d.Target, err)
		}
	}
	return out
}

// TestNothingIsWrittenToAUnit, whatever is done: a put or a delete would be hit.
func TestNothingIsWrittenToAUnit(t *testing.T) {
	w := newWorld(t, 1)
	var units []recover.Unit
	for i := range w.copies {
		u := w.unit(i)
		u.Store = forbid{u.Store, t}
		units = append(units, u)
	}
	v := w.open(units...)
	p := w.find(v, "web01@latest")
	w.restored(v, p, recover.RestoreOptions{Dir: t.TempDir()})
	if _, err := v.Verify(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
	if _, err := v.Verify(t.Context(), []recover.Point{p}, nil); err != nil {
		t.Error(err)
	}
	if out, err := v.EscrowCheck(t.Context(), w.Identity); err != nil || !out.OK {
		t.Errorf("escrow check: %+v, %v", out, err)
	}
}

type forbid struct {
	blob.Store
	t *testing.T
}

func (f forbid) Put(_ context.Context, name string, _ []byte) error {
	f.t.Errorf("%s was put", name)
	return blob.ErrReadOnly
}

func (f forbid) Delete(_ context.Context, name string) error {
	f.t.Errorf("%s was deleted", name)
	return blob.ErrReadOnly
}

// TestUnitsThatCannotBeUsedAreNamed, and the others are used.
func TestUnitsThatCannotBeUsedAreNamed(t *testing.T) {
	w, other := newWorld(t, 2), newWorld(t, 1)
	if err := w.copies[1].Delete(t.Context(), "points/"+string(w.Points[1])); err != nil {
		t.Fatal(err)
	}
	away := recover.Unit{URL: "mem://away", Store: fault.Wrap(mem.New(), &fault.Fault{Kind: fault.Fail, Call: fault.Get}, &fault.Fault{Kind: fault.Fail, Call: fault.List})}
	empty := recover.Unit{URL: "mem://empty", Store: mem.New()}
	foreign := other.unit(0)
	foreign.URL = "mem://foreign"
	v := w.open(away, w.unit(0), empty, foreign, w.unit(1))
	want := map[string]recover.UnitState{"mem://away": recover.UnitAway, "mem://empty": recover.UnitEmpty,
		"mem://foreign": recover.UnitOther, "mem://copy1": recover.UnitInUse, "mem://copy2": recover.UnitInUse}
	for _, u := range v.Units() {
		if u.State != want[u.URL] {
			t.Errorf("unit %+v, want %s", u, want[u.URL])
		}
		if u.URL == "mem://copy2" && (u.Lacks != 1 || u.Points != 1) {
			t.Errorf("the older unit is %+v", u)
		}
	}
	warnings := strings.Join(v.Warnings(t.Context()), "\n")
	for _, word := range []string{"mem://away", "mem://empty", "mem://foreign", other.ID, "mem://copy2: it is older", "2 of the 3 copies"} {
		if !strings.Contains(warnings, word) {
			t.Errorf("the warnings do not name %q:\n%s", word, warnings)
		}
	}
	w.restored(v, w.find(v, "web01@latest"), recover.RestoreOptions{Dir: t.TempDir()})
}

func TestAWrongKeyIsNamedAndNothingOfItIsRepeated(t *testing.T) {
	w := newWorld(t, 1)
	stranger, _, err := vault.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]backstay.Secret{
		"another": stranger, "text": backstay.NewSecret([]byte("hunter2 hunter2")), "passphrase": recover.Passphrase(backstay.NewSecret([]byte("hunter2 hunter2"))),
	} {
		_, err := recover.Open(t.Context(), []recover.Unit{w.unit(0), w.unit(1)}, key)
		if !backstay.IsCode(err, backstay.CodeVaultKey) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), string(stranger.Reveal())) {
			t.Errorf("%s: the error repeats the key: %v", name, err)
		}
	}
	other := newWorld(t, 1)
	_, err = recover.Open(t.Context(), []recover.Unit{w.unit(0), {URL: "mem://foreign", Store: other.copies[0]}}, stranger)
	wantCode(t, err, backstay.CodeVaultKey, "mem://foreign", "mem://copy1")
}

func TestWhereThereIsNoVaultItIsSaid(t *testing.T) {
	away := recover.Unit{URL: "mem://away", Store: fault.Wrap(mem.New(), &fault.Fault{Kind: fault.Fail, Call: fault.Get}, &fault.Fault{Kind: fault.Fail, Call: fault.List})}
	empty := recover.Unit{URL: "mem://empty", Store: mem.New()}
	key := backstay.NewSecret([]byte("AGE"))
	_, err := recover.Open(t.Context(), nil, key)
	wantCode(t, err, backstay.CodeUsage)
	_, err = recover.Open(t.Context(), []recover.Unit{empty}, key)
	wantCode(t, err, backstay.CodeUnknownVault, "mem://empty")
	_, err = recover.Open(t.Context(), []recover.Unit{empty, away}, key)
	wantCode(t, err, backstay.CodeVaultAway, "mem://away")
	_, err = recover.OpenURLs(t.Context(), []string{"/a/b", "file:///a/b/"}, key)
	wantCode(t, err, backstay.CodeUsage, "file:///a/b")
}

// TestAUnitWhoseHeaderIsGoneStillServes: what it holds is bound to its vault (I4).
func TestAUnitWhoseHeaderIsGoneStillServes(t *testing.T) {
	w := newWorld(t, 1)
	if err := w.copies[0].Delete(t.Context(), "vault.json"); err != nil {
		t.Fatal(err)
	}
	w.change(1, "vault.json", func([]byte) []byte { return []byte("{") })
	for _, name := range w.names(2, "packs/") {
		if err := w.copies[2].Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	v := w.open(w.unit(0), w.unit(1), w.unit(2))
	warnings := strings.Join(v.Warnings(t.Context()), "\n")
	for _, word := range []string{"mem://copy1: its vault.json is gone", "mem://copy2: its vault.json is damaged"} {
		if !strings.Contains(warnings, word) {
			t.Errorf("the warnings do not name %q:\n%s", word, warnings)
		}
	}
	w.restored(v, w.find(v, "web01@latest"), recover.RestoreOptions{Dir: t.TempDir()})
}

func TestTwoVaultsThatTheKeyOpensAreNotMixed(t *testing.T) {
	w := newWorld(t, 1)
	twin := &world{T: t, copies: []*mem.Store{mem.New()}}
	var err error
	if twin.World, err = recovertest.Make(t.Context(), 1, twin.copies[0]); err != nil {
		t.Fatal(err)
	}
	both := backstay.NewSecret(slices.Concat(w.Identity.Reveal(), []byte("\n"), twin.Identity.Reveal()))
	_, err = recover.Open(t.Context(), []recover.Unit{w.unit(0), {URL: "mem://twin", Store: twin.copies[0]}}, both)
	wantCode(t, err, backstay.CodeConflict, w.ID, twin.ID)
}

// TestADamagedManifestIsListedAndNamed, and hides no other point.
func TestADamagedManifestIsListedAndNamed(t *testing.T) {
	w := newWorld(t, 3)
	object := "points/" + string(w.Points[1])
	w.change(0, object, flip)
	v := w.open(w.unit(0), w.unit(1))
	if p := w.find(v, string(w.Points[1])); p.CopiesSound != 1 || p.Damage != "" {
		t.Errorf("with one sound copy the point is %+v", p)
	}
	w.change(1, object, flip)
	v = w.open(w.unit(0), w.unit(1))
	points := w.points(v)
	if len(points) != 3 {
		t.Fatalf("points %+v", points)
	}
	damaged := 0
	for _, p := range points {
		if p.ID == w.Points[1] {
			damaged++
			if !strings.Contains(p.Damage, object) || p.CopiesSound != 0 {
				t.Errorf("the damaged point is %+v", p)
			}
		} else if p.Damage != "" || p.VM.Name == "" {
			t.Errorf("a sound point is %+v", p)
		}
	}
	if damaged != 1 {
		t.Error("the damaged point is not in the list")
	}
	_, err := v.Find(t.Context(), string(w.Points[1]))
	wantCode(t, err, backstay.CodeDamaged, object)
}

// TestAnOlderPointIsNotTakenForTheNewestUnsaid when the newest cannot be read.
func TestAnOlderPointIsNotTakenForTheNewestUnsaid(t *testing.T) {
	w := newWorld(t, 3)
	w.change(0, "points/"+string(w.Points[2]), flip)
	v := w.open(w.unit(0))
	if p := w.find(v, "web01@latest"); p.ID != w.Points[1] || !slices.Equal(p.Newer, w.Points[2:]) {
		t.Errorf("the newest is %+v", p)
	}
	if p := w.find(v, "web01@2026-11-22T11:30:00Z"); p.ID != w.Points[1] || p.Newer != nil {
		t.Errorf("the newest at that time is %+v", p)
	}
}

// TestAManifestThatCannotBeReadIsNotCalledDamaged: I5.
func TestAManifestThatCannotBeReadIsNotCalledDamaged(t *testing.T) {
	w := newWorld(t, 2)
	object := "points/" + string(w.Points[0])
	u := w.unit(0)
	u.Store = fault.Wrap(u.Store, &fault.Fault{Kind: fault.Fail, Call: fault.Get, Prefix: object})
	v := w.open(u)
	for _, p := range w.points(v) {
		if p.ID == w.Points[0] && (p.Unreadable == "" || p.Damage != "") || p.ID == w.Points[1] && p.Unreadable != "" {
			t.Errorf("point %+v", p)
		}
	}
	_, err := v.Find(t.Context(), string(w.Points[0]))
	wantCode(t, err, backstay.CodeVaultAway)
}

// TestIndexesAreNotNeeded: what they know, the pages and packs know too.
func TestIndexesAreNotNeeded(t *testing.T) {
	w := newWorld(t, 2)
	for _, name := range w.names(0, "indexes/") {
		if err := w.copies[0].Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	v := w.open(w.unit(0))
	w.restored(v, w.find(v, string(w.Points[0])), recover.RestoreOptions{Dir: t.TempDir()})
}

// TestADamagedChainHidesNoPointAndIsSaid.
func TestADamagedChainHidesNoPointAndIsSaid(t *testing.T) {
	w := newWorld(t, 2)
	records := w.names(0, "chain/")
	if len(records) == 0 {
		t.Fatal("the vault has no chain")
	}
	w.change(0, records[len(records)/2], flip)
	v := w.open(w.unit(0))
	points := w.points(v)
	if len(points) != 2 || points[0].Unchained == "" || points[0].Damage != "" {
		t.Fatalf("points %+v", points)
	}
	w.restored(v, points[0], recover.RestoreOptions{Dir: t.TempDir()})
}

func TestAPointIsFoundAsPeopleSayIt(t *testing.T) {
	w := newWorld(t, 3)
	v := w.open(w.unit(0))
	for text, want := range map[string]int{
		string(w.Points[1]): 1, strings.ToLower(string(w.Points[1])): 1, "web01@latest": 2, "h1/web01@latest": 2,
		recovertest.VMUUID + "@latest": 2, "web01@2026-11-22T11:30:00Z": 1, "web01@2026-11-22T11:00:00Z": 1, "web01@2026-11-22T14:00:00+02:00": 2,
	} {
		if p, err := v.Find(t.Context(), text); err != nil || p.ID != w.Points[want] {
			t.Errorf("%s is %s, %v; want %s", text, p.ID, err, w.Points[want])
		}
	}
	for text, code := range map[string]backstay.Code{
		"web02@latest": backstay.CodeUnknownPoint, "web01@2026-11-22T09:00:00Z": backstay.CodeUnknownPoint, "01K9ZQ": backstay.CodeUnknownPoint,
		"web01@yesterday": backstay.CodeUsage, "": backstay.CodeUnknownPoint, "@latest": backstay.CodeUnknownPoint,
	} {
		if _, err := v.Find(t.Context(), text); !backstay.IsCode(err, code) {
			t.Errorf("%q: %v, want %s", text, err, code)
		}
	}
	if points, err := v.Points(t.Context(), "web02"); err != nil || len(points) != 0 {
		t.Errorf("points of another VM: %v, %v", points, err)
	}
}

// TestAVerifyTellsWhichCopyOfWhatIsDamaged, and keeps unreadable apart (I5).
func TestAVerifyTellsWhichCopyOfWhatIsDamaged(t *testing.T) {
	w := newWorld(t, 2)
	all := []recover.Unit{w.unit(0), w.unit(1), w.unit(2)}
	v := w.open(all...)
	verify := func(v *recover.Vault, points ...recover.Point) recover.Verified {
		t.Helper()
		var last recover.Progress
		out, err := v.Verify(t.Context(), points, func(p recover.Progress) { last = p })
		if err != nil {
			t.Fatal(err)
		}
		if last.Done == 0 || last.Done > last.Total {
			t.Errorf("progress ended as %+v", last)
		}
		return out
	}
	out := verify(v)
	if out.Damaged() || out.Unread() || len(out.Units) != 3 || len(out.Points) != 2 || out.Objects == 0 {
		t.Errorf("a sound vault is %+v", out)
	}
	object := w.largest("packs/") // of the first point, and the second shares it
	w.change(1, object, flip)
	out = verify(w.open(all...))
	if !out.Damaged() || len(out.Damages) != 1 || out.Damages[0].Object != object || out.Damages[0].Copies[1] != vault.CopyDamaged || out.Units[1].Damaged != 1 {
		t.Errorf("one damaged copy is %+v", out)
	}
	if slices.ContainsFunc(out.Points, func(p recover.VerifiedPoint) bool { return p.Verdict != recover.PointSound }) {
		t.Errorf("with two sound copies the points are %+v", out.Points)
	}
	w.change(0, object, flip)
	w.change(2, object, func([]byte) []byte { return nil })
	v = w.open(all...)
	for _, points := range [][]recover.Point{nil, {w.find(v, "web01@latest")}, {w.find(v, string(w.Points[0]))}} {
		out = verify(v, points...)
		bad := slices.DeleteFunc(slices.Clone(out.Points), func(p recover.VerifiedPoint) bool { return p.Verdict == recover.PointSound })
		if !out.Damaged() || len(out.Damages) != 1 || !out.Damages[0].Lost() {
			t.Errorf("a lost object is %+v", out)
		}
		if len(bad) == 0 || bad[0].Verdict != recover.PointDamaged || !strings.Contains(bad[0].Why, object) {
			t.Errorf("the points are %+v", out.Points)
		}
	}
}

func TestWhatCannotBeReadIsNotDamage(t *testing.T) {
	w := newWorld(t, 1)
	object := w.names(0, "packs/")[0]
	u := w.unit(0)
	u.Store = fault.Wrap(u.Store, &fault.Fault{Kind: fault.Fail, Call: fault.Get, Prefix: object})
	v := w.open(u)
	for _, points := range [][]recover.Point{nil, {w.find(v, "web01@latest")}} {
		out, err := v.Verify(t.Context(), points, nil)
		if err != nil {
			t.Fatal(err)
		}
		if out.Damaged() || !out.Unread() || out.Units[0].Unreadable == 0 || out.Units[0].Damaged != 0 {
			t.Errorf("verified %+v", out)
		}
	}
}

// TestADiskIsServedReadOnly until the context ends.
func TestADiskIsServedReadOnly(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- v.Serve(ctx, w.Points[0], "vda", recover.ServeOptions{Socket: socket, Ready: func() error { close(ready); return nil }})
	}()
	<-ready
	c, err := nbd.Dial(t.Context(), socket, "vda", nbd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := w.Disks[0]["vda"]
	got := make([]byte, len(want))
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) || !c.ReadOnly() {
		t.Errorf("served: %v, read-only %v, same %v", err, c.ReadOnly(), bytes.Equal(got, want))
	}
	extents, err := c.BlockStatus(t.Context(), nbd.BaseAllocation, 0, c.Size())
	if err != nil || len(extents) < 3 || !slices.ContainsFunc(extents, func(e nbd.Extent) bool { return e.Flags == nbd.Hole|nbd.Zero }) {
		t.Errorf("extents %v, %v", extents, err)
	}
	_ = c.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	err = v.Serve(t.Context(), w.Points[0], "sda", recover.ServeOptions{Socket: socket})
	wantCode(t, err, backstay.CodeUnknownPoint, "vda, vdb")
}

// TestAReplicaShowsWhatWasDroppedAtHome: another region's retention is its own, and
// so its units may have more points than the vault's chain.
func TestAReplicaShowsWhatWasDroppedAtHome(t *testing.T) {
	ctx := t.Context()
	unit := mem.New()
	w, err := recovertest.Make(ctx, 2, unit)
	if err != nil {
		t.Fatal(err)
	}
	dropped := "points/" + string(w.Points[0])
	manifest, err := unit.Get(ctx, dropped, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	id, keyset, err := vault.Unwrap(ctx, unit, w.Identity)
	if err != nil {
		t.Fatal(err)
	}
	home, err := vault.Open(ctx, unit, id, keyset)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(home.DropPoint(ctx, w.Points[0], recovertest.Created), unit.Put(ctx, dropped, manifest)); err != nil {
		t.Fatal(err)
	}
	for want, options := range [][]vault.OpenOption{1: nil, 2: {recover.AsReplica()}} {
		if want == 0 {
			continue
		}
		v, err := recover.Open(ctx, []recover.Unit{{URL: "mem://held", Store: unit}}, w.Identity, options...)
		if err != nil {
			t.Fatal(err)
		}
		points, err := v.Points(ctx, "")
		if err != nil || len(points) != want {
			t.Errorf("%d points are listed, want %d: %v", len(points), want, err)
		}
	}
}
