package hypervisortest

import (
	"errors"
	"reflect"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

func (s HostSuite) saved(t *testing.T) {
	w := s.vm(t)
	ctx := testContext(t)
	must(t, s.Host.DiscardSaved(ctx, w.id)) // there is none
	w.start(t)
	must(t, s.Host.DiscardSaved(ctx, w.id)) // nor has a VM that runs
	if d := w.domain(t); d.VM.State != backstay.VMRunning || d.Saved || d.Autostart {
		t.Errorf("a VM that ran is told as %s, saved %v, autostart %v", d.VM.State, d.Saved, d.Autostart)
	}
	s.Save(t, w.id)
	if d := w.domain(t); !d.Saved || d.VM.State != backstay.VMShutOff {
		t.Fatalf("a VM whose memory was saved is told as %s, saved %v", d.VM.State, d.Saved)
	}
	before := w.domain(t)
	must(t, s.Host.DiscardSaved(ctx, w.id))
	after := w.domain(t)
	if after.Saved || after.VM.State != backstay.VMShutOff {
		t.Errorf("after the saved memory went the VM is %s, saved %v", after.VM.State, after.Saved)
	}
	if !reflect.DeepEqual(before.Chains, after.Chains) || before.InactiveXML != after.InactiveXML {
		t.Errorf("more than the saved memory went: %+v, and before %+v", after, before)
	}
	must(t, s.Host.DiscardSaved(ctx, w.id))
	w.start(t) // a boot
	for _, on := range []bool{true, false} {
		must(t, s.Host.SetAutostart(ctx, w.id, on))
		if d := w.domain(t); d.Autostart != on {
			t.Errorf("a VM that is to start with its host: %v, is told as %v", on, d.Autostart)
		}
	}
	const nobody = "99999999-9999-4999-8999-999999999999"
	if err := s.Host.DiscardSaved(ctx, nobody); !errors.Is(err, hypervisor.ErrNoVM) {
		t.Errorf("a VM that is not there: %v", err)
	}
}
