package vault

import (
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// Create makes a vault in an empty store and returns its keyset. The wrapped
// keys are written first and the header last, put-if-absent: a vault that was
// half made is none, and making it again with the same options works.
// CodeExists if there is a vault already, CodeNoRecovery if no recipient is for
// recovery and the options do not say that none shall be.
func Create(ctx context.Context, s blob.Store, o CreateOptions) (backstay.Secret, error) {
	none := backstay.Secret{}
	if err := o.Check(); err != nil {
		return none, err
	}
	if _, err := s.Stat(ctx, headerObject); err == nil {
		return none, backstay.Errorf(backstay.CodeExists, "there is a vault in this place already").
			Becausef("its storage units hold the header of one").Do("choose empty storage units")
	} else if !errors.Is(err, blob.ErrNotExist) {
		return none, readError(headerObject, err)
	}
	keyset, err := seal.NewKeyset(o.ID).Encode()
	if err != nil {
		return none, err
	}
	keys, err := seal.NewKeys(o.ID, keyset)
	if err != nil {
		return none, backstay.Errorf(backstay.CodeUsage, "the vault cannot be made").Because(err)
	}
	h := header{Format: formatName, Version: headerVersion, ID: o.ID, Name: o.Name, Created: o.Created.UTC().Round(0),
		Redundancy: o.Redundancy, Epoch: firstEpoch, Generation: 1, Chained: true}
	for _, n := range o.Recipients {
		r, err := putWrapped(ctx, s, n, keyset)
		if err != nil {
			return none, err
		}
		h.Recipients = append(h.Recipients, r)
	}
	f, err := encodeHeader(keys, h)
	if err != nil {
		return none, err
	}
	err = s.Put(ctx, headerObject, f.data)
	if errors.Is(err, blob.ErrExist) {
		return none, backstay.Errorf(backstay.CodeExists, "another vault was made in this place meanwhile").Because(err).Do("choose empty storage units")
	}
	if err != nil {
		return none, writeError(headerObject, err)
	}
	if err := proveHeader(ctx, copiesOf(s), f); err != nil {
		return keyset, err
	}
	return keyset, startChain(ctx, s, keys, f)
}

// Check refuses a vault that nobody could open, and one that only its server
// could, unless that is wanted. Create does it too, before it writes anything.
func (o CreateOptions) Check() error {
	if len(o.Recipients) == 0 {
		return backstay.Errorf(backstay.CodeUsage, "a vault needs at least one recipient").
			Becausef("without one nobody could ever open it").Do("name a recovery key's recipient")
	}
	recovery := 0
	seen := map[string]bool{}
	for _, r := range o.Recipients {
		if err := r.check(); err != nil {
			return err
		}
		if r.Recipient != "" && seen[r.Recipient] {
			return backstay.Errorf(backstay.CodeUsage, "the recipient %s is named twice", r.Recipient)
		}
		seen[r.Recipient] = true
		if r.Purpose == backstay.ForRecovery {
			recovery++
		}
	}
	if recovery == 0 && !o.NoRecovery {
		return noRecoveryLeft()
	}
	return nil
}

// noRecoveryLeft says what it means to have no recovery recipient.
func noRecoveryLeft() *backstay.Error {
	return backstay.Errorf(backstay.CodeNoRecovery, "the vault would have no recovery recipient").
		Becausef("if this server and its keys are lost, every recovery point in the vault is lost with them: nobody, its makers included, could open it")
}
