package vault

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
)

// surveyedPack is what a look found out about one pack.
type surveyedPack struct {
	id     pack.ID
	size   int64 // as listed
	copies int   // in how many it is listed
	needed bool  // a point refers to it
	held   bool  // so does a manifest whose commit broke off: it stays, and may be missing
	// live and chunks are what points refer to of it, in bytes as sealed; only if
	// chunks were looked at.
	live int64
	// newest is how much of it the newest points of disks read, and scattered
	// that one of those reads from far more packs than it would have to.
	newest    int64
	scattered bool

	ordinals []uint64 // a bit for each chunk that is referred to
}

// surveyedCost is what a pack takes in memory beside its bits, in bytes.
const surveyedCost = 192

// everyPack is behind the first 32 bits of every pack's id.
const everyPack = 1 << 32

// survey finds out for every pack of the vault who needs it. It goes over ranges
// of pack ids, so that its tables stay within a budget: a range that turns out
// too large is halved on the way, and what was left out is done in a later pass.
type survey struct {
	r      *Reclaim
	view   *view
	chunks bool

	from, to uint64 // first 32 bits of the ids of this pass
	packs    map[pack.ID]*surveyedPack
	used     int64 // bytes
	passes   int
}

func prefixOf(id pack.ID) uint64 { return uint64(binary.BigEndian.Uint32(id[:4])) }

// each calls visit for every pack that a point needs or a copy lists, in the
// order of their ids. It fails, and so stops everything, if a manifest or a
// table page cannot be read, a listing fails, or a needed pack is not listed in
// every copy with one size (I6).
func (s *survey) each(ctx context.Context, visit func(*surveyedPack) error) error {
	for s.from, s.to = 0, everyPack; s.from < everyPack; s.from, s.to = s.to, everyPack {
		s.packs, s.used = map[pack.ID]*surveyedPack{}, 0
		s.passes++
		if err := s.references(ctx); err != nil {
			return err
		}
		if s.chunks {
			if err := s.contents(ctx); err != nil {
				return err
			}
		}
		if err := s.listings(ctx); err != nil {
			return err
		}
		if err := s.visitAll(visit); err != nil {
			return err
		}
	}
	return nil
}

func (s *survey) visitAll(visit func(*surveyedPack) error) error {
	all := make([]*surveyedPack, 0, len(s.packs))
	for _, p := range s.packs {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *surveyedPack) int { return comparePackIDs(a.id, b.id) })
	for _, p := range all {
		if p.needed && p.copies < len(s.r.v.copies) {
			return s.r.stopped("%s is needed, and %d of %d copies list it with the same size", p.id.Object(), p.copies, len(s.r.v.copies)).
				Do("run `backstay vault verify` and `backstay vault repair`, and reclaim then")
		}
		if err := visit(p); err != nil {
			return err
		}
	}
	return nil
}

// pack returns the entry of a pack of this pass, or nil if it is not in it.
func (s *survey) pack(id pack.ID) *surveyedPack {
	if at := prefixOf(id); at < s.from || at >= s.to {
		return nil
	}
	p := s.packs[id]
	if p == nil {
		p = &surveyedPack{id: id}
		s.packs[id] = p
		if s.take(surveyedCost); prefixOf(id) >= s.to {
			return nil
		}
	}
	return p
}

// take counts memory, and makes the pass smaller when it is too much.
func (s *survey) take(bytes int64) {
	s.used += bytes
	for s.used > s.r.o.Memory && s.to-s.from > 1 {
		s.to = s.from + (s.to-s.from)/2
		for id, p := range s.packs {
			if prefixOf(id) >= s.to {
				s.used -= surveyedCost + 8*int64(len(p.ordinals))
				delete(s.packs, id)
			}
		}
	}
}

// references notes which packs the manifests name.
func (s *survey) references(ctx context.Context) error {
	for _, p := range s.view.points {
		h, _, gone, err := s.r.needs(ctx, p)
		if err != nil {
			return err
		}
		if gone {
			continue
		}
		for _, id := range h.Packs {
			s.view.moves.resolve(p.name, id, func(id pack.ID) {
				if e := s.pack(id); e != nil {
					e.needed = e.needed || p.committed()
					e.held = e.held || !p.committed()
				}
			})
		}
	}
	return nil
}

// listings notes what each copy has.
func (s *survey) listings(ctx context.Context) error {
	for i, c := range s.r.v.copies {
		for _, prefix := range s.prefixes() {
			err := c.List(ctx, prefix, func(info blob.Info) error {
				id, err := pack.ParseID(info.Name[strings.LastIndexByte(info.Name, '/')+1:])
				if err != nil || id.Object() != info.Name {
					return nil // nothing of ours: it is neither needed nor deleted
				}
				if p := s.pack(id); p != nil && (p.copies == 0 || p.size == info.Size) {
					p.size, p.copies = info.Size, p.copies+1
				}
				return nil
			})
			if err != nil {
				return s.r.halt("list "+prefix+" in "+unitName(ctx, c, i), err)
			}
		}
	}
	return nil
}

