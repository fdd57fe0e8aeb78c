package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// thawTimeout bounds the check for a frozen guest.
const thawTimeout = 15 * time.Second

// Settle ends an interrupted Prepare or Take: if the VM's disks were switched
// the point is recorded and returned, else everything of it is removed and found
// is false. A guest that was left frozen is thawed (I9). A point that is
// recorded is found.
func (t *Tier) Settle(ctx context.Context, vm backstay.VMID, id backstay.PointID) (p PointRecord, found bool, err error) {
	b, err := t.load()
	if err != nil {
		return p, false, err
	}
	in := b.Intent(id)
	if in == nil {
		if p := b.Points[id]; p != nil && p.VM.UUID == vm {
			return *p, true, nil
		}
		return p, false, nil
	}
	if in.VM.UUID != vm {
		return p, false, fmt.Errorf("settle point %s: it is of VM %s, not of %s", id, in.VM.UUID, vm)
	}
	if t.live(id) != nil { // by this process: it knows more than the intent
		if _, err := t.LetGo(ctx, HoldRequest{Point: id, VM: vm}); err != nil {
			t.log.Warn("the guest of a point that is given up was let go", "vm", in.VM.Name, "error", err)
		}
		return t.Settle(ctx, vm, id)
	}
	t.unexpect(id)
	if _, err := t.pay(ctx, in); err != nil {
		t.log.Warn("the guest may be held still; a guard goes on trying", "vm", in.VM.Name, "error", err)
	}
	return t.settle(ctx, in)
}

// pay undoes what the intent says is owed to the guest (I9), and tells whether
// it was frozen. What cannot be undone now a guard goes on with.
func (t *Tier) pay(ctx context.Context, in *intent) (thawed bool, err error) {
	debt := debtOf(in)
	if !debt.Owed() {
		return false, nil
	}
	short, cancel := context.WithTimeout(ctx, thawTimeout)
	defer cancel()
	domain, err := t.hv.Domain(short, in.VM.UUID)
	switch {
	case errors.Is(err, hypervisor.ErrNoVM):
		return false, nil
	case err == nil && domain.VM.State == backstay.VMShutOff:
		return false, nil
	case err == nil && !debt.Paused && domain.VM.Agent == backstay.AgentNone:
		return false, nil
	case err == nil:
		thawed, err = quiesce.Settle(short, t.hv, in.VM.UUID, debt)
	}
	if err != nil {
		t.payLater(ctx, in, debt)
		return thawed, fmt.Errorf("let go %s: %w", in.VM.Name, err)
	}
	if debt.Post != nil {
		if domain.VM.State != backstay.VMRunning {
			t.log.Warn("the post hook of a backup that was interrupted cannot run: the VM does not", "vm", in.VM.Name)
		} else if err := quiesce.RunPost(ctx, t.hv, in.VM.UUID, *debt.Post); err != nil {
			t.log.Warn("the post hook of a backup that was interrupted failed", "vm", in.VM.Name, "error", err)
		}
	}
	return thawed, journal(in, quiesce.Debt{})
}

// payLater lets a guard go on letting a guest go.
func (t *Tier) payLater(ctx context.Context, in *intent, debt quiesce.Debt) {
	if !debt.Asked && !debt.Paused {
		return
	}
	g, err := t.guards.Start(ctx, in.VM.UUID)
	if err == nil {
		err = g.Arm(time.Hour, debt.Paused)
	}
	if err != nil {
		t.log.Error("no guard can be started to let a guest go", "vm", in.VM.Name, "error", err)
		return
	}
	g.Fire()
}

// settle decides by the files that the VM uses, and by nothing else.
func (t *Tier) settle(ctx context.Context, in *intent) (PointRecord, bool, error) {
	in.Owed = nil // it was paid, or a guard does
	switch in.Stage {
	case record.StageSwitched:
		return t.completeAllowed(ctx, in, quiesce.Outcome{})
	case record.StageRecorded:
		p, err := t.amend(in, quiesce.Outcome{Consistency: in.Consistency, Reason: in.Reason, FreezeMs: in.FreezeMs})
		if err == nil && !allows(in, p.Consistency) {
			return p, false, t.Drop(steady(ctx), in.ID, nil)
		}
		return p, err == nil, err
	}
	domain, err := t.hv.Domain(ctx, in.VM.UUID)
	gone := errors.Is(err, hypervisor.ErrNoVM)
	if err != nil && !gone {
		return PointRecord{}, false, hypervisorError(err, "it cannot be told whether %s was switched", in.VM.Name)
	}
	if in.Stage == record.StagePrepared {
		return t.abandon(ctx, in, &domain)
	}
	on, off := switchedDisks(in, &domain)
	switch {
	case gone:
		// Nobody writes to either file any more, and the overlays may hold the
		// last that the guest wrote: keep all, as a point.
		return t.completeCrashed(ctx, in, "the VM was gone afterwards")
	case len(on) == 0:
		return t.abandon(ctx, in, &domain)
	case len(off) == 0:
		return t.completeCrashed(ctx, in, "backstay was interrupted at the snapshot and cannot tell whether the guest's file systems were frozen")
	}
	return PointRecord{}, false, backstay.Errorf(backstay.CodeSnapshotFailed, "%s was switched by half", in.VM.Name).
		Becausef("disks on their overlay: %s; not on it: %s", strings.Join(on, ", "), strings.Join(off, ", ")).
		Do("look at the VM's disks with `virsh domblklist`; backstay leaves all files as they are")
}

