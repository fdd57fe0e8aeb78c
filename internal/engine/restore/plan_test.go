package restore

import (
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// facts are those of a restore that nothing stands in the way of.
func facts() Facts {
	shape := backstay.VM{
		ID: "source-uuid", Name: "web01", Host: "east", Arch: "x86_64", Machine: "pc-q35-7.2", Virt: "qemu", Agent: backstay.AgentConnected,
		Disks: []backstay.Disk{{Target: "vda", Source: "/images/web01.qcow2"}, {Target: "vdb", Source: "/data/web01-data.raw"}},
		NICs:  []backstay.NIC{{MAC: "52:54:00:00:00:01", Kind: "network", Network: "default"}},
	}
	point := backstay.RecoveryPoint{
		ID: "P", VM: backstay.VMRef{Name: "web01", UUID: "source-uuid", Host: "east"}, Vault: "default", Firmware: backstay.BIOS, Shape: shape,
		Disks: []backstay.PointDisk{
			{Target: "vda", Size: 10 << 30, Format: "qcow2", Included: true, DataBytes: 1 << 30},
			{Target: "vdb", Size: 1 << 40, Format: "raw", Included: true, DataBytes: 2 << 30},
			{Target: "sda", Included: false},
		},
	}
	point.SetTier(backstay.SnapshotTier, backstay.TierAvailable, time.Time{})
	point.SetTier(backstay.VaultTier, backstay.TierAvailable, time.Time{})
	f := Facts{
		Point: point, UUID: "fresh-uuid", MACs: []string{"52:54:00:aa:bb:cc"}, VMs: []backstay.VM{shape}, Paths: map[string]mover.PathInfo{},
		Host: backstay.Host{Name: "east", State: "connected", Facts: backstay.HostFacts{
			Emulators: []backstay.Emulator{{Arch: "x86_64", Machines: []string{"q35", "pc-q35-7.2"}}},
			Networks:  []string{"default", "lab"}, Pools: []backstay.Pool{{Name: "default", Path: "/var/lib/libvirt/images"}, {Name: "fast", Path: "/fast"}}, UEFI: true, TPM: true,
		}},
	}
	for _, folder := range []string{"/images/", "/data/", "/fast/", "/var/lib/libvirt/images/"} {
		for _, d := range []string{"vda", "vdb"} {
			for _, format := range []string{"raw", "qcow2"} {
				path := folder + "copy-" + d + "." + format
				f.Paths[path] = mover.PathInfo{Path: path, Folder: true, Available: 100 << 30, Device: folder}
			}
		}
	}
	return f
}

func request() backstay.RestoreRequest {
	return backstay.RestoreRequest{Kind: backstay.CreateVM, Point: "P", Name: "copy"}
}

func plan(t *testing.T, r backstay.RestoreRequest, f Facts) backstay.RestorePlan {
	t.Helper()
	p, err := NewPlan(r, f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestACopyHasItsOwnIdentityAndPaths(t *testing.T) {
	p := plan(t, request(), facts())
	if len(p.Refused()) > 0 {
		t.Fatalf("refused: %+v", p.Refused())
	}
	if p.UUID != "fresh-uuid" || p.NICs[0].MAC != "52:54:00:aa:bb:cc" || p.Tier != backstay.SnapshotTier {
		t.Errorf("plan %+v", p)
	}
	if len(p.Disks) != 2 || p.Disks[0].Path != "/images/copy-vda.qcow2" || p.Disks[1].Path != "/data/copy-vdb.qcow2" {
		t.Errorf("disks %+v: overlays beside the source disks are wanted", p.Disks)
	}
	if p.Bytes != 0 {
		t.Errorf("an instant restore would write %d bytes", p.Bytes)
	}
}

func TestFromTheVaultDisksKeepTheirFormatAndOnlyDataIsWritten(t *testing.T) {
	r := request()
	r.Tier = backstay.VaultTier
	p := plan(t, r, facts())
	if p.Disks[1].Path != "/data/copy-vdb.raw" || p.Disks[1].Format != "raw" || p.Bytes != 3<<30 {
		t.Errorf("plan %+v", p)
	}
	if len(p.Refused()) > 0 {
		t.Errorf("a sparse 1 TiB disk with 2 GiB of data is refused: %+v", p.Refused())
	}
}

// TestPreflightRefuses goes over everything that would fail later.
func TestPreflightRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*backstay.RestoreRequest, *Facts)
		check  string
		code   backstay.Code
		says   string
	}{
		"name taken":        {func(r *backstay.RestoreRequest, f *Facts) { f.VMs[0].Name = "copy" }, "name", backstay.CodeNameTaken, "exists on host east"},
		"uuid taken":        {func(r *backstay.RestoreRequest, f *Facts) { r.KeepUUID = true }, "uuid", backstay.CodeUUIDTaken, "belongs to east/web01"},
		"mac in use":        {func(r *backstay.RestoreRequest, f *Facts) { r.KeepMAC = true }, "mac", backstay.CodeMACInUse, "used by east/web01"},
		"mac in other case": {func(r *backstay.RestoreRequest, f *Facts) { f.VMs[0].NICs[0].MAC = "52:54:00:AA:BB:CC" }, "mac", backstay.CodeMACInUse, "used by"},
		"disk exists": {func(r *backstay.RestoreRequest, f *Facts) {
			set(f, "/images/copy-vda.qcow2", func(i *mover.PathInfo) { i.Exists = true })
		}, "disk", backstay.CodeFileExists, "exists already"},
		"disk of another VM": {func(r *backstay.RestoreRequest, f *Facts) {
			set(f, "/images/copy-vda.qcow2", func(i *mover.PathInfo) { i.UsedBy = []string{"db"} })
		}, "disk", backstay.CodeDiskInUse, "is a disk of db"},
		"no folder": {func(r *backstay.RestoreRequest, f *Facts) {
			set(f, "/images/copy-vda.qcow2", func(i *mover.PathInfo) { i.Folder = false })
		}, "disk", backstay.CodeFolderMissing, "does not exist"},
		"no room": {func(r *backstay.RestoreRequest, f *Facts) {
			r.Tier = backstay.VaultTier
			set(f, "/data/copy-vdb.raw", func(i *mover.PathInfo) { i.Available = 1 << 30 })
		}, "room", backstay.CodeNoSpace, "needed"},
		"missing network":       {func(r *backstay.RestoreRequest, f *Facts) { f.Host.Facts.Networks = nil }, "network", backstay.CodeNetworkMissing, "--network default=NEW"},
		"mapped to nothing":     {func(r *backstay.RestoreRequest, f *Facts) { r.Networks = map[string]string{"default": "dmz"} }, "network", backstay.CodeNetworkMissing, "no active network dmz"},
		"mapping of a stranger": {func(r *backstay.RestoreRequest, f *Facts) { r.Networks = map[string]string{"other": "lab"} }, "network", backstay.CodeNetworkUnknown, "no network other"},
		"missing pool":          {func(r *backstay.RestoreRequest, f *Facts) { r.Pool = "slow" }, "pool", backstay.CodePoolMissing, "no active pool slow"},
		"missing firmware": {func(r *backstay.RestoreRequest, f *Facts) {
			f.Point.Firmware = backstay.UEFI
			f.Host.Facts.UEFI = false
		}, "firmware", backstay.CodeFirmwareMissing, "ovmf"},
		"missing machine type": {func(r *backstay.RestoreRequest, f *Facts) { f.Point.Shape.Machine = "pc-q35-99" }, "machine", backstay.CodeMachineMissing, "no machine type"},
		"missing emulator":     {func(r *backstay.RestoreRequest, f *Facts) { f.Point.Shape.Arch = "aarch64" }, "machine", backstay.CodeEmulatorMissing, "no emulator"},
		"missing kvm":          {func(r *backstay.RestoreRequest, f *Facts) { f.Point.Shape.Virt = "kvm" }, "machine", backstay.CodeKVMMissing, "KVM"},
		"missing tpm":          {func(r *backstay.RestoreRequest, f *Facts) { f.Point.TPM = true; f.Host.Facts.TPM = false }, "tpm", backstay.CodeTPMMissing, "swtpm"},
		"vault away":           {func(r *backstay.RestoreRequest, f *Facts) { r.Tier = backstay.VaultTier; f.VaultProblem = "gone" }, "tier", backstay.CodeVaultUnreadable, "gone"},
		"not in the tier": {func(r *backstay.RestoreRequest, f *Facts) {
			r.Tier = backstay.SnapshotTier
			f.Point.DropTier(backstay.SnapshotTier)
		}, "tier", backstay.CodeTierMissing, "not in the snapshot tier"},
		"snapshot elsewhere, whose host is away": {func(r *backstay.RestoreRequest, f *Facts) {
			r.Tier, f.Host.Name, f.SourceProblem = backstay.SnapshotTier, "west", "it does not answer"
		}, "tier", backstay.CodeNotConnected, "host east"},
		"encrypted snapshot elsewhere": {func(r *backstay.RestoreRequest, f *Facts) {
			r.Tier, f.Host.Name, f.Point.Encrypted.Host = backstay.SnapshotTier, "west", true
		}, "tier", backstay.CodeEncrypted, "not streamed"},
		"host away": {func(r *backstay.RestoreRequest, f *Facts) { f.Host.State = "unreachable" }, "host", backstay.CodeNotConnected, "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			r, f := request(), facts()
			c.change(&r, &f)
			p := plan(t, r, f)
			refused := p.Refused()
			found := slices.ContainsFunc(refused, func(k backstay.Check) bool {
				return k.Name == c.check && k.Code == c.code && k.Action != "" && strings.Contains(k.Detail+k.Action, c.says)
			})
			if !found {
				t.Errorf("want the check %q to refuse with %s and say %q; refused: %+v", c.check, c.code, c.says, refused)
			}
			// One reason is the error itself; several are listed with their codes.
			e := backstay.AsError(p.Refusal())
			if len(refused) == 1 && e.Code != c.code || len(refused) > 1 && !strings.Contains(e.Cause, string(c.code)) || e.Kind != backstay.KindRefused {
				t.Errorf("error %+v", e)
			}
		})
	}
}

