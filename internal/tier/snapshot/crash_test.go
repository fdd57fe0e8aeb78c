package snapshot

import (
	"context"
	"fmt"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestTakeCutOffAnywhereIsWhollyBeforeOrAfter ends the process before each
// change that Prepare and Take make, and lets the next start sweep (I9).
func TestTakeCutOffAnywhereIsWhollyBeforeOrAfter(t *testing.T) {
	for _, running := range []bool{true, false} {
		for n := 0; ; n++ {
			crashed := false
			t.Run(fmt.Sprintf("running=%v/step%d", running, n), func(t *testing.T) {
				w := newWorld(t, running)
				first, firstAt := w.take()
				before := w.active()
				id := w.nextPoint()
				at := w.guest()
				w.crashAt(n)
				_, err := w.tier.Prepare(context.Background(), w.request(id))
				if err == nil {
					_, err = w.tier.Take(context.Background(), w.takeRequest(id))
				}
				crashed = w.crashed
				if (err != nil) != crashed {
					t.Fatalf("crashed %v, error %v", crashed, err)
				}
				w.restart()
				w.hv.SetFrozen(vmID, true)
				w.write()
				now := w.guest()
				w.sweep()
				w.clean()
				if got := w.guest(); got != now {
					t.Error("the sweep changed what the guest sees")
				}
				if got := w.point(first); got != firstAt {
					t.Error("the sweep changed an earlier point")
				}
				if _, err := w.tier.Open(context.Background(), id); err == nil {
					if got := w.point(id); got != at {
						t.Error("the point is not what the guest had at its instant")
					}
					return
				}
				if !crashed {
					t.Error("the point is not there though nothing went wrong")
				}
				if w.active() != before || len(w.layers()) != 4 {
					t.Errorf("there is no point, but the VM is on %s and the files are %v", w.active(), w.layers())
				}
			})
			if !crashed {
				break
			}
			if n > 200 {
				t.Fatal("it never ends")
			}
		}
	}
}

// TestDropCutOffAnywhereKeepsAllOtherContent ends the process before each change
// that dropping the oldest, a middle and the newest point makes; meanwhile the
// guest goes on, and is stopped or started before the sweep. What the guest sees
// and all other points must stay, and the drop must end.
func TestDropCutOffAnywhereKeepsAllOtherContent(t *testing.T) {
	for _, running := range []bool{true, false} {
		for _, toggle := range []bool{false, true} {
			for which := range 3 {
				for n := 0; ; n++ {
					crashed := false
					name := fmt.Sprintf("running=%v/toggle=%v/point%d/step%d", running, toggle, which, n)
					t.Run(name, func(t *testing.T) { crashed = dropWithCrash(t, running, toggle, which, n) })
					if !crashed {
						break
					}
				}
			}
		}
	}
}

func dropWithCrash(t *testing.T, running, toggle bool, which, n int) (crashed bool) {
	ctx := context.Background()
	w := newWorld(t, running)
	contents := map[backstay.PointID]string{}
	var ids []backstay.PointID
	for range 3 {
		id, at := w.take()
		ids, contents[id] = append(ids, id), at
	}
	drop := ids[which]
	seen := w.guest()
	w.crashAt(n)
	err := w.tier.Drop(ctx, drop, nil)
	crashed = w.crashed
	if (err != nil) != crashed {
		t.Fatalf("crashed %v, error %v", crashed, err)
	}
	w.restart()
	if got := w.guest(); got != seen {
		t.Fatal("the cut-off drop changed what the guest sees")
	}
	if toggle {
		if running {
			must(t, w.hv.Destroy(ctx, vmID))
		} else {
			must(t, w.hv.Start(ctx, vmID))
		}
	}
	w.write()
	seen = w.guest()
	w.sweep()
	w.clean()
	if got := w.guest(); got != seen {
		t.Error("the sweep changed what the guest sees")
	}
	points, err := w.tier.Points(ctx)
	must(t, err)
	for _, id := range ids {
		there := slices.ContainsFunc(points, func(p PointRecord) bool { return p.ID == id })
		if id != drop && !there {
			t.Errorf("point %s is gone", id)
			continue
		}
		if there && w.point(id) != contents[id] {
			t.Errorf("point %s changed", id)
		}
		if id == drop && !crashed && there {
			t.Error("the point was dropped and is there")
		}
	}
	return crashed
}
