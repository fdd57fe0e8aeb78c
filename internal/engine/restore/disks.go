package restore

import (
	"path"
	"slices"
	"strings"
	"unicode"

	backstay "github.com/backstay/backstay"
)

// disksOnly restores disks of a point into a folder, or one onto a block device,
// with a template of the VM beside them. No VM is made.
type disksOnly struct{}

// imageFormats are those in which disks can be written.
var imageFormats = []string{"qcow2", "raw", "vmdk", "vhdx"}

func (disksOnly) check(r backstay.RestoreRequest, _ Facts) error {
	switch {
	case r.To == "":
		return backstay.Errorf(backstay.CodeUsage, "where the disks shall go is not said").Becausef("it can be a folder, a pool or a block device of the host").Do("give --to")
	case !validTo(r.To):
		return backstay.Errorf(backstay.CodeUsage, "disks cannot go to %q", r.To).Becausef("it is neither the name of a pool nor an absolute path below / without . and ..").Do("give --to a folder, a pool or a block device")
	case r.Format != "" && !slices.Contains(imageFormats, r.Format):
		return backstay.Errorf(backstay.CodeUsage, "disks cannot be written as %q", r.Format).Becausef("there are %s", strings.Join(imageFormats, ", ")).Do("give another --format")
	case r.OSDisk && len(r.Disks) > 0:
		return backstay.Errorf(backstay.CodeUsage, "either the disk of the operating system is wanted, or the ones that are named").
			Becausef("both were asked for").
			Do("leave out --os-disk-only or --disk")
	}
	return nil
}

// validTo tells whether disks could go there: the name of a pool, or a path.
func validTo(to string) bool {
	if strings.ContainsFunc(to, unicode.IsControl) || to == "/" {
		return false
	}
	if !strings.HasPrefix(to, "/") {
		return !strings.Contains(to, "/")
	}
	return path.Clean(to) == strings.TrimSuffix(to, "/")
}

// destination is where disks go.
type destination struct {
	folder string
	// device takes the one disk; "" if the folder takes them.
	device string
	// room is the path whose file system takes what goes to the folder.
	room string
}

// ownFolder is the name of a restore's folder in one that is in use.
func ownFolder(p backstay.RecoveryPoint) string {
	return p.VM.Name + "-" + p.Time.UTC().Format("20060102-150405")
}

// probeName is a file that is never there: its folder's file system is asked for.
const probeName = ".backstay-room"

// where decides where disks go. What is there is known only once the paths that
// candidates names were asked about.
func where(r backstay.RestoreRequest, f Facts) destination {
	to := strings.TrimSuffix(r.To, "/")
	if !strings.HasPrefix(r.To, "/") {
		for _, pool := range f.Host.Facts.Pools {
			if pool.Name == r.To {
				return inside(pool.Path, f.Point)
			}
		}
		return destination{folder: nowhere}
	}
	info := f.Paths[to]
	switch {
	case info.DeviceSize > 0 || info.Busy != "":
		d := destination{folder: nowhere, device: to}
		if len(f.Host.Facts.Pools) > 0 {
			d = inside(f.Host.Facts.Pools[0].Path, f.Point)
			d.device = to
		}
		return d
	case !info.Exists:
		return destination{folder: to, room: to}
	case info.Empty:
		return destination{folder: to, room: path.Join(to, probeName)}
	}
	return inside(to, f.Point)
}

func inside(folder string, p backstay.RecoveryPoint) destination {
	own := path.Join(folder, ownFolder(p))
	return destination{folder: own, room: own}
}

func (disksOnly) candidates(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host) []string {
	var paths []string
	if strings.HasPrefix(r.To, "/") {
		to := strings.TrimSuffix(r.To, "/")
		paths = append(paths, to, path.Join(to, probeName), path.Join(to, ownFolder(p)))
	}
	for _, pool := range host.Facts.Pools {
		paths = append(paths, path.Join(pool.Path, ownFolder(p)))
	}
	return paths
}

func (disksOnly) plan(r backstay.RestoreRequest, f Facts, plan *backstay.RestorePlan) {
	to := where(r, f)
	plan.UUID, plan.Folder = f.UUID, to.folder
	if check := checkName(f, *plan); !check.OK { // the source is there, most often
		plan.Name = ownFolder(f.Point)
	}
	plan.NICs = plannedNICs(r, f)
	plan.Tasks = []string{"plan", "stage", "verify", "template"}
	for _, d := range f.Point.Disks {
		if !d.Included || !wanted(r, f.Point, d.Target) {
			continue
		}
		disk := backstay.PlannedDisk{Target: d.Target, Format: formatOf(r, d), Size: d.Size, Bytes: diskBytes(f.Point, d.Target), Secret: f.Point.Shape.SecretOf(d.Target)}
		if disk.Path = path.Join(to.folder, string(d.Target)+"."+disk.Format); to.device != "" {
			disk.Path, disk.Format, disk.Device = to.device, "raw", true
		}
		plan.Disks = append(plan.Disks, disk)
		plan.Bytes += disk.Bytes
	}
}

func formatOf(r backstay.RestoreRequest, d backstay.PointDisk) string {
	switch {
	case r.Format != "":
		return r.Format
	case d.Format == "":
		return "raw"
	}
	return d.Format
}

// wanted tells whether a disk was asked for.
func wanted(r backstay.RestoreRequest, p backstay.RecoveryPoint, target backstay.DiskTarget) bool {
	if r.OSDisk {
		return target == osDisk(p)
	}
	return len(r.Disks) == 0 || slices.Contains(r.Disks, target)
}

