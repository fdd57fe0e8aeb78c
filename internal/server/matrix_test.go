package server

import (
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

// TestTheMatrixSaysOfEachKindWhetherAPointAllowsItAndWhyNot goes over what decides it.
func TestTheMatrixSaysOfEachKindWhetherAPointAllowsItAndWhyNot(t *testing.T) {
	shape := backstay.VM{ID: "U", Name: "web01", Host: "east", Arch: "x86_64", Machine: "pc-q35-7.2", Virt: "kvm"}
	for name, c := range map[string]struct {
		change func(*backstay.RecoveryPoint, *matrix)
		// Of each kind: "" for allowed, else what the reason must say.
		create, live, replace, disks string
	}{
		"whole, in both tiers": {func(*backstay.RecoveryPoint, *matrix) {}, "", "", "", ""},
		"only in the snapshot tier": {func(p *backstay.RecoveryPoint, _ *matrix) { p.DropTier(backstay.VaultTier) },
			"", "not in its vault", "", ""},
		"damaged in the vault, whole beside the disk": {func(p *backstay.RecoveryPoint, _ *matrix) { p.Damage = "pack 3f is damaged" }, "", "pack 3f", "", ""},
		"damaged in the vault alone": {func(p *backstay.RecoveryPoint, _ *matrix) {
			p.Damage = "pack 3f is damaged"
			p.DropTier(backstay.SnapshotTier)
		}, "pack 3f", "pack 3f", "pack 3f", "pack 3f"},
		"nowhere":               {func(p *backstay.RecoveryPoint, _ *matrix) { p.Tiers = nil }, "in no tier", "in no tier", "in no tier", "in no tier"},
		"encrypted on the host": {func(p *backstay.RecoveryPoint, _ *matrix) { p.Encrypted.Host = true }, "", "in the clear", "", ""},
		"the VM is gone": {func(_ *backstay.RecoveryPoint, m *matrix) { delete(m.vms, "U") },
			"", "", "backstay restore create-vm P --name web01", ""},
		"the user left a disk out": {func(p *backstay.RecoveryPoint, _ *matrix) {
			p.Disks = append(p.Disks, backstay.PointDisk{Target: "vdc", Excluded: true})
		}, "--partial", "vdc", "vdc", ""},
		"on a host that fits": {func(_ *backstay.RecoveryPoint, m *matrix) { m.on = host() }, "", "", "on host east", ""},
		"encrypted, in the snapshot tier of another host": {func(p *backstay.RecoveryPoint, m *matrix) {
			p.Encrypted.Host = true
			p.DropTier(backstay.VaultTier)
			m.on = host()
		}, "not streamed", "in the clear", "not streamed", "not streamed"},
		"in the snapshot tier of another host": {func(p *backstay.RecoveryPoint, m *matrix) { p.DropTier(backstay.VaultTier); m.on = host() }, "", "not in its vault", "on host east", ""},
		"on its own host":                      {func(_ *backstay.RecoveryPoint, m *matrix) { m.on = host(); m.on.Name = "east" }, "", "", "", ""},
		"on a host that cannot be reached":     {func(_ *backstay.RecoveryPoint, m *matrix) { m.on = host(); m.on.State = "unreachable" }, "cannot be reached", "cannot be reached", "cannot be reached", "cannot be reached"},
		"on a host without KVM":                {func(_ *backstay.RecoveryPoint, m *matrix) { m.on = host(); m.on.Facts.Accelerated = false }, "KVM", "KVM", "on host east", ""},
		"on a host without the machine":        {func(_ *backstay.RecoveryPoint, m *matrix) { m.on = host(); m.on.Facts.Emulators[0].Machines = nil }, "--machine", "machine", "on host east", ""},
		"on a host without the emulator":       {func(_ *backstay.RecoveryPoint, m *matrix) { m.on = host(); m.on.Facts.Emulators = nil }, "no emulator", "no emulator", "on host east", ""},
		"UEFI on a host without firmware":      {func(p *backstay.RecoveryPoint, m *matrix) { p.Firmware = backstay.UEFI; m.on = host() }, "UEFI", "UEFI", "on host east", ""},
		"a TPM on a host without emulation":    {func(p *backstay.RecoveryPoint, m *matrix) { p.TPM = true; m.on = host() }, "TPM", "TPM", "on host east", ""},
	} {
		p := backstay.RecoveryPoint{ID: "P", VM: backstay.VMRef{Name: "web01", UUID: "U", Host: "east"}, Shape: shape}
		p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, time.Time{})
		p.SetTier(backstay.VaultTier, backstay.TierAvailable, time.Time{})
		off := shape
		off.State = backstay.VMShutOff
		m := matrix{vms: map[backstay.VMID]backstay.VM{"U": off}}
		c.change(&p, &m)
		r := m.of(p)
		for kind, is := range map[string]struct {
			got  backstay.Allowed
			want string
		}{"create-vm": {r.CreateVM, c.create}, "live": {r.Live, c.live}, "replace-disks": {r.ReplaceDisks, c.replace}, "disks": {r.Disks, c.disks}} {
			if is.got.Allowed != (is.want == "") || !strings.Contains(is.got.Reason, is.want) {
				t.Errorf("%s: %s: %+v, want %q", name, kind, is.got, is.want)
			}
		}
		if r.Files.Allowed || r.Files.Reason == "" {
			t.Errorf("%s: files: %+v", name, r.Files)
		}
	}
}

func host() *backstay.Host {
	return &backstay.Host{Name: "west", State: "connected", Facts: backstay.HostFacts{
		Emulators: []backstay.Emulator{{Arch: "x86_64", Machines: []string{"pc-q35-7.2"}}}, Accelerated: true,
	}}
}
