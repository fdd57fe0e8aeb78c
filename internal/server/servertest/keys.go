package servertest

import (
	"context"
	"fmt"
	"strings"
	"sync"

	backstay "github.com/backstay/backstay"

	"github.com/backstay/backstay/internal/server"
)

// Passphrase is that of every passphrase recipient.
const Passphrase = "correct horse battery staple"

// vaultKeys keeps who can open each vault, and no keys.
type vaultKeys struct {
	mu  sync.Mutex
	all map[backstay.VaultName]*backstay.VaultKeys // guarded by mu
}

func (k *vaultKeys) of(name backstay.VaultName) *backstay.VaultKeys {
	if k.all == nil {
		k.all = map[backstay.VaultName]*backstay.VaultKeys{}
	}
	if k.all[name] == nil {
		k.all[name] = &backstay.VaultKeys{Vault: name, KeyID: "00112233445566778899aabbccddeeff", Generation: 1, Epoch: 1, Problems: []string{}, Recipients: []backstay.VaultRecipient{
			{ID: "0000000000000001", Kind: backstay.KindX25519, Purpose: backstay.ForServer, Recipient: "age1server"},
			{ID: "0000000000000002", Kind: backstay.KindX25519, Purpose: backstay.ForRecovery, Recipient: "age1recovery"},
		}}
	}
	return k.all[name]
}

func (k *vaultKeys) VaultKeys(_ context.Context, name backstay.VaultName) (backstay.VaultKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return *k.of(name), nil
}

func (k *vaultKeys) RotateKeys(_ context.Context, name backstay.VaultName, passphrases []backstay.Secret) (backstay.VaultKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := k.of(name)
	for _, r := range v.Recipients {
		if r.Kind == backstay.KindPassphrase && (len(passphrases) == 0 || string(passphrases[0].Reveal()) != Passphrase) {
			return *v, backstay.Errorf(backstay.CodeConflict, "the keys of the vault %s cannot be rotated without the passphrase of its recipient %s", name, r.ID)
		}
	}
	v.Generation, v.Epoch = v.Generation+1, v.Epoch+1
	return *v, nil
}

func (k *vaultKeys) AddRecipient(_ context.Context, name backstay.VaultName, r server.NewRecipient) (backstay.VaultKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := k.of(name)
	added := backstay.VaultRecipient{ID: fmt.Sprintf("%016d", len(v.Recipients)+1), Kind: backstay.KindX25519, Purpose: r.Purpose, Label: r.Label, Recipient: r.Recipient}
	if r.Recipient == "" {
		added.Kind = backstay.KindPassphrase
	}
	v.Generation, v.Recipients = v.Generation+1, append(v.Recipients[:len(v.Recipients):len(v.Recipients)], added)
	return *v, nil
}

func (k *vaultKeys) RemoveRecipient(_ context.Context, name backstay.VaultName, r server.RemovedRecipient) (backstay.VaultKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := k.of(name)
	var left []backstay.VaultRecipient
	recovery := 0
	for _, other := range v.Recipients {
		if other.ID == r.Name || other.Label == r.Name {
			continue
		}
		left = append(left, other)
		if other.Purpose == backstay.ForRecovery {
			recovery++
		}
	}
	switch {
	case len(left) == len(v.Recipients):
		return *v, backstay.Errorf(backstay.CodeUsage, "the vault %s has no recipient of this name", name)
	case recovery == 0 && !r.Force:
		return *v, backstay.Errorf(backstay.CodeNoRecovery, "the vault would have no recovery recipient")
	}
	v.Generation, v.Epoch, v.Recipients = v.Generation+1, v.Epoch+1, left
	return *v, nil
}

func (k *vaultKeys) CheckEscrow(_ context.Context, name backstay.VaultName, key server.EscrowKey) (backstay.EscrowResult, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := k.of(name)
	if strings.TrimSpace(string(key.Identity.Reveal())) != RecoveryKey && string(key.Passphrase.Reveal()) != Passphrase {
		return backstay.EscrowResult{}, backstay.Errorf(backstay.CodeVaultKey, "the identity cannot open the vault %s", name).
			Becausef("the vault's key is not wrapped for it")
	}
	return backstay.EscrowResult{OK: true, Vault: name, KeyID: v.KeyID, Recipient: v.Recipients[1], Generation: v.Generation, Epoch: v.Epoch, Copies: 3, Want: 3,
		Checked: []string{"vault.json", "keys/00.age", "points/01K0000000000000000000AAAA"}, Problems: []string{}}, nil
}
