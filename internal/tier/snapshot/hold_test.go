package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	"github.com/backstay/backstay/internal/quiesce"
)

// hooked gives the VM's guest hooks, and returns how often each was run.
func (w *world) hooked() map[string]int {
	ran := map[string]int{}
	w.hv.SetGuest(vmID, fake.Guest{
		Files: map[string]fake.GuestFile{
			quiesce.HooksFile: {Mode: 0o100600, Content: `{"version":1,"pre":{"path":"/opt/pre"},"post":{"path":"/opt/post"}}`},
			"/opt/pre":        {Mode: 0o100700},
			"/opt/post":       {Mode: 0o100700},
		},
		Run: func(path string, _ []string) fake.Ran {
			ran[path]++
			return fake.Ran{}
		},
	})
	return ran
}

func (w *world) holdRequest(id backstay.PointID, wish backstay.Consistency) HoldRequest {
	return HoldRequest{Point: id, VM: vmID, Wish: wish, Budget: time.Hour}
}

// letGoWell sees that nothing is owed to the guest any more.
func (w *world) letGoWell(ran map[string]int) {
	w.t.Helper()
	if w.hv.Frozen(vmID) || w.hv.Paused(vmID) {
		w.t.Errorf("the guest was left frozen %v, paused %v", w.hv.Frozen(vmID), w.hv.Paused(vmID))
	}
	if ran["/opt/pre"] > 0 && ran["/opt/post"] == 0 {
		w.t.Error("the pre hook was run, and the post hook never")
	}
}

