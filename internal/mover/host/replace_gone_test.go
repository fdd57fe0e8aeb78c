package host

import (
	"os"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestTheDisksOfAVMThatWasSwitchedAndUndefinedStay: its guest may have written to them
// while nobody looked after the job.
func TestTheDisksOfAVMThatWasSwitchedAndUndefinedStay(t *testing.T) {
	w, r, _, _ := toReplace(t, backstay.SnapshotTier)
	_, err := w.host.StageReplace(t.Context(), r, nil)
	must(t, err)
	done := false
	w.hv.Hook = func(call string) error { // the process ends right after the switch
		if done {
			return errEnded
		}
		if strings.Contains(call, "redefine") {
			done = true
		}
		return nil
	}
	if _, err := w.host.SwitchDisks(t.Context(), r); err == nil {
		t.Fatal("it was not cut off")
	}
	w.again(0)
	must(t, w.hv.Start(t.Context(), sourceVM))
	must(t, w.hv.WriteGuest(sourceVM, "vda", 0, []byte("written since")))
	must(t, w.hv.Destroy(t.Context(), sourceVM))
	must(t, w.hv.Undefine(t.Context(), sourceVM))
	if err := w.host.AbandonReplace(t.Context(), r); err == nil {
		t.Error("it was abandoned")
	}
	_, err = w.host.Sweep(t.Context(), nil)
	must(t, err)
	for _, d := range r.Plan.Disks {
		if _, err := os.Stat(d.Path); err != nil {
			t.Error(err)
		}
	}
}
