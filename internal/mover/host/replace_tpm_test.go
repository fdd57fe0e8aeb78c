package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
)

// TestTheStateOfATPMIsNeverExchangedUnderAVMThatRuns: its TPM would write the state
// that it has in memory over the other one. That waits until the VM is shut off.
func TestTheStateOfATPMIsNeverExchangedUnderAVMThatRuns(t *testing.T) {
	for _, undo := range []bool{false, true} {
		w := newTestWorld(t)
		must(t, w.hv.Destroy(t.Context(), sourceVM))
		d, err := w.hv.Domain(t.Context(), sourceVM)
		must(t, err)
		state := w.path("hv/swtpm/" + string(sourceVM) + "/tpm2/state")
		must(t, w.hv.Redefine(t.Context(), sourceVM, strings.Replace(d.InactiveXML, "</devices>",
			`<tpm model="tpm-crb"><backend type="emulator" version="2.0"/></tpm></devices>`, 1)))
		write := func(text string) {
			must(t, os.MkdirAll(filepath.Dir(state), 0o700))
			must(t, os.WriteFile(state, []byte(text), 0o600))
		}
		read := func() string {
			got, err := os.ReadFile(state)
			must(t, err)
			return string(got)
		}
		write("of the point")
		w.backup(backstay.SnapshotTier)
		write("of now")
		w.point(safetyID)
		vms, err := w.host.VMs(t.Context())
		must(t, err)
		plan := movertest.ReplacePlan(vms[0], mover.Taken{Point: pointID, Shape: vms[0], Disks: []backstay.PointDisk{{Target: "vda", Size: testSize}}})
		r := mover.StageRequest{Job: replaceJob, Plan: plan}
		want := "of now"
		if undo {
			must(t, replaceNow(t.Context(), w, r))
			want = "of the point"
		}
		w.hv.Hook = func(op string) error { // the process ends between the exchange and the definition
			if strings.Contains(op, "redefine") {
				cutOff = func(string) error { return errEnded }
				return errEnded
			}
			return nil
		}
		if undo {
			err = undoNow(t.Context(), w, r)
		} else {
			err = replaceNow(t.Context(), w, r)
		}
		if err == nil || read() == want {
			t.Fatalf("it was not cut off between: %v", err)
		}
		w.again(0)
		must(t, w.hv.Start(t.Context(), sourceVM))
		was := read()
		_, err = w.host.Sweep(t.Context(), nil)
		must(t, err)
		if !undo && w.host.AbandonReplace(t.Context(), r) == nil {
			t.Error("it was abandoned")
		}
		if read() != was {
			t.Error("the state was exchanged under a VM that runs")
		}
		must(t, w.hv.Destroy(t.Context(), sourceVM))
		_, err = w.host.Sweep(t.Context(), nil)
		must(t, err)
		if left, _ := filepath.Glob(w.path("hv/*/*replaced*")); len(left) != map[bool]int{false: 0, true: 1}[undo] {
			t.Errorf("%v are left", left)
		}
		if got := read(); got != want {
			t.Errorf("the TPM has the state %q and not %q", got, want)
		}
	}
}
