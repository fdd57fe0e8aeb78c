package expire

import (
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// release ends a VM's protection on its host: the VM is put back on its own
// files, and its points are in their vaults only. What the VM is on then is the
// job's result. A VM that was protected again since is left alone.
func (r *Runner) release(ctx context.Context, run backstay.Run, params backstay.ExpireParams) error {
	item, err := r.Catalog.Items.Item(ctx, params.VM)
	if err == nil && item.Since.After(run.Job().Created) {
		return run.Warn("the VM was protected again meanwhile; its layers stay")
	}
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("read the protected item: %w", err)
	}
	m, err := r.Mover(params.Host)
	if err != nil {
		return err
	}
	err = run.Step(ctx, "plan", func(ctx context.Context) error {
		if err := r.Catalog.Items.DeleteItem(ctx, params.VM); err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return fmt.Errorf("end the protection: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = run.Step(ctx, "drop", func(ctx context.Context) error {
		released, failure := m.Release(ctx, params.VM, func(p mover.Report) { run.Progress(p.Done, p.Total) })
		for _, note := range released.Notes {
			if err := run.Warn(note); err != nil {
				return err
			}
		}
		// Also of a release that broke off the catalogue learns what is left.
		return errors.Join(failure, r.agree(context.WithoutCancel(ctx), m, params, failure == nil))
	})
	if err != nil {
		return err
	}
	return r.sayFiles(ctx, run, m, params.VM)
}

// agree takes the points that are not on the host any more out of the snapshot
// tier in the catalogue. Those that are nowhere else are forgotten only once all
// is done: that a host does not list a point proves nothing by itself (I6).
func (r *Runner) agree(ctx context.Context, m mover.Mover, params backstay.ExpireParams, done bool) error {
	left, err := m.Points(ctx)
	if err != nil {
		return err
	}
	points, err := r.Catalog.Points.ListPoints(ctx, params.VM)
	if err != nil {
		return fmt.Errorf("list points: %w", err)
	}
	for _, p := range points {
		there := slices.ContainsFunc(left, func(t mover.Taken) bool { return t.Point == p.ID })
		if there || p.VM.Host != params.Host || stateOf(p, backstay.SnapshotTier) == "" || !done && !p.Has(backstay.VaultTier) {
			continue
		}
		err := r.Catalog.Points.ChangePoint(ctx, p.ID, func(p *backstay.RecoveryPoint) error {
			p.DropTier(backstay.SnapshotTier)
			return nil
		})
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return fmt.Errorf("record that point %s left the snapshot tier: %w", p.ID, err)
		}
		if err := r.forgetIfGone(ctx, p.ID); err != nil {
			return err
		}
	}
	return nil
}

// sayFiles enters the files that the VM is on into the job's result.
func (r *Runner) sayFiles(ctx context.Context, run backstay.Run, m mover.Mover, id backstay.VMID) error {
	vms, err := m.VMs(ctx)
	if err != nil {
		return err
	}
	var files []string
	for _, vm := range vms {
		for _, d := range vm.Disks {
			if vm.ID == id && d.Device == "disk" && d.Source != "" {
				files = append(files, d.Source)
			}
		}
	}
	return run.Update(func(j *backstay.Job) { j.Result.Disks = files })
}
