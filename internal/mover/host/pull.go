package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/pull"
	"github.com/backstay/backstay/internal/tier/snapshot"
	"github.com/backstay/backstay/internal/tier/tripwire"
	"github.com/backstay/backstay/internal/tier/vault"
)

// pullKey is the lock of a VM's pulls, which are long: other calls that change
// the VM wait for the instant only.
func pullKey(vm backstay.VMID) string { return "pull/" + string(vm) }

// Pull reads the disks of a VM as they are at one instant straight into a vault.
func (h *Host) Pull(ctx context.Context, r mover.PullRequest, progress mover.Progress) (mover.Pulled, error) {
	unlock, err := h.vms.lock(ctx, pullKey(r.VM))
	if err != nil {
		return mover.Pulled{}, err
	}
	defer unlock()
	done, err := h.pull(ctx, r, oneAtATime(progress))
	if err != nil {
		return mover.Pulled{}, transferError(ctx, r.Point, r.Vault.Name, err)
	}
	return done, nil
}

// pulling is one pull under way.
type pulling struct {
	*Host
	request mover.PullRequest
	session *pull.Session
	carried transferring // what is written
	secrets []tier.Secret
	notes   []string
}

func (h *Host) pull(ctx context.Context, r mover.PullRequest, progress mover.Progress) (done mover.Pulled, err error) {
	progress(mover.Report{Phase: "prepare"})
	v, err := h.openVaultToWrite(ctx, r.Vault)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	h.pacer.keep(r.VM, r.Guest.LatencyLimit)
	paced, governor, progress := h.pacer.reading(ctx, r.VM, time.Duration(r.Guest.LatencyLimit), progress)
	defer governor.Close()
	w, err := v.Begin(ctx, vault.WriteOptions{
		Gentle: true,
		Point:  r.Point, Parent: r.Parent, Packs: r.Packs, Avoid: r.Avoid, Now: h.now,
		OnPack:   func(id string) { progress(mover.Report{Pack: id}) },
		Progress: func(phase string, n, total int64) { progress(mover.Report{Phase: phase, Done: n, Total: total}) },
	})
	if backstay.IsCode(err, backstay.CodeExists) {
		return h.pulledBefore(ctx, v, r)
	}
	if err != nil {
		return done, fmt.Errorf("begin transfer: %w", err)
	}
	defer w.Abort() // does nothing after a commit
	p := pulling{Host: h, request: r}
	p.carried = transferring{Host: h, request: p.transferRequest(), writer: w, governor: governor, pieces: sampled(len(r.Disks))}
	p.carried.done.Modes = map[backstay.DiskTarget]string{}
	if err := p.begin(ctx, progress); err != nil {
		return done, err
	}
	stored := false
	defer func() {
		// The point is in the vault, or is not: what is left here is mended by the
		// next backup or start, and said.
		if closeErr := p.session.Close(ctx, stored); closeErr != nil {
			h.log.Warn("what a backup used beside the disks could not be removed yet", "vm", r.VM, "error", closeErr)
		}
	}()
	for _, d := range p.session.Disks {
		if err := p.disk(paced, d); err != nil {
			return done, givenUp(governor, err)
		}
	}
	governor.Close() // what follows does not touch the guest's disks
	if done, err = p.commit(ctx, v); err == nil {
		stored = true
	}
	return done, err
}

// begin opens the session. Nothing else changes the VM around the instant.
func (p *pulling) begin(ctx context.Context, progress mover.Progress) error {
	unlock, err := p.vms.lock(ctx, string(p.request.VM))
	if err != nil {
		return err
	}
	defer unlock()
	secrets, warnings, err := p.secretsOf(ctx, p.request.VM, p.request.Disks, p.request.Keys)
	if err != nil {
		return err
	}
	p.secrets, p.notes = secrets, append(p.notes, warnings...)
	p.session, err = p.pulls.Begin(ctx, pull.Request{
		Job: p.request.Job, Point: p.request.Point, VM: p.request.VM, Disks: p.request.Disks,
		Vault: p.request.Vault.ID, Parent: p.request.Parent,
		Wish: p.request.Consistency, Fallback: p.request.Fallback, Guest: p.request.Guest,
		OnInstant: func() { progress(mover.Report{Phase: "snapshot"}) },
	})
	if err == nil {
		p.notes = append(p.notes, p.session.Outcome.Notes...)
	}
	return err
}

// commit stores the point once everything was read.
func (p *pulling) commit(ctx context.Context, v *vault.Vault) (done mover.Pulled, err error) {
	definition, err := snapshot.Capture(&p.session.Domain)
	if err != nil {
		return done, err
	}
	definition.Secrets = p.secrets
	record := p.record()
	record.Secrets = definition.References()
	facts := factsOf(&record, p.carried.request)
	facts.Disks = p.carried.disks(facts.Disks)
	committed, err := p.carried.writer.Commit(ctx, facts, definition)
	if err != nil {
		return done, fmt.Errorf("commit point: %w", err)
	}
	done = mover.Pulled{Taken: takenOf(&record), Transferred: p.carried.done, Notes: p.notes}
	done.Transferred.Head = committed.Head
	done.Transferred.Disks, done.Transferred.Stats.Requests = facts.Disks, v.Requests()
	return done, nil
}

