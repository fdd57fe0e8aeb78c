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

// refuse is a check that stands in the way, with the way out that the code's
// table has.
func refuse(name string, code backstay.Code, format string, args ...any) backstay.Check {
	e := backstay.Errorf(code, format, args...)
	return backstay.Check{Name: name, Detail: e.Message, Code: code, Action: e.Action}
}

// refuseDo is refuse with a better way out than the table's.
func refuseDo(name string, code backstay.Code, action, format string, args ...any) backstay.Check {
	c := refuse(name, code, format, args...)
	c.Action = action
	return c
}

func checkTier(f Facts, plan backstay.RestorePlan) backstay.Check {
	switch {
	case !f.Point.Has(plan.Tier) && plan.Live:
		return refuseDo("tier", backstay.CodeTierMissing, "leave out --live", "the point is not in its vault, from which a live restore starts")
	case !f.Point.Has(plan.Tier) && plan.Full && f.Point.Has(backstay.SnapshotTier):
		return refuseDo("tier", backstay.CodeTierMissing, "leave out --full", "the point is not in its vault, from which whole disks are written")
	case !f.Point.Has(plan.Tier):
		return refuse("tier", backstay.CodeTierMissing, "the point is not in the %s tier, or cannot be read there any more", plan.Tier)
	case plan.Tier == backstay.SnapshotTier && f.Host.Name != f.Point.VM.Host && plan.StreamedFrom == "":
		return refuseDo("tier", backstay.CodeTierMissing, fmt.Sprintf("restore there with --host %s, or from the vault with --tier vault", f.Point.VM.Host),
			"the snapshot tier of this point is on host %s", f.Point.VM.Host)
	case plan.Tier == backstay.VaultTier && f.VaultProblem != "":
		return refuse("tier", backstay.CodeVaultUnreadable, "vault %s cannot be read: %s", plan.Vault, f.VaultProblem)
	case len(plan.Disks) == 0:
		return refuse("tier", backstay.CodeNotRestorable, "the point holds no disk")
	case plan.StreamedFrom != "":
		if c, refused := checkStream(f, plan); refused {
			return c
		}
		return ok("tier", "streamed from the snapshot tier on host %s", plan.StreamedFrom)
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
	return refuse("whole", backstay.CodePartial, "the user left out %s, and the new VM would lack it", strings.Join(out, ", "))
}

func checkHost(f Facts) backstay.Check {
	if f.Host.State != "connected" {
		return refuse("host", backstay.CodeNotConnected, "host %s cannot be reached: %s", f.Host.Name, f.Host.Reason)
	}
	if of, away := f.Point.Vault.Origin(); away {
		return ok("host", "%s is connected; the point is of region %s", f.Host.Name, of.Region)
	}
	return ok("host", "%s is connected", f.Host.Name)
}

func checkName(f Facts, plan backstay.RestorePlan) backstay.Check {
	for _, vm := range f.VMs {
		if vm.Host == plan.Host && vm.Name == plan.Name {
			return refuse("name", backstay.CodeNameTaken, "a VM named %s exists on host %s", plan.Name, plan.Host)
		}
	}
	return ok("name", "%s is free on host %s", plan.Name, plan.Host)
}

func checkUUID(f Facts, plan backstay.RestorePlan) backstay.Check {
	for _, vm := range f.VMs {
		if vm.ID == plan.UUID {
			return refuse("uuid", backstay.CodeUUIDTaken, "UUID %s belongs to %s/%s", plan.UUID, vm.Host, vm.Name)
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
				return refuse("mac", backstay.CodeMACInUse, "MAC address %s is used by %s/%s", nic.MAC, vm.Host, vm.Name)
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
		checks = append(checks, refuse("network", backstay.CodeNetworkUnknown, "the point has no network %s to map", from))
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
		checks = append(checks, refuseDo("network", backstay.CodeNetworkMissing, mapIt(nic.Network, known),
			"host %s has no active %s %s (there is: %s)", plan.Host, nic.Kind, nic.Network, listOrNone(known)))
	}
	return checks
}

func checkPool(r backstay.RestoreRequest, f Facts) backstay.Check {
	if r.Pool == "" || strings.HasPrefix(r.Pool, "/") {
		if to := firstFolder(r, f); to != nowhere {
			return ok("pool", "disks go to %s", to)
		}
		return refuseDo("pool", backstay.CodePoolMissing, "give a folder of the host: --pool /var/lib/libvirt/images", "host %s has no pool", f.Host.Name)
	}
	var names []string
	for _, p := range f.Host.Facts.Pools {
		if p.Name == r.Pool {
			return ok("pool", "%s at %s", p.Name, p.Path)
		}
		names = append(names, p.Name)
	}
	return refuseDo("pool", backstay.CodePoolMissing, instead("--pool", names), "host %s has no active pool %s (there is: %s)", f.Host.Name, r.Pool, listOrNone(names))
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
			checks = append(checks, refuse("disk", backstay.CodeNotConnected, "host %s did not say whether %s is free", plan.Host, d.Path))
		case len(info.UsedBy) > 0:
			checks = append(checks, refuse("disk", backstay.CodeDiskInUse, "%s is a disk of %s", d.Path, strings.Join(info.UsedBy, ", ")))
		case info.Exists && info.LeftBy == plan.UUID && plan.UUID != "":
			checks = append(checks, ok("disk", "%s → %s, from where an earlier attempt ended", d.Target, d.Path))
		case info.Exists:
			checks = append(checks, refuse("disk", backstay.CodeFileExists, "%s exists already", d.Path))
		case !info.Folder:
			checks = append(checks, refuse("disk", backstay.CodeFolderMissing, "the folder %s does not exist on host %s", path.Dir(d.Path), plan.Host))
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
			return refuse("room", backstay.CodeNoSpace, "%s needed with a reserve of %s, %s left in %s", size(n), size(margin), size(free[device]), path.Dir(plan.Disks[0].Path))
		}
	}
	return ok("room", "at most %s will be written", size(plan.Bytes))
}

