package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// vaultID is the vault's UUID in binary form.
func (v *Vault) vaultID() [16]byte { return v.keys.Head(seal.Pack, [16]byte{}, 0).Vault }

func (v *Vault) decodeMoves(id ulid.ULID, data []byte) ([]chain.Moves, error) {
	return chain.DecodeMoves(v.keys.TrashMAC, v.vaultID(), id, data)
}

// readMoves reads the lists of moved packs that the chain names, each from the
// first copy that has it as the chain says. The error is only "damaged" if every
// copy answered.
func readMoves(ctx context.Context, copies []blob.Store, s chain.State, decode func(ulid.ULID, []byte) ([]chain.Moves, error)) (*moves, error) {
	m := newMoves()
	for _, record := range s.Moves {
		id, err := chain.ParseMovesObject(record.Object)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", seal.ErrWrong, err)
		}
		data, err := objectOf(ctx, copies, record.Object, record.Hash)
		if err != nil {
			return nil, err
		}
		list, err := decode(id, data)
		if err != nil {
			return nil, err
		}
		for _, moved := range list {
			m.add(moved)
		}
	}
	return m, nil
}

// objectOf reads an object from the first copy that has it with this hash.
func objectOf(ctx context.Context, copies []blob.Store, name string, want chain.Hash) ([]byte, error) {
	var wrong, unread []error
	for i, c := range copies {
		data, err := c.Get(ctx, name, 0, -1)
		if err == nil && seal.Hash(data) != want {
			err = fmt.Errorf("another hash than its record has: %w", seal.ErrWrong)
		}
		if err == nil {
			return data, nil
		}
		err = fmt.Errorf("%s in %s: %w", name, unitName(ctx, c, i), err)
		if damaged(err) {
			wrong = append(wrong, err)
		} else {
			unread = append(unread, err)
		}
	}
	if len(unread) > 0 {
		return nil, errors.Join(unread...)
	}
	return nil, errors.Join(wrong...)
}

// ledReaders is what a vault that is read knows of moved packs.
type ledReaders struct {
	mu    sync.Mutex
	seq   uint64 // of the newest moved record that was read; guarded by mu
	moves *moves // nil: none; guarded by mu
}

// knownMoves returns the moves as the chain had them when a point was opened, or
// nil. It is for finding chunks faster, so what cannot be read is left out.
func (v *Vault) knownMoves(ctx context.Context) *moves {
	v.journal.mu.Lock()
	st, read := v.journal.state, v.journal.read
	v.journal.mu.Unlock()
	if !read || len(st.Moves) == 0 {
		return nil
	}
	v.led.mu.Lock()
	defer v.led.mu.Unlock()
	if newest := st.Moves[len(st.Moves)-1].Seq; newest > v.led.seq {
		m, err := readMoves(ctx, v.copies, st, v.decodeMoves)
		if ctx.Err() != nil {
			return v.led.moves
		}
		if v.led.seq = newest; err == nil { // else it is not asked for again at every chunk
			v.led.moves = m
		}
	}
	return v.led.moves
}

// current returns where a chunk is now, if its page says that it is in a pack
// that was repacked since: asking such a pack first, in every copy, would cost
// more than asking the index. It is a hint like the one it replaces.
func (v *Vault) current(ctx context.Context, r ref) point.Place {
	m := v.knownMoves(ctx)
	if m == nil || len(m.of[r.at.Pack]) == 0 {
		return r.at
	}
	places, err := v.places.find(ctx, r.kind, r.name)
	if err != nil {
		return r.at
	}
	for _, at := range places {
		if len(m.of[at.Pack]) == 0 {
			return at
		}
	}
	return r.at
}

// elsewhere finds a chunk in other packs than those that were tried, after having
// read what came into the index since: a directory that was read when a pack was
// there yet must not hide that its chunks are in another one now.
func (v *Vault) elsewhere(ctx context.Context, r ref, tried map[pack.ID]bool) ([]point.Place, error) {
	p := v.places
	for _, harder := range []func(context.Context) error{p.refresh, p.scan} {
		if err := harder(ctx); err != nil {
			return nil, err
		}
		candidates := slices.DeleteFunc(append(p.cache.Lookup(r.name), p.scanned.Lookup(r.name)...), func(id pack.ID) bool { return tried[id] })
		found, err := p.among(ctx, candidates, nameOfKind{r.kind, r.name})
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, nil
}

// moves answers where the chunks of packs went.
type moves struct {
	groups []moveGroup
	of     map[pack.ID][]*movedPack // oldest first
}

type moveGroup struct {
	points map[[16]byte]bool
	packs  []*movedPack
}

type movedPack struct {
	group int
	to    []pack.ID
	from  pack.ID
	used  bool // some point is led by it
}

func newMoves() *moves { return &moves{of: map[pack.ID][]*movedPack{}} }

// add adds what is newer than all before.
func (m *moves) add(list chain.Moves) {
	g := moveGroup{points: map[[16]byte]bool{}}
	for _, p := range list.Points {
		g.points[p] = true
	}
	for _, p := range list.Packs {
		moved := &movedPack{group: len(m.groups), from: p.From, to: p.To}
		g.packs = append(g.packs, moved)
		m.of[p.From] = append(m.of[p.From], moved)
	}
	m.groups = append(m.groups, g)
}

// resolve calls add for the packs that hold, for this point, what its manifest
// says is in the pack. Of several moves the newest counts that was made with the
// point in view: it has all that the point needs. A point that was not in view
// (committed later) refers to the pack itself.
func (m *moves) resolve(name [16]byte, id pack.ID, add func(pack.ID)) { m.after(-1, name, id, add) }

func (m *moves) after(group int, name [16]byte, id pack.ID, add func(pack.ID)) {
	for _, moved := range slices.Backward(m.of[id]) {
		if moved.group <= group {
			break
		}
		if m.groups[moved.group].points[name] {
			moved.used = true
			for _, to := range moved.to {
				m.after(moved.group, name, to, add)
			}
			return
		}
	}
	add(id)
}

// still returns what of the moves leads a point that is among these, in the form
// of a new list. It is asked after every point was resolved.
func (m *moves) still(points []viewPoint) []chain.Moves {
	var out []chain.Moves
	for _, g := range m.groups {
		var kept chain.Moves
		for _, p := range points {
			if g.points[p.name] {
				kept.Points = append(kept.Points, p.name)
			}
		}
		for _, p := range g.packs {
			if p.used {
				kept.Packs = append(kept.Packs, chain.MovedPack{From: p.from, To: p.to})
			}
		}
		if len(kept.Points) > 0 && len(kept.Packs) > 0 {
			out = append(out, kept)
		}
	}
	return out
}
