// Package rebuild makes the catalogue agree with a vault: the vault is the truth
// for the vault tier, and the catalogue an index of it that may be lost.
//
// It knows nothing of policies, tokens and jobs, which the catalogue alone has,
// and it takes nothing out of the catalogue: what the vault no longer has is
// marked.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// Tasks are the steps of a rebuild job.
var Tasks = []string{"read", "record"}

// Found is one point as the vault has it. Facts are what was recorded when it
// was committed; Damage says why they cannot be read.
type Found struct {
	ID     backstay.PointID
	Facts  backstay.RecoveryPoint
	Damage string
}

// Vault is what a rebuild needs of an opened vault.
type Vault interface {
	// Found returns every point of the vault, damaged ones too. An error means
	// that it is not known what the vault has (I5, I6).
	Found(ctx context.Context) ([]Found, error)
	Close() error
}

// Runner runs rebuild jobs.
type Runner struct {
	Catalog *catalog.Catalog
	Open    func(context.Context, backstay.VaultName) (Vault, error)
	Now     func() time.Time
}

// shown is how many changes a job's result names at most.
const shown = 1000

// Run reads the vault and changes the catalogue where it differs. The result of
// the job names every change.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.RebuildParams) error {
	var found []Found
	read := func(ctx context.Context) error {
		vault, err := r.Open(ctx, params.Vault)
		if err != nil {
			return err
		}
		defer vault.Close()
		found, err = vault.Found(ctx)
		return err
	}
	if err := run.Step(ctx, "read", read); err != nil {
		return err
	}
	return run.Step(ctx, "record", func(ctx context.Context) error {
		if found == nil { // read in an earlier life
			if err := read(ctx); err != nil {
				return err
			}
		}
		return r.record(ctx, run, params.Vault, found)
	})
}

// record compares each point and writes what differs.
func (r *Runner) record(ctx context.Context, run backstay.Run, vault backstay.VaultName, found []Found) error {
	points, err := r.Catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return fmt.Errorf("list points: %w", err)
	}
	known := map[backstay.PointID]backstay.RecoveryPoint{}
	for _, p := range points {
		known[p.ID] = p
	}
	if err := r.findHosts(ctx, found); err != nil {
		return err
	}
	changes := Compare(vault, known, found, r.Now().UTC())
	var lines []string
	for _, c := range changes {
		if err := r.apply(ctx, c); err != nil {
			return fmt.Errorf("record point %s: %w", c.Point, err)
		}
		if c.Warn {
			if err := run.Warn(c.What); err != nil {
				return err
			}
		}
		if len(lines) < shown {
			lines = append(lines, c.What)
		}
	}
	if more := len(changes) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return run.Update(func(j *backstay.Job) { j.Result.Changes = lines })
}

// findHosts says of points that do not name their VM's host where the VM is now,
// or that it is the only host there is.
func (r *Runner) findHosts(ctx context.Context, found []Found) error {
	hosts, err := r.Catalog.Hosts.ListHosts(ctx)
	if err != nil {
		return fmt.Errorf("list hosts: %w", err)
	}
	for i := range found {
		ref := &found[i].Facts.VM
		if ref.Host != "" || ref.UUID == "" {
			continue
		}
		vm, err := r.Catalog.VMs.VM(ctx, ref.UUID)
		switch {
		case err == nil:
			ref.Host = vm.Host
		case !errors.Is(err, catalog.ErrNotFound):
			return fmt.Errorf("read VM %s: %w", ref.UUID, err)
		case len(hosts) == 1:
			ref.Host = hosts[0].Name
		}
	}
	return nil
}

func (r *Runner) apply(ctx context.Context, c Change) error {
	if c.Apply == nil {
		return nil
	}
	err := r.Catalog.Points.ChangePoint(ctx, c.Point, func(p *backstay.RecoveryPoint) error {
		c.Apply(p)
		return nil
	})
	if errors.Is(err, catalog.ErrNotFound) && c.Add {
		var p backstay.RecoveryPoint
		c.Apply(&p)
		return r.Catalog.Points.PutPoint(ctx, p)
	}
	if errors.Is(err, catalog.ErrNotFound) {
		return nil // deleted since
	}
	return err
}

// Change is one difference between the catalogue and the vault, in words and as
// what is done about it. Add makes a point that the catalogue lacks.
type Change struct {
	Point backstay.PointID
	What  string
	Add   bool
	Warn  bool
	Apply func(*backstay.RecoveryPoint)
}

