package movertest

import (
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

func holdRequest(s Subject) mover.HoldRequest {
	return mover.HoldRequest{Job: job, Point: point, VM: s.VM, Consistency: backstay.CrashConsistent, Budget: time.Minute}
}

func testHold(t *testing.T, s Subject) {
	prepare(t, s)
	r := holdRequest(s)
	if err := s.Mover.Ready(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	held, err := s.Mover.Hold(t.Context(), r)
	if err != nil || held.Consistency != backstay.CrashConsistent || held.Reason == "" {
		t.Fatalf("held as %+v, %v", held, err)
	}
	taken, err := s.Mover.Take(t.Context(), mover.TakeRequest{
		Job: job, Point: point, VM: s.VM, Consistency: backstay.CrashConsistent, Time: instant, Held: true,
	})
	if err != nil || taken.Consistency != held.Consistency {
		t.Fatalf("took %+v, %v", taken, err)
	}
	for range 2 { // a second time is no error
		last, err := s.Mover.LetGo(t.Context(), r)
		if err != nil || last.Consistency != held.Consistency {
			t.Fatalf("let go as %+v, %v", last, err)
		}
	}
	if vm := machine(t, s); vm.State == backstay.VMPaused {
		t.Error("the VM is still paused")
	}
}

func testHoldNothing(t *testing.T, s Subject) {
	r := holdRequest(s)
	if _, err := s.Mover.LetGo(t.Context(), r); err != nil {
		t.Error(err)
	}
	if _, err := s.Mover.Hold(t.Context(), r); err == nil {
		t.Error("a VM was held for a point that was not prepared")
	}
}
