package expire

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/mover"
)

// tight is a host whose file system is short of room, and a job on it. Each
// point that is dropped gives back 10 bytes.
type tight struct {
	mover.Mover
	room   backstay.Room
	points []mover.Taken
	inUse  []backstay.PointID
	// sessions are open on points, which are in use as long as they are.
	sessions map[backstay.PointID]string
	dropped  []backstay.PointID
	kept     []backstay.PointID

	job      backstay.Job
	saved    json.RawMessage
	warnings []string
}

func (w *tight) Room(context.Context) ([]backstay.Room, error) { return []backstay.Room{w.room}, nil }
func (w *tight) Points(context.Context) ([]mover.Taken, error) { return w.points, nil }
func (w *tight) VMs(context.Context) ([]backstay.VM, error) {
	return []backstay.VM{{ID: "u1", Name: "one", Disks: []backstay.Disk{{Target: "vda", Device: "disk", Source: "/vms/one.qcow2"}}}}, nil
}

// EndSessionsOn keeps why a session was ended.
func (w *tight) EndSessionsOn(_ context.Context, id backstay.PointID, why string) ([]backstay.FileSessionID, error) {
	if w.sessions[id] == "" {
		return nil, nil
	}
	w.sessions[id] = why
	w.inUse = slices.DeleteFunc(w.inUse, func(p backstay.PointID) bool { return p == id })
	return []backstay.FileSessionID{"S1"}, nil
}

func (w *tight) DropPoint(_ context.Context, id backstay.PointID, _ mover.Progress) error {
	if slices.Contains(w.inUse, id) {
		return backstay.Errorf(backstay.CodeLayerInUse, "point %s cannot be dropped", id)
	}
	w.dropped = append(w.dropped, id)
	w.room.Free += 10
	for i := range w.room.VMs {
		w.room.VMs[i].Points = slices.DeleteFunc(w.room.VMs[i].Points, func(p backstay.RoomPoint) bool { return p.Point == id })
	}
	return nil
}

func (w *tight) KeepMap(_ context.Context, id backstay.PointID, _ mover.Progress) error {
	w.kept = append(w.kept, id)
	return nil
}

// Release drops all points, or those before the one that refuses.
func (w *tight) Release(_ context.Context, vm backstay.VMID, _ mover.Progress) (mover.Released, error) {
	for _, on := range w.room.VMs {
		for _, p := range on.Points {
			if on.VM.UUID != vm {
				continue
			}
			if slices.Contains(w.inUse, p.Point) {
				return mover.Released{}, backstay.Errorf(backstay.CodeLayerInUse, "point %s is being read", p.Point)
			}
			w.points = slices.DeleteFunc(w.points, func(t mover.Taken) bool { return t.Point == p.Point })
		}
	}
	return mover.Released{Notes: []string{"it is on a copy"}}, nil
}

func (w *tight) Job() backstay.Job { return w.job }
func (w *tight) Step(ctx context.Context, _ string, fn func(context.Context) error) error {
	return fn(ctx)
}
func (w *tight) Progress(int64, int64) {}
func (w *tight) Load(v any) (bool, error) {
	return len(w.saved) > 0, json.Unmarshal(append([]byte{}, orNull(w.saved)...), v)
}
func (w *tight) Save(v any) (err error)                  { w.saved, err = json.Marshal(v); return err }
func (w *tight) Warn(s string) error                     { w.warnings = append(w.warnings, s); return nil }
func (w *tight) Update(change func(*backstay.Job)) error { change(&w.job); return nil }

func orNull(b []byte) []byte {
	if len(b) == 0 {
		return []byte("null")
	}
	return b
}

