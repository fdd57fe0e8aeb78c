//go:build integration && soak

package host

import (
	"context"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
)

// TestAMergeOnASlowDiskLeavesTheGuestItsShare: I12, as for transfers. The layer of
// a point is merged while the guest writes; the merge that looks at the guest is
// cut off, and one after it ends the drop.
func TestAMergeOnASlowDiskLeavesTheGuestItsShare(t *testing.T) {
	w := newGuestWorld(t)
	w.take(pointID)
	w.guest("ticker fill /data/big 0 64000000 7; sync")
	w.take(pointB)
	w.guest("ticker fill /data/big 0 64000000 8; sync")
	w.take(pointC)
	w.take(pointD)
	idle := w.feels(5)
	pacer := w.host.pacer.Pacer

	w.host.pacer.Pacer = pace.New(pace.Options{Stats: blind{}})
	unpaced, _ := w.whileDropping(10, pointID)
	must(t, w.host.DropPoint(w.ctx, pointID, nil))
	w.guest("sync")
	w.host.pacer.Pacer = pacer
	paced, notes := w.whileDropping(15, pointB)

	t.Logf("writes per second: idle %.1f, during a merge that does not look %.1f, during one that does %.1f; worst %.0f, %.0f, %.0f ms; notes %v",
		idle.PerSecond, unpaced.PerSecond, paced.PerSecond, idle.WorstMs, unpaced.WorstMs, paced.WorstMs, notes)
	if paced.PerSecond < 2*unpaced.PerSecond {
		t.Errorf("the guest had %.1f writes per second, and %.1f with a merge that does not look at it", paced.PerSecond, unpaced.PerSecond)
	}
	must(t, w.host.DropPoint(w.ctx, pointB, nil))
	points, err := w.host.Points(w.ctx)
	must(t, err)
	if len(points) != 2 {
		t.Errorf("points %v", points)
	}
	v, err := w.host.Verify(w.ctx, mover.VerifyRequest{Job: testJob, Point: pointC, Tier: backstay.SnapshotTier}, nil)
	must(t, err)
	if v.SHA256["vdb"] == "" {
		t.Error("the point above was not read")
	}
}

const pointD = backstay.PointID("01JP0000000000000000000004")

// whileDropping runs the guest's writer while a point is dropped, and cuts the
// drop off when the writer has ended.
func (w *guestWorld) whileDropping(seconds int, p backstay.PointID) (felt, map[string]bool) {
	w.t.Helper()
	ctx, cancel := context.WithCancelCause(w.ctx)
	ended := make(chan struct{})
	notes := map[string]bool{}
	began := time.Now()
	go func() {
		defer close(ended)
		err := w.host.DropPoint(ctx, p, func(r mover.Report) { notes[r.Note] = true })
		w.t.Logf("the drop ended after %v with %v", time.Since(began), err)
	}()
	f := w.feels(seconds)
	cancel(backstay.ErrCancelled)
	<-ended
	return f, notes
}
