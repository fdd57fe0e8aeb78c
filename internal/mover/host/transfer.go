package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot"
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
	w, err := v.Begin(ctx, vault.WriteOptions{
		Point: r.Point, Parent: r.Parent, Packs: r.Packs, Avoid: r.Avoid, Now: h.now,
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
	t := transferring{Host: h, request: r, point: point, writer: w, data: map[backstay.DiskTarget]int64{}}
	t.done.Modes = map[backstay.DiskTarget]string{}
	for _, d := range point.Disks {
		if err := t.disk(ctx, d); err != nil {
			return done, err
		}
	}
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
	if err := h.tier.Vaulted(ctx, r.Point); err != nil {
		// The next change map may have to be done without; the point is stored.
		h.log.Warn("a point in its vault could not be marked beside its disks", "point", r.Point, "error", err)
	}
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
	return done, nil
}

// transferring is one transfer under way.
type transferring struct {
	*Host
	request mover.TransferRequest
	point   *snapshot.Point
	writer  *vault.Writer
	done    mover.Transferred
	written map[backstay.DiskTarget]vault.DiskStats
	data    map[backstay.DiskTarget]int64
}

// dataBytes adds up what of an image is not known to be zero: what a restore
// will have to write. It asks a GiB at a time, so that the answers stay small.
func dataBytes(image tier.Image) (int64, error) {
	var total int64
	for at := int64(0); at < image.Size(); at += 1 << 30 {
		extents, err := image.Extents(at, min(1<<30, image.Size()-at))
		if err != nil {
			return 0, err
		}
		for _, e := range extents {
			if !e.Zero {
				total += e.Length
			}
		}
	}
	return total, nil
}

// disk carries one disk. The layer is kept from being merged meanwhile.
func (t *transferring) disk(ctx context.Context, d snapshot.PointLayers) (err error) {
	image, err := t.point.OpenDisk(ctx, d.Target, t.request.Job)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	changed, ok, reason, err := t.tier.Changes(ctx, t.request.Point, t.request.Parent, d.Target)
	if err != nil {
		return err
	}
	stats, err := t.writer.WriteDisk(ctx, vault.DiskSource{
		Target: d.Target, Format: t.point.FormatOf(d.Target), Image: image, Changed: changed, HasMap: ok,
	})
	if err != nil {
		return fmt.Errorf("store disk %s: %w", d.Target, err)
	}
	if t.data[d.Target], err = dataBytes(image); err != nil {
		return fmt.Errorf("measure disk %s: %w", d.Target, err)
	}
	t.count(d.Target, stats, backstay.TotalLength(changed), ok)
	t.done.Modes[d.Target] = stats.Mode
	if !ok && t.request.Parent != "" {
		t.done.Modes[d.Target] = "full compare: " + reason
	}
	return nil
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
			disks[i].ChangedBytes, disks[i].StoredBytes, disks[i].DataBytes = s.BytesChanged, s.BytesNew, t.data[d.Target]
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
