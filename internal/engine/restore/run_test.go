package restore

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/mover"
)

var errKilled = errors.New("killed")

// world is a host and a restore job that can be ended between any two calls.
type world struct {
	t       *testing.T
	catalog *catalog.Catalog
	job     backstay.Job
	done    map[string]bool
	begun   string // the task that was begun last

	mover.Mover
	facts           Facts
	staged, defined bool
	running         bool
	endAt           string // the call at which the life ends
	cause           error  // why: ErrStopping stands for a kill
	end             context.CancelCauseFunc
	fail            map[string]error
	differs         []string // how the new VM differs from its source
	vaultWarning    string   // what the vault cannot vouch for
	warnings        []string
	preview         mover.Preview
	layerLost       bool // the host does not offer the point any more
}

func newWorld(t *testing.T) *world {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	f := facts()
	must(t, c.Points.PutPoint(t.Context(), f.Point))
	must(t, c.Hosts.PutHost(t.Context(), f.Host))
	must(t, c.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "default"}))
	return &world{t: t, catalog: c, facts: f, done: map[string]bool{}, fail: map[string]error{}, cause: backstay.ErrStopping, job: backstay.Job{ID: "J"}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) runner() *Runner {
	return &Runner{
		Catalog: w.catalog, Now: func() time.Time { return time.Unix(1e9, 0).UTC() },
		Mover: func(backstay.HostName) (mover.Mover, error) { return w, nil },
		Vault: func(context.Context, backstay.VaultName) (mover.VaultAccess, error) { return mover.VaultAccess{}, nil },
		VaultProblem: func(context.Context, backstay.VaultName, backstay.PointID) (string, string) {
			return "", w.vaultWarning
		},
		NewUUID: func() backstay.VMID { return "fresh-uuid" }, NewMAC: func() string { return "52:54:00:aa:bb:cc" },
	}
}

// restored puts a restore that ended into the catalogue.
func (w *world) restored(id backstay.JobID, host backstay.HostName, took time.Duration) {
	start := time.Unix(1e9, 0).UTC()
	end := start.Add(took)
	params, err := json.Marshal(backstay.RestoreParams{Plan: backstay.RestorePlan{Kind: backstay.CreateVM, Tier: backstay.SnapshotTier}})
	must(w.t, err)
	must(w.t, w.catalog.Jobs.InsertJob(w.t.Context(), catalog.JobRecord{
		Job:  backstay.Job{ID: id, Kind: backstay.JobRestore, State: backstay.JobSucceeded, Created: start, Started: &start, Ended: &end},
		Host: host, Params: params,
	}))
}

func (w *world) live(params backstay.RestoreParams) error {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	w.end = cancel
	return w.runner().Run(ctx, w, params)
}

func (w *world) params() backstay.RestoreParams {
	p, err := w.runner().Plan(w.t.Context(), request())
	must(w.t, err)
	if err := p.Refusal(); err != nil {
		w.t.Fatal(err)
	}
	return backstay.RestoreParams{Request: request(), Plan: p}
}

func (w *world) at(call string) error {
	if err := w.fail[call]; err != nil {
		return err
	}
	if w.endAt != call {
		return nil
	}
	w.endAt = ""
	w.end(w.cause)
	return errKilled
}

// The job.

func (w *world) Job() backstay.Job {
	j := w.job
	for name := range w.done {
		j.Tasks = append(j.Tasks, backstay.Task{Name: name, State: backstay.TaskSucceeded})
	}
	if w.begun != "" && !w.done[w.begun] {
		j.Tasks = append(j.Tasks, backstay.Task{Name: w.begun, State: backstay.TaskRunning})
	}
	return j
}
func (w *world) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if w.done[name] {
		return nil
	}
	w.begun = name
	if err := fn(ctx); err != nil {
		return err
	}
	if err := w.at("end of " + name); err != nil {
		return err
	}
	w.done[name] = true
	return nil
}
func (w *world) Progress(int64, int64)                   {}
func (w *world) Load(any) (bool, error)                  { return false, nil }
func (w *world) Save(any) error                          { return nil }
func (w *world) Warn(s string) error                     { w.warnings = append(w.warnings, s); return nil }
func (w *world) Update(change func(*backstay.Job)) error { change(&w.job); return nil }