// Compare returns what must change in the catalogue, whose points are known, for
// it to agree with the vault: oldest points first, and what is missing last.
func Compare(vault backstay.VaultName, known map[backstay.PointID]backstay.RecoveryPoint, found []Found, now time.Time) []Change {
	var changes []Change
	there := map[backstay.PointID]bool{}
	for _, f := range found {
		there[f.ID] = true
		if c, differs := compareOne(vault, known, f, now); differs {
			changes = append(changes, c)
		}
	}
	var missing []Change
	for id, p := range known {
		if p.Vault != vault || !p.Has(backstay.VaultTier) || there[id] {
			continue
		}
		const reason = "the vault has no manifest of it any more"
		if p.Damage == reason {
			continue
		}
		missing = append(missing, Change{Point: id, Warn: true, What: fmt.Sprintf("point %s of %s is not in the vault: it cannot be restored from there", id, label(p.VM)),
			Apply: func(p *backstay.RecoveryPoint) { p.Damage = reason }})
	}
	slices.SortFunc(missing, func(a, b Change) int { return compareIDs(a.Point, b.Point) })
	return append(changes, missing...)
}

func compareIDs(a, b backstay.PointID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func label(vm backstay.VMRef) string { return string(vm.Host) + "/" + vm.Name }

// compareOne compares one point that the vault has.
func compareOne(vault backstay.VaultName, known map[backstay.PointID]backstay.RecoveryPoint, f Found, now time.Time) (Change, bool) {
	old, ok := known[f.ID]
	if f.Damage != "" {
		if !ok {
			return Change{Point: f.ID, Warn: true, What: fmt.Sprintf("point %s is in the vault and nothing can be read of it: %s", f.ID, f.Damage)}, true
		}
		return Change{Point: f.ID, Warn: true, What: fmt.Sprintf("point %s of %s cannot be read in the vault: %s", f.ID, label(old.VM), f.Damage),
			Apply: func(p *backstay.RecoveryPoint) { p.Damage = f.Damage }}, old.Damage != f.Damage
	}
	if !ok {
		return Change{Point: f.ID, Add: true, What: fmt.Sprintf("added point %s of %s, taken at %s", f.ID, label(f.Facts.VM), f.Facts.Time.UTC().Format(time.RFC3339)),
			Apply: func(p *backstay.RecoveryPoint) { take(p, f, vault, now) }}, true
	}
	for _, t := range old.Tiers {
		if t.Tier == backstay.VaultTier && t.State != backstay.TierAvailable {
			return Change{}, false // a job is at it
		}
	}
	corrected := clone(old)
	take(&corrected, f, vault, now)
	if reflect.DeepEqual(corrected, old) {
		return Change{}, false
	}
	return Change{Point: f.ID, What: fmt.Sprintf("corrected point %s of %s: %s", f.ID, label(old.VM), differences(old, corrected)),
		Apply: func(p *backstay.RecoveryPoint) { take(p, f, vault, now) }}, true
}

// differences says in words what a correction changes.
func differences(old, now backstay.RecoveryPoint) string {
	var parts []string
	if old.Vault != now.Vault || !old.Has(backstay.VaultTier) {
		parts = append(parts, "it is in the vault "+string(now.Vault))
	}
	if old.Damage != "" {
		parts = append(parts, "it can be read in the vault again")
	}
	if !old.Time.Equal(now.Time) || old.Consistency != now.Consistency || old.ConsistencyReason != now.ConsistencyReason {
		parts = append(parts, "its time or consistency")
	}
	if !reflect.DeepEqual(old.Disks, now.Disks) {
		parts = append(parts, "its disks")
	}
	if len(parts) == 0 {
		return "its firmware or shape"
	}
	return strings.Join(parts, ", ")
}

// clone is a copy of which the tiers and disks can be changed.
func clone(p backstay.RecoveryPoint) backstay.RecoveryPoint {
	p.Tiers, p.Disks = slices.Clone(p.Tiers), slices.Clone(p.Disks)
	return p
}

// take makes a point what the vault says, and leaves what the vault does not
// know or knew earlier: the snapshot tier, pins, a changed expiry, the VM's host,
// sums of disks.
func take(p *backstay.RecoveryPoint, f Found, vault backstay.VaultName, now time.Time) {
	if p.ID == "" {
		*p = f.Facts
		p.ID, p.Tiers = f.ID, nil
	}
	p.Vault, p.Damage = vault, ""
	p.SetTier(backstay.VaultTier, backstay.TierAvailable, now)
	if !p.Time.Equal(f.Facts.Time) {
		p.Time = f.Facts.Time
	}
	p.Consistency, p.ConsistencyReason = f.Facts.Consistency, f.Facts.ConsistencyReason
	p.Firmware, p.TPM = f.Facts.Firmware, f.Facts.TPM
	if p.Shape.ID == "" {
		p.Shape = f.Facts.Shape
	}
	for _, d := range f.Facts.Disks {
		i := slices.IndexFunc(p.Disks, func(o backstay.PointDisk) bool { return o.Target == d.Target })
		switch {
		case i < 0:
			p.Disks = append(p.Disks, d)
		case p.Disks[i].Size != d.Size || p.Disks[i].Format != d.Format || p.Disks[i].Included != d.Included:
			p.Disks[i] = d
		}
	}
}
