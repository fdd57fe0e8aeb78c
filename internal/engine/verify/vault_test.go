package verify

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

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// world is a catalogue with one vault of two copies, and the jobs on it.
type world struct {
	t       *testing.T
	catalog *catalog.Catalog
	now     time.Time
	queued  int // repairs

	// objects are what the vault has, with their states in its two copies; needs
	// says which points need an object.
	objects map[string][]backstay.CopyState
	needs   map[string][]backstay.PointID
	looked  map[string]int
	// stopAt is the object at which the server stops.
	stopAt string
	stop   context.CancelCauseFunc

	saved    json.RawMessage
	done     map[string]bool
	warnings []string
	job      backstay.Job
}

func newWorld(t *testing.T) *world {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &world{t: t, catalog: c, now: start, objects: map[string][]backstay.CopyState{}, needs: map[string][]backstay.PointID{}, looked: map[string]int{}}
	w.must(c.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "main", Created: start.Add(-time.Hour)}))
	for _, object := range []string{"indexes/1", "packs/a", "packs/b", "packs/c", "points/P1", "points/P2", "vault.json"} {
		w.objects[object] = []backstay.CopyState{backstay.CopySound, backstay.CopySound}
	}
	w.needs["packs/a"], w.needs["packs/b"] = []backstay.PointID{"P1", "P2"}, []backstay.PointID{"P1"}
	w.needs["packs/c"], w.needs["points/P1"], w.needs["points/P2"] = []backstay.PointID{"P2"}, []backstay.PointID{"P1"}, []backstay.PointID{"P2"}
	w.addPoint("P1", start.Add(-2*time.Hour))
	w.addPoint("P2", start.Add(-time.Hour))
	w.newJob()
	return w
}

