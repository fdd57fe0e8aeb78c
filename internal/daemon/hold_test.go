package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lukechampine.com/blake3"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	sessions "github.com/backstay/backstay/internal/engine/files"
	"github.com/backstay/backstay/internal/engine/verify"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/tier/vault"
)

// newEast is a region with free storage units that holds what west pushes.
func newEast(t *testing.T) *region {
	t.Helper()
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r := &region{catalog: c, log: slog.New(slog.DiscardHandler), vaults: &vaults{catalog: c, keys: keyfile.New(filepath.Join(t.TempDir(), "keys")), now: time.Now,
		opened: map[backstay.VaultName]mover.VaultAccess{}}, files: sessions.New(sessions.Options{Now: time.Now})}
	r.held = r.keeper()
	for range 3 {
		if _, err := r.vaults.AddUnit(t.Context(), api.NewUnit{URL: filepath.Join(t.TempDir(), "unit")}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// push pushes the whole of a vault's first unit.
func (w *witnessed) push(to pair.Holder, points ...backstay.PointID) error {
	ctx := w.t.Context()
	entry, err := w.entry(ctx, "main")
	w.must(err)
	s, err := w.store(ctx, entry.Written())
	w.must(err)
	if _, err := to.Offer(ctx, pair.Offer{ID: entry.ID, Name: "main", Created: entry.Created, Head: *entry.Head}); err != nil {
		return err
	}
	for _, prefix := range []string{"keys/", "headers/", "vault.json", "packs/", "indexes/"} {
		var names []string
		w.must(s.List(ctx, prefix, func(i blob.Info) error {
			names = append(names, i.Name)
			return nil
		}))
		for _, name := range names {
			data, err := s.Get(ctx, name, 0, -1)
			w.must(err)
			if err := to.Put(ctx, entry.ID, pair.Object{Name: name, Size: int64(len(data)), Sum: blake3.Sum256(data)}, bytes.NewReader(data)); err != nil {
				return err
			}
		}
	}
	for _, id := range points {
		manifest, err := s.Get(ctx, "points/"+string(id), 0, -1)
		w.must(err)
		if err := to.Complete(ctx, entry.ID, id, manifest); err != nil {
			return err
		}
	}
	return nil
}

// TestAReplicaIsListedWithoutItsKeyAndReadWithIt: whoever holds a vault need not be
// able to open it, and learns what its points are once it may.
func TestAReplicaIsListedWithoutItsKeyAndReadWithIt(t *testing.T) {
	ctx := t.Context()
	west, east := newWitnessed(t), newEast(t)
	west.must(west.backup(firstPoint))
	west.must(west.push(east.holder("west"), firstPoint))
	p, err := east.catalog.Points.Point(ctx, firstPoint)
	west.must(err)
	if p.Vault != "main@west" || !p.Has(backstay.VaultTier) || p.VM.UUID != "" || !strings.Contains(p.Damage, "key") {
		t.Fatalf("without the key it is %+v", p)
	}
	if _, err := east.vaults.VaultUsage(ctx, "main@west"); err != nil {
		t.Fatalf("usage without the key: %v", err)
	}
	v, err := east.vaults.CheckVault(ctx, "main@west")
	west.must(err)
	if v.Copies != 3 || v.Origin == nil || v.Origin.Region != "west" {
		t.Fatalf("the vault is %+v", v)
	}
	// The home region makes this one a recipient.
	recipient, err := east.vaults.recipient(ctx)
	west.must(err)
	opened, err := west.openToWrite(ctx, "main")
	west.must(err)
	_, err = opened.AddRecipient(ctx, vault.NewRecipient{Recipient: recipient, Purpose: backstay.ForServer, Label: "region east"}, time.Now())
	west.must(err)
	west.must(west.witness(ctx, "main", opened))
	west.must(west.push(east.holder("west")))
	west.must(east.tidyHeld(ctx))
	p, err = east.catalog.Points.Point(ctx, firstPoint)
	west.must(err)
	if p.VM.UUID != "u" || p.Damage != "" || p.VM.Host != backstay.AwayHost("", "west") || p.Pinned || p.Expires != nil {
		t.Fatalf("with the key it is %+v", p)
	}
	replica, err := east.vaults.open(ctx, "main@west")
	west.must(err)
	if _, err := replica.OpenPoint(ctx, firstPoint); err != nil {
		t.Fatal(err)
	}
	if problem, warning := east.vaults.problem(ctx, "main@west", firstPoint); problem+warning != "" {
		t.Errorf("problem %q, warning %q", problem, warning)
	}
	if _, err := east.vaults.writing(ctx, "main@west"); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("a replica is opened for writing: %v", err)
	}
}

// TestAUnitOfAReplicaThatIsLostDoesNotStopWhatIsPushed: the rest goes on, and what is
// pushed then is in fewer copies, which the vault says.
func TestAUnitOfAReplicaThatIsLostDoesNotStopWhatIsPushed(t *testing.T) {
	ctx := t.Context()
	west, east := newWitnessed(t), newEast(t)
	west.must(west.backup(firstPoint))
	west.must(west.push(east.holder("west"), firstPoint))
	entry, err := east.vaults.entry(ctx, "main@west")
	west.must(err)
	gone := strings.TrimPrefix(entry.Units[1].URL, "file://")
	west.must(os.Rename(gone, gone+".away"))
	west.must(west.backup(secondPoint))
	west.must(west.push(east.holder("west"), firstPoint, secondPoint))
	entry, err = east.vaults.entry(ctx, "main@west")
	west.must(err)
	if entry.Units[1].Standing != backstay.Behind || entry.Short() != 1 {
		t.Fatalf("its units are %+v", entry.Units)
	}
	held, err := east.catalog.Held.ListHeld(ctx, "main@west")
	west.must(err)
	if len(held) != 2 {
		t.Fatalf("held: %+v", held)
	}
	if _, err := east.held.Reclaim(ctx, "main@west", false, nil); !backstay.IsCode(err, backstay.CodeReclaimStopped) {
		t.Errorf("it is reclaimed with a copy that is behind: %v", err)
	}
}

// TestAReplicaIsVerifiedAndRepairedWithoutItsKey: a damaged and a missing object are
// found, and made anew from a sound copy.
func TestAReplicaIsVerifiedAndRepairedWithoutItsKey(t *testing.T) {
	ctx := t.Context()
	west, east := newWitnessed(t), newEast(t)
	west.must(west.backup(firstPoint))
	west.must(west.push(east.holder("west"), firstPoint))
	entry, err := east.vaults.entry(ctx, "main@west")
	west.must(err)
	manifest := filepath.Join(strings.TrimPrefix(entry.Units[0].URL, "file://"), "points", string(firstPoint))
	west.must(os.Remove(manifest))
	header := filepath.Join(strings.TrimPrefix(entry.Units[2].URL, "file://"), "vault.json")
	west.must(os.Chmod(header, 0o600))
	west.must(os.WriteFile(header, []byte("x"), 0o600))
	v, err := east.verifyVaults().Open(ctx, "main@west")
	west.must(err)
	report, err := v.Scrub(ctx, verify.ScrubOptions{Expect: []backstay.PointID{firstPoint}})
	west.must(err)
	if len(report.Damages) != 2 {
		t.Fatalf("damages: %+v", report.Damages)
	}
	repaired, err := v.Repair(ctx, report.Damages, verify.RepairOptions{})
	west.must(err)
	report, err = v.Scrub(ctx, verify.ScrubOptions{Expect: []backstay.PointID{firstPoint}})
	west.must(err)
	if repaired.Copies != 2 || len(report.Damages) != 0 {
		t.Fatalf("repaired %+v, damages are %+v", repaired, report.Damages)
	}
}

// TestUnitsAreNotTakenTwiceForReplicas: each vault gets units that no other vault is
// on, and none is made of units that are in use.
func TestUnitsAreNotTakenTwiceForReplicas(t *testing.T) {
	ctx := t.Context()
	east := newEast(t)
	offer := pair.Offer{ID: "11111111-8f0a-4a53-9c7b-0d6f0e5a7b11", Name: "main", Created: time.Now()}
	if _, err := east.holder("west").Offer(ctx, offer); err != nil {
		t.Fatal(err)
	}
	offer.ID, offer.Name = "22222222-8f0a-4a53-9c7b-0d6f0e5a7b11", "second"
	if _, err := east.holder("west").Offer(ctx, offer); !backstay.IsCode(err, backstay.CodeRegionQuota) {
		t.Fatalf("a second vault on the same units: %v", err)
	}
	units, err := east.vaults.ListUnits(ctx)
	if err != nil || !slices.ContainsFunc(units, func(u backstay.Unit) bool { return slices.Contains(u.Vaults, "main@west") }) {
		t.Fatalf("units are %+v: %v", units, err)
	}
}

// TestAPointOfAReplicaThatAJobReadsIsInUse: a restore of it, and any drill, keep it
// until they have ended; so does a pin.
func TestAPointOfAReplicaThatAJobReadsIsInUse(t *testing.T) {
	ctx := t.Context()
	west, east := newWitnessed(t), newEast(t)
	west.must(west.backup(firstPoint))
	west.must(west.push(east.holder("west"), firstPoint))
	inUse := func() bool {
		t.Helper()
		why, err := east.heldInUse(ctx, firstPoint)
		west.must(err)
		return why != ""
	}
	if inUse() {
		t.Error("nothing uses it")
	}
	for id, rec := range map[backstay.JobID]catalog.JobRecord{
		"01J1": {Job: backstay.Job{Kind: backstay.JobRestore, Point: firstPoint}},
		"01J2": {Job: backstay.Job{Kind: backstay.JobDrill}},
	} {
		rec.ID, rec.Job.State = id, backstay.JobRunning
		west.must(east.catalog.Jobs.InsertJob(ctx, rec))
		if !inUse() {
			t.Errorf("a %s is at it", rec.Kind)
		}
		_, err := east.catalog.Jobs.UpdateJob(ctx, id, 0, func(r *catalog.JobRecord) error {
			r.Job.State = backstay.JobSucceeded
			return nil
		})
		west.must(err)
		if inUse() {
			t.Errorf("the %s has ended", rec.Kind)
		}
	}
	west.must(east.catalog.Points.ChangePoint(ctx, firstPoint, func(p *backstay.RecoveryPoint) error {
		p.Pinned = true
		return nil
	}))
	if !inUse() {
		t.Error("it is pinned")
	}
}
