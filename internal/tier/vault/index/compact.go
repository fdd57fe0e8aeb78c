package index

import (
	"errors"
	"fmt"
	"slices"
)

// How a cache stays small and quick: what was added becomes a run over all
// names, merged at once with the newest runs that are not much larger, so that
// their sizes grow by a factor of at least 4 and there are few. When these fresh
// runs make up more than 1/16 of the base, they are merged into it. The base
// consists of parts of the names, replaced one at a time, so that the disk never
// holds much twice. A merge reads and writes in order and holds some 100 KiB.

// grow is by how much a run is larger than all newer ones together.
const grow = 4

// flush writes a run of what was added. The caller holds writing.
func (c *Cache) flush() error {
	if err := c.Err(); err != nil {
		return err
	}
	if len(c.recent.entries) == 0 && len(c.objects.tail) == 0 {
		return nil
	}
	keep, runs := c.fresh, []*run(nil)
	if n := len(c.recent.entries); n > 0 {
		sources, size := []source{c.recent.sorted()}, max(n, c.limits.small)
		for i := len(keep) - 1; i >= 0 && keep[i].count <= grow*size; i-- {
			sources, size, n = append(sources, keep[i].source(scope{})), size+keep[i].count, n+keep[i].count
			keep = keep[:i]
		}
		r, err := c.write(scope{}, n, sources)
		if err != nil {
			return err
		}
		runs = []*run{r}
	}
	if err := c.commit(c.base, append(slices.Clip(keep), runs...), true); err != nil {
		return err
	}
	return c.compact()
}

// write writes a run of what the sources have in a scope.
func (c *Cache) write(in scope, about int, sources []source) (*run, error) {
	id := c.state.run(c.state.Next)
	c.state.Next++
	w, err := writeRun(c.out, id, in, shapeFor(about, uint32(c.packs.len()), in))
	if err != nil {
		return nil, err
	}
	err = merge(sources, w.add)
	if err == nil {
		var r *run
		if r, err = w.finish(); err == nil {
			return r, nil
		}
	}
	if errors.Is(err, ErrDamaged) {
		_ = c.fail(err)
	}
	return nil, errors.Join(err, w.drop())
}

// commit makes these runs the ones that count, on the disk and then in memory.
// settle tells that all that was added is in them.
func (c *Cache) commit(base, newer []*run, settle bool) error {
	if c.owned {
		s := c.state
		s.Base, s.Fresh = numbersOf(base), numbersOf(newer)
		if settle {
			if err := errors.Join(c.packs.write(), c.objects.write()); err != nil {
				return errors.Join(err, c.discard(c.unused(base, newer)))
			}
			s.Packs, s.Objects = c.packs.len(), c.objects.len()
		}
		if err := writeState(c.disk, s); err != nil {
			// Either state may count now, so the files of both stay. The next state
			// settles it, and the next opening sweeps.
			for _, r := range c.unused(base, newer) {
				_ = r.file.Close()
			}
			return err
		}
		c.state = s
	}
	c.mu.Lock()
	gone := append(slices.Clone(c.base), c.fresh...)
	c.base, c.fresh = base, newer
	if settle {
		c.recent = &fresh{}
		if c.owned {
			c.packs.settle()
			c.objects.settle()
		}
	}
	c.mu.Unlock()
	// Nobody reads the old ones any more: whoever does holds mu.
	return c.discard(without(gone, append(slices.Clone(base), newer...)))
}

// unused returns the runs of these lists that do not count yet.
func (c *Cache) unused(base, newer []*run) []*run {
	return without(append(slices.Clone(base), newer...), append(slices.Clone(c.base), c.fresh...))
}

func without(runs, keep []*run) []*run {
	return slices.DeleteFunc(runs, func(r *run) bool { return slices.Contains(keep, r) })
}

func (c *Cache) discard(runs []*run) error {
	var errs []error
	for _, r := range runs {
		if err := discard(c.out, r); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", r.id.file(), err))
		}
	}
	return errors.Join(errs...)
}

func numbersOf(runs []*run) []uint64 {
	numbers := make([]uint64, len(runs))
	for i, r := range runs {
		numbers[i] = r.id.number
	}
	return numbers
}

func countOf(runs []*run) int {
	n := 0
	for _, r := range runs {
		n += r.count
	}
	return n
}

// compact merges the fresh runs into the base once there is enough in them. Part
// by part: until the last one is done, what was merged is in both, which does no
// harm, and a crash only leaves that work to the next time.
func (c *Cache) compact() error {
	fresh, base := countOf(c.fresh), countOf(c.base)
	if !c.owned || fresh <= max(c.limits.fresh, base/16) {
		return nil
	}
	depth := 0
	for (fresh+base)>>depth > c.limits.part {
		depth++
	}
	if len(c.base) == 0 {
		return c.split(0, scope{}, depth)
	}
	for i := 0; i < len(c.base); {
		in := c.base[i].in
		if err := c.split(i, in, depth); err != nil {
			return err
		}
		i += 1 << max(depth-in.bits, 0)
	}
	return nil
}

// split replaces part i of the base, which has this scope, by parts of the given
// depth (or deeper already) with what the fresh runs have there.
func (c *Cache) split(i int, in scope, depth int) error {
	old := c.base[i:min(i+1, len(c.base))]
	more := max(depth-in.bits, 0)
	about := (countOf(old) + countOf(c.fresh)>>in.bits) >> more
	parts := make([]*run, 0, 1<<more)
	for v := range uint32(1) << more {
		part := scope{bits: in.bits + more, value: in.value<<more | v}
		var sources []source
		for _, r := range append(slices.Clone(old), c.fresh...) {
			sources = append(sources, r.source(part))
		}
		r, err := c.write(part, about, sources)
		if err != nil {
			return errors.Join(err, c.discard(parts))
		}
		parts = append(parts, r)
	}
	base := slices.Concat(c.base[:i], parts, c.base[i+len(old):])
	newer := c.fresh
	if i+len(parts) == len(base) {
		newer = nil // the last part: all of them are in the base
	}
	return c.commit(base, newer, false)
}
