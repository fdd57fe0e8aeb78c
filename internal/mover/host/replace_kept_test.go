package host

import (
	"bytes"
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestAnUndoLeavesTheDisksThatWereNotReplacedAlone: they went on being written, and
// points of them were taken since.
func TestAnUndoLeavesTheDisksThatWereNotReplacedAlone(t *testing.T) {
	w, r, _, _ := toReplace(t, backstay.SnapshotTier)
	kept := &r.Plan.Disks[1]
	kept.Action, kept.Path = backstay.DiskKept, ""
	old := w.content(sourceVM, "vda")
	must(t, replaceNow(t.Context(), w, r))
	must(t, w.hv.WriteGuest(sourceVM, "vdb", 0, bytes.Repeat([]byte{0xd1}, 8192)))
	w.point(laterID) // as the undo takes one of its own
	since := w.content(sourceVM, "vdb")
	must(t, undoNow(t.Context(), w, r))
	if !bytes.Equal(w.content(sourceVM, "vda"), old) {
		t.Error("the replaced disk is not the old one")
	}
	if !bytes.Equal(w.content(sourceVM, "vdb"), since) {
		t.Error("the other disk lost what was written to it since")
	}
	must(t, w.hv.WriteGuest(sourceVM, "vdb", 0, bytes.Repeat([]byte{0xd2}, 8192)))
	p, err := w.host.openPoint(t.Context(), laterID)
	must(t, err)
	layer, _ := p.Disk("vdb")
	if got := w.shown(layer.Path, testSize); !bytes.Equal(got, since) {
		t.Error("the VM writes to the layer of a point")
	}
}