// The host.

func (w *world) VMs(context.Context) ([]backstay.VM, error) {
	vms := w.facts.VMs
	if w.defined {
		vms = append(vms, backstay.VM{ID: "fresh-uuid", Name: "copy"})
	}
	return vms, nil
}
func (w *world) Points(context.Context) ([]mover.Taken, error) {
	if w.layerLost {
		return nil, nil
	}
	return []mover.Taken{{Point: w.facts.Point.ID}}, nil
}
func (w *world) Preview(_ context.Context, r mover.StageRequest) (mover.Preview, error) {
	return w.preview, w.at("preview")
}
func (w *world) Facts(context.Context) (backstay.HostFacts, error) { return w.facts.Host.Facts, nil }
func (w *world) Paths(_ context.Context, paths []string) ([]mover.PathInfo, error) {
	var infos []mover.PathInfo
	for _, p := range paths {
		info := w.facts.Paths[p]
		info.Exists = w.staged
		infos = append(infos, info)
	}
	return infos, nil
}
func (w *world) Stage(_ context.Context, r mover.StageRequest, progress mover.Progress) (mover.Staged, error) {
	if err := w.at("stage"); err != nil {
		return mover.Staged{}, err
	}
	w.staged = true
	progress(mover.Report{Phase: "stage"})
	if err := w.at("middle of stage"); err != nil {
		return mover.Staged{}, err
	}
	progress(mover.Report{Phase: "verify"})
	return mover.Staged{Paths: []string{"x"}}, w.at("verify")
}
func (w *world) Define(context.Context, mover.StageRequest) (mover.Defined, error) {
	if err := w.at("define"); err != nil {
		return mover.Defined{}, err
	}
	if !w.staged {
		w.t.Error("defined before the disks were there")
	}
	w.defined = true
	return mover.Defined{Warnings: w.differs}, w.at("after define")
}
func (w *world) Template(context.Context, mover.StageRequest, mover.Progress) (mover.Templated, error) {
	if err := w.at("template"); err != nil {
		return mover.Templated{}, err
	}
	if !w.staged || w.defined {
		w.t.Error("a template of disks that are not there, or of a VM that is")
	}
	return mover.Templated{Files: []string{"/images/copy-deploy/manifest.json", "/images/copy-deploy/template.xml"}}, nil
}
func (w *world) Start(context.Context, mover.StageRequest) (mover.Up, error) {
	if err := w.at("start"); err != nil {
		return mover.Up{}, err
	}
	if !w.defined {
		w.t.Error("started before it was defined")
	}
	w.running = true
	return mover.Up{Seconds: 1}, w.at("after start")
}
func (w *world) Abandon(context.Context, mover.StageRequest) error {
	w.staged, w.defined, w.running = false, false, false
	return nil
}

var calls = []string{
	"end of plan", "stage", "middle of stage", "verify", "end of stage", "end of verify", "define", "after define", "end of switch", "start", "after start", "end of start",
}

func TestKilledAnywhereARestoreGoesOnToAWholeVM(t *testing.T) {
	for _, at := range calls {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			params := w.params()
			w.endAt = at
			if err := w.live(params); err == nil {
				t.Fatal("the first life was not ended")
			}
			must(t, w.live(params))
			if !w.staged || !w.defined || !w.running || w.job.Result.VM == nil {
				t.Errorf("staged %v, defined %v, running %v, result %+v", w.staged, w.defined, w.running, w.job.Result)
			}
		})
	}
}

func TestCancelledAnywhereARestoreLeavesNothing(t *testing.T) {
	for _, at := range calls {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			w.endAt, w.cause = at, backstay.ErrCancelled
			if err := w.live(w.params()); err == nil {
				t.Fatal("a cancelled restore succeeded")
			}
			if w.staged || w.defined || w.running || w.job.Result.VM != nil || w.job.Result.Disks != nil {
				t.Errorf("left: staged %v, defined %v, running %v, result %+v", w.staged, w.defined, w.running, w.job.Result)
			}
		})
	}
}

