package rebuild

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
)

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

var web = backstay.VMRef{UUID: "U", Name: "web01", Host: "h1"}

// job is a run that keeps what it is told; its methods that a rebuild does not
// use are missing.
type job struct {
	backstay.Run
	result   backstay.JobResult
	warnings []string
}

func (j *job) Step(ctx context.Context, _ string, fn func(context.Context) error) error {
	return fn(ctx)
}
func (j *job) Warn(w string) error {
	j.warnings = append(j.warnings, w)
	return nil
}
func (j *job) Update(change func(*backstay.Job)) error {
	var all backstay.Job
	change(&all)
	j.result = all.Result
	return nil
}

// vaultWith is a vault with these points.
type vaultWith struct {
	found []Found
	err   error
}

func (v vaultWith) Found(context.Context) ([]Found, error) { return v.found, v.err }
func (v vaultWith) Close() error                           { return nil }

func facts(id backstay.PointID) Found {
	return Found{ID: id, Facts: backstay.RecoveryPoint{ID: id, VM: web, Vault: "main", Time: now, Consistency: backstay.CrashConsistent,
		Shape: backstay.VM{ID: "U", Name: "web01"}, Disks: []backstay.PointDisk{{Target: "vda", Size: 8 << 30, Format: "qcow2", Included: true}}}}
}

func open(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func rebuild(t *testing.T, c *catalog.Catalog, v Vault) (*job, error) {
	t.Helper()
	r := &Runner{Catalog: c, Now: func() time.Time { return now },
		Open: func(context.Context, backstay.VaultName) (Vault, error) { return v, nil }}
	var j job
	err := r.Run(t.Context(), &j, backstay.RebuildParams{Vault: "main"})
	return &j, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnEmptyCatalogueGetsEveryPointOfTheVaultAndASecondRebuildChangesNothing(t *testing.T) {
	c := open(t)
	v := vaultWith{found: []Found{facts("P1"), facts("P2")}}
	j, err := rebuild(t, c, v)
	must(t, err)
	points, err := c.Points.ListPoints(t.Context(), "U")
	must(t, err)
	if len(points) != 2 || !points[0].Has(backstay.VaultTier) || points[0].Has(backstay.SnapshotTier) || points[0].Disks[0].Size != 8<<30 ||
		len(j.result.Changes) != 2 || !strings.HasPrefix(j.result.Changes[0], "added point P1 of h1/web01") || len(j.warnings) > 0 {
		t.Fatalf("%+v, %q, %q", points, j.result.Changes, j.warnings)
	}
	j, err = rebuild(t, c, v)
	must(t, err)
	if len(j.result.Changes) != 0 {
		t.Errorf("the second rebuild says %q", j.result.Changes)
	}
}

func TestWhatTheCatalogueAloneKnowsStays(t *testing.T) {
	c := open(t)
	p := facts("P1").Facts
	sum, expires, verified := "ab", now.Add(time.Hour), now.Add(-time.Hour)
	p.Disks[0].SHA256, p.Disks[0].StoredBytes, p.Pinned, p.Expires, p.Verified = &sum, 7, true, &expires, &verified
	p.VM.Host = "h2"
	p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, now)
	must(t, c.Points.PutPoint(t.Context(), p))
	f := facts("P1")
	f.Facts.Consistency = backstay.FileSystemConsistent
	j, err := rebuild(t, c, vaultWith{found: []Found{f}})
	must(t, err)
	got, err := c.Points.Point(t.Context(), "P1")
	must(t, err)
	if !got.Has(backstay.SnapshotTier) || !got.Has(backstay.VaultTier) || !got.Pinned || got.Disks[0].SHA256 == nil || got.Disks[0].StoredBytes != 7 ||
		got.Expires == nil || got.Verified == nil || got.VM.Host != "h2" || got.Consistency != backstay.FileSystemConsistent || len(j.result.Changes) != 1 {
		t.Fatalf("%+v, %q", got, j.result.Changes)
	}
}

func TestWhatTheVaultNoLongerHasIsMarkedAndNotForgotten(t *testing.T) {
	c := open(t)
	gone, going, other := facts("P1").Facts, facts("P2").Facts, facts("P3").Facts
	gone.SetTier(backstay.VaultTier, backstay.TierAvailable, now)
	going.SetTier(backstay.VaultTier, backstay.TierDeleting, now)
	other.Vault = "second"
	other.SetTier(backstay.VaultTier, backstay.TierAvailable, now)
	for _, p := range []backstay.RecoveryPoint{gone, going, other} {
		must(t, c.Points.PutPoint(t.Context(), p))
	}
	// P2 is in the vault still, and being deleted: that is the other job's.
	j, err := rebuild(t, c, vaultWith{found: []Found{facts("P2")}})
	must(t, err)
	damage := map[backstay.PointID]string{}
	points, err := c.Points.ListPoints(t.Context(), "")
	must(t, err)
	for _, p := range points {
		damage[p.ID] = p.Damage
	}
	if len(points) != 3 || damage["P1"] == "" || damage["P2"] != "" || damage["P3"] != "" || len(j.warnings) != 1 || points[1].Has(backstay.VaultTier) {
		t.Fatalf("%v, %q", damage, j.warnings)
	}
	// It came back: the mark goes.
	_, err = rebuild(t, c, vaultWith{found: []Found{facts("P1"), facts("P2")}})
	must(t, err)
	if p, err := c.Points.Point(t.Context(), "P1"); err != nil || p.Damage != "" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestAPointThatCannotBeReadIsToldAndNeverOffered(t *testing.T) {
	c := open(t)
	known := facts("P1").Facts
	known.SetTier(backstay.VaultTier, backstay.TierAvailable, now)
	must(t, c.Points.PutPoint(t.Context(), known))
	j, err := rebuild(t, c, vaultWith{found: []Found{{ID: "P1", Damage: "torn"}, {ID: "P2", Damage: "torn"}}})
	must(t, err)
	p, err := c.Points.Point(t.Context(), "P1")
	must(t, err)
	if _, err := c.Points.Point(t.Context(), "P2"); !errors.Is(err, catalog.ErrNotFound) || p.Damage != "torn" || len(j.warnings) != 2 {
		t.Errorf("%v, %+v, %q", err, p, j.warnings)
	}
}

func TestAVaultThatCannotBeListedChangesNothing(t *testing.T) {
	c := open(t)
	p := facts("P1").Facts
	p.SetTier(backstay.VaultTier, backstay.TierAvailable, now)
	must(t, c.Points.PutPoint(t.Context(), p))
	away := errors.New("away")
	if _, err := rebuild(t, c, vaultWith{err: away}); !errors.Is(err, away) {
		t.Fatal(err)
	}
	if got, err := c.Points.Point(t.Context(), "P1"); err != nil || got.Damage != "" {
		t.Errorf("%+v, %v", got, err)
	}
}
