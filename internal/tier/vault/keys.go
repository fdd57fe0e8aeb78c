package vault

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// RotateOptions say how the keys are rotated.
type RotateOptions struct {
	// Passphrases are those of the vault's passphrase recipients: to wrap for one
	// again takes the passphrase itself.
	Passphrases []backstay.Secret
	// NoRecovery allows the last recovery recipient to be removed.
	NoRecovery bool
	// Now is when it is done, for the record in the vault's chain.
	Now time.Time
}

// Recipients returns who could open the vault when it was opened.
func (v *Vault) Recipients() []backstay.VaultRecipient { return publicRecipients(v.header) }

// KeyID identifies the master key in a keyset (as Create and Unwrap return it)
// and says nothing of it.
func KeyID(vaultID string, keyset backstay.Secret) (string, error) {
	keys, err := seal.NewKeys(vaultID, keyset)
	if err != nil {
		return "", backstay.Errorf(backstay.CodeVaultKey, "the vault's keys cannot be used").Because(err)
	}
	return keys.ID(), nil
}

// KeyID tells the vault's master key from another's.
func (v *Vault) KeyID() string { return v.keys.ID() }

// Generation returns the number of the newest header when the vault was opened,
// and that header's hash, which the vault's chain keeps.
func (v *Vault) Generation() (uint32, [32]byte) {
	return v.opened.newest.Generation, v.opened.newest.hash()
}

// Outdated tells whether the vault was opened with a keyset that is older than
// its newest header: with one that was unwrapped anew, everything can be read.
func (v *Vault) Outdated() bool { return v.opened.newest.Epoch > v.keys.Newest() }

// Problems says what was wrong with the headers when the vault was opened, one
// sentence for each storage unit that lacks the newest or has one that cannot be
// authenticated. None of that was used.
func (v *Vault) Problems(ctx context.Context) []string {
	return v.opened.problems(func(i int) string { return unitName(ctx, v.copies[i], i) })
}

func publicRecipients(h header) []backstay.VaultRecipient {
	var out []backstay.VaultRecipient
	for _, r := range h.Recipients {
		out = append(out, r.public())
	}
	return out
}

func (r recipient) public() backstay.VaultRecipient {
	return backstay.VaultRecipient{ID: r.ID, Kind: r.Kind, Purpose: r.Purpose, Label: r.Label, Recipient: r.Recipient}
}

// Keys says who can open the vault now, and what is not as it should be: each
// storage unit is asked for every header and every wrapped object.
func (v *Vault) Keys(ctx context.Context) (backstay.VaultKeys, error) {
	s, err := headerState(ctx, v.copies, v.header.ID, v.keys)
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	out := v.say(s.newest)
	out.Problems = append(out.Problems, s.problems(func(i int) string { return unitName(ctx, v.copies[i], i) })...)
	for _, r := range s.newest.Recipients {
		if _, u := pinned(ctx, v.copies, r); u.problems != nil {
			out.Problems = append(out.Problems, u.problems.Error())
		}
	}
	out.Problems = append(out.Problems, v.gaps(ctx, s.newest)...)
	told, err := chain.Open(v.store, v.keys.ChainMAC).Read(ctx)
	if err == nil {
		err = s.newest.follows(told)
	}
	if err != nil {
		out.Problems = append(out.Problems, err.Error())
	}
	return out, nil
}

// superseded tells whether a header that is newer than the one with which the
// vault was opened does without a wrapped object.
func (v *Vault) superseded(ctx context.Context, object string) bool {
	s, err := headerState(ctx, v.copies, v.header.ID, v.keys)
	if err != nil || s.newest.Generation <= v.opened.newest.Generation {
		return false
	}
	return !slices.ContainsFunc(s.newest.Recipients, func(r recipient) bool { return r.Object == object })
}

func (v *Vault) say(f writtenHeader) backstay.VaultKeys {
	return backstay.VaultKeys{Vault: f.Name, KeyID: v.keys.ID(), Generation: f.Generation, Epoch: f.Epoch,
		Recipients: publicRecipients(f.header), Problems: []string{}}
}

