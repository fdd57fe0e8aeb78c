package vault

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// view is a vault as the chain has it at one record.
type view struct {
	state chain.State
	// points are all whose packs stay, newest first: those that the chain has,
	// and manifests that it does not know (yet), because their commit may go on.
	points []viewPoint
	moves  *moves
	lists  []viewList // oldest first
	// dropped are manifests that are there although the chain says that their
	// points were dropped.
	dropped []backstay.PointID
}

type viewPoint struct {
	id    backstay.PointID
	name  [16]byte
	root  chain.Hash // zero: not in the chain
	taken time.Time
	item  [32]byte // pseudonym of its VM
}

// committed tells whether the point is one: the chain has it.
func (p viewPoint) committed() bool { return !p.root.IsZero() }

// committed are the points that the chain has, newest first.
func (w *view) committed() []viewPoint {
	return slices.DeleteFunc(slices.Clone(w.points), func(p viewPoint) bool { return !p.committed() })
}

type viewList struct {
	chain.Condemned
	packs []pack.ID // sorted
	lost  error     // why no copy shows the list
}

func (l *viewList) id() string { return strings.TrimPrefix(l.Object, chain.TrashPrefix) }

func (l *viewList) has(id pack.ID) bool {
	_, found := slices.BinarySearchFunc(l.packs, id, comparePackIDs)
	return found
}

func comparePackIDs(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) }

// condemned tells whether any list has the pack.
func (w *view) condemned(id pack.ID) bool {
	return slices.ContainsFunc(w.lists, func(l viewList) bool { return l.has(id) })
}

// look reads the chain and all that it names. Anything that is not in order
// stops a reclaim.
func (r *Reclaim) look(ctx context.Context) (*view, error) {
	w, err := r.lookLists(ctx)
	if err != nil {
		return nil, err
	}
	if w.moves, err = readMoves(ctx, r.v.copies, w.state, r.v.decodeMoves); err != nil {
		return nil, r.halt("read a list of moved packs", err)
	}
	return w, r.findPoints(ctx, w)
}

// lookLists reads the chain and the lists of condemned packs.
func (r *Reclaim) lookLists(ctx context.Context) (*view, error) {
	if !r.v.chained() {
		_, err := r.v.writable(ctx, r.o.Now) // says why such a vault is not written
		return nil, err
	}
	state, err := r.v.chainState(ctx, true)
	if err != nil {
		return nil, r.halt("read the vault's chain", err)
	}
	state.Live = maps.Clone(state.Live) // those that are dropped meanwhile are taken out
	w := &view{state: state}
	for _, c := range state.CondemnedBefore() {
		packs, err := r.v.readTrash(ctx, c.Object, c.Hash)
		if err != nil && !backstay.IsCode(err, backstay.CodeDamaged) {
			return nil, r.halt("read a list of condemned packs", err)
		}
		w.lists = append(w.lists, viewList{c, packs, err})
	}
	return w, nil
}

// findPoints collects the points of the chain and the manifests that no record
// names. Every copy must list its manifests, and those of all visible points.
func (r *Reclaim) findPoints(ctx context.Context, w *view) error {
	others := map[backstay.PointID]bool{}
	for i, c := range r.v.copies {
		missing := maps.Clone(w.state.Live)
		err := c.List(ctx, point.Object(""), func(info blob.Info) error {
			id := backstay.PointID(strings.TrimPrefix(info.Name, point.Object("")))
			if _, err := point.ParseID(id); err != nil {
				return nil
			}
			if _, live := w.state.Live[id]; !live {
				others[id] = true
			}
			delete(missing, id)
			return nil
		})
		if err != nil {
			return r.halt("list the points in "+unitName(ctx, c, i), err)
		}
		for id, root := range missing {
			err := fmt.Errorf("%s does not list it: a short listing, or a lost object", unitName(ctx, c, i))
			if err := r.unlessGone(ctx, viewPoint{id: id, root: root}, "find the manifest", err); err != nil {
				return backstay.AsError(err).Do("look after the storage unit, run `backstay vault verify` and `backstay vault repair`, and reclaim then")
			}
			delete(w.state.Live, id)
		}
	}
	for id, root := range w.state.Live {
		name, err := point.ParseID(id)
		if err != nil {
			return r.halt("read the vault's chain", err)
		}
		w.points = append(w.points, viewPoint{id: id, name: name, root: root})
	}
	for id := range others {
		if _, dropped := w.state.Dropped[id]; dropped {
			w.dropped = append(w.dropped, id)
			continue
		}
		name, _ := point.ParseID(id) // parsed before
		w.points = append(w.points, viewPoint{id: id, name: name})
	}
	return r.sortPoints(ctx, w)
}

// sortPoints puts the newest point first, and takes out those that were dropped
// meanwhile and manifests that are neither in the chain nor sound in any copy: no
// commit can be finished with them.
func (r *Reclaim) sortPoints(ctx context.Context, w *view) error {
	var kept []viewPoint
	for _, p := range w.points {
		h, _, gone, err := r.needs(ctx, p)
		if err != nil {
			return err
		}
		if gone {
			continue
		}
		p.taken, p.item = h.Time, h.Item
		kept = append(kept, p)
	}
	slices.SortFunc(kept, func(a, b viewPoint) int {
		return cmp.Or(b.taken.Compare(a.taken), strings.Compare(string(b.id), string(a.id)))
	})
	slices.Sort(w.dropped)
	w.points = kept
	return nil
}

// manifest reads a point's manifest from the first copy that shows it with the
// root that the chain has.
func (r *Reclaim) manifest(ctx context.Context, p viewPoint) (point.Header, point.Body, error) {
	var errs []error
	for i, c := range r.v.copies {
		data, err := c.Get(ctx, point.Object(p.id), 0, -1)
		var h point.Header
		var body point.Body
		if err == nil {
			h, body, err = point.Decode(r.v.keys, p.id, data)
		}
		if err == nil && p.committed() && h.Root != [32]byte(p.root) {
			err = fmt.Errorf("another manifest than the one that was committed: %w", seal.ErrWrong)
		}
		if err == nil {
			return h, body, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", unitName(ctx, c, i), err))
	}
	return point.Header{}, point.Body{}, noPoint(p.id, errs)
}

// needs reads the manifest of a point that is in view. gone tells that the point
// was dropped since: then nobody needs what it needed.
func (r *Reclaim) needs(ctx context.Context, p viewPoint) (h point.Header, body point.Body, gone bool, err error) {
	h, body, err = r.manifest(ctx, p)
	if err == nil {
		return h, body, false, nil
	}
	err = r.unlessGone(ctx, p, "read the manifest", err)
	return h, body, err == nil, err
}

// unlessGone is the error that stops a reclaim, or nil if there is none or the
// point is offered no more.
func (r *Reclaim) unlessGone(ctx context.Context, p viewPoint, what string, err error) error {
	if err == nil {
		return nil
	}
	st, stateErr := r.v.chainState(ctx, true)
	if stateErr != nil {
		return r.halt("read the vault's chain", stateErr)
	}
	_, live := st.Live[p.id]
	if !live && (st.Dropped[p.id] > 0 || !p.committed() && damagedPoint(err)) {
		return nil
	}
	return r.halt(fmt.Sprintf("%s of point %s", what, p.id), err)
}

// damagedPoint tells a point of which nothing is left from one that could not be read.
func damagedPoint(err error) bool {
	return backstay.IsCode(err, backstay.CodeDamaged) || backstay.IsCode(err, backstay.CodeUnknownPoint)
}