func (w *world) addPoint(id backstay.PointID, at time.Time) {
	p := backstay.RecoveryPoint{ID: id, Time: at, Vault: "main", VM: backstay.VMRef{UUID: "U", Name: "web01", Host: "h1"}}
	p.SetTier(backstay.VaultTier, backstay.TierAvailable, at)
	w.must(w.catalog.Points.PutPoint(w.t.Context(), p))
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

func (w *world) runner() *VaultRunner {
	return &VaultRunner{
		Catalog: w.catalog, Now: func() time.Time { w.now = w.now.Add(time.Second); return w.now },
		Open:        func(context.Context, backstay.VaultName) (Vault, error) { return (*fakeVault)(w), nil },
		QueueRepair: func(context.Context, backstay.VaultName) error { w.queued++; return nil },
	}
}

// verify is one life of a verify job.
func (w *world) verify(p backstay.VerifyVaultParams) error {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	p.Vault, w.stop = "main", cancel
	return w.runner().Verify(ctx, w, p)
}

func (w *world) repair() error {
	return w.runner().Repair(w.t.Context(), w, backstay.RepairParams{Vault: "main"})
}

func (w *world) health() backstay.VaultHealth {
	w.t.Helper()
	h, err := w.catalog.Health.VaultHealth(w.t.Context(), "main")
	w.must(err)
	return h
}

func (w *world) point(id backstay.PointID) backstay.RecoveryPoint {
	w.t.Helper()
	p, err := w.catalog.Points.Point(w.t.Context(), id)
	w.must(err)
	return p
}

// The job.

func (w *world) Job() backstay.Job { return w.job }
func (w *world) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if w.done[name] {
		return nil
	}
	err := fn(ctx)
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

// fakeVault is the world as a vault: each object is a GiB in each copy.
type fakeVault world

const gib = 1 << 30

func (f *fakeVault) Close() error { return nil }

func (f *fakeVault) Census(context.Context) ([]backstay.CopyCount, error) {
	n := int64(len(f.objects))
	return []backstay.CopyCount{{Objects: n, Bytes: n * gib}, {Objects: n, Bytes: n * gib}}, nil
}

func (f *fakeVault) Scrub(ctx context.Context, o ScrubOptions) (ScrubReport, error) {
	r := ScrubReport{Copies: make([]backstay.CopyCount, 2), Next: o.From}
	for _, d := range o.Suspects {
		if now := f.damage(d.Object); now.Repairable() {
			r.Damages = append(r.Damages, now)
		}
	}
	var names []string
	for name := range f.objects {
		needed := slices.ContainsFunc(o.Points, func(id backstay.PointID) bool { return slices.Contains(f.needs[name], id) })
		known := slices.ContainsFunc(o.Known, func(id backstay.PointID) bool { return slices.Contains(f.needs[name], id) })
		if name > o.From && (len(o.Points) == 0 || needed && !known) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if name == f.stopAt {
			f.stopAt = ""
			f.stop(backstay.ErrStopping)
			return r, context.Cause(ctx)
		}
		f.looked[name]++
		d := f.damage(name)
		r.Objects++
		for i, state := range d.Copies {
			if state != backstay.CopyMissing && state != backstay.CopyUnreadable {
				r.Copies[i].Objects++
				r.Copies[i].Bytes += gib
				r.Bytes += gib
			}
		}
		d.Count(r.Copies)
		if !slices.Contains(d.Copies, backstay.CopySound) && !d.Lost() {
			r.Unproved++
		}
		if d.Repairable() {
			r.Damages = merge(r.Damages, []backstay.Damage{d})
		}
		r.Next = name
		if o.Progress != nil {
			if err := o.Progress(r); err != nil {
				return r, err
			}
		}
		if o.Budget > 0 && r.Bytes >= o.Budget {
			return r, nil
		}
	}
	r.Next = ""
	return r, nil
}

func (f *fakeVault) damage(name string) backstay.Damage {
	d := backstay.Damage{Object: name, Copies: slices.Clone(f.objects[name]), Why: make([]string, 2)}
	if d.Copies == nil {
		d.Copies = []backstay.CopyState{backstay.CopyMissing, backstay.CopyMissing}
	}
	if d.Lost() {
		d.Points = f.needs[name]
	}
	return d
}

func (f *fakeVault) Repair(_ context.Context, damages []backstay.Damage, o RepairOptions) (RepairReport, error) {
	var r RepairReport
	for _, d := range damages {
		if now := f.damage(d.Object); now.Lost() {
			r.Lost = append(r.Lost, now)
			continue
		}
		for i, state := range f.objects[d.Object] {
			if state != backstay.CopySound {
				f.objects[d.Object][i] = backstay.CopySound
				r.Copies++
			}
		}
	}
	return r, nil
}

func (w *world) spoil(name string, states ...backstay.CopyState) { w.objects[name] = states }

func TestAVerifyThatWasStoppedGoesOnWhereItWas(t *testing.T) {
	for stopAt := range newWorld(t).objects {
		w := newWorld(t)
		w.spoil("packs/a", backstay.CopyDamaged, backstay.CopySound)
		w.stopAt = stopAt
		if err := w.verify(backstay.VerifyVaultParams{Whole: true}); !errors.Is(err, backstay.ErrStopping) {
			t.Fatalf("stopped at %s: %v", stopAt, err)
		}
		w.must(w.verify(backstay.VerifyVaultParams{Whole: true}))
		for name := range w.objects {
			if w.looked[name] != 1 {
				t.Errorf("stopped at %s: %s was looked at %d times", stopAt, name, w.looked[name])
			}
		}
		h := w.health()
		if h.Round != nil || h.Copies[0].Objects != 7 || h.Copies[1].Bytes != 7*gib || h.Copies[0].Damaged != 1 || h.Copies[1].Damaged != 0 || w.queued != 1 {
			t.Errorf("stopped at %s: %+v, %d repairs", stopAt, h, w.queued)
		}
	}
}

func TestDamageInOneCopyIsWarnedOfAndRepairedAndTheHealthSaysSo(t *testing.T) {
	w := newWorld(t)
	w.spoil("packs/b", backstay.CopySound, backstay.CopyMissing)
	w.must(w.verify(backstay.VerifyVaultParams{Whole: true}))
	if w.queued != 1 || len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "packs/b: missing in copy 2") || w.point("P1").Damage != "" {
		t.Fatalf("%d repairs, %q, %+v", w.queued, w.warnings, w.point("P1"))
	}
	if h := w.health(); h.Copies[1].Missing != 1 || h.Copies[1].LastScrubbed == nil || w.point("P1").Verified == nil {
		t.Fatalf("%+v", h)
	}
	w.newJob()
	w.must(w.repair())
	if h := w.health(); h.Copies[1].Missing != 0 || len(h.Damages) != 0 || w.job.Result.Repaired != 1 || len(w.warnings) != 0 {
		t.Fatalf("%+v, %+v", h, w.job.Result)
	}
}

