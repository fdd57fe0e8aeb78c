package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/oklog/ulid/v2"
)

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

// keepTable keeps an encoded table page for the end of the transfer, so that
// those of one point lie side by side. The caller holds mu.
func (w *Writer) keepTable(c encodedChunk, p pageOf) error {
	for i := range w.tables {
		if w.tables[i].name == c.name {
			w.tables[i].pages = append(w.tables[i].pages, p)
			return nil
		}
	}
	w.tables = append(w.tables, table{c, []pageOf{p}})
	w.kept += len(c.encoded)
	if w.kept < tablesKept {
		return nil
	}
	return w.packTables()
}

// packTables packs the kept table pages. The caller holds mu.
func (w *Writer) packTables() error {
	for _, t := range w.tables {
		at, _, err := w.addChunk(t.encodedChunk)
		if err != nil {
			return err
		}
		w.refs[at.Pack] = true
		for _, p := range t.pages {
			p.disk.SetPage(p.index, t.name, at)
		}
	}
	w.tables, w.kept = nil, 0
	return nil
}

// Commit proves what the transfer put and makes the point visible. The order is
// that of I2: packs durable in all copies; every new pack read back from every
// copy, each chunk through the decoder and named anew; index; manifest, put only
// if absent; last the record in the vault's chain. CodeValidateFailed names the
// object and the storage unit that differ; CodeConflict means that another writer
// committed this point first, that it was dropped, or that a pack it refers to is
// being deleted. After an error the point is not in the vault, unless the last
// call's answer was lost: Begin tells. The Writer has ended.
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
	packs := w.fresh.used(w.refs)
	stats.Packs, stats.BytesStored, stats.BytesRead = len(packs), w.stored, w.proved
	if err := w.putIndexes(ctx, packs, &stats); err != nil {
		return stats, err
	}
	if err := w.putManifest(ctx, facts, def, &stats); err != nil {
		return stats, err
	}
	return stats, nil
}

// finishPuts sends what is left and waits until all packs are durable and were
// read back.
func (w *Writer) finishPuts() error {
	if err := errors.Join(w.failed(), w.packTables()); err != nil {
		return err
	}
	if err := w.finishPack(); err != nil {
		return err
	}
	w.validating()
	return w.puts.Wait()
}

// provePack proves a pack of which only the name is known: the same bytes in
// every copy, and all of them through the decoder.
func (v *Vault) provePack(ctx context.Context, id pack.ID) (pack.Directory, error) {
	var d pack.Directory
	var first []byte
	object := id.Object()
	for i, c := range v.copies {
		data, err := c.Get(ctx, object, 0, -1)
		if err != nil {
			return d, validateError(ctx, c, i, object, err)
		}
		if i > 0 {
			if !bytes.Equal(data, first) {
				return d, validateError(ctx, c, i, object, nil)
			}
			continue
		}
		first = data
		if d, err = pack.Verify(v.keys, id, data); err != nil {
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
		w.v.places.add(index.Object(id), packs[:n])
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

// putManifest puts the manifest, reads it back from every copy, and makes the
// point visible.
func (w *Writer) putManifest(ctx context.Context, facts backstay.RecoveryPoint, def tier.Definition, stats *CommitStats) error {
	definition, err := json.Marshal(def)
	if err != nil {
		return fmt.Errorf("encode definition: %w", err)
	}
	facts.ID = w.o.Point
	h := point.Header{Epoch: w.v.header.Epoch, Item: w.v.keys.Item(facts.VM.UUID), Time: facts.Time, Expires: facts.Expires, Packs: sortedPacks(w.refs)}
	data, root, err := point.Encode(w.v.keys, w.o.Point, h, point.Body{Facts: facts, Definition: definition, Disks: w.diskTables()})
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
		if err := w.lost(ctx, object, data, err); err != nil {
			return err
		}
	} else if err != nil {
		return writeError(object, err)
	}
	stats.BytesStored += int64(len(data))
	// What is not as it was written stays: no record names it, and the next attempt
	// removes it.
	if err := w.v.sameInAll(ctx, object, data); err != nil {
		return err
	}
	head, err := w.journalCommit(ctx, root, facts.Time)
	if err != nil {
		return err
	}
	stats.Head = publicHead(head)
	return w.v.keepManifest(ctx, w.o.Point, data)
}

func (w *Writer) diskTables() []point.Disk {
	var out []point.Disk
	for _, d := range w.disks {
		out = append(out, *d)
	}
	return out
}

// lost tells a name that another writer took from our own manifest whose put was
// answered with an error after it was done.
func (w *Writer) lost(ctx context.Context, object string, data []byte, cause error) error {
	if w.v.sameInAll(ctx, object, data) == nil {
		return nil
	}
	return w.conflict(cause)
}

func (w *Writer) conflict(cause error) error {
	return backstay.Errorf(backstay.CodeConflict, "another transfer committed the recovery point %s first", w.o.Point).
		Because(cause).Do("use the point as it is in the vault")
}
