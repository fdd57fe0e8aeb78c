package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// change is the way from one header to the next. Of two changes at a time one
// wins the name of the next generation, the other has changed nothing.
type change struct {
	v      *Vault
	now    time.Time
	before writtenHeader
	next   header
	stale  []string // wrapped objects that were there before
}

// change begins: every copy must answer, and what an earlier change left half
// done is completed first.
func (v *Vault) change(ctx context.Context, now time.Time) (*change, error) {
	if err := v.own(); err != nil {
		return nil, err
	}
	s, err := headerState(ctx, v.copies, v.header.ID, v.keys)
	if err != nil {
		return nil, err
	}
	for _, c := range s.copies {
		if c.away != nil {
			return nil, readError(headerObject, c.away)
		}
	}
	if s.newest.Epoch != v.keys.Newest() {
		return nil, seal.ErrNewerKey
	}
	told, err := chain.Open(v.store, v.keys.ChainMAC).Read(ctx)
	if err == nil {
		err = s.newest.follows(told)
	}
	if err != nil {
		return nil, err
	}
	c := &change{v: v, now: now, before: s.newest}
	if err := c.complete(ctx); err != nil {
		return nil, err
	}
	// What is listed now can be deleted later: another change that begins after
	// this one has its objects listed nowhere here.
	err = v.store.List(ctx, keyFolder, func(i blob.Info) error {
		c.stale = append(c.stale, i.Name)
		return nil
	})
	if err != nil {
		return nil, readError("the list of wrapped keys", err)
	}
	sum := c.before.hash()
	c.next = c.before.header
	c.next.Version, c.next.Generation, c.next.Previous = headerVersion, c.before.Generation+1, hex.EncodeToString(sum[:])
	return c, nil
}

// complete puts the newest header, and what it pins, where it is missing.
func (c *change) complete(ctx context.Context) error {
	for _, r := range c.before.Recipients {
		sealed, u := pinned(ctx, c.v.copies, r)
		if u.problems == nil {
			continue
		}
		if sealed == nil {
			return readError(r.Object, u.problems)
		}
		if err := putEverywhere(ctx, c.v.copies, r.Object, sealed); err != nil {
			return err
		}
	}
	if err := putEverywhere(ctx, c.v.copies, headerName(c.before.Generation), c.before.data); err != nil {
		return err
	}
	if err := proveHeader(ctx, c.v.copies, c.before); err != nil {
		return err
	}
	return c.record(ctx, c.before)
}

// record tells the vault's chain of a header that is durable, so that taking it
// away again is noticed. A chain that has no record yet is not begun with it.
func (c *change) record(ctx context.Context, f writtenHeader) error {
	_, err := chain.Open(c.v.store, c.v.keys.ChainMAC).Append(ctx, func(s chain.State) (chain.Record, error) {
		if s.Seq == 0 {
			return chain.Record{}, nil
		}
		if s.HeaderGeneration >= f.Generation {
			return chain.Record{}, f.follows(s)
		}
		return chain.Record{Time: c.now, Op: chain.Keys, Generation: f.Generation, Object: headerName(f.Generation), Hash: f.hash()}, nil
	})
	return err
}

// follows demands that the chain knows no other header of this generation, and
// none that is newer.
func (f writtenHeader) follows(s chain.State) error {
	if s.HeaderGeneration > f.Generation || s.HeaderGeneration == f.Generation && s.HeaderHash != f.hash() {
		return backstay.Errorf(backstay.CodeVaultRolledBack, "the vault %s does not have the header that its chain tells of", f.Name).
			Becausef("the chain has %s as the newest, the storage units have %s", headerName(s.HeaderGeneration), headerName(f.Generation))
	}
	return nil
}

// Follows demands that the header with which the vault was opened is not older
// than what the vault's chain tells: CodeVaultRolledBack.
func (v *Vault) Follows(s chain.State) error { return v.opened.newest.follows(s) }

// rotate wraps a keyset with one epoch more for the given recipients.
func (c *change) rotate(ctx context.Context, o RotateOptions, recipients []recipient) (backstay.Secret, backstay.VaultKeys, error) {
	none := backstay.Secret{}
	again, err := c.rewrappable(ctx, recipients, o.Passphrases)
	if err != nil {
		return none, backstay.VaultKeys{}, err
	}
	keyset, err := c.v.keys.Rotated()
	if err != nil {
		return none, backstay.VaultKeys{}, err
	}
	keys, err := seal.NewKeys(c.next.ID, keyset)
	if err != nil {
		return none, backstay.VaultKeys{}, err
	}
	c.next.Epoch, c.next.Recipients = keys.Newest(), nil
	for i, n := range again {
		r, err := putWrapped(ctx, c.v.store, n, keyset)
		if err != nil {
			return none, backstay.VaultKeys{}, err
		}
		r.ID = recipients[i].ID
		c.next.Recipients = append(c.next.Recipients, r)
	}
	said, err := c.commit(ctx, keys)
	if err != nil {
		return none, said, err
	}
	return keyset, said, nil
}

