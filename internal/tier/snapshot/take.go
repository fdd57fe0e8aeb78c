package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// TakeRequest asks for the snapshot of a prepared point.
type TakeRequest struct {
	Point backstay.PointID
	VM    backstay.VMID
	Wish  backstay.Consistency
	// Fallback are the weaker consistencies that may be had; nil allows all.
	Fallback []backstay.Consistency
	Guest    backstay.GuestRules
	Time     time.Time
	// Held: Hold was called for the point, and LetGo will be.
	Held bool
}

func (r TakeRequest) hold() HoldRequest {
	return HoldRequest{Point: r.Point, VM: r.VM, Wish: r.Wish, Fallback: r.Fallback, Guest: r.Guest}
}

// Take brings the guest into the state that is wished for, switches all disks of
// a prepared point to their overlays at one instant, lets the guest go, and
// records the point. Without error the point is restorable; with one the VM runs
// on its old files and nothing is left, unless the hypervisor does not answer, in
// which case Settle finds out later. A point that is recorded already is returned
// as it is.
func (t *Tier) Take(ctx context.Context, r TakeRequest) (PointRecord, error) {
	if r.Held {
		return t.takeHeld(ctx, r)
	}
	in, p, err := t.prepared(ctx, r.VM, r.Point)
	if err != nil || p != nil {
		return dereference(p), err
	}
	defer t.unexpect(r.Point)
	s, domain, err := t.approach(ctx, in, r.hold())
	if err != nil {
		return PointRecord{}, snapshotFailed(&domain.VM, errors.Join(err, t.discard(in)))
	}
	if err := t.announce(ctx, in, s, &domain, r.Time); err != nil {
		return PointRecord{}, snapshotFailed(&domain.VM, errors.Join(err, s.Abandon(steady(ctx)), t.discard(in)))
	}
	held := errNotHeld
	err = t.switchDisks(ctx, in, hypervisor.SwitchOptions{
		Before: func() error {
			held = t.holdNow(ctx, in, s)
			return held
		},
		// The guest waits for nothing else.
		After: func(err error) {
			if err == nil {
				s.Switched()
			}
			s.LetGo(steady(ctx))
		},
	})
	if held != nil && held != errNotHeld {
		return PointRecord{}, snapshotFailed(&domain.VM, errors.Join(held, s.Abandon(steady(ctx)), t.discard(in)))
	}
	// If the disks are switched the VM writes to the overlays now: what is left must
	// not stop half-way.
	ctx = steady(ctx)
	in.Owed = owedOf(s.Debt())
	if err != nil {
		return t.afterFailedSwitch(ctx, in, &domain, errors.Join(err, s.Abandon(ctx)))
	}
	if _, err := t.complete(ctx, in, s.Provisional()); err != nil {
		return PointRecord{}, errors.Join(err, s.Abandon(ctx))
	}
	return t.finish(ctx, in, s)
}

func dereference(p *PointRecord) PointRecord {
	if p == nil {
		return PointRecord{}
	}
	return *p
}

// prepared returns the intent of a point that is ready to be taken, or the point
// if it was taken before.
func (t *Tier) prepared(ctx context.Context, vm backstay.VMID, id backstay.PointID) (*intent, *PointRecord, error) {
	b, err := t.load()
	if err != nil {
		return nil, nil, err
	}
	if p := b.Points[id]; p != nil {
		return nil, p, nil
	}
	in := b.Intent(id)
	if in == nil || in.VM.UUID != vm {
		return nil, nil, backstay.Errorf(backstay.CodeSnapshotFailed, "point %s was not prepared on host %s", id, t.host).
			Do("start the backup again")
	}
	if in.Stage != record.StagePrepared || in.Owed != nil {
		if p, found, err := t.Settle(ctx, vm, id); err != nil || found {
			return nil, &p, err
		}
		return nil, nil, backstay.Errorf(backstay.CodeSnapshotFailed, "an earlier attempt at point %s left nothing to go on with", id)
	}
	return in, nil, nil
}

