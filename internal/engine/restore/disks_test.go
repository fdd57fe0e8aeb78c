package restore

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// diskFacts are those of a restore of disks that nothing stands in the way of.
func diskFacts() Facts {
	f := facts()
	f.Point.Time = time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC)
	f.Paths["/srv/new"] = mover.PathInfo{Folder: true, Available: 100 << 30}
	f.Paths["/srv/used"] = mover.PathInfo{Exists: true, Folder: true, Available: 1}
	f.Paths["/srv/used/web01-20261122-103000"] = mover.PathInfo{Folder: true, Available: 100 << 30}
	f.Paths["/srv/empty"] = mover.PathInfo{Exists: true, Empty: true, Folder: true, Available: 1}
	f.Paths["/srv/empty/"+probeName] = mover.PathInfo{Folder: true, Available: 100 << 30}
	f.Paths["/fast/web01-20261122-103000"] = mover.PathInfo{Folder: true, Available: 100 << 30}
	f.Paths["/var/lib/libvirt/images/web01-20261122-103000"] = mover.PathInfo{Folder: true, Available: 100 << 30}
	f.Paths["/dev/vg/disk"] = mover.PathInfo{Exists: true, Folder: true, DeviceSize: 20 << 30}
	for path, info := range f.Paths {
		info.Path = path
		f.Paths[path] = info
	}
	return f
}

func disksTo(to string) backstay.RestoreRequest {
	return backstay.RestoreRequest{Kind: backstay.RestoreDisks, Point: "P", To: to}
}

func TestDisksHaveAFolderOfTheirOwn(t *testing.T) {
	for to, folder := range map[string]string{
		"/srv/new": "/srv/new", "/srv/new/": "/srv/new", "/srv/empty": "/srv/empty",
		"/srv/used": "/srv/used/web01-20261122-103000", "fast": "/fast/web01-20261122-103000",
	} {
		p := plan(t, disksTo(to), diskFacts())
		if len(p.Refused()) > 0 || p.Folder != folder || p.Disks[0].Path != folder+"/vda.qcow2" || p.Disks[1].Path != folder+"/vdb.raw" {
			t.Errorf("--to %s: %s, %+v, refused %+v", to, p.Folder, p.Disks, p.Refused())
		}
		if p.Bytes != 3<<30 || p.UUID != "fresh-uuid" || p.NICs[0].MAC != "52:54:00:aa:bb:cc" || p.Start {
			t.Errorf("--to %s: %+v", to, p)
		}
	}
}

// TestTheTemplatesVMHasTheSourcesNameWhereItIsFree: a VM that was lost comes back
// under its name; beside one that is there another name is the default.
func TestTheTemplatesVMHasTheSourcesNameWhereItIsFree(t *testing.T) {
	f := diskFacts()
	if p := plan(t, disksTo("/srv/new"), f); p.Name != "web01-20261122-103000" {
		t.Errorf("beside its source it is called %s", p.Name)
	}
	f.VMs = nil
	if p := plan(t, disksTo("/srv/new"), f); p.Name != "web01" {
		t.Errorf("without its source it is called %s", p.Name)
	}
}

