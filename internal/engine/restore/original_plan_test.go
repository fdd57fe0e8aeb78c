package restore

import (
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// replaceFacts are those of a VM whose disks nothing keeps from being replaced.
func replaceFacts() Facts {
	f := facts()
	f.VMs[0].State = backstay.VMShutOff
	f.Source = &mover.SourceState{State: backstay.VMShutOff, Persistent: true}
	f.Item = &backstay.ProtectedItem{VM: f.Point.VM, Policy: "daily", Vault: "default"}
	f.SafetyPoint = "SAFE"
	clear(f.Paths)
	for _, p := range []string{"/images/web01.qcow2", "/data/web01-data.raw"} {
		f.Paths[p] = mover.PathInfo{Path: p, Folder: true, Exists: true, Available: 100 << 30, Device: p}
	}
	return f
}

func replaceRequest() backstay.RestoreRequest {
	return backstay.RestoreRequest{Kind: backstay.ReplaceDisks, Point: "P"}
}

// TestReplacingDisksIsRefusedBeforeAnythingIsTouched goes over what stands in the
// way of a replace-disks, each with its code and a way out.
func TestReplacingDisksIsRefusedBeforeAnythingIsTouched(t *testing.T) {
	if p := plan(t, replaceRequest(), replaceFacts()); p.Refusal() != nil {
		t.Fatalf("refused: %+v", p.Refused())
	}
	for name, c := range map[string]struct {
		change func(*backstay.RestoreRequest, *Facts)
		code   backstay.Code
		out    string // of the way out
	}{
		"the VM is gone":           {func(_ *backstay.RestoreRequest, f *Facts) { f.VMs = nil }, backstay.CodeVMMissing, "create-vm"},
		"the VM is elsewhere":      {func(_ *backstay.RestoreRequest, f *Facts) { f.VMs[0].Host = "west" }, backstay.CodeVMMissing, "--host west"},
		"the VM runs":              {func(_ *backstay.RestoreRequest, f *Facts) { f.Source.State = backstay.VMRunning }, backstay.CodeNotShutOff, "--stop"},
		"the VM is paused":         {func(_ *backstay.RestoreRequest, f *Facts) { f.Source.State = backstay.VMPaused }, backstay.CodeNotShutOff, "--stop"},
		"its memory is saved":      {func(_ *backstay.RestoreRequest, f *Facts) { f.Source.Saved = true }, backstay.CodeSavedMemory, "--discard-saved"},
		"it has snapshots":         {func(_ *backstay.RestoreRequest, f *Facts) { f.Source.Snapshots = []string{"s1"} }, backstay.CodeVMHeld, "virsh snapshot-delete"},
		"a disk is copied":         {func(_ *backstay.RestoreRequest, f *Facts) { f.Source.Copying = []string{"/x"} }, backstay.CodeVMHeld, "virsh blockjob"},
		"it is transient":          {func(_ *backstay.RestoreRequest, f *Facts) { f.Source.Persistent = false }, backstay.CodeVMHeld, "create-vm"},
		"it is not protected":      {func(_ *backstay.RestoreRequest, f *Facts) { f.Item = nil }, backstay.CodeNotProtected, "--no-safety-point"},
		"the user left a disk out": {func(_ *backstay.RestoreRequest, f *Facts) { f.Point.Disks[2].Excluded = true }, backstay.CodePartial, "--disk"},
		"the folder is gone": {func(_ *backstay.RestoreRequest, f *Facts) {
			set(f, "/images/web01.qcow2", func(i *mover.PathInfo) { i.Folder = false })
		}, backstay.CodeFolderMissing, "folder"},
		"no room": {func(r *backstay.RestoreRequest, f *Facts) {
			r.Tier = backstay.VaultTier
			set(f, "/data/web01-data.raw", func(i *mover.PathInfo) { i.Available = 1 << 20 })
		}, backstay.CodeNoSpace, "free"},
		"whole disks of a point that is in no vault": {func(r *backstay.RestoreRequest, f *Facts) {
			r.Full = true
			f.Point.DropTier(backstay.VaultTier)
		}, backstay.CodeTierMissing, "--full"},
		"the vault is away": {func(r *backstay.RestoreRequest, f *Facts) { r.Tier = backstay.VaultTier; f.VaultProblem = "gone" }, backstay.CodeVaultUnreadable, "vault show"},
		"the host is away":  {func(_ *backstay.RestoreRequest, f *Facts) { f.Host.State = "unreachable" }, backstay.CodeNotConnected, "mover"},
		"not in the tier": {func(r *backstay.RestoreRequest, f *Facts) {
			r.Tier = backstay.SnapshotTier
			f.Point.DropTier(backstay.SnapshotTier)
		}, backstay.CodeTierMissing, "--tier"},
	} {
		t.Run(name, func(t *testing.T) {
			r, f := replaceRequest(), replaceFacts()
			c.change(&r, &f)
			p := plan(t, r, f)
			if !slices.ContainsFunc(p.Refused(), func(k backstay.Check) bool { return k.Code == c.code && strings.Contains(k.Action, c.out) }) {
				t.Errorf("want %s with a way out by %q; refused: %+v", c.code, c.out, p.Refused())
			}
		})
	}
	r := replaceRequest()
	r.Full = true
	if p := plan(t, r, replaceFacts()); p.Tier != backstay.VaultTier {
		t.Errorf("whole disks are read from the %s tier", p.Tier)
	}
	r.Tier = backstay.SnapshotTier
	if _, err := NewPlan(r, replaceFacts()); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("whole disks from the snapshot tier: %v", err)
	}
	r = replaceRequest()
	r.Disks = []backstay.DiskTarget{"vdz"}
	if _, err := NewPlan(r, replaceFacts()); !backstay.IsCode(err, backstay.CodeDiskUnknown) {
		t.Errorf("a disk that the point does not have: %v", err)
	}
}
