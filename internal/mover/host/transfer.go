package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot"
	"github.com/backstay/backstay/internal/tier/tripwire"
	"github.com/backstay/backstay/internal/tier/vault"
)

// Transfer reads what changed of a snapshot-tier point, stores it in a vault,
// validates what was stored and only then commits the point (I2).
func (h *Host) Transfer(ctx context.Context, r mover.TransferRequest, progress mover.Progress) (mover.Transferred, error) {
	done, err := h.transfer(ctx, r, oneAtATime(progress))
	if err != nil {
		return mover.Transferred{}, transferError(ctx, r.Point, r.Vault.Name, err)
	}
	return done, nil
}

func (h *Host) transfer(ctx context.Context, r mover.TransferRequest, progress mover.Progress) (done mover.Transferred, err error) {
	point, err := h.openPoint(ctx, r.Point)
	if err != nil {
		return done, err
	}
	v, err := h.openVaultToWrite(ctx, r.Vault)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	h.pacer.keep(point.Record.VM.UUID, r.Guest.LatencyLimit)
	paced, governor, progress := h.pacer.reading(ctx, point.Record.VM.UUID, time.Duration(r.Guest.LatencyLimit), progress)
	defer governor.Close()
	w, err := v.Begin(ctx, vault.WriteOptions{
		Gentle: true,
		Point:  r.Point, Parent: r.Parent, Packs: r.Packs, Avoid: r.Avoid, Now: h.now,
		OnPack:   func(id string) { progress(mover.Report{Pack: id}) },
		Progress: func(phase string, n, total int64) { progress(mover.Report{Phase: phase, Done: n, Total: total}) },
	})
	if backstay.IsCode(err, backstay.CodeExists) {
		return h.transferredBefore(ctx, v, point)
	}
	if err != nil {
		return done, fmt.Errorf("begin transfer: %w", err)
	}
	defer w.Abort() // does nothing after a commit
	t := transferring{Host: h, request: r, point: point, writer: w, governor: governor, pieces: sampled(len(point.Disks))}
	t.done.Modes = map[backstay.DiskTarget]string{}
	for _, d := range point.Disks {
		if err := t.disk(paced, d); err != nil {
			return done, givenUp(governor, err)
		}
	}
	governor.Close() // what follows does not touch the guest's disks
	// What was read is the point only if nobody wrote to its layers meanwhile.
	if _, err := h.openPoint(ctx, r.Point); err != nil {
		return done, err
	}
	facts := factsOf(&point.Record, r)
	facts.Disks = t.disks(facts.Disks)
	committed, err := w.Commit(ctx, facts, point.Definition)
	if err != nil {
		return done, fmt.Errorf("commit point: %w", err)
	}
	t.done.Head = committed.Head
	h.noteVaulted(ctx, r.Point)
	t.done.Disks, t.done.Stats.Requests = facts.Disks, v.Requests()
	return t.done, nil
}

// openVaultToWrite opens a vault with an index that is kept from one transfer to
// the next, so that each reads only what is new of the vault's.
func (h *Host) openVaultToWrite(ctx context.Context, a mover.VaultAccess) (*vault.Vault, error) {
	if _, err := uuid.Parse(a.ID); err != nil {
		return nil, fmt.Errorf("vault id %q is not a UUID: %w", a.ID, err)
	}
	dir := filepath.Join(h.state, "indexes")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of local indexes: %w", err)
	}
	v, err := h.openVault(ctx, a, vault.IndexDir(filepath.Join(dir, a.ID)))
	if err == nil && v.LocalIndex() != nil {
		h.log.Warn("the local index of a vault is kept in memory", "vault", a.ID, "error", v.LocalIndex())
	}
	return v, err
}

