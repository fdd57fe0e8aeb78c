package host

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// sufferer is a guest whose requests take longer each time somebody looks, so
// that nothing helps it.
type sufferer struct {
	mu     sync.Mutex
	at     hypervisor.IOStats
	next   time.Duration
	cured  bool
	looked int
	more   chan struct{} // closed and replaced at each look
}

func (s *sufferer) IOStats(context.Context, backstay.VMID) (map[backstay.DiskTarget]hypervisor.IOStats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.more != nil {
		close(s.more)
	}
	s.more = make(chan struct{})
	if s.looked++; s.looked > 1 && !s.cured {
		s.next = max(2*s.next, time.Second)
		s.at.Flushes.Requests++
		s.at.Flushes.Total += s.next
	}
	return map[backstay.DiskTarget]hypervisor.IOStats{"vda": s.at}, nil
}

// paceBy lets the host ask somebody else than its hypervisor what guests feel.
func (w *testWorld) paceBy(stats hypervisor.Stats) {
	w.host.pacer.Pacer = pace.New(pace.Options{Stats: stats, Every: time.Millisecond, Longest: 30 * time.Millisecond})
}

// TestATransferIsGivenUpRatherThanTheGuest: I12. The point stays in the snapshot
// tier, and goes into the vault when the guest is well again.
func TestATransferIsGivenUpRatherThanTheGuest(t *testing.T) {
	w := newTestWorld(t)
	sums := w.snapshotOf(pointID)
	guest := &sufferer{}
	w.paceBy(guest)
	w.hv.Hook = slowReader(guest)
	var mu sync.Mutex
	notes := map[string]bool{}
	_, err := w.host.Transfer(t.Context(), mover.TransferRequest{Job: testJob, Point: pointID, Vault: w.access}, func(r mover.Report) {
		mu.Lock()
		defer mu.Unlock()
		notes[r.Note] = true
	})
	if !backstay.IsCode(err, backstay.CodeGuestBusy) || !strings.Contains(err.Error(), "100ms") {
		t.Errorf("error is %v", err)
	}
	if !notes["stopped for the guest"] {
		t.Errorf("notes %v", notes)
	}
	w.hv.Hook = nil
	if users := w.users(); len(users) > 0 {
		t.Errorf("the transfer that was given up still stands on the layers: %v", users)
	}
	w.paceBy(&sufferer{cured: true})
	w.holds(pointID, backstay.SnapshotTier, sums)
	w.transfer(pointID, "")
	w.holds(pointID, backstay.VaultTier, sums)
}

// slowReader lets the second disk be opened when the guest was looked at a few
// times since the first one was read.
func slowReader(s *sufferer) func(string) error {
	exports := 0
	return func(call string) error {
		if call != "export" {
			return nil
		}
		if exports++; exports != 2 {
			return nil
		}
		for range 6 {
			s.mu.Lock()
			more := s.more
			s.mu.Unlock()
			<-more
		}
		return nil
	}
}

// TestTheLimitOfABackupHoldsForMergesAfterARestartToo.
func TestTheLimitOfABackupHoldsForMergesAfterARestartToo(t *testing.T) {
	w := newTestWorld(t)
	w.snapshotOf(pointID)
	_, err := w.host.Transfer(t.Context(), mover.TransferRequest{
		Job: testJob, Point: pointID, Vault: w.access, Guest: backstay.GuestRules{LatencyLimit: backstay.Duration(30 * time.Millisecond)},
	}, nil)
	must(t, err)
	again := newPacer(nil, w.host.state, w.host.log)
	if limit := again.limit(sourceVM); limit != 30*time.Millisecond {
		t.Errorf("the limit is %v", limit)
	}
}

// TestAMergeGoesAtThePaceOfItsVMsGuestAndNoLonger: what the hypervisor is given to
// ask is the governor that looks after this VM.
func TestAMergeGoesAtThePaceOfItsVMsGuestAndNoLonger(t *testing.T) {
	w := newTestWorld(t)
	err := w.host.pacer.merging(t.Context(), sourceVM, nil, func(context.Context, snapshot.Progress) error {
		w.host.pacer.mu.Lock()
		defer w.host.pacer.mu.Unlock()
		if w.host.pacer.merges[sourceVM] == nil || w.host.pacer.merges[copyVM] != nil {
			t.Errorf("governors %v", w.host.pacer.merges)
		}
		return nil
	})
	must(t, err)
	if w.host.pacer.throttle(sourceVM).Limit() != 0 || len(w.host.pacer.merges) != 0 {
		t.Error("a governor is left")
	}
}
