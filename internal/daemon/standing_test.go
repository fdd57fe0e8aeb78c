package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/mover"
)

func TestMain(m *testing.M) {
	lostPause = time.Millisecond
	os.Exit(m.Run())
}

const thirdPoint backstay.PointID = "01K9ZQ4T5V0000000000000003"

// away takes a unit away, as a disk that is not mounted, until the returned func.
func (w *witnessed) away(n int) (back func()) {
	w.t.Helper()
	w.must(os.Rename(w.units[n], w.units[n]+".away"))
	return func() { w.t.Helper(); w.must(os.Rename(w.units[n]+".away", w.units[n])) }
}

func (w *witnessed) row() backstay.Vault {
	w.t.Helper()
	v, err := w.catalog.Vaults.Vault(w.t.Context(), "main")
	w.must(err)
	return v
}

// A unit that does not answer, the first one included, is in the catalogue as lost
// before anything is written without it; what was written since is in the rest.
func TestALostUnitIsRecordedBeforeAnythingIsWrittenWithoutIt(t *testing.T) {
	for n := range 3 {
		w := newWitnessed(t)
		w.must(w.backup(firstPoint))
		var told []string
		w.onLost = func(what []string) { told = append(told, what...) }
		back := w.away(n)
		w.must(w.backup(secondPoint))
		v := w.row()
		if u := v.Units[n]; u.Standing != backstay.Behind || u.Since == nil || u.Why == "" || len(v.Written()) != 2 || v.Short() != 1 {
			t.Fatalf("unit %d away: %+v", n, v.Units)
		}
		if len(told) != 1 || !strings.Contains(told[0], w.units[n]) || v.Copies != 2 || !strings.Contains(v.Note, "recorded as lost") {
			t.Errorf("told %q, %d copies, note %q", told, v.Copies, v.Note)
		}
		back()
		// It is back, and stays what it is until somebody fills it: nothing is written
		// there, and everything can be read.
		w.must(w.backup(thirdPoint))
		opened, err := w.open(t.Context(), "main")
		w.must(err)
		points, err := opened.Points(t.Context())
		w.must(err)
		if len(points) != 3 || points[2].Copies != 2 || points[2].Want != 2 {
			t.Errorf("unit %d back: %+v", n, points)
		}
		if _, err := os.Stat(filepath.Join(w.units[n], "points", string(thirdPoint))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("unit %d is behind, and was written: %v", n, err)
		}
	}
}

// The last unit that has everything is never recorded as lost: what cannot be
// reached may be there in a moment, and there is nothing to go on with.
func TestTheLastWholeUnitIsNeverRecordedAsLost(t *testing.T) {
	w := newWitnessed(t)
	for n := range 3 {
		w.away(n)
	}
	if err := w.backup(firstPoint); !backstay.IsCode(err, backstay.CodeVaultAway) {
		t.Fatalf("no unit is there: %v", err)
	}
	if v := w.row(); len(v.Whole()) != 3 {
		t.Errorf("%+v", v.Units)
	}
	// Nor is what is left when another one is only being filled.
	w = newWitnessed(t)
	_, err := w.changeUnits(t.Context(), "main", func(v *backstay.Vault) error {
		v.Units[1].Standing, v.Units[2].Standing = backstay.Joining, backstay.Joining
		return nil
	})
	w.must(err)
	w.away(0)
	v, told, err := w.recordLost(t.Context(), "main")
	w.must(err)
	if len(told) != 0 || len(v.Whole()) != 1 || w.row().Units[0].Standing != "" {
		t.Errorf("told %q, %+v", told, w.row().Units)
	}
}

