package snapshot

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

// otherHost is the tier of another host to which the VM came with its disks: it
// has never seen their folder.
func (w *world) otherHost() {
	w.t.Helper()
	tier, err := New(Options{
		Hypervisor: w.hv, Images: w.hv, Keyring: &memKeys{}, StateDir: filepath.Join(w.dir, "other"),
		Host: "h2", Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Unix(1700000000, 0) },
	})
	must(w.t, err)
	w.tier = tier
}

// TestAVMThatComesFromAnotherHostGoesOnWithItsLayers: the first point on the new
// host has a change map relative to the last one on the old, no file is
// recorded twice, and the old points go from the new host.
func TestAVMThatComesFromAnotherHostGoesOnWithItsLayers(t *testing.T) {
	w := newWorld(t, true)
	old, _ := w.take()
	w.write()
	w.otherHost()
	id, at := w.take()
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		if _, ok, why, err := w.tier.Changes(background, id, old, target); !ok || err != nil {
			t.Errorf("disk %s: no change map (%s), %v", target, why, err)
		}
	}
	b, err := w.tier.load()
	must(t, err)
	seen := map[string]bool{}
	for _, l := range b.Layers {
		if seen[l.File] {
			t.Errorf("%s is recorded twice", l.File)
		}
		seen[l.File] = true
	}
	if w.point(id) != at {
		t.Error("the point is not what the guest saw")
	}
	now := w.guest()
	must(t, w.tier.Drop(background, old, nil))
	if w.guest() != now || w.point(id) != at {
		t.Error("dropping the old host's point changed content")
	}
}

// TestPointsAreAdoptedOnlyFromAVMThatIsGone: the owner's word joins what a deleted
// VM left with the one that goes on for it.
func TestPointsAreAdoptedOnlyFromAVMThatIsGone(t *testing.T) {
	w := newWorld(t, false)
	id, at := w.take()
	other := backstay.VMRef{Name: "web02", UUID: "22222222-2222-4222-8222-222222222222", Host: "h1"}
	if err := w.tier.Adopt(background, vmID, other); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("adopting from a VM that is there ended with %v", err)
	}
	must(t, w.hv.Undefine(background, vmID))
	for range 2 {
		must(t, w.tier.Adopt(background, vmID, other))
		points, err := w.tier.Points(background)
		must(t, err)
		if len(points) != 1 || points[0].VM != other || points[0].Shape.ID != other.UUID || w.point(id) != at {
			t.Errorf("adopted %+v", points)
		}
	}
}
