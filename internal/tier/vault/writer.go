package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/index"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	// putsAhead is how many finished packs may be on their way at once.
	putsAhead = 2
	// tablesKept is how many bytes of encoded table pages wait for the end of the
	// transfer, so that those of one point lie side by side.
	tablesKept = 8 << 20
)

// Writer writes one point into a vault. Its methods may be called from several
// goroutines, and take turns.
type Writer struct {
	// ParentNote says why the parent that was named is not used; empty if it is,
	// or if none was named.
	ParentNote string

	v      *Vault
	o      WriteOptions
	parent *Point
	cancel context.CancelFunc
	puts   *errgroup.Group
	putCtx context.Context // ends when a put failed, with its error as the cause

	mu      sync.Mutex // held by WriteDisk, Commit and Abort
	disks   []point.Disk
	open    *pack.Builder    // guarded by mu; nil when no pack is begun
	entries []pack.Entry     // of open
	tables  []encodedTable   // guarded by mu
	kept    int              // bytes in tables
	made    []madePack       // packs of this transfer; guarded by mu
	resumed []pack.Directory // packs of an interrupted one that were verified
	refs    map[pack.ID]bool // packs that the point needs; guarded by mu
	ended   bool             // guarded by mu
	report  sync.Mutex       // held while OnPack or Progress runs
	done    int64            // progress in bytes; guarded by report
	total   int64            // guarded by report

	tmu     sync.RWMutex
	fresh   *index.Table           // chunks of made and resumed packs; guarded by tmu
	pending map[nameOfKind]pack.ID // chunks of open and of tables; guarded by tmu
	usable  map[pack.ID]error      // nil: there, in every copy; guarded by tmu
}

type nameOfKind struct {
	kind chunk.Kind
	name chunk.Name
}

type encodedTable struct {
	name    chunk.Name
	plain   int
	encoded []byte
}

// madePack is a pack that was put: what a copy of it must be.
type madePack struct {
	id   pack.ID
	size int
	hash [32]byte
}

// Begin starts to write a point. CodeExists if the vault has it already; a
// manifest that an interrupted commit left in some copies only is completed
// then. End with Commit or Abort.
func (v *Vault) Begin(ctx context.Context, o WriteOptions) (*Writer, error) {
	if _, err := point.ParseID(o.Point); err != nil {
		return nil, backstay.Errorf(backstay.CodeUsage, "the recovery point cannot be written").Because(err)
	}
	if err := v.finishCommit(ctx, o.Point); err != nil {
		return nil, err
	}
	if err := v.places.ensure(ctx); err != nil {
		return nil, err
	}
	// What others committed since the vault was opened serves deduplication too.
	if err := v.places.refresh(ctx); err != nil {
		return nil, err
	}
	w := &Writer{v: v, o: o, refs: map[pack.ID]bool{}, fresh: index.NewTable(),
		pending: map[nameOfKind]pack.ID{}, usable: map[pack.ID]error{}}
	if o.Parent != "" {
		p, err := v.OpenPoint(ctx, o.Parent)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			w.ParentNote = fmt.Sprintf("the parent %s cannot be used: %v", o.Parent, err)
		} else {
			w.parent = p
		}
	}
	if err := w.resume(ctx); err != nil {
		return nil, err
	}
	putCtx, cancel := context.WithCancel(ctx)
	w.cancel = cancel
	w.puts, w.putCtx = errgroup.WithContext(putCtx)
	w.puts.SetLimit(putsAhead)
	return w, nil
}

// finishCommit answers CodeExists if the point has a manifest, which it first
// completes in the copies that lack it: a commit puts the manifest only after
// everything else was proved, so one that is there may be finished (I2).
func (v *Vault) finishCommit(ctx context.Context, id backstay.PointID) error {
	var sound []byte
	short := false
	for _, c := range v.copies {
		data, err := c.Get(ctx, point.Object(id), 0, -1)
		if errors.Is(err, blob.ErrNotExist) {
			short = true
			continue
		}
		if err != nil {
			return readError(point.Object(id), err)
		}
		if _, _, err := point.Decode(v.keys, id, data); err != nil {
			continue
		}
		sound = data
	}
	if sound == nil && short {
		return nil
	}
	if sound != nil && short {
		if err := v.store.Put(ctx, point.Object(id), sound); err != nil && !errors.Is(err, blob.ErrExist) {
			return writeError(point.Object(id), err)
		}
	}
	return backstay.Errorf(backstay.CodeExists, "the vault has the recovery point %s already", id).
		Do("nothing is to be done: open it")
}

// resume verifies the packs of an interrupted attempt in every copy, and uses
// those that are sound. The others are left where they are, unused.
func (w *Writer) resume(ctx context.Context) error {
	for _, text := range w.o.Packs {
		id, err := pack.ParseID(text)
		if err != nil {
			return backstay.Errorf(backstay.CodeUsage, "a pack to go on from is not one").Because(err)
		}
		if w.v.places.proved(id) || w.fresh.Has(id) {
			continue
		}
		d, err := w.v.provePack(ctx, madePack{id: id})
		if backstay.IsCode(err, backstay.CodeValidateFailed) {
			continue
		}
		if err != nil {
			return err
		}
		w.fresh.AddPack(d, true)
		w.resumed = append(w.resumed, d)
	}
	return nil
}