// TestTakeWithHooksCutOffAnywhereOwesTheGuestNothing ends the process before
// each change that a point with hooks makes, by itself or as one of a group; the
// guard and the next start do the rest (I9).
func TestTakeWithHooksCutOffAnywhereOwesTheGuestNothing(t *testing.T) {
	for name, take := range map[string]func(w *world, id backstay.PointID) error{
		"application": func(w *world, id backstay.PointID) error {
			r := w.takeRequest(id)
			r.Wish = backstay.ApplicationConsistent
			_, err := w.tier.Take(context.Background(), r)
			return err
		},
		"group": func(w *world, id backstay.PointID) error { return w.takeHeld(id, backstay.ApplicationConsistent) },
		"paused group": func(w *world, id backstay.PointID) error {
			return w.takeHeld(id, backstay.CrashConsistent)
		},
	} {
		for n := 0; ; n++ {
			crashed := false
			t.Run(fmt.Sprintf("%s/step%d", name, n), func(t *testing.T) {
				w := newWorld(t, true)
				ran := w.hooked()
				id := w.nextPoint()
				at := w.guest()
				w.crashAt(n)
				_, err := w.tier.Prepare(context.Background(), w.request(id))
				if err == nil {
					err = take(w, id)
				}
				crashed = w.crashed
				if (err != nil) != crashed {
					t.Fatalf("crashed %v, error %v", crashed, err)
				}
				w.guards.Die()
				if w.hv.Frozen(vmID) || w.hv.Paused(vmID) {
					t.Error("the guard did not let the guest go")
				}
				w.restart()
				w.sweep()
				w.clean()
				w.letGoWell(ran)
				if _, err := w.tier.Open(context.Background(), id); err == nil && w.point(id) != at {
					t.Error("the point is not what the guest had at its instant")
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

// takeHeld takes a point as a member of a group.
func (w *world) takeHeld(id backstay.PointID, wish backstay.Consistency) error {
	ctx := context.Background()
	h := w.holdRequest(id, wish)
	if err := w.tier.Ready(ctx, h); err != nil {
		return err
	}
	if _, err := w.tier.Hold(ctx, h); err != nil {
		_, _ = w.tier.LetGo(ctx, h)
		return err
	}
	if !w.hv.Frozen(vmID) && !w.hv.Paused(vmID) {
		w.t.Error("the VM is held and does not stand still")
	}
	r := w.takeRequest(id)
	r.Wish, r.Held = wish, true
	_, err := w.tier.Take(ctx, r)
	o, letErr := w.tier.LetGo(ctx, h)
	if err == nil && letErr == nil && o.Consistency != wish {
		w.t.Errorf("the point is %s because %q, not %s", o.Consistency, o.Reason, wish)
	}
	if err == nil {
		err = letErr
	}
	return err
}

// TestAHeldPointSaysWhatHeldUntilItsSwitch and a late one fails.
func TestAHeldPointSaysWhatHeldUntilItsSwitch(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, true)
	id := w.nextPoint()
	_, err := w.tier.Prepare(ctx, w.request(id))
	must(t, err)
	h := w.holdRequest(id, backstay.FileSystemConsistent)
	held, err := w.tier.Hold(ctx, h)
	must(t, err)
	if held.Consistency != backstay.FileSystemConsistent || !w.hv.Frozen(vmID) {
		t.Fatalf("held as %+v", held)
	}
	if s, err := w.tier.Sweep(ctx, SweepOptions{Live: []backstay.JobID{"job"}}); err != nil || len(s.Thawed) > 0 || !w.hv.Frozen(vmID) {
		t.Errorf("a sweep let go what is held: %+v, %v", s, err)
	}
	w.guards.Die() // the guard lets go: the others took too long
	r := w.takeRequest(id)
	r.Held = true
	_, err = w.tier.Take(ctx, r)
	must(t, err)
	o, err := w.tier.LetGo(ctx, h)
	if !backstay.IsCode(err, backstay.CodeSnapshotFailed) || o.Consistency != backstay.CrashConsistent {
		t.Errorf("let go as %+v, %v", o, err)
	}
	p, err := w.tier.Record(ctx, id)
	must(t, err)
	if p.Consistency != backstay.CrashConsistent || !strings.Contains(p.Reason, "had to be let go") {
		t.Errorf("recorded as %s because %q", p.Consistency, p.Reason)
	}
	w.clean()
}

// TestSettleLetsGoWhatIsHeld: a group that fails is settled.
func TestSettleLetsGoWhatIsHeld(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, true)
	ran := w.hooked()
	id := w.nextPoint()
	_, err := w.tier.Prepare(ctx, w.request(id))
	must(t, err)
	_, err = w.tier.Hold(ctx, w.holdRequest(id, backstay.ApplicationConsistent))
	must(t, err)
	if _, found, err := w.tier.Settle(ctx, vmID, id); err != nil || found {
		t.Errorf("found %v, %v", found, err)
	}
	w.letGoWell(ran)
	w.clean()
	if len(w.layers()) != 2 {
		t.Errorf("files are left: %v", w.layers())
	}
}

// TestAPointThatIsWeakerThanAllowedIsNotKept, also when a crash made it weaker.
func TestAPointThatIsWeakerThanAllowedIsNotKept(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, true)
	w.hv.SetAgent(vmID, backstay.AgentDisconnected)
	id := w.nextPoint()
	_, err := w.tier.Prepare(ctx, w.request(id))
	must(t, err)
	r := w.takeRequest(id)
	r.Fallback = []backstay.Consistency{}
	before := w.active()
	if _, err := w.tier.Take(ctx, r); !backstay.IsCode(err, backstay.CodeInconsistent) || !strings.Contains(err.Error(), "agent is not running") {
		t.Errorf("error is %v", err)
	}
	w.clean()
	w.hv.SetAgent(vmID, backstay.AgentConnected)
	id = w.nextPoint()
	_, err = w.tier.Prepare(ctx, w.request(id))
	must(t, err)
	r.Point = id
	w.tier.onHeld = func(context.Context, backstay.VMID) { w.guards.Die() }
	if _, err := w.tier.Take(ctx, r); !backstay.IsCode(err, backstay.CodeInconsistent) {
		t.Errorf("error is %v", err)
	}
	w.clean()
	if w.active() != before || len(w.layers()) != 2 {
		t.Errorf("the VM is on %s, files are %v", w.active(), w.layers())
	}
	points, err := w.tier.Points(ctx)
	must(t, err)
	if slices.ContainsFunc(points, func(p PointRecord) bool { return p.ID == id }) {
		t.Error("the point was kept")
	}
}