// transferredBefore answers for a transfer that was committed and whose answer
// was lost: a manifest is put only after everything else was proved (I2).
func (h *Host) transferredBefore(ctx context.Context, v *vault.Vault, point *snapshot.Point) (done mover.Transferred, err error) {
	there, err := v.OpenPoint(ctx, point.Record.ID)
	if err != nil {
		return done, err
	}
	facts := there.Facts()
	if facts.VM.UUID != point.Record.VM.UUID {
		return done, fmt.Errorf("the vault's point %s is of VM %s, and this one of %s", facts.ID, facts.VM.UUID, point.Record.VM.UUID)
	}
	if done.Head, err = v.Head(ctx); err != nil {
		return done, err
	}
	done.Disks = facts.Disks
	done.Modes = map[backstay.DiskTarget]string{}
	for _, d := range facts.Disks {
		if d.Included {
			done.Modes[d.Target] = "committed by an earlier attempt"
		}
	}
	h.noteVaulted(ctx, point.Record.ID)
	return done, nil
}

// noteVaulted notes beside a point's disks that its vault has it. If that cannot
// be written the next change map may have to be done without; the point is stored.
func (h *Host) noteVaulted(ctx context.Context, p backstay.PointID) {
	if err := h.tier.Vaulted(ctx, p); err != nil {
		h.log.Warn("a point in its vault could not be marked beside its disks", "point", p, "error", err)
	}
}

// transferring is one transfer under way.
type transferring struct {
	*Host
	request  mover.TransferRequest
	point    *snapshot.Point
	writer   *vault.Writer
	governor *pace.Governor
	pieces   int // of each disk that are looked at again
	done     mover.Transferred
	written  map[backstay.DiskTarget]vault.DiskStats
}

// disk carries one disk. The layer is kept from being merged meanwhile.
func (t *transferring) disk(ctx context.Context, d snapshot.PointLayers) (err error) {
	opened, err := t.point.OpenDisk(ctx, d.Target, t.request.Job)
	if err != nil {
		return err
	}
	image := pacedImage{opened, ctx, t.governor}
	defer func() { err = errors.Join(err, image.Close()) }()
	changed, ok, reason, err := t.tier.Changes(ctx, t.request.Point, t.request.Parent, d.Target)
	if err != nil {
		return err
	}
	if ok {
		if reason, err = t.distrust(ctx, d.Target, image, changed); err != nil {
			return err
		}
		ok = reason == ""
	}
	stats, err := t.writer.WriteDisk(ctx, vault.DiskSource{
		Target: d.Target, Format: t.point.FormatOf(d.Target), Image: image, Changed: changed, HasMap: ok,
	})
	if err != nil {
		return fmt.Errorf("store disk %s: %w", d.Target, err)
	}
	t.count(d.Target, stats, backstay.TotalLength(changed), ok)
	t.done.Modes[d.Target] = stats.Mode
	if !ok && t.request.Parent != "" {
		t.done.Modes[d.Target] = "full compare: " + reason
	}
	return nil
}

// distrust looks whether the disk is unchanged where its map says so, and returns
// why the map is not to be trusted if it is not (I7). That is worth a warning: what
// came before this point may have been missed too.
func (t *transferring) distrust(ctx context.Context, target backstay.DiskTarget, image tier.Image, changed []backstay.Range) (reason string, err error) {
	sample, err := lookAgain(ctx, t.writer.Parent(), target, image, tripwire.Options{Changed: changed, Pieces: t.pieces})
	t.done.Sampled += sample.Bytes
	t.done.Stats.BytesRead += sample.Bytes
	if err != nil || sample.Differs == nil {
		return "", err
	}
	reason = fmt.Sprintf("%d bytes at %d are not what point %s has, and the change map says that they are",
		sample.Differs.Length, sample.Differs.Offset, t.request.Parent)
	t.done.Warnings = append(t.done.Warnings, fmt.Sprintf(
		"the change map of disk %s lied: %s; everything was compared, and the point is complete; somebody else may write to the disk's layers", target, reason))
	t.log.Warn("a change map lied", "vm", t.point.Record.VM.UUID, "point", t.request.Point, "parent", t.request.Parent,
		"disk", target, "offset", sample.Differs.Offset, "length", sample.Differs.Length)
	return reason, nil
}

// sampled is how many pieces of each disk are looked at.
func sampled(disks int) int { return max(1, samplePieces/max(disks, 1)) }

// samplePieces is how many pieces of all disks are looked at. Tests look at more.
var samplePieces = tripwire.RunPieces

