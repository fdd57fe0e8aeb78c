package servertest

import (
	"context"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/server"
)

const gib = int64(1) << 30

func disk(target, reason string) backstay.Disk {
	return backstay.Disk{
		Target: backstay.DiskTarget(target), Device: "disk", Bus: "virtio",
		Source: "/var/lib/libvirt/images/" + target + ".qcow2", Format: "qcow2", Size: 10 * gib, Reason: reason,
	}
}

func vm(id backstay.VMID, host backstay.HostName, name string, disks ...backstay.Disk) backstay.VM {
	return backstay.VM{
		ID: id, Name: name, Host: host, State: backstay.VMRunning, Firmware: backstay.BIOS, Agent: backstay.AgentConnected,
		Arch: "x86_64", Machine: "pc-q35-7.2", Virt: "kvm", Emulator: "/usr/bin/qemu-system-x86_64", MemoryMiB: 1024, VCPUs: 2,
		Disks: disks, NICs: []backstay.NIC{{MAC: "52:54:00:00:00:01", Kind: "network", Network: "default", Model: "virtio"}},
	}
}

// furnish fills the catalogue with hosts, VMs, a vault, a policy and points.
func (w *World) furnish(ctx context.Context) error {
	c := w.Catalog
	cdrom := disk("sda", "a CD-ROM is not a disk")
	cdrom.Device = "cdrom"
	shared := vm(Shared, "local", "shared01", disk("vda", ""))
	shared.Reason = "it has libvirt snapshots with metadata"
	local := []backstay.VM{
		vm(Web, "local", "web01", disk("vda", ""), disk("vdb", ""), cdrom),
		vm(DB, "local", "db01", disk("vda", ""), disk("vdb", "a block device cannot be switched to an overlay")),
		vm(LUN, "local", "lun01", disk("vda", "a LUN is passed through to the guest")),
		shared,
		vm(MailA, "local", "mail", disk("vda", "")),
	}
	facts := backstay.HostFacts{
		Hypervisor: "libvirt 9.0.0, QEMU 7.2.22", Networks: []string{"default"}, UEFI: true, TPM: true, Accelerated: true,
		Pools: []backstay.Pool{{Name: "default", Path: "/var/lib/libvirt/images", Available: 100 * gib}},
	}
	steps := []error{
		c.Hosts.PutHost(ctx, backstay.Host{Name: "local", State: "connected", LastSeen: Now, Facts: facts}),
		c.Hosts.PutHost(ctx, backstay.Host{Name: "east", State: "unreachable", Reason: "the mover's socket refuses", LastSeen: Now.Add(-time.Hour)}),
		c.VMs.ReplaceVMs(ctx, "local", local),
		c.VMs.ReplaceVMs(ctx, "east", []backstay.VM{vm(MailB, "east", "mail", disk("vda", ""))}),
		c.Vaults.CreateVault(ctx, newVault("default", "file:///srv/a", "file:///srv/b", "file:///srv/c")),
		c.Policies.CreatePolicy(ctx, backstay.Policy{
			Name: "daily", Every: backstay.Duration(24 * time.Hour), Consistency: backstay.FileSystemConsistent,
			Snapshot: backstay.SnapshotKeep{Days: 2, Count: 5}, Vault: backstay.VaultKeep{Last: 7, Daily: 7, Weekly: 4},
		}),
		c.Items.PutItem(ctx, backstay.ProtectedItem{VM: local[0].Ref(), Policy: "daily", Vault: "default", Since: Now.Add(-24 * time.Hour)}),
	}
	for _, p := range w.points(local) {
		steps = append(steps, c.Points.PutPoint(ctx, p))
	}
	for i, role := range []backstay.Role{backstay.Reader, backstay.Operator, backstay.Owner} {
		secret, hash := server.NewTokenSecret()
		w.Tokens[role] = secret
		steps = append(steps, c.Tokens.PutToken(ctx, backstay.Token{ID: fmt.Sprintf("token-%d", i), Name: "the-" + string(role), Role: role, Files: true, Created: Now}, hash))
	}
	for i, err := range steps {
		if err != nil {
			return fmt.Errorf("furnish the world, step %d: %w", i, err)
		}
	}
	return nil
}

func (w *World) points(local []backstay.VM) []backstay.RecoveryPoint {
	sum := "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	point := func(id backstay.PointID, of backstay.VM, age time.Duration, tiers ...backstay.PointTier) backstay.RecoveryPoint {
		at := Now.Add(-age)
		expires := at.Add(7 * 24 * time.Hour)
		for i := range tiers {
			tiers[i].Since = at
		}
		return backstay.RecoveryPoint{
			ID: id, VM: of.Ref(), Vault: "default", Time: at, Consistency: backstay.FileSystemConsistent,
			ConsistencyReason: "the guest agent froze the file systems", Tiers: tiers, Firmware: backstay.BIOS, Expires: &expires, Shape: of,
			Disks: []backstay.PointDisk{
				{Target: "vda", Size: 10 * gib, Format: "qcow2", Included: true, ChangedBytes: 64 << 20, StoredBytes: 21 << 20, SHA256: &sum},
				{Target: "vdb", Size: 10 * gib, Format: "qcow2", Included: true, ChangedBytes: 1 << 20, StoredBytes: 1 << 19},
			},
		}
	}
	tier := func(t backstay.Tier, s backstay.TierState) backstay.PointTier {
		return backstay.PointTier{Tier: t, State: s}
	}
	pinned := point(PointPinned, local[1], 3*time.Hour, tier(backstay.VaultTier, backstay.TierAvailable))
	pinned.Pinned = true
	return []backstay.RecoveryPoint{
		point(PointBoth, local[0], 2*time.Hour, tier(backstay.SnapshotTier, backstay.TierAvailable), tier(backstay.VaultTier, backstay.TierAvailable)),
		point(PointSnapshot, local[0], time.Hour, tier(backstay.SnapshotTier, backstay.TierAvailable), tier(backstay.VaultTier, backstay.TierCreating)),
		point(PointMaking, local[0], time.Minute, tier(backstay.SnapshotTier, backstay.TierCreating)),
		point(PointGone, vm(Gone, "local", "gone", disk("vda", "")), 48*time.Hour, tier(backstay.VaultTier, backstay.TierAvailable)),
		pinned,
	}
}

func newVault(name backstay.VaultName, units ...string) backstay.Vault {
	checked := Now.Add(-time.Minute)
	v := backstay.Vault{
		Name: name, ID: "88888888-8888-4888-8888-888888888888", Redundancy: backstay.LRS, Created: Now,
		Copies: len(units), FailureDomains: 1, Checked: &checked, Note: "all copies are on one device",
	}
	for _, u := range units {
		v.Units = append(v.Units, backstay.StorageUnit{URL: u, Device: "8:1", State: "ok"})
	}
	return v
}
