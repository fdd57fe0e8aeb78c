package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/mover"
)

// errKilled stands for the end of the process: the runner's own clean-up after
// it is not part of the story, so the context ends as at a stop.
var errKilled = errors.New("killed")

// world is a host and a job that can be killed between any two calls.
type world struct {
	t        *testing.T
	guard    sync.Mutex // of what the steps and the calls of the mover both touch
	catalog  *catalog.Catalog
	job      backstay.Job
	saved    json.RawMessage
	done     map[string]bool
	warnings []string
	notes    []string
	skipped  map[string]string
	free     bool // the job let go of its VM

	mover.Mover
	prepared backstay.PointID
	taken    map[backstay.PointID]mover.Taken
	lost     map[backstay.PointID]string // points that are gone, with the reason
	inUse    map[backstay.PointID]string // points that cannot be dropped
	ended    []string                    // what sessions that gave way were told
	dropped  []backstay.PointID
	depth    int              // as the last Prepare was told
	parent   backstay.PointID // as the last Transfer was told
	leftOut  []backstay.PointDisk
	request  mover.TakeRequest // the last one
	ids      int
	inVault  []backstay.PointID
	packs    []string // those that the last transfer was told of
	// killAt ends the process before (or, with "after ", behind) the named call.
	killAt   string
	transfer error
	kill     context.CancelCauseFunc
	refused  error                                     // of opening the vault for writing
	seen     map[backstay.VaultName]backstay.VaultHead // heads of chains
	// meanwhile is what somebody else does while the snapshot is taken.
	meanwhile func()
	// inTransfer is called in the middle of a transfer.
	inTransfer func()
	refuseTake error // of the snapshot
	unlisted   error // of the listing of points
	now        time.Time
}

func newWorld(t *testing.T) *world {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	v := vm()
	v.ID, v.Host = "uuid-1", "east"
	must(t, c.VMs.ReplaceVMs(t.Context(), "east", []backstay.VM{v}))
	must(t, c.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "default"}))
	must(t, c.Policies.CreatePolicy(t.Context(), backstay.Policy{Name: "daily", Consistency: backstay.FileSystemConsistent}))
	must(t, c.Items.PutItem(t.Context(), backstay.ProtectedItem{VM: v.Ref(), Policy: "daily", Vault: "default"}))
	return &world{t: t, now: time.Unix(1e9, 0).UTC(), catalog: c, done: map[string]bool{}, skipped: map[string]string{}, seen: map[backstay.VaultName]backstay.VaultHead{}, taken: map[backstay.PointID]mover.Taken{}, lost: map[backstay.PointID]string{}, inUse: map[backstay.PointID]string{}, job: backstay.Job{ID: "J", Kind: backstay.JobBackup}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) runner() *Runner {
	return &Runner{
		Catalog: w.catalog, Now: func() time.Time { return w.now },
		Mover: func(backstay.HostName) (mover.Mover, error) { return w, nil },
		Vault: func(context.Context, backstay.VaultName) (mover.VaultAccess, error) {
			return mover.VaultAccess{Name: "default"}, w.refused
		},
		Saw: func(_ context.Context, name backstay.VaultName, head backstay.VaultHead) error {
			w.seen[name] = head
			return nil
		},
		NewPoint: func() backstay.PointID {
			w.ids++
			return backstay.PointID(fmt.Sprint("P", w.ids))
		},
	}
}

// live is one life of the job.
func (w *world) live(params backstay.BackupParams) error {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	w.kill = cancel
	return w.runner().Run(ctx, w, params)
}

func (w *world) die(ctx context.Context, at string) error {
	w.guard.Lock()
	defer w.guard.Unlock()
	if w.killAt != at {
		return nil
	}
	w.killAt = ""
	w.kill(backstay.ErrStopping)
	return errKilled
}

// The job.

func (w *world) Job() backstay.Job { return w.job }
func (w *world) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if w.done[name] {
		return nil
	}
	if err := fn(ctx); err != nil {
		return err
	}
	if err := w.die(ctx, "end of "+name); err != nil {
		return err
	}
	w.done[name] = true
	return nil
}
func (w *world) Progress(int64, int64) {}
func (w *world) Load(v any) (bool, error) {
	if w.saved == nil {
		return false, nil
	}
	return true, json.Unmarshal(w.saved, v)
}
func (w *world) Save(v any) (err error) {
	w.guard.Lock()
	defer w.guard.Unlock()
	w.saved, err = json.Marshal(v)
	return err
}
func (w *world) Warn(warning string) error {
	w.warnings = append(w.warnings, warning)
	return nil
}
func (w *world) Update(change func(*backstay.Job)) error { change(&w.job); return nil }
func (w *world) FreeVMs() error                          { w.free = true; return nil }
func (w *world) Skip(name, reason string) error {
	w.done[name], w.skipped[name] = true, reason
	return nil
}
func (w *world) Note(name, detail string) error {
	w.notes = append(w.notes, name+": "+detail)
	return nil
}

