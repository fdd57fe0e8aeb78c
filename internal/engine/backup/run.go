package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Tasks are the steps that a backup goes through.
var Tasks = []string{"plan", "prepare", "snapshot", "transfer", "validate"}

// Runner runs backup jobs.
type Runner struct {
	Catalog *catalog.Catalog
	// Mover returns the mover of a host.
	Mover func(backstay.HostName) (mover.Mover, error)
	// Vault returns what a mover needs to write a vault.
	Vault func(context.Context, backstay.VaultName) (mover.VaultAccess, error)
	// Saw remembers the head of a vault's chain with the new point in it.
	Saw func(context.Context, backstay.VaultName, backstay.VaultHead) error
	Now func() time.Time
	// NewPoint makes a point's id.
	NewPoint func() backstay.PointID
}

// state is what a later life of the job needs.
type state struct {
	Point backstay.PointID `json:"point"`
	Plan  Plan             `json:"plan"`
	// Packs are durable in the vault already.
	Packs []string `json:"packs,omitempty"`
}

// backupRun is one job in one of its lives.
type backupRun struct {
	*Runner
	run    backstay.Run
	params backstay.BackupParams
	item   backstay.ProtectedItem
	mover  mover.Mover
	state  state
}

// Run runs one backup job, or goes on with it after a crash.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.BackupParams) error {
	b := &backupRun{Runner: r, run: run, params: params}
	if _, err := run.Load(&b.state); err != nil {
		return fmt.Errorf("load the job's state: %w", err)
	}
	// What is read first is needed for undoing too, when ctx has ended already.
	if err := b.begin(context.WithoutCancel(ctx)); err != nil {
		return b.endSnapshot(ctx, err)
	}
	if err := b.snapshot(ctx); err != nil {
		return b.endSnapshot(ctx, err)
	}
	if params.Tier == backstay.SnapshotTier {
		return nil
	}
	return b.endTransfer(ctx, b.transfer(ctx))
}

// begin finds the protected item, the host of its VM and what is wished for. An
// earlier life's plan tells the host too, so that what it left is settled also
// when the VM was unprotected or has gone since.
func (b *backupRun) begin(ctx context.Context) (err error) {
	b.item = backstay.ProtectedItem{VM: b.state.Plan.VM, Vault: b.state.Plan.Vault}
	if b.state.Point != "" {
		if b.mover, err = b.Mover(b.item.VM.Host); err != nil {
			return err
		}
	}
	item, err := b.Catalog.Items.Item(ctx, b.params.VM)
	if err != nil {
		return backstay.Errorf(backstay.CodeNotProtected, "the VM is not protected").Because(err)
	}
	vm, err := b.Catalog.VMs.VM(ctx, b.params.VM)
	if err != nil {
		return backstay.Errorf(backstay.CodeUnknownVM, "no host has the VM %s any more", item.VM.Name).Because(err)
	}
	b.item = item
	if b.mover, err = b.Mover(vm.Host); err != nil {
		return err
	}
	if b.params.Consistency != "" {
		return nil
	}
	policy, err := b.Catalog.Policies.Policy(ctx, item.Policy)
	if err != nil {
		return fmt.Errorf("read policy %s: %w", item.Policy, err)
	}
	b.params.Consistency = policy.Consistency
	return nil
}

// snapshot plans, prepares and takes the snapshot-tier point.
func (b *backupRun) snapshot(ctx context.Context) error {
	if err := b.run.Step(ctx, "plan", b.plan); err != nil {
		return err
	}
	if err := b.run.Step(ctx, "prepare", b.prepare); err != nil {
		return err
	}
	return b.run.Step(ctx, "snapshot", b.take)
}

func (b *backupRun) plan(ctx context.Context) error {
	vms, err := b.mover.VMs(ctx)
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if vm.ID != b.params.VM {
			continue
		}
		vm.Host = b.item.VM.Host
		plan, err := NewPlan(vm, Wish{Item: b.item, Consistency: b.params.Consistency})
		if err != nil {
			return err
		}
		for _, warning := range plan.Warnings {
			if err := b.run.Warn(warning); err != nil {
				return err
			}
		}
		b.state.Plan, b.state.Point = plan, b.NewPoint()
		return b.run.Save(b.state)
	}
	return backstay.Errorf(backstay.CodeUnknownVM, "host %s has no VM %s any more", b.item.VM.Host, b.item.VM.Name)
}

