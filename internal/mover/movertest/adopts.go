package movertest

import (
	"context"
	"slices"
	"testing"

	"github.com/backstay/backstay/internal/mover"
)

// Adopt is mover.Adopts'.
func (f *Fake) Adopt(ctx context.Context, r mover.AdoptRequest) error {
	if err := f.enter(ctx, "Adopt"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, p := range f.points {
		if slices.Contains(r.Old, p.taken.Shape.ID) {
			p.taken.Shape.ID, p.taken.Shape.Name = r.VM.UUID, r.VM.Name
			f.points[id] = p
		}
	}
	return nil
}

// testAdopt: what is recorded of no VM is no error, and others keep their points.
func testAdopt(t *testing.T, s Subject) {
	taken := take(t, s)
	if err := s.Mover.Adopt(t.Context(), mover.AdoptRequest{VM: taken.Shape.Ref(), Old: nil}); err != nil {
		t.Fatal(err)
	}
	points, err := s.Mover.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(points, func(p mover.Taken) bool { return p.Point == taken.Point && p.Shape.ID == s.VM }) {
		t.Errorf("the point is not its VM's any more: %+v", points)
	}
}