// announce journals what will be asked for, with the definition as it is now,
// so that a crash from here on loses nothing of the point.
func (t *Tier) announce(ctx context.Context, in *intent, s *quiesce.Session, domain *hypervisor.Domain, at time.Time) error {
	if in.Owed != nil { // hooks ran; that may have taken its time
		fresh, err := t.domain(ctx, in.VM.UUID)
		if err != nil {
			return err
		}
		*domain = fresh
	}
	for _, d := range in.Disks {
		now, _ := findDisk(&domain.VM, d.Target)
		if now.Source != d.Source {
			return fmt.Errorf("disk %s moved from %s to %q since the snapshot was prepared", d.Target, d.Source, now.Source)
		}
	}
	definition, err := capture(domain)
	if err != nil {
		return err
	}
	key, err := t.hostKey(ctx)
	if err != nil {
		return err
	}
	if definition.Secrets, err = preparedSecrets(key, in); err != nil {
		return err
	}
	if in.Sealed, err = seal(key, in.ID, definition); err != nil {
		return err
	}
	shape := domain.VM
	shape.Host = t.host
	in.Shape, in.Time, in.Wish, in.Allowed = &shape, at, s.Wish, s.Allowed()
	if in.Quiesce = s.WillFreeze(); in.Quiesce {
		if in.Owed == nil {
			in.Owed = &record.Owed{}
		}
		in.Owed.Asked = true
	}
	in.Stage = record.StageSwitching
	return in.Write()
}

// noteUnfrozen writes down why a guest that was to be frozen is not, so that a
// point of which nobody sees the switch return says it.
func noteUnfrozen(in *intent, s *quiesce.Session) error {
	if !in.Quiesce || s.Held() {
		return nil
	}
	in.Quiesce, in.Reason = false, s.Provisional().Reason
	in.Owed = owedOf(s.Debt())
	return in.Write()
}

// errNotHeld: the switch failed before the guest's turn had come.
var errNotHeld = errors.New("not held")

// holdNow holds the guest right before the switch.
func (t *Tier) holdNow(ctx context.Context, in *intent, s *quiesce.Session) error {
	if err := s.Hold(ctx, false); err != nil {
		return err
	}
	if err := noteUnfrozen(in, s); err != nil {
		return err
	}
	if t.onHeld != nil && s.Held() {
		t.onHeld(ctx, in.VM.UUID)
	}
	return nil
}

// switchDisks switches all disks.
func (t *Tier) switchDisks(ctx context.Context, in *intent, o hypervisor.SwitchOptions) error {
	switches := make([]hypervisor.Switch, len(in.Disks))
	for i, d := range in.Disks {
		switches[i] = hypervisor.Switch{Target: d.Target, Overlay: d.Overlay}
	}
	if _, err := t.hv.SwitchAll(ctx, in.VM.UUID, switches, o); err != nil {
		return fmt.Errorf("switch disks: %w", err)
	}
	return nil
}

// afterFailedSwitch finds out whether a switch that returned an error happened
// all the same: the VM's own files tell, not the error.
func (t *Tier) afterFailedSwitch(ctx context.Context, in *intent, domain *hypervisor.Domain, cause error) (PointRecord, error) {
	p, found, err := t.settle(steady(ctx), in)
	if err != nil {
		return PointRecord{}, snapshotFailed(&domain.VM, errors.Join(cause, err))
	}
	if found {
		t.log.Warn("a switch that reported an error had happened", "point", in.ID, "error", cause)
		return p, nil
	}
	return PointRecord{}, snapshotFailed(&domain.VM, cause)
}

// complete records a point whose disks are switched: outcome, state of firmware
// and TPM, layers, point; then the intent goes, unless the guest is owed
// something yet. Each step may be repeated.
func (t *Tier) complete(ctx context.Context, in *intent, o quiesce.Outcome) (PointRecord, error) {
	if in.Stage != record.StageSwitched {
		if err := t.sealState(ctx, in); err != nil {
			// What was captured right before the switch is kept and said.
			t.log.Warn("firmware and TPM state are those of before the switch", "point", in.ID, "error", err)
			o.Reason += "; firmware variables and TPM state are those of just before"
		}
		in.Stage, in.Consistency, in.Reason, in.FreezeMs = record.StageSwitched, o.Consistency, o.Reason, o.FreezeMs
		if err := in.Write(); err != nil {
			return PointRecord{}, err
		}
	}
	var p PointRecord
	err := t.change(func(b *book) error {
		var err error
		if p, err = b.enter(in); err != nil {
			return fmt.Errorf("record point %s: %w", in.ID, err)
		}
		if in.Owed != nil {
			in.Stage = record.StageRecorded
			return in.Write()
		}
		return record.RemoveFile(in.Path)
	})
	return p, err
}

