package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// Points lists the points that can be read, oldest first: those with a record,
// not being dropped, all of whose layers are there.
func (t *Tier) Points(ctx context.Context) ([]PointRecord, error) {
	if err := t.lookAround(ctx); err != nil && !errors.Is(err, hypervisor.ErrAway) {
		return nil, err // without the hypervisor the known folders must do
	}
	b, err := t.load()
	if err != nil {
		return nil, err
	}
	var points []PointRecord
	for _, p := range b.Points {
		if why := b.Unusable(p); why != "" {
			t.log.Debug("point is not offered", "point", p.ID, "reason", why)
			continue
		}
		points = append(points, *p)
	}
	slices.SortFunc(points, func(a, b PointRecord) int { return cmp.Compare(a.ID, b.ID) })
	return points, nil
}

// lookAround remembers the folders with records that lie beside the disks of
// the VMs that there are now.
func (t *Tier) lookAround(ctx context.Context) error {
	vms, err := t.hv.VMs(ctx)
	if err != nil {
		return fmt.Errorf("list VMs: %w", err)
	}
	var folders []string
	folders = append(folders, t.layers)
	for _, vm := range vms {
		for _, d := range vm.Disks {
			if d.Source != "" {
				folders = append(folders, filepath.Dir(d.Source))
			}
		}
	}
	return t.records.Discover(folders)
}

// Swept is what a sweep found and mended.
type Swept struct {
	Thawed   []backstay.VMID
	Removed  []string
	Finished []backstay.PointID
}

// SweepOptions say how to sweep.
type SweepOptions struct {
	// Live are the jobs that will go on by themselves.
	Live []backstay.JobID
	// Lock waits until nobody else changes a VM.
	Lock func(context.Context, backstay.VMID) (unlock func(), err error)
}

// Sweep mends what a crash left (I9): it thaws guests, settles intents of jobs
// that are not live, finishes merges and drops, and removes entries of users
// that are gone. It touches only files that a record of ours names. One thing
// that cannot be mended does not keep it from the others.
func (t *Tier) Sweep(ctx context.Context, o SweepOptions) (Swept, error) {
	var s Swept
	if err := t.lookAround(ctx); err != nil {
		return s, hypervisorError(err, "host %s cannot be swept", t.host)
	}
	b, err := t.load()
	if err != nil {
		return s, err
	}
	var errs []error
	for _, in := range b.Intents {
		errs = append(errs, o.locked(ctx, in.VM.UUID, func() error { return t.sweepIntent(ctx, in, o.Live, &s) }))
	}
	for _, m := range b.Merges {
		errs = append(errs, o.locked(ctx, m.VM, func() error { return t.finishMerges(ctx, m.VM) }))
	}
	for _, c := range b.Copies {
		errs = append(errs, o.locked(ctx, c.VM, func() error { return t.finishCopies(ctx, c.VM) }))
	}
	for _, p := range b.Points {
		if p.State != record.PointDropping {
			continue
		}
		errs = append(errs, o.locked(ctx, p.VM.UUID, func() error { return t.sweepDrop(ctx, p.ID, &s) }))
	}
	for _, p := range b.Points {
		if p.State == record.PointMap && p.ID < b.newestVaulted(p.VM.UUID) {
			errs = append(errs, o.locked(ctx, p.VM.UUID, func() error { return t.dropMaps(ctx, p.VM.UUID, nil) }))
		}
	}
	errs = append(errs, t.sweepUsers(ctx, o.Live), t.cleanLeft(ctx), t.sweepTemps(&s))
	return s, errors.Join(errs...)
}

func (o SweepOptions) locked(ctx context.Context, vm backstay.VMID, fn func() error) error {
	if o.Lock == nil {
		return fn()
	}
	unlock, err := o.Lock(ctx, vm)
	if err != nil {
		return err
	}
	defer unlock()
	return fn()
}

func (t *Tier) sweepIntent(ctx context.Context, in *intent, live []backstay.JobID, s *Swept) error {
	if _, err := os.Stat(in.Path); errors.Is(err, fs.ErrNotExist) {
		return nil // settled while we waited for the VM
	}
	if t.live(in.ID) != nil {
		return nil // this process holds the guest, and lets it go
	}
	was, thawErr := t.pay(ctx, in)
	if was {
		s.Thawed = append(s.Thawed, in.VM.UUID)
	}
	if slices.Contains(live, in.Job) {
		return thawErr
	}
	var present []string
	for _, d := range in.Disks {
		if _, err := os.Stat(d.Overlay); err == nil {
			present = append(present, d.Overlay)
		}
	}
	_, found, err := t.Settle(ctx, in.VM.UUID, in.ID)
	if found {
		s.Finished = append(s.Finished, in.ID)
	} else if err == nil {
		s.Removed = append(s.Removed, present...)
	}
	return errors.Join(thawErr, err)
}

// sweepDrop goes on with a drop. That somebody stands on a layer is no fault:
// the next sweep or drop tries again.
func (t *Tier) sweepDrop(ctx context.Context, id backstay.PointID, s *Swept) error {
	err := t.Drop(ctx, id, nil)
	switch {
	case backstay.IsCode(err, backstay.CodeUnknownPoint):
		return nil // dropped while we waited for the VM
	case backstay.IsCode(err, backstay.CodeLayerInUse), halfDropped(err):
		t.log.Info("a drop waits", "point", id, "reason", err)
		return nil
	case err == nil:
		s.Finished = append(s.Finished, id)
	}
	return err
}

// halfDropped tells whether a drop waits for somebody who stands on a layer.
func halfDropped(err error) bool {
	var e *backstay.Error
	return errors.As(err, &e) && e.Code == backstay.CodeSnapshotFailed && backstay.IsCode(e.Unwrap(), backstay.CodeLayerInUse)
}

// sweepUsers removes the entries of readers whose job is over, of sessions that are
// open no more, and of VMs that are gone with their overlay.
func (t *Tier) sweepUsers(ctx context.Context, live []backstay.JobID) error {
	here, err := t.present(ctx)
	if err != nil {
		return err
	}
	return t.removeUsers(func(u User) bool {
		switch {
		case slices.Contains(live, u.Job), u.Kind == UserRestore, u.Kind == UserUndo:
			return false // whoever made the latter two has a journal of them
		case u.Kind == UserMount:
			return t.goneSession(u)
		case u.Kind != UserVM:
			return !t.isReading(u.ID)
		}
		return goneVM(u, here)
	})
}

// isReading tells whether a reader of this process holds an entry. It is asked
// while no entry can be made.
func (t *Tier) isReading(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reading[id] > 0
}

// sweepTemps removes half-written records.
func (t *Tier) sweepTemps(s *Swept) error {
	removed, err := t.records.RemoveTemps()
	s.Removed = append(s.Removed, removed...)
	return err
}
