package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
)

// TestTakeCutOffAnywhereIsWhollyBeforeOrAfter ends the process before each
// change that Prepare and Take make, and lets the next start sweep (I9).
func TestTakeCutOffAnywhereIsWhollyBeforeOrAfter(t *testing.T) {
	for _, running := range []bool{true, false} {
		for n := 0; ; n += stride(3) {
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
				if !exhaustive && which != 1 && (toggle || !running) {
					continue
				}
				for n := 0; ; n += stride(3) {
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
	w.offersOnlyWhatWas(contents)
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

// offersOnlyWhatWas sees that whatever is listed holds what it held, also
// before anything was swept.
func (w *world) offersOnlyWhatWas(contents map[backstay.PointID]string) {
	w.t.Helper()
	points, err := w.tier.Points(context.Background())
	must(w.t, err)
	for _, r := range points {
		p, err := w.tier.Open(context.Background(), r.ID)
		must(w.t, err)
		got := w.content(func(target backstay.DiskTarget, data []byte) error {
			d, _ := p.Disk(target)
			return w.readFile(d.Path, d.Format, data)
		})
		if got != contents[r.ID] {
			w.t.Errorf("point %s is offered and is not what it was", r.ID)
		}
	}
}

// readFile reads an image file through its chain.
func (w *world) readFile(path, format string, data []byte) error {
	img, err := w.tier.openLayer(context.Background(), PointLayers{Path: path, Format: format, Size: diskSize})
	if err != nil {
		return err
	}
	img.leave = func() error { return nil }
	_, err = img.ReadAt(data, 0)
	return errors.Join(err, img.Close())
}

// TestDropCutOffAndTheVMVanishesKeepsItsLastContent: after the crash the VM
// runs once more, writes, and is undefined. The sweep must not put the content
// of a merged layer over what was written since.
func TestDropCutOffAndTheVMVanishesKeepsItsLastContent(t *testing.T) {
	for _, running := range []bool{true, false} {
		for n := 0; ; n += stride(3) {
			crashed := false
			t.Run(fmt.Sprintf("running=%v/step%d", running, n), func(t *testing.T) {
				ctx := context.Background()
				w := newWorld(t, running)
				kept, keptAt := w.take()
				newest, _ := w.take()
				w.crashAt(n)
				_ = w.tier.Drop(ctx, newest, nil)
				crashed = w.crashed
				w.restart()
				if !running {
					must(t, w.hv.Start(ctx, vmID))
				}
				w.write()
				last := w.guest()
				d, err := w.hv.Domain(ctx, vmID)
				must(t, err)
				must(t, w.hv.Destroy(ctx, vmID))
				must(t, w.hv.Undefine(ctx, vmID))
				_, _ = w.tier.Sweep(ctx, SweepOptions{}) // may refuse what it cannot know
				if w.point(kept) != keptAt {
					t.Error("an earlier point changed")
				}
				if got := w.lastOf(d); got != last {
					t.Error("what the guest wrote last is lost")
				}
			})
			if !crashed {
				break
			}
		}
	}
}

// lastOf reads the files that an undefined VM wrote to: its active ones, or
// where those were merged into.
func (w *world) lastOf(d hypervisor.Domain) string {
	return w.content(func(target backstay.DiskTarget, data []byte) error {
		chain := d.Chains[target]
		for _, file := range chain {
			if _, err := os.Stat(file); err != nil {
				continue
			}
			format := "qcow2"
			if filepath.Ext(file) == ".raw" {
				format = "raw"
			}
			return w.readFile(file, format, data)
		}
		return errors.New("no file of its chain is left")
	})
}

// TestANewLayerThatSomebodyWritesToIsNeverRemoved: the hypervisor's daemon died
// after QEMU had switched and before it noted that. It names the old files, and
// the guest writes to the new ones.
func TestANewLayerThatSomebodyWritesToIsNeverRemoved(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, true)
	id := w.nextPoint()
	prepared, err := w.tier.Prepare(ctx, w.request(id))
	must(t, err)
	w.hv.Hook = func(call string) error {
		if call == "switch" {
			w.crashAt(0)
			return errCrash
		}
		return nil
	}
	if _, err := w.tier.Take(ctx, w.takeRequest(id)); err == nil {
		t.Fatal("the switch was not cut off")
	}
	w.restart()
	must(t, w.hv.Destroy(ctx, vmID))
	const unseen = backstay.VMID("22222222-2222-4222-8222-222222222222")
	_, err = w.hv.Define(ctx, fake.XML("unseen", unseen, backstay.Disk{Target: "vdb", Source: prepared.Disks[1].Overlay, Format: "qcow2"}))
	must(t, err)
	refused := func(when string) {
		t.Helper()
		if _, err := w.tier.Sweep(ctx, SweepOptions{}); !backstay.IsCode(err, backstay.CodeSnapshotFailed) {
			t.Errorf("%s: sweep: %v", when, err)
		}
		for _, d := range prepared.Disks {
			if _, err := os.Stat(d.Overlay); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	must(t, w.hv.Start(ctx, unseen))
	refused("while it is open")
	must(t, w.hv.WriteGuest(unseen, "vdb", 4096, make([]byte, 4096)))
	must(t, w.hv.Destroy(ctx, unseen))
	refused("after it was written to")
	must(t, os.Remove(prepared.Disks[1].Overlay)) // the owner has decided
	w.sweep()
	w.clean()
}

// TestALayerThatWasWrittenToAfterItsMergeIsKept: the VM was started on it in
// the instant between the merge and the change of its definition, and shut off
// again before anybody looked.
func TestALayerThatWasWrittenToAfterItsMergeIsKept(t *testing.T) {
	ctx := context.Background()
	for _, written := range []bool{false, true} {
		w := newWorld(t, false)
		id, _ := w.take()
		p, err := w.tier.Open(ctx, id)
		must(t, err)
		d, err := w.hv.Domain(ctx, vmID)
		must(t, err)
		child := d.Chains["vda"][0]
		w.hv.Hook = func(call string) error {
			if call == "retarget" {
				w.crashAt(0)
				return errCrash
			}
			return nil
		}
		if err := w.tier.Drop(ctx, id, nil); err == nil {
			t.Fatal("the drop was not cut off")
		}
		w.restart()
		if written {
			must(t, w.hv.Start(ctx, vmID))
			w.write()
			must(t, w.hv.Destroy(ctx, vmID))
		}
		must(t, w.hv.Retarget(ctx, vmID, "vda", hypervisor.Source{Image: hypervisor.Plain(p.Disks[0].Path, p.Disks[0].Format)}))
		_, _ = w.tier.Sweep(ctx, SweepOptions{})
		if _, err := os.Stat(child); (err == nil) != written {
			t.Errorf("written %v: the merged layer: %v", written, err)
		}
	}
}
