package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// fillAhead is how many objects are filled in at once: each takes up to two packs'
// size of memory.
const fillAhead = 3

// FillOptions describe how a copy is filled. The zero value fills everything.
type FillOptions struct {
	// First are points whose objects go first, in this order.
	First []backstay.PointID
	// From is the Next of an earlier fill that had done with First.
	From string
	// Quick takes what is listed with the right size as filled in: for a fill that
	// follows on one that read everything.
	Quick bool
	// Pace is called after each read and write with its length; it may wait.
	Pace func(ctx context.Context, bytes int) error
	// Filled is called when everything that one of First needs is in the copy.
	Filled func(backstay.PointID) error
	// Progress is called now and then, from one goroutine, with the report so far.
	Progress func(FillReport) error
}

// FillReport is what a fill did.
type FillReport struct {
	// Objects were looked at, of which Copied were written and read back, and Bytes
	// is their length; Replaced counts those among them in whose place something
	// else was.
	Objects, Copied, Bytes, Replaced int64
	// Bad are objects of which a copy that was read from is wrong, and Unsound those
	// of which none could be shown: in the copy they are left as they are.
	Bad, Unsound []string
	// Next is where the next fill goes on; "" if the end was reached.
	Next string
}

// filler brings one copy to what others have.
type filler struct {
	from  *scrubber // the copies that are read, and how they are judged
	to    *scrubber // the copy that is written, alone
	each  func(ctx context.Context, fn func(object string, data []byte) error) (uint64, error)
	store blob.Store
	o     FillOptions
	// settled is the number of the last record of the chain that is sure to stay.
	settled uint64

	mu     sync.Mutex
	report FillReport       // guarded by mu
	proved map[pack.ID]bool // guarded by mu: packs that were read back in this life
}

// source is what a copy is filled from.
type source struct {
	scrubber *scrubber
	id       string
	// each calls back with every record of the chain.
	each func(ctx context.Context, fn func(object string, data []byte) error) (uint64, error)
}

// filling returns the vault as the source of a fill.
func (v *Vault) filling() source {
	return source{v.scrubber(ScrubOptions{}), v.header.ID, v.chain.Each}
}

func fillingKeyless(ctx context.Context, sound blob.Store, vaultID string) (source, error) {
	k, err := newKeyless(ctx, sound, vaultID)
	if err != nil {
		return source{}, err
	}
	return source{k.scrubber(ScrubOptions{}), vaultID, func(ctx context.Context, fn func(string, []byte) error) (uint64, error) {
		return chain.EachKeyless(ctx, sound, fn)
	}}, nil
}

func newFiller(ctx context.Context, from source, to blob.Store, o FillOptions) (*filler, error) {
	f := &filler{from: from.scrubber, each: from.each, store: to, o: o, proved: map[pack.ID]bool{}}
	f.from.o.Pace = o.Pace
	if err := f.from.findMoves(ctx); err != nil {
		return nil, err
	}
	f.to = &scrubber{copies: []blob.Store{to}, check: f.from.check, needsOf: f.from.needsOf, live: f.from.live, o: f.from.o}
	return f, noStranger(ctx, to, from.id)
}

// noStranger refuses a copy that holds another vault.
func noStranger(ctx context.Context, to blob.Store, vaultID string) error {
	c := readCopyHeaders(ctx, to, nil)
	if c.away != nil {
		return readError(headerObject, c.away)
	}
	for _, h := range c.found {
		if h.ID != vaultID {
			return backstay.Errorf(backstay.CodeConflict, "the storage unit %s holds another vault", unitName(ctx, to, 0)).
				Becausef("it is the vault %s (%s)", h.Name, h.ID).Do("see that the right disk is mounted there, or name an empty place; nothing was written or deleted")
		}
	}
	return nil
}

// Introduce makes a copy, which nobody writes to yet, one with which the vault can
// be opened: wrapped keys, headers and the chain are there afterwards exactly as
// the copies of this vault have them. What was left there of a change that these
// do not know is removed, because a header or a record that only one copy has
// would count. It can be cut off anywhere and done again. CodeConflict if the copy
// holds another vault.
func (v *Vault) Introduce(ctx context.Context, to blob.Store) error {
	return introduce(ctx, v.filling(), to)
}

// IntroduceKeyless is Introduce for whoever has no key.
func IntroduceKeyless(ctx context.Context, sound, to blob.Store, vaultID string) error {
	from, err := fillingKeyless(ctx, sound, vaultID)
	if err != nil {
		return err
	}
	return introduce(ctx, from, to)
}

func introduce(ctx context.Context, from source, to blob.Store) error {
	f, err := newFiller(ctx, from, to, FillOptions{})
	if err != nil {
		return err
	}
	for _, folder := range []string{"chain/", headerFolder, keyFolder} {
		if err := f.removeOthers(ctx, folder); err != nil {
			return err
		}
	}
	for _, folder := range []string{keyFolder, headerObject, headerFolder, "chain/"} {
		if err := f.folder(ctx, folder); err != nil {
			return err
		}
	}
	if err := f.removeUnsettled(ctx); err != nil {
		return err
	}
	if len(f.report.Unsound) > 0 {
		return backstay.Errorf(backstay.CodeDamaged, "%s in the vault is damaged and was not copied", f.report.Unsound[0]).
			Becausef("no copy shows it unharmed").Do("repair the vault first: `backstay vault verify`, then `backstay vault repair`")
	}
	return nil
}

