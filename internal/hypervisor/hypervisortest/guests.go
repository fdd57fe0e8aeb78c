package hypervisortest

import (
	"errors"
	"slices"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// silence takes a fake's agent away, which answers unless told not to.
func (w *world) silence() {
	if fake, ok := w.Host.(interface {
		SetAgent(backstay.VMID, backstay.AgentState)
	}); ok {
		fake.SetAgent(w.id, backstay.AgentDisconnected)
	}
}

func (s HostSuite) silent(t *testing.T) {
	ctx := testContext(t)
	w := s.vm(t)
	w.start(t)
	w.silence()
	wantError(t, s.Host.PingAgent(ctx, w.id, time.Second), hypervisor.ErrAgentSilent)
	_, err := s.Host.AgentCommand(ctx, w.id, `{"execute":"guest-info"}`, time.Second)
	wantError(t, err, hypervisor.ErrAgentSilent)
	_, err = s.Host.Freeze(ctx, w.id, nil, time.Second)
	wantError(t, err, hypervisor.ErrAgentSilent)
	_, err = s.Host.Thaw(ctx, w.id)
	wantError(t, err, hypervisor.ErrAgentSilent)
}

func (s HostSuite) switchAround(t *testing.T) {
	ctx := testContext(t)
	w := s.vm(t)
	w.start(t)
	a1 := w.layer(t, "vda", 0, nil)
	refused := errors.New("not now")
	_, err := s.Host.SwitchAll(ctx, w.id, []hypervisor.Switch{a1}, hypervisor.SwitchOptions{
		Before: func() error { return refused },
		After:  func(error) { t.Error("something follows a switch that was not made") },
	})
	wantError(t, err, refused)
	w.wantChain(t, "vda", w.disks[0].Source)
	var order []string
	_, err = s.Host.SwitchAll(ctx, w.id, []hypervisor.Switch{a1}, hypervisor.SwitchOptions{
		Before: func() error { // it may use the host
			order = append(order, "before")
			w.wantChain(t, "vda", w.disks[0].Source)
			return nil
		},
		After: func(err error) {
			order = append(order, "after")
			if source, _ := w.source(t, "vda"); err != nil || source != a1.Overlay {
				t.Errorf("after the switch the VM is on %s, %v", source, err)
			}
		},
	})
	must(t, err)
	if !slices.Equal(order, []string{"before", "after"}) {
		t.Errorf("done: %v", order)
	}
	_, err = s.Host.SwitchAll(ctx, w.id, []hypervisor.Switch{{Target: "vdz", Overlay: a1.Overlay}}, hypervisor.SwitchOptions{
		After: func(error) { order = nil },
	})
	if err == nil {
		t.Error("a disk was switched that is not there")
	}
}

func (s HostSuite) pause(t *testing.T) {
	ctx := testContext(t)
	const nobody = backstay.VMID("00000000-0000-4000-8000-00000000dead")
	wantError(t, s.Host.Pause(ctx, nobody), hypervisor.ErrNoVM)
	wantError(t, s.Host.Resume(ctx, nobody), hypervisor.ErrNoVM)
	w := s.vm(t)
	if err := s.Host.Pause(ctx, w.id); err == nil {
		t.Error("a VM that is off was paused")
	}
	must(t, s.Host.Resume(ctx, w.id))
	w.state(t, backstay.VMShutOff)
	w.start(t)
	must(t, s.Host.Resume(ctx, w.id))
	must(t, s.Host.Pause(ctx, w.id))
	w.state(t, backstay.VMPaused)
	if err := s.Host.Pause(ctx, w.id); err == nil {
		t.Error("a paused VM was paused again: whoever did it first would not find it as it left it")
	}
	w.switchTo(t, w.layer(t, "vda", 0, nil), w.layer(t, "vdb", 0, nil))
	w.state(t, backstay.VMPaused)
	must(t, s.Host.Resume(ctx, w.id))
	w.state(t, backstay.VMRunning)
}

func (w *world) state(t *testing.T, want backstay.VMState) {
	t.Helper()
	if got := w.domain(t).VM.State; got != want {
		t.Errorf("the VM is %s, not %s", got, want)
	}
}
