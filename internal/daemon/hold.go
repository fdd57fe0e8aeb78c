package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/engine/hold"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/tier/vault"
)

// heldTick is how often the points of replicas are compared with this region's
// retention, and with what is held.
const heldTick = time.Hour

// keeper makes the engine that holds other regions' vaults.
func (r *region) keeper() *hold.Keeper {
	return hold.New(hold.Options{
		Catalog: r.catalog, Now: utcNow, Make: r.makeReplica, Open: r.openReplica, Change: r.vaults.change, Record: r.recordHeld, InUse: r.heldInUse,
		Failed: r.replicaFailed, Quota: r.heldQuota,
	})
}

// heldQuota is how much a region may have held here, in bytes; 0 for no bound. The
// configuration was checked.
func (r *region) heldQuota(backstay.RegionName) int64 {
	bytes, err := r.config.Pair.Quota.Bytes()
	if err != nil {
		return 1
	}
	return bytes
}

// holder returns what holds the vaults of a region.
func (r *region) holder(name backstay.RegionName) pair.Holder { return r.held.For(name) }

// makeReplica chooses the storage units of a new replica and makes them: folders of
// the units that the configuration names for what is held, or else free units of
// this region.
func (r *region) makeReplica(ctx context.Context, entry backstay.Vault) (backstay.Vault, error) {
	units, err := r.vaults.unitsFor(ctx, backstay.LRS, nil)
	if err != nil {
		return entry, backstay.Errorf(backstay.CodeRegionQuota, "the region %s has no storage units for what others push", r.config.Region).Because(err).
			Do("add some there: `backstay unit add`")
	}
	entry.Units = units
	if backstay.FitUnits(backstay.LRS, entry.Units) != nil && backstay.FitUnits(backstay.ZRS, entry.Units) == nil {
		entry.Redundancy = backstay.ZRS
	}
	if err := backstay.FitUnits(entry.Redundancy, entry.Units); err != nil {
		return entry, err
	}
	if err := makeUnits(ctx, entry.Units); err != nil {
		return entry, err
	}
	return r.vaults.check(ctx, entry), nil
}

// openReplica opens the units of a replica that are written.
func (r *region) openReplica(ctx context.Context, entry backstay.Vault) (hold.Vault, error) {
	opened, err := r.vaults.replica(ctx, entry)
	return heldVault{opened}, err
}

