package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// provesItself tells whether an object that passes its check is the one that the
// others have: its name is random and in its bytes. Any other is compared.
func provesItself(name string) bool {
	return strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "indexes/")
}

// one brings one object into the copy. absent: its listing does not have it.
func (f *filler) one(ctx context.Context, name string, absent bool) error {
	id, isPack := packOf(name)
	f.mu.Lock()
	done := isPack && f.proved[id]
	f.mu.Unlock()
	if done {
		return nil
	}
	if !absent && provesItself(name) {
		found, err := f.judge(ctx, name, nil)
		if err != nil {
			return err
		}
		if found.state == CopySound && found.word {
			f.note(name, nil)
			return nil
		}
	}
	good, err := f.source(ctx, name)
	if err != nil || good == nil {
		return err
	}
	return f.bring(ctx, name, good)
}

// note remembers what was proved to be in the copy.
func (f *filler) note(name string, change func(*FillReport)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id, ok := packOf(name); ok {
		f.proved[id] = true
	}
	if change != nil {
		change(&f.report)
	}
}

// judge reads the object in the copy. A copy that cannot be read is an error:
// nothing can be filled in there (I5).
func (f *filler) judge(ctx context.Context, name string, right *[32]byte) (judgement, error) {
	found, err := f.to.judge(ctx, 0, &look{Damage: Damage{Object: name}}, right)
	if err == nil && found.state == CopyUnreadable {
		err = backstay.Errorf(backstay.CodeVaultAway, "%s could not be read from %s", name, unitName(ctx, f.store, 0)).Becausef("%s", found.why)
	}
	return found, err
}

// source returns the bytes of an object from a copy that shows it sound; nil if
// there is none, or none any more.
func (f *filler) source(ctx context.Context, name string) ([]byte, error) {
	first := 0
	if id, ok := packOf(name); ok {
		first = int(id[15])
	}
	absent := 0
	for j := range f.from.copies {
		data, err := f.from.copies[(first+j)%len(f.from.copies)].Get(ctx, name, 0, -1)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("fill a copy: %w", context.Cause(ctx))
		}
		if errors.Is(err, blob.ErrNotExist) {
			absent++
		}
		if err != nil {
			continue
		}
		if err := f.pace(ctx, len(data)); err != nil {
			return nil, err
		}
		now := f.from.weigh(name, data, nil)
		if now.state == CopySound && now.word {
			return data, nil
		}
		if now.state == CopySound {
			break // only the copies together tell
		}
		f.note("", func(r *FillReport) { r.Bad = append(r.Bad, name) })
	}
	if absent == len(f.from.copies) && !f.must(name) {
		return nil, nil // removed since it was listed
	}
	k, err := f.from.look(ctx, name, make([]error, len(f.from.copies)))
	if err != nil || k.good != nil {
		return k.good, err
	}
	if slices.Contains(k.Copies, CopyUnreadable) {
		return nil, backstay.Errorf(backstay.CodeVaultAway, "%s could not be read from the vault", name).Becausef("%s", k.Damage)
	}
	if !k.gone() || f.must(name) {
		f.note("", func(r *FillReport) { r.Unsound = append(r.Unsound, name) })
	}
	return nil, nil
}

// must tells whether the vault cannot do without an object.
func (f *filler) must(name string) bool {
	if id, ok := packOf(name); ok {
		_, needed := slices.BinarySearchFunc(f.from.needed, id, comparePacks)
		return needed
	}
	if id, ok := strings.CutPrefix(name, "points/"); ok {
		_, live := f.from.live[backstay.PointID(id)]
		return live
	}
	return slices.Contains(f.from.certain, name)
}

func (f *filler) pace(ctx context.Context, n int) error {
	if f.o.Pace == nil {
		return nil
	}
	return f.o.Pace(ctx, n)
}

// bring makes the copy have these bytes, and reads them back.
func (f *filler) bring(ctx context.Context, name string, good []byte) error {
	right := seal.Hash(good)
	replaced := false
	for range condemning {
		err := f.store.Put(ctx, name, good)
		if err != nil && !errors.Is(err, blob.ErrExist) {
			return writeError(name, err)
		}
		wrote := err == nil
		found, err := f.judge(ctx, name, &right)
		if err != nil {
			return err
		}
		if found.state == CopySound {
			f.note(name, func(r *FillReport) {
				if !wrote {
					return
				}
				r.Copied++
				r.Bytes += int64(len(good))
				if replaced {
					r.Replaced++
				}
			})
			return f.takeBack(ctx, name, wrote)
		}
		// Something else is in its place, or what was written reads otherwise.
		if err := f.store.Delete(ctx, name); err != nil {
			return writeError(name, err)
		}
		replaced = true
	}
	return backstay.Errorf(backstay.CodeValidateFailed, "%s is not what was written to %s", name, unitName(ctx, f.store, 0)).
		Becausef("it was written %d times and read back otherwise", condemning)
}

// takeBack removes what was brought if the vault removed it meanwhile: nobody
// else would.
func (f *filler) takeBack(ctx context.Context, name string, wrote bool) error {
	if !wrote {
		return nil
	}
	gone, err := f.gone(ctx, name)
	if err != nil || !gone || f.must(name) {
		return err
	}
	if err := f.store.Delete(ctx, name); err != nil {
		return writeError(name, err)
	}
	return nil
}

// chain brings the records of the chain into the copy.
func (f *filler) chain(ctx context.Context, have map[string]int64) error {
	settled, err := f.each(ctx, func(name string, data []byte) error {
		if name <= f.o.From {
			return nil
		}
		if _, ok := have[name]; ok {
			there, err := f.store.Get(ctx, name, 0, -1)
			if err == nil && bytes.Equal(there, data) {
				f.note("", func(r *FillReport) { r.Objects++; r.Next = name })
				return nil
			}
		}
		if err := f.bring(ctx, name, data); err != nil {
			return err
		}
		f.note("", func(r *FillReport) { r.Objects++; r.Next = name })
		return nil
	})
	f.settled = settled
	return err
}

// removeUnsettled removes from a copy that nobody writes to the records behind those
// that are sure to stay. One that lost its place could win it in this copy, and
// whoever appends next puts the right one here.
func (f *filler) removeUnsettled(ctx context.Context) error {
	var names []string
	err := f.store.List(ctx, chain.Prefix, func(i blob.Info) error {
		if seq, err := chain.ParseObject(i.Name); err == nil && seq > f.settled {
			names = append(names, i.Name)
		}
		return nil
	})
	if err != nil {
		return readError("the list of the chain's records", err)
	}
	for _, name := range slices.Backward(names) {
		if err := f.store.Delete(ctx, name); err != nil {
			return writeError(name, err)
		}
	}
	return nil
}
