package vault

import (
	"context"
	"fmt"
	"slices"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// Repack moves the chunks that points need out of the packs that the plan names
// into new packs, in the order in which the newest points read them, and makes
// the move binding: the old packs are needed by nobody any more and are condemned
// like others. It looks at the vault first if Plan did not. The sum is of the
// packs that were emptied.
//
// The order is that of a commit: new packs durable and proved in every copy,
// their index, the list of moves, and the chain's record last. Cut off before
// that, nothing has changed; the new packs are used again or condemned. The move
// counts for the points whose tables were read, and for no others: a point that
// is committed meanwhile still needs the old pack, which then stays.
func (r *Reclaim) Repack(ctx context.Context) (backstay.ObjectSum, error) {
	var sum backstay.ObjectSum
	if r.o.NoRepack {
		return sum, nil
	}
	if _, err := r.v.writable(ctx, r.o.Now); err != nil {
		return sum, err
	}
	if r.plan == nil {
		if _, err := r.Plan(ctx); err != nil {
			return sum, err
		}
	}
	if len(r.candidates) == 0 {
		return sum, nil
	}
	view, err := r.look(ctx)
	if err != nil {
		return sum, err
	}
	p, err := r.prepareRepack(ctx, view)
	if err != nil || len(p.from) == 0 {
		return sum, err
	}
	if err := p.order(ctx); err != nil {
		return sum, err
	}
	if err := p.copyAll(ctx); err != nil {
		return sum, err
	}
	r.o.OnStage(StagePacked)
	if err := r.putIndexes(ctx, p.made); err != nil {
		return sum, err
	}
	r.o.OnStage(StageIndexed)
	if err := p.bind(ctx); err != nil {
		return sum, err
	}
	r.o.OnStage(StageMoved)
	for _, d := range p.from {
		sum.Add(int64(d.Size))
	}
	r.plan, r.candidates = nil, nil
	return sum, nil
}

// repack is one move of chunks. What is live is decided by name: the packs' own
// directories against the names in the tables of every point, so that neither a
// stale place nor a lost index can leave a chunk behind.
type repack struct {
	r    *Reclaim
	view *view
	from []pack.Directory
	at   map[nameOfKind]chunkIndex // in from; of a chunk that is there twice, the first
	// twice are chunks that several of the packs have.
	twice map[nameOfKind]bool
	live  [][]bool     // by pack and ordinal: the chunk is to be moved
	line  []chunkIndex // what is to be moved, in order

	made []pack.Directory // new packs and those of an earlier attempt that are used
	// to are the packs that have what is live of each pack of from.
	to []map[pack.ID]bool
}

// movedChunks bounds how many chunks the packs of one repack hold together: about
// 200 bytes of memory for each.
const movedChunks = 256 << 10

// prepareRepack reads the directories of the candidates. One that has no sound
// directory, or is condemned by now, is left alone.
func (r *Reclaim) prepareRepack(ctx context.Context, w *view) (*repack, error) {
	p := &repack{r: r, view: w, at: map[nameOfKind]chunkIndex{}, twice: map[nameOfKind]bool{}}
	for _, c := range r.candidates {
		if w.condemned(c.id) {
			continue
		}
		if len(p.at) > movedChunks {
			break
		}
		d, err := r.v.places.directory(ctx, c.id)
		if err != nil && damaged(err) {
			continue
		}
		if err != nil {
			return nil, readError(c.id.Object(), err)
		}
		for i, e := range d.Entries {
			name := nameOfKind{e.Kind, e.Name}
			if _, ok := p.at[name]; ok {
				p.twice[name] = true
				continue
			}
			p.at[name] = chunkIndex{uint32(len(p.from)), uint32(i)}
		}
		p.from = append(p.from, d.Directory)
		p.live = append(p.live, make([]bool, len(d.Entries)))
		p.to = append(p.to, map[pack.ID]bool{})
	}
	return p, nil
}

// order goes over the tables of all points, the newest first, and lines up what
// is live: the chunks of a disk in its order, then its table pages.
func (p *repack) order(ctx context.Context) error {
	seen := map[[16]byte]struct{}{}
	for _, pt := range p.view.committed() {
		_, body, gone, err := p.r.needs(ctx, pt)
		if err != nil {
			return err
		}
		if gone {
			continue
		}
		for i := range body.Disks {
			m := &image{ctx: ctx, v: p.r.v, disk: &body.Disks[i]}
			err := p.orderDisk(ctx, m, seen)
			if err := p.r.unlessGone(ctx, pt, fmt.Sprintf("read the tables of disk %s", m.disk.Target), err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *repack) orderDisk(ctx context.Context, m *image, seen map[[16]byte]struct{}) error {
	var tables []chunk.Name
	for i := range m.disk.PageCount() {
		name := m.disk.Page(i)
		if name.IsZero() {
			continue
		}
		if _, ok := seen[[16]byte(name[:16])]; ok {
			continue
		}
		page, err := m.page(ctx, i)
		if err != nil {
			return err
		}
		for _, n := range page.Names {
			p.take(chunk.Data, n)
		}
		tables = append(tables, name)
		if len(seen) < seenPages {
			seen[[16]byte(name[:16])] = struct{}{}
		}
	}
	for _, name := range tables {
		p.take(chunk.Table, name)
	}
	return nil
}

// take lines a chunk up if it is in one of the packs and not in line yet.
func (p *repack) take(kind chunk.Kind, name chunk.Name) {
	at, ok := p.at[nameOfKind{kind, name}]
	if !ok || p.live[at.pack][at.entry] {
		return
	}
	p.live[at.pack][at.entry] = true
	p.line = append(p.line, at)
}

// entry is what a place in the packs holds.
func (p *repack) entry(at chunkIndex) pack.Entry { return p.from[at.pack].Entries[at.entry] }

// bind puts the list of moves and appends the record that makes it count.
func (p *repack) bind(ctx context.Context) error {
	if err := p.check(); err != nil {
		return err
	}
	r := p.r
	// The moves so far are joined into the new list, without what leads nobody any
	// more; to find that out every point is led once.
	for _, pt := range p.view.committed() {
		h, _, gone, err := r.needs(ctx, pt)
		if err != nil {
			return err
		}
		if gone {
			continue
		}
		for _, id := range h.Packs {
			p.view.moves.resolve(pt.name, id, func(pack.ID) {})
		}
	}
	all := append(p.view.moves.still(p.view.committed()), p.moves())
	for i := range all {
		chain.SortMoves(&all[i])
	}
	var before uint64
	for _, m := range p.view.state.Moves {
		before = max(before, m.Seq)
	}
	id := ulid.Make()
	data, hash := chain.EncodeMoves(r.v.keys.TrashMAC, r.v.vaultID(), id, all)
	if err := r.put(ctx, chain.MovesObject(id), data); err != nil {
		return err
	}
	return r.append(ctx, func(st chain.State) (chain.Record, error) {
		if err := p.fenced(ctx, st); err != nil {
			return chain.Record{}, err
		}
		return chain.Record{Op: chain.Moved, Object: chain.MovesObject(id), Hash: hash, Of: before}, nil
	})
}

// fenced refuses a move when another reclaim was at work meanwhile: one that
// moved packs too, or that condemned what was just written, because nobody
// referred to it yet.
func (p *repack) fenced(ctx context.Context, st chain.State) error {
	refused := backstay.Errorf(backstay.CodeConflict, "what was repacked in the vault %s cannot be used", p.r.v.Name()).
		Do("nothing is lost; see that one reclaim at a time works on the vault, and start it again")
	born := p.view.state.Seq
	if slices.ContainsFunc(st.Moves, func(m chain.Move) bool { return m.Seq > born }) || born < st.Floor {
		return refused.Becausef("another reclaim moved chunks meanwhile")
	}
	lists := map[string]chain.Hash{}
	for _, c := range st.Condemned {
		if c.Seq > born {
			lists[c.Object] = c.Hash
		}
	}
	for _, f := range st.Fences {
		if f.CondemnSeq > born {
			lists[f.Object] = f.Hash
		}
	}
	for object, hash := range lists {
		packs, err := p.r.v.readTrash(ctx, object, hash)
		if err != nil {
			return refused.Because(err)
		}
		for _, d := range p.made {
			if slices.Contains(packs, d.ID) {
				return refused.Becausef("another reclaim condemned %s meanwhile", d.ID.Object())
			}
		}
	}
	return nil
}

// moves is this move, for the points whose tables were read and that are
// committed: what is not may be written anew under its name, with other tables.
func (p *repack) moves() chain.Moves {
	var m chain.Moves
	for _, pt := range p.view.committed() {
		m.Points = append(m.Points, pt.name)
	}
	for i, d := range p.from {
		moved := chain.MovedPack{From: d.ID}
		for to := range p.to[i] {
			moved.To = append(moved.To, to)
		}
		m.Packs = append(m.Packs, moved)
	}
	return m
}

// check demands that each live chunk is in one of the new packs that its old one
// leads to: the last look before old packs can be condemned.
func (p *repack) check() error {
	holds := map[nameOfKind][]pack.ID{}
	for _, d := range p.made {
		for _, e := range d.Entries {
			n := nameOfKind{e.Kind, e.Name}
			holds[n] = append(holds[n], d.ID)
		}
	}
	for i, d := range p.from {
		for ordinal, e := range d.Entries {
			// A chunk that is in two of the packs is live in one of them, and both lead to it.
			first := p.at[nameOfKind{e.Kind, e.Name}]
			if !p.live[first.pack][first.entry] {
				continue
			}
			led := slices.ContainsFunc(holds[nameOfKind{e.Kind, e.Name}], func(id pack.ID) bool { return p.to[i][id] })
			if !led {
				return fmt.Errorf("repack: chunk %d of %s was left behind", ordinal, d.ID.Object())
			}
		}
	}
	return nil
}