// A unit that answers late is none that is lost.
func TestAUnitThatAnswersInAFewTriesIsNotLost(t *testing.T) {
	w := newWitnessed(t)
	once := &fault.Fault{Kind: fault.Fail, Call: fault.Stat, Nth: 1}
	w.hooks.Unit = func(url string, s blob.Store) blob.Store {
		if strings.HasSuffix(url, w.units[0]) {
			return fault.Wrap(s, once)
		}
		return s
	}
	w.must(w.backup(firstPoint))
	if v := w.row(); once.Hits() != 1 || v.Short() != 0 {
		t.Errorf("%d hits, %+v", once.Hits(), v.Units)
	}
}

// A look at the units takes a while; what they are to the vault may change meanwhile.
func TestALookAtTheUnitsForgetsNoChangeOfThem(t *testing.T) {
	w := newWitnessed(t)
	seen := w.check(t.Context(), w.row())
	_, err := w.changeUnits(t.Context(), "main", func(v *backstay.Vault) error {
		v.Units[2].Standing = backstay.Behind
		return nil
	})
	w.must(err)
	w.must(w.change(t.Context(), "main", func(now *backstay.Vault) bool { keepSeen(now, seen); return true }))
	if v := w.row(); v.Units[2].Standing != backstay.Behind || v.Copies != 2 {
		t.Errorf("%d copies, %+v", v.Copies, v.Units)
	}
}

// What every copy lost and a unit that is behind still has can be read from there.
func TestAUnitThatIsBehindIsTheLastResortOfAReader(t *testing.T) {
	w := newWitnessed(t)
	_, err := w.changeUnits(t.Context(), "main", func(v *backstay.Vault) error {
		v.Units[1].Standing, v.Units[2].Standing = backstay.Behind, backstay.Joining
		return nil
	})
	w.must(err)
	a, err := w.access(t.Context(), "main")
	w.must(err)
	if !slices.Equal(a.Units, []string{"file://" + w.units[0], "file://" + w.units[2]}) ||
		!slices.Equal(a.Behind, []string{"file://" + w.units[1]}) || !slices.Equal(a.Joining, []string{"file://" + w.units[2]}) {
		t.Errorf("%+v", a)
	}
}

// Verifying reads the units that have everything, and tells of each in its place; one
// that is lost or joins is neither damaged nor read whole.
func TestVerifyingTellsOfEachUnitInItsPlace(t *testing.T) {
	w := newWitnessed(t)
	w.must(w.backup(firstPoint))
	manifest := filepath.Join("points", string(firstPoint))
	w.must(os.Remove(filepath.Join(w.units[2], manifest)))
	_, err := w.changeUnits(t.Context(), "main", func(v *backstay.Vault) error {
		v.Units[0].Standing = backstay.Behind
		return nil
	})
	w.must(err)
	r := &region{catalog: w.catalog, vaults: w.vaults}
	queued := 0
	engine := r.verifyVaults()
	engine.QueueRepair = func(context.Context, backstay.VaultName) error { queued++; return nil }
	run := &fakeRun{t: t}
	w.must(engine.Verify(t.Context(), run, backstay.VerifyVaultParams{Vault: "main", Whole: true}))
	h, err := w.catalog.Health.VaultHealth(t.Context(), "main")
	w.must(err)
	want := []backstay.CopyState{backstay.CopyUnreadable, backstay.CopySound, backstay.CopyMissing}
	if len(h.Damages) != 1 || !slices.Equal(h.Damages[0].Copies, want) || queued != 1 {
		t.Fatalf("damages %+v, %d repairs queued", h.Damages, queued)
	}
	if len(h.Copies) != 3 || h.Copies[0].LastScrubbed != nil || h.Copies[1].LastScrubbed == nil || h.Copies[2].Missing != 1 {
		t.Errorf("%+v", h.Copies)
	}
	w.must(engine.Repair(t.Context(), run, backstay.RepairParams{Vault: "main"}))
	if _, err := os.Stat(filepath.Join(w.units[2], manifest)); err != nil {
		t.Errorf("after the repair: %v", err)
	}
	// A unit comes and one goes: what is known stays with the others.
	_, err = w.changeUnits(t.Context(), "main", func(v *backstay.Vault) error {
		v.Units = append(v.Units[1:], backstay.StorageUnit{URL: "file:///new", Standing: backstay.Joining})
		return nil
	})
	w.must(err)
	h, err = w.catalog.Health.VaultHealth(t.Context(), "main")
	w.must(err)
	if len(h.Copies) != 3 || h.Copies[0].LastScrubbed == nil || h.Copies[2].LastScrubbed != nil {
		t.Errorf("%+v", h.Copies)
	}
}

