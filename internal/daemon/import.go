package daemon

import (
	"context"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/tier/vault"
)

// ImportVault takes in a vault that exists on its storage units, with a key that
// opens it: the key is wrapped for this server as well, and then the catalogue
// learns of the vault. The key that was given is kept nowhere.
func (v *vaults) ImportVault(ctx context.Context, r api.ImportVaultRequest) (backstay.Vault, error) {
	entry := backstay.Vault{Name: r.Name}
	urls, err := unitURLs(r.Units)
	if err != nil {
		return entry, err
	}
	for i, n := range r.Units {
		entry.Units = append(entry.Units, backstay.StorageUnit{URL: urls[i], Zone: n.Zone, Redundant: n.Redundant})
	}
	s, err := v.store(ctx, urls)
	if err != nil {
		return entry, err
	}
	key := backstay.NewSecret([]byte(r.Key))
	if r.Key == "" {
		key = vault.Passphrase(backstay.NewSecret([]byte(r.Passphrase)))
	}
	id, keyset, err := vault.Unwrap(ctx, s, key)
	if err != nil {
		return entry, err
	}
	opened, err := vault.Open(ctx, s, id, keyset)
	if err != nil {
		return entry, err
	}
	defer opened.Close()
	entry.ID, entry.Redundancy, entry.Created = id, opened.Redundancy(), opened.Created()
	if err := v.importable(ctx, entry); err != nil {
		return entry, err
	}
	if err := opened.Unmixed(ctx); err != nil {
		return entry, err
	}
	if err := v.addServer(ctx, opened); err != nil {
		return entry, err
	}
	entry = v.check(ctx, entry)
	if err := v.catalog.Vaults.CreateVault(ctx, entry); err != nil {
		return entry, fmt.Errorf("record vault %s: %w", entry.Name, err)
	}
	return entry, v.register(ctx, entry)
}

// importable refuses a vault that the region has, and one without all its
// storage units: a new point could not be put where it must be (I2).
func (v *vaults) importable(ctx context.Context, entry backstay.Vault) error {
	declared := len(entry.Units) == 1 && entry.Units[0].Redundant
	if n := entry.Redundancy.Copies(); len(entry.Units) != n && !declared {
		return backstay.Errorf(backstay.CodeUsage, "the vault has %d copies", n).
			Becausef("%d storage units were named, and its redundancy is %s", len(entry.Units), entry.Redundancy).
			Do("give --unit %d times, in the order in which the vault was made; or once, as --unit URL,redundant, if it is on one unit that keeps several copies itself", n)
	}
	all, err := v.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return fmt.Errorf("list vaults: %w", err)
	}
	for _, known := range all {
		if known.Name == entry.Name || known.ID == entry.ID {
			return backstay.Errorf(backstay.CodeExists, "the region has the vault %s already", known.Name).
				Becausef("its id is %s, and that of the storage units %s", known.ID, entry.ID).
				Do("rebuild its catalogue: `backstay vault catalog %s rebuild`, or choose another name", known.Name)
		}
	}
	return nil
}

// addServer makes this server a recipient of the vault, unless it is one.
func (v *vaults) addServer(ctx context.Context, opened *vault.Vault) error {
	server, err := v.recipient(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(opened.Recipients(), func(r backstay.VaultRecipient) bool { return r.Recipient == server }) {
		return nil
	}
	_, err = opened.AddRecipient(ctx, vault.NewRecipient{Recipient: server, Purpose: backstay.ForServer}, v.now().UTC())
	return err
}
