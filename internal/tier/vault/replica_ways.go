package vault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// ways answers where what a manifest says is in a pack can be had in a replica:
// in the pack itself, as long as it is there, or in those to which a list of
// moved packs leads. Unlike at home neither the order of the lists counts nor what
// became of a point there: a pack that a point came with goes on being needed, so
// nothing that happens at home takes a point away here (I11).
type ways struct {
	whole func(pack.ID) bool
	moves []chain.Moves // oldest first
	of    map[pack.ID][]movedFor
}

type movedFor struct {
	points [][16]byte
	to     []pack.ID
}

// find returns packs that are there and hold it; false if there is no way.
func (w *ways) find(name [16]byte, id pack.ID) ([]pack.ID, bool) {
	return w.from(name, id, map[pack.ID]bool{})
}

func (w *ways) from(name [16]byte, id pack.ID, seen map[pack.ID]bool) ([]pack.ID, bool) {
	if w.whole(id) {
		return []pack.ID{id}, true
	}
	if seen[id] {
		return nil, false // lists that lead in a circle lead nowhere
	}
	seen[id] = true
	defer delete(seen, id)
	for _, m := range slices.Backward(w.led()[id]) {
		if _, found := slices.BinarySearchFunc(m.points, name, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) }); !found {
			continue
		}
		var held []pack.ID
		all := true
		for _, to := range m.to {
			packs, ok := w.from(name, to, seen)
			held, all = append(held, packs...), all && ok
		}
		if all {
			return held, true
		}
	}
	return nil, false
}

// led sorts the lists by the pack that they lead away from.
func (w *ways) led() map[pack.ID][]movedFor {
	if w.of != nil {
		return w.of
	}
	w.of = map[pack.ID][]movedFor{}
	for _, m := range w.moves {
		for _, p := range m.Packs {
			w.of[p.From] = append(w.of[p.From], movedFor{m.Points, p.To})
		}
	}
	return w.of
}

