package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/vault"
)

// The catalogue is the witness outside the vaults: it keeps the head of each
// vault's chain, so that a vault whose storage units were put back into an older
// state is noticed. Whatever writes or deletes opens a vault through openToWrite
// or writing, which refuse such a vault; what only reads opens it all the same.

// openToWrite opens a vault for writing or deleting, after a look whether all its
// units answer: one that does not is recorded as lost. CodeVaultRolledBack if it is
// in an older state than the catalogue has seen, CodeConflict if one of its
// storage units holds another vault.
func (v *vaults) openToWrite(ctx context.Context, name backstay.VaultName) (*vault.Vault, error) {
	if of, replica := name.Origin(); replica {
		return nil, backstay.Errorf(backstay.CodeConflict, "the vault %s is a replica, which is not written here", name).
			Becausef("it holds what the region %s pushes", of.Region).
			Do("protect VMs of this region in a vault of its own; the replica's retention is set with `backstay vault set %s keep-days=N keep-points=N`", name)
	}
	if _, err := v.lostMeanwhile(ctx, name); err != nil {
		return nil, err
	}
	opened, err := v.open(ctx, name)
	if err != nil {
		return nil, err
	}
	err = opened.Unmixed(ctx)
	if err == nil {
		err = v.witness(ctx, name, opened)
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return opened, nil
}

// writing returns what a mover needs to write into the vault, as access does,
// after the same look at it.
func (v *vaults) writing(ctx context.Context, name backstay.VaultName) (mover.VaultAccess, error) {
	opened, err := v.openToWrite(ctx, name)
	if err != nil {
		return mover.VaultAccess{}, err
	}
	if err := opened.Close(); err != nil {
		return mover.VaultAccess{}, fmt.Errorf("close vault %s: %w", name, err)
	}
	return v.access(ctx, name)
}

// witness compares a vault with what the catalogue has seen of it, and then
// remembers what it is now.
func (v *vaults) witness(ctx context.Context, name backstay.VaultName, opened *vault.Vault) error {
	entry, err := v.entry(ctx, name)
	if err != nil {
		return err
	}
	if entry.Origin != nil {
		return nil // its chain is compared with what was seen when it is offered, and judges no point
	}
	if entry.Head != nil {
		if err := opened.Expect(ctx, *entry.Head); err != nil {
			return err
		}
	}
	head, err := opened.Head(ctx)
	if err != nil {
		return err
	}
	return v.saw(ctx, name, head)
}

// runRebuild makes the catalogue agree with a vault, the witness included: who asks
// for it says that the vault as it is now is what counts.
func (e *engines) runRebuild(ctx context.Context, run backstay.Run, params backstay.RebuildParams) error {
	if _, replica := params.Vault.Origin(); replica {
		return e.rebuildReplica(ctx, run, params.Vault)
	}
	if err := e.rebuild.Run(ctx, run, params); err != nil {
		return err
	}
	warning, err := e.region.vaults.accept(ctx, params.Vault)
	if err != nil || warning == "" {
		return err
	}
	return run.Warn(warning)
}

// accept takes the state of a vault as the one that counts from now on. It says
// what was wrong with it; "" if nothing was.
func (v *vaults) accept(ctx context.Context, name backstay.VaultName) (warning string, err error) {
	opened, err := v.open(ctx, name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	err = v.witness(ctx, name, opened)
	switch {
	case backstay.IsCode(err, backstay.CodeDamaged):
		return err.Error(), nil // what the points are is known all the same
	case !backstay.IsCode(err, backstay.CodeVaultRolledBack):
		return "", err
	}
	head, headErr := opened.Head(ctx)
	if headErr != nil {
		return "", headErr
	}
	warning = fmt.Sprintf("%v; from now on this state counts, and what was newer is lost to the vault", err)
	return warning, v.change(ctx, name, func(entry *backstay.Vault) bool {
		entry.Head = &head
		return true
	})
}

// saw remembers a head of a vault's chain, unless a later one was seen.
func (v *vaults) saw(ctx context.Context, name backstay.VaultName, head backstay.VaultHead) error {
	return v.change(ctx, name, func(entry *backstay.Vault) bool {
		if head.Seq == 0 || entry.Head != nil && entry.Head.Seq >= head.Seq {
			return false
		}
		entry.Head = &head
		return true
	})
}

// change changes a vault's row in the catalogue. One server has the catalogue,
// so its own lock keeps two changes apart.
func (v *vaults) change(ctx context.Context, name backstay.VaultName, change func(*backstay.Vault) bool) error {
	v.rows.Lock()
	defer v.rows.Unlock()
	entry, err := v.entry(ctx, name)
	if err != nil {
		return err
	}
	if !change(&entry) {
		return nil
	}
	if err := v.catalog.Vaults.UpdateVault(ctx, entry); err != nil {
		return fmt.Errorf("record vault %s: %w", name, err)
	}
	return nil
}

// problem says why a point cannot be read from the vault, or what to be warned
// of if it can; "" for nothing.
func (v *vaults) problem(ctx context.Context, name backstay.VaultName, point backstay.PointID) (problem, warning string) {
	opened, err := v.open(ctx, name)
	if err != nil {
		return backstay.AsError(err).Error(), ""
	}
	defer func() { _ = opened.Close() }() // nothing was written
	p, err := opened.OpenPoint(ctx, point)
	if err != nil {
		return backstay.AsError(err).Error(), ""
	}
	why := p.Header().Unchained
	if why == nil {
		why = v.witness(ctx, name, opened)
	}
	if why != nil {
		return "", fmt.Sprintf("nobody can vouch that the point is as it was committed: %s", backstay.AsError(why).Error())
	}
	return "", ""
}

// dropping is a vault from which points are dropped; the catalogue learns of
// each drop.
type dropping struct {
	*vault.Vault
	vaults *vaults
	name   backstay.VaultName
}

// DropPoint implements expire.Vault.
func (d dropping) DropPoint(ctx context.Context, id backstay.PointID, at time.Time) error {
	if err := d.Vault.DropPoint(ctx, id, at); err != nil {
		return err
	}
	head, err := d.Head(ctx)
	if err != nil {
		return err
	}
	return d.vaults.saw(ctx, d.name, head)
}
