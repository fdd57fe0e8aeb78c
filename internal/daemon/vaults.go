package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	return vault.Open(ctx, s, a.ID, a.Key, options...)
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

	changing sync.Mutex // held while a vault's keys are changed
	proving  sync.Mutex // held while a key is proved: a passphrase takes 128 MiB of memory

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
	a = mover.VaultAccess{Name: name, ID: entry.ID, Redundancy: entry.Redundancy}
	for _, u := range entry.Units {
		a.Units = append(a.Units, u.URL)
	}
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
	a, err := v.access(ctx, name)
	if err != nil {
		return nil, err
	}
	opened, err := v.openVault(ctx, a)
	if err != nil || !opened.Outdated() {
		return opened, err
	}
	_ = opened.Close() // nothing was done with it yet
	v.forget(name)
	if a, err = v.access(ctx, name); err != nil {
		return nil, err
	}
	return v.openVault(ctx, a)
}

// CreateVault makes a vault: its units are initialised, its key is made and
// wrapped for this server and for a recovery key, and only then the catalogue
// learns of it. The recovery key is returned and kept nowhere.
func (v *vaults) CreateVault(ctx context.Context, r api.CreateVaultRequest) (backstay.Vault, string, error) {
	entry := backstay.Vault{Name: r.Name, ID: uuid.NewString(), Redundancy: r.Redundancy, Created: v.now().UTC()}
	if entry.Redundancy == "" {
		entry.Redundancy = backstay.LRS
	}
	if entry.Redundancy != backstay.LRS || len(r.Units) != entry.Redundancy.Copies() {
		return entry, "", backstay.Errorf(backstay.CodeUsage, "a vault needs %d storage units and the redundancy LRS", entry.Redundancy.Copies()).
			Becausef("%d units and %s were asked for", len(r.Units), entry.Redundancy).Do("give --unit three times, each another folder")
	}
	if _, err := v.catalog.Vaults.Vault(ctx, r.Name); err == nil {
		return entry, "", backstay.Errorf(backstay.CodeExists, "a vault %s exists already", r.Name).
			Becausef("names of vaults are unique in a region")
	}
	recovery, err := v.makeVault(ctx, &entry, r)
	if err != nil {
		return entry, "", err
	}
	entry = v.check(ctx, entry)
	if err := v.catalog.Vaults.CreateVault(ctx, entry); err != nil {
		return entry, "", fmt.Errorf("record vault %s: %w", entry.Name, err)
	}
	return entry, string(recovery.Reveal()), nil
}

func (v *vaults) makeVault(ctx context.Context, entry *backstay.Vault, r api.CreateVaultRequest) (backstay.Secret, error) {
	recipients, recovery, err := v.recipientsOf(ctx, r)
	if err != nil {
		return backstay.Secret{}, err
	}
	urls, err := makeUnits(ctx, r.Units)
	if err != nil {
		return backstay.Secret{}, err
	}
	for i, u := range r.Units {
		entry.Units = append(entry.Units, backstay.StorageUnit{URL: urls[i], Zone: u.Zone})
	}
	s, err := v.store(ctx, urls)
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

// makeUnits makes the storage units of a new vault and returns their URLs.
func makeUnits(ctx context.Context, wanted []api.NewUnit) ([]string, error) {
	urls, err := unitURLs(wanted)
	if err != nil {
		return nil, err
	}
	for _, u := range urls {
		if err := unit.Init(ctx, u); err != nil {
			return nil, err
		}
	}
	return urls, nil
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
	opened, err := v.open(ctx, name)
	if err != nil {
		return backstay.VaultUsage{}, err
	}
	usage, err := opened.Usage(ctx)
	usage.Vault = name
	return usage, err
}

// CheckVault looks at every storage unit now and keeps what it found (I13).
func (v *vaults) CheckVault(ctx context.Context, name backstay.VaultName) (backstay.Vault, error) {
	entry, err := v.entry(ctx, name)
	if err != nil {
		return entry, err
	}
	seen := v.check(ctx, entry)
	opened, err := v.open(ctx, name)
	if err == nil {
		for _, i := range opened.Strangers(ctx) {
			seen.Units[i].State = otherVault
		}
		count(&seen)
		err = errors.Join(v.witness(ctx, name, opened), opened.Close())
	}
	if backstay.IsCode(err, backstay.CodeVaultRolledBack) || backstay.IsCode(err, backstay.CodeDamaged) {
		seen.Note = strings.TrimPrefix(seen.Note+"; "+err.Error(), "; ")
	}
	err = v.change(ctx, name, func(now *backstay.Vault) bool {
		seen.Head = now.Head
		*now = seen
		return true
	})
	return seen, err
}

// check asks each unit for its state and device.
func (v *vaults) check(ctx context.Context, entry backstay.Vault) backstay.Vault {
	var wg sync.WaitGroup
	for i := range entry.Units {
		wg.Go(func() { entry.Units[i].State, entry.Units[i].Device = v.look(ctx, entry.Units[i].URL) })
	}
	wg.Wait()
	now := v.now().UTC()
	entry.Checked = &now
	count(&entry)
	return entry
}

// The states of units that answer and are no copy of the vault (I13): one holds
// another vault, one lacks even this one's header.
const otherVault, noCopy = "other-vault", "no-copy"

// count sums up the states of a vault's units. Copies counts the units that
// answered, FailureDomains their different devices (architecture decision 12).
func count(entry *backstay.Vault) {
	devices := map[string]bool{}
	var others []string
	entry.Copies = 0
	for _, u := range entry.Units {
		switch u.State {
		case otherVault:
			others = append(others, u.URL+" holds another vault")
		case noCopy:
			others = append(others, u.URL+" holds no copy: verify the vault, and it is repaired")
		}
		if u.State == "ok" || u.State == "read-only" || u.State == "full" {
			entry.Copies++
			devices[u.Device] = true
		}
	}
	entry.FailureDomains, entry.Note = len(devices), ""
	notes := others
	if short := entry.Redundancy.Copies() - entry.Copies - len(others); short > 0 {
		notes = append(notes, fmt.Sprintf("%d of %d copies cannot be reached", short, entry.Redundancy.Copies()))
	}
	if entry.FailureDomains < entry.Copies {
		notes = append(notes, fmt.Sprintf("the %d copies are on %d device(s): the loss of one device can take several copies", entry.Copies, entry.FailureDomains))
	}
	entry.Note = strings.Join(notes, "; ")
}

// probeRoom is what a unit must have left to count as not full, in bytes.
const probeRoom = 64 << 20

// lookFor is how long a unit has to answer when its state is asked for.
const lookFor = 20 * time.Second

// look says what state a unit is in, and on which device it is.
func (u units) look(ctx context.Context, url string) (state, device string) {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	s, err := u.unit(ctx, url)
	if err != nil {
		return "unreachable", ""
	}
	return unitState(ctx, s)
}

func unitState(ctx context.Context, s blob.Store) (state, device string) {
	_, err := s.Stat(ctx, "vault.json")
	if err != nil && !errors.Is(err, blob.ErrNotExist) {
		return "unreachable", ""
	}
	empty := err != nil
	d, ok := s.(blob.Describer)
	if !ok {
		return "ok", ""
	}
	place, err := d.Describe(ctx)
	switch {
	case err != nil:
		return "unreachable", ""
	case empty:
		return noCopy, place.Device
	case place.Available >= 0 && place.Available < probeRoom:
		return "full", place.Device
	}
	return "ok", place.Device
}
