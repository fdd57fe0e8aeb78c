package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// gang is a world whose job is of a group: the VMs one and two on the host east.
// Its mover knows what it holds, and dies like the world's.
type gang struct {
	*world
	mu       sync.Mutex
	at       map[string]int // calls so far, by name and VM
	prepared map[backstay.PointID]backstay.VMID
	took     map[backstay.PointID]mover.Taken
	held     map[backstay.VMID]bool
	// refuse is the error of the first call of a name and VM: "Hold two".
	refuse map[string]error
	loose  []string // what was taken of a VM while not all were held
	sent   []string // VMs in the order in which their points went to the vault
	broken map[backstay.VMID]error
}

var shopVMs = []backstay.VMID{"one", "two"}

func newGang(t *testing.T) *gang {
	g := &gang{
		world: newWorld(t), at: map[string]int{}, prepared: map[backstay.PointID]backstay.VMID{}, took: map[backstay.PointID]mover.Taken{},
		held: map[backstay.VMID]bool{}, refuse: map[string]error{}, broken: map[backstay.VMID]error{},
	}
	vms, _ := g.VMs(t.Context())
	must(t, g.catalog.VMs.ReplaceVMs(t.Context(), "east", vms))
	for _, v := range vms {
		must(t, g.catalog.Items.PutItem(t.Context(), backstay.ProtectedItem{VM: v.Ref(), Policy: "daily", Vault: "default"}))
	}
	return g
}

var shop = backstay.BackupParams{Group: "shop", VMs: shopVMs}

// life is one life of the group's job.
func (g *gang) life() error {
	ctx, cancel := context.WithCancelCause(g.t.Context())
	defer cancel(nil)
	g.kill = cancel
	r := g.runner()
	r.Mover = func(backstay.HostName) (mover.Mover, error) { return g, nil }
	return r.Run(ctx, g.world, shop)
}

// call is the beginning of a call of the mover; killed, nothing that runs beside
// it goes on either.
func (g *gang) call(ctx context.Context, name string, vm backstay.VMID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := name + " " + string(vm)
	g.at[key]++
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := g.die(ctx, key); err != nil {
		return err
	}
	if g.at[key] == 1 {
		return g.refuse[key]
	}
	return nil
}

func (g *gang) VMs(context.Context) ([]backstay.VM, error) {
	var vms []backstay.VM
	for _, id := range shopVMs {
		v := vm()
		v.ID, v.Name, v.Host = id, string(id), "east"
		vms = append(vms, v)
	}
	return vms, nil
}

func (g *gang) Points(context.Context) ([]mover.Taken, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []mover.Taken
	for _, p := range g.took {
		all = append(all, p)
	}
	return all, nil
}

func (g *gang) Settle(ctx context.Context, vm backstay.VMID, p backstay.PointID) (mover.Taken, bool, error) {
	if err := g.call(ctx, "Settle", vm); err != nil {
		return mover.Taken{}, false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.prepared, p)
	g.held[vm] = false
	taken, found := g.took[p]
	return taken, found, nil
}

