package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// record decides whether the point goes on to its vault, while the VM is still
// the job's, and enters it into the catalogue.
func (b *backupRun) record(ctx context.Context, m *member, taken mover.Taken) error {
	if m.Recorded {
		return nil
	}
	if err := b.decideTransfer(ctx, m); err != nil {
		return err
	}
	point := b.pointOf(m, taken)
	if err := b.putPoint(ctx, point); err != nil {
		return fmt.Errorf("record point %s: %w", point.ID, err)
	}
	// Only this is changed: the policy may be another by now, and a VM that
	// somebody unprotected meanwhile stays unprotected.
	err := b.Catalog.Items.ChangeItem(ctx, m.VM, func(i *backstay.ProtectedItem) error {
		i.LastPoint = &point.Time
		return nil
	})
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("record the item's last point: %w", err)
	}
	m.Recorded = true
	if err := b.run.Save(b.state); err != nil {
		return err
	}
	return b.run.Update(func(j *backstay.Job) {
		if b.params.Group == "" {
			j.Point, j.Result.Point = point.ID, point.ID
		}
		j.Stats.FreezeMs = max(j.Stats.FreezeMs, taken.FreezeMs)
		b.report(j, m)
	})
}

// report says in the job's result what was made of a VM.
func (b *backupRun) report(j *backstay.Job, m *member) {
	made := backstay.BackedUp{
		VM: m.item.VM, Point: m.Point, Disks: m.Plan.Targets(), Excluded: []backstay.DiskVerdict{},
		Size: m.Plan.size(), Skipped: m.Skip,
	}
	for _, d := range m.Plan.leftOut() {
		made.Excluded = append(made.Excluded, backstay.DiskVerdict{Target: d.Target, Excluded: d.Excluded, Reason: d.Reason})
	}
	j.Result.Backups = slices.DeleteFunc(slices.Clone(j.Result.Backups), func(o backstay.BackedUp) bool { return o.VM.UUID == m.VM })
	j.Result.Backups = append(j.Result.Backups, made)
}

// pointOf is the point as the catalogue gets it.
func (b *backupRun) pointOf(m *member, taken mover.Taken) backstay.RecoveryPoint {
	now := b.Now()
	point := PointOf(taken, m.item.Vault, now)
	point.Job, point.Group = b.run.Job().ID, b.params.Group
	point.VM.Host = m.item.VM.Host
	point.Disks = append(point.Disks, m.Plan.leftOut()...)
	if m.Skip == "" {
		point.SetTier(backstay.VaultTier, backstay.TierCreating, now)
	}
	if b.params.Retain > 0 {
		expires := point.Time.Add(time.Duration(b.params.Retain))
		point.Expires = &expires
	}
	return point
}

// putPoint enters a point. If an earlier life did, what others changed since
// stays: a pin, for instance.
func (b *backupRun) putPoint(ctx context.Context, point backstay.RecoveryPoint) error {
	err := b.Catalog.Points.ChangePoint(ctx, point.ID, func(p *backstay.RecoveryPoint) error {
		for _, t := range point.Tiers {
			if !p.Has(t.Tier) {
				p.SetTier(t.Tier, t.State, t.Since)
			}
		}
		p.Job, p.Group = point.Job, point.Group
		return nil
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return b.Catalog.Points.PutPoint(ctx, point)
	}
	return err
}

// PointOf makes a catalogue entry of what a mover recorded beside the disk.
func PointOf(taken mover.Taken, vault backstay.VaultName, now time.Time) backstay.RecoveryPoint {
	return mover.PointOf(taken, vault, now)
}
