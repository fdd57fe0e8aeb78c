package movertest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// LookAt is mover.Imports'. To the fake every file is a raw image.
func (f *Fake) LookAt(ctx context.Context, image backstay.ImageBackup) ([]backstay.ImageDisk, error) {
	if err := f.enter(ctx, "LookAt"); err != nil {
		return nil, err
	}
	disks := append([]backstay.ImageDisk(nil), image.Disks...)
	for i := range disks {
		info, err := os.Stat(disks[i].Path)
		if err != nil {
			return nil, backstay.Errorf(backstay.CodeImageUnfit, "the image %s cannot be read", disks[i].Path).Because(err)
		}
		disks[i].Format, disks[i].Size = "raw", info.Size()
	}
	return disks, nil
}

// Import is mover.Imports'.
func (f *Fake) Import(ctx context.Context, r mover.ImportRequest, progress mover.Progress) (mover.Pulled, error) {
	disks, err := f.LookAt(ctx, r.Image)
	if err != nil {
		return mover.Pulled{}, err
	}
	if err := f.opens(&r.Vault); err != nil {
		return mover.Pulled{}, err
	}
	for _, phase := range []string{"transfer", "validate"} {
		if err := f.report(ctx, phase, progress); err != nil {
			return mover.Pulled{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.points[r.Point]
	if p == nil {
		p = &fakePoint{taken: mover.Taken{
			Point: r.Point, Time: r.Time, Consistency: backstay.CrashConsistent,
			Shape: backstay.VM{ID: r.VM, Name: r.Image.Name, Agent: backstay.AgentNone},
		}}
		for _, d := range disks {
			p.taken.Disks = append(p.taken.Disks, backstay.PointDisk{Target: d.Target, Size: d.Size, Format: d.Format, Included: true})
		}
		f.points[r.Point] = p
	}
	p.inVault = true
	return mover.Pulled{Taken: p.taken, Transferred: mover.Transferred{Disks: p.taken.Disks}}, nil
}

func testImport(t *testing.T, s Subject) {
	path := filepath.Join(t.TempDir(), "foreign.img")
	image := backstay.ImageBackup{Name: "elsewhere", Firmware: backstay.BIOS, Disks: []backstay.ImageDisk{{Target: "vda", Path: path}}}
	if _, err := s.Mover.LookAt(t.Context(), image); !backstay.IsCode(err, backstay.CodeImageUnfit) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, 3<<20+512), 0o600); err != nil {
		t.Fatal(err)
	}
	disks, err := s.Mover.LookAt(t.Context(), image)
	if err != nil || len(disks) != 1 || disks[0].Format != "raw" || disks[0].Size != 3<<20+512 {
		t.Fatalf("looked at %+v, %v", disks, err)
	}
	image.Disks = disks
	r := mover.ImportRequest{Job: job, Point: point, VM: newVM, Image: image, Time: instant, Vault: s.Vault}
	for range 2 { // a repeat after its answer was lost
		done, err := s.Mover.Import(t.Context(), r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if done.Taken.Point != point || done.Taken.Shape.ID != newVM || len(done.Taken.Disks) != 1 || done.Taken.Disks[0].Size != 3<<20+512 {
			t.Errorf("imported %+v", done.Taken)
		}
	}
	if points, err := s.Mover.Points(t.Context()); err != nil || len(points) != 0 {
		t.Errorf("an import left points beside disks: %+v, %v", points, err)
	}
	if _, err := s.Mover.Verify(t.Context(), mover.VerifyRequest{Job: job, Point: point, Tier: backstay.VaultTier, Vault: &s.Vault}, nil); err != nil {
		t.Error(err)
	}
}