// Abort ends the transfer. What was put stays, unused, for a later attempt. It
// does nothing after Commit or a second time.
func (w *Writer) Abort() {
	w.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	_ = w.puts.Wait() // its error is that of the cancelled puts
}

// known returns a pack that is sure to hold the chunk: one of this transfer, or
// one that an index lists and that is in place in every copy.
func (w *Writer) known(ctx context.Context, kind chunk.Kind, name chunk.Name) (pack.ID, bool, error) {
	w.tmu.RLock()
	id, ok := w.pending[nameOfKind{kind, name}]
	if !ok {
		if places := w.fresh.Lookup(kind, name); len(places) > 0 {
			id, ok = places[0].Pack.ID, true
		}
	}
	w.tmu.RUnlock()
	if ok {
		return id, true, nil
	}
	for _, place := range w.v.places.lookup(kind, name) {
		if !place.Pack.Proved {
			continue
		}
		err := w.inPlace(ctx, place.Pack)
		if err == nil {
			return place.Pack.ID, true, nil
		}
		if !damaged(err) {
			return pack.ID{}, false, readError(place.Pack.ID.Object(), err)
		}
	}
	return pack.ID{}, false, nil
}

// inPlace asks every copy once for a pack that is to be referred to: one that
// vanished or was cut short must not serve a new point.
func (w *Writer) inPlace(ctx context.Context, p index.Pack) error {
	w.tmu.RLock()
	err, asked := w.usable[p.ID]
	w.tmu.RUnlock()
	if asked {
		return err
	}
	for i, c := range w.v.copies {
		info, statErr := c.Stat(ctx, p.ID.Object())
		if statErr != nil && !damaged(statErr) {
			return statErr
		}
		if statErr == nil && info.Size != int64(p.Size) {
			statErr = fmt.Errorf("%d bytes, want %d: %w", info.Size, p.Size, seal.ErrWrong)
		}
		if statErr != nil {
			err = fmt.Errorf("%s in %s: %w", p.ID.Object(), unitName(ctx, c, i), statErr)
			break
		}
	}
	w.tmu.Lock()
	w.usable[p.ID] = err
	w.tmu.Unlock()
	return err
}

// addChunk puts an encoded chunk into the open pack, unless it is there. It
// returns the pack, and whether the chunk is new. The caller holds mu.
func (w *Writer) addChunk(kind chunk.Kind, name chunk.Name, t encodedTable) (pack.ID, bool, error) {
	if id, ok := w.inTransfer(kind, name); ok {
		return id, false, nil
	}
	if w.open != nil && !w.open.Fits(len(t.encoded)) {
		if err := w.finishPack(); err != nil {
			return pack.ID{}, false, err
		}
	}
	if w.open == nil {
		b, err := pack.NewBuilder(w.v.keys, pack.NewID(), w.v.header.Epoch)
		if err != nil {
			return pack.ID{}, false, err
		}
		w.open = b
	}
	w.entries = append(w.entries, w.open.Add(kind, name, t.plain, t.encoded))
	id := w.open.ID()
	w.tmu.Lock()
	w.pending[nameOfKind{kind, name}] = id
	w.tmu.Unlock()
	return id, true, nil
}

func (w *Writer) inTransfer(kind chunk.Kind, name chunk.Name) (pack.ID, bool) {
	w.tmu.RLock()
	defer w.tmu.RUnlock()
	if id, ok := w.pending[nameOfKind{kind, name}]; ok {
		return id, true
	}
	if places := w.fresh.Lookup(kind, name); len(places) > 0 {
		return places[0].Pack.ID, true
	}
	return pack.ID{}, false
}

// finishPack sends the open pack on its way. The caller holds mu.
func (w *Writer) finishPack() error {
	if w.open == nil {
		return nil
	}
	id, data := w.open.ID(), w.open.Finish()
	d := pack.Directory{ID: id, Epoch: w.v.header.Epoch, Size: uint32(len(data)), Entries: w.entries}
	w.made = append(w.made, madePack{id: id, size: len(data), hash: seal.Hash(data)})
	w.refs[id] = true
	w.tmu.Lock()
	w.fresh.AddPack(d, true)
	maps.DeleteFunc(w.pending, func(_ nameOfKind, p pack.ID) bool { return p == id })
	w.tmu.Unlock()
	w.open, w.entries = nil, nil
	w.puts.Go(func() error {
		// A pack that is there already is this very one, put by a call whose answer
		// was lost: ids are random. The read-back proves it.
		err := w.v.store.Put(w.putCtx, id.Object(), data)
		pack.Recycle(data)
		if err != nil && !errors.Is(err, blob.ErrExist) {
			return writeError(id.Object(), err)
		}
		if w.o.OnPack != nil {
			w.report.Lock()
			defer w.report.Unlock()
			w.o.OnPack(id.String())
		}
		return nil
	})
	return w.failed()
}

// failed returns the error of a put that went wrong, if one did.
func (w *Writer) failed() error {
	if w.putCtx.Err() != nil {
		return context.Cause(w.putCtx)
	}
	return nil
}

// progress adds to what is done and tells.
func (w *Writer) progress(phase string, bytes int64) {
	w.report.Lock()
	defer w.report.Unlock()
	w.done += bytes
	if w.o.Progress != nil {
		w.o.Progress(phase, w.done, max(w.total, w.done))
	}
}
