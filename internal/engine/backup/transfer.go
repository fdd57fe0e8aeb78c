package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// decideTransfer decides whether the point goes on to its vault: not if only a
// snapshot was asked for, and not while an earlier backup of the VM still
// transfers. That is decided while the VM is this job's, so that of two jobs
// never both leave it to the other. What is skipped is not made up for by this
// job: the next transfer starts from the newest point in the vault, and so
// carries it.
func (b *backupRun) decideTransfer(ctx context.Context, m *member) error {
	m.Skip = ""
	if b.params.Tier == backstay.SnapshotTier {
		m.Skip = "only the snapshot tier was asked for"
		return nil
	}
	recs, err := b.Catalog.Jobs.ListJobs(ctx, 0, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, rec := range recs {
		if rec.Kind == backstay.JobBackup && rec.VMsFree && rec.ID != b.run.Job().ID && slices.Contains(rec.VMs, m.VM) {
			m.Skip = fmt.Sprintf("job %s still transfers an earlier point of the VM; the next transfer carries what changed", rec.ID)
			return nil
		}
	}
	return nil
}

// toTransfer returns the members whose points are still to be carried.
func (b *backupRun) toTransfer() []*member {
	var todo []*member
	for _, m := range b.state.Members {
		if m.Skip == "" && !m.InVault {
			todo = append(todo, m)
		}
	}
	return todo
}

// transferTasks are the steps behind the snapshot.
var transferTasks = []string{"transfer", "validate"}

// nothingLeft ends a job of which nothing is to be carried: either an earlier
// life did, or it is skipped, with the reason.
func (b *backupRun) nothingLeft(ctx context.Context) error {
	skip := ""
	for _, m := range b.state.Members {
		if m.InVault {
			skip = ""
			break
		}
		skip = m.Skip
	}
	for _, name := range transferTasks {
		var err error
		if skip != "" {
			err = b.run.Skip(name, skip)
		} else {
			err = b.run.Step(ctx, name, func(context.Context) error { return nil })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// transfers carries the points to their vaults, one after another. A failure of
// one does not keep the others back.
func (b *backupRun) transfers(ctx context.Context, todo []*member) error {
	failures := make([]error, len(todo))
	call := func(ctx context.Context, progress mover.Progress) (mover.Transferred, error) {
		var before, most int64 // bytes of the members before this one, and with it
		for i, m := range todo {
			last := i == len(todo)-1
			each := func(r mover.Report) {
				if !last {
					r.Phase = "transfer" // of the job, which validates at its end
				}
				r.Done, r.Total = r.Done+before, r.Total+before
				progress(r)
				b.noteOf(r)
				m.keepPack(b, r)
				most = max(most, r.Total)
			}
			failures[i] = b.transfer(ctx, m, each)
			before = most
			if failures[i] != nil && ctx.Err() != nil {
				return mover.Transferred{}, failures[i]
			}
		}
		return mover.Transferred{}, errors.Join(failures...)
	}
	_, err := mover.Phases(ctx, b.run, transferTasks, call, nil)
	if err == nil || errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return err
	}
	var ended error
	for i, m := range todo {
		if m.InVault {
			continue
		}
		failure := failures[i]
		if failure == nil {
			failure = err
		}
		ended = errors.Join(ended, b.endTransfer(ctx, m, failure))
	}
	return ended
}

// transfer carries one point to its vault. Where a storage unit is lost meanwhile it
// goes on behind the packs that are durable, into the units that are left.
func (b *backupRun) transfer(ctx context.Context, m *member, progress mover.Progress) error {
	access, t, err := intoVault(ctx, b, m, func(access mover.VaultAccess) (mover.Transferred, error) {
		return b.carry(ctx, m, access, progress)
	})
	if err != nil {
		return err
	}
	if err := b.tell(m, t); err != nil {
		return err
	}
	if err := b.recordVault(context.WithoutCancel(ctx), m, t); err != nil {
		return err
	}
	return b.tellShort(m, access)
}

// intoVault writes into the vault of a member. As long as a write fails and a unit
// turns out to be lost, which is in the catalogue before anything else is written,
// it is tried again with the rest: each time there is one unit less.
func intoVault[T any](ctx context.Context, b *backupRun, m *member, write func(mover.VaultAccess) (T, error)) (mover.VaultAccess, T, error) {
	for {
		var none T
		access, err := b.Vault(ctx, m.item.Vault)
		if err != nil {
			return access, none, err
		}
		done, err := write(access)
		if err == nil || b.Lost == nil || ctx.Err() != nil {
			return access, done, err
		}
		lost, lookErr := b.Lost(ctx, m.item.Vault)
		if len(lost) == 0 || lookErr != nil {
			return access, done, err // lookErr says nothing that the failed write does not
		}
		for _, what := range lost {
			if err := b.run.Note("transfer", what); err != nil {
				return access, done, err
			}
		}
	}
}

// carry is one attempt at a transfer.
func (b *backupRun) carry(ctx context.Context, m *member, access mover.VaultAccess, progress mover.Progress) (mover.Transferred, error) {
	var none mover.Transferred
	point, err := b.Catalog.Points.Point(ctx, m.Point)
	if err != nil {
		return none, fmt.Errorf("read point %s: %w", m.Point, err)
	}
	parent, err := b.newestInVault(ctx, point)
	if err != nil {
		return none, err
	}
	health, err := b.Catalog.Health.VaultHealth(ctx, m.item.Vault)
	if err != nil {
		return none, err
	}
	return m.mover.Transfer(ctx, mover.TransferRequest{
		Avoid: health.LostPacks(),
		Job:   b.run.Job().ID, Point: point.ID, Vault: access, Parent: parent,
		Packs: m.Packs, Expires: point.Expires, Policy: m.item.Policy, Host: point.VM.Host,
		LeftOut: m.Plan.leftOut(), Group: point.Group, Guest: m.policy.Guest,
	}, progress)
}

// tellShort says of how many copies a new point is short, and why (I2).
func (b *backupRun) tellShort(m *member, access mover.VaultAccess) error {
	short := len(access.Behind) + len(access.Joining)
	if short == 0 {
		return nil
	}
	var why []string
	if len(access.Behind) > 0 {
		why = append(why, strings.Join(access.Behind, ", ")+" is recorded as lost")
	}
	if len(access.Joining) > 0 {
		why = append(why, strings.Join(access.Joining, ", ")+" is being filled")
	}
	return b.run.Warn(fmt.Sprintf("%s: the point is short of %d of the copies of vault %s: %s; what is missing is copied there when the storage unit is back",
		m.label(), short, m.item.Vault, strings.Join(why, "; ")))
}

// tell says how the transfer found what had changed.
func (b *backupRun) tell(m *member, t mover.Transferred) error {
	for _, warning := range t.Warnings {
		if err := b.run.Warn(m.label() + ": " + warning); err != nil {
			return err
		}
	}
	if t.Sampled == 0 {
		return nil
	}
	return b.run.Note("transfer", fmt.Sprintf("%d bytes of unchanged pieces were compared with the point before", t.Sampled))
}

// keepPack remembers a durable pack, so that a broken transfer goes on behind it.
func (m *member) keepPack(b *backupRun, r mover.Report) {
	if r.Pack == "" {
		return
	}
	m.Packs = append(m.Packs, r.Pack)
	// A pack that is not remembered is only written again; nothing is lost.
	_ = b.run.Save(b.state)
}

// noteOf shows in the job what holds the transfer up, when that changes.
func (b *backupRun) noteOf(r mover.Report) {
	if r.Note == b.note {
		return
	}
	b.note = r.Note
	// A note that is not shown holds nothing up.
	_ = b.run.Note("transfer", r.Note)
}

// newestInVault returns the newest point that the vault has of the VM, from
// before the point that is to be carried.
func (b *backupRun) newestInVault(ctx context.Context, of backstay.RecoveryPoint) (backstay.PointID, error) {
	points, err := b.Catalog.Points.ListPoints(ctx, of.VM.UUID)
	if err != nil {
		return "", fmt.Errorf("list points: %w", err)
	}
	var newest backstay.PointID
	for _, p := range points {
		if p.ID != of.ID && !p.Time.After(of.Time) && p.Vault == of.Vault && p.Has(backstay.VaultTier) {
			newest = p.ID
		}
	}
	return newest, nil
}

func (b *backupRun) recordVault(ctx context.Context, m *member, t mover.Transferred) error {
	if err := b.Saw(ctx, m.item.Vault, t.Head); err != nil {
		return err
	}
	err := b.Catalog.Points.ChangePoint(ctx, m.Point, func(p *backstay.RecoveryPoint) error {
		p.SetTier(backstay.VaultTier, backstay.TierAvailable, b.Now())
		for i := range p.Disks {
			for _, d := range t.Disks {
				if d.Target == p.Disks[i].Target {
					p.Disks[i].ChangedBytes, p.Disks[i].StoredBytes, p.Disks[i].DataBytes = d.ChangedBytes, d.StoredBytes, d.DataBytes
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record point %s in the vault tier: %w", m.Point, err)
	}
	m.InVault = true
	if err := b.run.Save(b.state); err != nil {
		return err
	}
	return b.run.Update(func(j *backstay.Job) {
		j.Stats.BytesRead += t.Stats.BytesRead
		j.Stats.BytesDirty += t.Stats.BytesDirty
		j.Stats.BytesNew += t.Stats.BytesNew
		j.Stats.ChunksNew += t.Stats.ChunksNew
		j.Stats.Requests += t.Stats.Requests
		for i := range j.Result.Backups {
			if j.Result.Backups[i].VM.UUID == m.VM {
				j.Result.Backups[i].Modes = t.Modes
			}
		}
	})
}

// endTransfer ends the transfer of a point whose snapshot tier stands. A transfer
// that failed makes the job end with a warning (requirements A5): the point stays
// restorable where it is, and is never offered from the vault.
func (b *backupRun) endTransfer(ctx context.Context, m *member, failure error) error {
	if failure == nil || errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return failure
	}
	clean := context.WithoutCancel(ctx)
	err := b.Catalog.Points.ChangePoint(clean, m.Point, func(p *backstay.RecoveryPoint) error {
		if !p.Has(backstay.VaultTier) {
			p.DropTier(backstay.VaultTier)
		}
		return nil
	})
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("take the vault tier off point %s: %w", m.Point, err)
	}
	if errors.Is(context.Cause(ctx), backstay.ErrCancelled) {
		return failure
	}
	coded, what := transferError(failure), "the point"
	if b.params.Group != "" {
		what = "the point of " + m.label()
	}
	return b.run.Warn(fmt.Sprintf("%s; %s is kept in the snapshot tier and is not offered from the vault; %s", coded.Error(), what, coded.Action))
}

func transferError(err error) *backstay.Error {
	var coded *backstay.Error
	if errors.As(err, &coded) {
		return coded
	}
	return backstay.Errorf(backstay.CodeTransferFailed, "the transfer to the vault broke").Because(err)
}
