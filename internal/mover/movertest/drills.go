package movertest

import (
	"context"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// OpenDrill is mover.Drills'. The fake notes that the drill is open.
func (f *Fake) OpenDrill(ctx context.Context, r mover.DrillRequest) (mover.DrillNetwork, error) {
	if err := f.enter(ctx, "OpenDrill"); err != nil {
		return mover.DrillNetwork{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drills == nil {
		f.drills = map[backstay.JobID]mover.DrillNetwork{}
	}
	f.drills[r.Job] = mover.DrillNetwork{Name: r.Network, Subnet: "10.0.0.1/24"}
	return f.drills[r.Job], nil
}

// LookDrill is mover.Drills'. Every VM of the fake is heard of at once.
func (f *Fake) LookDrill(ctx context.Context, _ mover.DrillProbeRequest) (mover.DrillSeen, error) {
	return mover.DrillSeen{How: "its guest agent answered"}, f.enter(ctx, "LookDrill")
}

// ProbeDrill is mover.Drills'. Every probe passes unless FailProbe says otherwise.
func (f *Fake) ProbeDrill(ctx context.Context, r mover.DrillProbeRequest) (mover.DrillProbed, error) {
	if err := f.enter(ctx, "ProbeDrill"); err != nil {
		return mover.DrillProbed{}, err
	}
	if f.FailProbe == r.Probe.String() {
		return mover.DrillProbed{Detail: "it did not pass"}, nil
	}
	return mover.DrillProbed{OK: true, Detail: "it passed"}, nil
}

// Picture is mover.Drills'.
func (f *Fake) Picture(ctx context.Context, vm backstay.VMID) (mover.Picture, error) {
	if err := f.enter(ctx, "Picture"); err != nil {
		return mover.Picture{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, there := f.vms[vm]; !there {
		return mover.Picture{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s", vm)
	}
	return mover.Picture{PNG: []byte("\x89PNG"), Of: "display"}, nil
}

// CloseDrill is mover.Drills'.
func (f *Fake) CloseDrill(ctx context.Context, job backstay.JobID) error {
	if err := f.enter(ctx, "CloseDrill"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.drills, job)
	return nil
}

// Drills are the drills that are open.
func (f *Fake) Drills() []backstay.JobID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var open []backstay.JobID
	for job := range f.drills {
		open = append(open, job)
	}
	return open
}

// testDrill: the network of a drill is made once and goes without a trace, and a VM
// that is not there has no picture.
func testDrill(t *testing.T, s Subject) {
	r := mover.DrillRequest{Job: otherJob, Network: "suite-drill"}
	var first mover.DrillNetwork
	for i := range 2 {
		made, err := s.Mover.OpenDrill(t.Context(), r)
		if err != nil || made.Name != r.Network {
			t.Fatalf("%+v, %v", made, err)
		}
		if i == 0 {
			first = made
		} else if made != first {
			t.Errorf("the network was %+v and is %+v", first, made)
		}
	}
	if _, err := s.Mover.Picture(t.Context(), nobody); !backstay.IsCode(err, backstay.CodeUnknownVM) {
		t.Errorf("a VM that is not there has a picture: %v", err)
	}
	for range 2 {
		if err := s.Mover.CloseDrill(t.Context(), otherJob); err != nil {
			t.Errorf("a drill was not closed: %v", err)
		}
	}
}
