package movertest

import (
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// testKeeps: a pinned point stays; one of which only the change map is kept is
// not offered any more.
func testKeeps(t *testing.T, s Subject) {
	m := s.Mover
	if err := m.Pin(t.Context(), nowhere, true); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Errorf("a point that is not there was pinned: %v", err)
	}
	if err := m.KeepMap(t.Context(), nowhere, nil); err != nil {
		t.Errorf("the map of a point that is not there: %v", err)
	}
	take(t, s)
	if err := m.Pin(t.Context(), point, true); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func() error{
		"DropPoint": func() error { return m.DropPoint(t.Context(), point, nil) },
		"KeepMap":   func() error { return m.KeepMap(t.Context(), point, nil) },
	} {
		if err := end(); !backstay.IsCode(err, backstay.CodeLayerInUse) {
			t.Errorf("%s of a pinned point: %v", name, err)
		}
	}
	if !listed(t, m) {
		t.Error("the pinned point is gone")
	}
	if err := m.Pin(t.Context(), point, false); err != nil {
		t.Fatal(err)
	}
	if err := m.KeepMap(t.Context(), point, nil); err != nil {
		t.Fatal(err)
	}
	if listed(t, m) {
		t.Error("the point is offered though only its map is kept")
	}
}

func listed(t *testing.T, m mover.Mover) bool {
	t.Helper()
	points, err := m.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		if p.Point == point {
			return true
		}
	}
	return false
}
