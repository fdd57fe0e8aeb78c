package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/engine/reclaim"
	"github.com/backstay/backstay/internal/job"
)

// plainRun is a job without a queue.
type plainRun struct {
	warnings []string
	state    []byte
	job      backstay.Job
}

func (r *plainRun) Job() backstay.Job { return r.job }
func (r *plainRun) Step(ctx context.Context, _ string, fn func(context.Context) error) error {
	return fn(ctx)
}
func (r *plainRun) Progress(int64, int64) {}
func (r *plainRun) Load(v any) (bool, error) {
	if r.state == nil {
		return false, nil
	}
	return true, json.Unmarshal(r.state, v)
}
func (r *plainRun) Save(v any) (err error)                  { r.state, err = json.Marshal(v); return err }
func (r *plainRun) Warn(w string) error                     { r.warnings = append(r.warnings, w); return nil }
func (r *plainRun) Update(change func(*backstay.Job)) error { change(&r.job); return nil }

// region makes a region of the vaults, with a queue whose jobs nobody runs.
func (w *witnessed) region() *region {
	w.t.Helper()
	idle := func(context.Context, backstay.Run) error { return nil }
	queue, err := job.New(job.Options{Catalog: w.catalog, Region: "home", Owner: "me", Now: utcNow,
		Runners: map[backstay.JobKind]job.Runner{backstay.JobRedundancy: idle, backstay.JobRepair: idle}})
	w.must(err)
	r := &region{catalog: w.catalog, vaults: w.vaults, queue: queue, log: slog.New(slog.DiscardHandler)}
	r.engines = &engines{region: r, vaults: r.verifyVaults()}
	return r
}

// settle runs a redundancy job of the vault, which must have nothing to warn of.
func (w *witnessed) settle() backstay.Vault {
	w.t.Helper()
	run := &plainRun{}
	w.must(w.region().redundancies().Run(w.t.Context(), run, backstay.RedundancyParams{Vault: "main"}))
	v, err := w.CheckVault(w.t.Context(), "main")
	w.must(err)
	if len(run.warnings) > 0 {
		w.t.Errorf("it warns: %q", run.warnings)
	}
	return v
}

// files are the names and contents of a unit's objects.
func (w *witnessed) files(dir string) map[string]string {
	w.t.Helper()
	all := map[string]string{}
	w.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err != nil || d.IsDir() || strings.HasPrefix(filepath.Base(rel), ".") {
			return err
		}
		data, err := os.ReadFile(path)
		all[rel] = string(data)
		return err
	}))
	return all
}

func (w *witnessed) demandPoints(want int) {
	w.t.Helper()
	v, err := w.open(w.t.Context(), "main")
	w.must(err)
	points, err := v.Points(w.t.Context())
	w.must(err)
	if len(points) != want {
		w.t.Errorf("%d points, want %d", len(points), want)
	}
	for _, p := range points {
		if p.Copies != p.Want || p.Damage != nil {
			w.t.Errorf("%+v", p)
		}
	}
	w.must(v.Close())
}

func TestAUnitThatWasAwayDuringABackupCatchesUp(t *testing.T) {
	for lost := range 3 {
		t.Run(fmt.Sprintf("unit %d", lost+1), func(t *testing.T) {
			t.Parallel()
			newWitnessed(t).catchUp(lost)
		})
	}
}

func (w *witnessed) catchUp(lost int) {
	t, ctx := w.t, w.t.Context()
	w.must(w.backup(firstPoint))
	away := w.units[lost] + "-away"
	w.must(os.Rename(w.units[lost], away))
	w.must(w.backup(secondPoint)) // looks at the units first
	v, err := w.entry(ctx, "main")
	w.must(err)
	if v.Units[lost].Standing != backstay.Behind || v.Short() != 1 {
		t.Fatalf("%+v", v.Units)
	}
	r := w.region()
	queued := func() int {
		w.must(r.queueRedundancies(ctx, utcNow()))
		jobs, err := r.vaultJobs(ctx, "main", backstay.JobRedundancy)
		w.must(err)
		return len(jobs)
	}
	if n := queued(); n != 0 {
		t.Errorf("%d jobs for a unit that does not answer", n)
	}
	w.must(os.Rename(away, w.units[lost]))
	if n := queued() + queued(); n != 2 {
		t.Errorf("a unit that answers again: %d jobs, want the same one twice", n)
	}
	v = w.settle()
	if v.Copies != 3 || v.Short() != 0 || v.Units[lost].Standing != backstay.Current {
		t.Fatalf("%+v", v)
	}
	w.demandPoints(2)
	// It is a copy by itself.
	a, err := w.access(ctx, "main")
	w.must(err)
	a.Units = a.Units[lost : lost+1]
	alone, err := w.openVault(ctx, a)
	w.must(err)
	points, err := alone.Points(ctx)
	w.must(err)
	if len(points) != 2 || points[0].Damage != nil || points[1].Damage != nil {
		t.Errorf("alone it offers %+v", points)
	}
	w.must(alone.Close())
}

