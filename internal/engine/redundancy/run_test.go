package redundancy

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

var errDied = errors.New("the server was killed")

// world is a catalogue with one vault on units that are sets of names, and one job.
type world struct {
	t       *testing.T
	catalog *catalog.Catalog
	now     time.Time

	has      map[string]map[string]bool // what is on each unit; nil: it does not answer
	ready    map[string]bool            // units that were introduced since they were behind
	declared backstay.Redundancy
	damaged  []string

	// left is how many more writes the server does before it is killed; negative: all.
	left     int
	saved    json.RawMessage
	done     map[string]bool
	warnings []string
	job      backstay.Job
}

func newWorld(t *testing.T, units ...backstay.StorageUnit) *world {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &world{t: t, catalog: c, now: start, has: map[string]map[string]bool{}, ready: map[string]bool{}, declared: backstay.LRS, left: -1}
	w.must(c.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "main", Redundancy: backstay.LRS, Units: units}))
	for _, u := range units {
		w.has[u.URL] = map[string]bool{}
		if u.Standing.Whole() {
			w.has[u.URL] = map[string]bool{"P1": true, "P2": true, "x": true}
		}
	}
	for i, id := range []backstay.PointID{"P1", "P2"} {
		p := backstay.RecoveryPoint{ID: id, Time: start.Add(time.Duration(i-9) * time.Hour), Vault: "main", VM: backstay.VMRef{UUID: "U"}}
		p.SetTier(backstay.VaultTier, backstay.TierAvailable, start)
		w.must(c.Points.PutPoint(t.Context(), p))
	}
	w.newJob()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) newJob() {
	w.saved, w.done, w.warnings, w.job = nil, map[string]bool{}, nil, backstay.Job{ID: "J"}
}

func (w *world) vault() backstay.Vault {
	w.t.Helper()
	v, err := w.catalog.Vaults.Vault(w.t.Context(), "main")
	w.must(err)
	return v
}

func (w *world) standing(url string) backstay.Standing {
	for _, u := range w.vault().Units {
		if u.URL == url {
			return u.Standing
		}
	}
	return "gone"
}

func (w *world) set(change func(*backstay.Vault)) {
	w.t.Helper()
	v := w.vault()
	change(&v)
	w.must(w.catalog.Vaults.UpdateVault(w.t.Context(), v))
}

// run is one life of the job.
func (w *world) run() error {
	r := &Runner{Catalog: w.catalog, Units: w, Poll: time.Second, Now: func() time.Time { w.now = w.now.Add(time.Second); return w.now }}
	return r.Run(w.t.Context(), w, backstay.RedundancyParams{Vault: "main"})
}

// write is a write of the server, which may be the last that it does.
func (w *world) write() error {
	if w.left == 0 {
		return errDied
	}
	w.left--
	return nil
}

// The units.

func (w *world) Change(ctx context.Context, name backstay.VaultName, change func(*backstay.Vault) error) (backstay.Vault, error) {
	if err := w.write(); err != nil {
		return backstay.Vault{}, err
	}
	v := w.vault()
	v.Units = slices.Clone(v.Units)
	if err := change(&v); err != nil {
		return v, err
	}
	for _, u := range v.Units {
		if u.Standing == backstay.Current && len(w.has[u.URL]) < 3 {
			w.t.Errorf("%s counts as a copy, and has %d of 3 objects", u.URL, len(w.has[u.URL]))
		}
		if u.Standing == backstay.Joining && !w.ready[u.URL] {
			w.t.Errorf("%s is written and was not introduced", u.URL)
		}
	}
	if len(v.Whole()) == 0 {
		w.t.Error("no unit has everything any more")
	}
	return v, w.catalog.Vaults.UpdateVault(ctx, v)
}

func (w *world) Introduce(_ context.Context, _ backstay.VaultName, url string) error {
	if err := w.write(); err != nil {
		return err
	}
	if w.has[url] == nil {
		return backstay.Errorf(backstay.CodeVaultAway, "%s does not answer", url)
	}
	w.ready[url] = true
	return nil
}

