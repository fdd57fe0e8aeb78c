package restore

import (
	"fmt"
	"path"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// original puts the disks of a point into the VM that it is of. The VM stays what
// it is: name, UUID, addresses, devices, policy and points are its own.
type original struct{}

func (original) check(r backstay.RestoreRequest, f Facts) error {
	if err := checkProbe(r.Probe); err != nil {
		return err
	}
	if r.Full && r.Tier == backstay.SnapshotTier {
		return backstay.Errorf(backstay.CodeUsage, "from the snapshot tier no whole disks are written").Becausef("the new disks stand on the point's layers there").
			Do("leave out --full, or say --tier vault")
	}
	if r.KeepOld < 0 {
		return backstay.Errorf(backstay.CodeUsage, "old disks cannot be kept for less than no time").Becausef("--keep-old is negative").Do("leave out --keep-old")
	}
	for _, target := range r.Disks {
		at := slices.IndexFunc(f.Point.Disks, func(d backstay.PointDisk) bool { return d.Target == target })
		if at < 0 {
			return backstay.Errorf(backstay.CodeDiskUnknown, "the point %s has no disk %s", f.Point.ID, target).Becausef("it has %s", targetsOf(f.Point.Disks))
		}
		if d := f.Point.Disks[at]; !d.Included {
			return backstay.Errorf(backstay.CodeDiskUnknown, "the point %s does not hold disk %s", f.Point.ID, target).Becausef("%s", d.Reason)
		}
	}
	return nil
}

func targetsOf(disks []backstay.PointDisk) string {
	var all []string
	for _, d := range disks {
		if d.Included {
			all = append(all, string(d.Target))
		}
	}
	return listOrNone(all)
}

// candidates cannot name the new files: their names hold what only the plan's facts
// have. Their folders are asked for instead.
func (original) candidates(_ backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host) []string {
	var paths []string
	for _, d := range p.Shape.Disks {
		if p.VM.Host == host.Name && isFile(d) {
			paths = append(paths, d.Source)
		}
	}
	for _, pool := range host.Facts.Pools {
		paths = append(paths, path.Join(pool.Path, "any"))
	}
	return paths
}

// isFile tells whether a disk is a file in a folder of its own.
func isFile(d backstay.Disk) bool {
	return d.Kind != backstay.BlockDisk && d.Kind != backstay.NetworkDisk && strings.HasPrefix(d.Source, "/")
}

// over is the VM whose disks are replaced.
func (f *Facts) over() backstay.VMID {
	if f.Over != "" {
		return f.Over
	}
	return f.Point.VM.UUID
}

// source is the VM as it is now, on the plan's host; nil if it is not there.
func (f *Facts) source() *backstay.VM {
	for i := range f.VMs {
		if f.VMs[i].ID != f.over() || f.VMs[i].Host != f.Host.Name {
			continue
		}
		now := f.VMs[i]
		if f.Source != nil {
			now.Disks = f.Source.Disks // that it has once it is shut off
		}
		return &now
	}
	return nil
}

func (o original) plan(r backstay.RestoreRequest, f Facts, plan *backstay.RestorePlan) {
	plan.UUID, plan.Name = f.over(), f.Point.VM.Name
	plan.Stop, plan.Start, plan.Probe = r.Stop, r.Start, r.Probe
	plan.Full, plan.DiscardSaved, plan.KeepOld = r.Full, r.DiscardSaved, r.KeepOld
	if plan.KeepOld == 0 {
		plan.KeepOld = backstay.DefaultKeepOld
	}
	if !r.NoSafetyPoint {
		plan.SafetyPoint = f.SafetyPoint
	}
	plan.Tasks = []string{"plan", "stop", "safety", "stage", "verify", "switch", "start"}
	now := f.source()
	if now == nil {
		return // and a check says so
	}
	plan.Name, plan.Source = now.Name, now.Ref()
	for _, d := range f.Point.Disks {
		if d.Included {
			plan.Disks = append(plan.Disks, o.planDisk(r, f, *plan, now, d))
		}
	}
	for _, d := range now.Disks {
		if at := slices.IndexFunc(f.Point.Disks, func(p backstay.PointDisk) bool { return p.Target == d.Target }); at >= 0 && f.Point.Disks[at].Included {
			continue
		}
		kept := backstay.PlannedDisk{Target: d.Target, Format: d.Format, Size: d.Size, Old: d.Source, Action: backstay.DiskKept}
		if len(r.Disks) == 0 && addedSince(f.Point, d) {
			kept.Action = backstay.DiskDetached
		}
		if d.Device == "disk" || d.Device == "lun" {
			plan.Disks = append(plan.Disks, kept)
		}
	}
	for _, d := range plan.Disks {
		plan.Bytes += d.Bytes
	}
}

// addedSince tells whether the VM had no such disk when the point was taken. One
// that it had, and that could not be backed up, stays.
func addedSince(p backstay.RecoveryPoint, d backstay.Disk) bool {
	return !slices.ContainsFunc(p.Shape.Disks, func(s backstay.Disk) bool { return s.Target == d.Target }) &&
		!slices.ContainsFunc(p.Disks, func(s backstay.PointDisk) bool { return s.Target == d.Target })
}

// planDisk decides what becomes of one disk that the point holds.
func (original) planDisk(r backstay.RestoreRequest, f Facts, plan backstay.RestorePlan, now *backstay.VM, d backstay.PointDisk) backstay.PlannedDisk {
	planned := backstay.PlannedDisk{Target: d.Target, Format: "qcow2", Size: d.Size, Action: backstay.DiskReturned, Secret: f.Point.Shape.SecretOf(d.Target)}
	at := slices.IndexFunc(now.Disks, func(n backstay.Disk) bool { return n.Target == d.Target })
	if at >= 0 {
		planned.Action, planned.Old = backstay.DiskReplaced, now.Disks[at].Source
	}
	if len(r.Disks) > 0 && !slices.Contains(r.Disks, d.Target) {
		planned.Action = backstay.DiskKept
		if at < 0 {
			planned.Old = "" // the VM goes on without it
		}
		return planned
	}
	if plan.Tier == backstay.VaultTier {
		present := at >= 0 && now.Disks[at].Size == d.Size && now.Disks[at].Reason == "" && now.Disks[at].Secret == planned.Secret
		planned.Difference = present && !plan.Full && plan.SafetyPoint != ""
		planned.Bytes = diskBytes(f.Point, d.Target)
		if !planned.Difference && d.Format != "" {
			planned.Format = d.Format
		}
	}
	planned.Path = path.Join(replacedFolder(f, now, d.Target),
		fmt.Sprintf("%s-%s.replaced-%s.%s", plainName(plan.Name), d.Target, strings.ToLower(string(f.SafetyPoint)), planned.Format))
	return planned
}

// plainName leaves room in a file's name (255 bytes) for what comes after it.
func plainName(name string) string {
	return strings.ToValidUTF8(name[:min(len(name), longestName-20)], "")
}

// replacedFolder is where a new disk goes: beside the one that it replaces, else
// beside the one that it was, else to the host's first pool.
func replacedFolder(f Facts, now *backstay.VM, target backstay.DiskTarget) string {
	for _, disks := range [][]backstay.Disk{now.Disks, f.Point.Shape.Disks} {
		for _, d := range disks {
			if d.Target == target && isFile(d) && f.Point.VM.Host == f.Host.Name {
				return path.Dir(d.Source)
			}
		}
	}
	if len(f.Host.Facts.Pools) > 0 {
		return f.Host.Facts.Pools[0].Path
	}
	return nowhere
}

// preflight lists everything that would fail, before anything is touched.
func (o original) preflight(r backstay.RestoreRequest, f Facts, plan backstay.RestorePlan) []backstay.Check {
	checks := []backstay.Check{checkHost(f)}
	if f.Host.State != "connected" {
		return checks
	}
	now := f.source()
	if now == nil {
		return append(checks, checkSource(f))
	}
	checks = append(checks, checkSource(f), checkTier(f, plan), checkLeftOut(r, f))
	checks = append(checks, checkKeys(f, plan)...)
	if f.Source != nil {
		checks = append(checks, checkState(r, f.Source), checkSaved(r, f.Source), checkHeld(f.Source))
	}
	checks = append(checks, checkSafety(r, f, now))
	folders := checkFolders(f, now, plan)
	checks = append(checks, folders...)
	if !slices.ContainsFunc(folders, func(c backstay.Check) bool { return !c.OK }) {
		checks = append(checks, checkReplaceRoom(f, now, plan))
	}
	return checks
}

// checkSource finds the VM whose disks are to be replaced.
func checkSource(f Facts) backstay.Check {
	if now := f.source(); now != nil {
		if now.ID != f.Point.VM.UUID {
			return ok("source", "%s is on host %s, %s; it gets the disks of another VM, %s/%s, as asked for", now.Name, now.Host, now.State, f.Point.VM.Host, f.Point.VM.Name)
		}
		return ok("source", "%s is on host %s, %s", now.Name, now.Host, now.State)
	}
	if f.Over != "" {
		return refuseDo("source", backstay.CodeVMMissing, "name one that is there, as `backstay vm list` does", "VM %s is not on host %s", f.Over, f.Host.Name)
	}
	for _, vm := range f.VMs {
		if vm.ID == f.Point.VM.UUID {
			return refuseDo("source", backstay.CodeVMMissing, fmt.Sprintf("say --host %s", vm.Host), "VM %s is on host %s and not on %s", vm.Name, vm.Host, f.Host.Name)
		}
	}
	return refuseDo("source", backstay.CodeVMMissing, fmt.Sprintf("make a new VM of the point: `backstay restore create-vm %s --name NEW`", f.Point.ID),
		"the VM %s (%s) is not on host %s any more", f.Point.VM.Name, f.Point.VM.UUID, f.Host.Name)
}

// checkLeftOut keeps a VM from being half new and half of another time.
func checkLeftOut(r backstay.RestoreRequest, f Facts) backstay.Check {
	out := f.Point.LeftOut()
	if len(out) == 0 || len(r.Disks) > 0 {
		return ok("whole", "the point holds all disks that are wanted")
	}
	var names []string
	for _, target := range out {
		names = append(names, string(target))
	}
	return refuseDo("whole", backstay.CodePartial, "name the disks that are wanted with --disk; the others stay as they are",
		"the user left %s out of the point, and it would be of another time than the rest", strings.Join(names, ", "))
}

func checkState(r backstay.RestoreRequest, s *mover.SourceState) backstay.Check {
	switch {
	case !s.Persistent:
		return refuse("state", backstay.CodeVMHeld, "the VM is transient: it would be gone once it is shut off")
	case s.State == backstay.VMShutOff:
		return ok("state", "the VM is shut off")
	case !r.Stop:
		return refuse("state", backstay.CodeNotShutOff, "the VM is %s", s.State)
	}
	return ok("state", "the VM is %s: its guest is asked to shut down, and after %s its power goes", s.State, stopGrace)
}

func checkSaved(r backstay.RestoreRequest, s *mover.SourceState) backstay.Check {
	switch {
	case !s.Saved:
		return ok("memory", "no memory of the VM is saved")
	case !r.DiscardSaved:
		return refuse("memory", backstay.CodeSavedMemory, "the VM's memory was saved when it was shut off; resumed over other disks it would destroy their file systems")
	}
	return ok("memory", "the VM's saved memory is thrown away, as asked for")
}

// checkHeld finds what stands on the disks as they are and would be lost.
func checkHeld(s *mover.SourceState) backstay.Check {
	switch {
	case len(s.Snapshots) > 0:
		return refuseDo("held", backstay.CodeVMHeld, "delete them with `virsh snapshot-delete`, or make a new VM of the point",
			"the VM has snapshots of libvirt's own (%s), which name its disks as they are", strings.Join(s.Snapshots, ", "))
	case len(s.Copying) > 0:
		return refuseDo("held", backstay.CodeVMHeld, "wait for the job, or end it with `virsh blockjob --abort`",
			"a job copies the VM's disks to %s", strings.Join(s.Copying, ", "))
	}
	return ok("held", "nothing of libvirt's own stands on the disks")
}

func checkSafety(r backstay.RestoreRequest, f Facts, now *backstay.VM) backstay.Check {
	const todo = "leave the safety point out with --no-safety-point; the old disks are kept all the same"
	stopped := *now
	stopped.State = backstay.VMShutOff
	switch {
	case r.NoSafetyPoint:
		return ok("safety", "no safety point is taken, as asked for; the old disks are kept")
	case f.Item == nil:
		return refuseDo("safety", backstay.CodeNotProtected, todo, "the VM is not protected, and a safety point is a point of a protected VM")
	case f.Item.Method == backstay.MethodPull:
		return refuseDo("safety", backstay.CodeVMNotPossible, todo, "the VM is protected by pull, which has no points beside the disks")
	case f.Source != nil && f.Source.Saved:
		// Saved memory forbids points too, and it goes before this one is taken; the
		// check of the memory says if it may not.
		return ok("safety", "a point of the present state is taken when the saved memory is gone")
	case stopped.Obstacle(backstay.MethodLayers) != "":
		return refuseDo("safety", backstay.CodeVMNotPossible, todo, "no safety point can be taken: %s", stopped.Obstacle(backstay.MethodLayers))
	}
	return ok("safety", "a point of the present state is taken first")
}

func checkFolders(f Facts, now *backstay.VM, plan backstay.RestorePlan) []backstay.Check {
	var checks []backstay.Check
	for _, d := range plan.Disks {
		switch d.Action {
		case backstay.DiskKept:
			checks = append(checks, ok("disk", "%s stays as it is", d.Target))
			continue
		case backstay.DiskDetached:
			checks = append(checks, ok("disk", "%s was added since: it is detached, and %s is kept", d.Target, d.Old))
			continue
		}
		folder := path.Dir(d.Path)
		if info, known := f.folder(now, folder); folder == nowhere || known && !info.Folder {
			checks = append(checks, refuseDo("disk", backstay.CodeFolderMissing, "make the folder, or make a new VM of the point", "the folder %s for disk %s does not exist on host %s", folder, d.Target, plan.Host))
			continue
		}
		checks = append(checks, ok("disk", "%s is %s: %s", d.Target, d.Action, d.Path))
	}
	return checks
}

// folder finds what the host said of a folder.
func (f *Facts) folder(_ *backstay.VM, folder string) (mover.PathInfo, bool) {
	for p, info := range f.Paths {
		if path.Dir(p) == folder {
			return info, true
		}
	}
	return mover.PathInfo{}, false
}

func checkReplaceRoom(f Facts, now *backstay.VM, plan backstay.RestorePlan) backstay.Check {
	need, free := map[string]int64{}, map[string]int64{}
	for _, d := range plan.Disks {
		if d.Path == "" {
			continue
		}
		info, known := f.folder(now, path.Dir(d.Path))
		if !known {
			continue // a folder of which nothing is known is found out when it is written to
		}
		free[info.Device] = info.Available
		need[info.Device] += roomFor(f, plan, d)
	}
	for device, n := range need {
		if n+margin > free[device] {
			return refuse("room", backstay.CodeNoSpace, "%s needed with a reserve of %s, %s left", size(n), size(margin), size(free[device]))
		}
	}
	return ok("room", "at most %s will be written", size(plan.Bytes))
}
