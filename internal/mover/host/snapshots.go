package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// Prepare makes overlays and journals that it did.
func (h *Host) Prepare(ctx context.Context, r mover.PrepareRequest) (mover.Prepared, error) {
	unlock, err := h.vms.lock(ctx, string(r.VM))
	if err != nil {
		return mover.Prepared{}, err
	}
	defer unlock()
	if err := h.notLive(r.VM); err != nil {
		return mover.Prepared{}, err
	}
	secrets, warnings, err := h.secretsOf(ctx, r.VM, r.Disks, r.Keys)
	if err != nil {
		return mover.Prepared{}, err
	}
	p, err := h.tier.Prepare(ctx, snapshot.Request{
		Job: r.Job, Point: r.Point, VM: r.VM, Disks: r.Disks, Depth: r.Depth, Consistency: r.Consistency, Secrets: secrets,
	})
	if err != nil {
		return mover.Prepared{}, err
	}
	prepared := mover.Prepared{Agent: p.Agent, Notes: p.Notes, Warnings: warnings}
	for _, d := range p.Disks {
		prepared.Disks = append(prepared.Disks, mover.PreparedDisk{
			Target: d.Target, Layer: d.Layer, Source: d.Source, Format: d.Format, Size: d.Size, Overlay: d.Overlay, Next: d.Next,
		})
	}
	return prepared, nil
}

// Take takes a prepared snapshot and records the point.
func (h *Host) Take(ctx context.Context, r mover.TakeRequest) (mover.Taken, error) {
	unlock, err := h.vms.lock(ctx, string(r.VM))
	if err != nil {
		return mover.Taken{}, err
	}
	defer unlock()
	p, err := h.tier.Take(ctx, snapshot.TakeRequest{
		Point: r.Point, VM: r.VM, Wish: r.Consistency, Fallback: r.Fallback, Guest: r.Guest, Time: r.Time, Held: r.Held,
	})
	if err != nil {
		return mover.Taken{}, err
	}
	return takenOf(&p), nil
}

// Settle ends an interrupted Prepare or Take.
func (h *Host) Settle(ctx context.Context, vm backstay.VMID, p backstay.PointID) (mover.Taken, bool, error) {
	unlock, err := h.vms.lock(ctx, string(vm))
	if err != nil {
		return mover.Taken{}, false, err
	}
	defer unlock()
	record, found, err := h.tier.Settle(ctx, vm, p)
	if err != nil || !found {
		return mover.Taken{}, false, err
	}
	return takenOf(&record), true, nil
}

// Points lists the snapshot-tier points of the host.
func (h *Host) Points(ctx context.Context) ([]mover.Taken, error) {
	records, err := h.tier.Points(ctx)
	if err != nil {
		return nil, err
	}
	points := make([]mover.Taken, len(records))
	for i := range records {
		points[i] = takenOf(&records[i])
	}
	return points, nil
}

// Lost returns the points that are not in the snapshot tier any more.
func (h *Host) Lost(ctx context.Context, places []mover.PointPlace) (map[backstay.PointID]string, error) {
	asked := make([]snapshot.Place, len(places))
	for i, p := range places {
		asked[i] = snapshot.Place(p)
	}
	return h.tier.Lost(ctx, asked)
}

// DropPoint takes a point out of the snapshot tier. No error if it is not there.
func (h *Host) DropPoint(ctx context.Context, p backstay.PointID, progress mover.Progress) error {
	return h.dropGoing(ctx, p, progress)
}

// ending calls end for a point while nobody else changes its VM, at the pace that
// the guest allows.
func (h *Host) ending(ctx context.Context, p backstay.PointID, progress mover.Progress, end func(context.Context, backstay.PointID, snapshot.Progress) error) error {
	record, err := h.tier.Record(ctx, p)
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return nil
	}
	if err != nil {
		return err
	}
	unlock, err := h.vms.lock(ctx, string(record.VM.UUID))
	if err != nil {
		return err
	}
	defer unlock()
	// A restored VM that was deleted since keeps nothing back, nor does a session of a
	// mover that was killed.
	if err := errors.Join(h.tier.ForgetVMs(ctx, h.staging), h.tier.ForgetSessions()); err != nil {
		return err
	}
	err = h.pacer.merging(ctx, record.VM.UUID, progress, func(ctx context.Context, progress snapshot.Progress) error {
		return end(ctx, p, progress)
	})
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return nil // dropped while we waited for the VM
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return backstay.Errorf(backstay.CodeNoSpace, "point %s cannot be taken out of the snapshot tier", p).Because(err).
			Do("free space beside the disks of the VM; the drop goes on then")
	}
	return err
}

