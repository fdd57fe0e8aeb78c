package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
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

	born      chain.Head       // of the vault's chain when the transfer began
	condemned map[pack.ID]bool // packs that were about to be deleted then

	fresh *transferred // the chunks of this transfer
	rely  *reliance    // which packs of the vault may be referred to

	mu     sync.Mutex // held by WriteDisk, Commit and Abort
	disks  []*point.Disk
	open   *pack.Builder    // guarded by mu; nil when no pack is begun
	tables []table          // table pages that wait for their place; guarded by mu
	kept   int              // bytes in tables
	stored int64            // bytes of the packs of this transfer; guarded by mu
	refs   map[pack.ID]bool // packs that the point needs; guarded by mu
	ended  bool             // guarded by mu

	report  sync.Mutex // held while OnPack or Progress runs
	phase   string     // that is under way; guarded by report
	done    int64      // progress in bytes; guarded by report
	total   int64      // guarded by report
	proved  int64      // bytes read back over all copies; guarded by report
	toProve int64      // likewise, of the packs that are on their way; guarded by report
}

type nameOfKind struct {
	kind chunk.Kind
	name chunk.Name
}

// encodedChunk is a chunk in its packed form.
type encodedChunk struct {
	kind    chunk.Kind
	name    chunk.Name
	plain   int
	encoded []byte
}

// table is an encoded table page and the pages of disks that it is.
type table struct {
	encodedChunk
	pages []pageOf
}

type pageOf struct {
	disk  *point.Disk
	index int
}

// Begin starts to write a point. CodeExists if the vault has it already; a
// commit that was interrupted after its manifest is completed then. End with
// Commit or Abort.
func (v *Vault) Begin(ctx context.Context, o WriteOptions) (*Writer, error) {
	if _, err := point.ParseID(o.Point); err != nil {
		return nil, backstay.Errorf(backstay.CodeUsage, "the recovery point cannot be written").Because(err)
	}
	var at time.Time
	if o.Now != nil {
		at = o.Now()
	}
	st, err := v.writable(ctx, at)
	if err != nil {
		return nil, err
	}
	w := &Writer{v: v, o: o, refs: map[pack.ID]bool{}, fresh: newTransferred(), phase: "transfer", born: st.Head}
	if w.condemned, err = v.condemned(ctx, st); err != nil {
		return nil, err
	}
	for _, text := range o.Avoid {
		if id, err := pack.ParseID(text); err == nil {
			w.condemned[id] = true
		}
	}
	if err := v.finishCommit(ctx, w, st); err != nil {
		return nil, err
	}
	// What others committed since the vault was opened serves deduplication too.
	if err := v.places.refresh(ctx); err != nil {
		return nil, err
	}
	var needed []pack.ID
	if o.Parent != "" {
		p, err := v.OpenPoint(ctx, o.Parent)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			w.ParentNote = fmt.Sprintf("the parent %s cannot be used: %v", o.Parent, err)
		} else {
			w.parent, needed = p, p.packs
		}
	}
	w.rely = v.relyOn(ctx, needed, w.condemned)
	if err := w.resume(ctx); err != nil {
		return nil, err
	}
	putCtx, cancel := context.WithCancel(ctx)
	w.cancel = cancel
	w.puts, w.putCtx = errgroup.WithContext(putCtx)
	w.puts.SetLimit(putsAhead)
	return w, nil
}

// resume verifies the packs of an interrupted attempt in every copy, and uses
// those that are sound. The others are left where they are, unused.
func (w *Writer) resume(ctx context.Context) error {
	for _, text := range w.o.Packs {
		id, err := pack.ParseID(text)
		if err != nil {
			return backstay.Errorf(backstay.CodeUsage, "a pack to go on from is not one").Because(err)
		}
		if w.rely.condemned[id] || w.v.places.cache.HasPack(id) || w.fresh.has(id) {
			continue
		}
		d, err := w.v.provePack(ctx, id)
		if backstay.IsCode(err, backstay.CodeValidateFailed) {
			continue
		}
		if err != nil {
			return err
		}
		w.fresh.addPack(d)
	}
	return nil
}

// Parent returns the point relative to which change maps are; nil if none was
// named, or ParentNote says why not.
func (w *Writer) Parent() *Point { return w.parent }

// Abort ends the transfer. What was put stays, unused, for a later attempt. It
// does nothing after Commit or a second time.
func (w *Writer) Abort() {
	w.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	_ = w.puts.Wait() // its error is that of the cancelled puts
}

// addChunk puts an encoded chunk into the open pack, unless the transfer has it
// already. It returns its place, and whether it is new. The caller holds mu.
func (w *Writer) addChunk(c encodedChunk) (point.Place, bool, error) {
	if at, ok := w.fresh.find(c.kind, c.name); ok {
		return at, false, nil
	}
	if w.open != nil && !w.open.Fits(len(c.encoded)) {
		if err := w.finishPack(); err != nil {
			return point.Place{}, false, err
		}
	}
	if w.open == nil {
		id, epoch := pack.NewID(), w.v.header.Epoch
		b, err := pack.NewBuilder(w.v.keys, id, epoch)
		if err != nil {
			return point.Place{}, false, err
		}
		w.open = b
		w.fresh.begin(id, epoch)
	}
	return w.fresh.add(w.open.Add(c.kind, c.name, c.plain, c.encoded)), true, nil
}

// finishPack sends the open pack on its way. The caller holds mu.
func (w *Writer) finishPack() error {
	if w.open == nil {
		return nil
	}
	id, data := w.open.ID(), w.open.Finish()
	w.open = nil
	w.fresh.end(len(data))
	w.refs[id] = true
	w.stored += int64(len(data))
	w.report.Lock()
	w.toProve += int64(len(data)) * int64(len(w.v.copies))
	w.report.Unlock()
	w.puts.Go(func() error {
		defer w.gently()()
		defer pack.Recycle(data)
		// A pack that is there already is this very one, put by a call whose answer
		// was lost: ids are random. The read-back proves it.
		if err := w.v.store.Put(w.putCtx, id.Object(), data); err != nil && !errors.Is(err, blob.ErrExist) {
			return writeError(id.Object(), err)
		}
		if w.o.OnPack != nil {
			w.report.Lock()
			w.o.OnPack(id.String())
			w.report.Unlock()
		}
		if err := w.v.sameInAll(w.putCtx, id.Object(), data); err != nil {
			w.validating() // that is what failed, also if there is more to carry
			return err
		}
		w.provedBytes(int64(len(data)) * int64(len(w.v.copies)))
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

// looked adds to what was looked at of the disks, and tells.
func (w *Writer) looked(bytes int64) {
	w.report.Lock()
	defer w.report.Unlock()
	w.done += bytes
	if w.phase == "transfer" && w.o.Progress != nil {
		w.o.Progress("transfer", w.done, max(w.total, w.done))
	}
}

// provedBytes adds to what was read back, and tells once all disks are read.
func (w *Writer) provedBytes(bytes int64) {
	w.report.Lock()
	defer w.report.Unlock()
	w.proved += bytes
	if w.phase == "validate" && w.o.Progress != nil {
		w.o.Progress(w.phase, w.proved, w.toProve)
	}
}

// validating begins the phase in which what is left is read back.
func (w *Writer) validating() {
	w.report.Lock()
	w.phase = "validate"
	w.report.Unlock()
	w.provedBytes(0) // whoever follows learns of the phase before it can fail
}
