package drill

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/mover"
)

var began = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

// world is a catalogue with points of three VMs, one job, and a host that outlives
// the process under test.
type world struct {
	t       *testing.T
	catalog *catalog.Catalog
	host    *fakeHost

	mu   sync.Mutex
	now  time.Time
	told []backstay.DrillRecord
}

func newWorld(t *testing.T) *world {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &world{t: t, catalog: c, now: began, host: newHost()}
	w.host.tick = func() { w.advance(time.Second) }
	for _, v := range []backstay.VaultName{"main", "main@west"} {
		w.must(c.Vaults.CreateVault(t.Context(), backstay.Vault{Name: v, ID: "id-" + string(v), Head: &backstay.VaultHead{Seq: 7, Hash: "ab"}}))
	}
	for i, vm := range []string{"db01", "app01", "web01"} {
		w.point(backstay.PointID("A"+vm), vm, began.Add(-5*time.Hour), backstay.VaultTier, "main")
		w.point(backstay.PointID("B"+vm), vm, began.Add(-time.Duration(i+1)*time.Hour), backstay.VaultTier, "main")
		w.point(backstay.PointID("C"+vm), vm, began.Add(-time.Minute), backstay.SnapshotTier, "main")
	}
	w.point("Rfar", "far", began.Add(-time.Hour), backstay.VaultTier, "main@west")
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) point(id backstay.PointID, vm string, at time.Time, tier backstay.Tier, vault backstay.VaultName) {
	sum := "5a" + vm
	p := backstay.RecoveryPoint{
		ID: id, Time: at, Vault: vault, VM: backstay.VMRef{UUID: uuidOf(vm), Name: vm, Host: "h1"},
		Disks: []backstay.PointDisk{{Target: "vda", Size: 1 << 30, Included: true, SHA256: &sum}},
		Shape: backstay.VM{VCPUs: 4, MemoryMiB: 4096, NICs: []backstay.NIC{{MAC: "52:54:00:00:00:01", Kind: "bridge", Network: "br0"}}},
	}
	p.SetTier(tier, backstay.TierAvailable, at)
	w.must(w.catalog.Points.PutPoint(w.t.Context(), p))
}

func uuidOf(vm string) backstay.VMID { return backstay.VMID("uuid-" + vm) }

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// runner is a fresh process.
func (w *world) runner() *Runner {
	return &Runner{
		Catalog: w.catalog, Region: "east",
		Mover: func(backstay.HostName) (mover.Mover, error) { return w.host, nil },
		Vault: func(_ context.Context, name backstay.VaultName) (mover.VaultAccess, error) {
			return mover.VaultAccess{Name: name}, nil
		},
		Restore: w.plan,
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now
		},
		Wait: func(ctx context.Context, d time.Duration) error {
			w.advance(d)
			return ctx.Err()
		},
		Pick: func(n int) int { return n / 2 }, NewName: func() string { return "x1" },
		Recorded: func(r backstay.DrillRecord) { w.told = append(w.told, r) },
	}
}

// plan stands for the restore engine.
func (w *world) plan(ctx context.Context, r backstay.RestoreRequest) (backstay.RestorePlan, error) {
	p, err := w.catalog.Points.Point(ctx, r.Point)
	w.must(err)
	host := r.Host
	if host == "" {
		host = "h1"
	}
	if !r.KeepMAC || !r.Isolated || r.Live == (r.Tier == backstay.SnapshotTier) {
		w.t.Errorf("the drill asks for %+v", r)
	}
	return backstay.RestorePlan{
		Kind: r.Kind, Point: p.ID, Tier: r.Tier, Vault: p.Vault, Host: host, Source: p.VM, Name: r.Name, UUID: "new-" + p.VM.UUID, Live: r.Live,
		NICs: []backstay.PlannedNIC{{MAC: p.Shape.NICs[0].MAC, Kind: "bridge", Network: "br0", LinkDown: true}},
		Preflight: []backstay.Check{{Name: "network", Code: backstay.CodeNetworkMissing, Detail: "no br0 here"}, {Name: "mac", Code: backstay.CodeMACInUse},
			{Name: "room", OK: true}},
	}, nil
}

func (w *world) params(plan backstay.DrillPlan) backstay.DrillParams {
	w.t.Helper()
	params, err := w.runner().Plan(w.t.Context(), plan)
	w.must(err)
	return params
}

// shop is a plan of three VMs in order.
func shop() backstay.DrillPlan {
	plan := backstay.DrillPlan{Name: "shop", MaxCPUs: 2, MaxMemory: 1 << 30}
	for _, vm := range []string{"db01", "app01", "web01"} {
		plan.VMs = append(plan.VMs, backstay.DrillVM{
			VM: vm, UUID: uuidOf(vm), Delay: backstay.Duration(10 * time.Second),
			Probes: []backstay.DrillProbe{{Kind: backstay.DrillAgent}, {Kind: backstay.DrillTCP, Port: 80}},
		})
	}
	return plan
}

// records are those that were kept, oldest first; their chain must be whole.
func (w *world) records() []backstay.DrillRecord {
	w.t.Helper()
	records, err := w.catalog.Drills.ListDrills(w.t.Context(), 0)
	w.must(err)
	slices.Reverse(records)
	if seq, how := backstay.CheckDrills(records); seq != 0 {
		w.t.Errorf("the chain of records is broken at %d: %s", seq, how)
	}
	return records
}

