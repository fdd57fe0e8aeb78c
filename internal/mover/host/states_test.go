package host

import (
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// TestACopyDoesNotStartWithItsHost, as its source did: after a power cut nobody
// wants both. The job says so, from either tier.
func TestACopyDoesNotStartWithItsHost(t *testing.T) {
	says := func(w string) bool { return strings.Contains(w, "virsh autostart") }
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		for _, autostart := range []bool{true, false} {
			w := newTestWorld(t)
			w.hv.SetKept(sourceVM, func(d *hypervisor.Domain) { d.Autostart = autostart })
			r := w.backup(tier)
			w.hv.SetKept(sourceVM, nil) // what counts is how it was at the point's time
			_, err := w.host.Stage(t.Context(), r, nil)
			must(t, err)
			defined, err := w.host.Define(t.Context(), r)
			must(t, err)
			if slices.ContainsFunc(defined.Warnings, says) != autostart {
				t.Errorf("%s, autostart %v: warnings %q", tier, autostart, defined.Warnings)
			}
			copied, err := w.hv.Domain(t.Context(), copyVM)
			must(t, err)
			if copied.Autostart {
				t.Errorf("%s: the copy starts with the host", tier)
			}
		}
	}
}

// TestAStartThatAnEarlierLifeAskedForIsNoFailure: the job was killed while libvirt
// started the VM, and its next life finds it off, and then running.
func TestAStartThatAnEarlierLifeAskedForIsNoFailure(t *testing.T) {
	w, r := restored(t)
	r.Plan.Probe = backstay.Probe{Kind: backstay.ProbeNone}
	must(t, w.hv.Start(t.Context(), copyVM))
	looked := false
	w.domain = func(d *hypervisor.Domain) {
		if d.VM.ID == copyVM && !looked {
			looked, d.VM.State = true, backstay.VMShutOff
		}
	}
	_, err := w.host.Start(t.Context(), r)
	must(t, err)
	if !looked {
		t.Error("nobody looked at the VM")
	}
}
