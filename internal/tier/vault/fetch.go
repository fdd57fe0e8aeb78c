package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// ref is a chunk as a page or a manifest refers to it.
type ref struct {
	kind chunk.Kind
	name chunk.Name
	at   point.Place // a hint
}

// fetch reads one chunk: where its page says it is, or else wherever the index
// knows it to be, from whichever copy can show it unharmed. What it returns was
// authenticated and its name computed anew (I4).
func (v *Vault) fetch(ctx context.Context, r ref) ([]byte, error) {
	plain, err := v.seek(ctx, r)
	if backstay.IsCode(err, backstay.CodeDamaged) && blob.CachedAllowed(ctx) {
		// A cache keeps what it was given, and that may have been wrong on its way:
		// only the stores themselves can show damage (I5).
		return v.seek(blob.Uncached(ctx), r)
	}
	return plain, err
}

// seek is fetch with what the context's caches say.
func (v *Vault) seek(ctx context.Context, r ref) ([]byte, error) {
	r.at = v.current(ctx, r)
	var errs []error
	tried := map[pack.ID]bool{}
	var before point.Place
	try := func(places []point.Place) []byte {
		for _, at := range places {
			if at == before {
				continue
			}
			tried[at.Pack] = true
			plain, err := v.fetchAt(ctx, r, at)
			if err == nil {
				return plain
			}
			errs = append(errs, err)
		}
		return nil
	}
	if r.at.Known() {
		if plain := try([]point.Place{r.at}); plain != nil {
			return plain, nil
		}
		before = r.at
	}
	for _, look := range []func() ([]point.Place, error){
		func() ([]point.Place, error) { return v.places.find(ctx, r.kind, r.name) },
		func() ([]point.Place, error) { return v.elsewhere(ctx, r, tried) },
	} {
		places, err := look()
		if err != nil {
			return nil, err
		}
		if plain := try(places); plain != nil {
			return plain, nil
		}
	}
	if len(errs) == 0 {
		errs = append(errs, fmt.Errorf("no pack holds it: %w", blob.ErrNotExist))
	}
	object := fmt.Sprintf("chunk %s", r.name)
	if r.at.Known() {
		object = fmt.Sprintf("%s (%s)", r.at.Pack.Object(), object)
	}
	return nil, readError(object, errs...)
}

// readFrom is a copy that a chunk may be read from.
type readFrom struct {
	copy  blob.Store
	index int
	lacks bool // it may lack what others have
}

// readOrder returns the copies in the order in which they are asked for a chunk:
// those that are being filled behind those that have everything, and last those
// that are not kept up.
func (v *Vault) readOrder() []readFrom {
	var first, later []readFrom
	for _, i := range v.preferred() {
		if c := v.copies[i]; slices.Contains(v.joining, i) {
			later = append(later, readFrom{c, i, true})
		} else {
			first = append(first, readFrom{c, i, false})
		}
	}
	for i, c := range v.spare {
		later = append(later, readFrom{c, len(v.copies) + i, true})
	}
	return append(first, later...)
}

// preferred are the numbers of the copies in the order in which the store would have
// them read.
func (v *Vault) preferred() []int {
	if p, ok := v.store.(blob.Preferring); ok {
		return p.ReadOrder()
	}
	order := make([]int, len(v.copies))
	for i := range order {
		order[i] = i
	}
	return order
}

// readEnded tells the store what came of reading from one of its copies.
func (v *Vault) readEnded(ctx context.Context, from readFrom, err error) {
	if p, ok := v.store.(blob.Preferring); ok && from.index < len(v.copies) && ctx.Err() == nil {
		p.ReadEnded(from.index, err)
	}
}

// fetchAt reads a chunk at one place, from one copy after the other.
func (v *Vault) fetchAt(ctx context.Context, r ref, at point.Place) ([]byte, error) {
	box, err := pack.Box(v.keys, at.Pack, at.Epoch)
	if err != nil {
		return nil, err
	}
	e := at.Entry(r.kind, r.name)
	var wrong, unread []error
	var units []string // that were wrong
	for _, from := range v.readOrder() {
		i, c := from.index, from.copy
		sealed, err := getRange(ctx, c, at.Pack.Object(), blobRange{int64(e.Offset), int64(e.Sealed)})
		v.readEnded(ctx, from, err)
		if err == nil {
			var plain []byte
			if plain, err = pack.Open(v.keys, box, e, nil, sealed); err == nil {
				v.sawDamage(at.Pack.Object(), units)
				return plain, nil
			}
		}
		unit := unitName(ctx, c, i)
		err = fmt.Errorf("%s in %s: %w", at.Pack.Object(), unit, err)
		switch {
		case from.lacks && errors.Is(err, blob.ErrNotExist):
			wrong = append(wrong, err) // it may lack it: nothing is to be mended
		case damaged(err):
			wrong, units = append(wrong, err), append(units, unit)
		default:
			unread = append(unread, err)
		}
	}
	if len(unread) > 0 {
		return nil, errors.Join(unread...) // not "damaged": another copy may be sound (I5)
	}
	return nil, errors.Join(wrong...)
}

// sawDamage tells of copies of an object that were wrong where another was not.
func (v *Vault) sawDamage(object string, units []string) {
	if v.onDamage == nil {
		return
	}
	for _, unit := range units {
		v.onDamage(object, unit)
	}
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
func (v *Vault) chunk(ctx context.Context, name chunk.Name, at point.Place) ([]byte, error) {
	return v.chunks.get(ctx, name, func() ([]byte, error) { return v.fetch(ctx, ref{chunk.Data, name, at}) })
}

// page returns a table page; the zero name stands for zeros.
func (v *Vault) page(ctx context.Context, name chunk.Name, at point.Place, units uint32) (*point.Page, error) {
	if name.IsZero() {
		return point.ZeroPage(units), nil
	}
	p, err := v.pages.get(ctx, name, func() (*point.Page, error) {
		data, err := v.fetch(ctx, ref{chunk.Table, name, at})
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
