package restore

import (
	"fmt"
	"path"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
)

func ok(name, format string, args ...any) backstay.Check {
	return backstay.Check{Name: name, OK: true, Detail: fmt.Sprintf(format, args...)}
}

func refuse(name, format string, args ...any) backstay.Check {
	return backstay.Check{Name: name, Detail: fmt.Sprintf(format, args...)}
}

func checkTier(f Facts, plan backstay.RestorePlan) backstay.Check {
	switch {
	case !f.Point.Has(plan.Tier):
		return refuse("tier", "the point is not in the %s tier, or cannot be read there any more", plan.Tier)
	case plan.Tier == backstay.SnapshotTier && f.Host.Name != f.Point.VM.Host:
		return refuse("tier", "the snapshot tier of this point is on host %s; restore there, or from the vault tier", f.Point.VM.Host)
	case plan.Tier == backstay.VaultTier && f.VaultProblem != "":
		return refuse("tier", "vault %s cannot be read: %s", plan.Vault, f.VaultProblem)
	case len(plan.Disks) == 0:
		return refuse("tier", "the point holds no disk")
	case f.Point.Encrypted.Host:
		return refuse("tier", "%s", backstay.EncryptedRestore)
	case plan.Tier == backstay.VaultTier && f.VaultWarning != "":
		return ok("tier", "read from the %s tier; warning: %s", plan.Tier, f.VaultWarning)
	}
	return ok("tier", "read from the %s tier", plan.Tier)
}

// checkWhole keeps anybody from taking a VM for whole that lacks the disks which
// the user left out of its points. What could not be backed up is no such disk:
// it was never the point's, and each backup said so.
func checkWhole(r backstay.RestoreRequest, f Facts) backstay.Check {
	var out []string
	for _, target := range f.Point.LeftOut() {
		out = append(out, string(target))
	}
	switch {
	case len(out) == 0:
		return ok("whole", "the user left out no disk")
	case r.Partial:
		return ok("whole", "the new VM will lack %s, which the user left out, as asked for", strings.Join(out, ", "))
	}
	return refuse("whole", "the user left out %s, and the new VM would lack it; say --partial to make it all the same", strings.Join(out, ", "))
}

func checkHost(f Facts) backstay.Check {
	if f.Host.State != "connected" {
		return refuse("host", "host %s cannot be reached: %s", f.Host.Name, f.Host.Reason)
	}
	return ok("host", "%s is connected", f.Host.Name)
}

func checkName(f Facts, plan backstay.RestorePlan) backstay.Check {
	for _, vm := range f.VMs {
		if vm.Host == plan.Host && vm.Name == plan.Name {
			return refuse("name", "a VM named %s exists on host %s; choose another --name", plan.Name, plan.Host)
		}
	}
	return ok("name", "%s is free on host %s", plan.Name, plan.Host)
}

func checkUUID(f Facts, plan backstay.RestorePlan) backstay.Check {
	for _, vm := range f.VMs {
		if vm.ID == plan.UUID {
			return refuse("uuid", "UUID %s belongs to %s/%s; leave out --keep-uuid", plan.UUID, vm.Host, vm.Name)
		}
	}
	return ok("uuid", "%s", plan.UUID)
}

// checkMACs finds what libvirt accepts silently: one address in two VMs.
func checkMACs(r backstay.RestoreRequest, f Facts, plan backstay.RestorePlan) backstay.Check {
	for _, nic := range plan.NICs {
		for _, vm := range f.VMs {
			clash := slices.ContainsFunc(vm.NICs, func(n backstay.NIC) bool { return strings.EqualFold(n.MAC, nic.MAC) })
			if clash && nic.MAC != "" {
				return refuse("mac", "MAC address %s is used by %s/%s; leave out --keep-mac", nic.MAC, vm.Host, vm.Name)
			}
		}
	}
	if r.KeepMAC {
		return ok("mac", "the addresses of the source are kept, and nobody uses them")
	}
	return ok("mac", "%d fresh addresses", len(plan.NICs))
}

func checkNetworks(r backstay.RestoreRequest, f Facts, plan backstay.RestorePlan) []backstay.Check {
	var checks []backstay.Check
	for _, from := range unmapped(r, f.Point) {
		checks = append(checks, refuse("network", "the point has no network %s to map", from))
	}
	for _, nic := range plan.NICs {
		known := f.Host.Facts.Networks
		if nic.Kind == "bridge" {
			known = f.Host.Facts.Bridges
		}
		if nic.Kind != "network" && nic.Kind != "bridge" {
			continue
		}
		if slices.Contains(known, nic.Network) {
			checks = append(checks, ok("network", "%s %s", nic.Kind, nic.Network))
			continue
		}
		checks = append(checks, refuse("network", "host %s has no active %s %s; map it with --network %s=NEW (there is: %s)",
			plan.Host, nic.Kind, nic.Network, nic.Network, listOrNone(known)))
	}
	return checks
}