// The host.

func (w *world) VMs(context.Context) ([]backstay.VM, error) {
	v := vm()
	v.ID = "uuid-1"
	return []backstay.VM{v}, nil
}
func (w *world) Settle(_ context.Context, _ backstay.VMID, p backstay.PointID) (mover.Taken, bool, error) {
	if w.prepared == p {
		w.prepared = ""
	}
	taken, found := w.taken[p]
	return taken, found, nil
}
func (w *world) Points(context.Context) ([]mover.Taken, error) {
	var all []mover.Taken
	for _, p := range w.taken {
		all = append(all, p)
	}
	return all, w.unlisted
}
func (w *world) Lost(_ context.Context, places []mover.PointPlace) (map[backstay.PointID]string, error) {
	lost := map[backstay.PointID]string{}
	for _, p := range places {
		if why := w.lost[p.Point]; why != "" {
			lost[p.Point] = why
		}
	}
	return lost, nil
}

// EndSessionsOn ends those who say that they are sessions.
func (w *world) EndSessionsOn(_ context.Context, p backstay.PointID, why string) ([]backstay.FileSessionID, error) {
	if !strings.HasPrefix(w.inUse[p], "session") {
		return nil, nil
	}
	delete(w.inUse, p)
	w.ended = append(w.ended, why)
	return []backstay.FileSessionID{"S1"}, nil
}
func (w *world) DropPoint(_ context.Context, p backstay.PointID, _ mover.Progress) error {
	if why := w.inUse[p]; why != "" {
		return backstay.Errorf(backstay.CodeLayerInUse, "it is in use").Becausef("%s", why)
	}
	delete(w.taken, p)
	w.dropped = append(w.dropped, p)
	return nil
}
func (w *world) Prepare(ctx context.Context, r mover.PrepareRequest) (mover.Prepared, error) {
	w.depth = r.Depth
	if err := w.die(ctx, "prepare"); err != nil {
		return mover.Prepared{}, err
	}
	if w.prepared != "" {
		w.t.Errorf("prepared %s while %s is", r.Point, w.prepared)
	}
	w.prepared = r.Point
	return mover.Prepared{}, w.die(ctx, "after prepare")
}
func (w *world) Take(ctx context.Context, r mover.TakeRequest) (mover.Taken, error) {
	if err := w.die(ctx, "take"); err != nil {
		return mover.Taken{}, err
	}
	w.request = r
	if w.refuseTake != nil {
		return mover.Taken{}, w.refuseTake
	}
	if w.prepared != r.Point {
		w.t.Errorf("took %s, prepared is %q", r.Point, w.prepared)
	}
	w.prepared = ""
	if w.meanwhile != nil {
		w.meanwhile()
	}
	shape := vm()
	shape.ID = "uuid-1"
	w.taken[r.Point] = mover.Taken{
		Point: r.Point, Time: r.Time, Consistency: r.Consistency, Shape: shape, FreezeMs: 7,
		Disks: []backstay.PointDisk{{Target: "vda", Size: 10, Included: true}},
	}
	return w.taken[r.Point], w.die(ctx, "after take")
}
func (w *world) Transfer(ctx context.Context, r mover.TransferRequest, progress mover.Progress) (mover.Transferred, error) {
	w.packs, w.parent, w.leftOut = r.Packs, r.Parent, r.LeftOut
	progress(mover.Report{Phase: "transfer", Done: 1, Total: 2, Pack: "pack-" + string(rune('1'+len(r.Packs)))})
	if err := w.die(ctx, "transfer"); err != nil {
		return mover.Transferred{}, err
	}
	if w.inTransfer != nil {
		w.inTransfer()
	}
	if w.transfer != nil {
		return mover.Transferred{}, w.transfer
	}
	progress(mover.Report{Phase: "validate", Done: 2, Total: 2})
	if err := w.die(ctx, "validate"); err != nil {
		return mover.Transferred{}, err
	}
	if !slices.Contains(w.inVault, r.Point) {
		w.inVault = append(w.inVault, r.Point)
	}
	return mover.Transferred{Disks: []backstay.PointDisk{{Target: "vda", DataBytes: 5}}, Stats: backstay.JobStats{BytesRead: 10},
		Head: backstay.VaultHead{Seq: uint64(len(w.inVault)), Hash: "aa"}}, w.die(ctx, "after transfer")
}

