package libvirt

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// marks are what libvirt keeps of a VM that forbids protecting it.
type marks struct{ inside, checkpoints, saved, transient bool } // checkpoints alone forbid nothing

func (m marks) reason(vm *backstay.VM) string {
	switch {
	case m.transient:
		return "it has no persistent definition (a transient VM)"
	case m.inside:
		return "it has libvirt snapshots inside its images, which a new layer would hide; delete them first (virsh snapshot-list, snapshot-delete)"
	case m.saved:
		return "its memory is saved to disk (managed save); start it, or remove the saved state"
	}
	return diskless(vm)
}

// diskless says that nothing of a VM could be backed up.
func diskless(vm *backstay.VM) string {
	switch {
	case len(vm.Disks) == 0:
		return "it has no disk"
	case len(vm.Possible()) == 0:
		return "none of its disks can be backed up: " + impossible(vm.Disks)
	}
	return ""
}

// impossible names each disk with its reason.
func impossible(disks []backstay.Disk) string {
	var reasons []string
	for _, d := range disks {
		reasons = append(reasons, string(d.Target)+": "+d.Reason)
	}
	return strings.Join(reasons, "; ")
}

// VMs lists every domain. One that vanishes meanwhile is left out.
func (h *Host) VMs(ctx context.Context) ([]backstay.VM, error) {
	vms, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) ([]backstay.VM, error) {
		domains, _, err := l.ConnectListAllDomains(1, 0)
		if err != nil {
			return nil, err
		}
		marked, err := listMarks(l)
		if err != nil {
			return nil, err
		}
		vms := make([]backstay.VM, 0, len(domains))
		for _, d := range domains {
			state, err := vmState(l, d)
			if isCode(err, libvirt.ErrNoDomain) {
				continue
			}
			if err != nil {
				return nil, err
			}
			root, _, err := definition(l, d, 0)
			if isCode(err, libvirt.ErrNoDomain) {
				continue
			}
			if err != nil {
				return nil, err
			}
			resolveVolumes(l, root)
			vm := describe(root, state)
			if state != backstay.VMShutOff {
				inactive, _, err := definition(l, d, libvirt.DomainXMLInactive)
				if isCode(err, libvirt.ErrNoDomain) {
					continue
				}
				if err != nil {
					return nil, err
				}
				resolveVolumes(l, inactive)
				excludePassing(&vm, inactive)
			}
			vm.Reason = marked[d.UUID].reason(&vm)
			if marked[d.UUID].checkpoints {
				if vm.Checkpoints, err = checkpointNames(l, d); err != nil && !isCode(err, libvirt.ErrNoDomain) {
					return nil, err
				}
			}
			vms = append(vms, vm)
		}
		return vms, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list VMs: %w", err)
	}
	for i := range vms {
		h.judge(ctx, &vms[i])
	}
	return vms, nil
}

// listMarks asks once for each mark rather than once for each VM.
func listMarks(l *libvirt.Libvirt) (map[libvirt.UUID]marks, error) {
	all := map[libvirt.UUID]marks{}
	for _, ask := range []struct {
		flag libvirt.ConnectListAllDomainsFlags
		set  func(*marks)
	}{
		{libvirt.ConnectListDomainsHasCheckpoint, func(m *marks) { m.checkpoints = true }},
		{libvirt.ConnectListDomainsManagedsave, func(m *marks) { m.saved = true }},
		{libvirt.ConnectListDomainsTransient, func(m *marks) { m.transient = true }},
	} {
		domains, _, err := l.ConnectListAllDomains(1, ask.flag)
		if isCode(err, libvirt.ErrInvalidArg) {
			continue // a libvirt that does not know checkpoints has none
		}
		if err != nil {
			return nil, err
		}
		for _, d := range domains {
			m := all[d.UUID]
			ask.set(&m)
			all[d.UUID] = m
		}
	}
	return all, markInside(l, all)
}

// markInside marks the VMs that have snapshots inside their images.
func markInside(l *libvirt.Libvirt, all map[libvirt.UUID]marks) error {
	domains, _, err := l.ConnectListAllDomains(1, libvirt.ConnectListDomainsHasSnapshot)
	if err != nil {
		return err
	}
	for _, d := range domains {
		inside, err := hasInside(l, d)
		if isCode(err, libvirt.ErrNoDomain) {
			continue
		}
		if err != nil {
			return err
		}
		m := all[d.UUID]
		m.inside = inside
		all[d.UUID] = m
	}
	return nil
}

func hasInside(l *libvirt.Libvirt, d libvirt.Domain) (bool, error) {
	inside, _, err := l.DomainListAllSnapshots(d, 1, uint32(libvirt.DomainSnapshotListInternal))
	return len(inside) > 0, err
}

func vmState(l *libvirt.Libvirt, d libvirt.Domain) (backstay.VMState, error) {
	state, _, err := l.DomainGetState(d, 0)
	if err != nil {
		return "", err
	}
	switch libvirt.DomainState(state) {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		return backstay.VMRunning, nil
	case libvirt.DomainPaused:
		return backstay.VMPaused, nil
	case libvirt.DomainShutoff:
		return backstay.VMShutOff, nil
	case libvirt.DomainCrashed:
		active, err := l.DomainIsActive(d)
		if err == nil && active == 0 {
			return backstay.VMShutOff, nil
		}
		return backstay.VMOther, err
	}
	return backstay.VMOther, nil
}

