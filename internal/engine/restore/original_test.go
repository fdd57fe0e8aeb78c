package restore

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
)

const oldPoint = backstay.PointID("01JP0000000000000000000001")

// replaceWorld is a host with a protected VM that runs and has a point, and a job.
type replaceWorld struct {
	t       *testing.T
	catalog *catalog.Catalog
	host    *movertest.Fake
	before  []backstay.Disk
	points  int

	job   backstay.Job
	done  map[string]bool
	saved []byte
	// endAt is the call or step at which the life ends, and cause why.
	endAt string
	cause error
	end   context.CancelCauseFunc
}

func newReplaceWorld(t *testing.T) *replaceWorld {
	t.Helper()
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	w := &replaceWorld{t: t, catalog: c, host: movertest.NewFake(nil), cause: backstay.ErrStopping}
	w.newJob("01JB0000000000000000000001")
	ctx := t.Context()
	vm := w.host.Machine
	vm.Host = "east"
	_, err = w.host.Prepare(ctx, mover.PrepareRequest{Job: "J", Point: oldPoint, VM: vm.ID, Disks: []backstay.DiskTarget{"vda", "vdb"}})
	must(t, err)
	taken, err := w.host.Take(ctx, mover.TakeRequest{Job: "J", Point: oldPoint, VM: vm.ID, Consistency: backstay.CrashConsistent, Time: time.Unix(1e9, 0)})
	must(t, err)
	taken.Shape.Host = "east"
	must(t, c.Points.PutPoint(ctx, mover.PointOf(taken, "default", time.Unix(1e9, 0))))
	must(t, c.Hosts.PutHost(ctx, backstay.Host{Name: "east", State: "connected"}))
	must(t, c.Vaults.CreateVault(ctx, backstay.Vault{Name: "default"}))
	must(t, c.Policies.CreatePolicy(ctx, backstay.Policy{Name: "daily"}))
	must(t, c.Items.PutItem(ctx, backstay.ProtectedItem{VM: vm.Ref(), Policy: "daily", Vault: "default"}))
	vms, err := w.host.VMs(ctx)
	must(t, err)
	w.before = vms[0].Disks
	w.host.Hook = func(_ context.Context, method string) error { return w.at(method) }
	return w
}

func (w *replaceWorld) newJob(id backstay.JobID) {
	w.job, w.done, w.saved = backstay.Job{ID: id, Kind: backstay.JobRestore}, map[string]bool{}, nil
}

func (w *replaceWorld) runner() *Runner {
	return &Runner{
		Catalog: w.catalog, Now: func() time.Time { return time.Unix(1e9+60, 0).UTC() },
		Mover:        func(backstay.HostName) (mover.Mover, error) { return w.host, nil },
		Vault:        func(context.Context, backstay.VaultName) (mover.VaultAccess, error) { return mover.VaultAccess{}, nil },
		VaultProblem: func(context.Context, backstay.VaultName, backstay.PointID) (string, string) { return "", "" },
		NewUUID:      func() backstay.VMID { return "fresh-uuid" }, NewMAC: func() string { return "52:54:00:aa:bb:cc" },
		NewPoint: func() backstay.PointID {
			w.points++
			return backstay.PointID("01JP00000000000000000001" + string(rune('A'+w.points)) + "0")
		},
	}
}

func (w *replaceWorld) plan(r backstay.RestoreRequest) backstay.RestoreParams {
	w.t.Helper()
	r.Kind, r.Point = backstay.ReplaceDisks, oldPoint
	p, err := w.runner().Plan(w.t.Context(), r)
	must(w.t, err)
	return backstay.RestoreParams{Request: r, Plan: p}
}

func (w *replaceWorld) live(params backstay.RestoreParams) error {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	w.end = cancel
	return w.runner().Run(ctx, w, params)
}

func (w *replaceWorld) undo(params backstay.UndoParams) error {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	w.end = cancel
	return w.runner().Undo(ctx, w, params)
}

func (w *replaceWorld) at(what string) error {
	if w.endAt != what {
		return nil
	}
	w.endAt = ""
	w.end(w.cause)
	return errKilled
}

func (w *replaceWorld) Job() backstay.Job {
	j := w.job
	for name := range w.done {
		j.Tasks = append(j.Tasks, backstay.Task{Name: name, State: backstay.TaskSucceeded})
	}
	return j
}