func TestAPointThatNeedsWhatIsLostIsMarkedAndTheJobSaysDamaged(t *testing.T) {
	w := newWorld(t)
	w.spoil("packs/b", backstay.CopyDamaged, backstay.CopyMissing)
	err := w.verify(backstay.VerifyVaultParams{Whole: true})
	if !backstay.IsCode(err, backstay.CodeDamaged) || !strings.Contains(err.Error(), "P1") || strings.Contains(err.Error(), "P2") {
		t.Fatalf("it ends with %v", err)
	}
	if p := w.point("P1"); p.Damage == "" || p.Verified != nil {
		t.Errorf("P1 is %+v", p)
	}
	if p := w.point("P2"); p.Damage != "" || p.Verified == nil {
		t.Errorf("P2 is %+v", p)
	}
	// What is lost is tried once, and then only told.
	if w.queued != 1 {
		t.Errorf("%d repairs", w.queued)
	}
	w.newJob()
	if err := w.repair(); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("the repair ends with %v", err)
	}
	w.newJob()
	if err := w.verify(backstay.VerifyVaultParams{Points: true}); !backstay.IsCode(err, backstay.CodeDamaged) || w.queued != 1 {
		t.Errorf("the next verify ends with %v, and %d repairs", err, w.queued)
	}
	// When somebody brings a copy back, the mark goes.
	w.newJob()
	w.spoil("packs/b", backstay.CopyDamaged, backstay.CopySound)
	w.must(w.verify(backstay.VerifyVaultParams{Whole: true}))
	if p := w.point("P1"); p.Damage != "" || p.Verified == nil {
		t.Errorf("P1 is %+v", p)
	}
}

func TestWhatCannotBeReadProvesNothingAndCondemnsNothing(t *testing.T) {
	w := newWorld(t)
	w.must(w.verify(backstay.VerifyVaultParams{Whole: true}))
	before := w.health()
	w.newJob()
	w.spoil("packs/a", backstay.CopyUnreadable, backstay.CopySound)
	w.must(w.verify(backstay.VerifyVaultParams{Whole: true}))
	h := w.health()
	if h.Copies[0].Unreadable != 1 || h.Copies[0].Damaged+h.Copies[0].Missing != 0 || len(h.Damages) != 0 || w.queued != 0 ||
		!h.Copies[0].LastScrubbed.Equal(*before.Copies[0].LastScrubbed) || !h.Copies[1].LastScrubbed.After(*before.Copies[1].LastScrubbed) {
		t.Fatalf("%+v", h)
	}
	if len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "copy 1: 1 objects could not be read") {
		t.Errorf("%q", w.warnings)
	}
	// Unreadable in every copy: no point is verified by that.
	w = newWorld(t)
	w.spoil("packs/b", backstay.CopyUnreadable, backstay.CopyUnreadable)
	w.must(w.verify(backstay.VerifyVaultParams{Points: true, Whole: true}))
	if w.point("P1").Verified != nil || w.point("P1").Damage != "" || w.point("P2").Verified == nil {
		t.Errorf("P1 %+v, P2 %+v", w.point("P1"), w.point("P2"))
	}
}

func TestPointsAreVerifiedWithoutReadingTwiceWhatTheyShare(t *testing.T) {
	w := newWorld(t)
	w.must(w.verify(backstay.VerifyVaultParams{Points: true}))
	for _, name := range []string{"packs/a", "packs/b", "packs/c", "points/P1", "points/P2"} {
		if w.looked[name] != 1 {
			t.Errorf("%s was looked at %d times", name, w.looked[name])
		}
	}
	if w.looked["indexes/1"] != 0 || w.point("P1").Verified == nil || w.point("P2").Verified == nil || w.health().Round != nil {
		t.Errorf("%v, %+v", w.looked, w.health())
	}
	w.newJob()
	w.must(w.verify(backstay.VerifyVaultParams{Points: true}))
	if w.looked["packs/a"] != 1 {
		t.Error("verified points were read again")
	}
}