// TestKilledAnywhereABackupGoesOnToOneWholePoint kills the process at every
// call and at the end of every step, once, and lets the next life go on.
func TestKilledAnywhereABackupGoesOnToOneWholePoint(t *testing.T) {
	for _, at := range []string{
		"end of plan", "prepare", "after prepare", "end of prepare", "take", "after take", "end of snapshot",
		"transfer", "end of transfer", "validate", "after transfer", "end of validate",
	} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			w.killAt = at
			if err := w.live(backstay.BackupParams{VM: "uuid-1"}); !errors.Is(err, errKilled) {
				t.Fatalf("first life: %v, want it to be killed", err)
			}
			must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
			points, err := w.catalog.Points.ListPoints(t.Context(), "")
			must(t, err)
			if len(points) != 1 || len(w.taken) != 1 || len(w.inVault) != 1 || w.prepared != "" {
				t.Fatalf("%d points in the catalogue, %d on the host, %d in the vault, prepared %q", len(points), len(w.taken), len(w.inVault), w.prepared)
			}
			if w.seen["default"].Seq != 1 {
				t.Errorf("nobody remembers the head of the vault's chain: %+v", w.seen)
			}
			if !points[0].Has(backstay.SnapshotTier) || !points[0].Has(backstay.VaultTier) {
				t.Errorf("tiers %+v", points[0].Tiers)
			}
		})
	}
}

func TestNothingIsTransferredIntoAVaultThatWasRolledBack(t *testing.T) {
	w := newWorld(t)
	w.refused = backstay.Errorf(backstay.CodeVaultRolledBack, "the vault is in an older state than it was")
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	points, err := w.catalog.Points.ListPoints(t.Context(), "")
	must(t, err)
	if len(w.inVault) != 0 || len(points) != 1 || !points[0].Has(backstay.SnapshotTier) || points[0].Has(backstay.VaultTier) ||
		len(w.warnings) != 1 || !strings.Contains(w.warnings[0], string(backstay.CodeVaultRolledBack)) {
		t.Errorf("points %+v, in the vault %v, warnings %q", points, w.inVault, w.warnings)
	}
}

func TestABrokenTransferGoesOnBehindItsDurablePacks(t *testing.T) {
	w := newWorld(t)
	w.killAt = "transfer"
	_ = w.live(backstay.BackupParams{VM: "uuid-1"})
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	if !slices.Equal(w.packs, []string{"pack-1"}) {
		t.Errorf("the second attempt was told of %q", w.packs)
	}
}

// A unit that is lost in the middle of a transfer is recorded first; then the
// transfer goes on behind its durable packs, and the job says what the point lacks (I2).
func TestATransferGoesOnWithoutAUnitThatWasLostMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.transfer = backstay.Errorf(backstay.CodeVaultAway, "packs/3f could not be written to the vault")
	var order []string
	r := w.runner()
	behind := []string(nil)
	r.Vault = func(context.Context, backstay.VaultName) (mover.VaultAccess, error) {
		order = append(order, fmt.Sprintf("write without %q", behind))
		return mover.VaultAccess{Name: "default", Units: []string{"file:///b", "file:///c"}, Behind: behind}, nil
	}
	r.Lost = func(context.Context, backstay.VaultName) ([]string, error) {
		order = append(order, "recorded")
		w.transfer, behind = nil, []string{"file:///a"}
		return []string{"storage unit file:///a is recorded as lost"}, nil
	}
	must(t, r.Run(t.Context(), w, backstay.BackupParams{VM: "uuid-1"}))
	if want := []string{`write without []`, "recorded", `write without ["file:///a"]`}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
	if !slices.Equal(w.packs, []string{"pack-1"}) || len(w.inVault) != 1 {
		t.Errorf("went on behind %q, in the vault %v", w.packs, w.inVault)
	}
	if len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "short of 1") || !strings.Contains(w.warnings[0], "file:///a is recorded as lost") {
		t.Errorf("warnings %q", w.warnings)
	}
}

// With all units there the failure stands: nothing is written with fewer copies.
func TestAFailedWriteToUnitsThatAnswerIsNotTriedWithFewer(t *testing.T) {
	w := newWorld(t)
	w.transfer = backstay.Errorf(backstay.CodeVaultAway, "packs/3f could not be written to the vault")
	r, looked := w.runner(), 0
	r.Lost = func(context.Context, backstay.VaultName) ([]string, error) { looked++; return nil, nil }
	must(t, r.Run(t.Context(), w, backstay.BackupParams{VM: "uuid-1"}))
	if looked != 1 || len(w.inVault) != 0 || len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "vault-unreachable") {
		t.Errorf("looked %d times, in the vault %v, warnings %q", looked, w.inVault, w.warnings)
	}
}