func (w *replaceWorld) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if w.done[name] {
		return nil
	}
	if err := fn(ctx); err != nil {
		return err
	}
	w.done[name] = true
	return w.at("after " + name)
}
func (w *replaceWorld) Progress(int64, int64) {}
func (w *replaceWorld) Load(v any) (bool, error) {
	if w.saved == nil {
		return false, nil
	}
	return true, json.Unmarshal(w.saved, v)
}
func (w *replaceWorld) Save(v any) (err error) {
	w.saved, err = json.Marshal(v)
	return err
}
func (w *replaceWorld) Warn(s string) error {
	w.job.Warnings = append(w.job.Warnings, s)
	return nil
}
func (w *replaceWorld) Update(change func(*backstay.Job)) error { change(&w.job); return nil }

// onOld tells whether the VM has the disks that it had.
func (w *replaceWorld) onOld() bool {
	w.t.Helper()
	vms, err := w.host.VMs(w.t.Context())
	must(w.t, err)
	return slices.EqualFunc(vms[0].Disks, w.before, func(a, b backstay.Disk) bool { return a.Source == b.Source })
}

var replaceCalls = []string{
	"after plan", "Stop", "after stop", "Prepare", "Take", "after safety", "StageReplace", "after stage", "after verify", "SwitchDisks", "after switch", "Start",
}

func TestKilledAnywhereAReplaceGoesOnAndTakesOneSafetyPoint(t *testing.T) {
	for _, at := range replaceCalls {
		t.Run(at, func(t *testing.T) {
			w := newReplaceWorld(t)
			params := w.plan(backstay.RestoreRequest{Stop: true, Start: true})
			must(t, params.Plan.Refusal())
			w.endAt = at
			if err := w.live(params); err == nil {
				t.Fatal("the first life was not ended")
			}
			must(t, w.live(params))
			if w.onOld() || w.job.Result.UndoUntil == nil || w.job.Result.SafetyPoint != params.Plan.SafetyPoint {
				t.Errorf("on its old disks %v, result %+v", w.onOld(), w.job.Result)
			}
			p, err := w.catalog.Points.Point(t.Context(), params.Plan.SafetyPoint)
			must(t, err)
			if !p.Has(backstay.SnapshotTier) || p.Expires == nil || p.Vault != "default" || p.Job != w.job.ID || !strings.HasPrefix(p.ConsistencyReason, "safety point of job "+string(w.job.ID)) {
				t.Errorf("the safety point is %+v", p)
			}
		})
	}
}

// Cancelled before the switch, the VM is as it was; from the switch on it is new.
func TestCancelledAnywhereAReplaceLeavesTheVMOldOrNew(t *testing.T) {
	for _, at := range replaceCalls {
		t.Run(at, func(t *testing.T) {
			w := newReplaceWorld(t)
			params := w.plan(backstay.RestoreRequest{Stop: true, Start: true})
			w.endAt, w.cause = at, backstay.ErrCancelled
			if err := w.live(params); err == nil {
				t.Fatal("a cancelled replace succeeded")
			}
			switched := at == "after switch" || at == "Start"
			if w.onOld() == switched {
				t.Errorf("on its old disks: %v", w.onOld())
			}
		})
	}
}

// A mover that is killed in the switch comes back in a moment; whoever asked for
// the restore is not to be told that it failed.
func TestAReplaceGoesOnWhenTheMoverIsBack(t *testing.T) {
	patient := awhile
	awhile.pause = time.Millisecond
	defer func() { awhile = patient }()
	for _, call := range []string{"StageReplace", "SwitchDisks", "Start"} {
		t.Run(call, func(t *testing.T) {
			w := newReplaceWorld(t)
			cut := 0
			w.host.Hook = func(_ context.Context, method string) error {
				if method == call && cut < 3 {
					cut++
					return backstay.Errorf(backstay.CodeHostAway, "the mover went away")
				}
				return nil
			}
			params := w.plan(backstay.RestoreRequest{Stop: true, Start: true})
			err := w.live(params)
			if call == "StageReplace" { // nothing of it was begun, so there is nothing to wait for
				if !backstay.IsCode(err, backstay.CodeHostAway) || !w.onOld() {
					t.Errorf("%v, on its old disks %v", err, w.onOld())
				}
				return
			}
			must(t, err)
			if w.onOld() {
				t.Error("the VM is on its old disks")
			}
		})
	}
}