// nothingLeft checks that the host is as it was.
func (w *world) nothingLeft() {
	w.t.Helper()
	if len(w.host.vms)+len(w.host.networks) > 0 {
		w.t.Errorf("left on the host: VMs %v, networks %v", w.host.vms, w.host.networks)
	}
}

// fakeRun is one job, as its catalogue would keep it.
type fakeRun struct {
	job   backstay.Job
	state []byte
	done  map[string]bool
	// saved is called before each Save.
	saved func()
}

func newRun() *fakeRun {
	return &fakeRun{job: backstay.Job{ID: "01J", User: "ann"}, done: map[string]bool{}, saved: func() {}}
}

func (r *fakeRun) Job() backstay.Job { return r.job }
func (r *fakeRun) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if r.done[name] {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := fn(ctx)
	r.done[name] = err == nil
	return err
}
func (r *fakeRun) Progress(int64, int64) {}
func (r *fakeRun) Load(v any) (bool, error) {
	if r.state == nil {
		return false, nil
	}
	return true, json.Unmarshal(r.state, v)
}
func (r *fakeRun) Save(v any) (err error) {
	r.saved()
	r.state, err = json.Marshal(v)
	return err
}
func (r *fakeRun) Warn(string) error                       { return nil }
func (r *fakeRun) Update(change func(*backstay.Job)) error { change(&r.job); return nil }

// fakeHost is what a drill asks of a mover. What it made stays when the process dies.
type fakeHost struct {
	mover.Mover
	vms      map[backstay.JobID]mover.StageRequest
	running  map[backstay.VMID]bool
	networks map[backstay.JobID]string
	order    []string
	// sick says why a probe of a VM, named by its source, does not pass.
	sick map[string]string
	// dies is a VM that stops by itself.
	dies string
	// before and after are called around each call.
	before, after func(call string) error
	tick          func()
}

func newHost() *fakeHost {
	none := func(string) error { return nil }
	return &fakeHost{vms: map[backstay.JobID]mover.StageRequest{}, running: map[backstay.VMID]bool{}, networks: map[backstay.JobID]string{}, sick: map[string]string{}, before: none, after: none}
}

func (h *fakeHost) do(ctx context.Context, call string, work func() error) error {
	h.tick()
	if err := h.before(call); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := work(); err != nil {
		return err
	}
	return h.after(call)
}

func (h *fakeHost) OpenDrill(ctx context.Context, r mover.DrillRequest) (mover.DrillNetwork, error) {
	return mover.DrillNetwork{Name: r.Network, Subnet: "10.0.0.1/24"}, h.do(ctx, "open", func() error { h.networks[r.Job] = r.Network; return nil })
}
func (h *fakeHost) CloseDrill(ctx context.Context, job backstay.JobID) error {
	return h.do(ctx, "close", func() error {
		if len(h.vms) > 0 {
			return errors.New("a VM is in the network")
		}
		delete(h.networks, job)
		return nil
	})
}
func (h *fakeHost) Stage(ctx context.Context, r mover.StageRequest, _ mover.Progress) (mover.Staged, error) {
	return mover.Staged{}, h.do(ctx, "stage", func() error { h.vms[r.Job] = r; return nil })
}
func (h *fakeHost) Define(ctx context.Context, _ mover.StageRequest) (mover.Defined, error) {
	return mover.Defined{Warnings: []string{"it lacks a thing"}}, h.do(ctx, "define", func() error { return nil })
}
func (h *fakeHost) Start(ctx context.Context, r mover.StageRequest) (mover.Up, error) {
	return mover.Up{}, h.do(ctx, "start", func() error {
		h.running[r.Plan.UUID], h.order = true, append(h.order, r.Plan.Source.Name)
		return nil
	})
}
func (h *fakeHost) Abandon(ctx context.Context, r mover.StageRequest) error {
	return h.do(ctx, "abandon", func() error { delete(h.vms, r.Job); return nil })
}
func (h *fakeHost) source(id backstay.VMID) string {
	for _, r := range h.vms {
		if r.Plan.UUID == id {
			return r.Plan.Source.Name
		}
	}
	return ""
}
func (h *fakeHost) LookDrill(ctx context.Context, r mover.DrillProbeRequest) (seen mover.DrillSeen, err error) {
	return seen, h.do(ctx, "look", func() error {
		if seen.How = "its guest agent answered"; h.dies == h.source(r.VM) {
			seen.Stopped = "it stopped by itself after it was started"
		}
		return nil
	})
}
func (h *fakeHost) ProbeDrill(ctx context.Context, r mover.DrillProbeRequest) (p mover.DrillProbed, err error) {
	return p, h.do(ctx, "probe", func() error {
		p = mover.DrillProbed{OK: true, Detail: "it passed", Address: "10.0.0.9"}
		if why := h.sick[h.source(r.VM)]; why != "" && r.Probe.Kind != backstay.DrillAgent {
			p.OK, p.Detail = false, why
		}
		return nil
	})
}
func (h *fakeHost) Picture(ctx context.Context, _ backstay.VMID) (mover.Picture, error) {
	return mover.Picture{PNG: []byte("\x89PNG"), Of: "console"}, h.do(ctx, "picture", func() error { return nil })
}