// prepare makes the overlays. In a later life it first takes away what the
// earlier one left.
func (b *backupRun) prepare(ctx context.Context) error {
	if _, _, err := b.mover.Settle(ctx, b.params.VM, b.state.Point); err != nil {
		return err
	}
	_, err := b.mover.Prepare(ctx, mover.PrepareRequest{
		Job: b.run.Job().ID, Point: b.state.Point, VM: b.params.VM, Disks: b.state.Plan.Targets(),
	})
	return err
}

// take takes the snapshot and records it: beside the disk (by the mover), then
// in the catalogue. In a later life it first asks whether the snapshot was
// taken; if not, everything is prepared again.
func (b *backupRun) take(ctx context.Context) error {
	taken, found, err := b.settleOrTake(ctx)
	if err != nil {
		return err
	}
	if !found {
		return backstay.Errorf(backstay.CodeSnapshotFailed, "the snapshot of %s was lost", b.item.VM.Name)
	}
	return b.record(ctx, taken)
}

func (b *backupRun) settleOrTake(ctx context.Context) (mover.Taken, bool, error) {
	request := mover.TakeRequest{
		Job: b.run.Job().ID, Point: b.state.Point, VM: b.params.VM,
		Consistency: b.params.Consistency, Time: b.Now(),
	}
	if attempted, err := b.attempted(); err != nil {
		return mover.Taken{}, false, err
	} else if attempted {
		taken, found, err := b.mover.Settle(ctx, b.params.VM, b.state.Point)
		if err != nil || found {
			return taken, found, err
		}
		if err := b.prepare(ctx); err != nil {
			return mover.Taken{}, false, err
		}
	}
	taken, err := b.mover.Take(ctx, request)
	return taken, err == nil, err
}

// attempted tells whether an earlier life of the job was in the snapshot step,
// and notes that this one is.
func (b *backupRun) attempted() (bool, error) {
	var saved struct {
		Attempted bool `json:"attempted"`
	}
	if _, err := b.run.Load(&saved); err != nil {
		return false, err
	}
	if saved.Attempted {
		return true, nil
	}
	return false, b.run.Save(struct {
		state
		Attempted bool `json:"attempted"`
	}{b.state, true})
}

// record enters the point into the catalogue.
func (b *backupRun) record(ctx context.Context, taken mover.Taken) error {
	now := b.Now()
	point := PointOf(taken, b.item.Vault, now)
	point.Job = b.run.Job().ID
	point.VM.Host = b.item.VM.Host
	for _, d := range b.state.Plan.Disks {
		if !d.Included {
			point.Disks = append(point.Disks, backstay.PointDisk{Target: d.Target, Size: d.Size, Format: d.Format, Reason: d.Reason})
		}
	}
	if b.params.Tier != backstay.SnapshotTier {
		point.SetTier(backstay.VaultTier, backstay.TierCreating, now)
	}
	if b.params.Retain > 0 {
		expires := point.Time.Add(time.Duration(b.params.Retain))
		point.Expires = &expires
	}
	if err := b.Catalog.Points.PutPoint(ctx, point); err != nil {
		return fmt.Errorf("record point %s: %w", point.ID, err)
	}
	// Only this is changed: the policy may be another by now, and a VM that
	// somebody unprotected meanwhile stays unprotected.
	err := b.Catalog.Items.ChangeItem(ctx, b.params.VM, func(i *backstay.ProtectedItem) error {
		i.LastPoint = &point.Time
		return nil
	})
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("record the item's last point: %w", err)
	}
	return b.run.Update(func(j *backstay.Job) {
		j.Point, j.Result.Point, j.Stats.FreezeMs = point.ID, point.ID, taken.FreezeMs
	})
}

// PointOf makes a catalogue entry of what a mover recorded beside the disk.
func PointOf(taken mover.Taken, vault backstay.VaultName, now time.Time) backstay.RecoveryPoint {
	point := backstay.RecoveryPoint{
		ID: taken.Point, VM: taken.Shape.Ref(), Vault: vault, Time: taken.Time,
		Consistency: taken.Consistency, ConsistencyReason: taken.Reason,
		Disks: append([]backstay.PointDisk(nil), taken.Disks...), Parent: taken.Parent,
		Firmware: taken.Shape.Firmware, TPM: taken.Shape.TPM, Shape: taken.Shape,
		Encrypted: backstay.Encryption{Keys: []string{}}, Replicas: []backstay.Replica{},
	}
	point.SetTier(backstay.SnapshotTier, backstay.TierAvailable, now)
	return point
}

