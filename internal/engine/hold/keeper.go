package hold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/pair"
)

const (
	// maxVaults is how many vaults one region may have held.
	maxVaults = 100
	// putsAtOnce is how many objects of one region are in memory at a time.
	putsAtOnce = 16
	// leastSize is what the smallest object counts for against the quota, in bytes: a
	// file system gives it that much.
	leastSize = 4 << 10
)

// vaultName is what the name of a vault that is offered may be.
var vaultName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Keeper knows the replicas of a region. Make one with New.
type Keeper struct {
	Options

	taking sync.Mutex // held while a replica is made

	mu       sync.Mutex
	puts     map[backstay.RegionName]chan struct{} // guarded by mu
	opened   map[backstay.VaultName]*replica       // guarded by mu
	used     map[backstay.RegionName]int64         // bytes of one copy; guarded by mu
	counted  map[backstay.RegionName]bool          // used is known; guarded by mu
	counting map[backstay.RegionName]*sync.Mutex   // held while a region is counted; guarded by mu
	sweeps   map[backstay.VaultName]*sync.Mutex    // held while a replica is swept or expired; guarded by mu
}

// replica is one that was opened, with the units as they were then.
type replica struct {
	Vault
	units string
}

// New returns a keeper of replicas.
func New(o Options) *Keeper {
	return &Keeper{Options: o, puts: map[backstay.RegionName]chan struct{}{}, opened: map[backstay.VaultName]*replica{}, used: map[backstay.RegionName]int64{},
		counted: map[backstay.RegionName]bool{}, counting: map[backstay.RegionName]*sync.Mutex{}, sweeps: map[backstay.VaultName]*sync.Mutex{}}
}

// For returns the holder of what a region pushes. It serves nothing of any other
// region, whatever is asked for.
func (k *Keeper) For(region backstay.RegionName) pair.Holder { return &holder{k, region} }

// lock returns a mutex of a map, made when it is first asked for.
func lock[K comparable](k *Keeper, all map[K]*sync.Mutex, key K) *sync.Mutex {
	k.mu.Lock()
	defer k.mu.Unlock()
	if all[key] == nil {
		all[key] = &sync.Mutex{}
	}
	return all[key]
}

// held returns the replicas of a region, by vault id.
func (k *Keeper) held(ctx context.Context, region backstay.RegionName) (map[string]backstay.Vault, error) {
	all, err := k.Catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return nil, fmt.Errorf("list vaults: %w", err)
	}
	own := map[string]backstay.Vault{}
	for _, v := range all {
		if v.Origin != nil && v.Origin.Region == region {
			own[v.ID] = v
		}
	}
	return own, nil
}

// replica opens a replica, or returns it as it was opened: a change of the units
// that are written makes a new one.
func (k *Keeper) replica(ctx context.Context, entry backstay.Vault) (*replica, error) {
	units := fmt.Sprint(entry.Written(), entry.Standing(backstay.Joining))
	k.mu.Lock()
	r := k.opened[entry.Name]
	k.mu.Unlock()
	if r != nil && r.units == units {
		return r, nil
	}
	opened, err := k.Open(ctx, entry)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.opened[entry.Name]; r != nil && r.units == units {
		return r, nil // another call was faster
	}
	r = &replica{opened, units}
	k.opened[entry.Name] = r
	return r, nil
}

// entry returns the row of a replica.
func (k *Keeper) entry(ctx context.Context, name backstay.VaultName) (backstay.Vault, error) {
	entry, err := k.Catalog.Vaults.Vault(ctx, name)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && entry.Origin == nil {
		return entry, backstay.Errorf(backstay.CodeUnknownVault, "there is no replica %q", name).Becausef("the catalogue of this region does not have it")
	}
	if err != nil {
		return entry, fmt.Errorf("read vault %s: %w", name, err)
	}
	return entry, nil
}

// enter waits until an object of a region may be taken into memory.
func (k *Keeper) enter(ctx context.Context, region backstay.RegionName) (leave func(), err error) {
	k.mu.Lock()
	if k.puts[region] == nil {
		k.puts[region] = make(chan struct{}, putsAtOnce)
	}
	slots := k.puts[region]
	k.mu.Unlock()
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("take an object in: %w", context.Cause(ctx))
	}
}

// count finds out how much a region takes here, once.
func (k *Keeper) count(ctx context.Context, region backstay.RegionName) error {
	one := lock(k, k.counting, region)
	one.Lock()
	defer one.Unlock()
	k.mu.Lock()
	known := k.counted[region]
	k.mu.Unlock()
	if known {
		return nil
	}
	own, err := k.held(ctx, region)
	if err != nil {
		return err
	}
	var sum int64
	for _, entry := range own {
		r, err := k.replica(ctx, entry)
		if err != nil {
			return err
		}
		err = r.List(ctx, func(o pair.Object) error {
			sum += max(o.Size, leastSize)
			return nil
		})
		if err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used[region] += sum // what is being put meanwhile was reserved, and may count twice until the next start
	k.counted[region] = true
	return nil
}

// reserve takes room for an object, or refuses it.
func (k *Keeper) reserve(ctx context.Context, region backstay.RegionName, size int64) error {
	quota := k.quota(region)
	if quota == 0 {
		return nil
	}
	if err := k.count(ctx, region); err != nil {
		return err
	}
	size = max(size, leastSize)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.used[region]+size > quota {
		return backstay.Errorf(backstay.CodeRegionQuota, "the quota of the region %s is used up here", region).
			Becausef("%d of %d bytes are taken, and %d more were pushed", k.used[region], quota, size)
	}
	k.used[region] += size
	return nil
}

// release gives back what was reserved or freed.
func (k *Keeper) release(region backstay.RegionName, size int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used[region] = max(0, k.used[region]-size)
}

func (k *Keeper) quota(region backstay.RegionName) int64 {
	if k.Quota == nil {
		return 0
	}
	return max(0, k.Quota(region))
}

// room is how many bytes a region may still push; -1 without a limit.
func (k *Keeper) room(ctx context.Context, region backstay.RegionName) (int64, error) {
	quota := k.quota(region)
	if quota == 0 {
		return -1, nil
	}
	if err := k.count(ctx, region); err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return max(0, quota-k.used[region]), nil
}

// full says that units without room are, to whoever pushes, a quota.
func full(err error) error {
	if !backstay.IsCode(err, backstay.CodeVaultFull) {
		return err
	}
	told := backstay.AsError(err)
	return backstay.Errorf(backstay.CodeRegionQuota, "the other region's storage units are full").Becausef("%s", cmp.Or(told.Cause, told.Message))
}
