package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// journal is what was read of the chain last, for reading points: the chain is
// read when it is first needed, and again only for a point that it did not know.
type journal struct {
	mu    sync.Mutex
	read  bool        // guarded by mu
	state chain.State // guarded by mu
}

// chained tells whether the vault has a chain. Those made in format version 1 have
// none, can be read for ever, and are not written any more.
func (v *Vault) chained() bool { return v.header.Chained }

// chainLog returns the vault's chain.
func (v *Vault) chainLog() *chain.Log { return v.chain }

// headerRecord says which header the vault has.
func headerRecord(f writtenHeader, at time.Time) chain.Record {
	return chain.Record{Op: chain.Keys, Time: at, Generation: f.Generation, Object: headerName(f.Generation), Hash: f.hash()}
}

// startChain appends the first record of a new vault, unless it is there.
func startChain(ctx context.Context, s blob.Store, keys *seal.Keys, f writtenHeader) error {
	_, err := chain.Open(s, keys.ChainMAC).Append(ctx, func(st chain.State) (chain.Record, error) {
		if st.Seq > 0 {
			return chain.Record{}, nil
		}
		return headerRecord(f, f.Created), nil
	})
	return chainError(err)
}

// chainError is for errors of the chain's own store calls; it keeps coded ones.
func chainError(err error) error {
	if err == nil {
		return nil
	}
	return writeError("the chain", err)
}

// remember keeps a state for reading points.
func (v *Vault) remember(st chain.State) {
	v.journal.mu.Lock()
	defer v.journal.mu.Unlock()
	if !v.journal.read || st.Seq >= v.journal.state.Seq {
		v.journal.read, v.journal.state = true, st
	}
}

// chainState returns what the chain says, read anew if fresh is wanted or if it
// was not read yet.
func (v *Vault) chainState(ctx context.Context, fresh bool) (chain.State, error) {
	v.journal.mu.Lock()
	st, read := v.journal.state, v.journal.read
	v.journal.mu.Unlock()
	if read && !fresh {
		return st, nil
	}
	st, err := v.chain.Read(ctx)
	if err != nil {
		return st, err
	}
	v.remember(st)
	return st, nil
}

// writable returns the state of a chain that may be appended to: it begins one
// that its vault's making left out, and records a header that is newer.
func (v *Vault) writable(ctx context.Context, at time.Time) (chain.State, error) {
	if !v.chained() {
		return chain.State{}, backstay.Errorf(backstay.CodeConflict, "the vault %s was made in format version 1, which is not written any more", v.header.Name).
			Becausef("such vaults have no chain, so nobody would notice if what is written were taken away again").
			Do("make a new vault and protect the VMs there; the points of this one can be restored for ever")
	}
	newest := v.opened.newest
	st, err := v.chain.Read(ctx)
	if err != nil {
		return st, err
	}
	if st.Seq == 0 {
		if err := v.unused(ctx); err != nil {
			return st, err
		}
	}
	st, err = v.chain.Append(ctx, func(st chain.State) (chain.Record, error) {
		switch {
		case st.HeaderGeneration < newest.Generation:
			return headerRecord(newest, at), nil
		case st.HeaderGeneration > newest.Generation:
			return chain.Record{}, v.newerHeader(ctx, st)
		case st.HeaderHash != newest.hash():
			return chain.Record{}, backstay.Errorf(backstay.CodeVaultRolledBack, "the vault %s has another header than its chain says", v.header.Name).
				Becausef("%s is not the one that was written", headerName(newest.Generation))
		}
		return chain.Record{}, nil
	})
	if err != nil {
		return st, chainError(err)
	}
	v.remember(st)
	return st, nil
}

// unused demands that nothing was ever written into a vault whose chain is
// empty: then its maker died between the header and the first record.
func (v *Vault) unused(ctx context.Context) error {
	for _, folder := range []string{"points/", "packs/", "indexes/"} {
		err := v.store.List(ctx, folder, func(i blob.Info) error {
			return backstay.Errorf(backstay.CodeVaultRolledBack, "the chain of the vault %s is gone", v.header.Name).
				Becausef("it has no record, and %s was written after its first", i.Name)
		})
		if err != nil {
			return readError("the list of "+folder, err)
		}
	}
	return nil
}

// newerHeader is for a chain that knows a newer header than the one with which
// this Vault was opened: that must be there, and the keys at hand must be those
// of its newest epoch.
func (v *Vault) newerHeader(ctx context.Context, st chain.State) error {
	now, err := headerState(ctx, v.copies, v.header.ID, v.keys)
	if err != nil {
		return err
	}
	if now.newest.Epoch > v.keys.Newest() {
		return seal.ErrNewerKey
	}
	return now.newest.follows(st)
}

