package backup

import (
	"context"
	"encoding/json"
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
	// Lost looks at the storage units of a vault into which a write failed, records as
	// lost those that do not answer, and returns what it recorded, in words. With
	// nothing recorded the failure stands. Nil looks at nothing.
	Lost func(context.Context, backstay.VaultName) ([]string, error)
	Now  func() time.Time
	// Keys says how the points of an item hold its VM's secrets; nil holds their
	// values, as does a nil answer.
	Keys func(context.Context, backstay.ProtectedItem) (*mover.KeyPolicy, error)
	// NewPoint makes a point's id.
	NewPoint func() backstay.PointID
}

// state is what a later life of the job needs.
type state struct {
	Members []*member `json:"members"`
	// Attempted: an earlier life was in the snapshot step.
	Attempted bool `json:"attempted,omitempty"`
	// Together: the snapshots of a group were all taken under one hold.
	Together bool `json:"together,omitempty"`
}

// UnmarshalJSON also reads what a release wrote that knew no groups.
func (s *state) UnmarshalJSON(data []byte) error {
	type plain state
	var read struct {
		plain
		Point backstay.PointID `json:"point"`
		Plan  Plan             `json:"plan"`
		Packs []string         `json:"packs"`
	}
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	*s = state(read.plain)
	if read.Point != "" {
		s.Members = []*member{{VM: read.Plan.VM.UUID, Point: read.Point, Plan: read.Plan, Packs: read.Packs}}
	}
	return nil
}

// member is one VM of a job, with what a later life must know of it.
type member struct {
	VM     backstay.VMID       `json:"vm"`
	Point  backstay.PointID    `json:"point,omitempty"`
	Plan   Plan                `json:"plan"`
	Policy backstay.PolicyName `json:"policy,omitempty"`
	// Method is how the point is made, once that is planned.
	Method backstay.Method `json:"method,omitempty"`
	// Recorded: the point is in the catalogue.
	Recorded bool `json:"recorded,omitempty"`
	// Skip says why the point is not carried to its vault; empty if it is.
	Skip string `json:"skip,omitempty"`
	// Packs are durable in the vault already; InVault says that the point is.
	Packs   []string `json:"packs,omitempty"`
	InVault bool     `json:"inVault,omitempty"`

	item   backstay.ProtectedItem
	policy backstay.Policy
	wish   backstay.Consistency
	mover  mover.Mover
}

// label is how a member is written for people.
func (m *member) label() string { return string(m.item.VM.Host) + "/" + m.item.VM.Name }

// backupRun is one job in one of its lives.
type backupRun struct {
	*Runner
	run    backstay.LongRun
	params backstay.BackupParams
	state  state
	note   string // what the transfer said last of what holds it up
}

// Run runs one backup job, or goes on with it after a crash. The VMs are the
// job's until their snapshots are recorded; then others may have them, and the
// points are carried to their vaults.
func (r *Runner) Run(ctx context.Context, run backstay.LongRun, params backstay.BackupParams) error {
	b := &backupRun{Runner: r, run: run, params: params}
	if _, err := run.Load(&b.state); err != nil {
		return fmt.Errorf("load the job's state: %w", err)
	}
	if params.Image != nil {
		return b.images(ctx)
	}
	// What is read first is needed for undoing too, when ctx has ended already.
	if err := b.begin(context.WithoutCancel(ctx)); err != nil {
		return b.abandon(ctx, err)
	}
	if b.pulls() {
		return b.pull(ctx)
	}
	if err := b.snapshot(ctx); err != nil {
		return b.abandon(ctx, err)
	}
	todo := b.toTransfer()
	if len(todo) == 0 {
		return b.nothingLeft(ctx)
	}
	if err := run.FreeVMs(); err != nil {
		return fmt.Errorf("let go of the VMs: %w", err)
	}
	return b.transfers(ctx, todo)
}