func set(f *Facts, path string, change func(*mover.PathInfo)) {
	info := f.Paths[path]
	change(&info)
	f.Paths[path] = info
}

func TestNetworksAreMappedAndIsolationCutsEveryLink(t *testing.T) {
	r := request()
	r.Networks, r.Isolated = map[string]string{"default": "lab"}, true
	p := plan(t, r, facts())
	if p.NICs[0].Network != "lab" || !p.NICs[0].LinkDown {
		t.Errorf("nic %+v", p.NICs[0])
	}
}

func TestOnAnotherHostTheVaultIsReadAndAPoolIsChosen(t *testing.T) {
	f := facts()
	f.Host.Name = "west"
	p := plan(t, request(), f)
	if p.Tier != backstay.VaultTier || p.Disks[0].Path != "/var/lib/libvirt/images/copy-vda.qcow2" || len(p.Refused()) > 0 {
		t.Errorf("plan %+v", p)
	}
}

func TestARequestThatMakesNoSenseIsAUsageError(t *testing.T) {
	for _, r := range []backstay.RestoreRequest{
		{}, {Name: "a/b"}, {Name: ".hidden"}, {Name: "x", Tier: "cold"}, {Name: "x", Probe: backstay.Probe{Kind: backstay.ProbePort}},
	} {
		if _, err := NewPlan(r, facts()); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestWithoutAnAgentStartedIsEnough(t *testing.T) {
	f := facts()
	f.Point.Shape.Agent = backstay.AgentNone
	if p := plan(t, request(), f); p.Probe.Kind != backstay.ProbeNone {
		t.Errorf("waits for %s", p.Probe.Kind)
	}
}

func TestWhatCouldOnlyFailLaterIsRefusedAtOnce(t *testing.T) {
	for what, change := range map[string]func(*backstay.RestoreRequest){
		"a line break in the name":      func(r *backstay.RestoreRequest) { r.Name = "a\nb" },
		"an escape in the name":         func(r *backstay.RestoreRequest) { r.Name = "a\x1b[31m" },
		"a name too long for a file":    func(r *backstay.RestoreRequest) { r.Name = strings.Repeat("x", 201) },
		"a name that leaves the folder": func(r *backstay.RestoreRequest) { r.Name = "../x" },
		"an address without a port":     func(r *backstay.RestoreRequest) { r.Probe = backstay.Probe{Kind: backstay.ProbePort, Text: "10.0.0.1"} },
		"a port that is none": func(r *backstay.RestoreRequest) {
			r.Probe = backstay.Probe{Kind: backstay.ProbePort, Text: "10.0.0.1:99999"}
		},
		"a console without a text":         func(r *backstay.RestoreRequest) { r.Probe = backstay.Probe{Kind: backstay.ProbeConsole} },
		"a wait of more than a day":        func(r *backstay.RestoreRequest) { r.Probe.Timeout = backstay.Duration(25 * time.Hour) },
		"a wait that ends before it began": func(r *backstay.RestoreRequest) { r.Probe.Timeout = -1 },
	} {
		r := request()
		change(&r)
		if _, err := NewPlan(r, facts()); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%s: %v", what, err)
		} else if e := backstay.AsError(err); e.Cause == "" || e.Action == "" {
			t.Errorf("%s: no cause or no action: %+v", what, e)
		}
	}
	r := request()
	r.Probe = backstay.Probe{Kind: backstay.ProbePort, Text: "[fd00::1]:22", Timeout: backstay.Duration(time.Hour)}
	if _, err := NewPlan(r, facts()); err != nil {
		t.Error(err)
	}
}

func TestAMissingPoolIsSaidOnceAndNothingOfItsFolder(t *testing.T) {
	r := request()
	r.Pool = "slow"
	p := plan(t, r, facts())
	refused := p.Refused()
	if len(refused) != 1 || refused[0].Name != "pool" {
		t.Errorf("refused: %+v", refused)
	}
}
