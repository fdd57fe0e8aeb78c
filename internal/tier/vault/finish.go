package vault

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

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
		m.other = m.other || m.data != nil && !bytes.Equal(m.data, data)
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
		return v.removeLeftover(ctx, id, m)
	}
	if !live {
		if usable, err := v.allInPlace(ctx, m.header.Packs, w); err != nil {
			return err
		} else if !usable || m.other {
			return v.removeLeftover(ctx, id, m)
		}
	}
	if m.short {
		if err := v.store.Put(ctx, point.Object(id), m.data); err != nil && !errors.Is(err, blob.ErrExist) {
			return writeError(point.Object(id), err)
		}
	}
	if !live {
		if err := v.sameInAll(ctx, point.Object(id), m.data); err != nil {
			return err
		}
		for _, p := range m.header.Packs {
			w.refs[p] = true
		}
		if _, err := w.journalCommit(ctx, m.header.Root, m.header.Time); err != nil {
			return err
		}
		if err := v.keepManifest(ctx, id, m.data); err != nil {
			return err
		}
	}
	return inVault(id)
}

// inVault is the answer to who wants to write a point that was committed.
func inVault(id backstay.PointID) error {
	return backstay.Errorf(backstay.CodeExists, "the vault has the recovery point %s already", id).
		Do("nothing is to be done: open it")
}

// removeLeftover removes a manifest that was not committed when the chain was
// read, so that its point can be written anew. Its writer may be alive and commit
// it at this very moment: then it is put back.
func (v *Vault) removeLeftover(ctx context.Context, id backstay.PointID, m manifest) error {
	if err := v.removeManifest(ctx, id); err != nil {
		return err
	}
	st, err := v.chain.Read(ctx)
	if err != nil {
		return err
	}
	root, live := st.Live[id]
	if !live || m.data == nil || root != chain.Hash(m.header.Root) {
		return nil
	}
	if err := v.keepManifest(ctx, id, m.data); err != nil {
		return err
	}
	return inVault(id)
}

// keepManifest is what a commit ends with: now that the chain names the manifest
// it must be there, whatever another attempt at the same point, which found it
// uncommitted, did meanwhile. What that one may have put in its place was not
// committed. A copy that cannot be read now was proved before.
func (v *Vault) keepManifest(ctx context.Context, id backstay.PointID, data []byte) error {
	object := point.Object(id)
	for _, c := range v.copies {
		got, err := c.Get(ctx, object, 0, -1)
		if err != nil && !damaged(err) || bytes.Equal(got, data) {
			continue
		}
		if err == nil {
			err = c.Delete(ctx, object)
		}
		if err == nil || damaged(err) {
			err = c.Put(ctx, object, data)
		}
		if err != nil && !errors.Is(err, blob.ErrExist) {
			return writeError(object, err)
		}
	}
	return nil
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