// sealState takes firmware variables and TPM state again, as close to the
// instant of the disks as can be.
func (t *Tier) sealState(ctx context.Context, in *intent) error {
	if in.Shape.Firmware != backstay.UEFI && !in.Shape.TPM {
		return nil
	}
	domain, err := t.hv.Domain(ctx, in.VM.UUID)
	if err != nil {
		return err
	}
	key, err := t.hostKey(ctx)
	if err != nil {
		return err
	}
	definition, err := unseal(key, in.ID, in.Sealed)
	if err != nil {
		return err
	}
	if err := captureState(&domain, &definition); err != nil {
		return err
	}
	sealed, err := seal(key, in.ID, definition)
	if err == nil {
		in.Sealed = sealed
	}
	return err
}

// enter writes the records of a switched point. The point's own record is the
// last: it is what makes the point visible.
func (b *book) enter(in *intent) (PointRecord, error) {
	for _, d := range in.Disks {
		if err := b.enterDisk(in, d); err != nil {
			return PointRecord{}, err
		}
	}
	p := &PointRecord{
		ID: in.ID, Job: in.Job, State: record.PointAvailable, Time: in.Time, VM: in.VM,
		Consistency: in.Consistency, Reason: in.Reason, FreezeMs: in.FreezeMs,
		Shape: *in.Shape, Sealed: in.Sealed, Secrets: in.Secrets,
	}
	for _, d := range in.Shape.Disks {
		p.Disks = append(p.Disks, b.recordDisk(in, d))
	}
	if err := b.PutPoint(p); err != nil {
		return PointRecord{}, err
	}
	p.Parent = b.ParentOf(p)
	return *p, nil
}

func (b *book) enterDisk(in *intent, d intentDisk) error {
	frozen := b.Layers[d.Layer]
	if frozen == nil {
		return fmt.Errorf("the record of layer %s is missing", d.Layer)
	}
	next := &Layer{ID: d.Next, File: d.Overlay, Format: "qcow2", Secret: d.Secret, Parent: d.Layer, Target: d.Target, VM: in.VM.UUID, Size: d.Size}
	if b.Layers[d.Next] == nil {
		if err := b.Put(next); err != nil {
			return err
		}
	}
	stamp, err := record.StampOf(frozen.File)
	if err != nil {
		return err
	}
	frozen.Stamp, frozen.Size = stamp, d.Size
	if !slices.Contains(frozen.Points, in.ID) {
		frozen.Points = append(frozen.Points, in.ID)
	}
	if err := b.Put(frozen); err != nil {
		return err
	}
	return b.stampBelow(frozen)
}

// stampBelow stamps the layers below a frozen one that were frozen by somebody
// else: the point consists of them as well.
func (b *book) stampBelow(frozen *Layer) error {
	for _, below := range b.Chain(frozen.Parent) {
		if below.Stamp != nil {
			continue
		}
		stamp, err := record.StampOf(below.File)
		if err != nil {
			continue // whoever opens the point misses the file
		}
		below.Stamp = stamp
		if err := b.Put(&below); err != nil {
			return err
		}
	}
	return nil
}

// recordDisk describes a disk of the VM in the point. The format told is that
// of the VM's own file, which restores go by.
func (b *book) recordDisk(in *intent, d backstay.Disk) RecordDisk {
	r := RecordDisk{PointDisk: backstay.PointDisk{Target: d.Target, Size: d.Size, Format: d.Format, Reason: d.Reason}}
	for _, made := range in.Disks {
		if made.Target != d.Target {
			continue
		}
		r.Included, r.Layer, r.Size = true, made.Layer, made.Size
		for _, l := range b.Chain(made.Layer) {
			r.Format = l.Format
			if l.Format == "luks" {
				r.Format = "raw" // in the words of definitions
			}
			if l.Bottom {
				break
			}
		}
	}
	if !r.Included && r.Reason == "" {
		r.Reason = "it was left out"
	}
	return r
}
