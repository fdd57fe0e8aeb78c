package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// Replica is another region's vault as it is held in this one: written object by
// object as they come, and never by this region's own will, without any key.
// Whatever comes is hostile until it was checked: by a grammar of names, its size,
// its hash, and what an object of its name carries in the clear.
//
// A point is there when its manifest is, which is put last, and only when every
// pack that it needs is in every copy and was read back from each (I2). The
// vault's own chain is kept and judges nothing here: a point that is dropped at
// home stays (I11). Methods may be called concurrently, but for Sweep, which says
// what it needs.
type Replica struct {
	store  blob.Store
	copies []blob.Store
	whole  []blob.Store // those of the copies that are not being filled yet
	id     uuid.UUID

	use *ReplicaUse

	mu sync.Mutex
	// proved are packs that were read back from every copy by this process, or that
	// a point needs whose manifest is there; guarded by mu.
	proved map[pack.ID]struct{}
	// learnt are points whose packs are among proved; guarded by mu.
	learnt map[backstay.PointID]bool
}

// ReplicaUse keeps those who delete in a replica apart from those who rely on it. All
// that a process opens of one replica share one, also with other sets of units.
type ReplicaUse struct {
	// using is held for reading by whoever puts or makes whole, or answers what is
	// there, and for writing while packs are deleted.
	using sync.RWMutex

	mu sync.Mutex
	// sweeps counts the sweeps, touched is in which time between two of them a pack
	// was relied on last; guarded by mu.
	sweeps  int
	touched map[pack.ID]int
}

// Using opens a replica with what others of this process know of its use.
func Using(u *ReplicaUse) OpenOption { return func(o *openOptions) { o.use = u } }

// ReplicaObject names one object and what it holds.
type ReplicaObject struct {
	Name string
	Size int64
	Sum  [32]byte // BLAKE3-256 of its bytes
}

// ReplicaPoint is what the clear part of a manifest says.
type ReplicaPoint struct {
	Point   backstay.PointID
	Item    string // pseudonym of its VM, in hex
	Time    time.Time
	Expires *time.Time
	Root    string // in hex
	Packs   int
}

// NewReplica returns the replica of the vault with this id in a store. Nothing is
// asked of the store. Of the options Joining and Using count: what is in a copy that
// is being filled is not counted on.
func NewReplica(s blob.Store, vaultID string, options ...OpenOption) (*Replica, error) {
	var o openOptions
	for _, set := range options {
		set(&o)
	}
	id, err := uuid.Parse(vaultID)
	if err != nil || id.String() != vaultID {
		return nil, refused("%q is not the id of a vault", vaultID)
	}
	r := &Replica{store: s, copies: copiesOf(s), id: id, proved: map[pack.ID]struct{}{}, learnt: map[backstay.PointID]bool{}, use: o.use}
	if r.use == nil {
		r.use = &ReplicaUse{}
	}
	for i, c := range r.copies {
		if !slices.Contains(o.joining, i) {
			r.whole = append(r.whole, c)
		}
	}
	return r, nil
}

// refused is the error of what is not taken in.
func refused(format string, args ...any) *backstay.Error {
	return backstay.Errorf(backstay.CodeReplicaRefused, "what was pushed is not taken in").Becausef(format, args...)
}