// completeCrashed records a point of which nobody saw the switch return.
func (t *Tier) completeCrashed(ctx context.Context, in *intent, why string) (PointRecord, bool, error) {
	reason := in.Reason // the guest could not be frozen for this reason
	if reason == "" && !in.Quiesce {
		reason = crashReason(in.Wish, in.Shape)
	}
	if reason == "" {
		reason = why
	}
	return t.completeAllowed(ctx, in, quiesce.Outcome{Consistency: backstay.CrashConsistent, Reason: reason})
}

// completeAllowed records a point, and drops it if it is weaker than it may be.
func (t *Tier) completeAllowed(ctx context.Context, in *intent, o quiesce.Outcome) (PointRecord, bool, error) {
	ctx = steady(ctx)
	p, err := t.complete(ctx, in, o)
	if err == nil && !allows(in, p.Consistency) {
		t.log.Warn("a point was weaker than it may be, and is dropped", "point", p.ID, "consistency", p.Consistency, "reason", p.Reason)
		return PointRecord{}, false, t.Drop(ctx, p.ID, nil)
	}
	return p, err == nil, err
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

// switchedDisks tells which disks of the intent use their overlay. A disk that
// has further layers on top of it does.
func switchedDisks(in *intent, domain *hypervisor.Domain) (on, off []string) {
	for _, d := range in.Disks {
		if uses(domain, d.Overlay) {
			on = append(on, string(d.Target))
		} else {
			off = append(off, string(d.Target))
		}
	}
	return on, off
}

// uses tells whether a file is in any of the VM's chains, or is its active file.
func uses(domain *hypervisor.Domain, path string) bool {
	for _, chain := range domain.Chains {
		for _, file := range chain {
			if file == path {
				return true
			}
		}
	}
	for _, d := range domain.VM.Disks {
		if d.Source == path {
			return true
		}
	}
	return false
}

// abandon removes what an intent made, after seeing that the VM does not use it.
func (t *Tier) abandon(ctx context.Context, in *intent, domain *hypervisor.Domain) (PointRecord, bool, error) {
	for _, d := range in.Disks {
		if uses(domain, d.Overlay) {
			return PointRecord{}, false, backstay.Errorf(backstay.CodeSnapshotFailed, "%s uses %s already", in.VM.Name, d.Overlay).
				Do("look at the VM's disks with `virsh domblklist`; backstay leaves all files as they are")
		}
		if in.Stage == record.StagePrepared {
			continue
		}
		if err := t.untouched(ctx, in, d); err != nil {
			return PointRecord{}, false, err
		}
	}
	return PointRecord{}, false, t.discard(in)
}

// untouched sees that nobody has an overlay open and that nothing was ever
// written to it. A hypervisor daemon that died between the switch and its own
// note of it names the old files, while the guest writes to the new ones.
func (t *Tier) untouched(ctx context.Context, in *intent, d intentDisk) error {
	overlay := d.Overlay
	held, err := t.images.Allocated(ctx, hypervisor.Image{Location: overlay, Format: "qcow2", Secret: d.Secret})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(held) == 0 {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%d bytes were written to %s", backstay.TotalLength(held), overlay)
	}
	return backstay.Errorf(backstay.CodeSnapshotFailed, "the hypervisor does not name a new layer of %s, and the layer is not unused", in.VM.Name).
		Because(err).Do("compare `virsh domblklist` with the files that QEMU has open; backstay leaves all files as they are")
}

// discard removes the overlays of an intent that nobody uses, the records of
// layers that only it needed, and the intent last.
func (t *Tier) discard(in *intent) error {
	return t.change(func(b *book) error {
		for _, d := range in.Disks {
			if err := record.RemoveFile(d.Overlay); err != nil {
				return err
			}
			l := b.Layers[d.Layer]
			if l != nil && b.idle(l) {
				if err := b.RemoveLayer(l); err != nil {
					return err
				}
			}
		}
		return record.RemoveFile(in.Path)
	})
}