func definition(l *libvirt.Libvirt, d libvirt.Domain, flags libvirt.DomainXMLFlags) (*etree.Element, string, error) {
	xml, err := l.DomainGetXMLDesc(d, flags)
	if err != nil {
		return nil, "", err
	}
	root, err := parseDomain(xml)
	return root, xml, err
}

// Domain describes one VM completely.
func (h *Host) Domain(ctx context.Context, id backstay.VMID) (hypervisor.Domain, error) {
	d, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (hypervisor.Domain, error) {
		d, err := lookup(l, id)
		if err != nil {
			return hypervisor.Domain{}, err
		}
		return describeDomain(l, d)
	})
	if err != nil {
		return hypervisor.Domain{}, fmt.Errorf("describe VM %s: %w", id, err)
	}
	h.judge(ctx, &d.VM)
	return d, nil
}

func describeDomain(l *libvirt.Libvirt, d libvirt.Domain) (hypervisor.Domain, error) {
	var out hypervisor.Domain
	state, err := vmState(l, d)
	if err != nil {
		return out, err
	}
	var live *etree.Element
	if state != backstay.VMShutOff {
		if live, out.LiveXML, err = definition(l, d, libvirt.DomainXMLSecure); err != nil {
			return out, err
		}
	}
	inactive, xml, err := definition(l, d, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
	if err != nil {
		return out, err
	}
	out.InactiveXML, out.Elements = xml, elements(inactive)
	resolveVolumes(l, inactive)
	current := inactive
	if live != nil {
		current = live
		resolveVolumes(l, live)
	}
	out.VM = describe(current, state)
	if live != nil {
		excludePassing(&out.VM, inactive)
	}
	out.Mirrors = mirrors(live)
	out.NVRAM, out.TPMState = nvram(live, inactive), tpmState(inactive)
	out.Chains, out.Console = chains(current, live != nil), console(current)
	if err := describeSnapshots(l, d, &out); err != nil {
		return out, err
	}
	m, err := marksOf(l, d)
	if err != nil {
		return out, err
	}
	m.inside = out.Inside
	out.Saved, out.Checkpoints = m.saved, m.checkpoints
	out.VM.Reason = m.reason(&out.VM)
	if !m.transient { // which cannot have the mark
		autostart, err := l.DomainGetAutostart(d)
		if err != nil {
			return out, err
		}
		out.Autostart = autostart != 0
	}
	if m.checkpoints {
		out.VM.Checkpoints, err = checkpointNames(l, d)
	}
	return out, err
}

// mirrors lists the files to which the disks of a running VM are copied.
func mirrors(live *etree.Element) []string {
	var files []string
	if live == nil {
		return nil
	}
	for _, e := range live.FindElements("./devices/disk") {
		if m := find(e, "mirror"); m != nil {
			if file := location(m); file != "" {
				files = append(files, file)
			}
		}
	}
	return files
}

// describeSnapshots tells which snapshots of libvirt's own a VM has, and which
// files they need: those that the VM had when each was made, and what each put on
// top of them.
func describeSnapshots(l *libvirt.Libvirt, d libvirt.Domain, out *hypervisor.Domain) error {
	snapshots, _, err := l.DomainListAllSnapshots(d, 1, 0)
	if err != nil || len(snapshots) == 0 {
		return err
	}
	for _, s := range snapshots {
		xml, err := l.DomainSnapshotGetXMLDesc(s, 0)
		if err != nil {
			return err
		}
		files, err := snapshotFiles(xml)
		if err != nil {
			return fmt.Errorf("read snapshot %s: %w", s.Name, err)
		}
		out.Snapshots = append(out.Snapshots, s.Name)
		out.SnapshotFiles = append(out.SnapshotFiles, files...)
	}
	slices.Sort(out.SnapshotFiles)
	out.SnapshotFiles = slices.Compact(out.SnapshotFiles)
	out.Inside, err = hasInside(l, d)
	return err
}

func snapshotFiles(xml string) ([]string, error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		return nil, err
	}
	var files []string
	// A definition in it spells out the whole chain of each disk.
	for _, disk := range []string{"/domainsnapshot/disks/disk", "/domainsnapshot/domain/devices/disk", "/domainsnapshot/inactiveDomain/devices/disk"} {
		for _, e := range doc.FindElements(disk + "//source") {
			if file := first(attr(e, "", "file"), attr(e, "", "dev")); file != "" {
				files = append(files, file)
			}
		}
	}
	return files, nil
}

// marksOf is listMarks for one VM.
func marksOf(l *libvirt.Libvirt, d libvirt.Domain) (marks, error) {
	var m marks
	checkpoints, _, err := l.DomainListAllCheckpoints(d, 1, 0)
	if err != nil && !isCode(err, libvirt.ErrNoSupport) {
		return m, err
	}
	saved, err := l.DomainHasManagedSaveImage(d, 0)
	if err != nil {
		return m, err
	}
	persistent, err := l.DomainIsPersistent(d)
	m.checkpoints, m.saved, m.transient = len(checkpoints) > 0, saved != 0, persistent == 0
	return m, err
}