// Lacks returns those of the names that are not there in all copies, with one
// size, in the order of the question. A size that is not 0 must be that size.
func (r *Replica) Lacks(ctx context.Context, objects []ReplicaObject) ([]string, error) {
	var packs []pack.ID
	for _, o := range objects {
		if err := blob.CheckName(o.Name); err != nil {
			return nil, refused("%v", err)
		}
		if id, ok := packOf(o.Name); ok {
			packs = append(packs, id)
		}
	}
	r.use.using.RLock()
	defer r.use.using.RUnlock()
	r.use.touch(packs...)
	var shelf map[pack.ID]shelved
	if len(packs) > 0 {
		var err error
		if shelf, err = r.shelf(ctx, packs); err != nil {
			return nil, err
		}
	}
	missing := make([]bool, len(objects))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(statsAtOnce)
	for i, o := range objects {
		if id, ok := packOf(o.Name); ok {
			s := shelf[id]
			missing[i] = !s.whole(len(r.whole)) || o.Size != 0 && s.size != o.Size
			continue
		}
		g.Go(func() (err error) {
			missing[i], err = r.lacks(gctx, o)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []string
	for i, o := range objects {
		if missing[i] {
			out = append(out, o.Name)
		}
	}
	return out, nil
}

// statsAtOnce is how many objects are asked for at once.
const statsAtOnce = 16

func (r *Replica) lacks(ctx context.Context, o ReplicaObject) (bool, error) {
	size := o.Size
	for _, c := range r.whole {
		info, err := c.Stat(ctx, o.Name)
		if errors.Is(err, blob.ErrNotExist) {
			return true, nil
		}
		if err != nil {
			return false, readError(o.Name, err)
		}
		if size != 0 && info.Size != size {
			return true, nil
		}
		size = info.Size
	}
	return false, nil
}

// shelved is how a pack is there.
type shelved struct {
	copies int
	size   int64
	differ bool // the copies have different sizes
}

func (s shelved) whole(copies int) bool { return s.copies == copies && !s.differ }

func (s shelved) and(size int64) shelved {
	s.differ = s.differ || s.copies > 0 && s.size != size
	s.size, s.copies = max(s.size, size), s.copies+1
	return s
}

// shelf finds out how packs are there: those asked for, or with nil all. Of many,
// a listing is cheaper than asking one by one.
func (r *Replica) shelf(ctx context.Context, packs []pack.ID) (map[pack.ID]shelved, error) {
	if packs == nil || len(packs) > statsAtMost {
		found, err := r.shelfList(ctx, packs)
		if !errors.Is(err, errLongList) {
			return found, err
		}
	}
	return r.shelfStats(ctx, packs)
}

func (r *Replica) shelfStats(ctx context.Context, packs []pack.ID) (map[pack.ID]shelved, error) {
	found := make(map[pack.ID]shelved, len(packs))
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(statsAtOnce)
	for _, id := range packs {
		for _, c := range r.whole {
			g.Go(func() error {
				info, err := c.Stat(gctx, id.Object())
				if errors.Is(err, blob.ErrNotExist) {
					return nil
				}
				if err != nil {
					return readError(id.Object(), err)
				}
				mu.Lock()
				defer mu.Unlock()
				found[id] = found[id].and(info.Size)
				return nil
			})
		}
	}
	return found, g.Wait()
}

// shelfList finds packs in a listing of every copy. With few wanted of very many it
// gives up: errLongList.
func (r *Replica) shelfList(ctx context.Context, packs []pack.ID) (map[pack.ID]shelved, error) {
	found := make(map[pack.ID]shelved, len(packs))
	for i, c := range r.whole {
		seen := 0
		err := c.List(ctx, "packs/", func(info blob.Info) error {
			if seen++; packs != nil && seen > 1000*len(packs) {
				return errLongList
			}
			if id, ok := packOf(info.Name); ok {
				found[id] = found[id].and(info.Size)
			}
			return nil
		})
		if errors.Is(err, errLongList) {
			return nil, errLongList
		}
		if err != nil {
			return nil, readError("the list of packs in "+unitName(ctx, c, i), err)
		}
	}
	return found, nil
}

// CheckIncoming demands that data can be the object of this name of the vault, by
// what it carries in the clear: CodeReplicaRefused says why not. Manifests are not
// among them: they come with Complete.
func (r *Replica) CheckIncoming(name string, data []byte) error {
	if err := r.check(name, data); err != nil {
		return refused("%s: %v", name, err)
	}
	return nil
}

func (r *Replica) check(name string, data []byte) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	folder, rest, _ := strings.Cut(name, "/")
	switch folder {
	case headerObject, "headers":
		f, err := parseHeader(name, data)
		if err == nil && (f.ID != r.id.String() || f.Generation == 0) {
			err = fmt.Errorf("the header of the vault %q: %w", f.ID, seal.ErrWrong)
		}
		return err
	case "keys":
		if name != keyObject(seal.Hash(data)) {
			return fmt.Errorf("another hash than its name: %w", seal.ErrWrong)
		}
		return nil
	case "chain":
		seq, err := chain.ParseObject(name)
		if err == nil {
			err = chain.Check(seq, data)
		}
		return err
	case "moved":
		id, err := chain.ParseMovesObject(name)
		if err == nil {
			_, err = chain.DecodeMovesKeyless(r.id, id, data)
		}
		return err
	case "trash":
		id, err := chain.ParseTrashObject(name)
		if err == nil {
			_, err = chain.DecodeTrashKeyless(r.id, id, data)
		}
		return err
	case "packs":
		id, ok := packOf(name)
		if !ok {
			return fmt.Errorf("not the name of a pack: %w", seal.ErrWrong)
		}
		if err := pack.Check(data); err != nil {
			return err
		}
		return r.keyless().head(data, seal.Pack, id.String())
	case "indexes":
		id, err := ulid.ParseStrict(rest)
		switch {
		case err != nil || id.String() != rest:
			return fmt.Errorf("not the name of an index: %w", seal.ErrWrong)
		case len(data) < seal.HeadSize+seal.Overhead+32 || seal.Hash(data[:len(data)-32]) != [32]byte(data[len(data)-32:]):
			return fmt.Errorf("another hash than it says: %w", seal.ErrWrong)
		}
		return r.keyless().head(data, seal.Index, hex.EncodeToString(id[:]))
	}
	return fmt.Errorf("not an object that is taken in: %w", seal.ErrWrong)
}

// keyless checks by what objects carry in the clear; its header was not read.
func (r *Replica) keyless() *keyless {
	return &keyless{store: r.store, copies: r.copies, id: r.id, pinned: map[string]string{}}
}

// Put takes one object in. When it returns nil the object is durable in every
// copy and was read back from each. What is there is never replaced, unless it is
// damaged: by three equal reads that it does not survive (I5), with no copy that
// is sound and other than this. It tells how many bytes came to what was there.
func (r *Replica) Put(ctx context.Context, o ReplicaObject, data []byte) (grown int64, err error) {
	if int64(len(data)) != o.Size || seal.Hash(data) != o.Sum {
		return 0, refused("%s: %d bytes, and not those that were announced", o.Name, len(data))
	}
	if err := r.CheckIncoming(o.Name, data); err != nil {
		return 0, err
	}
	r.use.using.RLock()
	defer r.use.using.RUnlock()
	id, ok := packOf(o.Name)
	if ok {
		r.use.touch(id)
	}
	if grown, err = r.put(ctx, o.Name, data); err != nil {
		return grown, err
	}
	if ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.proved[id] = struct{}{}
	}
	return grown, nil
}

func (r *Replica) put(ctx context.Context, name string, data []byte) (int64, error) {
	ctx = blob.Uncached(ctx)
	var grown int64
	err := r.store.Put(ctx, name, data)
	switch {
	case err == nil:
		grown = int64(len(data))
	case !errors.Is(err, blob.ErrExist):
		return 0, writeError(name, err)
	}
	same, err := r.sameInAll(ctx, name, data)
	if err != nil {
		return grown, err
	}
	if same {
		return grown, nil
	}
	return grown, r.mend(ctx, name, data)
}

// sameInAll tells whether an object reads as these bytes from every copy. The error
// is that of a copy that could not be read.
func (r *Replica) sameInAll(ctx context.Context, name string, data []byte) (bool, error) {
	same := make([]bool, len(r.copies))
	g, gctx := errgroup.WithContext(ctx)
	for i, c := range r.copies {
		g.Go(func() error {
			got, err := c.Get(gctx, name, 0, -1)
			if err != nil && !damaged(err) {
				return readError(name+" in "+unitName(ctx, c, i), err)
			}
			same[i] = err == nil && bytes.Equal(got, data)
			return nil
		})
	}
	err := g.Wait()
	return !slices.Contains(same, false), err
}

// mend makes every copy of an object hold the bytes that came, unless one is sound
// and holds others.
func (r *Replica) mend(ctx context.Context, name string, data []byte) error {
	s := r.scrubber(ScrubOptions{})
	s.check = func(name string, data []byte) error {
		if id, ok := strings.CutPrefix(name, "points/"); ok {
			_, err := point.ClearHeader(r.id, backstay.PointID(id), data)
			return err
		}
		if strings.HasPrefix(name, headerObject) || strings.HasPrefix(name, headerFolder) {
			return errNoWord
		}
		return r.check(name, data)
	}
	k, err := s.look(ctx, name, make([]error, len(r.copies)))
	if err != nil {
		return err
	}
	for i, state := range k.Copies {
		switch {
		case state == CopySound && k.sums[i] != seal.Hash(data):
			return refused("%s is held already, and is another one", name)
		case state == CopyUnreadable:
			return backstay.Errorf(backstay.CodeVaultAway, "%s could not be read back from %s", name, unitName(ctx, r.copies[i], i)).Becausef("%s", k.Why[i])
		}
	}
	for i, state := range k.Copies {
		if state == CopySound {
			continue
		}
		if err := s.rewrite(ctx, i, &k, data); err != nil {
			return validateError(ctx, r.copies[i], i, name, err)
		}
	}
	return nil
}

// Complete makes a point be there: its manifest is put when everything that it
// needs is in every copy, and was read back from each. CodeReplicaRefused names
// what is not. Called again it finds the manifest and is no error.
func (r *Replica) Complete(ctx context.Context, id backstay.PointID, manifest []byte) (ReplicaPoint, int64, error) {
	h, err := point.ClearHeader(r.id, id, manifest)
	if err != nil {
		return ReplicaPoint{}, 0, refused("the manifest of point %s: %v", id, err)
	}
	p := r.say(id, h)
	r.use.using.RLock()
	defer r.use.using.RUnlock()
	r.use.touch(h.Packs...)
	needed, err := r.needs(ctx, id, h)
	if err != nil {
		return p, 0, err
	}
	r.use.touch(needed...)
	if err := r.prove(ctx, needed); err != nil {
		return p, 0, err
	}
	grown, err := r.put(ctx, point.Object(id), manifest)
	if err != nil {
		return p, grown, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.learnt[id] = true
	return p, grown, nil
}

func (r *Replica) say(id backstay.PointID, h point.Header) ReplicaPoint {
	return ReplicaPoint{Point: id, Item: hex.EncodeToString(h.Item[:]), Time: h.Time, Expires: h.Expires, Root: hex.EncodeToString(h.Root[:]), Packs: len(h.Packs)}
}

// needs returns the packs that hold what a manifest refers to, all of which are in
// every copy.
func (r *Replica) needs(ctx context.Context, id backstay.PointID, h point.Header) ([]pack.ID, error) {
	name, err := point.ParseID(id)
	if err != nil {
		return nil, refused("%v", err)
	}
	shelf, err := r.shelf(ctx, append([]pack.ID{}, h.Packs...))
	if err != nil {
		return nil, err
	}
	w := &ways{whole: func(p pack.ID) bool { return shelf[p].whole(len(r.whole)) }}
	var needed, absent []pack.ID
	for _, p := range h.Packs {
		if w.whole(p) {
			needed = append(needed, p)
		} else {
			absent = append(absent, p)
		}
	}
	if len(absent) == 0 {
		return needed, nil
	}
	// What is not there may have been moved before it was pushed.
	if w.moves, err = r.readMoves(ctx); err != nil {
		return nil, err
	}
	if shelf, err = r.shelf(ctx, nil); err != nil {
		return nil, err
	}
	for _, p := range absent {
		held, ok := w.find(name, p)
		if !ok {
			return nil, refused("the point %s needs %s, which is not here in every copy", id, p.Object())
		}
		needed = append(needed, held...)
	}
	slices.SortFunc(needed, comparePacks)
	return slices.Compact(needed), nil
}

// prove reads packs of which this process does not know that they were read back
// before, in every copy: those that an earlier life put last.
func (r *Replica) prove(ctx context.Context, packs []pack.ID) error {
	unknown, err := r.unproved(ctx, packs)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(scrubAhead)
	for _, id := range unknown {
		g.Go(func() error { return r.proveOne(blob.Uncached(gctx), id) })
	}
	return g.Wait()
}

// unproved returns those of the packs that were not proved, reading the manifests
// that are there, newest first, until none is left.
func (r *Replica) unproved(ctx context.Context, packs []pack.ID) ([]pack.ID, error) {
	left := func() []pack.ID {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.DeleteFunc(slices.Clone(packs), func(id pack.ID) bool { _, ok := r.proved[id]; return ok })
	}
	rest := left()
	if len(rest) == 0 {
		return nil, nil
	}
	points, err := r.points(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Backward(points) {
		r.mu.Lock()
		known := r.learnt[id]
		r.mu.Unlock()
		if known || len(rest) == 0 {
			continue
		}
		h, err := r.manifest(ctx, id)
		if err != nil {
			if damaged(err) {
				continue
			}
			return nil, readError(point.Object(id), err)
		}
		r.mu.Lock()
		r.learnt[id] = true
		for _, p := range h.Packs {
			r.proved[p] = struct{}{}
		}
		r.mu.Unlock()
		rest = left()
	}
	return rest, nil
}

// proveOne demands that a pack is sound and the same in every copy.
func (r *Replica) proveOne(ctx context.Context, id pack.ID) error {
	var first []byte
	for i, c := range r.whole {
		data, err := c.Get(ctx, id.Object(), 0, -1)
		if err != nil && !damaged(err) {
			return readError(id.Object(), err)
		}
		switch {
		case err != nil:
			return refused("%s in %s: %v", id.Object(), unitName(ctx, c, i), err)
		case first == nil:
			first = data
			if err := r.check(id.Object(), data); err != nil {
				return refused("%s in %s: %v", id.Object(), unitName(ctx, c, i), err)
			}
		case !bytes.Equal(first, data):
			return refused("%s differs in %s from another copy", id.Object(), unitName(ctx, c, i))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proved[id] = struct{}{}
	return nil
}

// points lists the points of which any copy has a manifest, in order.
func (r *Replica) points(ctx context.Context) ([]backstay.PointID, error) {
	var ids []backstay.PointID
	err := r.store.List(ctx, "points/", func(i blob.Info) error {
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

// manifest reads the clear part of a manifest from the first copy that shows it.
// The error is only "damaged" if every copy answered.
func (r *Replica) manifest(ctx context.Context, id backstay.PointID) (point.Header, error) {
	var wrong, unread []error
	for _, c := range r.copies {
		data, err := c.Get(ctx, point.Object(id), 0, -1)
		if err == nil {
			var h point.Header
			if h, err = point.ClearHeader(r.id, id, data); err == nil {
				return h, nil
			}
		}
		if damaged(err) {
			wrong = append(wrong, err)
		} else {
			unread = append(unread, err)
		}
	}
	if len(unread) > 0 {
		return point.Header{}, errors.Join(unread...)
	}
	return point.Header{}, fmt.Errorf("%w: %w", seal.ErrWrong, errors.Join(wrong...))
}

// Drop removes a point's manifest from every copy. No other object is touched, so
// no other point is (I3). It is no error if it is not there.
func (r *Replica) Drop(ctx context.Context, id backstay.PointID) error {
	if _, err := point.ParseID(id); err != nil {
		return backstay.Errorf(backstay.CodeUnknownPoint, "there is no such recovery point").Because(err)
	}
	if err := r.store.Delete(ctx, point.Object(id)); err != nil {
		return writeError("removing "+point.Object(id), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.learnt, id)
	return nil
}

// List calls fn for each object that any copy has, in order of name, with its size
// and without its sum.
func (r *Replica) List(ctx context.Context, fn func(ReplicaObject) error) error {
	err := r.store.List(ctx, "", func(i blob.Info) error { return fn(ReplicaObject{Name: i.Name, Size: i.Size}) })
	if err != nil {
		return readError("the list of objects", err)
	}
	return nil
}

// Get reads an object from the first copy in which it is sound as far as can be
// told without a key.
func (r *Replica) Get(ctx context.Context, name string) ([]byte, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, refused("%v", err)
	}
	var errs []error
	for _, c := range r.copies {
		data, err := c.Get(ctx, name, 0, -1)
		if id, ok := strings.CutPrefix(name, "points/"); ok && err == nil {
			_, err = point.ClearHeader(r.id, backstay.PointID(id), data)
		} else if err == nil {
			err = r.check(name, data)
		}
		if err == nil {
			return data, nil
		}
		errs = append(errs, err)
	}
	return nil, readError(name, errs...)
}
