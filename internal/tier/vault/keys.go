package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// RotateOptions say how the keys are rotated.
type RotateOptions struct {
	// Passphrases are those of the vault's passphrase recipients: to wrap for one
	// again takes the passphrase itself.
	Passphrases []backstay.Secret
	// NoRecovery allows the last recovery recipient to be removed.
	NoRecovery bool
}

// Recipients returns who could open the vault when it was opened.
func (v *Vault) Recipients() []backstay.VaultRecipient { return publicRecipients(v.header) }

// KeyID tells the vault's master key from another's.
func (v *Vault) KeyID() string { return v.keys.ID() }

// Generation returns the number of the newest header when the vault was opened,
// and that header's hash, which the vault's chain keeps.
func (v *Vault) Generation() (uint32, [32]byte) {
	return v.opened.newest.Generation, v.opened.newest.hash()
}

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
	return out, nil
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
func (v *Vault) AddRecipient(ctx context.Context, n NewRecipient) (backstay.VaultKeys, error) {
	if err := n.check(); err != nil {
		return backstay.VaultKeys{}, err
	}
	c, err := v.change(ctx)
	if err != nil {
		return backstay.VaultKeys{}, err
	}
	for _, r := range c.before.Recipients {
		if n.Recipient != "" && r.Recipient == n.Recipient {
			return backstay.VaultKeys{}, backstay.Errorf(backstay.CodeExists, "the recipient can open the vault %s already", c.before.Name).
				Becausef("it is its recipient %s", r.ID)
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
	c, err := v.change(ctx)
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
	c, err := v.change(ctx)
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
			return 0, backstay.Errorf(backstay.CodeUsage, "two recipients are named %q", name).Do("say the id, which `backstay vault key NAME list-recipients` shows")
		}
		at = i
	}
	if at < 0 {
		return 0, backstay.Errorf(backstay.CodeUsage, "the vault %s has no recipient %q", h.Name, name).Do("list them with `backstay vault key %s list-recipients`", h.Name)
	}
	return at, nil
}

// change is the way from one header to the next. Of two changes at a time one
// wins the name of the next generation, the other has changed nothing.
type change struct {
	v      *Vault
	before writtenHeader
	next   header
	stale  []string // wrapped objects that were there before
}

// change begins: every copy must answer, and what an earlier change left half
// done is completed first.
func (v *Vault) change(ctx context.Context) (*change, error) {
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
	c := &change{v: v, before: s.newest}
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
	return proveHeader(ctx, c.v.copies, c.before)
}

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
