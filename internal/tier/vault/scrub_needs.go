package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// findNeeded collects the packs that any point needs. Points share most of
// them, so what came twice is taken out now and then.
func (s *scrubber) findNeeded(ctx context.Context) error {
	sorted := 0
	err := s.manifests(ctx, func(_ backstay.PointID, packs []pack.ID) {
		s.needed = append(s.needed, packs...)
		if len(s.needed) > 2*sorted+10_000 {
			s.sortNeeded()
			sorted = len(s.needed)
		}
	})
	s.sortNeeded()
	return err
}

func (s *scrubber) sortNeeded() {
	slices.SortFunc(s.needed, comparePacks)
	s.needed = slices.Compact(s.needed)
}

func comparePacks(a, b pack.ID) int { return slices.Compare(a[:], b[:]) }

// findMoves finds out where repacked chunks are. A list that no copy can show is
// met again when it is looked at; without it, packs that were deleted after they
// were repacked are told as lost.
func (s *scrubber) findMoves(ctx context.Context) error {
	if s.moves != nil {
		return nil
	}
	if s.lead != nil {
		leads, err := s.lead(ctx)
		if err != nil {
			return err
		}
		s.leads = leads
	}
	found, live, err := s.readMoves(ctx)
	switch {
	case err == nil:
		s.moves, s.live = found, live
	case damaged(err) || backstay.IsCode(err, backstay.CodeDamaged):
		s.moves = newMoves()
	default:
		return readError("the lists of moved packs", err)
	}
	return nil
}

// led returns the packs that hold what a manifest says is in these.
func (s *scrubber) led(id backstay.PointID, packs []pack.ID) []pack.ID {
	name, err := point.ParseID(id)
	if err == nil && s.leads != nil {
		return s.leads(name, packs)
	}
	if err != nil || len(s.moves.of) == 0 {
		return packs
	}
	var out []pack.ID
	for _, p := range packs {
		s.moves.resolve(name, p, func(to pack.ID) { out = append(out, to) })
	}
	slices.SortFunc(out, comparePacks)
	return slices.Compact(out)
}

// manifests calls fn for each point of which a manifest can be read.
func (s *scrubber) manifests(ctx context.Context, fn func(backstay.PointID, []pack.ID)) error {
	if err := s.findMoves(ctx); err != nil {
		return err
	}
	l, err := s.list(ctx, "points/")
	if err != nil {
		return err
	}
	for _, name := range l.names {
		id := backstay.PointID(strings.TrimPrefix(name, "points/"))
		if _, err := point.ParseID(id); err != nil || s.leftover(id) {
			continue
		}
		// What cannot be read here is met again, and told, when it is looked at.
		if packs, err := s.manifest(ctx, id); err == nil {
			fn(id, packs)
		} else if ctx.Err() != nil {
			return fmt.Errorf("scrub: %w", context.Cause(ctx))
		}
	}
	return nil
}

// committed reads the packs out of the bytes of a manifest. Of a point that the
// chain has, only the manifest that was committed counts: another attempt's, or
// that of an older state, is authentic as well.
func (s *scrubber) committed(id backstay.PointID, data []byte) ([]pack.ID, error) {
	packs, root, err := s.needsOf(id, data)
	if want, live := s.live[id]; err == nil && live && root != want {
		return nil, fmt.Errorf("not the manifest that was committed: %w", seal.ErrWrong)
	}
	return packs, err
}

// manifest reads the packs of a point from the first copy that shows them. The
// error is only "damaged" if every copy answered.
func (s *scrubber) manifest(ctx context.Context, id backstay.PointID) ([]pack.ID, error) {
	if err := s.findMoves(ctx); err != nil {
		return nil, err
	}
	var wrong, unread []error
	for _, c := range s.copies {
		data, err := c.Get(ctx, point.Object(id), 0, -1)
		if err == nil {
			var packs []pack.ID
			if packs, err = s.committed(id, data); err == nil {
				return s.led(id, packs), nil
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
