package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// provesAhead is how many packs are read back at once: each takes up to 16 MiB
// of memory.
const provesAhead = 2

// validateError says which copy of what does not hold what was written.
func validateError(ctx context.Context, c blob.Store, i int, object string, cause error) error {
	if cause != nil && !damaged(cause) {
		return readError(object, cause)
	}
	if cause == nil {
		cause = fmt.Errorf("read back other bytes than were written")
	}
	return backstay.Errorf(backstay.CodeValidateFailed, "%s in %s is not what was written", object, unitName(ctx, c, i)).Because(cause)
}

// keepTable keeps an encoded table page for the end of the transfer. The caller
// holds mu.
func (w *Writer) keepTable(t encodedTable) error {
	for _, o := range w.tables {
		if o.name == t.name {
			return nil
		}
	}
	w.tables = append(w.tables, t)
	w.kept += len(t.encoded)
	if w.kept < tablesKept {
		return nil
	}
	return w.packTables()
}

// packTables puts the kept table pages side by side. The caller holds mu.
func (w *Writer) packTables() error {
	for _, t := range w.tables {
		id, _, err := w.addChunk(chunk.Table, t.name, t)
		if err != nil {
			return err
		}
		w.refs[id] = true
	}
	w.tables, w.kept = nil, 0
	return nil
}

// Commit proves what the transfer put and makes the point visible. The order is
// that of I2: packs durable in all copies; every new pack read back from every
// copy, each chunk through the decoder and named anew; index; manifest last, put
// only if absent. CodeValidateFailed names the object and the storage unit that
// differ; CodeConflict means that another writer committed this point first.
// After any error the point is not in the vault, and the Writer has ended.
func (w *Writer) Commit(ctx context.Context, facts backstay.RecoveryPoint, def tier.Definition) (CommitStats, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stats := CommitStats{Copies: len(w.v.copies)}
	if w.ended {
		return stats, fmt.Errorf("commit point %s: the transfer has ended", w.o.Point)
	}
	w.ended = true
	defer w.cancel()
	if err := w.finishPuts(); err != nil {
		return stats, err
	}
	packs, err := w.prove(ctx, &stats)
	if err != nil {
		return stats, err
	}
	packs = append(packs, w.resumedInUse()...)
	stats.Packs = len(packs)
	if err := w.putIndexes(ctx, packs, &stats); err != nil {
		return stats, err
	}
	if err := w.putManifest(ctx, facts, def, &stats); err != nil {
		return stats, err
	}
	w.v.places.add(packs)
	return stats, nil
}

// finishPuts sends what is left and waits until all packs are durable.
func (w *Writer) finishPuts() error {
	if err := errors.Join(w.failed(), w.packTables()); err != nil {
		return err
	}
	if err := w.finishPack(); err != nil {
		return err
	}
	return w.puts.Wait()
}

func (w *Writer) resumedInUse() []pack.Directory {
	var used []pack.Directory
	for _, d := range w.resumed {
		if w.refs[d.ID] {
			used = append(used, d)
		}
	}
	return used
}

// prove reads every new pack back from every copy.
func (w *Writer) prove(ctx context.Context, stats *CommitStats) ([]pack.Directory, error) {
	w.report.Lock()
	w.done, w.total = 0, 0
	for _, m := range w.made {
		w.total += int64(m.size) * int64(len(w.v.copies))
		stats.BytesStored += int64(m.size)
	}
	stats.BytesRead = w.total
	w.report.Unlock()
	w.progress("validate", 0) // whoever follows learns of the phase before it can fail
	packs := make([]pack.Directory, len(w.made))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(provesAhead)
	for i, m := range w.made {
		g.Go(func() (err error) {
			packs[i], err = w.v.provePack(ctx, m)
			if err == nil {
				w.progress("validate", int64(m.size)*int64(len(w.v.copies)))
			}
			return err
		})
	}
	return packs, g.Wait()
}