// condemned returns the packs that a writer which begins at this state must
// leave alone.
func (v *Vault) condemned(ctx context.Context, st chain.State) (map[pack.ID]bool, error) {
	all := map[pack.ID]bool{}
	for _, c := range st.CondemnedBefore() {
		packs, err := v.readTrash(ctx, c.Object, c.Hash)
		if backstay.IsCode(err, backstay.CodeDamaged) {
			return nil, backstay.Errorf(backstay.CodeDamaged, "nobody can tell which packs of the vault %s are about to be deleted", v.header.Name).
				Because(err).Do("run `backstay vault reclaim %s`: it gives a list up that cannot be read", v.header.Name)
		}
		if err != nil {
			return nil, err
		}
		for _, id := range packs {
			all[id] = true
		}
	}
	return all, nil
}

// putTrash puts a list of packs that are to go and returns its object and hash,
// as a condemn record has them.
func (v *Vault) putTrash(ctx context.Context, packs []pack.ID) (string, chain.Hash, error) {
	id := ulid.Make()
	object := chain.TrashObject(id)
	data, hash := chain.EncodeTrash(v.keys.TrashMAC, v.keys.Head(seal.Pack, id, 0).Vault, id, packs)
	if err := v.store.Put(ctx, object, data); err != nil {
		return object, hash, writeError(object, err)
	}
	return object, hash, v.sameInAll(ctx, object, data)
}

// readTrash reads a list of packs that are to go from any copy that has it as
// the chain says. CodeDamaged if every copy answered and none has.
func (v *Vault) readTrash(ctx context.Context, object string, hash chain.Hash) ([]pack.ID, error) {
	id, err := chain.ParseTrashObject(object)
	if err != nil {
		return nil, readError(object, fmt.Errorf("%w: %w", seal.ErrWrong, err))
	}
	var errs []error
	for _, c := range v.copies {
		data, err := c.Get(ctx, object, 0, -1)
		if err == nil {
			if chain.Hash(seal.Hash(data)) != hash {
				err = fmt.Errorf("%s has another hash than the chain says: %w", object, seal.ErrWrong)
			} else {
				var packs []pack.ID
				if packs, err = chain.DecodeTrash(v.keys.TrashMAC, v.keys.Head(seal.Pack, id, 0).Vault, id, data); err == nil {
					return packs, nil
				}
			}
		}
		errs = append(errs, err)
	}
	return nil, readError(object, errs...)
}

// journalCommit makes the point visible: its manifest is in every copy, and now
// the chain says so. A list of packs that was condemned after the transfer began
// and is being deleted must not have any that the point needs.
func (w *Writer) journalCommit(ctx context.Context, root [32]byte, at time.Time) (chain.Head, error) {
	if w.o.Now != nil {
		at = w.o.Now()
	}
	id := w.o.Point
	st, err := w.v.chain.Append(ctx, func(st chain.State) (chain.Record, error) {
		was, live := st.Live[id]
		switch {
		case live && was == chain.Hash(root):
			return chain.Record{}, nil // by a call whose answer was lost
		case live:
			return chain.Record{}, w.conflict(nil)
		case st.Dropped[id] > 0:
			return chain.Record{}, wasDropped(id)
		}
		if err := w.fenced(ctx, st); err != nil {
			return chain.Record{}, err
		}
		return chain.Record{Op: chain.Commit, Time: at, Point: id, Root: root}, nil
	})
	if err != nil {
		return chain.Head{}, chainError(err)
	}
	w.v.remember(st)
	return st.Head, nil
}

func wasDropped(id backstay.PointID) error {
	return backstay.Errorf(backstay.CodeConflict, "the recovery point %s was dropped from the vault", id).
		Becausef("a point that was dropped does not come back").Do("nothing is to be done")
}

// fenced refuses a point that refers to packs which reclaim is deleting: they
// were condemned after the transfer began, so the writer did not know.
func (w *Writer) fenced(ctx context.Context, st chain.State) error {
	refused := backstay.Errorf(backstay.CodeConflict, "the recovery point %s cannot be committed", w.o.Point).
		Do("retry the job: what was stored is used again")
	if w.born.Seq < st.Floor {
		return refused.Becausef("so much was reclaimed since the transfer began that nobody can tell what it may refer to")
	}
	for _, f := range st.Fences {
		if f.CondemnSeq <= w.born.Seq {
			continue // known when it began: nothing of it was used
		}
		packs, err := w.v.readTrash(ctx, f.Object, f.Hash)
		if backstay.IsCode(err, backstay.CodeDamaged) {
			return refused.Because(err)
		}
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(packs, func(id pack.ID) bool { return w.refs[id] }); i >= 0 {
			return refused.Becausef("it refers to %s, which was condemned after the transfer began and is being deleted", packs[i].Object())
		}
	}
	return nil
}

// manifest is what the copies hold under the name of a point's manifest.
type manifest struct {
	data   []byte // sound, and of the wanted root; nil if no copy has that
	header point.Header
	other  bool // a copy has something else
	short  bool // a copy has nothing
}

