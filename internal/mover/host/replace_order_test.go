package host

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

const (
	secondJob    = backstay.JobID("01JB0000000000000000000007")
	secondSafety = backstay.PointID("01JP0000000000000000000007")
)

// TestOfTwoReplacesTheLaterOneIsTakenBackFirst: the earlier one alone would leave a VM
// whose disks are of two times.
func TestOfTwoReplacesTheLaterOneIsTakenBackFirst(t *testing.T) {
	w, first, point, present := toReplace(t, backstay.SnapshotTier)
	kept := first.Plan.Disks[1]
	first.Plan.Disks[1].Action, first.Plan.Disks[1].Path = backstay.DiskKept, ""
	must(t, replaceNow(t.Context(), w, first))
	must(t, w.hv.WriteGuest(sourceVM, "vda", 0, bytes.Repeat([]byte{0xb7}, 4096)))
	w.point(laterID) // on the new branch
	now, err := w.hv.Domain(t.Context(), sourceVM)
	must(t, err)
	second := first
	second.Job, second.Plan.Point, second.Plan.SafetyPoint = secondJob, laterID, secondSafety
	second.Plan.Disks = nil
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		d := kept
		d.Target, d.Old, d.Path = target, sourceOf(&now, target), filepath.Join(filepath.Dir(kept.Path), "second-"+string(target)+".qcow2")
		second.Plan.Disks = append(second.Plan.Disks, d)
	}
	w.point(secondSafety)
	w.again(time.Minute)
	before := w.disks()
	must(t, replaceNow(t.Context(), w, second))
	if _, err := w.host.Undo(t.Context(), mover.UndoRequest{Job: first.Job, By: undoJob, Plan: first.Plan, Look: true}); !backstay.IsCode(err, backstay.CodeCannotUndo) {
		t.Errorf("the earlier one may be taken back first: %v", err)
	}
	if err := undoNow(t.Context(), w, first); !backstay.IsCode(err, backstay.CodeCannotUndo) {
		t.Fatalf("the earlier one was taken back first: %v", err)
	}
	must(t, undoNow(t.Context(), w, second))
	if !bytes.Equal(w.disks(), before) {
		t.Error("the undo of the second is not what was before it")
	}
	must(t, undoNow(t.Context(), w, first))
	if !bytes.Equal(w.content(sourceVM, "vda"), present[:testSize]) {
		t.Error("the undo of the first is not what was before it")
	}
	_ = point
}