var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// crowded has two VMs: one with a b c, of which b is in no vault; two with x y.
// They were taken in the order a x b c y.
func crowded(t *testing.T) (*tight, *Runner) {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &tight{room: backstay.Room{Device: "8:1", Folder: "/vms", Free: 100, Total: 1000, VMs: []backstay.RoomVM{
		{VM: backstay.VMRef{Name: "one", UUID: "u1"}}, {VM: backstay.VMRef{Name: "two", UUID: "u2"}},
	}}}
	for i, id := range strings.Split("a x b c y", " ") {
		vm := 0
		if id == "x" || id == "y" {
			vm = 1
		}
		at := began.Add(time.Duration(i) * time.Hour)
		w.room.VMs[vm].Points = append(w.room.VMs[vm].Points, backstay.RoomPoint{Point: backstay.PointID(id), Time: at})
		ref := w.room.VMs[vm].VM
		ref.Host = "east"
		p := backstay.RecoveryPoint{ID: backstay.PointID(id), VM: ref, Time: at}
		p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, at)
		if id != "b" {
			p.SetTier(backstay.VaultTier, backstay.TierAvailable, at)
		}
		if err := c.Points.PutPoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		w.points = append(w.points, mover.Taken{Point: p.ID})
	}
	return w, &Runner{
		Catalog: c, Now: func() time.Time { return began },
		Mover: func(backstay.HostName) (mover.Mover, error) { return w, nil },
		Floor: func(backstay.HostName, backstay.Room) int64 { return 125 },
	}
}