// osDisk is the disk that the VM boots from: the first in its boot order or, where
// it has none, the first of its disks, as the firmware would take it.
func osDisk(p backstay.RecoveryPoint) backstay.DiskTarget {
	var first, ordered backstay.Disk
	for _, d := range p.Shape.Disks {
		if d.Device == "cdrom" || d.Device == "floppy" {
			continue // what lies in a drive is in no point
		}
		if first.Target == "" {
			first = d
		}
		if d.Boot > 0 && (ordered.Boot == 0 || d.Boot < ordered.Boot) {
			ordered = d
		}
	}
	if ordered.Target != "" {
		return ordered.Target
	}
	return first.Target
}

func (disksOnly) preflight(r backstay.RestoreRequest, f Facts, plan backstay.RestorePlan) []backstay.Check {
	checks := []backstay.Check{checkChosen(r, f, plan), checkTier(f, plan), checkHost(f)}
	to := where(r, f)
	checks = append(checks, checkFolder(r, f, to))
	if to.device != "" {
		checks = append(checks, checkDevice(f, plan, to))
	} else if info := f.Paths[to.folder]; to.folder != nowhere && (info.Exists || info.Folder) { // elsewhere no room is known
		checks = append(checks, checkFolderRoom(f, plan, to))
	}
	for _, d := range plan.Disks {
		if d.Secret != "" && (d.Device || d.Format != "qcow2" && d.Format != "raw") {
			checks = append(checks, refuseDo("disk", backstay.CodeEncrypted, "restore it as qcow2 or raw into a folder",
				"disk %s was encrypted on its host, and would be plain as %s at %s", d.Target, d.Format, d.Path))
		}
	}
	return append(checks, checkKeys(f, plan)...)
}

// checkChosen refuses what the point does not hold: a restore of less than was
// asked for would be taken for all of it.
func checkChosen(r backstay.RestoreRequest, f Facts, plan backstay.RestorePlan) backstay.Check {
	has := func(t backstay.DiskTarget) bool {
		return slices.ContainsFunc(plan.Disks, func(d backstay.PlannedDisk) bool { return d.Target == t })
	}
	asked := r.Disks
	if r.OSDisk {
		asked = []backstay.DiskTarget{osDisk(f.Point)}
	}
	for _, t := range asked {
		if !has(t) {
			return refuse("disks", backstay.CodeDiskUnknown, "the point holds no disk %q", t)
		}
	}
	if len(plan.Disks) == 0 {
		return refuse("disks", backstay.CodeNotRestorable, "the point holds no disk")
	}
	var names []string
	for _, d := range plan.Disks {
		names = append(names, string(d.Target))
	}
	return ok("disks", "%s", strings.Join(names, ", "))
}

func checkFolder(r backstay.RestoreRequest, f Facts, to destination) backstay.Check {
	if to.folder == nowhere {
		var pools []string
		for _, p := range f.Host.Facts.Pools {
			pools = append(pools, p.Name)
		}
		if to.device != "" {
			return refuseDo("folder", backstay.CodePoolMissing, "define a pool on the host, for what goes with the disk", "host %s has no pool for the template", f.Host.Name)
		}
		return refuseDo("folder", backstay.CodePoolMissing, instead("--to", pools), "host %s has no active pool %s (there is: %s)", f.Host.Name, r.To, listOrNone(pools))
	}
	info := f.Paths[to.folder]
	switch {
	case info.Exists && !info.Empty:
		return refuse("folder", backstay.CodeFileExists, "%s exists already", to.folder)
	case !info.Exists && !info.Folder:
		if strings.HasPrefix(to.folder, "/dev/") {
			return refuseDo("folder", backstay.CodeFolderMissing, "name another with --to", "host %s has neither a block device nor a folder %s", f.Host.Name, r.To)
		}
		return refuseDo("folder", backstay.CodeFolderMissing, "make the folder, or name another with --to", "the folder %s does not exist on host %s", path.Dir(to.folder), f.Host.Name)
	}
	return ok("folder", "all goes to %s", to.folder)
}

func checkFolderRoom(f Facts, plan backstay.RestorePlan, to destination) backstay.Check {
	if free := f.Paths[to.room].Available; plan.Bytes+margin > free {
		return refuse("room", backstay.CodeNoSpace, "%s needed with a reserve of %s, %s left for %s", size(plan.Bytes), size(margin), size(free), to.folder)
	}
	return ok("room", "at most %s will be written", size(plan.Bytes))
}

func checkDevice(f Facts, plan backstay.RestorePlan, to destination) backstay.Check {
	info := f.Paths[to.device]
	switch {
	case len(info.UsedBy) > 0:
		return refuse("device", backstay.CodeDiskInUse, "%s is a disk of %s", to.device, strings.Join(info.UsedBy, ", "))
	case info.Busy != "":
		return refuse("device", backstay.CodeDeviceUnfit, "%s is in use: %s", to.device, info.Busy)
	case len(plan.Disks) != 1:
		return refuseDo("device", backstay.CodeDeviceUnfit, "name it: --disk TARGET", "one device takes one disk, and %d are wanted", len(plan.Disks))
	case info.DeviceSize < plan.Disks[0].Size:
		return refuse("device", backstay.CodeDeviceUnfit, "%s has %s, and disk %s has %s", to.device, size(info.DeviceSize), plan.Disks[0].Target, size(plan.Disks[0].Size))
	}
	return ok("device", "%s of %s; what is on it goes", to.device, size(info.DeviceSize))
}