func (w *world) Fill(_ context.Context, _ backstay.VaultName, url string, o FillOptions) (r FillReport, err error) {
	var from map[string]bool
	v := w.vault()
	for _, whole := range v.Whole() {
		from = w.has[whole]
	}
	r.Next = o.From
	for _, id := range o.First {
		if err := w.fillIn(url, string(id), &r); err != nil {
			return r, err
		}
		if err := o.Filled(id); err != nil {
			return r, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if name <= o.From {
			continue
		}
		if err := w.fillIn(url, name, &r); err != nil {
			return r, err
		}
		r.Next = name
		if err := o.Progress(r); err != nil {
			return r, err
		}
	}
	r.Next = ""
	return r, nil
}

func (w *world) fillIn(url, name string, r *FillReport) error {
	if w.has[url] == nil {
		return backstay.Errorf(backstay.CodeVaultAway, "%s does not answer", url)
	}
	if err := w.write(); err != nil {
		return err
	}
	if !w.has[url][name] {
		w.has[url][name] = true
		r.Copied++
	}
	r.Objects += saveEveryObjects
	return nil
}

func (w *world) Declare(_ context.Context, _ backstay.VaultName, r backstay.Redundancy) error {
	if err := w.write(); err != nil {
		return err
	}
	w.declared = r
	return nil
}

func (w *world) Lost(ctx context.Context, _ backstay.VaultName) ([]string, error) {
	var told []string
	w.set(func(v *backstay.Vault) {
		for i, u := range v.Units {
			if w.has[u.URL] == nil && u.Standing.Written() {
				v.Units[i].Standing, v.Units[i].Since = backstay.Behind, &w.now
				told = append(told, u.URL+" is lost")
			}
		}
	})
	return told, nil
}

func (w *world) Damaged(_ context.Context, _ backstay.VaultName, objects []string) error {
	w.damaged = append(w.damaged, objects...)
	return nil
}

// The job.

func (w *world) Job() backstay.Job { return w.job }
func (w *world) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if w.done[name] {
		return nil
	}
	err := fn(ctx)
	if err == nil {
		err = w.write()
	}
	w.done[name] = err == nil
	return err
}
func (w *world) Progress(int64, int64) {}
func (w *world) Load(v any) (bool, error) {
	if w.saved == nil {
		return false, nil
	}
	return true, json.Unmarshal(w.saved, v)
}
func (w *world) Save(v any) (err error) {
	if err := w.write(); err != nil {
		return err
	}
	w.saved, err = json.Marshal(v)
	return err
}
func (w *world) Warn(warning string) error {
	w.warnings = append(w.warnings, warning)
	return nil
}
func (w *world) Update(change func(*backstay.Job)) error {
	change(&w.job)
	return nil
}

func unit(url string, s backstay.Standing) backstay.StorageUnit {
	since := start.Add(-time.Hour)
	return backstay.StorageUnit{URL: url, Standing: s, Since: &since}
}

func TestAUnitThatReturnsIsFilledAndThenCounts(t *testing.T) {
	w := newWorld(t, unit("a", backstay.Current), unit("b", ""), unit("c", backstay.Behind))
	w.must(w.run())
	v := w.vault()
	if w.standing("c") != backstay.Current || len(w.warnings) != 0 || w.job.Result.Repaired != 3 || v.Short() != 0 {
		t.Errorf("%s, %q, %+v", w.standing("c"), w.warnings, w.job.Result)
	}
}

func TestAJobThatIsKilledAnywhereIsGoneOnWith(t *testing.T) {
	scenes := map[string]func() *world{
		"a unit returns": func() *world {
			return newWorld(t, unit("a", backstay.Behind), unit("b", backstay.Current), unit("c", backstay.Current))
		},
		"other units, other redundancy": func() *world {
			w := newWorld(t, unit("a", backstay.Leaving), unit("b", backstay.Current), unit("c", backstay.Leaving), unit("d", backstay.Behind), unit("e", backstay.Behind))
			w.set(func(v *backstay.Vault) {
				v.Wish = backstay.ZRS
				for i := range v.Units {
					v.Units[i].Zone = map[string]string{"b": "1", "d": "2", "e": "3"}[v.Units[i].URL]
				}
			})
			return w
		},
	}
	for scene, make := range scenes {
		for writes, died := 0, true; died; writes++ {
			w := make()
			w.left = writes
			err := w.run()
			if died = err != nil; died && !errors.Is(err, errDied) {
				t.Fatalf("%s: killed after %d writes: %v", scene, writes, err)
			}
			if w.left = -1; writes%2 == 0 { // by the same job, or by a new one
				w.newJob()
			}
			w.must(w.run())
			v := w.vault()
			if !NewPlan(v).Empty() || v.Short() != 0 || len(v.Units) != 3 || v.Redundancy != w.declared {
				t.Fatalf("%s: killed after %d writes: %+v, declared %s", scene, writes, v, w.declared)
			}
		}
	}
}

