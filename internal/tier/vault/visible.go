package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// vouched tells what the chain says of a manifest with this root: err if the
// point is not to be offered. If the chain itself cannot be read the point is
// offered all the same, on the worst of days, and unchained says why nobody can
// tell whether it is the one that was committed.
func (v *Vault) vouched(ctx context.Context, id backstay.PointID, root [32]byte) (unchained, err error) {
	if !v.chained() {
		return nil, nil
	}
	for _, fresh := range []bool{false, true} {
		st, err := v.chainState(ctx, fresh)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return err, nil
		}
		was, live := st.Live[id]
		switch {
		case live && was == chain.Hash(root):
			return nil, nil
		case !fresh:
			continue // it may have been committed since
		case live:
			return nil, fmt.Errorf("the manifest is not the one that was committed: %w", seal.ErrWrong)
		default:
			return nil, notOffered(id, st)
		}
	}
	return nil, nil
}

// notOffered says why there is a manifest and yet no point.
func notOffered(id backstay.PointID, st chain.State) *backstay.Error {
	e := backstay.Errorf(backstay.CodeUnknownPoint, "the vault has no recovery point %s", id)
	if st.Dropped[id] > 0 {
		return e.Becausef("it was dropped; what is left of it is removed by the next reclaim")
	}
	return e.Becausef("its commit broke off; a retry of its job completes it")
}

// Leftover is a manifest that is not offered.
type Leftover struct {
	Point backstay.PointID
	// Dropped tells a point that was dropped from one whose commit broke off, or
	// is under way.
	Dropped bool
	Reason  string
}

// Leftovers lists the manifests that are in the vault and not offered: removed
// by the next reclaim, or completed by their writer. A vault without a chain has
// none.
func (v *Vault) Leftovers(ctx context.Context) ([]Leftover, error) {
	if !v.chained() {
		return nil, nil
	}
	ids, err := v.listManifests(ctx)
	if err != nil {
		return nil, err
	}
	st, err := v.chainState(ctx, true)
	if err != nil {
		return nil, err
	}
	var left []Leftover
	for _, id := range ids {
		if _, live := st.Live[id]; !live {
			left = append(left, Leftover{Point: id, Dropped: st.Dropped[id] > 0, Reason: notOffered(id, st).Cause})
		}
	}
	return left, nil
}

// listManifests returns the ids of the points of which any copy has a manifest.
func (v *Vault) listManifests(ctx context.Context) ([]backstay.PointID, error) {
	var ids []backstay.PointID
	err := v.store.List(ctx, "points/", func(i blob.Info) error {
		id := backstay.PointID(strings.TrimPrefix(i.Name, "points/"))
		if _, err := point.ParseID(id); err == nil {
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return nil, readError("the list of points", err)
	}
	return ids, nil
}

// DropPoint takes a point out of the vault: the chain says so first, then the
// manifest is removed from every copy. No data object is touched, so no other
// point is (I3). at is the time for the record. It is no error if the point is
// not there. What an earlier drop that broke off left is removed too.
func (v *Vault) DropPoint(ctx context.Context, id backstay.PointID, at time.Time) error {
	if _, err := point.ParseID(id); err != nil {
		return backstay.Errorf(backstay.CodeUnknownPoint, "there is no such recovery point").Because(err)
	}
	if _, err := v.writable(ctx, at); err != nil {
		return err
	}
	ids, err := v.listManifests(ctx)
	if err != nil {
		return err
	}
	st, err := v.chain.Append(ctx, func(st chain.State) (chain.Record, error) {
		_, live := st.Live[id]
		// A manifest that was not committed may be about to be: it is dropped as well.
		if !live && (st.Dropped[id] > 0 || !slices.Contains(ids, id)) {
			return chain.Record{}, nil
		}
		return chain.Record{Op: chain.Drop, Time: at, Point: id}, nil
	})
	if err != nil {
		return chainError(err)
	}
	v.remember(st)
	return v.finishDrops(ctx, st, ids)
}

// finishDrops removes the manifests of points that were dropped.
func (v *Vault) finishDrops(ctx context.Context, st chain.State, ids []backstay.PointID) error {
	var errs []error
	for _, id := range ids {
		if _, live := st.Live[id]; !live && st.Dropped[id] > 0 {
			errs = append(errs, v.removeManifest(ctx, id))
		}
	}
	return errors.Join(errs...)
}
