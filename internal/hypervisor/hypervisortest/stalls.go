package hypervisortest

import (
	"errors"
	"testing"

	"github.com/backstay/backstay/internal/hypervisor"
)

func (s HostSuite) notStalled(t *testing.T) {
	w := s.vm(t)
	for _, start := range []bool{false, true} {
		if start {
			w.start(t)
		}
		before := w.domain(t).VM.State
		if is, err := s.Host.Stalled(testContext(t), w.id); err != nil || is {
			t.Errorf("stalled: %v, %v", is, err)
		}
		if was, err := s.Host.Unstall(testContext(t), w.id); err != nil || was {
			t.Errorf("let go on: %v, %v", was, err)
		}
		if after := w.domain(t).VM.State; after != before {
			t.Errorf("the VM was %s and is %s", before, after)
		}
	}
	const nobody = "99999999-9999-4999-8999-999999999999"
	if _, err := s.Host.Stalled(testContext(t), nobody); !errors.Is(err, hypervisor.ErrNoVM) {
		t.Errorf("a VM that is not there: %v", err)
	}
}
