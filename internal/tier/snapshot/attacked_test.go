package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
)

// putBack puts the VM on the files that it had before its protection, as
// somebody who imports it again by hand does, and lets it write.
func (w *world) putBack() {
	w.t.Helper()
	must(w.t, w.hv.Retarget(background, vmID, "vda", hypervisor.Source{Image: hypervisor.Plain(w.disk("vda.raw"), "raw")}))
	must(w.t, w.hv.Retarget(background, vmID, "vdb", hypervisor.Source{Image: hypervisor.Plain(w.disk("vdb.qcow2"), "qcow2")}))
	w.write()
}

// TestAVMPutBackOnItsFileHasNoChangeMapFromAPointThatWasThere (I7): of the point
// in the vault only the change map is kept; the VM writes to the very layer that
// the next map would be relative to.
func TestAVMPutBackOnItsFileHasNoChangeMapFromAPointThatWasThere(t *testing.T) {
	w := newWorld(t, false)
	first, _ := w.take()
	must(t, w.tier.Vaulted(background, first))
	must(t, w.tier.KeepMap(background, first, nil))
	w.putBack()
	second, _ := w.take()
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		if ranges, ok, _, err := w.tier.Changes(background, second, first, target); err != nil || ok {
			t.Errorf("disk %s: the map %v is offered (%v)", target, ranges, err)
		}
	}
}

// TestAPointWhoseDropIsRefusedIsNotOfferedIfItsLayerWasWrittenTo: a crash left it
// marked, the VM came back on its layer, and then the drop was refused.
func TestAPointWhoseDropIsRefusedIsNotOfferedIfItsLayerWasWrittenTo(t *testing.T) {
	w := newWorld(t, false)
	first, _ := w.take()
	must(t, w.tier.mark(background, first))
	w.putBack()
	second, at := w.take()
	refusal := inUse(first, "somebody")
	if err := w.tier.unmark(first, refusal); err == nil {
		t.Error("the refusal is lost")
	}
	points, err := w.tier.Points(background)
	must(t, err)
	if len(points) != 1 || points[0].ID != second || w.point(second) != at {
		t.Errorf("offered: %v", points)
	}
	now := w.guest()
	must(t, w.tier.Drop(background, first, nil))
	if w.guest() != now || w.point(second) != at {
		t.Error("dropping the broken point changed something")
	}
}

// TestEndingProtectionNeverLosesWhatOthersKeepOfAVM: where a merge is refused for
// the sake of saved memory, of snapshots inside the images or of checkpoints, a
// copy would lose them all the same.
func TestEndingProtectionNeverLosesWhatOthersKeepOfAVM(t *testing.T) {
	for name, c := range map[string]struct {
		running bool
		keeps   func(d *hypervisor.Domain)
	}{
		"a snapshot inside": {true, func(d *hypervisor.Domain) { d.Snapshots, d.Inside = []string{"mine"}, true }},
		"saved memory":      {false, func(d *hypervisor.Domain) { d.Saved = true }},
		"checkpoints":       {false, func(d *hypervisor.Domain) { d.Checkpoints = true }},
		"a snapshot's file": {false, func(d *hypervisor.Domain) {
			d.Snapshots, d.SnapshotFiles = []string{"mine"}, []string{d.Chains["vda"][0]}
		}},
		"a snapshot's lowest file": {false, func(d *hypervisor.Domain) {
			d.Snapshots, d.SnapshotFiles = []string{"mine"}, []string{d.Chains["vda"][len(d.Chains["vda"])-1]}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.running)
			id, at := w.take()
			seen, files, active := w.guest(), strings.Join(w.layers(), " "), w.active()
			w.hv.SetKept(vmID, c.keeps)
			if notes, err := w.tier.Release(background, vmID, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
				t.Errorf("released, with %v and the notes %q", err, notes)
			}
			w.sweep()
			if got := strings.Join(w.layers(), " "); got != files || w.active() != active {
				t.Errorf("the VM is on %s, and the files are %s", w.active(), got)
			}
			if w.guest() != seen || w.point(id) != at {
				t.Error("content changed")
			}
			w.hv.SetKept(vmID, nil)
			w.release()
			if w.guest() != seen {
				t.Error("content changed in the end")
			}
			w.clean()
		})
	}
}