func TestWhenTheVMCannotBeCreatedTheDisksStayAndTheJobSaysWhere(t *testing.T) {
	w := newWorld(t)
	w.fail["define"] = backstay.Errorf(backstay.CodeCreateVMFailed, "libvirt refused the definition")
	err := w.live(w.params())
	if !backstay.IsCode(err, backstay.CodeCreateVMFailed) {
		t.Fatalf("%v", err)
	}
	if !w.staged || len(w.job.Result.Disks) != 2 || len(w.job.Result.Files) != 2 {
		t.Errorf("staged %v, disks %q, files %q", w.staged, w.job.Result.Disks, w.job.Result.Files)
	}
	if action := backstay.AsError(err).Action; !strings.Contains(action, "backstay deploy /images/copy-deploy") {
		t.Errorf("action %q", action)
	}
}

func TestDisksWithoutATemplateStayToo(t *testing.T) {
	w := newWorld(t)
	w.fail["define"] = backstay.Errorf(backstay.CodeCreateVMFailed, "libvirt refused the definition")
	w.fail["template"] = errors.New("no room for it")
	if err := w.live(w.params()); !backstay.IsCode(err, backstay.CodeCreateVMFailed) {
		t.Fatalf("%v", err)
	}
	if !w.staged || len(w.job.Result.Disks) != 2 || len(w.warnings) != 1 {
		t.Errorf("staged %v, disks %q, warnings %q", w.staged, w.job.Result.Disks, w.warnings)
	}
}

func TestWhenWritingFailsNothingStays(t *testing.T) {
	w := newWorld(t)
	w.fail["verify"] = backstay.Errorf(backstay.CodeDamaged, "pack 3f is damaged in every copy")
	if err := w.live(w.params()); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Fatalf("%v", err)
	}
	if w.staged || w.job.Result.Disks != nil {
		t.Errorf("staged %v, result %+v", w.staged, w.job.Result)
	}
}

func TestWhatChangedWhileTheJobWaitedIsSeenBeforeAnythingIsTouched(t *testing.T) {
	w := newWorld(t)
	params := w.params()
	w.facts.VMs = append(w.facts.VMs, backstay.VM{Name: "copy", Host: "east"})
	if err := w.live(params); !backstay.IsCode(err, backstay.CodeNameTaken) {
		t.Fatalf("%v", err)
	}
	if w.staged || w.defined {
		t.Error("something was touched")
	}
}

func TestWhatTheNewVMLacksOfItsSourceIsAWarningOfTheJob(t *testing.T) {
	w := newWorld(t)
	w.differs = []string{"a pci device of the host is left out: only one VM can have it"}
	must(t, w.live(w.params()))
	if len(w.warnings) != 1 || w.warnings[0] != w.differs[0] {
		t.Errorf("warnings %q", w.warnings)
	}
}

func TestWhatTheVaultCannotVouchForIsAWarningOfTheJob(t *testing.T) {
	w := newWorld(t)
	w.vaultWarning = "the vault is in an older state than it was"
	r := request()
	r.Tier = backstay.VaultTier
	plan, err := w.runner().Plan(t.Context(), r)
	must(t, err)
	must(t, plan.Refusal())
	must(t, w.live(backstay.RestoreParams{Plan: plan}))
	if len(w.warnings) != 1 || w.warnings[0] != w.vaultWarning {
		t.Errorf("warnings %q", w.warnings)
	}
}

func TestAPointThatItsHostDoesNotOfferComesFromTheVault(t *testing.T) {
	w := newWorld(t)
	w.layerLost = true
	p, err := w.runner().Plan(t.Context(), request())
	must(t, err)
	if p.Tier != backstay.VaultTier || len(p.Refused()) > 0 {
		t.Errorf("tier %s, refused %+v", p.Tier, p.Refused())
	}
	r := request()
	r.Tier = backstay.SnapshotTier
	p, err = w.runner().Plan(t.Context(), r)
	must(t, err)
	if err := p.Refusal(); !backstay.IsCode(err, backstay.CodeTierMissing) {
		t.Errorf("a snapshot tier that is not there: %v", err)
	}
}