// endSnapshot ends a job that has no snapshot-tier point: nothing of it stays.
func (b *backupRun) endSnapshot(ctx context.Context, failure error) error {
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) || b.state.Point == "" || b.mover == nil {
		return failure
	}
	clean := context.WithoutCancel(ctx)
	taken, found, err := b.mover.Settle(clean, b.params.VM, b.state.Point)
	if err != nil {
		return fmt.Errorf("%w (and what it left could not be removed yet: %v; the next start of the server does)", failure, err)
	}
	if found {
		// The snapshot was taken after all: it is a usable point, so it is kept.
		if err := b.record(clean, taken); err != nil {
			return err
		}
		return b.endTransfer(ctx, failure)
	}
	return failure
}

// transfer carries the point into the vault.
func (b *backupRun) transfer(ctx context.Context) error {
	access, err := b.Vault(ctx, b.item.Vault)
	if err != nil {
		return err
	}
	point, err := b.Catalog.Points.Point(ctx, b.state.Point)
	if err != nil {
		return fmt.Errorf("read point %s: %w", b.state.Point, err)
	}
	parent, err := b.newestInVault(ctx)
	if err != nil {
		return err
	}
	health, err := b.Catalog.Health.VaultHealth(ctx, b.item.Vault)
	if err != nil {
		return err
	}
	request := mover.TransferRequest{
		Avoid: health.LostPacks(),
		Job:   b.run.Job().ID, Point: point.ID, Vault: access, Parent: parent,
		Packs: b.state.Packs, Expires: point.Expires, Policy: b.item.Policy, Host: point.VM.Host,
	}
	transferred, err := mover.Phases(ctx, b.run, []string{"transfer", "validate"},
		func(ctx context.Context, progress mover.Progress) (mover.Transferred, error) {
			return b.mover.Transfer(ctx, request, progress)
		}, b.keepPack)
	if err != nil {
		return err
	}
	return b.recordVault(ctx, transferred)
}

// keepPack remembers a durable pack, so that a broken transfer goes on behind it.
func (b *backupRun) keepPack(r mover.Report) {
	if r.Pack == "" {
		return
	}
	b.state.Packs = append(b.state.Packs, r.Pack)
	// A pack that is not remembered is only written again; nothing is lost.
	_ = b.run.Save(b.state)
}

func (b *backupRun) newestInVault(ctx context.Context) (backstay.PointID, error) {
	points, err := b.Catalog.Points.ListPoints(ctx, b.params.VM)
	if err != nil {
		return "", fmt.Errorf("list points: %w", err)
	}
	var newest backstay.PointID
	for _, p := range points {
		if p.ID != b.state.Point && p.Vault == b.item.Vault && p.Has(backstay.VaultTier) {
			newest = p.ID
		}
	}
	return newest, nil
}

func (b *backupRun) recordVault(ctx context.Context, t mover.Transferred) error {
	if err := b.Saw(ctx, b.item.Vault, t.Head); err != nil {
		return err
	}
	err := b.Catalog.Points.ChangePoint(ctx, b.state.Point, func(p *backstay.RecoveryPoint) error {
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
		return fmt.Errorf("record point %s in the vault tier: %w", b.state.Point, err)
	}
	return b.run.Update(func(j *backstay.Job) {
		freeze := j.Stats.FreezeMs
		j.Stats = t.Stats
		j.Stats.FreezeMs = freeze
	})
}

// endTransfer ends a job whose snapshot-tier point stands. A transfer that
// failed makes the job end with a warning (requirements A5): the point stays
// restorable where it is, and is never offered from the vault.
func (b *backupRun) endTransfer(ctx context.Context, failure error) error {
	if failure == nil || errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return failure
	}
	clean := context.WithoutCancel(ctx)
	err := b.Catalog.Points.ChangePoint(clean, b.state.Point, func(p *backstay.RecoveryPoint) error {
		if !p.Has(backstay.VaultTier) {
			p.DropTier(backstay.VaultTier)
		}
		return nil
	})
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("take the vault tier off point %s: %w", b.state.Point, err)
	}
	if errors.Is(context.Cause(ctx), backstay.ErrCancelled) {
		return failure
	}
	coded := transferError(failure)
	return b.run.Warn(fmt.Sprintf("%s; the point is kept in the snapshot tier and is not offered from the vault; %s", coded.Error(), coded.Action))
}

func transferError(err error) *backstay.Error {
	var coded *backstay.Error
	if errors.As(err, &coded) {
		return coded
	}
	return backstay.Errorf(backstay.CodeTransferFailed, "the transfer to the vault broke").Because(err)
}