// What a restore found damaged is known at once, as a suspicion, and repaired.
func TestWhatAReaderFindsDamagedIsRepaired(t *testing.T) {
	w := newWitnessed(t)
	w.must(w.backup(firstPoint))
	queue, err := job.New(job.Options{Catalog: w.catalog, Region: "home", Owner: "me", Now: time.Now,
		Runners: map[backstay.JobKind]job.Runner{backstay.JobRepair: func(context.Context, backstay.Run) error { return nil }}})
	w.must(err)
	r := &region{catalog: w.catalog, vaults: w.vaults, queue: queue}
	r.engines = &engines{region: r, vaults: r.verifyVaults()}
	found := []mover.DamagedCopy{{Object: "packs/00/00", Unit: "file://" + w.units[1]}, {Object: "packs/00/00", Unit: "file:///unknown"}}
	for range 2 {
		w.must(r.readDamage(t.Context(), "main", found))
	}
	h, err := w.catalog.Health.VaultHealth(t.Context(), "main")
	w.must(err)
	want := []backstay.CopyState{backstay.CopyUnreadable, backstay.CopyDamaged, backstay.CopyUnreadable}
	if len(h.Damages) != 1 || !slices.Equal(h.Damages[0].Copies, want) || h.Copies[1].Damaged != 1 || h.Damages[0].Lost() {
		t.Errorf("%+v", h)
	}
	jobs, err := w.catalog.Jobs.ListJobs(t.Context(), 0)
	w.must(err)
	if len(jobs) != 1 || jobs[0].Kind != backstay.JobRepair {
		t.Errorf("%d jobs: %+v", len(jobs), jobs)
	}
}

// fakeRun is a job's run that keeps nothing.
type fakeRun struct {
	t   *testing.T
	job backstay.Job
}

func (r *fakeRun) Job() backstay.Job { return r.job }
func (r *fakeRun) Step(ctx context.Context, _ string, fn func(context.Context) error) error {
	return fn(ctx)
}
func (r *fakeRun) Skip(string, string) error               { return nil }
func (r *fakeRun) Note(string, string) error               { return nil }
func (r *fakeRun) Progress(int64, int64)                   {}
func (r *fakeRun) Load(any) (bool, error)                  { return false, nil }
func (r *fakeRun) Save(any) error                          { return nil }
func (r *fakeRun) Warn(string) error                       { return nil }
func (r *fakeRun) Update(change func(*backstay.Job)) error { change(&r.job); return nil }