func TestWithoutASafetyPointNothingIsReplaced(t *testing.T) {
	w := newReplaceWorld(t)
	started := false
	w.host.Hook = func(_ context.Context, method string) error {
		started = started || method == "Start"
		switch method {
		case "Take":
			return backstay.Errorf(backstay.CodeNoSpace, "no room for it")
		case "StageReplace", "SwitchDisks":
			t.Error(method + " without a safety point")
		}
		return nil
	}
	err := w.live(w.plan(backstay.RestoreRequest{Stop: true, Start: true}))
	if !backstay.IsCode(err, backstay.CodeSafetyPoint) || !strings.Contains(err.Error(), "no room") {
		t.Errorf("%v", err)
	}
	if !w.onOld() || !started {
		t.Errorf("on its old disks %v, started again %v", w.onOld(), started)
	}
}

func TestAnUndoPutsBackAndKeepsWhatWasWrittenSince(t *testing.T) {
	for _, at := range []string{"", "after plan", "Stop", "Take", "after safety", "Undo", "after switch"} {
		t.Run(at, func(t *testing.T) {
			w := newReplaceWorld(t)
			params := w.plan(backstay.RestoreRequest{Stop: true})
			must(t, w.live(params))
			encoded, err := json.Marshal(params)
			must(t, err)
			w.job.State = backstay.JobSucceeded
			must(t, w.catalog.Jobs.InsertJob(t.Context(), catalog.JobRecord{Job: w.job, Host: "east", Params: encoded}))
			plan, undo, err := w.runner().PlanUndo(t.Context(), w.job.ID, backstay.UndoRequest{})
			must(t, err)
			if !strings.Contains(strings.Join(plan.Effects, ";"), "as a recovery point") {
				t.Errorf("effects %q", plan.Effects)
			}
			w.newJob("01JB0000000000000000000002")
			if at != "" {
				w.endAt = at
				if err := w.undo(undo); err == nil {
					t.Fatal("the first life was not ended")
				}
			}
			must(t, w.undo(undo))
			if !w.onOld() {
				t.Error("the VM is not on its old disks")
			}
			if _, err := w.catalog.Points.Point(t.Context(), undo.SafetyPoint); err != nil {
				t.Errorf("what was written since: %v", err)
			}
			if _, _, err := w.runner().PlanUndo(t.Context(), "01JB0000000000000000000001", backstay.UndoRequest{}); !backstay.IsCode(err, backstay.CodeCannotUndo) {
				t.Errorf("undone twice: %v", err)
			}
		})
	}
}

func TestOnlyARestoreThatHasEndedIsTakenBack(t *testing.T) {
	w := newReplaceWorld(t)
	for id, job := range map[backstay.JobID]backstay.Job{
		"01JB000000000000000000000A": {Kind: backstay.JobBackup, State: backstay.JobSucceeded},
		"01JB000000000000000000000B": {Kind: backstay.JobRestore, State: backstay.JobRunning},
	} {
		job.ID = id
		must(t, w.catalog.Jobs.InsertJob(t.Context(), catalog.JobRecord{Job: job, Params: []byte("{}")}))
	}
	for id, code := range map[backstay.JobID]backstay.Code{
		"01JB000000000000000000000A": backstay.CodeCannotUndo, "01JB000000000000000000000B": backstay.CodeConflict,
		"01JB000000000000000000000C": backstay.CodeUnknownJob,
	} {
		if _, _, err := w.runner().PlanUndo(t.Context(), id, backstay.UndoRequest{}); !backstay.IsCode(err, code) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestAReplaceIsRefusedWithTheReasonAndAWayOut(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *replaceWorld, r *backstay.RestoreRequest)
		code   backstay.Code
		says   string
	}{
		"running":      {func(*replaceWorld, *backstay.RestoreRequest) {}, backstay.CodeNotShutOff, "--stop"},
		"paused":       {func(w *replaceWorld, _ *backstay.RestoreRequest) { w.host.Machine.State = backstay.VMPaused }, backstay.CodeNotShutOff, "--stop"},
		"memory saved": {func(w *replaceWorld, r *backstay.RestoreRequest) { w.host.Saved, r.Stop = true, true }, backstay.CodeSavedMemory, "--discard-saved"},
		"own snapshots": {func(w *replaceWorld, r *backstay.RestoreRequest) {
			w.host.LibvirtSnapshots, r.Stop = []string{"mine"}, true
		}, backstay.CodeVMHeld, "mine"},
		"gone": {func(w *replaceWorld, _ *backstay.RestoreRequest) {
			w.host.Machine.ID = "99999999-9999-4999-8999-999999999999"
		}, backstay.CodeVMMissing, "create-vm"},
		"not protected": {func(w *replaceWorld, r *backstay.RestoreRequest) {
			r.Stop = true
			must(w.t, w.catalog.Items.DeleteItem(w.t.Context(), w.host.Machine.ID))
		}, backstay.CodeNotProtected, "--no-safety-point"},
		"a disk left out": {func(w *replaceWorld, r *backstay.RestoreRequest) { r.Stop = true; w.leaveOut("vdb") }, backstay.CodePartial, "--disk"},
		"host unreachable": {func(w *replaceWorld, _ *backstay.RestoreRequest) {
			w.host.Hook = func(_ context.Context, m string) error {
				if m == "VMs" {
					return errors.New("gone")
				}
				return nil
			}
		}, backstay.CodeNotConnected, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newReplaceWorld(t)
			var r backstay.RestoreRequest
			test.change(w, &r)
			plan := w.plan(r).Plan
			err := plan.Refusal()
			if !backstay.IsCode(err, test.code) {
				t.Fatalf("%v", err)
			}
			if e := backstay.AsError(err); !strings.Contains(e.Cause+e.Action, test.says) {
				t.Errorf("%s: %s; %s", e.Message, e.Cause, e.Action)
			}
		})
	}
}

