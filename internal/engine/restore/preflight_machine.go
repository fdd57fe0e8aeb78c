package restore

import (
	"slices"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
)

// checkMachine finds out whether the host can run such a machine at all.
func checkMachine(f Facts, plan backstay.RestorePlan) backstay.Check {
	shape, machine := f.Point.Shape, f.Point.Shape.Machine
	if plan.Machine != "" {
		machine = plan.Machine
	}
	for _, e := range f.Host.Facts.Emulators {
		if e.Arch != shape.Arch {
			continue
		}
		if !slices.Contains(e.Machines, machine) {
			c := refuse("machine", backstay.CodeMachineMissing, "host %s has no machine type %s for %s", f.Host.Name, machine, shape.Arch)
			if other := substitute(machine, e.Machines); other != "" {
				c.Action = "use the nearest that is there: --machine " + other
			}
			return c
		}
		if shape.Virt == "kvm" && !f.Host.Facts.Accelerated {
			return refuse("machine", backstay.CodeKVMMissing, "the VM wants KVM, and host %s does not offer it", f.Host.Name)
		}
		return ok("machine", "%s on %s", machine, shape.Arch)
	}
	return refuse("machine", backstay.CodeEmulatorMissing, "host %s has no emulator for %s", f.Host.Name, shape.Arch)
}

// checkMemory keeps a VM from being made that could not start. known is false
// where the host does not tell.
func checkMemory(f Facts, plan backstay.RestorePlan) (c backstay.Check, known bool) {
	need, free := f.Point.Shape.MemoryMiB<<20, f.Host.Facts.MemoryFree
	switch {
	case free == 0 || need == 0 || !plan.Start:
		return backstay.Check{}, false
	case need > free:
		return refuse("memory", backstay.CodeNoMemory, "the VM takes %s, and host %s has %s left", size(need), f.Host.Name, size(free)), true
	}
	return ok("memory", "%s of %s that are left", size(need), size(free)), true
}

// substitute returns the machine type nearest to the wanted one: of the same
// family the next newer, or else the newest; "" if the family is not there.
func substitute(wanted string, there []string) string {
	family, version, ok := machineVersion(wanted)
	if !ok {
		return ""
	}
	var newer, newest string
	var newerVersion, newestVersion []int
	for _, name := range there {
		other, v, ok := machineVersion(name)
		if !ok || other != family {
			continue
		}
		if slices.Compare(v, version) > 0 && (newer == "" || slices.Compare(v, newerVersion) < 0) {
			newer, newerVersion = name, v
		}
		if newest == "" || slices.Compare(v, newestVersion) > 0 {
			newest, newestVersion = name, v
		}
	}
	if newer != "" {
		return newer
	}
	return newest
}

// machineVersion takes pc-q35-7.2 apart into its family and its version.
func machineVersion(name string) (family string, version []int, ok bool) {
	at := strings.LastIndex(name, "-")
	if at < 0 {
		return "", nil, false
	}
	for part := range strings.SplitSeq(name[at+1:], ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return "", nil, false
		}
		version = append(version, n)
	}
	return name[:at], version, true
}
