package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// EscrowCheck proves, from the storage units alone, that an identity (see
// Unwrap) opens the newest keys of the vault in the store, and that with them
// the manifest of the newest point and the first pack that it needs decode. It
// writes nothing. An error says that the identity is of no use: CodeVaultKey if
// it is another vault's or was removed, CodeDamaged if what was wrapped for it, or
// all that was looked at, is damaged in every copy. What is wrong with single
// copies is in the result's Problems.
func EscrowCheck(ctx context.Context, s blob.Store, identity backstay.Secret) (backstay.EscrowResult, error) {
	copies := copiesOf(s)
	u, err := unlock(ctx, copies, identity)
	if err != nil {
		return backstay.EscrowResult{}, err
	}
	out := backstay.EscrowResult{Vault: u.header.Name, KeyID: u.keys.ID(), Recipient: u.recipient.public(), Generation: u.header.Generation,
		Epoch: u.header.Epoch, Copies: u.copies, Want: len(copies), Checked: []string{headerName(u.header.Generation), u.recipient.Object}, Problems: []string{}}
	v, err := Open(ctx, s, u.header.ID, u.keyset)
	if err != nil {
		return out, err
	}
	out.Problems = append(out.Problems, v.Problems(ctx)...)
	if _, p := pinned(ctx, copies, u.recipient); p.problems != nil {
		out.Problems = append(out.Problems, p.problems.Error())
	}
	checked, err := v.decodeOne(ctx)
	if err != nil {
		return out, err
	}
	if len(checked) == 0 {
		out.Problems = append(out.Problems, "the vault has no recovery point yet: only its keys were proved")
	}
	out.Checked = append(out.Checked, checked...)
	out.OK = true
	return out, nil
}

// decodeOne decodes the newest manifest that it can, and a pack that it needs.
// It returns their names; none if there are no points.
func (v *Vault) decodeOne(ctx context.Context) ([]string, error) {
	var ids []backstay.PointID
	err := v.store.List(ctx, "points/", func(i blob.Info) error {
		ids = append(ids, backstay.PointID(i.Name[len("points/"):]))
		return nil
	})
	if err != nil {
		return nil, readError("the list of points", err)
	}
	var errs []error
	for _, id := range slices.Backward(ids) {
		p, err := v.OpenPoint(ctx, id)
		if backstay.IsCode(err, backstay.CodeUnknownPoint) {
			continue // dropped since, or never committed
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		checked := []string{point.Object(id)}
		if len(p.packs) == 0 {
			return checked, nil // a point of zeros
		}
		if err := v.decodePack(ctx, p.packs[0]); err != nil {
			errs = append(errs, err)
			continue
		}
		return append(checked, p.packs[0].Object()), nil
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return nil, nil
}

// decodePack sends every chunk of a pack through the decoder, from the first
// copy in which they are sound.
func (v *Vault) decodePack(ctx context.Context, id pack.ID) error {
	var errs []error
	for i, c := range v.copies {
		data, err := c.Get(ctx, id.Object(), 0, -1)
		if err == nil {
			_, err = pack.Verify(v.keys, id, data)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", unitName(ctx, c, i), err))
	}
	return readError(id.Object(), errs...)
}