// begin finds the protected items, the hosts of their VMs and what is wished for.
func (b *backupRun) begin(ctx context.Context) error {
	if len(b.state.Members) == 0 {
		for _, vm := range b.params.Members() {
			b.state.Members = append(b.state.Members, &member{VM: vm})
		}
	}
	var failure error
	for _, m := range b.state.Members {
		// All are looked at: what each left must be settled also if one is gone.
		if err := b.open(ctx, m); err != nil && failure == nil {
			failure = err
		}
	}
	return failure
}

// open finds what is known of a member. An earlier life's plan tells the host
// too, so that what it left is settled also when the VM was unprotected or has
// gone since; and what is left to do for a point that is recorded needs neither.
func (b *backupRun) open(ctx context.Context, m *member) (err error) {
	m.item = backstay.ProtectedItem{VM: m.Plan.VM, Vault: m.Plan.Vault, Policy: m.Policy}
	if m.Point != "" {
		if m.mover, err = b.Mover(m.item.VM.Host); err != nil {
			return err
		}
	}
	if m.Recorded {
		// What the policy says of the guest holds for the transfer too, if it is known.
		m.policy, _ = b.Catalog.Policies.Policy(ctx, m.Policy)
		return nil
	}
	item, err := b.Catalog.Items.Item(ctx, m.VM)
	if err != nil {
		return backstay.Errorf(backstay.CodeNotProtected, "the VM is not protected").Because(err)
	}
	vm, err := b.Catalog.VMs.VM(ctx, m.VM)
	if err != nil {
		return backstay.Errorf(backstay.CodeUnknownVM, "no host has the VM %s any more", item.VM.Name).Because(err)
	}
	m.item, m.Policy = item, item.Policy
	m.item.VM = vm.Ref()
	if m.Point != "" {
		m.item.VM.Host = m.Plan.VM.Host // where it was planned it is settled
	} else if m.mover, err = b.Mover(vm.Host); err != nil {
		return err
	}
	if m.policy, err = b.Catalog.Policies.Policy(ctx, item.Policy); err != nil {
		return fmt.Errorf("read policy %s: %w", item.Policy, err)
	}
	m.wish = m.policy.Consistency
	if b.params.Consistency != "" {
		m.wish = b.params.Consistency
	}
	return nil
}

// snapshot plans, prepares and takes the snapshot-tier points.
func (b *backupRun) snapshot(ctx context.Context) error {
	if err := b.run.Step(ctx, "plan", b.plan); err != nil {
		return err
	}
	if err := b.run.Step(ctx, "prepare", b.prepareAll); err != nil {
		return err
	}
	return b.run.Step(ctx, "snapshot", b.take)
}

func (b *backupRun) plan(ctx context.Context) error {
	for _, m := range b.state.Members {
		if err := b.planOne(ctx, m); err != nil {
			return err
		}
	}
	return b.run.Save(b.state)
}

// planOne makes the catalogue agree with what lies beside the disks, and then
// decides what the backup of one VM does.
func (b *backupRun) planOne(ctx context.Context, m *member) error {
	if len(m.item.Adopted) > 0 {
		if err := m.mover.Adopt(ctx, mover.AdoptRequest{VM: m.item.VM, Old: m.item.Adopted}); err != nil {
			return err
		}
	}
	reconciled, err := Reconcile(ctx, b.Catalog, m.mover, Scope{Host: m.item.VM.Host, VM: m.VM}, b.Now())
	if err != nil {
		return err
	}
	vms, err := m.mover.VMs(ctx)
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if vm.ID != m.VM {
			continue
		}
		vm.Host = m.item.VM.Host
		if err := b.settleMethod(ctx, m, &vm); err != nil {
			return err
		}
		plan, err := NewPlan(vm, Wish{Item: m.item, Consistency: m.wish})
		if err != nil {
			return err
		}
		for _, warning := range append(reconciled.Warnings(), plan.Warnings...) {
			if b.params.Group != "" {
				warning = m.label() + ": " + warning
			}
			if err := b.run.Warn(warning); err != nil {
				return err
			}
		}
		m.Plan, m.Point, m.Method = plan, b.NewPoint(), m.item.Method
		return nil
	}
	return backstay.Errorf(backstay.CodeUnknownVM, "host %s has no VM %s any more", m.item.VM.Host, m.item.VM.Name)
}

