package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/engine/redundancy"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/tier/vault"
)

const (
	// redundancyTick is how often it is looked whether a unit answers again or a
	// vault is not yet what is wished for; redundancyAgain is how long after a run
	// that did not come to an end the next one is tried.
	redundancyTick  = 10 * time.Second
	redundancyAgain = 2 * time.Minute
	// redundancyPoll is how often a run looks whether jobs that it waits for ended.
	redundancyPoll = time.Second
)

// redundantUnits does for the redundancy engine what needs keys or stores. It
// implements redundancy.Units.
type redundantUnits struct{ r *region }

// redundancies makes the engine that brings vaults' units to what is wished for.
func (r *region) redundancies() *redundancy.Runner {
	return &redundancy.Runner{Catalog: r.catalog, Units: redundantUnits{r}, Now: utcNow, Poll: redundancyPoll}
}

// Change implements redundancy.Units.
func (u redundantUnits) Change(ctx context.Context, name backstay.VaultName, change func(*backstay.Vault) error) (backstay.Vault, error) {
	return u.r.vaults.changeUnits(ctx, name, change)
}

// filled is what a copy is filled from: a vault, or a replica without its keys.
type filled interface {
	Introduce(ctx context.Context, to blob.Store) error
	Fill(ctx context.Context, to blob.Store, o vault.FillOptions) (vault.FillReport, error)
}

// from opens a vault on those of its units that have everything, and the unit that
// is to be filled. Whoever opened it must call done.
func (u redundantUnits) from(ctx context.Context, name backstay.VaultName, url string) (from filled, to blob.Store, done func() error, err error) {
	done = func() error { return nil }
	if to, err = u.r.vaults.unit(ctx, url); err != nil {
		return nil, nil, done, err
	}
	entry, err := u.r.vaults.entry(ctx, name)
	if err != nil {
		return nil, nil, done, err
	}
	if len(entry.Whole()) == 0 {
		return nil, nil, done, backstay.Errorf(backstay.CodeVaultAway, "no storage unit of vault %s has everything", name)
	}
	if _, replica := name.Origin(); replica {
		entry.Units = slices.DeleteFunc(slices.Clone(entry.Units), func(u backstay.StorageUnit) bool { return !u.Standing.Whole() })
		opened, err := u.r.vaults.replica(ctx, entry)
		return opened, to, done, err
	}
	a, err := u.r.vaults.access(ctx, name)
	if err != nil {
		return nil, nil, done, err
	}
	a.Units, a.Joining, a.Behind = entry.Whole(), nil, nil
	opened, err := u.r.vaults.openVault(ctx, a)
	if err != nil {
		return nil, nil, done, err
	}
	// An older state of the vault must not be spread (I6): what a unit that comes back
	// has of a newer one may be all that is left of it.
	if err := u.r.vaults.witness(ctx, name, opened); err != nil {
		return nil, nil, done, errors.Join(err, opened.Close())
	}
	return opened, to, opened.Close, nil
}