// TestACopyDoesNotTakeTheNameOfAFileThatOthersKeep: the restored VM's memory is
// saved, and what is saved names the files below it.
func TestACopyDoesNotTakeTheNameOfAFileThatOthersKeep(t *testing.T) {
	w := newWorld(t, false)
	id, _ := w.take()
	w.fork(id, forkID)
	w.hv.SetKept(forkID, func(d *hypervisor.Domain) { d.Saved = true })
	before, err := os.ReadFile(w.disk("vda.raw"))
	must(t, err)
	seen := w.guest()
	notes := w.release()
	after, err := os.ReadFile(w.disk("vda.raw"))
	must(t, err)
	if string(before) != string(after) {
		t.Error("the file below the saved VM is another now")
	}
	if w.guest() != seen || len(notes) != 2 || !strings.Contains(notes[0], "is saved to disk") {
		t.Errorf("the notes are %q", notes)
	}
}

// TestAPointIsNotLostWhereNobodyLookedYet (I6): the state folder is new and the
// VM is gone; the records are still beside its disks.
func TestAPointIsNotLostWhereNobodyLookedYet(t *testing.T) {
	w := newWorld(t, false)
	id, _ := w.take()
	must(t, os.RemoveAll(filepath.Join(w.dir, "state")))
	must(t, w.hv.Undefine(background, vmID))
	w.restart()
	lost, err := w.tier.Lost(background, []Place{{Point: id, Folders: []string{w.disk("")}}})
	must(t, err)
	if len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
}

// TestAPointThatIsPinnedWhileItsVMIsReleasedStays: merges and copies take their
// time, and whoever pins waits for neither.
func TestAPointThatIsPinnedWhileItsVMIsReleasedStays(t *testing.T) {
	for _, during := range []string{"merge", "copy"} {
		t.Run(during, func(t *testing.T) {
			w := newWorld(t, false)
			w.take()
			second, at := w.take()
			w.take()
			if during == "copy" {
				w.fork(second, forkID)
			}
			seen, pinned := w.guest(), false
			w.hv.Hook = func(call string) error {
				if !pinned && (during == "merge" && strings.HasPrefix(call, "commit") || during == "copy" && strings.HasPrefix(call, "convert")) {
					pinned = true
					return w.tier.Pin(background, second, true)
				}
				return nil
			}
			if _, err := w.tier.Release(background, vmID, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
				t.Errorf("released: %v", err)
			}
			w.hv.Hook = nil
			if !pinned {
				t.Fatal("nothing was pinned meanwhile")
			}
			w.sweep()
			if w.point(second) != at || w.guest() != seen {
				t.Error("content changed")
			}
			must(t, w.tier.Pin(background, second, false))
			w.release()
			if w.guest() != seen {
				t.Error("content changed in the end")
			}
		})
	}
}

// TestACopyThatMayStillTakeTheVMIsNotRemoved: the hypervisor hangs at the very
// end of a copy, and nobody knows on which file the VM will go on.
func TestACopyThatMayStillTakeTheVMIsNotRemoved(t *testing.T) {
	w := newWorld(t, true)
	id, _ := w.take()
	w.fork(id, forkID)
	seen := w.guest()
	w.hv.Hook = func(call string) error {
		if call == "copy" {
			return errors.New("timed out")
		}
		return nil
	}
	var copying string
	w.hv.SetKept(vmID, func(d *hypervisor.Domain) {
		if found, _ := filepath.Glob(w.disk("*.released-*")); len(found) > 0 {
			copying = found[0]
			d.Mirrors = found
		}
	})
	if _, err := w.tier.Release(background, vmID, nil); err == nil {
		t.Fatal("released")
	}
	if _, err := os.Stat(copying); copying == "" || err != nil {
		t.Fatalf("the copy was removed: %v", err)
	}
	w.hv.Hook = nil
	w.hv.SetKept(vmID, nil)
	w.release()
	if w.guest() != seen {
		t.Error("content changed")
	}
	w.endFork(forkID)
	w.sweep()
	w.clean()
}

// TestAVMThatComesToALayerByAnotherNameProtectsIt: its owner made an overlay on
// the file of another VM, by way of a symbolic link.
func TestAVMThatComesToALayerByAnotherNameProtectsIt(t *testing.T) {
	for _, by := range []string{"folder", "file", "hard link"} {
		t.Run(by, func(t *testing.T) {
			w := newWorld(t, false)
			id, at := w.take()
			far := filepath.Join(w.dir, "far")
			must(t, os.Mkdir(far, 0o700))
			raw, qcow := filepath.Join(far, "a"), filepath.Join(far, "b")
			switch by {
			case "folder":
				link := filepath.Join(w.dir, "link")
				must(t, os.Symlink(w.disk(""), link))
				raw, qcow = filepath.Join(link, "vda.raw"), filepath.Join(link, "vdb.qcow2")
			case "file":
				must(t, errors.Join(os.Symlink(w.disk("vda.raw"), raw), os.Symlink(w.disk("vdb.qcow2"), qcow)))
			default:
				must(t, errors.Join(os.Link(w.disk("vda.raw"), raw), os.Link(w.disk("vdb.qcow2"), qcow)))
			}
			var disks []backstay.Disk
			for target, on := range map[backstay.DiskTarget]hypervisor.Image{"vda": hypervisor.Plain(raw, "raw"), "vdb": hypervisor.Plain(qcow, "qcow2")} {
				overlay := filepath.Join(far, "other-"+string(target))
				must(t, w.hv.CreateOverlay(background, hypervisor.Overlay{Path: overlay, Backing: on}))
				disks = append(disks, backstay.Disk{Target: target, Source: overlay, Format: "qcow2"})
			}
			_, err := w.hv.Define(background, fake.XML("other", forkID, disks...))
			must(t, err)
			other := w.guestOf(forkID)
			if err := w.tier.Drop(background, id, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
				t.Errorf("dropped: %v", err)
			}
			if w.guestOf(forkID) != other || w.point(id) != at {
				t.Error("content changed")
			}
		})
	}
}

