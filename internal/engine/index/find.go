package index

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Find is what is looked for over all points of a VM.
type Find struct {
	VM      backstay.VMRef
	Pattern string
	Fold    bool // upper and lower case are the same
	Limit   int  // the most paths
}

// Find searches the lists of a VM's files, in each vault that has points of it.
// CodeNotIndexed if none of its points is in one.
func (r *Runner) Find(ctx context.Context, f Find) (mover.FoundFiles, error) {
	points, err := r.Catalog.Points.ListPoints(ctx, f.VM.UUID)
	if err != nil {
		return mover.FoundFiles{}, fmt.Errorf("list points: %w", err)
	}
	points = backstay.OwnPoints(points) // lists of files are not pushed
	found := mover.FoundFiles{Files: []backstay.FoundFile{}, Without: []backstay.PointID{}}
	m, err := r.anyMover(ctx, f.VM.Host)
	if err != nil {
		return found, err
	}
	searched := 0
	for _, vault := range vaultsOf(points) {
		access, err := r.Vault(ctx, vault)
		if err != nil {
			return found, err
		}
		in := inVault(points, vault)
		part, err := m.FindFiles(ctx, mover.FindRequest{VM: f.VM.UUID, Vault: access, Pattern: f.Pattern, Fold: f.Fold, Points: in, Limit: f.Limit})
		if err != nil {
			return found, err
		}
		searched += len(in) - len(part.Without)
		found.More = found.More || part.More
		found.Files = join(found.Files, part.Files)
		found.Without = append(found.Without, part.Without...)
	}
	for _, p := range points {
		if !p.Has(backstay.VaultTier) {
			found.Without = append(found.Without, p.ID)
		}
	}
	if searched == 0 {
		return found, backstay.Errorf(backstay.CodeNotIndexed, "the files of VM %s are not listed", f.VM.Name).
			Becausef("none of its %d points was listed; that happens after a backup of a protected VM into a vault, unless it is turned off, and not for disk images", len(points))
	}
	slices.Sort(found.Without)
	if len(found.Files) > f.Limit {
		found.Files, found.More = found.Files[:f.Limit], true
	}
	return found, nil
}

// vaultsOf are the vaults that hold some of the points.
func vaultsOf(points []backstay.RecoveryPoint) []backstay.VaultName {
	var names []backstay.VaultName
	for _, p := range points {
		if p.Has(backstay.VaultTier) && !slices.Contains(names, p.Vault) {
			names = append(names, p.Vault)
		}
	}
	slices.Sort(names)
	return names
}

// join puts what two vaults have of one path together.
func join(a, b []backstay.FoundFile) []backstay.FoundFile {
	if len(a) == 0 || len(b) == 0 {
		return append(a, b...)
	}
	all := append(slices.Clone(a), b...)
	slices.SortStableFunc(all, func(x, y backstay.FoundFile) int {
		return cmp.Or(cmp.Compare(x.Volume, y.Volume), cmp.Compare(x.Path, y.Path))
	})
	joined := all[:1]
	for _, f := range all[1:] {
		last := &joined[len(joined)-1]
		if last.Volume != f.Volume || last.Path != f.Path {
			joined = append(joined, f)
			continue
		}
		last.Versions = append(slices.Clone(last.Versions), f.Versions...)
		slices.SortFunc(last.Versions, func(x, y backstay.FileVersion) int { return cmp.Compare(y.Last, x.Last) })
	}
	return joined
}

// anyMover is the mover of a host, or of another one if that is gone: each can read
// the vaults.
func (r *Runner) anyMover(ctx context.Context, name backstay.HostName) (mover.Indexes, error) {
	m, err := r.Mover(name)
	if err == nil {
		return m, nil
	}
	hosts, listErr := r.Catalog.Hosts.ListHosts(ctx)
	if listErr != nil {
		return nil, fmt.Errorf("list hosts: %w", listErr)
	}
	for _, h := range hosts {
		if m, otherErr := r.Mover(h.Name); otherErr == nil {
			return m, nil
		}
	}
	return nil, err
}

// Diff tells what changed between two points of a VM, in either order: from the older
// to the newer.
func (r *Runner) Diff(ctx context.Context, before, after backstay.RecoveryPoint, limit int) (backstay.PointDiff, error) {
	if before.VM.UUID != after.VM.UUID {
		return backstay.PointDiff{}, backstay.Errorf(backstay.CodeUsage, "points %s and %s cannot be compared", before.ID, after.ID).
			Becausef("they are of different VMs, %s and %s", before.VM.Name, after.VM.Name).Do("name two points of one VM")
	}
	if before.ID == after.ID {
		return backstay.PointDiff{}, backstay.Errorf(backstay.CodeUsage, "point %s cannot be compared with itself", before.ID).
			Becausef("nothing can have changed").Do("name two points of the VM")
	}
	if before.Time.After(after.Time) {
		before, after = after, before
	}
	request := mover.DiffRequest{VM: after.VM.UUID, Before: before.ID, After: after.ID, Limit: limit, Services: r.Services()}
	var vault backstay.VaultName
	request.BeforeTier, request.AfterTier, vault = tiers(before, after)
	for i, tier := range []backstay.Tier{request.BeforeTier, request.AfterTier} {
		if p := []backstay.RecoveryPoint{before, after}[i]; tier == "" {
			return backstay.PointDiff{}, backstay.Errorf(backstay.CodeNotRestorable, "point %s cannot be compared", p.ID).
				Becausef("it is not whole in a tier that can be read together with the other point's")
		}
	}
	if vault != "" {
		access, err := r.Vault(ctx, vault)
		if err != nil {
			return backstay.PointDiff{}, err
		}
		request.Vault = &access
	}
	m, err := r.Mover(after.VM.Host)
	if err != nil && request.BeforeTier == backstay.VaultTier && request.AfterTier == backstay.VaultTier {
		m, err = r.anyMover(ctx, after.VM.Host)
	}
	if err != nil {
		return backstay.PointDiff{}, err
	}
	return m.DiffPoints(ctx, request, func(mover.Report) {})
}

// tiers says from where two points are read: from one vault if both are in it, else
// from the layers if both are there, else each where it is.
func tiers(a, b backstay.RecoveryPoint) (ofA, ofB backstay.Tier, vault backstay.VaultName) {
	inA, inB := a.Has(backstay.VaultTier), b.Has(backstay.VaultTier)
	onA, onB := a.Has(backstay.SnapshotTier), b.Has(backstay.SnapshotTier)
	switch {
	case inA && inB && a.Vault == b.Vault:
		return backstay.VaultTier, backstay.VaultTier, a.Vault
	case onA && onB:
		return backstay.SnapshotTier, backstay.SnapshotTier, ""
	case inA && onB:
		return backstay.VaultTier, backstay.SnapshotTier, a.Vault
	case onA && inB:
		return backstay.SnapshotTier, backstay.VaultTier, b.Vault
	default:
		return "", "", ""
	}
}