// provePack reads a pack back from every copy. One copy goes through the
// decoder; the others must be the same bytes, and those that were put if m says
// which they were.
func (v *Vault) provePack(ctx context.Context, m madePack) (pack.Directory, error) {
	var d pack.Directory
	object := m.id.Object()
	for i, c := range v.copies {
		data, err := c.Get(ctx, object, 0, -1)
		if err != nil {
			return d, validateError(ctx, c, i, object, err)
		}
		sum := seal.Hash(data)
		if m.size == 0 {
			m.size, m.hash = len(data), sum
		}
		if sum != m.hash {
			return d, validateError(ctx, c, i, object, nil)
		}
		if i > 0 {
			continue
		}
		if d, err = pack.Verify(v.keys, m.id, data); err != nil {
			return d, validateError(ctx, c, i, object, err)
		}
	}
	return d, nil
}

// putIndexes puts one or more indexes that list the packs.
func (w *Writer) putIndexes(ctx context.Context, packs []pack.Directory, stats *CommitStats) error {
	for len(packs) > 0 {
		n, chunks := 1, len(packs[0].Entries)
		for n < len(packs) && chunks+len(packs[n].Entries) <= index.MaxChunks {
			chunks += len(packs[n].Entries)
			n++
		}
		id := ulid.Make()
		data, err := index.Encode(w.v.keys, id, w.v.header.Epoch, packs[:n])
		if err != nil {
			return err
		}
		if err := w.v.store.Put(ctx, index.Object(id), data); err != nil {
			return writeError(index.Object(id), err)
		}
		if err := w.v.sameInAll(ctx, index.Object(id), data); err != nil {
			return err
		}
		stats.BytesStored += int64(len(data))
		packs = packs[n:]
	}
	return nil
}

// sameInAll reads an object back from every copy.
func (v *Vault) sameInAll(ctx context.Context, object string, want []byte) error {
	for i, c := range v.copies {
		got, err := c.Get(ctx, object, 0, -1)
		if err != nil || !bytes.Equal(got, want) {
			return validateError(ctx, c, i, object, err)
		}
	}
	return nil
}

// putManifest makes the point visible, and takes it back if a copy of the
// manifest is not what was written.
func (w *Writer) putManifest(ctx context.Context, facts backstay.RecoveryPoint, def tier.Definition, stats *CommitStats) error {
	definition, err := json.Marshal(def)
	if err != nil {
		return fmt.Errorf("encode definition: %w", err)
	}
	facts.ID = w.o.Point
	h := point.Header{Epoch: w.v.header.Epoch, Item: w.v.keys.Item(facts.VM.UUID), Time: facts.Time, Expires: facts.Expires, Packs: sortedPacks(w.refs)}
	data, _, err := point.Encode(w.v.keys, w.o.Point, h, point.Body{Facts: facts, Definition: definition, Disks: w.disks})
	if err != nil {
		return err
	}
	if _, _, err := point.Decode(w.v.keys, w.o.Point, data); err != nil {
		return fmt.Errorf("manifest cannot be read again: %w", err)
	}
	object := point.Object(w.o.Point)
	if err := ctx.Err(); err != nil {
		return err
	}
	err = w.v.store.Put(ctx, object, data)
	if errors.Is(err, blob.ErrExist) {
		return w.lost(ctx, object, data, err)
	}
	if err != nil {
		return writeError(object, err)
	}
	stats.BytesStored += int64(len(data))
	if err := w.v.sameInAll(ctx, object, data); err != nil {
		if backstay.IsCode(err, backstay.CodeValidateFailed) {
			return errors.Join(err, w.v.store.Delete(context.WithoutCancel(ctx), object))
		}
		return err
	}
	return nil
}

// lost tells a name that another writer took from our own manifest whose put was
// answered with an error after it was done.
func (w *Writer) lost(ctx context.Context, object string, data []byte, cause error) error {
	if w.v.sameInAll(ctx, object, data) == nil {
		return nil
	}
	return backstay.Errorf(backstay.CodeConflict, "another transfer committed the recovery point %s first", w.o.Point).
		Because(cause).Do("use the point as it is in the vault")
}