func TestAPointThatCameDuringTheRoundIsNotVerifiedByIt(t *testing.T) {
	w := newWorld(t)
	w.addPoint("P3", start.Add(24*time.Hour))
	w.must(w.verify(backstay.VerifyVaultParams{Whole: true}))
	if w.point("P1").Verified == nil || w.point("P3").Verified != nil {
		t.Errorf("P1 %v, P3 %v", w.point("P1").Verified, w.point("P3").Verified)
	}
}

func TestAPointThatIsBeingDroppedIsNoDamage(t *testing.T) {
	w := newWorld(t)
	w.spoil("points/P1", backstay.CopySound, backstay.CopyMissing)
	w.must(w.catalog.Points.ChangePoint(t.Context(), "P1", func(p *backstay.RecoveryPoint) error {
		p.SetTier(backstay.VaultTier, backstay.TierDeleting, start)
		return nil
	}))
	w.must(w.verify(backstay.VerifyVaultParams{Whole: true}))
	if w.queued != 0 || len(w.health().Damages) != 0 {
		t.Errorf("%d repairs, %v", w.queued, w.health().Damages)
	}
}

func TestPartsOfARoundReadTheWholeVaultWithinItsDays(t *testing.T) {
	const total = 900 * gib
	for _, days := range []int{1, 2, 7, 30} {
		round := backstay.VerifyRound{Started: start}
		n := 0
		for ; round.Bytes < total; n++ {
			p := planPart(start.Add(time.Duration(n)*24*time.Hour), round, total, days)
			round.Bytes += p.budget
			if p.rate < slowest || p.budget/p.rate > int64(partTime/time.Second) {
				t.Fatalf("%d days: %+v", days, p)
			}
		}
		if n > days {
			t.Errorf("it took %d days, not %d", n, days)
		}
	}
}

func TestPartsOfARoundTogetherLookAtEverythingOnce(t *testing.T) {
	w := newWorld(t)
	jobs := 0
	for ; w.health().Ended == nil; jobs++ {
		w.newJob()
		w.must(w.verify(backstay.VerifyVaultParams{Whole: true, Days: 30}))
	}
	for name, n := range w.looked {
		if n != 1 {
			t.Errorf("%s was looked at %d times", name, n)
		}
	}
	if jobs < 3 || len(w.looked) != 7 || w.health().Copies[1].Objects != 7 {
		t.Errorf("%d jobs looked at %d objects: %+v", jobs, len(w.looked), w.health())
	}
}

func TestAVerifyByHandBeginsANewRound(t *testing.T) {
	w := newWorld(t)
	w.must(w.verify(backstay.VerifyVaultParams{Whole: true, Days: 30}))
	w.newJob()
	w.must(w.verify(backstay.VerifyVaultParams{Whole: true}))
	if w.looked["indexes/1"] != 2 || w.looked["vault.json"] != 1 || w.health().Ended == nil {
		t.Errorf("%v, %+v", w.looked, w.health())
	}
}

func TestAVaultIsVerifiedDailyAndANewPointWithinADay(t *testing.T) {
	at := func(h int) *time.Time { x := start.Add(time.Duration(h) * time.Hour); return &x }
	fresh := backstay.RecoveryPoint{ID: "P"}
	fresh.SetTier(backstay.VaultTier, backstay.TierAvailable, start)
	old := fresh
	old.Verified = at(0)
	for _, c := range []struct {
		what   string
		hour   int
		last   *time.Time
		points []backstay.RecoveryPoint
		want   bool
	}{
		{"an empty vault", 100, nil, nil, false},
		{"a new vault", 1, nil, []backstay.RecoveryPoint{fresh}, false},
		{"a day after it was made", 24, nil, []backstay.RecoveryPoint{old}, true},
		{"a day after the last run", 30, at(6), []backstay.RecoveryPoint{old}, true},
		{"less", 29, at(6), []backstay.RecoveryPoint{old}, false},
		{"a point that is half a day old", 12, at(1), []backstay.RecoveryPoint{old, fresh}, true},
		{"the same, and it was tried just now", 12, at(10), []backstay.RecoveryPoint{old, fresh}, false},
	} {
		if got := Due(*at(c.hour), start, backstay.VaultHealth{LastRun: c.last}, c.points); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
