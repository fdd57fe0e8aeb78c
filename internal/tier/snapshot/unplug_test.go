package snapshot

import (
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestADiskThatIsUnpluggedUntilTheNextStartIsNotMergedAway: the VM's persistent
// definition names its layer, though the chain of nothing that runs does.
func TestADiskThatIsUnpluggedUntilTheNextStartIsNotMergedAway(t *testing.T) {
	w := newWorld(t, true)
	ctx := t.Context()
	id, _ := w.take()
	w.write()
	want := w.guest()
	must(t, w.hv.Unplug(vmID, "vdb"))
	if err := w.tier.Drop(ctx, id, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
		t.Errorf("the point was dropped: %v", err)
	}
	must(t, w.hv.Destroy(ctx, vmID))
	must(t, w.hv.Start(ctx, vmID))
	if got := w.guest(); got != want {
		t.Error("the VM has lost a disk")
	}
	must(t, w.tier.Drop(ctx, id, nil))
	if got := w.guest(); got != want {
		t.Error("the drop changed what the VM has")
	}
}
