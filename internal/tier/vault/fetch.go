package vault

import (
	"context"
	"fmt"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// fetch reads one chunk from whichever place and copy can show it unharmed.
// What it returns was authenticated and its name computed anew (I4).
func (v *Vault) fetch(ctx context.Context, kind chunk.Kind, name chunk.Name) ([]byte, error) {
	places, err := v.places.find(ctx, kind, name)
	if err != nil {
		return nil, err
	}
	object := fmt.Sprintf("chunk %s", name)
	if len(places) == 0 {
		return nil, readError(object, fmt.Errorf("no pack holds it: %w", blob.ErrNotExist))
	}
	var errs []error
	for _, place := range places {
		box, err := pack.Box(v.keys, place.Pack.ID, place.Pack.Epoch)
		if err != nil {
			return nil, err
		}
		for i, c := range v.copies {
			plain, err := v.fetchFrom(ctx, c, box, place)
			if err == nil {
				return plain, nil
			}
			errs = append(errs, fmt.Errorf("%s in %s: %w", place.Pack.ID.Object(), unitName(ctx, c, i), err))
		}
	}
	return nil, readError(fmt.Sprintf("%s (%s)", places[0].Pack.ID.Object(), object), errs...)
}

// fetchFrom reads one chunk from one copy.
func (v *Vault) fetchFrom(ctx context.Context, c blob.Store, box *seal.Box, at index.Place) ([]byte, error) {
	sealed, err := getRange(ctx, c, at.Pack.ID.Object(), blobRange{int64(at.Entry.Offset), int64(at.Entry.Sealed)})
	if err != nil {
		return nil, err
	}
	return pack.Open(v.keys, box, at.Entry, nil, sealed)
}

type blobRange struct{ offset, length int64 }

// getRange is Get that tells a cut-short object, which is damage, from one that
// could not be read: the store's error for a range outside the object does not.
func getRange(ctx context.Context, c blob.Store, object string, r blobRange) ([]byte, error) {
	data, err := c.Get(ctx, object, r.offset, r.length)
	if err == nil {
		if int64(len(data)) != r.length {
			return nil, fmt.Errorf("%d bytes instead of %d: %w", len(data), r.length, seal.ErrWrong)
		}
		return data, nil
	}
	if info, statErr := c.Stat(ctx, object); statErr == nil && info.Size < r.offset+r.length {
		return nil, fmt.Errorf("cut short to %d bytes: %w", info.Size, seal.ErrWrong)
	}
	return nil, err
}

// chunk returns the content of a data chunk, from the cache if it is there.
func (v *Vault) chunk(ctx context.Context, name chunk.Name) ([]byte, error) {
	return v.chunks.get(name, func() ([]byte, error) { return v.fetch(ctx, chunk.Data, name) })
}

// page returns a table page; the zero name stands for zeros.
func (v *Vault) page(ctx context.Context, name chunk.Name, units uint32) (*point.Page, error) {
	if name.IsZero() {
		return point.ZeroPage(units), nil
	}
	p, err := v.pages.get(name, func() (*point.Page, error) {
		data, err := v.fetch(ctx, chunk.Table, name)
		if err != nil {
			return nil, err
		}
		return point.DecodePage(data, units)
	})
	if err != nil {
		return nil, readError(fmt.Sprintf("table page %s", name), err)
	}
	if p.Units != units {
		return nil, readError(fmt.Sprintf("table page %s", name), fmt.Errorf("%d units, want %d: %w", p.Units, units, point.ErrBad))
	}
	return p, nil
}
