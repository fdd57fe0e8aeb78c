package movertest

import (
	"context"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Pull is mover.Pulls'.
func (f *Fake) Pull(ctx context.Context, r mover.PullRequest, progress mover.Progress) (mover.Pulled, error) {
	if err := f.enter(ctx, "Pull"); err != nil {
		return mover.Pulled{}, err
	}
	if err := f.opens(&r.Vault); err != nil {
		return mover.Pulled{}, err
	}
	if r.VM != f.Machine.ID {
		return mover.Pulled{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s", r.VM)
	}
	for _, phase := range []string{"prepare", "snapshot", "transfer", "validate"} {
		if err := f.report(ctx, phase, progress); err != nil {
			return mover.Pulled{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.points[r.Point]
	if p == nil {
		p = &fakePoint{taken: mover.Taken{Point: r.Point, Time: r.Time, Consistency: r.Consistency, Shape: f.Machine}}
		for _, d := range f.Machine.Disks {
			p.taken.Disks = append(p.taken.Disks, backstay.PointDisk{Target: d.Target, Size: d.Size, Format: d.Format, Included: true})
		}
		f.points[r.Point] = p
	}
	p.inVault = true
	return mover.Pulled{Taken: p.taken, Transferred: mover.Transferred{Disks: p.taken.Disks, Stats: backstay.JobStats{BytesRead: 3 << 20}}}, nil
}

// EndPulls is mover.Pulls'.
func (f *Fake) EndPulls(ctx context.Context, _ backstay.VMID) error { return f.enter(ctx, "EndPulls") }

func testPull(t *testing.T, s Subject) {
	vm := machine(t, s)
	r := mover.PullRequest{Job: job, Point: point, VM: s.VM, Consistency: backstay.CrashConsistent, Time: instant, Vault: s.Vault}
	for _, d := range vm.Possible() {
		r.Disks = append(r.Disks, d.Target)
	}
	var phases []string
	pulled, err := s.Mover.Pull(t.Context(), r, func(r mover.Report) {
		if n := len(phases); r.Phase != "" && (n == 0 || phases[n-1] != r.Phase) {
			phases = append(phases, r.Phase)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(phases) == 0 || phases[0] != "prepare" || phases[len(phases)-1] != "validate" {
		t.Errorf("phases %q", phases)
	}
	if len(pulled.Taken.Disks) != len(r.Disks) || pulled.Taken.Point != point || !pulled.Taken.Time.Equal(instant) {
		t.Errorf("pulled %+v", pulled.Taken)
	}
	if points, err := s.Mover.Points(t.Context()); err != nil || len(points) != 0 {
		t.Errorf("a pull left points beside the disks: %+v, %v", points, err)
	}
	again, err := s.Mover.Pull(t.Context(), r, nil)
	if err != nil || again.Taken.Point != point || len(again.Taken.Disks) != len(r.Disks) {
		t.Errorf("a second pull of the same point: %+v, %v", again, err)
	}
	if _, err := s.Mover.Verify(t.Context(), mover.VerifyRequest{Job: job, Point: point, Tier: backstay.VaultTier, Vault: &s.Vault}, nil); err != nil {
		t.Error(err)
	}
	if err := s.Mover.EndPulls(t.Context(), s.VM); err != nil {
		t.Error(err)
	}
}
