package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/blob/unit"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/vault"
)

// identityKey is the name of the server's own age identity in its keyring: the
// recipient to which each vault's key is wrapped besides the recovery key.
const identityKey = "server-identity"

// units opens storage units; each process that reads or writes a vault has one.
type units struct {
	hooks Hooks
}

// store opens the units of a vault as one store with as many copies.
func (u units) store(ctx context.Context, urls []string) (blob.Store, error) {
	var copies []blob.Store
	for _, raw := range urls {
		s, err := u.unit(ctx, raw)
		if err != nil {
			return nil, err
		}
		copies = append(copies, s)
	}
	return replica.New(copies...), nil
}

func (u units) unit(ctx context.Context, raw string) (blob.Store, error) {
	return unit.Options{Wrap: u.hooks.Unit}.Open(ctx, raw)
}

// openVault opens a vault with the access that the server gave.
func (u units) openVault(ctx context.Context, a mover.VaultAccess, options ...vault.OpenOption) (*vault.Vault, error) {
	s, err := u.store(ctx, a.Units)
	if err != nil {
		return nil, err
	}
	if a.Replica {
		options = append(options, vault.AsReplica())
	}
	return vault.Open(ctx, s, a.ID, a.Key, append(u.standings(ctx, a), options...)...)
}

// standings tells what an access says of its units. One that is recorded as lost
// and cannot even be named properly is left out: it is a last resort.
func (u units) standings(ctx context.Context, a mover.VaultAccess) []vault.OpenOption {
	var joining []int
	for i, url := range a.Units {
		if slices.Contains(a.Joining, url) {
			joining = append(joining, i)
		}
	}
	var spare []blob.Store
	for _, url := range a.Behind {
		if s, err := u.unit(ctx, url); err == nil {
			spare = append(spare, s)
		}
	}
	return []vault.OpenOption{vault.Joining(joining...), vault.Spare(spare...)}
}

// vaults knows the vaults of the region and their keys. It implements
// server.Vaults.
type vaults struct {
	units
	catalog *catalog.Catalog
	keys    keyring.Keyring
	now     func() time.Time

	mu        sync.Mutex
	opened    map[backstay.VaultName]mover.VaultAccess // guarded by mu: with keys unwrapped
	forgotten int                                      // guarded by mu: how often keys were forgotten
	recovery  map[backstay.VaultName][]string          // guarded by mu: recovery recipients as they were last

	uses map[backstay.VaultName]*vault.ReplicaUse // guarded by mu

	changing sync.Mutex // held while a vault's keys are changed
	proving  sync.Mutex // held while a key is proved: a passphrase takes 128 MiB of memory

	// onLost is told, in words, of units that were recorded as lost; nil tells nobody.
	onLost func(told []string)

	rows sync.Mutex // held while a vault's row is read, changed and written
}

// access returns what a mover needs to use the vault.
func (v *vaults) access(ctx context.Context, name backstay.VaultName) (mover.VaultAccess, error) {
	v.mu.Lock()
	a, ok := v.opened[name]
	forgotten := v.forgotten
	v.mu.Unlock()
	if ok {
		return a, nil
	}
	entry, err := v.entry(ctx, name)
	if err != nil {
		return mover.VaultAccess{}, err
	}
	a = mover.VaultAccess{Name: name, ID: entry.ID, Redundancy: entry.Redundancy, Units: entry.Written(),
		Joining: entry.Standing(backstay.Joining), Behind: entry.Standing(backstay.Behind), Replica: entry.Origin != nil}
	s, err := v.store(ctx, a.Units)
	if err != nil {
		return mover.VaultAccess{}, err
	}
	identity, err := v.keys.Key(ctx, identityKey)
	if err != nil {
		return mover.VaultAccess{}, backstay.Errorf(backstay.CodeVaultKey, "the server's own key cannot be read").Because(err)
	}
	id, key, err := vault.Unwrap(ctx, s, identity)
	if err != nil {
		return mover.VaultAccess{}, err
	}
	if id != entry.ID {
		return mover.VaultAccess{}, backstay.Errorf(backstay.CodeVaultKey, "the storage units of vault %s hold another vault", name).
			Becausef("it is %s and should be %s", id, entry.ID)
	}
	if err := v.known(ctx, entry, key); err != nil {
		return mover.VaultAccess{}, err
	}
	a.Key = key
	v.mu.Lock()
	defer v.mu.Unlock()
	if forgotten == v.forgotten { // else the keys may have changed meanwhile
		v.opened[name] = a
	}
	return a, nil
}

func (v *vaults) entry(ctx context.Context, name backstay.VaultName) (backstay.Vault, error) {
	entry, err := v.catalog.Vaults.Vault(ctx, name)
	if errors.Is(err, catalog.ErrNotFound) {
		return entry, backstay.Errorf(backstay.CodeUnknownVault, "there is no vault %q", name).
			Becausef("the catalogue of this region does not have it")
	} else if err != nil {
		return entry, fmt.Errorf("read vault %s: %w", name, err)
	}
	return entry, nil
}

func (v *vaults) open(ctx context.Context, name backstay.VaultName) (*vault.Vault, error) {
	return v.openAs(ctx, name, func(*mover.VaultAccess) error { return nil })
}

