package libvirt

import (
	"testing"
	"time"
)

func TestAMergeGoesAsFastAsItsThrottleSays(t *testing.T) {
	limit := int64(8 << 20)
	p := &pacer{throttle: func() int64 { return limit }}
	if got := p.first(); got != 8<<20 {
		t.Errorf("starts with %d", got)
	}
	now := time.Unix(0, 0)
	if _, set := p.next(now, job{cur: 1, end: 100}, true); set {
		t.Error("the speed was set though it is as it was")
	}
	limit = -1
	if speed, set := p.next(now, job{cur: 2, end: 100}, true); !set || speed != waiting {
		t.Errorf("told to wait: %d, %v", speed, set)
	}
	limit = 0
	if speed, set := p.next(now, job{cur: 3, end: 100}, true); !set || speed != 8*firstSpeed {
		t.Errorf("told to go on: %d, %v", speed, set)
	}
}

// TestAMergeStartsGently: without any limit it is at full speed within a second.
func TestAMergeStartsGently(t *testing.T) {
	p := &pacer{}
	last, now := p.first(), time.Unix(0, 0)
	if last != firstSpeed {
		t.Errorf("starts with %d", last)
	}
	for i := range 10 {
		speed, _ := p.next(now, job{cur: 1, end: 100}, false)
		if speed != 0 && speed != 2*last {
			t.Errorf("look %d: from %d to %d", i, last, speed)
		}
		last = speed
	}
	if last != 0 {
		t.Errorf("after a second the speed is %d", last)
	}
	if speed, _ := (&pacer{}).next(now, job{cur: 1, end: 100}, true); speed != 0 {
		t.Errorf("a job that was adopted is held back to %d", speed)
	}
}

// TestAMergeThatGainsNothingOnTheGuestGoesFaster: the guest writes as fast as
// the merge may copy.
func TestAMergeThatGainsNothingOnTheGuestGoesFaster(t *testing.T) {
	for _, limit := range []int64{4 << 20, -1} {
		p := &pacer{throttle: func() int64 { return limit }}
		p.first()
		now := time.Unix(0, 0)
		speed := uint64(0)
		for i := range uint64(600) {
			now = now.Add(jobPoll)
			speed, _ = p.next(now, job{cur: i * 1000, end: i*1000 + 5<<20}, true)
		}
		if speed < 16<<20 {
			t.Errorf("limit %d: after a minute without gain the speed is %d", limit, speed)
		}
		p = &pacer{throttle: func() int64 { return limit }}
		p.first()
		for i := range uint64(600) {
			now = now.Add(jobPoll)
			speed, _ = p.next(now, job{cur: i * (1 << 20), end: 1 << 30}, true)
		}
		if speed > 4<<20 {
			t.Errorf("limit %d: a merge that gains was given speed %d", limit, speed)
		}
	}
}
