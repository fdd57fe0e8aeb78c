package movertest

import (
	"context"
	"path"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Template is mover.Deploys'.
func (f *Fake) Template(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Templated, error) {
	if err := f.enter(ctx, "Template"); err != nil {
		return mover.Templated{}, err
	}
	if err := f.report(ctx, "template", progress); err != nil {
		return mover.Templated{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.templates == nil {
		f.templates = map[string]backstay.RestorePlan{}
	}
	f.templates[r.Plan.Folder] = r.Plan
	return mover.Templated{Files: []string{path.Join(r.Plan.Folder, "manifest.json"), path.Join(r.Plan.Folder, "template.xml")}}, nil
}

// Describe is mover.Deploys'. Its templates have the parameter name alone.
func (f *Fake) Describe(ctx context.Context, r mover.DeployRequest) (backstay.Deployment, error) {
	if err := f.enter(ctx, "Describe"); err != nil {
		return backstay.Deployment{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	plan, ok := f.templates[r.Folder]
	if !ok {
		return backstay.Deployment{}, backstay.Errorf(backstay.CodeNoTemplate, "no VM can be made of what is in %s", r.Folder)
	}
	name := plan.Name
	for key, value := range r.Set {
		if key != "name" || value == "" || strings.Contains(value, "/") {
			return backstay.Deployment{}, backstay.Errorf(backstay.CodeUsage, "the parameter %s has no valid value", key)
		}
		name = value
	}
	shape := backstay.VM{ID: plan.UUID, Name: name, Firmware: backstay.BIOS}
	for _, d := range plan.Disks {
		shape.Disks = append(shape.Disks, backstay.Disk{Target: d.Target, Device: "disk", Source: d.Path, Format: d.Format})
	}
	return backstay.Deployment{
		Folder: r.Folder, Point: plan.Point, Source: plan.Source, Shape: shape, Start: true, Problems: []string{},
		Parameters:  []backstay.Parameter{{Name: "name", Type: backstay.TypeString, Value: name, Default: plan.Name, Description: "name of the VM"}},
		Differences: []backstay.Difference{{Path: "/domain/name", From: plan.Source.Name, To: name}},
	}, nil
}

// Deploy is mover.Deploys'.
func (f *Fake) Deploy(ctx context.Context, r mover.DeployRequest) error {
	if err := f.enter(ctx, "Deploy"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vms[r.Plan.UUID] = r.Plan.Name
	return nil
}

// DisksPlan is a restore of all disks of a point into a folder of its own.
func DisksPlan(taken mover.Taken, tier backstay.Tier, folder string) backstay.RestorePlan {
	plan := Plan(taken, tier, folder)
	plan.Kind, plan.Folder = backstay.RestoreDisks, path.Join(folder, "disks")
	for i := range plan.Disks {
		d := &plan.Disks[i]
		d.Path = path.Join(plan.Folder, string(d.Target)+"."+d.Format)
	}
	return plan
}

// DeployPlan is what a server makes of a description.
func DeployPlan(d backstay.Deployment) backstay.RestorePlan {
	plan := backstay.RestorePlan{
		Kind: backstay.DeployPlan, Point: d.Point, Folder: d.Folder, Source: d.Source, Name: d.Shape.Name, UUID: d.Shape.ID, Start: d.Start,
		Probe: backstay.Probe{Kind: backstay.ProbeNone},
	}
	for _, disk := range d.Shape.Disks {
		if disk.Source != "" {
			plan.Disks = append(plan.Disks, backstay.PlannedDisk{Target: disk.Target, Path: disk.Source, Format: disk.Format})
		}
	}
	return plan
}

// testDeploy: a VM is made of what lies in a folder, with the values that are
// given, by calls that may be repeated; and goes again without its disks.
func testDeploy(t *testing.T, s Subject) {
	taken := take(t, s)
	ctx := t.Context()
	restore := mover.StageRequest{Job: job, Plan: DisksPlan(taken, backstay.SnapshotTier, s.Folder)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Mover.Stage(ctx, restore, func(mover.Report) {})
	must(err)
	for range 2 {
		written, err := s.Mover.Template(ctx, restore, func(mover.Report) {})
		must(err)
		if len(written.Files) < 2 || !strings.HasPrefix(written.Files[0], restore.Plan.Folder+"/") {
			t.Errorf("written: %v", written.Files)
		}
	}
	if _, err := s.Mover.Describe(ctx, mover.DeployRequest{Folder: path.Join(s.Folder, "nothing")}); !backstay.IsCode(err, backstay.CodeNoTemplate) {
		t.Errorf("a folder without a template: %v", err)
	}
	wish := mover.DeployRequest{Job: otherJob, Folder: restore.Plan.Folder, Set: map[string]string{"name": "a/b"}}
	if _, err := s.Mover.Describe(ctx, wish); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("a value that is not valid: %v", err)
	}
	wish.Set["name"] = "deployed"
	described, err := s.Mover.Describe(ctx, wish)
	must(err)
	if described.Shape.Name != "deployed" || described.Shape.ID != newVM || len(described.Shape.Disks) != len(restore.Plan.Disks) || len(described.Problems) != 0 {
		t.Fatalf("described as %+v with %v", described.Shape, described.Problems)
	}
	wish.Plan = DeployPlan(described)
	for range 2 {
		must(s.Mover.Deploy(ctx, wish))
	}
	_, err = s.Mover.Start(ctx, mover.StageRequest{Job: otherJob, Plan: wish.Plan})
	must(err)
	for range 2 {
		must(s.Mover.Abandon(ctx, mover.StageRequest{Job: otherJob, Plan: wish.Plan}))
	}
	vms, err := s.Mover.VMs(ctx)
	must(err)
	if slices.ContainsFunc(vms, func(vm backstay.VM) bool { return vm.ID == newVM }) {
		t.Error("the VM is still there")
	}
	infos, err := s.Mover.Paths(ctx, []string{restore.Plan.Disks[0].Path})
	must(err)
	if !infos[0].Exists {
		t.Error("the disks went with the VM")
	}
	must(s.Mover.Abandon(ctx, restore))
	infos, err = s.Mover.Paths(ctx, []string{restore.Plan.Disks[0].Path})
	must(err)
	if infos[0].Exists {
		t.Error("the restored disks are still there")
	}
}
