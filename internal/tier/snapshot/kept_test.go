package snapshot

import (
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// TestWhatOthersKeepOfAVMIsNeverMergedAway: snapshots that the user made with
// libvirt, a saved memory and another tool's checkpoints need the image files as
// they are. The drop is refused with the reason, the point stays usable, and it
// goes when the hindrance has gone.
func TestWhatOthersKeepOfAVMIsNeverMergedAway(t *testing.T) {
	for name, c := range map[string]struct {
		running bool
		keeps   func(w *world, d *hypervisor.Domain)
		why     string
	}{
		"a snapshot that needs the lower file": {true, func(w *world, d *hypervisor.Domain) {
			d.Snapshots, d.SnapshotFiles = []string{"mine"}, []string{d.Chains["vda"][1]}
		}, "a snapshot of libvirt's own of VM web01 (mine) needs"},
		"a snapshot that needs the upper file": {true, func(w *world, d *hypervisor.Domain) {
			d.Snapshots, d.SnapshotFiles = []string{"mine"}, []string{d.Chains["vda"][0]}
		}, "a snapshot of libvirt's own of VM web01 (mine) needs"},
		"a snapshot inside": {true, func(w *world, d *hypervisor.Domain) { d.Snapshots, d.Inside = []string{"mine"}, true }, "inside its images"},
		"saved memory":      {false, func(w *world, d *hypervisor.Domain) { d.Saved = true }, "is saved to disk"},
		"checkpoints while shut off": {false, func(w *world, d *hypervisor.Domain) { d.Checkpoints = true },
			"is shut off and has libvirt checkpoints"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.running)
			id, content := w.take()
			now := w.guest()
			w.hv.SetKept(vmID, func(d *hypervisor.Domain) { c.keeps(w, d) })
			err := w.tier.Drop(background, id, nil)
			if !backstay.IsCode(err, backstay.CodeLayerInUse) || !strings.Contains(err.Error(), c.why) {
				t.Errorf("the drop ended with %v", err)
			}
			if w.point(id) != content || w.guest() != now {
				t.Error("the content changed")
			}
			w.hv.SetKept(vmID, nil)
			must(t, w.tier.Drop(background, id, nil))
			if w.guest() != now {
				t.Error("the content changed when the point went")
			}
		})
	}
}

// TestCheckpointsOfARunningVMKeepNothingFromBeingMerged: the hypervisor carries
// them through the merge.
func TestCheckpointsOfARunningVMKeepNothingFromBeingMerged(t *testing.T) {
	w := newWorld(t, true)
	id, _ := w.take()
	w.hv.SetKept(vmID, func(d *hypervisor.Domain) { d.Checkpoints = true })
	must(t, w.tier.Drop(background, id, nil))
}