// openAs opens a vault with its access changed. Where its keys are outdated it is
// opened once more, with the newest ones.
func (v *vaults) openAs(ctx context.Context, name backstay.VaultName, change func(*mover.VaultAccess) error) (*vault.Vault, error) {
	for again := true; ; again = false {
		a, err := v.access(ctx, name)
		if err == nil {
			err = change(&a)
		}
		if err != nil {
			return nil, err
		}
		opened, err := v.openVault(ctx, a)
		if err != nil || !again || !opened.Outdated() {
			return opened, err
		}
		_ = opened.Close() // nothing was done with it yet
		v.forget(name)
	}
}

// CreateVault makes a vault: its units are initialised, its key is made and
// wrapped for this server and for a recovery key, and only then the catalogue
// learns of it. The recovery key is returned and kept nowhere.
func (v *vaults) CreateVault(ctx context.Context, r api.CreateVaultRequest) (backstay.Vault, string, error) {
	entry := backstay.Vault{Name: r.Name, ID: uuid.NewString(), Redundancy: r.Redundancy, Created: v.now().UTC()}
	if entry.Redundancy == "" {
		entry.Redundancy = backstay.LRS
	}
	if _, err := v.catalog.Vaults.Vault(ctx, r.Name); err == nil {
		return entry, "", backstay.Errorf(backstay.CodeExists, "a vault %s exists already", r.Name).
			Becausef("names of vaults are unique in a region")
	}
	if entry.Redundancy == backstay.GRS {
		var err error
		if entry.Pair = r.Pair; entry.Pair == "" {
			if entry.Pair, err = firstPaired(ctx, v.catalog); err != nil {
				return entry, "", err
			}
		}
	}
	units, err := v.unitsFor(ctx, entry.Redundancy, r.Units)
	if err != nil {
		return entry, "", err
	}
	entry.Units = units
	recovery, err := v.makeVault(ctx, &entry, r)
	if err != nil {
		return entry, "", err
	}
	entry = v.check(ctx, entry)
	if err := v.catalog.Vaults.CreateVault(ctx, entry); err != nil {
		return entry, "", fmt.Errorf("record vault %s: %w", entry.Name, err)
	}
	if err := v.register(ctx, entry); err != nil {
		return entry, "", err
	}
	return entry, string(recovery.Reveal()), nil
}

func (v *vaults) makeVault(ctx context.Context, entry *backstay.Vault, r api.CreateVaultRequest) (backstay.Secret, error) {
	recipients, recovery, err := v.recipientsOf(ctx, r)
	if err != nil {
		return backstay.Secret{}, err
	}
	if err := makeUnits(ctx, entry.Units); err != nil {
		return backstay.Secret{}, err
	}
	s, err := v.store(ctx, entry.Written())
	if err != nil {
		return backstay.Secret{}, err
	}
	keyset, err := vault.Create(ctx, s, vault.CreateOptions{
		ID: entry.ID, Name: entry.Name, Redundancy: entry.Redundancy, Created: entry.Created,
		Recipients: recipients, NoRecovery: r.Force,
	})
	if err != nil {
		return backstay.Secret{}, err
	}
	entry.KeyID, err = vault.KeyID(entry.ID, keyset)
	return recovery, err
}

// makeUnits makes the places of a new vault storage units.
func makeUnits(ctx context.Context, units []backstay.StorageUnit) error {
	for _, u := range units {
		if err := unit.Init(ctx, u.URL); err != nil {
			return err
		}
	}
	return nil
}

// unitURLs returns the URLs of a vault's storage units in the one form that is
// kept. Units that are not apart are refused (I13), and so is memory, which
// keeps nothing.
func unitURLs(wanted []api.NewUnit) ([]string, error) {
	var parsed []unit.URL
	var urls []string
	for _, w := range wanted {
		u, err := unit.Parse(w.URL)
		if err != nil {
			return nil, err
		}
		if u.Kind == unit.Mem {
			return nil, backstay.Errorf(backstay.CodeUsage, "%s cannot hold a vault", u).
				Becausef("memory keeps nothing when the server ends").Do("give a directory, a bucket or a container")
		}
		parsed, urls = append(parsed, u), append(urls, u.String())
	}
	return urls, unit.Apart(parsed...)
}

// recipient returns the public side of this server's identity, which is made
// at first use.
func (v *vaults) recipient(ctx context.Context) (string, error) {
	identity, err := v.keys.Create(ctx, identityKey, func() (backstay.Secret, error) {
		fresh, _, err := vault.NewIdentity()
		return fresh, err
	})
	if err != nil {
		return "", fmt.Errorf("make the server's key: %w", err)
	}
	return vault.Recipient(identity)
}

// VaultUsage says what the vault holds.
func (v *vaults) VaultUsage(ctx context.Context, name backstay.VaultName) (backstay.VaultUsage, error) {
	if _, replica := name.Origin(); replica {
		return v.replicaUsage(ctx, name)
	}
	opened, err := v.open(ctx, name)
	if err != nil {
		return backstay.VaultUsage{}, err
	}
	usage, err := opened.Usage(ctx)
	usage.Vault = name
	return usage, err
}