// disk carries one disk. A change map that a sample proves wrong is not used (I7).
func (p *pulling) disk(ctx context.Context, d *pull.Disk) error {
	image := pacedImage{d.Image, ctx, p.carried.governor}
	if d.HasMap {
		sample, err := lookAgain(ctx, p.carried.writer.Parent(), d.Target, image, tripwire.Options{Changed: d.Changed, Pieces: p.carried.pieces})
		p.carried.done.Sampled += sample.Bytes
		p.carried.done.Stats.BytesRead += sample.Bytes
		if err != nil {
			return err
		}
		if sample.Differs != nil {
			d.HasMap, d.Lost = false, true
			d.Reason = fmt.Sprintf("%d bytes at %d are not what point %s has, and the dirty bitmap does not name them",
				sample.Differs.Length, sample.Differs.Offset, p.request.Parent)
		}
	}
	if d.Lost {
		p.notes = append(p.notes, backstay.Errorf(backstay.CodeCheckpointLost,
			"disk %s was compared as a whole: %s", d.Target, d.Reason).Error())
	}
	source := vault.DiskSource{Target: d.Target, Format: d.Format, Image: image, Changed: d.Changed, HasMap: d.HasMap}
	stats, err := p.carried.writer.WriteDisk(ctx, source)
	if err != nil {
		return fmt.Errorf("store disk %s: %w", d.Target, err)
	}
	p.carried.count(d.Target, stats, backstay.TotalLength(d.Changed), d.HasMap)
	switch {
	case d.HasMap && stats.Mode == "changed layers":
		p.carried.done.Modes[d.Target] = "dirty bitmap"
	case !d.HasMap && p.request.Parent != "":
		p.carried.done.Modes[d.Target] = "full compare: " + d.Reason
	default:
		p.carried.done.Modes[d.Target] = stats.Mode
	}
	return nil
}

// record is the point as a snapshot-tier point would be recorded; it never is.
func (p *pulling) record() snapshot.PointRecord {
	shape := p.session.Domain.VM
	shape.Host = p.name
	r := snapshot.PointRecord{
		ID: p.request.Point, Job: p.request.Job, Time: p.request.Time, VM: shape.Ref(), Shape: shape,
		Consistency: p.session.Outcome.Consistency, Reason: p.session.Outcome.Reason, FreezeMs: p.session.Outcome.FreezeMs,
		Parent: p.request.Parent,
	}
	for _, d := range p.session.Disks {
		r.Disks = append(r.Disks, snapshot.RecordDisk{PointDisk: backstay.PointDisk{
			Target: d.Target, Size: d.Size, Format: d.Format, Included: true,
		}})
	}
	return r
}

func (p *pulling) transferRequest() mover.TransferRequest {
	r := p.request
	return mover.TransferRequest{
		Job: r.Job, Point: r.Point, Vault: r.Vault, Parent: r.Parent, Expires: r.Expires,
		Policy: r.Policy, Host: r.Host, LeftOut: r.LeftOut, Guest: r.Guest,
	}
}

// pulledBefore answers for a pull that was committed and whose answer was lost.
func (h *Host) pulledBefore(ctx context.Context, v *vault.Vault, r mover.PullRequest) (done mover.Pulled, err error) {
	there, err := v.OpenPoint(ctx, r.Point)
	if err != nil {
		return done, err
	}
	facts := there.Facts()
	if facts.VM.UUID != r.VM {
		return done, fmt.Errorf("the vault's point %s is of VM %s, and this one of %s", r.Point, facts.VM.UUID, r.VM)
	}
	if done.Transferred.Head, err = v.Head(ctx); err != nil {
		return done, err
	}
	done.Transferred.Disks, done.Transferred.Modes = facts.Disks, map[backstay.DiskTarget]string{}
	done.Taken = mover.Taken{
		Point: facts.ID, Time: facts.Time, Consistency: facts.Consistency, Reason: facts.ConsistencyReason,
		Shape: facts.Shape, Parent: facts.Parent,
	}
	for _, d := range facts.Disks {
		if d.Included {
			done.Taken.Disks = append(done.Taken.Disks, d)
			done.Transferred.Modes[d.Target] = "committed by an earlier attempt"
		}
	}
	if err := h.pulls.Settle(ctx, r.VM); err != nil {
		h.log.Warn("what a backup used beside the disks could not be removed yet", "vm", r.VM, "error", err)
	}
	return done, nil
}

// EndPulls forgets the checkpoints of a VM.
func (h *Host) EndPulls(ctx context.Context, vm backstay.VMID) error {
	unlock, err := h.vms.lock(ctx, pullKey(vm))
	if err != nil {
		return err
	}
	defer unlock()
	if err := h.pulls.Release(ctx, vm); err != nil {
		return h.hostError(err, "the checkpoints of VM %s could not be dropped", vm)
	}
	return nil
}
