package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// TakeRequest asks for the snapshot of a prepared point.
type TakeRequest struct {
	Point backstay.PointID
	VM    backstay.VMID
	Wish  backstay.Consistency
	Time  time.Time
}

// Take switches all disks of a prepared point to their overlays at one instant
// and records the point. Without error the point is restorable; with one the VM
// runs on its old files and nothing is left, unless the hypervisor does not
// answer, in which case Settle finds out later. A point that is recorded already
// is returned as it is.
func (t *Tier) Take(ctx context.Context, r TakeRequest) (PointRecord, error) {
	b, err := t.load()
	if err != nil {
		return PointRecord{}, err
	}
	if p := b.Points[r.Point]; p != nil {
		return *p, nil
	}
	in := b.Intent(r.Point)
	if in == nil || in.VM.UUID != r.VM {
		return PointRecord{}, backstay.Errorf(backstay.CodeSnapshotFailed, "point %s was not prepared on host %s", r.Point, t.host).
			Do("start the backup again")
	}
	if in.Stage != record.StagePrepared {
		if p, found, err := t.Settle(ctx, r.VM, r.Point); err != nil || found {
			return p, err
		}
		return PointRecord{}, backstay.Errorf(backstay.CodeSnapshotFailed, "an earlier attempt at point %s left nothing to go on with", r.Point)
	}
	domain, err := t.domain(ctx, r.VM)
	if err != nil {
		return PointRecord{}, err
	}
	if err := t.announce(ctx, in, &domain, r); err != nil {
		return PointRecord{}, snapshotFailed(&domain.VM, errors.Join(err, t.discard(in)))
	}
	outcome, err := t.switchDisks(ctx, in, &domain)
	if err != nil {
		return t.afterFailedSwitch(ctx, in, &domain, err)
	}
	// The VM writes to the overlays now: what is left must not stop half-way.
	return t.complete(steady(ctx), in, outcome)
}

// announce journals what will be asked for, with the definition as it is now,
// so that a crash from here on loses nothing of the point.
func (t *Tier) announce(ctx context.Context, in *intent, domain *hypervisor.Domain, r TakeRequest) error {
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
	if in.Sealed, err = seal(key, in.ID, definition); err != nil {
		return err
	}
	shape := domain.VM
	shape.Host = t.host
	in.Shape, in.Time, in.Wish = &shape, r.Time, r.Wish
	in.Quiesce = wantsQuiesce(r.Wish, &domain.VM)
	in.Stage = record.StageSwitching
	return in.Write()
}

// wantsQuiesce tells whether freezing is worth a try.
func wantsQuiesce(wish backstay.Consistency, vm *backstay.VM) bool {
	return wish != backstay.CrashConsistent && vm.State == backstay.VMRunning && vm.Agent == backstay.AgentConnected
}

// outcome is what a switch achieved.
type outcome struct {
	consistency backstay.Consistency
	reason      string
	freezeMs    int64
}

// switchDisks asks for the switch, first with frozen file systems if they are
// wished for. A guest that cannot be frozen is snapshot all the same, and the
// point says so (A2).
func (t *Tier) switchDisks(ctx context.Context, in *intent, domain *hypervisor.Domain) (outcome, error) {
	switches := make([]hypervisor.Switch, len(in.Disks))
	for i, d := range in.Disks {
		switches[i] = hypervisor.Switch{Target: d.Target, Overlay: d.Overlay}
	}
	o := hypervisor.SwitchOptions{Quiesce: in.Quiesce, AgentTimeout: agentTimeout}
	done, err := t.hv.SwitchAll(ctx, domain.VM.ID, switches, o)
	if err == nil && in.Quiesce {
		return outcome{backstay.FileSystemConsistent, "the guest's file systems were frozen", done.Took.Milliseconds()}, nil
	}
	reason := crashReason(in.Wish, &domain.VM)
	if in.Quiesce && errors.Is(err, hypervisor.ErrNotQuiesced) {
		reason = "the guest's file systems could not be frozen: " + quiesceCause(err)
		in.Quiesce, in.Reason = false, reason
		if err := in.Write(); err != nil {
			return outcome{}, err
		}
		o.Quiesce = false
		done, err = t.hv.SwitchAll(ctx, domain.VM.ID, switches, o)
	}
	if err != nil {
		return outcome{}, fmt.Errorf("switch disks: %w", err)
	}
	return outcome{backstay.CrashConsistent, reason, 0}, nil
}

// quiesceCause is what comes behind the sentinel: the caller says the rest.
func quiesceCause(err error) string {
	_, cause, _ := strings.Cut(err.Error(), hypervisor.ErrNotQuiesced.Error())
	if cause = strings.Trim(cause, ": "); cause == "" {
		return "the guest agent refused"
	}
	return cause
}

// crashReason says why nothing was frozen.
func crashReason(wish backstay.Consistency, vm *backstay.VM) string {
	switch {
	case vm.State == backstay.VMShutOff:
		return "the VM was shut off; nothing was being written"
	case vm.State != backstay.VMRunning:
		return "the VM was not running (" + string(vm.State) + ")"
	case wish == backstay.CrashConsistent:
		return "nothing more was wished for"
	}
	return noAgentReason(vm.Agent)
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
// and TPM, layers, point; then the intent goes. Each step may be repeated.
func (t *Tier) complete(ctx context.Context, in *intent, o outcome) (PointRecord, error) {
	if in.Stage != record.StageSwitched {
		if err := t.sealState(ctx, in); err != nil {
			// What was captured right before the switch is kept and said.
			t.log.Warn("firmware and TPM state are those of before the switch", "point", in.ID, "error", err)
			o.reason += "; firmware variables and TPM state are those of just before"
		}
		in.Stage, in.Consistency, in.Reason, in.FreezeMs = record.StageSwitched, o.consistency, o.reason, o.freezeMs
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
		Shape: *in.Shape, Sealed: in.Sealed,
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
	next := &Layer{ID: d.Next, File: d.Overlay, Format: "qcow2", Parent: d.Layer, Target: d.Target, VM: in.VM.UUID, Size: d.Size}
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
			if r.Format = l.Format; l.Bottom {
				break
			}
		}
	}
	if !r.Included && r.Reason == "" {
		r.Reason = "it was left out"
	}
	return r
}