// lookAgain compares unchanged pieces of a disk with what a point in a vault has
// there. Without such a point, or such a disk of this size, there is nothing to
// compare with; the vault does not use the map then.
func lookAgain(ctx context.Context, parent *vault.Point, target backstay.DiskTarget, image tier.Image, o tripwire.Options) (tripwire.Result, error) {
	if parent == nil {
		return tripwire.Result{}, nil
	}
	old, err := parent.Disk(ctx, target)
	if err != nil {
		return tripwire.Result{}, nil //nolint:nilerr // it has no such disk
	}
	defer old.Close()
	if old.Size() != image.Size() {
		return tripwire.Result{}, nil
	}
	return tripwire.Check(ctx, image, old, o)
}

func (t *transferring) count(target backstay.DiskTarget, s vault.DiskStats, mapped int64, hasMap bool) {
	if t.written == nil {
		t.written = map[backstay.DiskTarget]vault.DiskStats{}
	}
	t.written[target] = s
	dirty := s.BytesChanged
	if hasMap {
		dirty = mapped
	}
	t.done.Stats.BytesRead += s.BytesRead
	t.done.Stats.BytesDirty += dirty
	t.done.Stats.BytesNew += s.BytesNew
	t.done.Stats.ChunksNew += s.ChunksNew
}

// disks adds what writing them cost to the disks of a point.
func (t *transferring) disks(disks []backstay.PointDisk) []backstay.PointDisk {
	for i, d := range disks {
		if s, ok := t.written[d.Target]; ok {
			disks[i].ChangedBytes, disks[i].StoredBytes, disks[i].DataBytes = s.BytesChanged, s.BytesNew, min(s.DataBytes, d.Size)
		}
	}
	return disks
}

// factsOf is the point as the vault's manifest tells it: complete in itself,
// in the vault tier (I3).
func factsOf(p *snapshot.PointRecord, r mover.TransferRequest) backstay.RecoveryPoint {
	facts := backstay.RecoveryPoint{
		ID: p.ID, VM: p.VM, Vault: r.Vault.Name, Time: p.Time, Job: p.Job,
		Consistency: p.Consistency, ConsistencyReason: p.Reason, Expires: r.Expires,
		Tiers:    []backstay.PointTier{{Tier: backstay.VaultTier, State: backstay.TierAvailable, Since: p.Time}},
		Parent:   r.Parent,
		Firmware: p.Shape.Firmware, TPM: p.Shape.TPM, Shape: p.Shape,
	}
	if r.Host != "" {
		facts.VM.Host = r.Host
	}
	for _, d := range p.Disks {
		facts.Disks = append(facts.Disks, d.PointDisk)
	}
	facts.Encrypted = backstay.EncryptionOf(p.Shape, facts.Disks, p.Secrets)
	facts.Disks, facts.Group = append(facts.Disks, r.LeftOut...), r.Group
	return facts
}

// transferError gives an error of a transfer its code, unless it has one.
func transferError(ctx context.Context, p backstay.PointID, v backstay.VaultName, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("transfer point %s: %w", p, errors.Join(context.Cause(ctx), err))
	}
	var coded *backstay.Error
	if errors.As(err, &coded) {
		return err
	}
	return backstay.Errorf(vaultCode(err, backstay.CodeTransferFailed), "point %s could not be stored in vault %s", p, v).Because(err)
}

// vaultCode is the code for what a storage unit answered, or other.
func vaultCode(err error, other backstay.Code) backstay.Code {
	switch {
	case errors.Is(err, blob.ErrFull):
		return backstay.CodeVaultFull
	case errors.Is(err, blob.ErrReadOnly):
		return backstay.CodeVaultReadOnly
	case errors.Is(err, blob.ErrAway):
		return backstay.CodeVaultAway
	}
	return other
}

// oneAtATime keeps the promise that calls of progress never overlap. A report
// that only names a pack gets the figures of the one before it.
func oneAtATime(progress mover.Progress) mover.Progress {
	if progress == nil {
		return func(mover.Report) {}
	}
	var mu sync.Mutex
	var last mover.Report // guarded by mu
	return func(r mover.Report) {
		mu.Lock()
		defer mu.Unlock()
		if r.Phase == "" {
			r.Phase, r.Done, r.Total = last.Phase, last.Done, last.Total
		}
		last = r
		progress(r)
	}
}