// prefixes are those of the objects of this pass.
func (s *survey) prefixes() []string {
	if s.from == 0 && s.to == everyPack {
		return []string{"packs/"}
	}
	var out []string
	for b := s.from >> 24; b <= (s.to-1)>>24; b++ {
		out = append(out, fmt.Sprintf("packs/%02x/", b))
	}
	return out
}

// seenPages is how many table pages are remembered as seen: 32 bytes each. A
// page that was forgotten is read again, which changes nothing.
const seenPages = 1 << 20

// contents notes which chunks the pages of all committed points refer to, the
// newest point first, each page once.
func (s *survey) contents(ctx context.Context) error {
	seen := map[[16]byte]struct{}{}
	disks := map[string]bool{}
	for _, p := range s.view.committed() {
		h, body, gone, err := s.r.needs(ctx, p)
		if err != nil {
			return err
		}
		if gone {
			continue
		}
		for i := range body.Disks {
			d := &body.Disks[i]
			disk := fmt.Sprintf("%x %s", h.Item, d.Target)
			w := &diskSurvey{survey: s, seen: seen, newest: !disks[disk], reads: map[pack.ID]int64{}}
			disks[disk] = true
			err := w.walk(ctx, &image{ctx: ctx, v: s.r.v, disk: d})
			if err := s.r.unlessGone(ctx, p, fmt.Sprintf("read the tables of disk %s", d.Target), err); err != nil {
				return err
			}
		}
	}
	return nil
}

// diskSurvey goes over one disk of one point.
type diskSurvey struct {
	*survey
	seen   map[[16]byte]struct{}
	newest bool // it is the disk's newest point
	reads  map[pack.ID]int64
	bytes  int64
}

func (w *diskSurvey) walk(ctx context.Context, m *image) error {
	for i := range m.disk.PageCount() {
		name := m.disk.Page(i)
		if name.IsZero() {
			continue
		}
		if _, ok := w.seen[[16]byte(name[:16])]; ok {
			continue
		}
		page, err := m.page(ctx, i)
		if err != nil {
			return err
		}
		if err := w.refer(ctx, chunk.Table, name, m.disk.Place(i)); err != nil {
			return err
		}
		for n, name := range page.Names {
			if err := w.refer(ctx, chunk.Data, name, page.Places[n]); err != nil {
				return err
			}
		}
		if len(w.seen) < seenPages {
			w.seen[[16]byte(name[:16])] = struct{}{}
		}
	}
	w.judge()
	return nil
}

// refer notes that a chunk is referred to, where it is now.
func (w *diskSurvey) refer(ctx context.Context, kind chunk.Kind, name chunk.Name, at point.Place) error {
	if at.Known() {
		w.mark(at)
		if len(w.view.moves.of[at.Pack]) == 0 {
			return nil
		}
	}
	// It was moved, or its page says not where it is: by name, then, wherever it is.
	places, err := w.r.v.places.find(ctx, kind, name)
	if err != nil {
		return err
	}
	for _, p := range places {
		if p.Pack != at.Pack {
			w.mark(p)
		}
	}
	return nil
}

// mark counts a chunk of a needed pack once.
func (w *diskSurvey) mark(at point.Place) {
	if w.newest && len(w.reads) < seenPages {
		w.reads[at.Pack] += int64(at.Sealed)
		w.bytes += int64(at.Sealed)
	}
	p := w.packs[at.Pack]
	if p == nil || !p.needed {
		return
	}
	if w.newest {
		p.newest += int64(at.Sealed)
	}
	word, bit := int(at.Ordinal/64), uint64(1)<<(at.Ordinal%64)
	if grow := word + 1 - len(p.ordinals); grow > 0 {
		p.ordinals = append(p.ordinals, make([]uint64, grow)...)
		w.take(8 * int64(grow))
	}
	if p.ordinals[word]&bit == 0 {
		p.ordinals[word] |= bit
		p.live += int64(at.Sealed)
	}
}

const (
	// scatterFactor is over how many times as many packs as it would fill, and
	// scatterSlack more, the newest point of a disk may be spread.
	scatterFactor = 4
	scatterSlack  = 8
)

// judge tells the packs of a disk whose newest point reads from too many places.
func (w *diskSurvey) judge() {
	if !w.newest || int64(len(w.reads)) <= scatterFactor*(w.bytes/pack.Target+1)+scatterSlack {
		return
	}
	for id := range w.reads {
		if p := w.packs[id]; p != nil {
			p.scattered = true
		}
	}
}

// rest is what a pack of only the needed chunks would take; 0 if there are none.
func (p *surveyedPack) rest() int64 {
	n := 0
	for _, word := range p.ordinals {
		n += bits.OnesCount64(word)
	}
	if n == 0 {
		return 0
	}
	return pack.SizeOf(n, p.live)
}