func TestAVaultIsBroughtToAnotherRedundancyAndBack(t *testing.T) {
	w := newWitnessed(t)
	ctx := t.Context()
	w.must(w.backup(firstPoint))
	set := func(r backstay.Redundancy, units ...api.NewUnit) backstay.Vault {
		t.Helper()
		_, err := w.SetRedundancy(ctx, "main", r, units)
		w.must(err)
		return w.settle()
	}
	fresh := func(zone string, redundant bool) api.NewUnit {
		return api.NewUnit{URL: filepath.Join(t.TempDir(), "fresh"), Zone: zone, Redundant: redundant}
	}
	before := w.files(w.units[0])

	zones := []api.NewUnit{fresh("1", false), fresh("2", false), fresh("3", false)}
	v := set(backstay.ZRS, zones...)
	if v.Redundancy != backstay.ZRS || v.Wish != "" || len(v.Units) != 3 || v.Copies != 3 {
		t.Fatalf("%+v", v)
	}
	w.must(w.backup(secondPoint))
	w.demandPoints(2)
	for i, dir := range w.units { // nothing goes to units that are not the vault's any more
		for name := range w.files(dir) {
			if strings.HasPrefix(name, "points/") && strings.Contains(name, string(secondPoint)) {
				t.Errorf("%s is on unit %d, which left the vault", name, i)
			}
		}
	}
	if after := w.files(w.units[0]); len(after) < len(before) {
		t.Error("what was on a unit that left was deleted")
	}
	opened, err := w.open(ctx, "main")
	w.must(err)
	if opened.Redundancy() != backstay.ZRS {
		t.Errorf("the header says %s", opened.Redundancy())
	}
	w.must(opened.Close())

	if v := set(backstay.ZRS); len(v.Units) != 3 || v.Wish != "" {
		t.Fatalf("what it is already: %+v", v)
	}

	one := set(backstay.LRS, fresh("", true))
	if len(one.Units) != 1 || one.Short() != 0 || !strings.Contains(one.Note, "declared") {
		t.Fatalf("%+v", one)
	}
	w.demandPoints(2)
	// The three of the beginning hold an older state, and get what they lack.
	var old []api.NewUnit
	for _, dir := range w.units {
		old = append(old, api.NewUnit{URL: dir})
	}
	if v := set(backstay.LRS, old...); len(v.Units) != 3 || v.Copies != 3 || v.Redundancy != backstay.LRS {
		t.Fatalf("%+v", v)
	}
	w.demandPoints(2)
	// GRS keeps the same copies here; the pair gets the rest.
	if v := set(backstay.GRS); v.Redundancy != backstay.GRS || len(v.Units) != 3 || !slices.Equal(v.Whole(), v.Written()) {
		t.Fatalf("%+v", v)
	}
	if a, b := w.files(w.units[0]), w.files(w.units[2]); len(a) != len(b) {
		t.Errorf("%d objects on one unit, %d on another", len(a), len(b))
	}
}

func TestAUnitIsDrainedAndThenRemoved(t *testing.T) {
	w := newWitnessed(t)
	ctx := t.Context()
	w.must(w.backup(firstPoint))
	w.must(w.backup(secondPoint))
	first := w.units[0]
	if err := w.RemoveUnit(ctx, first); !backstay.IsCode(err, backstay.CodeUnitInUse) {
		t.Errorf("a unit with a copy is removed: %v", err)
	}
	if _, err := w.DrainUnit(ctx, first, nil); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("drained with nothing to take its place: %v", err)
	}
	spare, err := w.AddUnit(ctx, api.NewUnit{URL: filepath.Join(t.TempDir(), "spare")})
	w.must(err)
	u, err := w.DrainUnit(ctx, first, nil)
	w.must(err)
	if !u.Closed {
		t.Error("it is not closed")
	}
	v := w.settle()
	if !slices.Contains(v.Whole(), spare.URL) || slices.Contains(v.Whole(), u.URL) || v.Copies != 3 {
		t.Fatalf("%+v", v.Units)
	}
	w.must(w.RemoveUnit(ctx, first))
	w.must(os.RemoveAll(first))
	w.demandPoints(2)
	if _, err := w.CheckUnit(ctx, u.URL); !backstay.IsCode(err, backstay.CodeUnknownUnit) {
		t.Errorf("it is still known: %v", err)
	}
}

func TestAnOlderStateOfTheOthersIsNotSpread(t *testing.T) {
	w := newWitnessed(t)
	ctx := t.Context()
	w.must(w.backup(firstPoint))
	old := []string{t.TempDir(), t.TempDir()}
	w.copyUnits(w.units[:2], old)
	w.must(w.backup(secondPoint))
	_, err := w.changeUnits(ctx, "main", func(v *backstay.Vault) error {
		v.Units[2].Standing = backstay.Behind
		return nil
	})
	w.must(err)
	w.copyUnits(old, w.units[:2])
	before := w.files(w.units[2])
	run := &plainRun{}
	w.must(w.region().redundancies().Run(ctx, run, backstay.RedundancyParams{Vault: "main"}))
	if len(run.warnings) != 1 || len(w.files(w.units[2])) != len(before) {
		t.Errorf("%q: %d objects, %d before", run.warnings, len(w.files(w.units[2])), len(before))
	}
}

func TestNothingIsTakenBackWhileACopyIsBeingFilled(t *testing.T) {
	w := newWitnessed(t)
	ctx := t.Context()
	w.must(w.backup(firstPoint))
	_, err := w.changeUnits(ctx, "main", func(v *backstay.Vault) error {
		v.Units[1].Standing = backstay.Joining
		return nil
	})
	w.must(err)
	if _, err := w.region().reclaimer().Open(ctx, "main", reclaim.OpenOptions{}); !backstay.IsCode(err, backstay.CodeReclaimStopped) || !strings.Contains(err.Error(), "being filled") {
		t.Errorf("it is opened: %v", err)
	}
}