// leaveOut lets the point lack a disk by the user's wish.
func (w *replaceWorld) leaveOut(target backstay.DiskTarget) {
	w.t.Helper()
	must(w.t, w.catalog.Points.ChangePoint(w.t.Context(), oldPoint, func(p *backstay.RecoveryPoint) error {
		for i := range p.Disks {
			if p.Disks[i].Target == target {
				p.Disks[i].Included, p.Disks[i].Excluded, p.Disks[i].Reason = false, true, "left out by the user"
			}
		}
		return nil
	}))
}

func TestAReplaceSaysWhatBecomesOfEachDisk(t *testing.T) {
	actions := func(p backstay.RestorePlan) map[backstay.DiskTarget]backstay.DiskAction {
		all := map[backstay.DiskTarget]backstay.DiskAction{}
		for _, d := range p.Disks {
			all[d.Target] = d.Action
			if (d.Path != "") != (d.Action == backstay.DiskReplaced || d.Action == backstay.DiskReturned) {
				t.Errorf("disk %s is %s, with the file %q", d.Target, d.Action, d.Path)
			}
		}
		return all
	}
	w := newReplaceWorld(t)
	// vdb is lost, vdc was added.
	w.host.Machine.Disks = []backstay.Disk{w.before[0], {Target: "vdc", Device: "disk", Source: "/fake/vdc.raw", Format: "raw"}, {Target: "sda", Device: "cdrom"}}
	got := actions(w.plan(backstay.RestoreRequest{Stop: true}).Plan)
	if want := map[backstay.DiskTarget]backstay.DiskAction{"vda": "replaced", "vdb": "returned", "vdc": "detached"}; !equalMaps(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	got = actions(w.plan(backstay.RestoreRequest{Stop: true, Disks: []backstay.DiskTarget{"vdb"}}).Plan)
	if want := map[backstay.DiskTarget]backstay.DiskAction{"vda": "kept", "vdb": "returned", "vdc": "kept"}; !equalMaps(got, want) {
		t.Errorf("with --disk: %v, want %v", got, want)
	}
	// What the user left out stays, where the wanted disks are named.
	w.leaveOut("vdb")
	p := w.plan(backstay.RestoreRequest{Stop: true, Disks: []backstay.DiskTarget{"vda"}}).Plan
	if err := p.Refusal(); err != nil {
		t.Error(err)
	}
	_, err := w.runner().Plan(t.Context(), backstay.RestoreRequest{Kind: backstay.ReplaceDisks, Point: oldPoint, Disks: []backstay.DiskTarget{"vdb"}})
	if !backstay.IsCode(err, backstay.CodeDiskUnknown) {
		t.Errorf("a disk that the point lacks: %v", err)
	}
}

func equalMaps(a, b map[backstay.DiskTarget]backstay.DiskAction) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if a[k] != b[k] {
			return false
		}
	}
	return true
}
