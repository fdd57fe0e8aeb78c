package job

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// Schedule is what a scheduler needs: Catalog and Backup; the rest has defaults.
type Schedule struct {
	Catalog *catalog.Catalog
	// Backup queues a backup of the item.
	Backup func(ctx context.Context, item backstay.ProtectedItem) error
	// Expire queues an expiry of the item's points, if any would go. It is called
	// daily and after each new point, never while a job of the item is pending;
	// nil for never.
	Expire func(ctx context.Context, item backstay.ProtectedItem) error
	// Now is time.Now unless a test says otherwise.
	Now func() time.Time
	Log *slog.Logger
	// Tick is how often the items are looked at, 15 s if 0.
	Tick time.Duration
}

// Scheduler queues backups of the protected items when their policies say so.
// There is never more than one backup of an item pending, and of a failed one
// the next is tried after a while rather than at once.
type Scheduler struct {
	opts  Schedule
	items map[backstay.VMID]*memory // owned by Run
}

// NewScheduler makes a scheduler; Run runs it.
func NewScheduler(opts Schedule) *Scheduler {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Tick == 0 {
		opts.Tick = 15 * time.Second
	}
	return &Scheduler{opts: opts, items: map[backstay.VMID]*memory{}}
}

// Run looks at the items at once and then at each tick, until ctx ends. What
// fails is logged and tried again at a later tick.
func (s *Scheduler) Run(ctx context.Context) {
	tick := time.NewTicker(s.opts.Tick)
	defer tick.Stop()
	for {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("schedule cannot be worked on", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look goes over all items once.
func (s *Scheduler) look(ctx context.Context) error {
	items, err := s.opts.Catalog.Items.ListItems(ctx)
	if err != nil {
		return err
	}
	policies, err := s.opts.Catalog.Policies.ListPolicies(ctx)
	if err != nil {
		return err
	}
	pending, err := s.pending(ctx)
	if err != nil {
		return err
	}
	byName := map[backstay.PolicyName]backstay.Policy{}
	for _, p := range policies {
		byName[p.Name] = p
	}
	now := s.opts.Now()
	known := map[backstay.VMID]*memory{}
	for _, item := range items {
		m := s.items[item.VM.UUID]
		if m == nil {
			m = &memory{}
		}
		known[item.VM.UUID] = m
		if pending[item.VM.UUID] == changing {
			continue
		}
		if err := s.serve(ctx, item, visit{m, byName[item.Policy], now, pending[item.VM.UUID] == transferring}); err != nil {
			s.opts.Log.Warn("protected item cannot be scheduled", "vm", item.VM.Name, "host", item.VM.Host, "error", err)
		}
	}
	s.items = known
	return nil
}

// visit is one look at one item.
type visit struct {
	*memory
	policy backstay.Policy
	now    time.Time
	// transferring: a job still carries an earlier point of the item to its vault.
	transferring bool
}

// serve queues what is due for an item whose VM no backup and no expiry has.
// While a transfer runs the next snapshot is taken all the same; an expiry waits,
// since what it may drop depends on what the transfer brings to the vault.
func (s *Scheduler) serve(ctx context.Context, item backstay.ProtectedItem, v visit) error {
	if item.LastPoint != nil && item.LastPoint.After(v.last) {
		v.last = *item.LastPoint
	}
	// The points are asked only when what is known does not say "not yet".
	if copied := *v.memory; copied.due(v.policy, item, when(v.last), v.now) {
		newest, err := s.newest(ctx, item.VM.UUID)
		if err != nil {
			return err
		}
		v.last = newest
		if v.due(v.policy, item, when(newest), v.now) {
			v.tried = v.now
			return s.opts.Backup(ctx, item)
		}
	}
	if s.opts.Expire != nil && !v.transferring && v.sweep(v.policy, v.last, v.now) {
		return s.opts.Expire(ctx, item)
	}
	return nil
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// newest returns the time of the item's newest point that can be restored from,
// or zero.
func (s *Scheduler) newest(ctx context.Context, vm backstay.VMID) (time.Time, error) {
	points, err := s.opts.Catalog.Points.ListPoints(ctx, vm)
	if err != nil {
		return time.Time{}, err
	}
	var newest time.Time
	for _, p := range backstay.OwnPoints(points) {
		if p.Time.After(newest) && (p.Has(backstay.SnapshotTier) || p.Has(backstay.VaultTier)) {
			newest = p.Time
		}
	}
	return newest, nil
}

// occupation is what pending jobs do with a VM.
type occupation int

const (
	idle         occupation = iota
	transferring            // a backup job has let go of the VM
	changing                // a job has the VM, or waits for it
)

// pending returns what the backup and expire jobs that have not ended do with
// their VMs.
func (s *Scheduler) pending(ctx context.Context) (map[backstay.VMID]occupation, error) {
	recs, err := s.opts.Catalog.Jobs.ListJobs(ctx, 0, notEnded...)
	if err != nil {
		return nil, fmt.Errorf("list pending jobs: %w", err)
	}
	pending := map[backstay.VMID]occupation{}
	for _, rec := range recs {
		does := changing
		if rec.VMsFree {
			does = transferring
		}
		if rec.Kind == backstay.JobBackup || rec.Kind == backstay.JobExpire {
			for _, vm := range rec.VMs {
				pending[vm] = max(pending[vm], does)
			}
		}
	}
	return pending, nil
}
