// Package backup makes recovery points: a pure plan, and a runner that carries
// it out through the host's mover and records it in the catalogue.
//
// It opens no disk and no socket; the mover does. The order of its writes is
// the one that docs/invariants.md gives: the file beside the disk first, then
// the catalogue; the vault's manifest last.
package backup

import (
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
)

// Plan is what one backup of one VM will do.
type Plan struct {
	VM          backstay.VMRef
	Vault       backstay.VaultName
	Disks       []PlannedDisk
	Consistency backstay.Consistency // what is expected, given the guest as it is
	Reason      string
	Warnings    []string
}

// PlannedDisk says of one disk whether it is in the point, and why or why not.
type PlannedDisk struct {
	Target   backstay.DiskTarget
	Size     int64
	Format   string
	Included bool
	// Excluded: the user left it out.
	Excluded bool
	Reason   string
}

// Targets returns the disks that the point will hold.
func (p Plan) Targets() []backstay.DiskTarget {
	targets := []backstay.DiskTarget{}
	for _, d := range p.Disks {
		if d.Included {
			targets = append(targets, d.Target)
		}
	}
	return targets
}

// leftOut are the disks that the point will not hold.
func (p Plan) leftOut() []backstay.PointDisk {
	var out []backstay.PointDisk
	for _, d := range p.Disks {
		if !d.Included {
			out = append(out, backstay.PointDisk{Target: d.Target, Size: d.Size, Format: d.Format, Reason: d.Reason, Excluded: d.Excluded})
		}
	}
	return out
}

// size is the guest-visible bytes of the disks that the point will hold.
func (p Plan) size() int64 {
	var total int64
	for _, d := range p.Disks {
		if d.Included {
			total += d.Size
		}
	}
	return total
}

// Wish is what the user asked for, with what the item says.
type Wish struct {
	Item        backstay.ProtectedItem
	Consistency backstay.Consistency
}

// NewPlan decides what a backup of vm does. CodeNoDisks if no disk can be
// backed up; CodeDiskNotPossible never: an impossible disk is left out, named.
func NewPlan(vm backstay.VM, w Wish) (Plan, error) {
	if reason := vm.Obstacle(w.Item.Method); reason != "" {
		return Plan{}, backstay.Errorf(backstay.CodeNoDisks, "%s cannot be backed up", vm.Name).Becausef("%s", reason)
	}
	plan := Plan{VM: vm.Ref(), Vault: w.Item.Vault}
	var impossible []string
	for _, d := range vm.Disks {
		v := w.Item.Judge(d)
		plan.Disks = append(plan.Disks, PlannedDisk{
			Target: d.Target, Size: d.Size, Format: d.Format, Included: v.Included, Excluded: v.Excluded, Reason: v.Reason,
		})
		chosen := slices.Contains(w.Item.Included, d.Target)
		if !v.Included && !v.Excluded && (d.Device == "disk" || chosen) {
			plan.Warnings = append(plan.Warnings, fmt.Sprintf("disk %s is not in the point: %s", d.Target, v.Reason))
			impossible = append(impossible, fmt.Sprintf("%s: %s", d.Target, v.Reason))
		}
	}
	for _, target := range w.Item.Included {
		if !slices.ContainsFunc(vm.Disks, func(d backstay.Disk) bool { return d.Target == target }) {
			plan.Warnings = append(plan.Warnings, fmt.Sprintf("disk %s is not in the point: it was chosen, and the VM has no such disk any more", target))
			impossible = append(impossible, fmt.Sprintf("%s: the VM has no such disk any more", target))
		}
	}
	if len(plan.Targets()) == 0 {
		cause := "it has no disk that is included"
		if len(impossible) > 0 {
			cause = strings.Join(impossible, "; ")
		}
		return Plan{}, backstay.Errorf(backstay.CodeNoDisks, "%s has no disk that can be backed up", vm.Name).Becausef("%s", cause)
	}
	plan.Consistency, plan.Reason = expect(vm, w.Consistency)
	return plan, nil
}

// expect says which consistency the guest allows now.
func expect(vm backstay.VM, wish backstay.Consistency) (backstay.Consistency, string) {
	switch {
	case wish == backstay.CrashConsistent:
		return backstay.CrashConsistent, "as asked for"
	case vm.State == backstay.VMShutOff:
		return backstay.CrashConsistent, "the VM is shut off"
	case vm.Agent == backstay.AgentNone:
		return backstay.CrashConsistent, "the VM has no guest agent channel"
	case vm.Agent == backstay.AgentDisconnected:
		return backstay.CrashConsistent, "the guest agent does not answer"
	default:
		return backstay.FileSystemConsistent, "the guest agent freezes the file systems"
	}
}