// manifestOf reads a manifest in every copy. With want only that of this root is
// sound. It fails if a copy cannot be read.
func (v *Vault) manifestOf(ctx context.Context, id backstay.PointID, want *chain.Hash) (manifest, error) {
	var m manifest
	for _, c := range v.copies {
		data, err := c.Get(ctx, point.Object(id), 0, -1)
		if errors.Is(err, blob.ErrNotExist) {
			m.short = true
			continue
		}
		if err != nil {
			return m, readError(point.Object(id), err)
		}
		h, _, err := point.Decode(v.keys, id, data)
		if errors.Is(err, seal.ErrNewerKey) {
			return m, err
		}
		if err != nil || want != nil && chain.Hash(h.Root) != *want {
			m.other = true
			continue
		}
		m.data, m.header = data, h
	}
	return m, nil
}

// finishCommit answers CodeExists if the point was committed, after completing
// its manifest in the copies that lack it. One that was not committed, because
// its writer died before, is: a manifest is put only after everything else was
// proved (I2), and whether that is still there is asked of every copy. If it is
// not, the manifest is removed, and the point is written anew.
func (v *Vault) finishCommit(ctx context.Context, w *Writer, st chain.State) error {
	id := w.o.Point
	root, live := st.Live[id]
	if st.Dropped[id] > 0 {
		return wasDropped(id)
	}
	var want *chain.Hash
	if live {
		want = &root
	}
	m, err := v.manifestOf(ctx, id, want)
	switch {
	case err != nil:
		return err
	case m.data == nil && live:
		return lostManifest(id, m.other)
	case m.data == nil && !m.other:
		return nil
	case m.data == nil:
		return v.removeManifest(ctx, id)
	}
	if !live {
		if usable, err := v.allInPlace(ctx, m.header.Packs, w); err != nil || !usable {
			return errors.Join(err, v.removeUnless(ctx, id, err))
		}
	}
	if m.short {
		if err := v.store.Put(ctx, point.Object(id), m.data); err != nil && !errors.Is(err, blob.ErrExist) {
			return writeError(point.Object(id), err)
		}
	}
	if !live {
		for _, p := range m.header.Packs {
			w.refs[p] = true
		}
		if _, err := w.journalCommit(ctx, m.header.Root, m.header.Time); err != nil {
			return err
		}
	}
	return backstay.Errorf(backstay.CodeExists, "the vault has the recovery point %s already", id).
		Do("nothing is to be done: open it")
}

// removeUnless removes a manifest that was never committed, unless err.
func (v *Vault) removeUnless(ctx context.Context, id backstay.PointID, err error) error {
	if err != nil {
		return nil
	}
	return v.removeManifest(ctx, id)
}

func (v *Vault) removeManifest(ctx context.Context, id backstay.PointID) error {
	if err := v.store.Delete(ctx, point.Object(id)); err != nil {
		return writeError("removing "+point.Object(id), err)
	}
	return nil
}

// allInPlace tells whether a new point may refer to all of these packs.
func (v *Vault) allInPlace(ctx context.Context, packs []pack.ID, w *Writer) (bool, error) {
	rely := v.relyOn(ctx, packs, w.condemned)
	for _, id := range packs {
		if err := rely.usable(ctx, id); err != nil {
			if damaged(err) {
				return false, nil
			}
			return false, readError(id.Object(), err)
		}
	}
	return true, nil
}

// lostManifest names a point that was committed and has no manifest any more.
func lostManifest(id backstay.PointID, other bool) error {
	e := backstay.Errorf(backstay.CodeDamaged, "the manifest of the recovery point %s was taken away", id).
		Do("repair the vault's copies, or restore another point")
	if other {
		return e.Becausef("what is in its place in the vault's copies is not what was committed: damaged, or the manifest of another state")
	}
	return e.Becausef("the chain says that the point was committed and not dropped, and no copy of the vault has its manifest")
}

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

// Head returns the newest record of the vault's chain, for whoever is to notice
// if the vault is ever in an older state. The zero Head is that of a vault
// without a chain.
func (v *Vault) Head(ctx context.Context) (backstay.VaultHead, error) {
	if !v.chained() {
		return backstay.VaultHead{}, nil
	}
	st, err := v.chainState(ctx, true)
	return publicHead(st.Head), err
}

func publicHead(h chain.Head) backstay.VaultHead {
	if h.Seq == 0 {
		return backstay.VaultHead{}
	}
	return backstay.VaultHead{Seq: h.Seq, Hash: h.Hash.String()}
}

// Expect demands that the vault is not in an older state than the one in which
// its chain had this head: CodeVaultRolledBack if it is, CodeDamaged or
// CodeVaultAway if the chain cannot tell. The zero Head expects nothing.
func (v *Vault) Expect(ctx context.Context, h backstay.VaultHead) error {
	if h.Seq == 0 {
		return nil
	}
	if !v.chained() {
		return backstay.Errorf(backstay.CodeVaultRolledBack, "the vault %s had a chain and has none any more", v.header.Name)
	}
	hash, err := chain.ParseHash(h.Hash)
	if err != nil {
		return fmt.Errorf("expected head of the chain: %w", err)
	}
	return v.chain.Expect(ctx, chain.Head{Seq: h.Seq, Hash: hash})
}