// gaps follows the headers from the newest to the first, each of which holds
// the hash of the one before.
func (v *Vault) gaps(ctx context.Context, newest writtenHeader) []string {
	byHash := map[string]writtenHeader{}
	for _, c := range readHeaders(ctx, v.copies, nil) {
		for _, f := range c.found {
			sum := f.hash()
			byHash[hex.EncodeToString(sum[:])] = f
		}
	}
	for f := newest; f.Generation > 1; {
		before, ok := byHash[f.Previous]
		if !ok || before.Generation != f.Generation-1 {
			return []string{fmt.Sprintf("%s is not the one that %s follows, on any storage unit", headerName(f.Generation-1), headerName(f.Generation))}
		}
		f = before
	}
	return nil
}

// AddRecipient wraps the vault's keys, which stay the same, for one recipient more.
func (v *Vault) AddRecipient(ctx context.Context, n NewRecipient, now time.Time) (backstay.VaultKeys, error) {
	if err := n.check(); err != nil {
		return backstay.VaultKeys{}, err
	}
	c, err := v.change(ctx, now)
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	for _, r := range c.before.Recipients {
		if n.Recipient != "" && r.Recipient == n.Recipient {
			return backstay.VaultKeys{}, backstay.Errorf(backstay.CodeExists, "the recipient can open the vault %s already", c.before.Name).
				Becausef("it is its recipient %s", r.ID).Do("nothing is to be done")
		}
	}
	keyset, err := v.keys.Keyset()
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	r, err := putWrapped(ctx, v.store, n, keyset)
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	c.next.Recipients = append(slices.Clone(c.before.Recipients), r)
	return c.commit(ctx, v.keys)
}

// Rotate begins a new epoch: new data is sealed with a new key, wrapped for all
// recipients. Nothing is written again, chunks keep their names, and what this
// Vault began goes on with the old epoch. It returns the new keyset, with which
// the vault is opened from now on. A crash leaves the vault openable for
// everybody, with the old keyset or the new one.
func (v *Vault) Rotate(ctx context.Context, o RotateOptions) (backstay.Secret, backstay.VaultKeys, error) {
	c, err := v.change(ctx, o.Now)
	if err != nil {
		return backstay.Secret{}, backstay.VaultKeys{}, err
	}
	return c.rotate(ctx, o, c.before.Recipients)
}

// RemoveRecipient takes a recipient, named by its id, label or public text, out
// of the vault and rotates, so that it cannot open what is sealed from now on.
// Whoever it was may have kept the keys of before: with a copy of the storage
// units of that time, or of what was sealed until now, they read on.
func (v *Vault) RemoveRecipient(ctx context.Context, name string, o RotateOptions) (backstay.Secret, backstay.VaultKeys, error) {
	none := backstay.Secret{}
	c, err := v.change(ctx, o.Now)
	if err != nil {
		return none, backstay.VaultKeys{}, err
	}
	at, err := c.before.find(name)
	if err != nil {
		return none, backstay.VaultKeys{}, err
	}
	gone := c.before.Recipients[at]
	left := slices.Delete(slices.Clone(c.before.Recipients), at, at+1)
	others := slices.ContainsFunc(left, func(r recipient) bool { return r.Purpose == gone.Purpose })
	switch {
	case len(left) == 0 || gone.Purpose == backstay.ForServer && !others:
		return none, backstay.VaultKeys{}, backstay.Errorf(backstay.CodeConflict, "the recipient %s cannot be removed", gone.ID).
			Becausef("nothing else that the server has opens the vault").Do("add the recipient of another server first")
	case gone.Purpose == backstay.ForRecovery && !others && !o.NoRecovery:
		return none, backstay.VaultKeys{}, noRecoveryLeft()
	}
	return c.rotate(ctx, o, left)
}

// find returns the place of the one recipient of this id, label or public text.
func (h header) find(name string) (int, error) {
	at := -1
	for i, r := range h.Recipients {
		if name == "" || r.ID != name && r.Label != name && r.Recipient != name {
			continue
		}
		if at >= 0 {
			return 0, backstay.Errorf(backstay.CodeUsage, "two recipients of the vault %s have this name", h.Name).Do("say the id, which `backstay vault key NAME list-recipients` shows")
		}
		at = i
	}
	if at < 0 {
		// The name is left out: it may be a secret key that was given by mistake (I10).
		return 0, backstay.Errorf(backstay.CodeNoSuchRecipient, "the vault %s has no recipient of this name", h.Name).
			Becausef("it is the id, the label or the public key of none").
			Do("list them with `backstay vault key %s list-recipients`", h.Name)
	}
	return at, nil
}