// makeRoom runs one expiry after the other, as the watcher would queue them.
func (w *tight) makeRoom(t *testing.T, r *Runner) string {
	t.Helper()
	for range 9 {
		plan, err := r.PlanRoom(t.Context(), w.room)
		if err != nil {
			t.Fatal(err)
		}
		w.room.Floor = r.Floor("east", w.room)
		i := slices.IndexFunc(plan, Candidate.Free)
		if !w.room.Low() || i < 0 {
			break
		}
		if err := r.Run(t.Context(), w, backstay.ExpireParams{VM: plan[i].VM.UUID, Device: "8:1", Host: "east"}); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprint(w.dropped)
}

func TestPointsGoOldestFirstUntilTheFloorIsHeld(t *testing.T) {
	w, r := crowded(t)
	if got := w.makeRoom(t, r); got != "[a x b]" { // what no vault has goes after what one has
		t.Errorf("dropped %s", got)
	}
	if p, err := r.Catalog.Points.Point(t.Context(), "a"); err != nil || p.Has(backstay.SnapshotTier) || !p.Has(backstay.VaultTier) {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := r.Catalog.Points.Point(t.Context(), "b"); err == nil {
		t.Error("b is in no tier and still listed")
	}
	if len(w.warnings) != 3 || !strings.Contains(w.warnings[2], "in no vault and is gone") {
		t.Errorf("%q", w.warnings)
	}
}

func TestTheNewestPointsGoAsTheLastResort(t *testing.T) {
	w, r := crowded(t)
	r.Floor = func(backstay.HostName, backstay.Room) int64 { return 145 }
	if got := w.makeRoom(t, r); got != "[a x b c y]" {
		t.Errorf("dropped %s", got)
	}
	if !strings.Contains(w.warnings[3], "compares everything") {
		t.Errorf("%q", w.warnings)
	}
}

func TestPinnedAndUsedPointsNeverGoForRoom(t *testing.T) {
	w, r := crowded(t)
	r.Floor = func(backstay.HostName, backstay.Room) int64 { return 500 }
	w.room.VMs[0].Points[0].Held = []string{"VM copy was restored on it"}
	w.room.VMs[1].Points[1].Transfers = []backstay.JobID{"J1"}
	err := r.Catalog.Points.ChangePoint(t.Context(), "x", func(p *backstay.RecoveryPoint) error { p.Pinned = true; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if got := w.makeRoom(t, r); got != "[b c]" {
		t.Errorf("dropped %s", got)
	}
	plan, err := r.PlanRoom(t.Context(), w.room)
	if err != nil {
		t.Fatal(err)
	}
	want := "point x of two: it is pinned; point a of one: VM copy was restored on it; point y of two: job J1 reads it"
	if got := Holders(plan); got != want {
		t.Errorf("got %s", got)
	}
}

// What only the hypervisor knows to be in use is passed over, and said.
func TestAPointThatCannotBeDroppedIsPassedOver(t *testing.T) {
	w, r := crowded(t)
	w.inUse = []backstay.PointID{"a"}
	if err := r.Run(t.Context(), w, backstay.ExpireParams{VM: "u1", Device: "8:1", Host: "east", Passed: []backstay.VMID{"u2"}}); !backstay.IsCode(err, backstay.CodeNoSpace) {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.dropped); got != "[b c]" {
		t.Errorf("dropped %s", got)
	}
	if p, err := r.Catalog.Points.Point(t.Context(), "a"); err != nil || !p.Has(backstay.SnapshotTier) {
		t.Errorf("a is not offered any more: %+v, %v", p, err)
	}
}

// tiersOf tells in which tiers the catalogue has the points a b c of VM one.
func tiersOf(t *testing.T, r *Runner) string {
	t.Helper()
	points, err := r.Catalog.Points.ListPoints(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range points {
		text := string(p.ID) + ":"
		for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
			if p.Has(tier) {
				text += " " + string(tier)
			}
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// What is in a vault stays restorable; what is only beside the disks goes; the
// VM's files are the job's result.
func TestEndingAProtectionLeavesWhatIsInVaults(t *testing.T) {
	w, r := crowded(t)
	if err := r.Run(t.Context(), w, backstay.ExpireParams{VM: "u1", Host: "east", Release: true}); err != nil {
		t.Fatal(err)
	}
	if got := tiersOf(t, r); got != "a: vault, c: vault" {
		t.Error(got)
	}
	if !slices.Equal(w.job.Result.Disks, []string{"/vms/one.qcow2"}) || !slices.Equal(w.warnings, []string{"it is on a copy"}) {
		t.Errorf("%+v, %q", w.job.Result, w.warnings)
	}
}

func TestAnEndThatBreaksOffForgetsNoPointThatIsNowhereElse(t *testing.T) {
	w, r := crowded(t)
	w.inUse = []backstay.PointID{"c"}
	err := r.Run(t.Context(), w, backstay.ExpireParams{VM: "u1", Host: "east", Release: true})
	if !backstay.IsCode(err, backstay.CodeLayerInUse) {
		t.Fatal(err)
	}
	if got := tiersOf(t, r); got != "a: vault, b: snapshot, c: snapshot vault" {
		t.Error(got)
	}
}

// Somebody protected the VM again before the job's turn came: nothing is touched.
func TestAVMThatIsProtectedAgainKeepsItsLayers(t *testing.T) {
	w, r := crowded(t)
	w.job.Created = began
	for _, err := range []error{
		r.Catalog.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "v"}),
		r.Catalog.Policies.CreatePolicy(t.Context(), backstay.Policy{Name: "p"}),
		r.Catalog.Items.PutItem(t.Context(), backstay.ProtectedItem{VM: backstay.VMRef{UUID: "u1"}, Policy: "p", Vault: "v", Since: began.Add(time.Second)}),
		r.Run(t.Context(), w, backstay.ExpireParams{VM: "u1", Host: "east", Release: true}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := tiersOf(t, r); got != "a: snapshot vault, b: snapshot, c: snapshot vault" || len(w.warnings) != 1 {
		t.Errorf("%s, %q", got, w.warnings)
	}
	if _, err := r.Catalog.Items.Item(t.Context(), "u1"); err != nil {
		t.Errorf("the new protection is gone: %v", err)
	}
}

// Retention 0: of the newest point in the vault the change map stays, the others
// are dropped whole.
func TestWithRetentionZeroTheMapIsKeptForTheNewestInTheVault(t *testing.T) {
	w, r := crowded(t)
	r.Now = func() time.Time { return began.Add(5 * time.Hour) }
	for _, err := range []error{
		r.Catalog.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "v"}),
		r.Catalog.Policies.CreatePolicy(t.Context(), backstay.Policy{Name: "p", Vault: backstay.VaultKeep{Last: 9}}),
		r.Catalog.Items.PutItem(t.Context(), backstay.ProtectedItem{VM: backstay.VMRef{UUID: "u1"}, Policy: "p", Vault: "v"}),
		r.Run(t.Context(), w, backstay.ExpireParams{VM: "u1"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := tiersOf(t, r); got != "a: vault, c: vault" || fmt.Sprint(w.dropped, w.kept) != "[a b] [c]" {
		t.Errorf("%s: dropped %v, map kept of %v", got, w.dropped, w.kept)
	}
}

// droppedFromVault is a vault of which the manifests that go are counted.
type droppedFromVault struct{ ids []backstay.PointID }

func (v *droppedFromVault) DropPoint(_ context.Context, id backstay.PointID, _ time.Time) error {
	v.ids = append(v.ids, id)
	return nil
}

// A job plans, and then merges for a long time; what is pinned meanwhile stays.
func TestAPointThatIsPinnedAfterThePlanStaysInItsVault(t *testing.T) {
	w, r := crowded(t)
	vault := &droppedFromVault{}
	r.Vault = func(context.Context, backstay.VaultName) (Vault, error) { return vault, nil }
	err := r.Catalog.Points.ChangePoint(t.Context(), "a", func(p *backstay.RecoveryPoint) error {
		p.Pinned = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.dropAll(t.Context(), w, backstay.ExpireParams{VM: "u1"}, []Verdict{{Point: "a", Tier: backstay.VaultTier, Drop: true}}); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context(), w, backstay.ExpireParams{VM: "u1", Point: "a"}); !backstay.IsCode(err, backstay.CodeLayerInUse) {
		t.Errorf("deleted by a user: %v", err)
	}
	if got := tiersOf(t, r); len(vault.ids) > 0 || len(w.dropped) > 0 || !strings.HasPrefix(got, "a: snapshot vault") {
		t.Errorf("dropped %v and %v; left %s", vault.ids, w.dropped, got)
	}
}

// A floor that is not held ends sessions that read the layers which must go, and so
// does a user who deletes a point; what a policy does not keep any more waits for them.
func TestSessionsGiveWayToWhatIsNeeded(t *testing.T) {
	w, r := crowded(t)
	reading := func() {
		w.inUse, w.sessions = []backstay.PointID{"a"}, map[backstay.PointID]string{"a": "open"}
	}
	reading()
	if got := w.makeRoom(t, r); got != "[a x b]" || !strings.Contains(w.sessions["a"], "/vms has") {
		t.Errorf("dropped %s, and told %q", got, w.sessions["a"])
	}

	w, r = crowded(t)
	r.Vault = func(context.Context, backstay.VaultName) (Vault, error) { return noVault{}, nil }
	reading()
	if err := r.Run(t.Context(), w, backstay.ExpireParams{VM: "u1", Point: "a"}); err != nil || fmt.Sprint(w.dropped) != "[a]" || !strings.Contains(w.sessions["a"], "deleted") {
		t.Errorf("deleted: %v, dropped %v, told %q", err, w.dropped, w.sessions["a"])
	}

	w, r = crowded(t)
	reading()
	err := r.drop(t.Context(), w, Verdict{Point: "a", Tier: backstay.SnapshotTier, Drop: true, Reason: "not kept any more"})
	if !backstay.IsCode(err, backstay.CodeLayerInUse) || w.sessions["a"] != "open" {
		t.Errorf("expired: %v, told %q", err, w.sessions["a"])
	}
}

type noVault struct{}

func (noVault) DropPoint(context.Context, backstay.PointID, time.Time) error { return nil }