// Introduce implements redundancy.Units.
func (u redundantUnits) Introduce(ctx context.Context, name backstay.VaultName, url string) (err error) {
	from, to, done, err := u.from(ctx, name, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	return from.Introduce(ctx, to)
}

// Fill implements redundancy.Units.
func (u redundantUnits) Fill(ctx context.Context, name backstay.VaultName, url string, o redundancy.FillOptions) (report redundancy.FillReport, err error) {
	from, to, done, err := u.from(ctx, name, url)
	if err != nil {
		return redundancy.FillReport{Next: o.From}, err
	}
	defer func() { err = errors.Join(err, done()) }()
	options := vault.FillOptions{First: o.First, From: o.From, Quick: o.Quick, Filled: o.Filled}
	if o.Progress != nil {
		options.Progress = func(r vault.FillReport) error { return o.Progress(redundancy.FillReport(r)) }
	}
	found, err := from.Fill(ctx, to, options)
	return redundancy.FillReport(found), err
}

// Declare implements redundancy.Units.
func (u redundantUnits) Declare(ctx context.Context, name backstay.VaultName, r backstay.Redundancy) (err error) {
	if _, replica := name.Origin(); replica {
		return nil // its header is its home's
	}
	u.r.vaults.changing.Lock()
	defer u.r.vaults.changing.Unlock()
	opened, err := u.r.vaults.openToWrite(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	return opened.Declare(ctx, r, utcNow())
}

// Lost implements redundancy.Units.
func (u redundantUnits) Lost(ctx context.Context, name backstay.VaultName) ([]string, error) {
	return u.r.vaults.lostMeanwhile(ctx, name)
}

// Damaged implements redundancy.Units.
func (u redundantUnits) Damaged(ctx context.Context, name backstay.VaultName, objects []string) error {
	entry, err := u.r.vaults.entry(ctx, name)
	if err != nil {
		return err
	}
	err = u.r.catalog.Health.ChangeVaultHealth(ctx, name, func(h *backstay.VaultHealth) error {
		for _, object := range objects {
			if slices.ContainsFunc(h.Damages, func(d backstay.Damage) bool { return d.Object == object }) {
				continue
			}
			d := backstay.Damage{Object: object}
			for range entry.Units { // nothing is condemned by one read (I5): the repair looks anew
				d.Copies, d.Why = append(d.Copies, backstay.CopyUnreadable), append(d.Why, "a read was wrong while another unit was filled")
			}
			h.Damages = append(h.Damages, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return u.r.engines.vaults.QueueRepair(ctx, name)
}

// scheduleRedundancy queues a job for each vault whose units are not what is wished
// for, until ctx ends: when a unit that is recorded as lost answers again, nobody
// has to ask for it.
func (r *region) scheduleRedundancy(ctx context.Context) {
	r.every(ctx, redundancyTick, func() error { return r.queueRedundancies(ctx, utcNow()) })
}

func (r *region) queueRedundancies(ctx context.Context, now time.Time) error {
	all, err := r.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return fmt.Errorf("list vaults: %w", err)
	}
	for _, v := range all {
		plan := redundancy.NewPlan(v)
		if plan.Empty() {
			continue
		}
		last, err := r.vaultJobs(ctx, v.Name, backstay.JobRedundancy)
		if err != nil {
			return err
		}
		if len(last) > 0 && (!last[0].State.Ended() || last[0].State != backstay.JobSucceeded && last[0].Ended != nil && now.Sub(*last[0].Ended) < redundancyAgain) {
			continue
		}
		waitsForUnits := len(plan.Introduce) == len(plan.Fill) && len(plan.Introduce) > 0
		if waitsForUnits && !slices.ContainsFunc(plan.Introduce, func(url string) bool { return r.vaults.ask(ctx, url) == nil }) {
			continue
		}
		if _, err := r.queueRedundancy(ctx, v.Name, scheduler); err != nil {
			return err
		}
	}
	return nil
}

// queueRedundancy queues a job that brings a vault's units to what is wished for. The
// job takes no slot of the vault: it waits for those that have one.
func (r *region) queueRedundancy(ctx context.Context, name backstay.VaultName, user string) (backstay.Job, error) {
	queued, err := r.queue.Submit(ctx, job.Request{Kind: backstay.JobRedundancy, Target: string(name), User: user,
		Params: backstay.RedundancyParams{Vault: name}})
	if err != nil {
		return queued, fmt.Errorf("queue a redundancy job of vault %s: %w", name, err)
	}
	return queued, nil
}

// SetRedundancy implements server.Units.
func (v *vaults) SetRedundancy(ctx context.Context, name backstay.VaultName, want backstay.Redundancy, wanted []api.NewUnit) (backstay.Vault, error) {
	named, err := v.namedUnits(ctx, wanted)
	if err != nil {
		return backstay.Vault{}, err
	}
	return v.aim(ctx, name, func(entry backstay.Vault) (backstay.Redundancy, []backstay.StorageUnit, string) {
		return want, named, ""
	})
}

// namedUnits completes what a person says of units by what the region knows of them.
func (v *vaults) namedUnits(ctx context.Context, wanted []api.NewUnit) ([]backstay.StorageUnit, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	known, err := v.ListUnits(ctx)
	if err != nil {
		return nil, err
	}
	return complete(wanted, known)
}

// aim brings a vault on its way to a redundancy: its row says from then on which units
// it shall have, and whoever runs the job does the rest.
func (v *vaults) aim(ctx context.Context, name backstay.VaultName, wish func(backstay.Vault) (backstay.Redundancy, []backstay.StorageUnit, string)) (backstay.Vault, error) {
	entry, err := v.entry(ctx, name)
	if err != nil {
		return entry, err
	}
	known, err := v.ListUnits(ctx)
	if err != nil {
		return entry, err
	}
	for i := range known {
		if len(known[i].Vaults) == 0 && !known[i].Closed {
			v.lookAtUnit(ctx, &known[i])
		}
	}
	now := v.now().UTC()
	want, named, without := wish(entry)
	if want == "" {
		want = entry.Redundancy
		if entry.Wish != "" {
			want = entry.Wish
		}
	}
	for _, n := range named {
		i := slices.IndexFunc(known, func(k backstay.Unit) bool { return k.URL == n.URL })
		if i >= 0 && slices.ContainsFunc(known[i].Vaults, func(o backstay.VaultName) bool { return o != name }) {
			return entry, backstay.Errorf(backstay.CodeUnitInUse, "the storage unit %s holds a copy of another vault", n.URL).
				Becausef("it is on %s", known[i].Vaults[0]).Do("name a unit that no vault is on, or another folder or prefix of the same place")
		}
	}
	aimed, err := redundancy.Aim(entry, want, named, known, without, now)
	if err != nil {
		return entry, err
	}
	if err := v.prepare(ctx, entry, aimed); err != nil {
		return entry, err
	}
	return v.changeUnits(ctx, name, func(current *backstay.Vault) error {
		again, err := redundancy.Aim(*current, want, named, known, without, now)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(again, aimed, func(a, b backstay.StorageUnit) bool { return a.URL == b.URL }) {
			return backstay.Errorf(backstay.CodeConflict, "the storage units of the vault %s were changed by somebody else", name).Do("try again")
		}
		current.Units, current.Wish = again, ""
		if want != current.Redundancy {
			current.Wish = want
		}
		return nil
	})
}

// prepare makes the units ready that a vault gets, and known to the region.
func (v *vaults) prepare(ctx context.Context, entry backstay.Vault, aimed []backstay.StorageUnit) error {
	var fresh []backstay.StorageUnit
	var urls []api.NewUnit
	for _, u := range aimed {
		urls = append(urls, api.NewUnit{URL: u.URL})
		if !slices.ContainsFunc(entry.Units, func(o backstay.StorageUnit) bool { return o.URL == u.URL }) {
			fresh = append(fresh, u)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if _, err := unitURLs(urls); err != nil {
		return err
	}
	if err := makeUnits(ctx, fresh); err != nil {
		return err
	}
	return v.register(ctx, backstay.Vault{Units: fresh})
}

// DrainUnit implements server.Units.
func (v *vaults) DrainUnit(ctx context.Context, url string, to []api.NewUnit) (backstay.Unit, error) {
	u, err := v.CheckUnit(ctx, url)
	if err != nil {
		return u, err
	}
	named, err := v.namedUnits(ctx, to)
	if err != nil {
		return u, err
	}
	// It takes no vault from now on, whatever comes of this.
	err = v.catalog.Units.ChangeUnit(ctx, u.URL, func(now *backstay.Unit) error {
		now.Closed = true
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("record unit %s: %w", u.URL, err)
	}
	u.Closed = true
	var failed []error
	for _, name := range u.Vaults {
		_, err := v.aim(ctx, name, func(backstay.Vault) (backstay.Redundancy, []backstay.StorageUnit, string) { return "", named, u.URL })
		failed = append(failed, err)
	}
	return u, errors.Join(failed...)
}

// RemoveUnit implements server.Units.
func (v *vaults) RemoveUnit(ctx context.Context, url string) error {
	u, err := v.CheckUnit(ctx, url)
	if err != nil {
		return err
	}
	if len(u.Vaults) > 0 {
		names := make([]string, len(u.Vaults))
		for i, name := range u.Vaults {
			names[i] = string(name)
		}
		return backstay.Errorf(backstay.CodeUnitInUse, "the storage unit %s holds a copy of %s", u.URL, strings.Join(names, ", ")).
			Becausef("what is removed is not written any more").Do("drain it first: `backstay unit drain %s`", u.URL)
	}
	if err := v.catalog.Units.DeleteUnit(ctx, u.URL); err != nil {
		return fmt.Errorf("forget unit %s: %w", u.URL, err)
	}
	return nil
}

// allWhole refuses to take room back in a vault while one of its copies is being
// filled: what every copy must list, that one may lack (I6).
func (v *vaults) allWhole(ctx context.Context, name backstay.VaultName) error {
	entry, err := v.entry(ctx, name)
	if err != nil {
		return err
	}
	if joining := entry.Standing(backstay.Joining); len(joining) > 0 {
		return backstay.Errorf(backstay.CodeReclaimStopped, "nothing is taken back in the vault %s now", name).
			Becausef("%s is being filled, and lacks objects that the others have", joining[0]).
			Do("reclaim when it has everything: see `backstay vault show %s`", name)
	}
	return nil
}