func TestAFailedTransferLeavesASnapshotPointAndAWarning(t *testing.T) {
	w := newWorld(t)
	w.transfer = backstay.Errorf(backstay.CodeValidateFailed, "pack 3f reads differently from copy 2")
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	points, err := w.catalog.Points.ListPoints(t.Context(), "")
	must(t, err)
	if len(points) != 1 || !points[0].Has(backstay.SnapshotTier) || len(points[0].Tiers) != 1 {
		t.Fatalf("points %+v: only the snapshot tier is wanted", points)
	}
	if len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "validate-failed") {
		t.Errorf("warnings %q", w.warnings)
	}
}

func TestACancelBeforeTheSnapshotLeavesNothing(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	w.kill = func(error) { cancel(backstay.ErrCancelled) }
	w.killAt = "after prepare"
	if err := w.runner().Run(ctx, w, backstay.BackupParams{VM: "uuid-1"}); err == nil {
		t.Fatal("a cancelled job succeeded")
	}
	points, err := w.catalog.Points.ListPoints(t.Context(), "")
	must(t, err)
	if len(points) != 0 || w.prepared != "" {
		t.Errorf("%d points, prepared %q", len(points), w.prepared)
	}
}

func TestACancelBehindTheSnapshotKeepsThePoint(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	w.kill = func(error) { cancel(backstay.ErrCancelled) }
	w.killAt = "transfer"
	if err := w.runner().Run(ctx, w, backstay.BackupParams{VM: "uuid-1"}); err == nil {
		t.Fatal("a cancelled job succeeded")
	}
	points, err := w.catalog.Points.ListPoints(t.Context(), "")
	must(t, err)
	if len(points) != 1 || !points[0].Has(backstay.SnapshotTier) || len(points[0].Tiers) != 1 {
		t.Errorf("points %+v", points)
	}
}

func TestASnapshotTierBackupStopsBeforeTheTransfer(t *testing.T) {
	w := newWorld(t)
	must(t, w.live(backstay.BackupParams{VM: "uuid-1", Tier: backstay.SnapshotTier}))
	points, err := w.catalog.Points.ListPoints(t.Context(), "")
	must(t, err)
	if len(points) != 1 || len(points[0].Tiers) != 1 || len(w.inVault) != 0 {
		t.Errorf("points %+v, in the vault %v", points, w.inVault)
	}
}

func TestAnUnprotectedVMIsRefused(t *testing.T) {
	w := newWorld(t)
	must(t, w.catalog.Items.DeleteItem(t.Context(), "uuid-1"))
	if err := w.live(backstay.BackupParams{VM: "uuid-1"}); !backstay.IsCode(err, backstay.CodeNotProtected) {
		t.Errorf("%v", err)
	}
}

func TestALifeThatIsOnlyForUndoingUndoes(t *testing.T) {
	w := newWorld(t)
	w.killAt = "after prepare"
	_ = w.live(backstay.BackupParams{VM: "uuid-1"})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(backstay.ErrCancelled)
	_ = w.runner().Run(ctx, w, backstay.BackupParams{VM: "uuid-1"})
	if w.prepared != "" {
		t.Errorf("%s is still prepared", w.prepared)
	}
}

func TestABackupDoesNotTurnBackWhatSomebodyDidToTheItemMeanwhile(t *testing.T) {
	w := newWorld(t)
	must(t, w.catalog.Policies.CreatePolicy(t.Context(), backstay.Policy{Name: "hourly"}))
	w.meanwhile = func() {
		must(t, w.catalog.Items.PutItem(t.Context(), backstay.ProtectedItem{VM: backstay.VMRef{UUID: "uuid-1"}, Policy: "hourly", Vault: "default"}))
	}
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	if item, err := w.catalog.Items.Item(t.Context(), "uuid-1"); err != nil || item.Policy != "hourly" || item.LastPoint == nil {
		t.Errorf("put under another policy: %+v, %v", item, err)
	}

	w = newWorld(t)
	w.meanwhile = func() { must(t, w.catalog.Items.DeleteItem(t.Context(), "uuid-1")) }
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	if _, err := w.catalog.Items.Item(t.Context(), "uuid-1"); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("unprotected, and protected again: %v", err)
	}
}

func TestAVMThatIsUnprotectedBetweenTwoLivesIsSettledAllTheSame(t *testing.T) {
	w := newWorld(t)
	w.killAt = "after prepare"
	_ = w.live(backstay.BackupParams{VM: "uuid-1"})
	must(t, w.catalog.Items.DeleteItem(t.Context(), "uuid-1"))
	if err := w.live(backstay.BackupParams{VM: "uuid-1"}); !backstay.IsCode(err, backstay.CodeNotProtected) {
		t.Errorf("%v", err)
	}
	if w.prepared != "" {
		t.Errorf("%s is still prepared", w.prepared)
	}
}