func roomFor(f Facts, plan backstay.RestorePlan, d backstay.PlannedDisk) int64 {
	if plan.Tier == backstay.SnapshotTier && plan.StreamedFrom == "" {
		return overlayRoom
	}
	if d.Secret != "" && d.Format == "raw" {
		return d.Size + luksHeader // never sparse: zeros are encrypted like all else
	}
	for _, p := range f.Point.Disks {
		if p.Target == d.Target && p.DataBytes > 0 {
			return p.DataBytes
		}
	}
	return d.Size
}

func checkFirmware(f Facts, plan backstay.RestorePlan) backstay.Check {
	if plan.Firmware == backstay.UEFI && !f.Host.Facts.UEFI {
		return refuse("firmware", backstay.CodeFirmwareMissing, "host %s has no UEFI firmware", f.Host.Name)
	}
	return ok("firmware", "%s", plan.Firmware)
}

func checkTPM(f Facts) backstay.Check {
	if !f.Host.Facts.TPM {
		return refuse("tpm", backstay.CodeTPMMissing, "host %s cannot emulate a TPM", f.Host.Name)
	}
	return ok("tpm", "emulated, with the state of the point")
}

// mapIt is how a network that is missing is mapped, to one that is there.
func mapIt(from string, there []string) string {
	to := "NEW"
	if len(there) > 0 {
		to = there[0]
	}
	return fmt.Sprintf("put it on another: --network %s=%s", from, to)
}

// instead names the first of what is there.
func instead(option string, there []string) string {
	if len(there) == 0 {
		return "give a folder of the host: " + option + " /var/lib/libvirt/images"
	}
	return fmt.Sprintf("choose one that is there: %s %s", option, there[0])
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
