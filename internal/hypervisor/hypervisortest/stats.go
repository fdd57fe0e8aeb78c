package hypervisortest

import (
	"testing"

	"github.com/backstay/backstay/internal/hypervisor"
)

func (s HostSuite) ioStats(t *testing.T) {
	w := s.vm(t)
	off, err := s.Host.IOStats(testContext(t), w.id)
	must(t, err)
	if len(off) != 0 {
		t.Errorf("a VM that is off has done %v", off)
	}
	w.start(t)
	running, err := s.Host.IOStats(testContext(t), w.id)
	must(t, err)
	for _, d := range w.disks {
		before, there := running[d.Target]
		if !there {
			t.Errorf("nothing is told of disk %s: %v", d.Target, running)
		}
		again, err := s.Host.IOStats(testContext(t), w.id)
		must(t, err)
		if _, grew := again[d.Target].Reads.Sub(before.Reads); !grew {
			t.Errorf("the counts of disk %s went back from %+v to %+v", d.Target, before, again[d.Target])
		}
	}
	_, err = s.Host.IOStats(testContext(t), "00000000-0000-4000-8000-000000000000")
	wantError(t, err, hypervisor.ErrNoVM)
}
