package host

import (
	"bytes"
	"context"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// TestWhatIsWrittenAfterASafetyPointIsNotThrownAway: a VM that was started and shut
// off again, while a job waited to go on, stays on the disks that it wrote to.
func TestWhatIsWrittenAfterASafetyPointIsNotThrownAway(t *testing.T) {
	for _, undo := range []bool{false, true} {
		w, r, _, _ := toReplace(t, backstay.SnapshotTier)
		act := func(ctx context.Context) error { return replaceNow(ctx, w, r) }
		if undo {
			must(t, replaceNow(t.Context(), w, r))
			w.point(laterID)
			act = func(ctx context.Context) error {
				_, err := w.host.Undo(ctx, mover.UndoRequest{Job: r.Job, By: undoJob, Plan: r.Plan, Safety: laterID})
				return err
			}
		}
		must(t, w.hv.Start(t.Context(), sourceVM))
		must(t, w.hv.WriteGuest(sourceVM, "vdb", 4096, bytes.Repeat([]byte{0x77}, 4096)))
		must(t, w.hv.Destroy(t.Context(), sourceVM))
		since := w.disks()
		if err := act(t.Context()); !backstay.IsCode(err, backstay.CodeConflict) {
			t.Errorf("it went on: %v", err)
		}
		if !bytes.Equal(w.disks(), since) {
			t.Error("the VM is not on what was written")
		}
	}
}