func TestChosenDisksAloneAreRestored(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*backstay.RestoreRequest, *Facts)
		want   []string
	}{
		"by target": {func(r *backstay.RestoreRequest, _ *Facts) { r.Disks = []backstay.DiskTarget{"vdb"} }, []string{"/srv/new/vdb.raw"}},
		"by format": {func(r *backstay.RestoreRequest, _ *Facts) { r.Disks, r.Format = []backstay.DiskTarget{"vdb"}, "qcow2" }, []string{"/srv/new/vdb.qcow2"}},
		"first":     {func(r *backstay.RestoreRequest, _ *Facts) { r.OSDisk = true }, []string{"/srv/new/vda.qcow2"}},
		"in boot order": {func(r *backstay.RestoreRequest, f *Facts) {
			r.OSDisk = true
			f.Point.Shape.Disks[0].Boot, f.Point.Shape.Disks[1].Boot = 2, 1
		}, []string{"/srv/new/vdb.raw"}},
		"behind a drive": {func(r *backstay.RestoreRequest, f *Facts) {
			r.OSDisk = true
			f.Point.Shape.Disks = append([]backstay.Disk{{Target: "sda", Device: "cdrom", Boot: 1}}, f.Point.Shape.Disks...)
		}, []string{"/srv/new/vda.qcow2"}},
		// A point from which the user left disks out allows this kind (a VM would lack them).
		"of a part": {func(_ *backstay.RestoreRequest, f *Facts) {
			f.Point.Disks[1].Included, f.Point.Disks[1].Excluded = false, true
		}, []string{"/srv/new/vda.qcow2"}},
	} {
		r, f := disksTo("/srv/new"), diskFacts()
		c.change(&r, &f)
		p := plan(t, r, f)
		if got := paths(p); !slices.Equal(got, c.want) || len(p.Refused()) > 0 {
			t.Errorf("%s: %v, refused %+v", name, got, p.Refused())
		}
	}
}

func TestADeviceTakesOneDiskThatFits(t *testing.T) {
	r := disksTo("/dev/vg/disk")
	r.Disks = []backstay.DiskTarget{"vda"}
	p := plan(t, r, diskFacts())
	if d := p.Disks[0]; len(p.Refused()) > 0 || !d.Device || d.Path != "/dev/vg/disk" || d.Format != "raw" || p.Folder != "/var/lib/libvirt/images/web01-20261122-103000" {
		t.Errorf("%+v in %s, refused %+v", d, p.Folder, p.Refused())
	}
}

// TestPreflightOfDisksRefuses goes over everything that would fail later.
func TestPreflightOfDisksRefuses(t *testing.T) {
	device := func(change func(*mover.PathInfo)) func(*backstay.RestoreRequest, *Facts) {
		return func(r *backstay.RestoreRequest, f *Facts) {
			r.To, r.Disks = "/dev/vg/disk", []backstay.DiskTarget{"vda"}
			set(f, "/dev/vg/disk", change)
		}
	}
	for name, c := range map[string]struct {
		change func(*backstay.RestoreRequest, *Facts)
		code   backstay.Code
	}{
		"no such pool":    {func(r *backstay.RestoreRequest, _ *Facts) { r.To = "slow" }, backstay.CodePoolMissing},
		"no such disk":    {func(r *backstay.RestoreRequest, _ *Facts) { r.Disks = []backstay.DiskTarget{"vdz"} }, backstay.CodeDiskUnknown},
		"disk left out":   {func(r *backstay.RestoreRequest, _ *Facts) { r.Disks = []backstay.DiskTarget{"sda"} }, backstay.CodeDiskUnknown},
		"os disk missing": {func(r *backstay.RestoreRequest, f *Facts) { r.OSDisk, f.Point.Disks[0].Included = true, false }, backstay.CodeDiskUnknown},
		"own folder taken": {func(r *backstay.RestoreRequest, f *Facts) {
			r.To = "/srv/used"
			set(f, "/srv/used/web01-20261122-103000", func(i *mover.PathInfo) { i.Exists = true })
		}, backstay.CodeFileExists},
		"no parent": {func(_ *backstay.RestoreRequest, f *Facts) {
			set(f, "/srv/new", func(i *mover.PathInfo) { i.Folder = false })
		}, backstay.CodeFolderMissing},
		"no such device": {func(r *backstay.RestoreRequest, f *Facts) {
			r.To, f.Paths["/dev/none"] = "/dev/none", mover.PathInfo{Path: "/dev/none"}
		}, backstay.CodeFolderMissing},
		"no room": {func(_ *backstay.RestoreRequest, f *Facts) {
			set(f, "/srv/new", func(i *mover.PathInfo) { i.Available = 3 << 30 })
		}, backstay.CodeNoSpace},
		"host away":        {func(_ *backstay.RestoreRequest, f *Facts) { f.Host.State = "unreachable" }, backstay.CodeNotConnected},
		"vault away":       {func(r *backstay.RestoreRequest, f *Facts) { r.Tier, f.VaultProblem = backstay.VaultTier, "gone" }, backstay.CodeVaultUnreadable},
		"device too small": {device(func(i *mover.PathInfo) { i.DeviceSize = 1 << 30 }), backstay.CodeDeviceUnfit},
		"device mounted":   {device(func(i *mover.PathInfo) { i.Busy = "mounted" }), backstay.CodeDeviceUnfit},
		"device of a VM":   {device(func(i *mover.PathInfo) { i.UsedBy = []string{"db"} }), backstay.CodeDiskInUse},
		"two for a device": {func(r *backstay.RestoreRequest, _ *Facts) { r.To = "/dev/vg/disk" }, backstay.CodeDeviceUnfit},
	} {
		r, f := disksTo("/srv/new"), diskFacts()
		c.change(&r, &f)
		p := plan(t, r, f)
		refused := p.Refused()
		if !slices.ContainsFunc(refused, func(k backstay.Check) bool { return k.Code == c.code && k.Action != "" }) {
			t.Errorf("%s: want %s, refused %+v", name, c.code, refused)
		}
	}
}