func checkPool(r backstay.RestoreRequest, f Facts) backstay.Check {
	if r.Pool == "" || strings.HasPrefix(r.Pool, "/") {
		if to := firstFolder(r, f); to != nowhere {
			return ok("pool", "disks go to %s", to)
		}
		return refuse("pool", "host %s has no pool; give --pool with a folder", f.Host.Name)
	}
	var names []string
	for _, p := range f.Host.Facts.Pools {
		if p.Name == r.Pool {
			return ok("pool", "%s at %s", p.Name, p.Path)
		}
		names = append(names, p.Name)
	}
	return refuse("pool", "host %s has no active pool %s (there is: %s)", f.Host.Name, r.Pool, listOrNone(names))
}

func firstFolder(r backstay.RestoreRequest, f Facts) string {
	disks := plannedDisks(r, f.Point, f.Host)
	if len(disks) == 0 {
		return "nowhere"
	}
	return path.Dir(disks[0].Path)
}

func checkDisks(f Facts, plan backstay.RestorePlan) []backstay.Check {
	var checks []backstay.Check
	for _, d := range plan.Disks {
		info, known := f.Paths[d.Path]
		switch {
		case !known:
			checks = append(checks, refuse("disk", "host %s did not say whether %s is free", plan.Host, d.Path))
		case len(info.UsedBy) > 0:
			checks = append(checks, refuse("disk", "%s is a disk of %s", d.Path, strings.Join(info.UsedBy, ", ")))
		case info.Exists:
			checks = append(checks, refuse("disk", "%s exists already; move it away or choose another --name or --pool", d.Path))
		case !info.Folder:
			checks = append(checks, refuse("disk", "the folder %s does not exist on host %s", path.Dir(d.Path), plan.Host))
		default:
			checks = append(checks, ok("disk", "%s → %s", d.Target, d.Path))
		}
	}
	return checks
}

// checkRoom adds up what goes to each file system.
func checkRoom(f Facts, plan backstay.RestorePlan) backstay.Check {
	need, free := map[string]int64{}, map[string]int64{}
	for _, d := range plan.Disks {
		info := f.Paths[d.Path]
		free[info.Device] = info.Available
		need[info.Device] += roomFor(f, plan, d)
	}
	for device, n := range need {
		if n+margin > free[device] {
			return refuse("room", "%s needed with a reserve of %s, %s left in %s", size(n), size(margin), size(free[device]), path.Dir(plan.Disks[0].Path))
		}
	}
	return ok("room", "at most %s will be written", size(plan.Bytes))
}

func roomFor(f Facts, plan backstay.RestorePlan, d backstay.PlannedDisk) int64 {
	if plan.Tier == backstay.SnapshotTier {
		return overlayRoom
	}
	for _, p := range f.Point.Disks {
		if p.Target == d.Target && p.DataBytes > 0 {
			return p.DataBytes
		}
	}
	return d.Size
}

func checkMachine(f Facts) backstay.Check {
	shape := f.Point.Shape
	for _, e := range f.Host.Facts.Emulators {
		if e.Arch != shape.Arch {
			continue
		}
		if !slices.Contains(e.Machines, shape.Machine) {
			return refuse("machine", "host %s has no machine type %s for %s; install a QEMU that has it", f.Host.Name, shape.Machine, shape.Arch)
		}
		if shape.Virt == "kvm" && !f.Host.Facts.Accelerated {
			return refuse("machine", "the VM wants KVM, and host %s does not offer it", f.Host.Name)
		}
		return ok("machine", "%s on %s", shape.Machine, shape.Arch)
	}
	return refuse("machine", "host %s has no emulator for %s", f.Host.Name, shape.Arch)
}

func checkFirmware(f Facts, plan backstay.RestorePlan) backstay.Check {
	if plan.Firmware == backstay.UEFI && !f.Host.Facts.UEFI {
		return refuse("firmware", "host %s has no UEFI firmware; install the package ovmf", f.Host.Name)
	}
	return ok("firmware", "%s", plan.Firmware)
}

func checkTPM(f Facts) backstay.Check {
	if !f.Host.Facts.TPM {
		return refuse("tpm", "host %s cannot emulate a TPM; install the packages swtpm and swtpm-tools", f.Host.Name)
	}
	return ok("tpm", "emulated, with the state of the point")
}

func listOrNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// size prints bytes in the unit that a person would choose.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, i := float64(n)/1024, 0
	for value >= 1024 && i < len(units)-1 {
		value, i = value/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[i])
}