func TestAUnitThatDoesNotAnswerKeepsNobodyWaiting(t *testing.T) {
	w := newWorld(t, unit("a", backstay.Current), unit("b", backstay.Behind), unit("c", backstay.Behind))
	w.has["b"] = nil
	w.must(w.run())
	if w.standing("b") != backstay.Behind || w.standing("c") != backstay.Current || len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "b is no copy") {
		t.Errorf("b %s, c %s, %q", w.standing("b"), w.standing("c"), w.warnings)
	}
	// One that is lost while it is filled is recorded so.
	w = newWorld(t, unit("a", backstay.Current), unit("b", backstay.Joining), unit("c", backstay.Behind))
	w.has["b"], w.ready["b"] = nil, true
	w.must(w.run())
	if w.standing("b") != backstay.Behind || w.standing("c") != backstay.Current {
		t.Errorf("b %s, c %s", w.standing("b"), w.standing("c"))
	}
}

func TestAUnitThatWasLostAndJoinedAgainMeanwhileIsFilledAnew(t *testing.T) {
	w := newWorld(t, unit("a", backstay.Current), unit("b", backstay.Current), unit("c", backstay.Behind))
	w.left = 12
	if err := w.run(); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	// It fell out, lost everything, and another run introduced it again.
	w.has["c"], w.left = map[string]bool{}, -1
	w.set(func(v *backstay.Vault) {
		again := w.now.Add(time.Minute)
		v.Units[2].Standing, v.Units[2].Since = backstay.Joining, &again
	})
	w.must(w.run())
	if s := w.standing("c"); s == backstay.Current && len(w.has["c"]) < 3 {
		t.Errorf("c is %s with %d objects", s, len(w.has["c"]))
	}
	w.newJob()
	w.must(w.run())
	if w.standing("c") != backstay.Current {
		t.Errorf("c is %s", w.standing("c"))
	}
}

func TestAUnitCountsOnlyWhenWhoDidNotKnowOfItHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := start.Add(-time.Minute)
		var jobs []catalog.JobRecord
		w := newWorld(t, unit("a", backstay.Current), unit("b", backstay.Current), unit("c", backstay.Behind))
		jobs = append(jobs, catalog.JobRecord{Job: backstay.Job{ID: "B", Kind: backstay.JobBackup, State: backstay.JobRunning, Started: &before}, Vault: "main"})
		cat := *w.catalog
		cat.Jobs = listed{Jobs: w.catalog.Jobs, jobs: &jobs}
		w.catalog = &cat
		ended := make(chan error, 1)
		go func() { ended <- w.run() }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.standing("c") != backstay.Joining {
			t.Errorf("c is %s while a backup runs that may not write it", w.standing("c"))
		}
		w.has["a"]["late"], w.has["b"]["late"] = true, true // its last pack
		jobs = nil
		time.Sleep(time.Minute)
		if err := <-ended; err != nil || w.standing("c") != backstay.Current || !w.has["c"]["late"] {
			t.Errorf("%v, c is %s, has %v", err, w.standing("c"), w.has["c"])
		}
	})
}

// listed are jobs of which only the list matters.
type listed struct {
	catalog.Jobs
	jobs *[]catalog.JobRecord
}

func (l listed) ListJobs(context.Context, int, ...backstay.JobState) ([]catalog.JobRecord, error) {
	return slices.Clone(*l.jobs), nil
}

func TestAUnitStaysWhileItsCopyIsNeeded(t *testing.T) {
	w := newWorld(t, unit("a", backstay.Leaving), unit("b", backstay.Current), unit("c", backstay.Current))
	w.must(w.run())
	if w.standing("a") != backstay.Leaving || len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "short of 1") {
		t.Errorf("a is %s, %q", w.standing("a"), w.warnings)
	}
}