// TestACopyTakesTheOriginalNameFromNobody: another VM is on the original file, or
// stands on it by a symbolic link.
func TestACopyTakesTheOriginalNameFromNobody(t *testing.T) {
	for _, how := range []string{"on it", "by a link"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, false)
			id, _ := w.take()
			w.fork(id, forkID)
			const third = backstay.VMID("33333333-3333-4333-8333-333333333333")
			disks := []backstay.Disk{
				{Target: "vda", Source: w.disk("vda.raw"), Format: "raw"}, {Target: "vdb", Source: w.disk("vdb.qcow2"), Format: "qcow2"},
			}
			if how == "by a link" {
				for i, d := range disks {
					link := filepath.Join(w.dir, "link-"+string(d.Target))
					must(t, os.Symlink(d.Source, link))
					disks[i].Source, disks[i].Format = filepath.Join(w.dir, "over-"+string(d.Target)), "qcow2"
					must(t, w.hv.CreateOverlay(background, hypervisor.Overlay{Path: disks[i].Source, Backing: hypervisor.Plain(link, d.Format)}))
				}
			}
			_, err := w.hv.Define(background, fake.XML("third", third, disks...))
			must(t, err)
			seen, forked, others := w.guest(), w.guestOf(forkID), w.guestOf(third)
			notes := w.release()
			if w.guest() != seen || w.guestOf(forkID) != forked || w.guestOf(third) != others {
				t.Errorf("content changed; the notes are %q", notes)
			}
			w.sweep()
			if w.guestOf(forkID) != forked || w.guestOf(third) != others {
				t.Error("content changed by the sweep")
			}
		})
	}
}

// TestACopyOfTheFolderOfDisksSaysNothingOfTheOriginals: somebody clones a VM with
// all that lies beside its disks, and the records in the clone grow old.
func TestACopyOfTheFolderOfDisksSaysNothingOfTheOriginals(t *testing.T) {
	for _, name := range []string{"a-clone", "z-clone"} { // read before and after the original
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false)
			first, atFirst := w.take()
			clone := filepath.Join(w.dir, name)
			must(t, os.CopyFS(clone, os.DirFS(w.disk(""))))
			_, err := w.hv.Define(background, fake.XML("clone", forkID,
				backstay.Disk{Target: "vda", Source: filepath.Join(clone, "vda.raw"), Format: "raw"},
				backstay.Disk{Target: "vdb", Source: filepath.Join(clone, "vdb.qcow2"), Format: "qcow2"}))
			must(t, err)
			second, at := w.take()
			must(t, w.tier.Pin(background, first, true))
			must(t, w.tier.AddUser(second, "vda", User{Kind: UserVM, ID: "other", Overlay: w.disk("other")}))
			points, err := w.tier.Points(background) // looks around, and so finds the clone
			must(t, err)
			if len(points) != 2 || w.point(first) != atFirst || w.point(second) != at {
				t.Errorf("%d points", len(points))
			}
			// The clone can be protected by itself.
			id := w.nextPoint()
			r := w.request(id)
			r.VM = forkID
			_, err = w.tier.Prepare(background, r)
			must(t, err)
			cloned := w.guestOf(forkID)
			take := w.takeRequest(id)
			take.VM = forkID
			_, err = w.tier.Take(background, take)
			must(t, err)
			if w.point(id) != cloned || w.point(second) != at {
				t.Error("the clone's point is not what the clone had")
			}
			must(t, w.tier.Drop(background, id, nil))
			if w.guestOf(forkID) != cloned {
				t.Error("the clone's content changed")
			}
			for _, id := range []backstay.PointID{first, second} {
				if err := w.tier.Drop(background, id, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
					t.Errorf("dropped %s: %v", id, err)
				}
			}
		})
	}
}