// Release ends protection of a VM.
func (h *Host) Release(ctx context.Context, vm backstay.VMID, progress mover.Progress) (mover.Released, error) {
	if err := h.EndPulls(ctx, vm); err != nil { // locks of its own come first
		return mover.Released{}, err
	}
	unlock, err := h.vms.lock(ctx, string(vm))
	if err != nil {
		return mover.Released{}, err
	}
	defer unlock()
	// A restored VM that was deleted since keeps nothing back, nor does a session.
	if err := errors.Join(h.tier.ForgetVMs(ctx, h.staging), h.tier.ForgetSessions(), h.endSessionsOf(ctx, vm)); err != nil {
		return mover.Released{}, err
	}
	ended, err := h.endUndosOf(ctx, vm)
	if err != nil {
		return mover.Released{}, err
	}
	var notes []string
	if ended > 0 {
		notes = append(notes, fmt.Sprintf("%d restores of it cannot be undone any more", ended))
	}
	err = h.pacer.merging(ctx, vm, progress, func(ctx context.Context, progress snapshot.Progress) error {
		said, err := h.tier.Release(ctx, vm, progress)
		notes = append(notes, said...)
		return err
	})
	return mover.Released{Notes: notes}, err
}

// Pin keeps a point in the snapshot tier, or lets it go again.
func (h *Host) Pin(ctx context.Context, p backstay.PointID, pinned bool) error {
	return h.tier.Pin(ctx, p, pinned)
}

// KeepMap takes a point out of the snapshot tier, all but its change map.
func (h *Host) KeepMap(ctx context.Context, p backstay.PointID, progress mover.Progress) error {
	return h.ending(ctx, p, progress, h.tier.KeepMap)
}

// Sweep mends what a crash left on the host. Restores come first: what they
// leave keeps layers from being merged.
func (h *Host) Sweep(ctx context.Context, live []backstay.JobID) (mover.SweepReport, error) {
	removed, restoreErr := h.sweepRestores(ctx, live)
	networks, drillErr := h.sweepDrills(ctx, live)
	replaced, replaceErr := h.sweepReplaces(ctx, live)
	pulled, pullErr := h.pulls.Sweep(ctx, func(ctx context.Context, vm backstay.VMID) (func(), error) { return h.vms.lock(ctx, string(vm)) })
	s, err := h.tier.Sweep(ctx, snapshot.SweepOptions{
		Live: live,
		Lock: h.lockToSweep,
	})
	return mover.SweepReport{
		Thawed: append(pulled.Thawed, s.Thawed...), Removed: slices.Concat(removed, networks, replaced, pulled.Removed, s.Removed), Finished: s.Finished,
	}, errors.Join(restoreErr, drillErr, replaceErr, pullErr, h.sweepPuts(ctx, live), err)
}

// lockToSweep lets a sweep change a VM, and merge at the pace that its guest allows.
// It is not given up: what a crash cut off must be ended.
func (h *Host) lockToSweep(ctx context.Context, vm backstay.VMID) (func(), error) {
	unlock, err := h.vms.lock(ctx, string(vm))
	if err != nil {
		return nil, err
	}
	_, governor := h.pacer.Start(ctx, pace.Work{VM: vm, Limit: h.pacer.limit(vm), Unstoppable: true})
	h.pacer.use(vm, governor)
	return func() {
		h.pacer.use(vm, nil)
		governor.Close()
		unlock()
	}, nil
}

// takenOf says what the port says of a recorded point. Disks that were left
// out are not part of it; the shape has them.
func takenOf(p *snapshot.PointRecord) mover.Taken {
	t := mover.Taken{
		Point: p.ID, Time: p.Time, Consistency: p.Consistency, Reason: p.Reason,
		FreezeMs: p.FreezeMs, Shape: p.Shape, Parent: p.Parent, Notes: p.Notes, Pinned: p.Pinned, Secrets: p.Secrets,
	}
	for _, d := range p.Disks {
		if d.Included {
			t.Disks = append(t.Disks, d.PointDisk)
		}
	}
	return t
}