func TestARequestForDisksThatMakesNoSense(t *testing.T) {
	for name, change := range map[string]func(*backstay.RestoreRequest){
		"nowhere":      func(r *backstay.RestoreRequest) { r.To = "" },
		"dots":         func(r *backstay.RestoreRequest) { r.To = "/srv/../etc" },
		"relative":     func(r *backstay.RestoreRequest) { r.To = "../out" },
		"root":         func(r *backstay.RestoreRequest) { r.To = "/" },
		"control":      func(r *backstay.RestoreRequest) { r.To = "/srv/a\nb" },
		"format":       func(r *backstay.RestoreRequest) { r.Format = "vdi" },
		"both choices": func(r *backstay.RestoreRequest) { r.OSDisk, r.Disks = true, []backstay.DiskTarget{"vda"} },
		"a name":       func(r *backstay.RestoreRequest) { r.Name = "copy" },
	} {
		r := disksTo("/srv/new")
		change(&r)
		if _, err := NewPlan(r, diskFacts()); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// described is a folder that a VM can be made of on host east.
func described() backstay.Deployment {
	return backstay.Deployment{
		Folder: "/srv/new", Point: "P", Source: backstay.VMRef{Name: "web01", Host: "east"}, Start: true,
		Shape: backstay.VM{
			ID: "fresh-uuid", Name: "copy", Arch: "x86_64", Machine: "q35", Virt: "qemu", Firmware: backstay.BIOS, Agent: backstay.AgentDisconnected,
			Disks: []backstay.Disk{{Target: "vda", Source: "/srv/new/vda.qcow2", Format: "qcow2"}, {Target: "sda", Device: "cdrom"}},
			NICs:  []backstay.NIC{{MAC: "52:54:00:aa:bb:cc", Kind: "network", Network: "lab"}},
		},
	}
}

func deployFacts() Facts {
	f := facts()
	f.Point = backstay.RecoveryPoint{Shape: described().Shape}
	f.VMs = append(f.VMs, backstay.VM{ID: "far", Name: "web07", Host: "west", AntiAffinityGroup: "web"})
	return f
}

// TestPreflightOfADeployRefuses goes over everything that would fail later, or
// that the VM's placement forbids.
func TestPreflightOfADeployRefuses(t *testing.T) {
	if p := NewDeployPlan(backstay.DeployRequest{}, described(), deployFacts()); len(p.Refused()) > 0 || !p.Start || len(p.Disks) != 1 || p.Probe.Kind != backstay.ProbeAgent {
		t.Fatalf("%+v", p)
	}
	for name, c := range map[string]struct {
		change func(*backstay.Deployment, *Facts)
		code   backstay.Code
	}{
		"name taken":   {func(d *backstay.Deployment, _ *Facts) { d.Shape.Name = "web01" }, backstay.CodeNameTaken},
		"uuid taken":   {func(d *backstay.Deployment, _ *Facts) { d.Shape.ID = "far" }, backstay.CodeUUIDTaken},
		"mac in use":   {func(d *backstay.Deployment, _ *Facts) { d.Shape.NICs[0].MAC = "52:54:00:00:00:01" }, backstay.CodeMACInUse},
		"no network":   {func(d *backstay.Deployment, _ *Facts) { d.Shape.NICs[0].Network = "dmz" }, backstay.CodeNetworkMissing},
		"disk is gone": {func(d *backstay.Deployment, _ *Facts) { d.Problems = []string{"disk vda is not there"} }, backstay.CodeDiskChanged},
		"disk in use": {func(_ *backstay.Deployment, f *Facts) {
			f.Paths["/srv/new/vda.qcow2"] = mover.PathInfo{Exists: true, UsedBy: []string{"other"}}
		}, backstay.CodeDiskInUse},
		"no machine":  {func(_ *backstay.Deployment, f *Facts) { f.Point.Shape.Machine = "pc-q35-99" }, backstay.CodeMachineMissing},
		"no firmware": {func(d *backstay.Deployment, f *Facts) { d.Shape.Firmware, f.Host.Facts.UEFI = backstay.UEFI, false }, backstay.CodeFirmwareMissing},
		"no tpm":      {func(d *backstay.Deployment, f *Facts) { d.Shape.TPM, f.Host.Facts.TPM = true, false }, backstay.CodeTPMMissing},
		"same group": {func(d *backstay.Deployment, f *Facts) {
			d.AntiAffinityGroup, f.VMs[0].AntiAffinityGroup = "web", "web"
		}, backstay.CodeAntiAffinity},
		"host not meant": {func(d *backstay.Deployment, _ *Facts) { d.HostGroup = []backstay.HostName{"west", "north"} }, backstay.CodeHostGroup},
	} {
		d, f := described(), deployFacts()
		c.change(&d, &f)
		p := NewDeployPlan(backstay.DeployRequest{}, d, f)
		refused := p.Refused()
		if len(refused) != 1 || refused[0].Code != c.code || refused[0].Action == "" {
			t.Errorf("%s: want %s alone, refused %+v", name, c.code, refused)
		}
	}
}

// TestAGroupIsKeptApartOverAllHosts: one host has at most one VM of it; which have
// one already is said, and whoever insists gets two.
func TestAGroupIsKeptApartOverAllHosts(t *testing.T) {
	d, f := described(), deployFacts()
	d.AntiAffinityGroup = "web"
	p := NewDeployPlan(backstay.DeployRequest{}, d, f)
	said := slices.ContainsFunc(p.Preflight, func(c backstay.Check) bool { return c.OK && strings.Contains(c.Detail, "west/web07") })
	if len(p.Refused()) > 0 || !said {
		t.Errorf("with one on another host: %+v", p.Preflight)
	}
	f.VMs[0].AntiAffinityGroup = "web"
	if p := NewDeployPlan(backstay.DeployRequest{Force: true}, d, f); len(p.Refused()) > 0 {
		t.Errorf("forced: %+v", p.Refused())
	}
}

var diskCalls = []string{"end of plan", "stage", "middle of stage", "verify", "end of stage", "end of verify", "template", "end of template"}

// diskWorld is a host that restores disks.
func diskWorld(t *testing.T) (*world, backstay.RestoreParams) {
	w := newWorld(t)
	w.facts = diskFacts()
	must(t, w.catalog.Points.PutPoint(t.Context(), w.facts.Point))
	p, err := w.runner().Plan(t.Context(), disksTo("/srv/new"))
	must(t, err)
	must(t, p.Refusal())
	return w, backstay.RestoreParams{Request: disksTo("/srv/new"), Plan: p}
}

func TestKilledAnywhereDisksAreRestoredInALaterLife(t *testing.T) {
	for _, at := range diskCalls {
		w, params := diskWorld(t)
		w.endAt = at
		if err := w.live(params); err == nil {
			t.Fatalf("%s: the first life was not ended", at)
		}
		must(t, w.live(params))
		if !w.staged || w.defined || w.job.Result.Folder != "/srv/new" || len(w.job.Result.Files) == 0 || len(w.job.Result.Disks) != 2 {
			t.Errorf("%s: staged %v, defined %v, result %+v", at, w.staged, w.defined, w.job.Result)
		}
	}
}

func TestCancelledAnywhereDisksLeaveNothing(t *testing.T) {
	for _, at := range diskCalls {
		w, params := diskWorld(t)
		w.endAt, w.cause = at, backstay.ErrCancelled
		if err := w.live(params); err == nil {
			t.Fatalf("%s: it was not cancelled", at)
		}
		if w.staged || w.job.Result.Folder != "" {
			t.Errorf("%s: staged %v, result %+v", at, w.staged, w.job.Result)
		}
	}
}

// deployWorld is a host that makes a VM of restored disks.
type deployWorld struct{ *world }

func (w deployWorld) Describe(_ context.Context, r mover.DeployRequest) (backstay.Deployment, error) {
	d := described()
	d.Shape.Name = r.Set["name"]
	return d, nil
}

func (w deployWorld) Deploy(context.Context, mover.DeployRequest) error {
	if err := w.at("deploy"); err != nil {
		return err
	}
	w.defined = true
	return w.at("after deploy")
}

func (w deployWorld) Paths(_ context.Context, paths []string) ([]mover.PathInfo, error) {
	var infos []mover.PathInfo
	for _, p := range paths {
		infos = append(infos, mover.PathInfo{Path: p, Exists: true})
	}
	return infos, nil
}

func (w deployWorld) life(t *testing.T) error {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	w.end = cancel
	r := w.runner()
	r.Mover = func(backstay.HostName) (mover.Mover, error) { return w, nil }
	request := backstay.DeployRequest{Folder: "/srv/new", Set: map[string]string{"name": "copy"}}
	plan := NewDeployPlan(request, backstay.Deployment{Folder: "/srv/new", Start: true, Shape: described().Shape}, w.facts)
	return r.RunDeploy(ctx, w, backstay.DeployParams{Request: request, Plan: plan})
}

var deployCalls = []string{"end of plan", "deploy", "after deploy", "end of switch", "start", "after start", "end of start"}

func TestKilledAnywhereADeployGoesOnToAWholeVM(t *testing.T) {
	for _, at := range deployCalls {
		w := deployWorld{newWorld(t)}
		w.endAt = at
		if err := w.life(t); err == nil {
			t.Fatalf("%s: the first life was not ended", at)
		}
		must(t, w.life(t))
		if !w.defined || !w.running || w.job.Result.VM == nil || w.job.Result.Folder != "/srv/new" || w.job.Result.UndoUntil == nil {
			t.Errorf("%s: defined %v, running %v, result %+v", at, w.defined, w.running, w.job.Result)
		}
	}
}

func TestCancelledAnywhereADeployLeavesNothing(t *testing.T) {
	for _, at := range deployCalls {
		w := deployWorld{newWorld(t)}
		w.endAt, w.cause = at, backstay.ErrCancelled
		if err := w.life(t); err == nil {
			t.Fatalf("%s: it was not cancelled", at)
		}
		if w.defined || w.running || w.job.Result.VM != nil {
			t.Errorf("%s: defined %v, running %v, result %+v", at, w.defined, w.running, w.job.Result)
		}
	}
}
