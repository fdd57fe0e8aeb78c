package server

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// VaultKeys does what concerns who can open a vault. Secrets that are given are
// used once, kept nowhere and told nobody (I10). Methods may be called
// concurrently; changes of one vault are made one after the other.
type VaultKeys interface {
	// VaultKeys says who can open the vault, from its storage units.
	VaultKeys(ctx context.Context, name backstay.VaultName) (backstay.VaultKeys, error)
	// RotateKeys begins a new epoch. CodeConflict without the passphrases of all
	// passphrase recipients.
	RotateKeys(ctx context.Context, name backstay.VaultName, passphrases []backstay.Secret) (backstay.VaultKeys, error)
	// AddRecipient wraps the keys for one recipient more.
	AddRecipient(ctx context.Context, name backstay.VaultName, r NewRecipient) (backstay.VaultKeys, error)
	// RemoveRecipient takes out a recipient, named by id, label or public text,
	// and rotates. CodeNoRecovery for the last recovery recipient, unless forced.
	RemoveRecipient(ctx context.Context, name backstay.VaultName, r RemovedRecipient) (backstay.VaultKeys, error)
	// CheckEscrow proves from the storage units alone that a key opens the vault.
	CheckEscrow(ctx context.Context, name backstay.VaultName, key EscrowKey) (backstay.EscrowResult, error)
}

// NewRecipient is a recipient to be added: a public text, or a passphrase.
type NewRecipient struct {
	Recipient  string
	Passphrase backstay.Secret
	Purpose    backstay.RecipientPurpose
	Label      string
}

// RemovedRecipient is a recipient to be taken out.
type RemovedRecipient struct {
	Name        string
	Passphrases []backstay.Secret
	Force       bool
}

// EscrowKey is a key to be proved: an identity, or a passphrase.
type EscrowKey struct{ Identity, Passphrase backstay.Secret }

func secretOf(s string) backstay.Secret { return backstay.NewSecret([]byte(s)) }

func secretsOf(all []string) []backstay.Secret {
	var out []backstay.Secret
	for _, s := range all {
		out = append(out, secretOf(s))
	}
	return out
}

// RecipientOf turns what came over the wire into a recipient to be added.
func RecipientOf(r api.AddRecipientRequest) (NewRecipient, error) {
	if (r.Recipient == "") == (r.Passphrase == "") {
		return NewRecipient{}, backstay.Errorf(backstay.CodeUsage, "a recipient is a public key or a passphrase").
			Becausef("both were given, or neither").Do("give one of them")
	}
	n := NewRecipient{Recipient: r.Recipient, Purpose: r.Purpose, Label: r.Label}
	if r.Passphrase != "" {
		n.Passphrase = secretOf(r.Passphrase)
	}
	if n.Purpose == "" {
		n.Purpose = backstay.ForPerson
	}
	return n, nil
}

func (s *server) registerKeys() {
	add(s, "getVaultKeys", func(ctx context.Context, in *vaultInput) (*answer[backstay.VaultKeys], error) {
		return s.keys(ctx, in.Vault, "", s.Keys.VaultKeys)
	})
	add(s, "rotateVaultKeys", s.rotateKeys)
	add(s, "addVaultRecipient", s.addRecipient)
	add(s, "removeVaultRecipient", s.removeRecipient)
	add(s, "checkEscrow", s.checkEscrow)
}

// keys calls fn for a vault that there is. about is what the audit log has
// besides the vault's name.
func (s *server) keys(ctx context.Context, vault, about string, fn func(context.Context, backstay.VaultName) (backstay.VaultKeys, error)) (*answer[backstay.VaultKeys], error) {
	name := backstay.VaultName(vault)
	callOf(ctx).target = vault + about
	if _, err := s.Catalog.Vaults.Vault(ctx, name); err != nil {
		return nil, missing(err, backstay.CodeUnknownVault, "vault", name)
	}
	keys, err := fn(ctx, name)
	return &answer[backstay.VaultKeys]{keys}, err
}

type rotateKeysInput struct {
	Vault string `path:"vault"`
	Body  *api.RotateKeysRequest
}

func (s *server) rotateKeys(ctx context.Context, in *rotateKeysInput) (*answer[backstay.VaultKeys], error) {
	return s.keys(ctx, in.Vault, "", func(ctx context.Context, name backstay.VaultName) (backstay.VaultKeys, error) {
		var passphrases []backstay.Secret
		if in.Body != nil {
			passphrases = secretsOf(in.Body.Passphrases)
		}
		return s.Keys.RotateKeys(ctx, name, passphrases)
	})
}

type addRecipientInput struct {
	Vault string `path:"vault"`
	Body  api.AddRecipientRequest
}

func (s *server) addRecipient(ctx context.Context, in *addRecipientInput) (*answer[backstay.VaultKeys], error) {
	return s.keys(ctx, in.Vault, "", func(ctx context.Context, name backstay.VaultName) (backstay.VaultKeys, error) {
		n, err := RecipientOf(in.Body)
		if err != nil {
			return backstay.VaultKeys{}, err
		}
		keys, err := s.Keys.AddRecipient(ctx, name, n)
		if err == nil && len(keys.Recipients) > 0 {
			// The id, and not what was given: that may be a secret by mistake (I10).
			callOf(ctx).target += " recipient " + keys.Recipients[len(keys.Recipients)-1].ID
		}
		return keys, err
	})
}

type removeRecipientInput struct {
	Vault string `path:"vault"`
	Body  api.RemoveRecipientRequest
}

func (s *server) removeRecipient(ctx context.Context, in *removeRecipientInput) (*answer[backstay.VaultKeys], error) {
	return s.keys(ctx, in.Vault, "", func(ctx context.Context, name backstay.VaultName) (backstay.VaultKeys, error) {
		keys, err := s.Keys.RemoveRecipient(ctx, name, RemovedRecipient{Name: in.Body.Recipient, Passphrases: secretsOf(in.Body.Passphrases), Force: in.Body.Force})
		if err == nil {
			callOf(ctx).target += " recipient " + in.Body.Recipient
		}
		return keys, err
	})
}

type escrowInput struct {
	Vault string `path:"vault"`
	Body  api.EscrowCheckRequest
}

func (s *server) checkEscrow(ctx context.Context, in *escrowInput) (*answer[backstay.EscrowResult], error) {
	name := backstay.VaultName(in.Vault)
	callOf(ctx).target = in.Vault
	if _, err := s.Catalog.Vaults.Vault(ctx, name); err != nil {
		return nil, missing(err, backstay.CodeUnknownVault, "vault", name)
	}
	if err := oneKey(in.Body.Key, in.Body.Passphrase); err != nil {
		return nil, err
	}
	var key EscrowKey
	if in.Body.Key != "" {
		key.Identity = secretOf(in.Body.Key)
	} else {
		key.Passphrase = secretOf(in.Body.Passphrase)
	}
	out, err := s.Keys.CheckEscrow(ctx, name, key)
	return &answer[backstay.EscrowResult]{out}, err
}

// oneKey demands a key or a passphrase, and not both.
func oneKey(key, passphrase string) error {
	if (key == "") != (passphrase == "") {
		return nil
	}
	return backstay.Errorf(backstay.CodeUsage, "one key opens a vault").
		Becausef("a key and a passphrase were given, or neither").Do("give one of them")
}
