package host

import (
	"bytes"
	"strings"
	"testing"

	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// TestAnUndoAfterOneThatFailedHoldsNothingForThatOne: what is held for ever is never
// merged, and keeps points from being dropped.
func TestAnUndoAfterOneThatFailedHoldsNothingForThatOne(t *testing.T) {
	w, r, _, present := toReplace(t, "snapshot")
	must(t, replaceNow(t.Context(), w, r))
	w.point(laterID)
	w.hv.Hook = func(call string) error {
		if strings.Contains(call, "redefine") {
			return errEnded
		}
		return nil
	}
	if err := undoNow(t.Context(), w, r); err == nil {
		t.Fatal("it did not fail")
	}
	w.hv.Hook = func(string) error { return nil }
	_, err := w.host.Undo(t.Context(), mover.UndoRequest{Job: r.Job, By: secondJob, Plan: r.Plan, Safety: laterID})
	must(t, err)
	if !bytes.Equal(w.disks(), present) {
		t.Error("the VM is not on what it had")
	}
	for _, id := range []string{string(undoJob), string(secondJob), string(r.Job)} {
		if held := w.heldFor(id); len(held) > 0 {
			t.Errorf("%v are held for job %s", held, id)
		}
	}
}

// heldFor lists the layers that are held for a job.
func (w *testWorld) heldFor(id string) (files []string) {
	w.t.Helper()
	for _, l := range w.layerRecords() {
		for _, u := range l.Users {
			if u.Kind == record.UserUndo && u.ID == id {
				files = append(files, l.File)
			}
		}
	}
	return files
}
