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
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
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
	for _, p := range b.points {
		if why := b.unusable(p); why != "" {
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
	for _, vm := range vms {
		for _, d := range vm.Disks {
			folder := filepath.Dir(d.Source)
			if d.Source == "" {
				continue
			}
			if _, err := os.Stat(filepath.Join(folder, recordFolder)); err == nil {
				folders = append(folders, folder)
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.remember(folders...)
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
	for _, in := range b.intents {
		errs = append(errs, o.locked(ctx, in.VM.UUID, func() error { return t.sweepIntent(ctx, in, o.Live, &s) }))
	}
	for _, m := range b.merges {
		errs = append(errs, o.locked(ctx, m.VM, func() error { return t.finishMerges(ctx, m.VM) }))
	}
	for _, p := range b.points {
		if p.State != PointDropping {
			continue
		}
		errs = append(errs, o.locked(ctx, p.VM.UUID, func() error { return t.sweepDrop(ctx, p.ID, &s) }))
	}
	errs = append(errs, t.sweepUsers(ctx, o.Live), t.sweepTemps(&s))
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
	if _, err := os.Stat(in.path); errors.Is(err, fs.ErrNotExist) {
		return nil // settled while we waited for the VM
	}
	was, thawErr := t.thaw(ctx, in)
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

// sweepUsers removes the entries of readers whose job is over, and of VMs that
// are gone with their overlay.
func (t *Tier) sweepUsers(ctx context.Context, live []backstay.JobID) error {
	here, err := t.present(ctx)
	if err != nil {
		return err
	}
	return t.removeUsers(func(u User) bool {
		switch {
		case slices.Contains(live, u.Job):
			return false
		case u.Kind == UserTransfer:
			return t.reading[u.ID] == 0
		}
		return u.goneVM(here)
	})
}

// sweepTemps removes half-written records. Nobody writes a layer's or a
// point's record while mu is held.
func (t *Tier) sweepTemps(s *Swept) error {
	return t.change(func(*book) error {
		folders, err := t.folders()
		if err != nil {
			return err
		}
		for _, folder := range folders {
			for _, sub := range []string{layerFolder, pointFolder} {
				if err := removeTemps(filepath.Join(folder, recordFolder, sub), s); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func removeTemps(folder string, s *Swept) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list half-written records: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		path := filepath.Join(folder, e.Name())
		if err := removeFile(path); err != nil {
			return err
		}
		s.Removed = append(s.Removed, path)
	}
	return nil
}