func TestARedundancyIsNotDeclaredBeforeItIsThere(t *testing.T) {
	w := newWorld(t, unit("a", backstay.Current), unit("b", backstay.Current), unit("c", backstay.Current), unit("d", backstay.Behind))
	w.set(func(v *backstay.Vault) {
		v.Wish, v.Units[2].Standing = backstay.ZRS, backstay.Leaving
		v.Units[0].Zone, v.Units[1].Zone, v.Units[3].Zone = "1", "2", "3"
	})
	w.has["d"] = nil
	if err := w.run(); !backstay.IsCode(err, backstay.CodeVaultAway) {
		t.Errorf("it ends with %v", err)
	}
	if v := w.vault(); v.Redundancy != backstay.LRS || w.declared != backstay.LRS || v.Wish != backstay.ZRS || len(v.Units) != 4 {
		t.Errorf("%+v", v)
	}
}

func TestUnitsAreChosenSoThatLittleIsCopied(t *testing.T) {
	zoned := func(url, zone string, s backstay.Standing) backstay.StorageUnit {
		return backstay.StorageUnit{URL: url, Zone: zone, Standing: s}
	}
	free := func(url, zone string) backstay.Unit {
		return backstay.Unit{URL: url, Zone: zone, State: "ok", Available: 1}
	}
	declared := backstay.StorageUnit{URL: "s", Redundant: true}
	one := []backstay.StorageUnit{zoned("a", "1", ""), zoned("b", "1", ""), zoned("c", "1", "")}
	three := []backstay.StorageUnit{zoned("a", "1", ""), zoned("b", "2", ""), zoned("c", "3", "")}
	for _, c := range []struct {
		what    string
		units   []backstay.StorageUnit
		want    backstay.Redundancy
		named   []backstay.StorageUnit
		known   []backstay.Unit
		without string
		result  string
	}{
		{"LRS to ZRS on what is free", one, backstay.ZRS, nil, []backstay.Unit{free("d", "2"), free("e", "3")}, "", "a b>leaving c>leaving d>behind e>behind"},
		{"ZRS to LRS", three, backstay.LRS, nil, []backstay.Unit{free("d", "3"), free("e", "3")}, "", "a>leaving b>leaving c d>behind e>behind"},
		{"three to one that is redundant", one, backstay.LRS, []backstay.StorageUnit{declared}, nil, "", "a>leaving b>leaving c>leaving s>behind"},
		{"and back", []backstay.StorageUnit{declared}, backstay.LRS, []backstay.StorageUnit{zoned("a", "", ""), zoned("b", "", ""), zoned("c", "", "")}, nil, "", "s>leaving a>behind b>behind c>behind"},
		{"a redundant one may stay", []backstay.StorageUnit{declared}, backstay.LRS, nil, nil, "", "s"},
		{"nothing to do", three, backstay.ZRS, nil, nil, "", "a b c"},
		{"drained, to a free one", one, backstay.LRS, nil, []backstay.Unit{free("d", "1"), free("e", "2")}, "b", "a b>leaving c d>behind"},
		{"drained, to a named one of its zone", three, backstay.ZRS, []backstay.StorageUnit{zoned("x", "2", "")}, nil, "b", "a b>leaving c x>behind"},
		{"a lost one is drained", []backstay.StorageUnit{zoned("a", "", ""), zoned("b", "", backstay.Behind), zoned("c", "", "")}, backstay.LRS, nil, []backstay.Unit{free("d", "")}, "b", "a c d>behind"},
		{"one that was to leave stays", []backstay.StorageUnit{zoned("a", "", ""), zoned("b", "", backstay.Leaving), zoned("c", "", ""), zoned("d", "", backstay.Behind)}, backstay.LRS,
			[]backstay.StorageUnit{zoned("b", "", "")}, nil, "", "a b>current c"},
		{"no unit for it", one, backstay.ZRS, nil, []backstay.Unit{free("d", "2")}, "", "usage"},
		{"two named in one zone", one, backstay.ZRS, []backstay.StorageUnit{zoned("x", "2", ""), zoned("y", "2", "")}, nil, "", "usage"},
	} {
		got, err := Aim(backstay.Vault{Units: c.units}, c.want, c.named, c.known, c.without, start)
		var said []string
		for _, u := range got {
			s := u.URL
			if u.Standing != "" {
				s += ">" + string(u.Standing)
			}
			said = append(said, s)
		}
		if backstay.IsCode(err, backstay.CodeUsage) {
			said = []string{"usage"}
		}
		if result := strings.Join(said, " "); result != c.result {
			t.Errorf("%s: %s, want %s (%v)", c.what, result, c.result, err)
		}
	}
}