// Vaults on what the region knows: three zones, one zone, or one unit that was
// declared redundant. A unit holds one vault, and a drained one none.
func TestAVaultIsMadeOnUnitsOfTheRegion(t *testing.T) {
	w := newWitnessed(t)
	ctx := t.Context()
	dir := t.TempDir()
	add := func(name, zone string, redundant bool) string {
		t.Helper()
		u, err := w.AddUnit(ctx, api.NewUnit{URL: filepath.Join(dir, name), Zone: zone, Redundant: redundant})
		w.must(err)
		if u.Device == "" || u.Checked == nil {
			t.Errorf("%+v was not looked at", u)
		}
		return u.URL
	}
	var zoned []string
	for _, zone := range []string{"1", "2", "3"} {
		zoned = append(zoned, add("z"+zone, zone, false))
	}
	bucket := add("bucket", "", true)
	for what, n := range map[string]api.NewUnit{"again": {URL: zoned[0]}, "below": {URL: zoned[0] + "/below"}, "memory": {URL: "mem://x"}} {
		if _, err := w.AddUnit(ctx, n); err == nil {
			t.Errorf("%s: added", what)
		}
	}
	v, key, err := w.CreateVault(ctx, api.CreateVaultRequest{Name: "zoned", Redundancy: backstay.ZRS})
	w.must(err)
	if got := v.Written(); key == "" || len(got) != 3 || v.Units[0].Zone == v.Units[1].Zone || v.Units[1].Zone == v.Units[2].Zone {
		t.Errorf("%+v", v.Units)
	}
	if _, _, err := w.CreateVault(ctx, api.CreateVaultRequest{Name: "more", Redundancy: backstay.ZRS}); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("all zoned units are taken: %v", err)
	}
	one, _, err := w.CreateVault(ctx, api.CreateVaultRequest{Name: "bucket", Units: []api.NewUnit{{URL: bucket}}})
	w.must(err)
	if one.Short() != 0 || one.Copies != 1 || !strings.Contains(one.Note, "declared") || !one.Units[0].Redundant {
		t.Errorf("%d copies, short of %d, %q", one.Copies, one.Short(), one.Note)
	}
	known, err := w.ListUnits(ctx)
	w.must(err)
	for _, u := range known {
		if len(u.Vaults) != 1 {
			t.Errorf("%s has vaults %v", u.URL, u.Vaults)
		}
	}
	w.must(w.catalog.Units.CreateUnit(ctx, backstay.Unit{URL: "file://" + dir + "/old", Closed: true}))
	_, _, err = w.CreateVault(ctx, api.CreateVaultRequest{Name: "closed", Units: []api.NewUnit{{URL: dir + "/old", Redundant: true}}})
	if !backstay.IsCode(err, backstay.CodeUnitInUse) {
		t.Errorf("on a drained unit: %v", err)
	}
}

// Residency: nothing of a ZRS vault is ever written outside its zones' units, with a
// zone lost and with free units of the region around.
func TestNothingOfAVaultIsWrittenOutsideItsUnits(t *testing.T) {
	w := newWitnessed(t)
	ctx, dir := t.Context(), t.TempDir()
	for _, name := range []string{"a", "b", "c", "free", "other"} {
		zone := map[string]string{"a": "1", "b": "2", "c": "3", "free": "1"}[name]
		_, err := w.AddUnit(ctx, api.NewUnit{URL: filepath.Join(dir, name), Zone: zone})
		w.must(err)
	}
	written := map[string]bool{}
	w.hooks.Unit = func(url string, s blob.Store) blob.Store {
		return recording{s, func() { written[filepath.Base(url)] = true }}
	}
	request := api.CreateVaultRequest{Name: "zrs", Redundancy: backstay.ZRS}
	for _, name := range []string{"a", "b", "c"} {
		request.Units = append(request.Units, api.NewUnit{URL: filepath.Join(dir, name)})
	}
	_, _, err := w.CreateVault(ctx, request)
	w.must(err)
	w.name, w.units = "zrs", []string{filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")}
	w.must(w.backup(firstPoint))
	w.away(1)
	w.must(w.backup(secondPoint))
	if len(written) != 3 || !written["a"] || !written["b"] || !written["c"] {
		t.Errorf("written were %v", written)
	}
	for _, name := range []string{"free", "other"} {
		entries, err := os.ReadDir(filepath.Join(dir, name))
		w.must(err)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") && !strings.Contains(e.Name(), "backstay") {
				t.Errorf("%s has %s", name, e.Name())
			}
		}
	}
}

// recording is a unit that tells of each put.
type recording struct {
	blob.Store
	put func()
}

func (r recording) Put(ctx context.Context, name string, data []byte) error {
	r.put()
	return r.Store.Put(ctx, name, data)
}
