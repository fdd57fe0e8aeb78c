package reclaim

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
)

// fakeVault is a vault that remembers what was asked of it.
type fakeVault struct {
	calls   []string
	options OpenOptions
	lists   []List
	condemn func() // is called when packs are condemned
	fail    map[string]error
}

func (v *fakeVault) call(name string) error {
	v.calls = append(v.calls, name)
	return v.fail[name]
}

func (v *fakeVault) Plan(context.Context) (backstay.ReclaimPlan, []List, error) {
	return backstay.ReclaimPlan{Trash: []backstay.CondemnedPacks{}}, v.lists, v.call("plan")
}

func (v *fakeVault) Repack(context.Context) (backstay.ObjectSum, error) {
	if v.options.OnPack != nil {
		if err := v.options.OnPack("new pack"); err != nil {
			return backstay.ObjectSum{}, err
		}
	}
	return backstay.ObjectSum{Objects: 1, Bytes: 10}, v.call("repack")
}

func (v *fakeVault) Condemn(context.Context) (backstay.ObjectSum, error) {
	if v.condemn != nil {
		v.condemn()
	}
	if err := v.call("condemn"); err != nil {
		return backstay.ObjectSum{}, err
	}
	v.lists = append(v.lists, List{ID: "fresh"})
	return backstay.ObjectSum{Objects: 2, Bytes: 20}, nil
}

func (v *fakeVault) Lists(context.Context) ([]List, error) { return slices.Clone(v.lists), nil }

func (v *fakeVault) Delete(_ context.Context, list string) (deleted, rescued backstay.ObjectSum, err error) {
	if err := v.call("delete " + list); err != nil {
		return deleted, rescued, err
	}
	v.lists = slices.DeleteFunc(v.lists, func(l List) bool { return l.ID == list })
	return backstay.ObjectSum{Objects: 3, Bytes: 30}, backstay.ObjectSum{Objects: 1, Bytes: 5}, nil
}

func (v *fakeVault) Tidy(context.Context) error { return v.call("tidy") }
func (v *fakeVault) Close() error               { return v.call("close") }

// fakeRun is a job without a queue.
type fakeRun struct {
	job   backstay.Job
	state []byte
	done  map[string]bool
}

func (r *fakeRun) Job() backstay.Job { return r.job }
func (r *fakeRun) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if r.done[name] {
		return nil
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
	r.state, err = json.Marshal(v)
	return err
}
func (r *fakeRun) Warn(w string) error {
	r.job.Warnings = append(r.job.Warnings, w)
	return nil
}
func (r *fakeRun) Update(change func(*backstay.Job)) error {
	change(&r.job)
	return nil
}

type world struct {
	*Runner
	t     *testing.T
	vault *fakeVault
	now   time.Time
}

func newWorld(t *testing.T) *world {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &world{t: t, vault: &fakeVault{fail: map[string]error{}}, now: now}
	w.Runner = &Runner{Catalog: c, Trash: day, Now: func() time.Time { return w.now },
		Open: func(_ context.Context, _ backstay.VaultName, o OpenOptions) (Vault, error) {
			w.vault.options, w.vault.calls = o, nil
			return w.vault, nil
		}}
	return w
}

