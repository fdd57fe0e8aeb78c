package host

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// TestADetachedDiskKeepsItsContent, with all that was written to it since its
// protection began: when the undo's time is over, when the points of it go, and when
// the protection of the VM ends.
func TestADetachedDiskKeepsItsContent(t *testing.T) {
	for _, released := range []bool{false, true} {
		w, r, _, present := toReplace(t, backstay.SnapshotTier)
		detached := &r.Plan.Disks[1]
		detached.Action, detached.Path = backstay.DiskDetached, ""
		must(t, replaceNow(t.Context(), w, r))
		check := func(when string) {
			t.Helper()
			file := detached.Old
			if _, err := os.Stat(file); err != nil {
				file = w.keptLayer()
			}
			if got := w.shown(file, testSize); !bytes.Equal(got, present[testSize:]) {
				t.Errorf("%s %s has lost what the detached disk had", when, file)
			}
		}
		if !released {
			w.again(2 * time.Hour)
			_, err := w.host.EndUndos(t.Context())
			must(t, err)
			check("when the undo's time was over")
			for _, id := range []backstay.PointID{safetyID, pointID} {
				must(t, w.host.DropPoint(t.Context(), id, nil))
				check("when a point was dropped")
			}
		}
		_, err := w.host.Release(t.Context(), sourceVM, nil)
		must(t, err)
		if _, err := os.Stat(detached.Old); err == nil {
			t.Error("a layer of the detached disk is left")
		}
		check("when its protection had ended")
	}
}

// keptLayer is the file into which what the detached disk had was merged.
func (w *testWorld) keptLayer() string {
	w.t.Helper()
	for _, l := range w.layerRecords() {
		if l.Kept {
			return l.File
		}
	}
	return w.path("vms/data.qcow2")
}

// layerRecords reads the records of all layers.
func (w *testWorld) layerRecords() (all []record.Layer) {
	w.t.Helper()
	paths, err := filepath.Glob(w.path("vms/.backstay/layers/*"))
	must(w.t, err)
	for _, path := range paths {
		var l record.Layer
		must(w.t, record.ReadJSON(path, &l))
		all = append(all, l)
	}
	return all
}
