package snapshot

import (
	"fmt"
	"os"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// strangers puts overlays on all disks as a user does with `virsh
// snapshot-create --no-metadata`, and lets the guest write on.
func (w *world) strangers(name string) {
	w.t.Helper()
	d, err := w.hv.Domain(background, vmID)
	must(w.t, err)
	var switches []hypervisor.Switch
	for _, disk := range d.VM.Disks {
		overlay := w.disk(fmt.Sprintf("%s-%s.qcow2", name, disk.Target))
		must(w.t, w.hv.CreateOverlay(background, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(disk.Source, disk.Format)}))
		switches = append(switches, hypervisor.Switch{Target: disk.Target, Overlay: overlay})
	}
	_, err = w.hv.SwitchAll(background, vmID, switches, hypervisor.SwitchOptions{})
	must(w.t, err)
	w.write()
}

// TestPointsGoWithSeveralStrangersLayersBetweenThem: what a user's own
// snapshots put between two points does not keep the older one for ever, and no
// content changes.
func TestPointsGoWithSeveralStrangersLayersBetweenThem(t *testing.T) {
	for _, running := range []bool{true, false} {
		for n := range 4 {
			w := newWorld(t, running)
			first, _ := w.take()
			for i := range n {
				w.strangers(fmt.Sprintf("mine%d", i))
			}
			second, at := w.take()
			third, thirdAt := w.take()
			now := w.guest()
			if err := w.tier.Drop(background, first, nil); err != nil {
				t.Fatalf("running %v, %d layers between: drop the first: %v", running, n, err)
			}
			if w.guest() != now || w.point(second) != at || w.point(third) != thirdAt {
				t.Fatalf("running %v, %d layers between: content changed", running, n)
			}
			w.take()
			w.clean()
		}
	}
}

// TestAStrangersLayerBelowAPointIsWatchedToo: a user commits a later layer into
// one that lies below a point and that no point rests on.
func TestAStrangersLayerBelowAPointIsWatchedToo(t *testing.T) {
	w := newWorld(t, true)
	w.take()
	w.strangers("mine0")
	w.strangers("mine1")
	second, _ := w.take()
	touch(t, w.disk("mine0-vdb.qcow2"))
	if _, err := w.tier.Open(background, second); !backstay.IsCode(err, backstay.CodeNotRestorable) {
		t.Errorf("open: %v", err)
	}
}

// touch lets a file look as if it was written to.
func touch(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Chtimes(path, time.Time{}, info.ModTime().Add(time.Second)))
}