// begin puts a job into the catalogue, as if it had begun.
func (w *world) begin(id backstay.JobID, kind backstay.JobKind) {
	w.t.Helper()
	j := catalog.JobRecord{Job: backstay.Job{ID: id, Kind: kind, State: backstay.JobRunning, Created: w.now, Tasks: []backstay.Task{}, Warnings: []string{}}, Vault: "main"}
	if kind == backstay.JobReclaim {
		j.Vault, j.Target = "", "main"
	}
	if err := w.Catalog.Jobs.InsertJob(w.t.Context(), j); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) end(id backstay.JobID) {
	w.t.Helper()
	_, err := w.Catalog.Jobs.UpdateJob(w.t.Context(), id, 0, func(r *catalog.JobRecord) error {
		r.Job.State = backstay.JobSucceeded
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) reclaim(id backstay.JobID) (*fakeRun, error) {
	run := &fakeRun{job: backstay.Job{ID: id, Kind: backstay.JobReclaim}, done: map[string]bool{}}
	return run, w.Run(w.t.Context(), run, backstay.ReclaimParams{Vault: "main"})
}

func (w *world) wants(id backstay.JobID, calls string) {
	w.t.Helper()
	if _, err := w.reclaim(id); err != nil {
		w.t.Fatal(err)
	}
	if got := strings.Join(w.vault.calls, ", "); got != calls {
		w.t.Errorf("calls: %s\nwant: %s", got, calls)
	}
}

func TestWhatIsCondemnedIsDeletedByALaterRunWhenItsTimeHasCome(t *testing.T) {
	w := newWorld(t)
	w.wants("R1", "plan, repack, condemn, tidy, close")
	w.now = w.now.Add(23 * time.Hour)
	if _, err := w.reclaim("R2"); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(w.vault.calls, "delete fresh") {
		t.Error("deleted an hour too early")
	}
	w.now = w.now.Add(time.Hour)
	run, err := w.reclaim("R3")
	if err != nil || !slices.Contains(w.vault.calls, "delete fresh") {
		t.Errorf("%v, %v", w.vault.calls, err)
	}
	if got := run.job.Result.Reclaimed; got == nil || got.Deleted.Objects == 0 || got.Rescued.Objects == 0 || got.Moved.Bytes != 10 || got.Condemned.Bytes != 20 {
		t.Errorf("result: %+v", got)
	}
}

func TestARestoreOfADroppedPointFinishesBeforeItsPacksGo(t *testing.T) {
	w := newWorld(t)
	w.Trash = 0
	w.begin("J1", backstay.JobRestore)
	// A job that begins while packs are condemned is waited for as well.
	w.vault.condemn = func() { w.begin("J2", backstay.JobBackup) }
	w.wants("R1", "plan, repack, condemn, tidy, close")
	w.vault.condemn = nil
	w.vault.lists = w.vault.lists[:1]
	w.end("J2")
	w.begin("J3", backstay.JobRestore) // began later: the list is not for it
	w.vault.fail["condemn"] = errors.New("nothing new")
	deletes := func(id backstay.JobID) bool {
		run := &fakeRun{job: backstay.Job{ID: id}, done: map[string]bool{"condemn": true}}
		if err := w.Run(t.Context(), run, backstay.ReclaimParams{Vault: "main"}); err != nil {
			t.Fatal(err)
		}
		return slices.Contains(w.vault.calls, "delete fresh")
	}
	if deletes("R2") {
		t.Error("the restore was not waited for")
	}
	plan, err := w.Plan(t.Context(), backstay.ReclaimParams{Vault: "main"})
	if err != nil || len(plan.Trash) != 1 || len(plan.Trash[0].Waits) != 1 || plan.Trash[0].Waits[0].Job != "J1" || plan.Trash[0].Ready {
		t.Errorf("plan: %+v, %v", plan, err)
	}
	w.end("J1")
	if !deletes("R3") {
		t.Error("nobody reads any more, and nothing was deleted")
	}
	left, err := w.Catalog.Trash.ListTrash(t.Context(), "main")
	if err != nil || len(left) > 0 {
		t.Errorf("the region still knows %+v, %v", left, err)
	}
}

func TestOneReclaimAtATimeWorksOnAVault(t *testing.T) {
	w := newWorld(t)
	w.begin("R1", backstay.JobReclaim)
	w.begin("R2", backstay.JobReclaim)
	if _, err := w.reclaim("R2"); !backstay.IsCode(err, backstay.CodeConflict) || w.vault.calls != nil {
		t.Errorf("the second: %v, %v", err, w.vault.calls)
	}
	if _, err := w.reclaim("R1"); err != nil {
		t.Errorf("the first: %v", err)
	}
}

func TestAVaultThatIsNotInOrderIsNotTouched(t *testing.T) {
	w := newWorld(t)
	w.vault.fail["plan"] = backstay.Errorf(backstay.CodeReclaimStopped, "stopped")
	if _, err := w.reclaim("R1"); !backstay.IsCode(err, backstay.CodeReclaimStopped) || !slices.Equal(w.vault.calls, []string{"plan", "close"}) {
		t.Errorf("%v, %v", err, w.vault.calls)
	}
}

func TestAChunkThatNobodyCanMoveDoesNotKeepTheRestFromGoing(t *testing.T) {
	w := newWorld(t)
	w.vault.fail["repack"] = backstay.Errorf(backstay.CodeReclaimStopped, "damaged in every copy")
	run, err := w.reclaim("R1")
	if err != nil || !slices.Equal(w.vault.calls, []string{"plan", "repack", "condemn", "tidy", "close"}) {
		t.Errorf("%v, %v", err, w.vault.calls)
	}
	if len(run.job.Warnings) != 1 || !strings.Contains(run.job.Warnings[0], "damaged in every copy") {
		t.Errorf("warnings %v", run.job.Warnings)
	}
}

func TestALaterLifeGoesOnWithThePacksOfTheEarlierOne(t *testing.T) {
	w := newWorld(t)
	w.vault.fail["repack"] = errors.New("died")
	run, err := w.reclaim("R1")
	if err == nil {
		t.Fatal("it did not die")
	}
	w.vault.fail["repack"] = nil
	if err := w.Run(t.Context(), run, backstay.ReclaimParams{Vault: "main"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.vault.options.Packs, []string{"new pack"}) {
		t.Errorf("packs %v", w.vault.options.Packs)
	}
}

func TestACancelledReclaimDoesNothingMore(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(backstay.ErrCancelled)
	err := w.Run(ctx, &fakeRun{done: map[string]bool{}}, backstay.ReclaimParams{Vault: "main"})
	if !errors.Is(err, backstay.ErrCancelled) || w.vault.calls != nil {
		t.Errorf("%v, %v", err, w.vault.calls)
	}
}