// rewrappable gathers what it takes to wrap for each recipient again.
func (c *change) rewrappable(ctx context.Context, recipients []recipient, passphrases []backstay.Secret) ([]NewRecipient, error) {
	var out []NewRecipient
	for _, r := range recipients {
		n := NewRecipient{Recipient: r.Recipient, Purpose: r.Purpose, Label: r.Label}
		if r.Kind == backstay.KindPassphrase {
			p, ok := opens(ctx, c.v.copies, r, passphrases)
			if !ok {
				return nil, backstay.Errorf(backstay.CodeConflict, "the keys of the vault %s cannot be rotated without the passphrase of its recipient %s", c.next.Name, cmpLabel(r)).
					Becausef("what is wrapped for a passphrase can only be wrapped anew with that passphrase, and none that was given is it").
					Do("give it with --passphrase-file, or remove the recipient")
			}
			n.Passphrase = p
		}
		out = append(out, n)
	}
	return out, nil
}

func cmpLabel(r recipient) string {
	if r.Label != "" {
		return fmt.Sprintf("%s (%s)", r.ID, r.Label)
	}
	return r.ID
}

// commit puts the next header into one copy after the other, the arbiter first.
// A header that was seen anywhere is never taken back: somebody may have begun
// to seal with its keys. Only when it is proved in all copies, the wrapped
// objects that it does not pin are deleted.
func (c *change) commit(ctx context.Context, keys *seal.Keys) (backstay.VaultKeys, error) {
	f, err := encodeHeader(keys, c.next)
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	for _, r := range c.next.Recipients {
		if _, u := pinned(ctx, c.v.copies, r); u.problems != nil {
			return backstay.VaultKeys{}, backstay.Errorf(backstay.CodeValidateFailed, "a wrapped key is not what was written").Because(u.problems)
		}
	}
	if err := putEverywhere(ctx, c.v.copies, headerName(c.next.Generation), f.data); err != nil {
		return backstay.VaultKeys{}, err
	}
	if err := proveHeader(ctx, c.v.copies, f); err != nil {
		return backstay.VaultKeys{}, err
	}
	said := c.v.say(f)
	if err := c.record(ctx, f); err != nil {
		said.Problems = append(said.Problems, fmt.Sprintf("the vault's chain does not tell of the new keys yet: %v", err))
	}
	for _, object := range c.stale {
		if slices.ContainsFunc(c.next.Recipients, func(r recipient) bool { return r.Object == object }) {
			continue
		}
		if err := c.v.store.Delete(ctx, object); err != nil {
			said.Problems = append(said.Problems, fmt.Sprintf("the superseded %s could not be deleted: %v", object, err))
		}
	}
	return said, nil
}

// putWrapped wraps a keyset for a recipient and puts it into every copy.
func putWrapped(ctx context.Context, s blob.Store, n NewRecipient, keyset backstay.Secret) (recipient, error) {
	sealed, kind, err := n.wrap(keyset)
	if err != nil {
		return recipient{}, err
	}
	sum := seal.Hash(sealed)
	object := keyObject(sum)
	if err := s.Put(ctx, object, sealed); err != nil {
		return recipient{}, writeError(object, err)
	}
	return recipient{Recipient: n.Recipient, Object: object, Hash: hex.EncodeToString(sum[:]), Kind: kind, Purpose: n.Purpose,
		Label: n.Label, ID: recipientID(object)}, nil
}

// putEverywhere puts an object into one copy after the other, the first of which
// decides between two writers. The same bytes there already are no error.
func putEverywhere(ctx context.Context, copies []blob.Store, object string, data []byte) error {
	for _, c := range copies {
		err := c.Put(ctx, object, data)
		if !errors.Is(err, blob.ErrExist) {
			if err != nil {
				return writeError(object, err)
			}
			continue
		}
		there, err := c.Get(ctx, object, 0, -1)
		if err != nil {
			return readError(object, err)
		}
		if !bytes.Equal(there, data) {
			return backstay.Errorf(backstay.CodeConflict, "%s is there already, and is another one", object).
				Becausef("the vault's keys are changed by somebody else, or a copy of them is damaged").
				Do("try again; if it stays, see `backstay vault key NAME list-recipients`")
		}
	}
	return nil
}

// proveHeader reads a header and everything that it pins back from every copy: a
// key that is not there when it is needed is worse than no vault.
func proveHeader(ctx context.Context, copies []blob.Store, f writtenHeader) error {
	object := headerName(f.Generation)
	for i, c := range copies {
		got, err := c.Get(ctx, object, 0, -1)
		if err != nil || !bytes.Equal(got, f.data) {
			return validateError(ctx, c, i, object, err)
		}
		for _, r := range f.Recipients {
			got, err := c.Get(ctx, r.Object, 0, -1)
			sum := seal.Hash(got)
			if err != nil || hex.EncodeToString(sum[:]) != r.Hash {
				return validateError(ctx, c, i, r.Object, err)
			}
		}
	}
	return nil
}
