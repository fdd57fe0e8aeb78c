package snapshot

import (
	"os"
	"path/filepath"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// lostOf says what the tier says of one point.
func (w *world) lostOf(id backstay.PointID, folders ...string) string {
	w.t.Helper()
	lost, err := w.tier.Lost(background, []Place{{Point: id, Folders: folders}})
	must(w.t, err)
	return lost[id]
}

// TestAPointIsLostOnlyWhereItWasLookedFor: what cannot be seen is not lost (I6).
func TestAPointIsLostOnlyWhereItWasLookedFor(t *testing.T) {
	w := newWorld(t, true)
	id, _ := w.take()
	folder := filepath.Join(w.dir, "disks")
	if why := w.lostOf(id, folder); why != "" {
		t.Errorf("a point that is there is lost: %s", why)
	}
	const never = backstay.PointID("01JP00000000000000000NEVER")
	if why := w.lostOf(never, folder); why == "" {
		t.Error("a point without a record is not lost, although its folder was looked into")
	}
	if why := w.lostOf(never, folder, filepath.Join(w.dir, "not mounted")); why != "" {
		t.Errorf("a folder that is not there lost a point: %s", why)
	}
	if why := w.lostOf(never); why != "" {
		t.Errorf("nobody knows where to look, and the point is lost: %s", why)
	}
	must(t, os.Rename(filepath.Join(folder, record.Folder), filepath.Join(folder, "aside")))
	if why := w.lostOf(id, folder); why != "" {
		t.Errorf("a folder without records lost a point: %s", why)
	}
}

func TestAPointWhoseLayerIsGoneIsLostAndSaysSo(t *testing.T) {
	w := newWorld(t, true)
	w.take()
	id, _ := w.take()
	b, err := w.tier.load()
	must(t, err)
	file := b.Layers[b.Points[id].LayerOf("vda")].File
	must(t, os.Rename(file, file+".aside"))
	if why := w.lostOf(id); why == "" {
		t.Error("a point without its layer is not lost")
	}
	must(t, os.Rename(file+".aside", file))
	if why := w.lostOf(id); why != "" {
		t.Errorf("the layer is back, and the point is lost: %s", why)
	}
}