func (g *gang) Prepare(ctx context.Context, r mover.PrepareRequest) (mover.Prepared, error) {
	if err := g.call(ctx, "Prepare", r.VM); err != nil {
		return mover.Prepared{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, vm := range g.prepared {
		if vm == r.VM {
			g.t.Errorf("prepared twice for %s", vm)
		}
	}
	g.prepared[r.Point] = r.VM
	return mover.Prepared{}, nil
}

func (g *gang) Ready(ctx context.Context, r mover.HoldRequest) error {
	return g.call(ctx, "Ready", r.VM)
}

func (g *gang) Hold(ctx context.Context, r mover.HoldRequest) (mover.Held, error) {
	if err := g.call(ctx, "Hold", r.VM); err != nil {
		return mover.Held{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[r.VM] = true
	return mover.Held{Consistency: r.Consistency}, nil
}

func (g *gang) LetGo(ctx context.Context, r mover.HoldRequest) (mover.Held, error) {
	if err := g.call(ctx, "LetGo", r.VM); err != nil {
		return mover.Held{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[r.VM] = false
	return mover.Held{}, nil
}

func (g *gang) Take(ctx context.Context, r mover.TakeRequest) (mover.Taken, error) {
	if err := g.call(ctx, "Take", r.VM); err != nil {
		return mover.Taken{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !r.Held || !g.held["one"] || !g.held["two"] {
		g.loose = append(g.loose, string(r.VM))
	}
	if g.prepared[r.Point] != r.VM {
		g.t.Errorf("took %s of %s, which is not prepared", r.Point, r.VM)
	}
	delete(g.prepared, r.Point)
	v := vm()
	v.ID, v.Name, v.Host = r.VM, string(r.VM), "east"
	g.took[r.Point] = mover.Taken{Point: r.Point, Time: r.Time, Consistency: r.Consistency, Shape: v, Disks: []backstay.PointDisk{{Target: "vda", Size: 10, Included: true}}}
	return g.took[r.Point], g.die(ctx, "after Take "+string(r.VM))
}

func (g *gang) DropPoint(ctx context.Context, p backstay.PointID, _ mover.Progress) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.took, p)
	return ctx.Err()
}

func (g *gang) Transfer(ctx context.Context, r mover.TransferRequest, progress mover.Progress) (mover.Transferred, error) {
	vm := g.took[r.Point].Shape.ID
	progress(mover.Report{Phase: "transfer", Done: 1, Total: 2})
	if err := g.call(ctx, "Transfer", vm); err != nil {
		return mover.Transferred{}, err
	}
	progress(mover.Report{Phase: "validate", Done: 2, Total: 2})
	g.sent = append(g.sent, string(vm))
	return mover.Transferred{}, g.broken[vm]
}

// isWhole sees that there is one point of each VM, all of one instant, or none of
// any, and that nothing is left of the taking.
func (g *gang) isWhole(want int) {
	g.t.Helper()
	points, err := g.catalog.Points.ListPoints(g.t.Context(), "")
	must(g.t, err)
	if len(points) != want || len(g.took) != want || len(g.prepared) != 0 || g.held["one"] || g.held["two"] || len(g.loose) != 0 {
		g.t.Errorf("%d points in the catalogue and %d beside the disks, want %d; prepared %v, held %v, taken of a VM that ran: %v",
			len(points), len(g.took), want, g.prepared, g.held, g.loose)
	}
	for _, p := range points {
		if p.Group != "shop" || !p.Time.Equal(points[0].Time) {
			g.t.Errorf("point %s of the group %q at %s", p.ID, p.Group, p.Time)
		}
	}
}

func TestAGroupHasAPointOfEachVMAtOneInstant(t *testing.T) {
	g := newGang(t)
	must(t, g.life())
	g.isWhole(2)
	if !slices.Equal(g.sent, []string{"one", "two"}) || !g.free {
		t.Errorf("sent %v, VMs free %v", g.sent, g.free)
	}
	if made := g.job.Result.Backups; len(made) != 2 || made[0].VM.Name != "one" || made[1].Point == "" || g.job.Point != "" {
		t.Errorf("result %+v", g.job.Result)
	}
}

func TestIfOneVMOfAGroupCannotBeHeldThereIsNoPointOfAny(t *testing.T) {
	for _, at := range []string{"Prepare two", "Ready two", "Hold one", "Hold two", "Take one", "Take two", "LetGo two"} {
		t.Run(at, func(t *testing.T) {
			g := newGang(t)
			cause := backstay.Errorf(backstay.CodeInconsistent, "the guest cannot be frozen")
			g.refuse[at] = cause
			err := g.life()
			if _, name, _ := strings.Cut(at, " "); !backstay.IsCode(err, backstay.CodeInconsistent) || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v", err)
			}
			g.isWhole(0)
			if g.free || len(g.sent) != 0 {
				t.Errorf("free %v, sent %v", g.free, g.sent)
			}
		})
	}
}

func TestKilledAnywhereAGroupsBackupGoesOnToAllPoints(t *testing.T) {
	steps := []string{"end of plan", "end of prepare", "end of snapshot", "end of transfer", "end of validate"}
	for _, vm := range shopVMs {
		for _, call := range []string{"Prepare", "Ready", "Hold", "Take", "after Take", "LetGo", "Transfer"} {
			steps = append(steps, fmt.Sprint(call, " ", vm))
		}
	}
	for _, at := range steps {
		t.Run(at, func(t *testing.T) {
			g := newGang(t)
			g.killAt = at
			if err := g.life(); err == nil || g.killAt != "" {
				t.Fatalf("first life: %v, want it to be killed", err)
			}
			g.held = map[backstay.VMID]bool{} // their guards let them go
			must(t, g.life())
			g.isWhole(2)
			points, err := g.catalog.Points.ListPoints(t.Context(), "")
			must(t, err)
			for _, p := range points {
				if !p.Has(backstay.SnapshotTier) || !p.Has(backstay.VaultTier) {
					t.Errorf("point %s: tiers %+v", p.ID, p.Tiers)
				}
			}
		})
	}
}

func TestAFailedTransferOfOneVMKeepsNoOtherBack(t *testing.T) {
	g := newGang(t)
	g.broken["one"] = backstay.Errorf(backstay.CodeVaultFull, "the vault is full")
	must(t, g.life())
	points, err := g.catalog.Points.ListPoints(t.Context(), "")
	must(t, err)
	for _, p := range points {
		if p.Has(backstay.VaultTier) != (p.VM.Name == "two") || !p.Has(backstay.SnapshotTier) {
			t.Errorf("%s: %+v", p.VM.Name, p.Tiers)
		}
	}
	if len(g.warnings) != 1 || !strings.Contains(g.warnings[0], "east/one") {
		t.Errorf("warnings %q", g.warnings)
	}
}

func TestOnlyTheTransferThatIsUnderWayIsLeftOutOfAGroups(t *testing.T) {
	g := newGang(t)
	transferring(t, g.catalog, "one")
	must(t, g.life())
	g.isWhole(2)
	if !slices.Equal(g.sent, []string{"two"}) {
		t.Errorf("sent %v", g.sent)
	}
}

// transferring enters a backup job of the VM that has let go of it.
func transferring(t *testing.T, c *catalog.Catalog, vm backstay.VMID) backstay.JobID {
	t.Helper()
	must(t, c.Jobs.InsertJob(t.Context(), catalog.JobRecord{
		Job: backstay.Job{ID: "EARLIER", Kind: backstay.JobBackup, State: backstay.JobRunning, Created: time.Unix(1, 0)},
		VMs: []backstay.VMID{vm}, VMsFree: true,
	}))
	return "EARLIER"
}