// removeOthers removes from the copy what no sound one has in a folder. Each of
// them must have said so by name: a listing removes nothing (I6).
func (f *filler) removeOthers(ctx context.Context, folder string) error {
	var names []string
	err := f.store.List(ctx, folder, func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		return readError("the list of "+folder, err)
	}
	for _, name := range slices.Backward(names) { // the newest first
		gone, err := f.gone(ctx, name)
		if err != nil {
			return err
		}
		if gone {
			if err := f.store.Delete(ctx, name); err != nil {
				return writeError(name, err)
			}
		}
	}
	return nil
}

// gone tells whether every sound copy says that it does not have the object.
func (f *filler) gone(ctx context.Context, name string) (bool, error) {
	for _, c := range f.from.copies {
		_, err := c.Stat(ctx, name)
		if err == nil {
			return false, nil
		}
		if !errors.Is(err, blob.ErrNotExist) {
			return false, readError(name, err)
		}
	}
	return true, nil
}

// Fill brings a copy to have all that the copies of this vault have, whatever it
// has already: what proves itself there is kept, what is missing is copied, and
// what is something else is replaced, after a sound copy was read. All of it is
// read back. Cut off anywhere it is done again, from where it was if the Next of
// its report was kept; the report is good then, too.
//
// The vault may be written to meanwhile, by writers who write that copy as well.
// What those put who do not know of it is found by another fill when they have
// ended.
func (v *Vault) Fill(ctx context.Context, to blob.Store, o FillOptions) (FillReport, error) {
	return fill(ctx, v.filling(), to, o)
}

// FillKeyless is Fill for whoever has no key: what is sound is told by the hashes
// that all objects carry in the clear.
func FillKeyless(ctx context.Context, sound, to blob.Store, vaultID string, o FillOptions) (FillReport, error) {
	from, err := fillingKeyless(ctx, sound, vaultID)
	if err != nil {
		return FillReport{Next: o.From}, err
	}
	return fill(ctx, from, to, o)
}

func fill(ctx context.Context, from source, to blob.Store, o FillOptions) (FillReport, error) {
	f, err := newFiller(ctx, from, to, o)
	if err != nil {
		return FillReport{Next: o.From}, err
	}
	if err := f.from.findNeeded(ctx); err != nil {
		return FillReport{Next: o.From}, err
	}
	f.report.Next = o.From
	err = f.walk(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.report, err
}

func (f *filler) walk(ctx context.Context) error {
	if f.o.From == "" && len(f.o.First) > 0 {
		for _, folder := range []string{"moved/", "trash/"} {
			if err := f.folder(ctx, folder); err != nil {
				return err
			}
		}
		for _, id := range f.o.First {
			if err := f.point(ctx, id); err != nil {
				return err
			}
		}
	}
	for _, folder := range folders() {
		if folder < f.o.From && !strings.HasPrefix(f.o.From, folder) {
			continue
		}
		if err := f.folder(ctx, folder); err != nil {
			return err
		}
	}
	f.report.Next = ""
	return nil
}

// point fills in what one point needs, its manifest last.
func (f *filler) point(ctx context.Context, id backstay.PointID) error {
	packs, err := f.from.manifest(ctx, id)
	if err != nil {
		if damaged(err) {
			return nil // dropped, or lost: the walk meets it
		}
		return readError(point.Object(id), err)
	}
	var names []string
	for _, p := range packs {
		names = append(names, p.Object())
	}
	slices.Sort(names)
	if err := f.fill(ctx, append(names, point.Object(id)), nil, false); err != nil || f.o.Filled == nil {
		return err
	}
	return f.o.Filled(id)
}

// folder fills in everything behind the cursor.
func (f *filler) folder(ctx context.Context, folder string) error {
	have := map[string]int64{}
	err := f.store.List(ctx, folder, func(i blob.Info) error {
		have[i.Name] = i.Size
		return nil
	})
	if err != nil {
		return readError("the list of "+folder, err)
	}
	if folder == "chain/" {
		return f.chain(ctx, have)
	}
	l, err := f.from.list(ctx, folder)
	if err != nil {
		return err
	}
	names := slices.DeleteFunc(l.names, func(name string) bool {
		id, manifest := strings.CutPrefix(name, "points/")
		return name <= f.o.From || manifest && f.from.leftover(backstay.PointID(id))
	})
	return f.fill(ctx, names, &shown{have: have, sizes: l.sizes}, true)
}

// shown is what listings say of a folder: of the copy, and of the sound ones.
type shown struct{ have, sizes map[string]int64 }

// fill fills in objects, a few at a time. With cursor it moves behind them.
func (f *filler) fill(ctx context.Context, names []string, listed *shown, cursor bool) error {
	for some := range slices.Chunk(names, fillAhead) {
		g, gctx := errgroup.WithContext(ctx)
		for _, name := range some {
			if listed != nil && f.o.Quick {
				if size, ok := listed.have[name]; ok && size == listed.sizes[name] {
					continue
				}
			}
			absent := false
			if listed != nil {
				_, ok := listed.have[name]
				absent = !ok
			}
			g.Go(func() error { return f.one(gctx, name, absent) })
		}
		err := g.Wait()
		if ctx.Err() != nil {
			return fmt.Errorf("fill a copy: %w", context.Cause(ctx))
		}
		if err != nil {
			return err
		}
		f.report.Objects += int64(len(some))
		if cursor {
			f.report.Next = some[len(some)-1]
		}
		if f.o.Progress != nil {
			if err := f.o.Progress(f.report); err != nil {
				return err
			}
		}
	}
	return nil
}