func (b *backupRun) prepareAll(ctx context.Context) error {
	for _, m := range b.state.Members {
		if err := b.prepare(ctx, m); err != nil && b.params.Group != "" {
			return b.noneTaken(m, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the overlays of one VM. In a later life it first takes away what
// the earlier one left.
func (b *backupRun) prepare(ctx context.Context, m *member) error {
	if _, _, err := m.mover.Settle(ctx, m.VM, m.Point); err != nil {
		return err
	}
	if err := b.makeRoom(ctx, m); err != nil {
		return err
	}
	keys, err := b.keysOf(ctx, m.item)
	if err != nil {
		return err
	}
	prepared, err := m.mover.Prepare(ctx, mover.PrepareRequest{
		Job: b.run.Job().ID, Point: m.Point, VM: m.VM, Disks: m.Plan.Targets(),
		Consistency: m.wish, Depth: m.policy.Snapshot.MaxPoints(), Keys: keys,
	})
	if err != nil {
		return err
	}
	for _, warning := range prepared.Warnings {
		if err := b.run.Warn(warning); err != nil {
			return err
		}
	}
	return nil
}

// take takes the snapshots and records them: beside the disk (by the mover), then
// in the catalogue.
func (b *backupRun) take(ctx context.Context) error {
	again := b.state.Attempted
	if !again {
		b.state.Attempted = true
		if err := b.run.Save(b.state); err != nil {
			return err
		}
	}
	if b.params.Group != "" {
		return b.takeTogether(ctx, again)
	}
	m := b.state.Members[0]
	taken, found, err := b.settleOrTake(ctx, m, again)
	if err != nil {
		return err
	}
	if !found {
		return backstay.Errorf(backstay.CodeSnapshotFailed, "the snapshot of %s was lost", m.item.VM.Name)
	}
	return b.record(ctx, m, taken)
}

// settleOrTake takes the snapshot of one VM. In a later life it first asks
// whether it was taken; if not, everything is prepared again.
func (b *backupRun) settleOrTake(ctx context.Context, m *member, again bool) (mover.Taken, bool, error) {
	if again {
		taken, found, err := m.mover.Settle(ctx, m.VM, m.Point)
		if err != nil || found {
			return taken, found, err
		}
		if err := b.prepare(ctx, m); err != nil {
			return mover.Taken{}, false, err
		}
	}
	taken, err := m.mover.Take(ctx, b.takeRequest(m, b.Now()))
	for _, note := range taken.Notes {
		err = errors.Join(err, b.run.Warn(note))
	}
	return taken, err == nil, err
}

func (b *backupRun) takeRequest(m *member, at time.Time) mover.TakeRequest {
	return mover.TakeRequest{
		Job: b.run.Job().ID, Point: m.Point, VM: m.VM, Consistency: m.wish,
		Fallback: m.policy.Fallback, Guest: m.policy.Guest, Time: at,
	}
}

// abandon ends a job whose snapshots were not all recorded: nothing of it stays.
func (b *backupRun) abandon(ctx context.Context, failure error) error {
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) || len(b.state.Members) == 0 {
		return failure
	}
	if b.params.Group != "" {
		return b.abandonTogether(context.WithoutCancel(ctx), failure)
	}
	m := b.state.Members[0]
	if m.Point == "" || m.mover == nil {
		return failure
	}
	clean := context.WithoutCancel(ctx)
	taken, found, err := m.mover.Settle(clean, m.VM, m.Point)
	if err != nil {
		return fmt.Errorf("%w (and what it left could not be removed yet: %v; the next start of the server does)", failure, err)
	}
	if !found {
		return failure
	}
	// The snapshot was taken after all: it is a usable point, so it is kept.
	if err := b.record(clean, m, taken); err != nil {
		return err
	}
	return b.endTransfer(ctx, m, failure)
}
