package backup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Scope is what a reconciliation looks at: the points of one VM on a host, or of
// all its VMs if VM is empty.
type Scope struct {
	Host backstay.HostName
	VM   backstay.VMID
}

// Reconciled is what a reconciliation changed.
type Reconciled struct {
	// Entered are the points that were beside the disks and not in the catalogue.
	Entered []backstay.PointID
	// Lost are the points that left the snapshot tier in the catalogue, since they
	// cannot be read there, with the reason.
	Lost map[backstay.PointID]string
}

// Warnings say in words what is gone.
func (r Reconciled) Warnings() []string {
	var warnings []string
	for id, why := range r.Lost {
		warnings = append(warnings, fmt.Sprintf("point %s is not in the snapshot tier any more: %s", id, why))
	}
	slices.Sort(warnings)
	return warnings
}

// Reconcile makes the catalogue agree with what a host has beside the disks: the
// files beside the disks are the truth for the snapshot tier, and the catalogue is
// an index of them. Nobody else may change the VMs meanwhile. Nothing is taken out
// of the catalogue because a host did not list it; the host must say that it looked
// for the point and that it cannot be read (I6).
func Reconcile(ctx context.Context, c *catalog.Catalog, m mover.Mover, s Scope, now time.Time) (Reconciled, error) {
	done := Reconciled{Lost: map[backstay.PointID]string{}}
	found, err := m.Points(ctx)
	if err != nil {
		return done, err
	}
	here := map[backstay.PointID]bool{}
	for _, taken := range found {
		here[taken.Point] = true
		if s.VM != "" && taken.Shape.ID != s.VM {
			continue
		}
		entered, err := enter(ctx, c, s.Host, taken, now)
		if err != nil {
			return done, err
		}
		if entered {
			done.Entered = append(done.Entered, taken.Point)
		}
	}
	known, err := c.Points.ListPoints(ctx, s.VM)
	if err != nil {
		return done, fmt.Errorf("list points: %w", err)
	}
	var places []mover.PointPlace
	for _, p := range known {
		if p.VM.Host == s.Host && p.Has(backstay.SnapshotTier) && !here[p.ID] {
			places = append(places, mover.PointPlace{Point: p.ID, Folders: folders(p)})
		}
	}
	if len(places) == 0 {
		return done, nil
	}
	lost, err := m.Lost(ctx, places)
	if err != nil {
		return done, err
	}
	for id, why := range lost {
		if err := forget(ctx, c, id, backstay.SnapshotTier); err != nil {
			return done, err
		}
		done.Lost[id] = why
	}
	return done, nil
}

// enter puts a point that is beside the disks into the catalogue, unless it is
// there already.
func enter(ctx context.Context, c *catalog.Catalog, host backstay.HostName, taken mover.Taken, now time.Time) (bool, error) {
	old, err := c.Points.Point(ctx, taken.Point)
	switch {
	case err == nil && slices.ContainsFunc(old.Tiers, func(t backstay.PointTier) bool { return t.Tier == backstay.SnapshotTier }):
		return false, nil
	case err == nil:
		// It is known from its vault alone.
		err = c.Points.ChangePoint(ctx, old.ID, func(p *backstay.RecoveryPoint) error {
			p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, now)
			p.VM.Host = host
			p.Pinned = p.Pinned || taken.Pinned
			return nil
		})
	case errors.Is(err, catalog.ErrNotFound):
		var vault backstay.VaultName
		if item, err := c.Items.Item(ctx, taken.Shape.ID); err == nil {
			vault = item.Vault
		} else if !errors.Is(err, catalog.ErrNotFound) {
			return false, fmt.Errorf("read the protected item: %w", err)
		}
		point := PointOf(taken, vault, now)
		point.VM.Host = host
		err = c.Points.PutPoint(ctx, point)
	}
	if err != nil {
		return false, fmt.Errorf("enter point %s: %w", taken.Point, err)
	}
	return true, nil
}

// folders are where the disks of a point were when it was taken.
func folders(p backstay.RecoveryPoint) []string {
	var all []string
	for _, d := range p.Disks {
		for _, s := range p.Shape.Disks {
			if d.Included && s.Target == d.Target && s.Source != "" && !slices.Contains(all, path.Dir(s.Source)) {
				all = append(all, path.Dir(s.Source))
			}
		}
	}
	return all
}

// forget takes a tier off a point, and the point out of the catalogue if that was
// its last.
func forget(ctx context.Context, c *catalog.Catalog, id backstay.PointID, tier backstay.Tier) error {
	left := 1
	err := c.Points.ChangePoint(ctx, id, func(p *backstay.RecoveryPoint) error {
		p.DropTier(tier)
		left = len(p.Tiers)
		return nil
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	if err == nil && left == 0 {
		err = c.Points.DeletePoint(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("record that point %s left the %s tier: %w", id, tier, err)
	}
	return nil
}
