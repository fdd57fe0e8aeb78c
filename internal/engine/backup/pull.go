package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// pullTasks are the steps of a backup by pull behind its plan. It is one call of
// the mover: with the instant gone, nothing of it can go on in a later life but
// the packs that are durable already.
var pullTasks = []string{"prepare", "snapshot", "transfer", "validate"}

// pulls tells whether the job is that of a VM whose points are pulled.
func (b *backupRun) pulls() bool {
	if len(b.state.Members) != 1 || b.state.Members[0].Recorded {
		return false
	}
	m := b.state.Members[0]
	if m.Point != "" {
		return m.Method == backstay.MethodPull // as it was planned in an earlier life
	}
	return m.item.Method == backstay.MethodPull
}

// settleMethod refuses what the VM's method cannot do, and drops what another
// method left: checkpoints that nobody builds on cost the guest a little with
// every write.
func (b *backupRun) settleMethod(ctx context.Context, m *member, vm *backstay.VM) error {
	if m.item.Method == backstay.MethodPull {
		return refusePull(m.item, b.params)
	}
	ours := func(name string) bool { return strings.HasPrefix(name, backstay.CheckpointPrefix) }
	if !slices.ContainsFunc(vm.Checkpoints, ours) {
		return nil
	}
	if err := m.mover.EndPulls(ctx, m.VM); err != nil {
		return err
	}
	vm.Checkpoints = slices.DeleteFunc(slices.Clone(vm.Checkpoints), ours)
	return nil
}

// refusePull says what a backup by pull cannot do; nil if it can.
func refusePull(item backstay.ProtectedItem, params backstay.BackupParams) error {
	if item.Method == backstay.MethodPull && params.Tier == backstay.SnapshotTier {
		return backstay.Errorf(backstay.CodeUsage, "%s cannot have a point in the snapshot tier", item.VM.Name).
			Becausef("it is protected by pull, which makes no layers: its points live in the vault only").
			Do("leave out --tier, or protect the VM with --method layers")
	}
	if item.Method == backstay.MethodPull && params.Group != "" {
		return backstay.Errorf(backstay.CodeUsage, "%s cannot be in a group", item.VM.Name).
			Becausef("it is protected by pull, whose instant cannot be shared with other VMs").
			Do("protect the VM with --method layers, or take it out of the group")
	}
	return nil
}

// pull makes a point that is in the vault alone, or none.
func (b *backupRun) pull(ctx context.Context) error {
	m := b.state.Members[0]
	if err := b.run.Step(ctx, "plan", b.plan); err != nil {
		return err
	}
	pulled, err := mover.Phases(ctx, b.run, pullTasks,
		func(ctx context.Context, progress mover.Progress) (mover.Pulled, error) {
			access, pulled, err := intoVault(ctx, b, m, func(access mover.VaultAccess) (mover.Pulled, error) {
				request, err := b.pullRequest(ctx, m, access)
				if err != nil {
					return mover.Pulled{}, err
				}
				return m.mover.Pull(ctx, request, func(r mover.Report) {
					progress(r)
					m.keepPack(b, r)
				})
			})
			if err != nil {
				return pulled, err
			}
			if err := b.recordPull(context.WithoutCancel(ctx), m, pulled); err != nil {
				return pulled, err
			}
			return pulled, b.tellShort(m, access)
		}, nil)
	if err != nil {
		return err
	}
	for _, note := range pulled.Notes {
		if err := b.run.Warn(note); err != nil {
			return err
		}
	}
	return nil
}

func (b *backupRun) pullRequest(ctx context.Context, m *member, access mover.VaultAccess) (mover.PullRequest, error) {
	now := b.Now()
	parent, err := b.newestInVault(ctx, backstay.RecoveryPoint{
		ID: m.Point, VM: backstay.VMRef{UUID: m.VM}, Vault: m.item.Vault, Time: now,
	})
	if err != nil {
		return mover.PullRequest{}, err
	}
	health, err := b.Catalog.Health.VaultHealth(ctx, m.item.Vault)
	if err != nil {
		return mover.PullRequest{}, err
	}
	keys, err := b.keysOf(ctx, m.item)
	if err != nil {
		return mover.PullRequest{}, err
	}
	r := mover.PullRequest{
		Keys: keys,
		Job:  b.run.Job().ID, Point: m.Point, VM: m.VM, Disks: m.Plan.Targets(), Consistency: m.wish,
		Fallback: m.policy.Fallback, Guest: m.policy.Guest, Time: now, Vault: access, Parent: parent,
		Packs: m.Packs, Avoid: health.LostPacks(), Policy: m.item.Policy, Host: m.item.VM.Host, LeftOut: m.Plan.leftOut(),
	}
	if b.params.Retain > 0 {
		expires := now.Add(time.Duration(b.params.Retain))
		r.Expires = &expires
	}
	return r, nil
}

// recordPull enters a point into the catalogue that its vault has by now.
func (b *backupRun) recordPull(ctx context.Context, m *member, p mover.Pulled) error {
	if err := b.Saw(ctx, m.item.Vault, p.Transferred.Head); err != nil {
		return err
	}
	now := b.Now()
	point := PointOf(p.Taken, m.item.Vault, now)
	point.DropTier(backstay.SnapshotTier)
	point.SetTier(backstay.VaultTier, backstay.TierAvailable, now)
	point.Job, point.VM.Host = b.run.Job().ID, m.item.VM.Host
	point.Disks = append([]backstay.PointDisk(nil), p.Transferred.Disks...)
	if b.params.Retain > 0 {
		expires := point.Time.Add(time.Duration(b.params.Retain))
		point.Expires = &expires
	}
	if err := b.putPoint(ctx, point); err != nil {
		return fmt.Errorf("record point %s: %w", point.ID, err)
	}
	err := b.Catalog.Items.ChangeItem(ctx, m.VM, func(i *backstay.ProtectedItem) error {
		i.LastPoint = &point.Time
		return nil
	})
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("record the item's last point: %w", err)
	}
	m.Recorded, m.InVault = true, true
	if err := b.run.Save(b.state); err != nil {
		return err
	}
	return b.run.Update(func(j *backstay.Job) {
		j.Point, j.Result.Point, j.Stats = point.ID, point.ID, p.Transferred.Stats
		j.Stats.FreezeMs = p.Taken.FreezeMs
		b.report(j, m)
		for i := range j.Result.Backups {
			if j.Result.Backups[i].VM.UUID == m.VM {
				j.Result.Backups[i].Modes = p.Transferred.Modes
			}
		}
	})
}
