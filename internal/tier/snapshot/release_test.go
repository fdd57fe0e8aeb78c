package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
)

const forkID = backstay.VMID("22222222-2222-4222-8222-222222222222")

// fork makes a VM that stands on a point, as an instant restore does.
func (w *world) fork(id backstay.PointID, vm backstay.VMID) {
	w.t.Helper()
	p, err := w.tier.Open(background, id)
	must(w.t, err)
	var disks []backstay.Disk
	for _, d := range p.Disks {
		overlay := w.disk(fmt.Sprintf("fork%s-%s.qcow2", vm[:2], d.Target))
		must(w.t, w.tier.AddUser(id, d.Target, User{Kind: UserVM, ID: string(vm), Overlay: overlay}))
		must(w.t, w.hv.CreateOverlay(background, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(d.Path, d.Format)}))
		disks = append(disks, backstay.Disk{Target: d.Target, Source: overlay, Format: "qcow2"})
	}
	_, err = w.hv.Define(background, fake.XML("fork"+string(vm[:2]), vm, disks...))
	must(w.t, err)
}

// guestOf is the content of all disks of any VM.
func (w *world) guestOf(vm backstay.VMID) string {
	w.t.Helper()
	return w.content(func(target backstay.DiskTarget, p []byte) error { return w.hv.ReadGuest(vm, target, 0, p) })
}

// endFork removes a forked VM with its overlays, as its owner would.
func (w *world) endFork(vm backstay.VMID) {
	w.t.Helper()
	d, err := w.hv.Domain(background, vm)
	must(w.t, err)
	must(w.t, w.hv.Destroy(background, vm))
	must(w.t, w.hv.Undefine(background, vm))
	for _, disk := range d.VM.Disks {
		must(w.t, os.Remove(disk.Source))
	}
}

// TestReleaseOnAForkPutsTheVMOnACopy: the restored VM keeps its layers, the
// released one its content, and what the original file held is as it was (I15).
func TestReleaseOnAForkPutsTheVMOnACopy(t *testing.T) {
	for _, running := range []bool{true, false} {
		for _, forkRuns := range []bool{true, false} {
			for which := range 2 { // the fork stands on the original file, or on an overlay of ours
				t.Run(fmt.Sprintf("running=%v/forkRuns=%v/point%d", running, forkRuns, which), func(t *testing.T) {
					w := newWorld(t, running)
					var ids []backstay.PointID
					for range 3 {
						id, _ := w.take()
						ids = append(ids, id)
					}
					w.fork(ids[which], forkID)
					if forkRuns {
						must(t, w.hv.Start(background, forkID))
					}
					seen, forked := w.guest(), w.guestOf(forkID)
					notes := w.release()
					if w.guest() != seen || w.guestOf(forkID) != forked {
						t.Fatal("content changed")
					}
					original := w.active() == "vda.raw vdb.qcow2"
					if want := !running && !forkRuns; original != want || (len(notes) == 0) != want {
						t.Errorf("the VM is on %s, and the notes are %q", w.active(), notes)
					}
					for _, note := range notes {
						if !strings.Contains(note, " runs") {
							t.Errorf("the note does not say why: %s", note)
						}
					}
					points, err := w.tier.Points(background)
					must(t, err)
					if len(points) > 0 {
						t.Errorf("%d points are left", len(points))
					}
					w.sweep()
					w.bootsBoth(seen, forked, running, forkRuns)
					w.endFork(forkID)
					w.sweep()
					w.clean()
					b, err := w.tier.load()
					must(t, err)
					for _, l := range b.Layers {
						t.Errorf("the record of %s is left", l.File)
					}
					if w.guest() != seen {
						t.Error("content changed when the fork went")
					}
				})
			}
		}
	}
}

// bootsBoth restarts both VMs and sees that they have what they had.
func (w *world) bootsBoth(seen, forked string, running, forkRuns bool) {
	w.t.Helper()
	for vm, runs := range map[backstay.VMID]bool{vmID: running, forkID: forkRuns} {
		if runs {
			must(w.t, w.hv.Destroy(background, vm))
		}
		must(w.t, w.hv.Start(background, vm))
		must(w.t, w.hv.Destroy(background, vm))
		if runs {
			must(w.t, w.hv.Start(background, vm))
		}
	}
	if w.guest() != seen || w.guestOf(forkID) != forked {
		w.t.Error("content changed by a restart")
	}
}

// TestReleaseOnAForkCutOffAnywhere ends the process before each change; the VM is
// wholly on its old files or wholly on the copy, and a later release ends it.
func TestReleaseOnAForkCutOffAnywhere(t *testing.T) {
	for _, running := range []bool{true, false} {
		for n := 0; ; n += stride(5) {
			crashed := false
			t.Run(fmt.Sprintf("running=%v/step%d", running, n), func(t *testing.T) {
				w := newWorld(t, running)
				first, _ := w.take()
				w.take()
				w.fork(first, forkID)
				seen, forked := w.guest(), w.guestOf(forkID)
				w.crashAt(n)
				_, err := w.tier.Release(background, vmID, nil)
				crashed = w.crashed
				if (err != nil) != crashed {
					t.Fatalf("crashed %v, error %v", crashed, err)
				}
				w.restart()
				if w.guest() != seen || w.guestOf(forkID) != forked {
					t.Fatal("the release that was cut off changed content")
				}
				w.write()
				seen = w.guest()
				w.sweep()
				if w.guest() != seen || w.guestOf(forkID) != forked {
					t.Fatal("the sweep changed content")
				}
				w.release()
				if w.guest() != seen || w.guestOf(forkID) != forked {
					t.Fatal("the release changed content")
				}
				w.bootsBoth(seen, forked, running, false)
				w.endFork(forkID)
				w.sweep()
				w.clean()
				copies, err := filepath.Glob(w.disk("*.released-*"))
				must(t, err)
				if !running && len(copies) > 0 {
					t.Errorf("files are left: %v", copies)
				}
			})
			if !crashed {
				break
			}
			if n > 300 {
				t.Fatal("it never ends")
			}
		}
	}
}

// stride is how far a crash test goes from one step to the next: by one where
// time allows it.
func stride(sample int) int {
	if exhaustive {
		return 1
	}
	return sample
}