func (v *vaults) replica(ctx context.Context, entry backstay.Vault) (*vault.Replica, error) {
	written := entry.Written()
	s, err := v.store(ctx, written)
	if err != nil {
		return nil, err
	}
	var joining []int
	for i, url := range written {
		if slices.Contains(entry.Standing(backstay.Joining), url) {
			joining = append(joining, i)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.uses == nil {
		v.uses = map[backstay.VaultName]*vault.ReplicaUse{}
	}
	if v.uses[entry.Name] == nil {
		v.uses[entry.Name] = &vault.ReplicaUse{}
	}
	return vault.NewReplica(s, entry.ID, vault.Joining(joining...), vault.Using(v.uses[entry.Name]))
}

// replicaFailed looks at the units of a replica after something failed: one that
// does not answer is recorded as lost, and what is pushed goes to the rest.
func (r *region) replicaFailed(ctx context.Context, name backstay.VaultName, err error) bool {
	if !backstay.IsCode(err, backstay.CodeVaultAway) {
		return false
	}
	_, told, lookErr := r.vaults.recordLost(ctx, name)
	if lookErr != nil {
		r.log.Warn("look at the units of a replica", "vault", name, "error", lookErr)
		return false
	}
	if len(told) > 0 && r.vaults.onLost != nil {
		r.vaults.onLost(told)
	}
	return len(told) > 0
}

// heldVault shows a replica's units as the engine wants to see them.
type heldVault struct{ *vault.Replica }

// Lacks implements hold.Vault.
func (v heldVault) Lacks(ctx context.Context, objects []pair.Object) ([]string, error) {
	asked := make([]vault.ReplicaObject, len(objects))
	for i, o := range objects {
		asked[i] = vault.ReplicaObject(o)
	}
	return v.Replica.Lacks(ctx, asked)
}

// Put implements hold.Vault.
func (v heldVault) Put(ctx context.Context, o pair.Object, data []byte) (int64, error) {
	return v.Replica.Put(ctx, vault.ReplicaObject(o), data)
}

// Complete implements hold.Vault.
func (v heldVault) Complete(ctx context.Context, id backstay.PointID, manifest []byte) (hold.Point, int64, error) {
	p, grown, err := v.Replica.Complete(ctx, id, manifest)
	return hold.Point{ID: p.Point, Item: p.Item, Time: p.Time, Root: p.Root, Packs: p.Packs}, grown, err
}

// List implements hold.Vault.
func (v heldVault) List(ctx context.Context, fn func(pair.Object) error) error {
	return v.Replica.List(ctx, func(o vault.ReplicaObject) error { return fn(pair.Object(o)) })
}

// Sweep implements hold.Vault.
func (v heldVault) Sweep(ctx context.Context, o hold.SweepOptions) (hold.Swept, error) {
	swept, err := v.Replica.Sweep(ctx, vault.SweepOptions(o))
	return hold.Swept(swept), err
}

// recordHeld makes the catalogue's points know one that is held. What it says of
// the VM is sealed, and is read if the home region made this one a recipient of the
// vault; else only what its clear header says is known.
func (r *region) recordHeld(ctx context.Context, entry backstay.Vault, p hold.Point) error {
	known, err := r.catalog.Points.Point(ctx, p.ID)
	switch {
	case err == nil && known.Vault != entry.Name:
		return backstay.Errorf(backstay.CodeReplicaRefused, "the point %s is one of another vault of this region", p.ID)
	case err == nil && known.VM.UUID != "":
		return nil
	case err != nil && !errors.Is(err, catalog.ErrNotFound):
		return fmt.Errorf("read point %s: %w", p.ID, err)
	}
	facts, err := r.heldFacts(ctx, entry, p)
	if err != nil {
		return err
	}
	facts.SetTier(backstay.VaultTier, backstay.TierAvailable, utcNow())
	return r.catalog.Points.PutPoint(ctx, facts)
}

// heldFacts is a point of a replica as this region lists it. Whether it is pinned
// and until when it is kept is each region's own.
func (r *region) heldFacts(ctx context.Context, entry backstay.Vault, p hold.Point) (backstay.RecoveryPoint, error) {
	facts, damage, err := r.readHeld(ctx, entry.Name, p.ID)
	if err != nil {
		return facts, err
	}
	if damage != "" {
		facts = backstay.RecoveryPoint{Time: p.Time, Disks: []backstay.PointDisk{}, Consistency: backstay.CrashConsistent,
			ConsistencyReason: "it is not known here", VM: backstay.VMRef{Name: "item-" + p.Item[:min(12, len(p.Item))]}}
	}
	facts.ID, facts.Vault, facts.Damage = p.ID, entry.Name, damage
	facts.Tiers, facts.Replicas, facts.Expires, facts.Pinned, facts.Verified = nil, nil, nil, false, nil
	facts.VM.Host = backstay.AwayHost(facts.VM.Host, entry.Origin.Region)
	if facts.Shape.Host != "" {
		facts.Shape.Host = facts.VM.Host
	}
	return facts, nil
}

// readHeld reads what a point says of itself, or says in words why it cannot.
func (r *region) readHeld(ctx context.Context, name backstay.VaultName, id backstay.PointID) (facts backstay.RecoveryPoint, damage string, err error) {
	opened, err := r.vaults.open(ctx, name)
	if err == nil {
		defer func() { err = errors.Join(err, opened.Close()) }()
		var p *vault.Point
		if p, err = opened.OpenPoint(ctx, id); err == nil {
			return p.Facts(), "", nil
		}
	}
	switch {
	case backstay.IsCode(err, backstay.CodeVaultKey), backstay.IsCode(err, backstay.CodeUnknownVault):
		return facts, "it cannot be read here: the vault's key is not wrapped for this region", nil
	case backstay.IsCode(err, backstay.CodeDamaged), backstay.IsCode(err, backstay.CodeUnknownPoint):
		return facts, "it cannot be read here: " + backstay.AsError(err).Error(), nil
	}
	return facts, "", err
}

// heldInUse says what needs a point of a replica now.
func (r *region) heldInUse(ctx context.Context, id backstay.PointID) (string, error) {
	p, err := r.catalog.Points.Point(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read point %s: %w", id, err)
	}
	if p.Pinned {
		return "it is pinned", nil
	}
	jobs, err := r.catalog.Jobs.ListJobs(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return "", fmt.Errorf("list jobs: %w", err)
	}
	for _, j := range jobs {
		// A drill chooses its points when it runs, and there may be several.
		reads := j.Point == id || j.Vault == p.Vault && j.Point == "" || j.Kind == backstay.JobDrill
		if reads && j.Kind != backstay.JobVerify && j.Kind != backstay.JobRepair && j.Kind != backstay.JobReclaim && j.Kind != backstay.JobExpire {
			return fmt.Sprintf("the job %s (%s) reads it", j.ID, j.Kind), nil
		}
	}
	for _, s := range r.files.List() {
		if s.Point == id {
			return fmt.Sprintf("the session %s reads it", s.ID), nil
		}
	}
	return "", nil
}

// scheduleHeld lets points of replicas go in their time, until ctx ends.
func (r *region) scheduleHeld(ctx context.Context) {
	settle := func() error { return r.tidyHeld(ctx) }
	if err := settle(); err != nil && ctx.Err() == nil {
		r.log.Error("points of replicas", "error", err)
	}
	r.every(ctx, heldTick, settle)
}

// tidyHeld compares each replica with the catalogue and with its retention here.
func (r *region) tidyHeld(ctx context.Context) error {
	all, err := r.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return fmt.Errorf("list vaults: %w", err)
	}
	var errs []error
	for _, v := range all {
		if v.Origin == nil {
			continue
		}
		_, keyErr := r.vaults.access(ctx, v.Name)
		if err := r.held.Settle(ctx, v.Name, keyErr == nil); err != nil {
			errs = append(errs, err)
		}
		done, err := r.held.Expire(ctx, v.Name)
		errs = append(errs, err)
		if len(done.Gone) > 0 {
			r.log.Info("points of a replica were let go by this region's retention", "vault", v.Name, "points", len(done.Gone))
		}
		for id, why := range done.Kept {
			r.log.Info("a point of a replica stays for now", "vault", v.Name, "point", id, "why", why)
		}
	}
	return errors.Join(errs...)
}

// KeepReplica implements server.Vaults.
func (v *vaults) KeepReplica(ctx context.Context, name backstay.VaultName, keep backstay.ReplicaKeep) (backstay.Vault, error) {
	var after backstay.Vault
	err := v.change(ctx, name, func(entry *backstay.Vault) bool {
		entry.Keep = &keep
		after = *entry
		return true
	})
	return after, err
}

// heldDropping is a replica from which points are let go by hand.
type heldDropping struct {
	keeper *hold.Keeper
	name   backstay.VaultName
}

// DropPoint implements expire.Vault: the point goes here, and nowhere else (I11).
func (d heldDropping) DropPoint(ctx context.Context, id backstay.PointID, _ time.Time) error {
	return d.keeper.LetGo(ctx, d.name, id)
}
