package libvirt

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
)

// parseDomain reads a domain's XML. Elements that we do not know stay in it.
func parseDomain(xml string) (*etree.Element, error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		return nil, fmt.Errorf("read domain XML: %w", err)
	}
	if doc.Root() == nil || doc.Root().Tag != "domain" {
		return nil, fmt.Errorf("read domain XML: it is not a domain")
	}
	return doc.Root(), nil
}

func find(e *etree.Element, path string) *etree.Element {
	if e == nil {
		return nil
	}
	return e.FindElement("./" + path)
}

func attr(e *etree.Element, path, name string) string {
	if path != "" {
		e = find(e, path)
	}
	if e == nil {
		return ""
	}
	return e.SelectAttrValue(name, "")
}

func text(e *etree.Element, path string) string {
	if e = find(e, path); e == nil {
		return ""
	}
	return strings.TrimSpace(e.Text())
}

// describe makes the product's VM out of a domain's XML. It reads the headers of
// the disks' files, and nothing else.
func describe(root *etree.Element, state backstay.VMState) backstay.VM {
	vm := backstay.VM{
		ID: backstay.VMID(strings.ToLower(text(root, "uuid"))), Name: text(root, "name"), State: state,
		Firmware: firmware(root), TPM: find(root, "devices/tpm/backend[@type='emulator']") != nil, Agent: agentState(root, state),
		Arch: attr(root, "os/type", "arch"), Machine: attr(root, "os/type", "machine"), Virt: attr(root, "", "type"),
		Emulator: text(root, "devices/emulator"), MemoryMiB: memoryMiB(root),
	}
	vm.VCPUs, _ = strconv.Atoi(text(root, "vcpu")) // absent or odd: 0, as unknown
	for _, e := range root.FindElements("./devices/disk") {
		vm.Disks = append(vm.Disks, describeDisk(e))
	}
	for _, e := range root.FindElements("./devices/interface") {
		vm.NICs = append(vm.NICs, backstay.NIC{
			MAC: attr(e, "mac", "address"), Kind: attr(e, "", "type"), Model: attr(e, "model", "type"),
			Network: first(attr(e, "source", "network"), attr(e, "source", "bridge"), attr(e, "source", "dev")),
		})
	}
	return vm
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func firmware(root *etree.Element) backstay.Firmware {
	if attr(root, "os", "firmware") == "efi" || attr(root, "os/loader", "type") == "pflash" {
		return backstay.UEFI
	}
	return backstay.BIOS
}

func agentState(root *etree.Element, state backstay.VMState) backstay.AgentState {
	target := find(root, "devices/channel/target[@name='org.qemu.guest_agent.0']")
	switch {
	case target == nil:
		return backstay.AgentNone
	case attr(target, "", "state") == "connected" && state != backstay.VMShutOff:
		return backstay.AgentConnected
	}
	return backstay.AgentDisconnected
}

// memoryMiB reads <memory>; libvirt itself always answers in KiB.
func memoryMiB(root *etree.Element) int64 {
	n, err := strconv.ParseInt(text(root, "memory"), 10, 64)
	if err != nil {
		return 0
	}
	switch unit := attr(root, "memory", "unit"); unit {
	case "", "KiB", "k":
		return n >> 10
	case "b", "bytes":
		return n >> 20
	case "GiB", "G":
		return n << 10
	default:
		return n
	}
}

// describeDisk gives a disk with its verdict.
func describeDisk(e *etree.Element) backstay.Disk {
	d := backstay.Disk{
		Target: backstay.DiskTarget(attr(e, "target", "dev")), Bus: attr(e, "target", "bus"),
		Device: first(attr(e, "", "device"), "disk"),
		Source: first(attr(e, "source", "file"), attr(e, "source", "dev")),
		Format: first(attr(e, "driver", "type"), "raw"),
	}
	if d.Reason = verdict(e, &d); d.Reason != "" {
		return d
	}
	h, err := readHeader(d.Source, d.Format)
	switch {
	case err != nil:
		d.Reason = "its file cannot be read: " + err.Error()
	case h.encrypted:
		d.Reason = "its image is encrypted on the host; an overlay of it would hold plain data"
	case h.dataFile:
		d.Reason = "its image keeps the data in another file"
	case h.size == 0:
		d.Reason = "it has no bytes"
	}
	d.Size = h.size
	return d
}

// verdict says why a disk cannot be backed up, as far as its definition tells.
func verdict(e *etree.Element, d *backstay.Disk) string {
	kind := attr(e, "", "type")
	switch {
	case d.Device != "disk":
		return map[string]string{
			"cdrom":  "a CD-ROM drive is not backed up",
			"floppy": "a floppy drive is not backed up",
			"lun":    "a whole SCSI device that is passed through (lun) cannot have an overlay",
		}[d.Device] + unknownDevice(d.Device)
	case find(e, "source/encryption") != nil || find(e, "encryption") != nil:
		return "it is encrypted on the host; an overlay of it would hold plain data"
	case kind == "network":
		return "it is a network disk (" + attr(e, "source", "protocol") + "); only disks in files are backed up in this release"
	case kind == "block":
		return "it is a block device; only disks in files are backed up in this release"
	case kind == "volume":
		return "it is named as a volume of a storage pool; name its file instead"
	case kind == "vhostuser" || kind == "vhostvdpa":
		return "it is served by another process (" + kind + "), which has no overlays"
	case kind != "file":
		return "a disk of the kind " + kind + " has no overlays"
	case d.Source == "":
		return "it is empty"
	case find(e, "shareable") != nil:
		return "it is shared with other VMs (shareable)"
	case find(e, "readonly") != nil:
		return "it is read-only"
	case find(e, "transient") != nil:
		return "it is transient: what the guest writes is thrown away"
	case find(e, "source/slices") != nil:
		return "it is a slice of its file"
	case find(e, "source/dataStore") != nil:
		return "its image keeps the data in another file"
	case d.Format != "qcow2" && d.Format != "raw":
		return "its format is " + d.Format + "; only qcow2 and raw are backed up"
	}
	return ""
}

func unknownDevice(device string) string {
	switch device {
	case "cdrom", "floppy", "lun":
		return ""
	}
	return "a device of the kind " + device + " is not backed up"
}

// excludePassing says of the disks of a running VM which of them its persistent
// definition does not have on the same file. The VM forgets such a disk when it
// is shut off, and with it the overlay: who attached the disk's own file again
// would find it as it was at the first point.
func excludePassing(vm *backstay.VM, inactive *etree.Element) {
	for i := range vm.Disks {
		d := &vm.Disks[i]
		if d.Reason != "" {
			continue
		}
		if e := diskElement(inactive, d.Target); e == nil || !samePath(attr(e, "source", "file"), d.Source) {
			d.Reason = "it is attached until the VM is shut off, and not in its persistent definition (virsh attach-disk --persistent)"
		}
	}
}

// chains lists the files of each disk from the active layer down. The definition
// of a running VM has what QEMU has open; that of one that is shut off may have
// an old chain, so there the images' own headers are followed.
func chains(root *etree.Element, running bool) map[backstay.DiskTarget][]string {
	all := map[backstay.DiskTarget][]string{}
	for _, e := range root.FindElements("./devices/disk") {
		source, target := attr(e, "source", "file"), backstay.DiskTarget(attr(e, "target", "dev"))
		if source == "" {
			continue
		}
		if running {
			links, _ := recordedChain(e)
			for _, l := range links {
				all[target] = append(all[target], l.path)
			}
			continue
		}
		links, _ := walk(source, first(attr(e, "driver", "type"), "raw"))
		for _, l := range links {
			all[target] = append(all[target], l.path)
		}
	}
	return all
}

// recordedChain is the chain that a disk's element names. It is ended if it says
// itself that nothing lies below its last file; otherwise the rest of the chain
// is what that file's header says.
func recordedChain(disk *etree.Element) (chain []link, ended bool) {
	chain = []link{{attr(disk, "source", "file"), first(attr(disk, "driver", "type"), "raw")}}
	for b := find(disk, "backingStore"); b != nil; b = find(b, "backingStore") {
		source := find(b, "source")
		if source == nil {
			return chain, true
		}
		path := first(attr(source, "", "file"), attr(source, "", "dev"), attr(source, "", "name"))
		chain = append(chain, link{path, attr(b, "format", "type")})
	}
	return chain, false
}

// console is the file or terminal that the guest's serial console is written to.
func console(root *etree.Element) string {
	var terminal string
	for _, path := range []string{"./devices/serial", "./devices/console"} {
		for _, e := range root.FindElements(path) {
			if log := attr(e, "log", "file"); log != "" {
				return log
			}
			switch source := attr(e, "source", "path"); {
			case source == "":
			case attr(e, "", "type") == "file":
				return source
			case attr(e, "", "type") == "pty":
				terminal = first(terminal, source)
			}
		}
	}
	return terminal
}

// Where libvirt's system daemon keeps what belongs to a VM.
const (
	nvramFolder = "/var/lib/libvirt/qemu/nvram"
	tpmFolder   = "/var/lib/libvirt/swtpm"
)

// nvram is the path of the firmware variables. The inactive definition of a VM
// with automatic firmware does not name it; the live one does.
func nvram(live, inactive *etree.Element) string {
	if firmware(inactive) != backstay.UEFI || attr(inactive, "os/loader", "stateless") == "yes" {
		return ""
	}
	for _, root := range []*etree.Element{live, inactive} {
		if path := first(attr(root, "os/nvram/source", "file"), text(root, "os/nvram")); path != "" {
			return path
		}
	}
	return nvramFolder + "/" + text(inactive, "name") + "_VARS.fd"
}

func tpmState(inactive *etree.Element) string {
	if find(inactive, "devices/tpm/backend[@type='emulator']") == nil {
		return ""
	}
	if path := attr(inactive, "devices/tpm/backend/source", "path"); path != "" {
		return path
	}
	return tpmFolder + "/" + strings.ToLower(text(inactive, "uuid"))
}
