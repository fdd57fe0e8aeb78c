package daemon

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/server"
	"github.com/backstay/backstay/internal/tier/vault"
)

// This file is who can open a vault; vaults implements server.VaultKeys with it.

// recipientsOf returns the recipients of a new vault: this server, those that
// were asked for, and a fresh recovery key, unless none is wanted.
func (v *vaults) recipientsOf(ctx context.Context, r api.CreateVaultRequest) ([]vault.NewRecipient, backstay.Secret, error) {
	var recovery backstay.Secret
	own, err := v.recipient(ctx)
	if err != nil {
		return nil, recovery, err
	}
	all := vault.Recipients(backstay.ForServer, own)
	for _, wanted := range r.Recipients {
		n, err := server.RecipientOf(wanted)
		if err != nil {
			return nil, recovery, err
		}
		all = append(all, vault.NewRecipient(n))
	}
	if !r.NoRecoveryKey {
		identity, recipient, err := vault.NewIdentity()
		if err != nil {
			return nil, recovery, fmt.Errorf("make a recovery key: %w", err)
		}
		recovery, all = identity, append(all, vault.Recipients(backstay.ForRecovery, recipient)...)
	}
	return all, recovery, vault.CreateOptions{Recipients: all, NoRecovery: r.Force}.Check()
}

// known demands that a vault's key is the one that the catalogue knows: whoever
// can write to storage units can wrap other keys for this server. A vault that
// was never opened before is taken as it is.
func (v *vaults) known(ctx context.Context, entry backstay.Vault, keyset backstay.Secret) error {
	id, err := vault.KeyID(entry.ID, keyset)
	if err != nil {
		return err
	}
	if entry.KeyID == "" {
		return v.change(ctx, entry.Name, func(e *backstay.Vault) bool {
			e.KeyID = id
			return true
		})
	}
	if entry.KeyID != id {
		return backstay.Errorf(backstay.CodeVaultKey, "the storage units of vault %s hold another key than its own", entry.Name).
			Becausef("its key is %s, and %s was found", entry.KeyID, id).
			Do("do not use the vault; find out who wrote to its storage units")
	}
	return nil
}

// forget makes the next access unwrap a vault's keys anew.
func (v *vaults) forget(name backstay.VaultName) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.opened, name)
	v.forgotten++
}

// VaultKeys implements server.VaultKeys.
func (v *vaults) VaultKeys(ctx context.Context, name backstay.VaultName) (backstay.VaultKeys, error) {
	opened, err := v.open(ctx, name)
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	defer opened.Close()
	return opened.Keys(ctx)
}

// changeKeys calls change with the vault opened by its newest keys. What runs
// goes on with the keys that it has; whatever opens the vault later gets the new
// ones.
func (v *vaults) changeKeys(ctx context.Context, name backstay.VaultName, change func(*vault.Vault) (backstay.VaultKeys, error)) (backstay.VaultKeys, error) {
	v.changing.Lock()
	defer v.changing.Unlock()
	v.forget(name)
	opened, err := v.openToWrite(ctx, name)
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	defer opened.Close()
	// Also after an error: the change may be half done, and counts then.
	defer v.forget(name)
	keys, err := change(opened)
	if err != nil {
		return keys, err
	}
	head, err := opened.Head(ctx)
	if err == nil {
		err = v.saw(ctx, name, head)
	}
	if err != nil {
		keys.Problems = append(keys.Problems, fmt.Sprintf("the catalogue does not know of the change yet: %v", err))
	}
	return keys, nil
}

// RotateKeys implements server.VaultKeys.
func (v *vaults) RotateKeys(ctx context.Context, name backstay.VaultName, passphrases []backstay.Secret) (backstay.VaultKeys, error) {
	return v.changeKeys(ctx, name, func(opened *vault.Vault) (backstay.VaultKeys, error) {
		_, keys, err := opened.Rotate(ctx, vault.RotateOptions{Passphrases: passphrases, Now: v.now()})
		return keys, err
	})
}

// AddRecipient implements server.VaultKeys.
func (v *vaults) AddRecipient(ctx context.Context, name backstay.VaultName, r server.NewRecipient) (backstay.VaultKeys, error) {
	return v.changeKeys(ctx, name, func(opened *vault.Vault) (backstay.VaultKeys, error) {
		return opened.AddRecipient(ctx, vault.NewRecipient(r), v.now())
	})
}

// RemoveRecipient implements server.VaultKeys. This server stays a recipient:
// without its keys it could not use the vault.
func (v *vaults) RemoveRecipient(ctx context.Context, name backstay.VaultName, r server.RemovedRecipient) (backstay.VaultKeys, error) {
	own, err := v.recipient(ctx)
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	return v.changeKeys(ctx, name, func(opened *vault.Vault) (backstay.VaultKeys, error) {
		for _, other := range opened.Recipients() {
			if other.Recipient == own && (r.Name == other.ID || r.Name == own || r.Name == other.Label && r.Name != "") {
				return backstay.VaultKeys{}, backstay.Errorf(backstay.CodeConflict, "this server cannot be removed from the recipients of the vault %s", name).
					Becausef("it could not use the vault any more").Do("leave it in for as long as this server has the vault")
			}
		}
		_, keys, err := opened.RemoveRecipient(ctx, r.Name, vault.RotateOptions{Passphrases: r.Passphrases, NoRecovery: r.Force, Now: v.now()})
		return keys, err
	})
}

// CheckEscrow implements server.VaultKeys. Nothing that the server knows of the
// vault's keys takes part, but for telling another vault from this one.
func (v *vaults) CheckEscrow(ctx context.Context, name backstay.VaultName, key server.EscrowKey) (backstay.EscrowResult, error) {
	a, err := v.access(ctx, name)
	if err != nil {
		return backstay.EscrowResult{}, err
	}
	s, err := v.store(ctx, a.Units)
	if err != nil {
		return backstay.EscrowResult{}, err
	}
	identity := key.Identity
	if len(identity.Reveal()) == 0 {
		identity = vault.Passphrase(key.Passphrase)
	}
	v.proving.Lock()
	defer v.proving.Unlock()
	if err := ctx.Err(); err != nil {
		return backstay.EscrowResult{}, err // it waited for too long
	}
	out, err := vault.EscrowCheck(ctx, s, identity)
	if err != nil {
		return out, err
	}
	own, err := vault.KeyID(a.ID, a.Key)
	if err == nil && out.KeyID != own {
		err = backstay.Errorf(backstay.CodeVaultKey, "the identity opens another vault than %s", name).
			Becausef("the key on the storage units is %s, that of the vault %s", out.KeyID, own)
	}
	return out, err
}