// readMoves reads the lists of moved packs that are there. One that no copy shows
// is left out: it leads nowhere then.
func (r *Replica) readMoves(ctx context.Context) ([]chain.Moves, error) {
	var names []string
	err := r.store.List(ctx, chain.MovesPrefix, func(i blob.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		return nil, readError("the lists of moved packs", err)
	}
	var all []chain.Moves
	for _, name := range names {
		id, err := chain.ParseMovesObject(name)
		if err != nil {
			continue
		}
		list, err := r.movesOf(ctx, name, id)
		if err != nil && !damaged(err) {
			return nil, readError(name, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

func (r *Replica) movesOf(ctx context.Context, name string, id ulid.ULID) ([]chain.Moves, error) {
	var wrong, unread []error
	for _, c := range r.copies {
		data, err := c.Get(ctx, name, 0, -1)
		if err == nil {
			var list []chain.Moves
			if list, err = chain.DecodeMovesKeyless(r.id, id, data); err == nil {
				return list, nil
			}
		}
		if damaged(err) {
			wrong = append(wrong, err)
		} else {
			unread = append(unread, err)
		}
	}
	if len(unread) > 0 {
		return nil, errors.Join(unread...)
	}
	return nil, fmt.Errorf("%w: %w", seal.ErrWrong, errors.Join(wrong...))
}

// scrubber checks a replica without keys: points are those whose manifests are
// there, and packs are needed where they are, or else where lists lead.
func (r *Replica) scrubber(o ScrubOptions) *scrubber {
	s := r.keyless().scrubber(o)
	s.readMoves = func(context.Context) (*moves, map[backstay.PointID]chain.Hash, error) { return newMoves(), nil, nil }
	return s
}

// scrubbing reads the vault's header, and where packs are.
func (r *Replica) scrubbing(ctx context.Context, o ScrubOptions) (*scrubber, error) {
	k, err := newKeyless(ctx, r.store, r.id.String())
	if err != nil {
		return nil, err
	}
	s := k.scrubber(o)
	s.readMoves = func(context.Context) (*moves, map[backstay.PointID]chain.Hash, error) { return newMoves(), nil, nil }
	s.lead = r.lead
	return s, nil
}

// lead returns what tells which packs hold what a manifest refers to.
func (r *Replica) lead(ctx context.Context) (func([16]byte, []pack.ID) []pack.ID, error) {
	lists, err := r.readMoves(ctx)
	if err != nil || len(lists) == 0 {
		return func(_ [16]byte, packs []pack.ID) []pack.ID { return packs }, err
	}
	there, err := r.anywhere(ctx)
	if err != nil {
		return nil, err
	}
	w := &ways{whole: func(id pack.ID) bool { return there[id] > 0 }, moves: lists}
	return func(name [16]byte, packs []pack.ID) []pack.ID {
		var out []pack.ID
		for _, p := range packs {
			held, ok := w.find(name, p)
			if !ok {
				held = []pack.ID{p} // it is lost
			}
			out = append(out, held...)
		}
		slices.SortFunc(out, comparePacks)
		return slices.Compact(out)
	}, nil
}

// anywhere counts in how many copies packs are listed. A copy that cannot be
// listed is left out: this says where to look, and nothing is deleted for it.
func (r *Replica) anywhere(ctx context.Context) (map[pack.ID]int, error) {
	there := map[pack.ID]int{}
	failed := 0
	var errs []error
	for _, c := range r.copies {
		err := c.List(ctx, "packs/", func(info blob.Info) error {
			if id, ok := packOf(info.Name); ok {
				there[id]++
			}
			return nil
		})
		if err != nil {
			failed, errs = failed+1, append(errs, err)
		}
	}
	if failed == len(r.copies) {
		return nil, readError("the list of packs", errs...)
	}
	return there, nil
}

// Scrub is ScrubKeyless for a replica.
func (r *Replica) Scrub(ctx context.Context, o ScrubOptions) (ScrubReport, error) {
	s, err := r.scrubbing(ctx, o)
	if err != nil {
		return ScrubReport{}, err
	}
	return s.run(ctx)
}

// Repair is RepairKeyless for a replica. What has no sound copy here is pushed
// again by its own region, if that still has it.
func (r *Replica) Repair(ctx context.Context, damages []Damage, o RepairOptions) (RepairReport, error) {
	s, err := r.scrubbing(ctx, ScrubOptions{Pace: o.Pace})
	if err != nil {
		return RepairReport{}, err
	}
	return s.repair(ctx, damages, o)
}

// Census counts the objects and bytes of each copy as its listing has them.
func (r *Replica) Census(ctx context.Context) ([]CopyReport, error) { return census(ctx, r.copies) }

// Usage counts what is held, in objects and bytes of one copy, and the points.
func (r *Replica) Usage(ctx context.Context) (backstay.VaultUsage, error) {
	var u backstay.VaultUsage
	err := r.List(ctx, func(o ReplicaObject) error {
		u.Objects++
		u.StoredBytes += o.Size
		if _, err := point.ParseID(backstay.PointID(strings.TrimPrefix(o.Name, "points/"))); err == nil {
			u.Points++
		}
		return nil
	})
	return u, err
}

// filling returns the replica as the source of a fill. Its records of the chain are
// those that came, with gaps or without: they judge nothing.
func (r *Replica) filling(ctx context.Context) (source, error) {
	s, err := r.scrubbing(ctx, ScrubOptions{})
	if err != nil {
		return source{}, err
	}
	each := func(ctx context.Context, fn func(string, []byte) error) (uint64, error) {
		var names []string
		err := r.store.List(ctx, chain.Prefix, func(i blob.Info) error {
			names = append(names, i.Name)
			return nil
		})
		if err != nil {
			return 0, readError("the list of the chain's records", err)
		}
		for _, name := range names {
			data, err := r.Get(ctx, name)
			if backstay.IsCode(err, backstay.CodeDamaged) {
				continue
			}
			if err == nil {
				err = fn(name, data)
			}
			if err != nil {
				return 0, err
			}
		}
		return math.MaxUint64, nil // none of them waits for another
	}
	return source{s, r.id.String(), each}, nil
}

// Introduce is Vault.Introduce for a copy of a replica.
func (r *Replica) Introduce(ctx context.Context, to blob.Store) error {
	from, err := r.filling(ctx)
	if err != nil {
		return err
	}
	return introduce(ctx, from, to)
}

// Fill is Vault.Fill for a copy of a replica.
func (r *Replica) Fill(ctx context.Context, to blob.Store, o FillOptions) (FillReport, error) {
	from, err := r.filling(ctx)
	if err != nil {
		return FillReport{Next: o.From}, err
	}
	return fill(ctx, from, to, o)
}
