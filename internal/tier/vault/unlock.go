package vault

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// Unwrap opens a vault's keyset with an identity: the text of a key file (lines
// "AGE-SECRET-KEY-1…", "AGE-SECRET-KEY-PQ-1…" or "AGE-PLUGIN-…", comments
// allowed), or a Passphrase. CodeUnknownVault if the store holds no vault,
// CodeVaultKey if the identity does not open the newest keys of this one.
func Unwrap(ctx context.Context, s blob.Store, identity backstay.Secret) (id string, keyset backstay.Secret, err error) {
	u, err := unlock(ctx, copiesOf(s), identity)
	return u.header.ID, u.keyset, err
}

// unlocked is what an identity opened.
type unlocked struct {
	header    writtenHeader
	recipient recipient
	keyset    backstay.Secret
	keys      *seal.Keys
	copies    int   // that hold the wrapped object as it is pinned
	problems  error // why others do not, and headers that could not be used
}

// unlock opens the newest header that one of the identities opens, and demands
// that no other header on the copies contradicts it: of two vaults under one
// name, each with its own key, nobody could tell the real one (age does not say
// who wrapped).
func unlock(ctx context.Context, copies []blob.Store, secret backstay.Secret) (unlocked, error) {
	ids, err := parseIdentities(secret)
	if err != nil {
		return unlocked{}, err
	}
	var errs []error
	var all []writtenHeader
	for _, c := range readHeaders(ctx, copies, nil) {
		errs = append(errs, c.errs...)
		if c.away != nil && len(c.errs) == 0 {
			errs = append(errs, c.away)
		}
		all = append(all, c.found...)
	}
	all = distinct(all)
	var best unlocked
	for _, f := range all {
		if best.keys != nil && f.authenticate(best.keys) == nil && f.ID == best.header.ID {
			continue // an older generation, or one that was opened already
		}
		u, err := unlockHeader(ctx, copies, f, ids)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", headerName(f.Generation), err))
		case best.keys != nil:
			return unlocked{}, twoVaults(best.header, f)
		default:
			best = u
		}
	}
	if best.keys == nil {
		return unlocked{}, noVault(errs)
	}
	for _, f := range all {
		if f.Generation > best.header.Generation && f.ID == best.header.ID && f.authenticate(best.keys) == nil {
			return unlocked{}, backstay.Errorf(backstay.CodeVaultKey, "the identity cannot open the vault %s any more", f.Name).
				Because(errors.Join(append(errs, fmt.Errorf("it opens keys of generation %d, the vault has generation %d", best.header.Generation, f.Generation))...))
		}
	}
	best.problems = errors.Join(append(errs, best.problems)...)
	return best, nil
}

// distinct drops what several copies have in common; newest first.
func distinct(all []writtenHeader) []writtenHeader {
	slices.SortStableFunc(all, func(a, b writtenHeader) int {
		return cmp.Or(cmp.Compare(b.Generation, a.Generation), bytes.Compare(a.data, b.data))
	})
	return slices.CompactFunc(all, func(a, b writtenHeader) bool { return bytes.Equal(a.data, b.data) })
}

func twoVaults(a, b writtenHeader) error {
	return backstay.Errorf(backstay.CodeVaultKey, "the storage units hold two vaults: %s (%s) and %s (%s)", a.Name, a.ID, b.Name, b.ID).
		Becausef("their headers are authenticated by different keys, and the identity opens both").
		Do("give the storage units of one vault; if one of them was tampered with, leave it out")
}

// unlockHeader tries the identities on what the header pins, and demands that
// the keys authenticate the header.
func unlockHeader(ctx context.Context, copies []blob.Store, f writtenHeader, ids []identity) (unlocked, error) {
	var errs []error
	for _, r := range f.Recipients {
		for _, id := range ids {
			if !id.mayOpen(r) {
				continue
			}
			sealed, u := pinned(ctx, copies, r)
			if sealed == nil {
				errs = append(errs, readError(r.Object, u.problems))
				continue
			}
			keyset, err := id.unwrap(sealed)
			if errors.Is(err, errNotFor) {
				continue // another passphrase, or another key of the plugin
			}
			if err == nil {
				u.keys, err = openedBy(f, keyset)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			u.header, u.recipient, u.keyset = f, r, keyset
			return u, nil
		}
	}
	if len(errs) > 0 {
		return unlocked{}, errors.Join(errs...)
	}
	return unlocked{}, backstay.Errorf(backstay.CodeVaultKey, "the identity cannot open the vault %s", f.Name).
		Becausef("the vault's key is not wrapped for it")
}

// openedBy derives the keys and demands that they are those of the header.
func openedBy(f writtenHeader, keyset backstay.Secret) (*seal.Keys, error) {
	keys, err := seal.NewKeys(f.ID, keyset)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", seal.ErrWrong, err)
	}
	if err := f.authenticate(keys); err != nil {
		return nil, err
	}
	if keys.Newest() != f.Epoch {
		return nil, fmt.Errorf("wrapped keys of epoch %d under a header of epoch %d: %w", keys.Newest(), f.Epoch, seal.ErrWrong)
	}
	return keys, nil
}

// pinned reads a wrapped object from each copy. It returns the bytes that the
// header pins, if a copy has them, in how many copies they are, and what was
// wrong with the others.
func pinned(ctx context.Context, copies []blob.Store, r recipient) ([]byte, unlocked) {
	var sealed []byte
	var u unlocked
	var errs []error
	for i, c := range copies {
		data, err := c.Get(ctx, r.Object, 0, -1)
		sum := seal.Hash(data)
		if err == nil && hex.EncodeToString(sum[:]) != r.Hash {
			err = fmt.Errorf("is not what the vault's header pins: %w", seal.ErrWrong)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", unitName(ctx, c, i), r.Object, err))
			continue
		}
		sealed = data
		u.copies++
	}
	u.problems = errors.Join(errs...)
	return sealed, u
}

// Passphrases and other secrets that open something are tried in turn; opens
// tells which of them opens what was wrapped for a passphrase recipient.
func opens(ctx context.Context, copies []blob.Store, r recipient, passphrases []backstay.Secret) (backstay.Secret, bool) {
	sealed, _ := pinned(ctx, copies, r)
	for _, p := range passphrases {
		ids, err := parseIdentities(Passphrase(p))
		if err != nil || sealed == nil {
			continue
		}
		if _, err := ids[0].unwrap(sealed); err == nil {
			return p, true
		}
	}
	return backstay.Secret{}, false
}
