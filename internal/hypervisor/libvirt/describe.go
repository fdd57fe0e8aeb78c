package libvirt

import (
	"fmt"
	"slices"
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
	vm.AntiAffinityGroup = antiAffinityGroup(root)
	for _, e := range root.FindElements("./devices/interface") {
		vm.NICs = append(vm.NICs, backstay.NIC{
			MAC: attr(e, "mac", "address"), Kind: attr(e, "", "type"), Model: attr(e, "model", "type"),
			Network: first(attr(e, "source", "network"), attr(e, "source", "bridge"), attr(e, "source", "dev")),
		})
	}
	return vm
}

// antiAffinityGroup is what a deploy noted in the VM's metadata.
func antiAffinityGroup(root *etree.Element) string {
	for _, e := range root.FindElements("./metadata/*") {
		if e.NamespaceURI() == backstay.PlacementSpace {
			return e.SelectAttrValue("antiAffinityGroup", "")
		}
	}
	return ""
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

// describeDisk gives a disk with its verdict, as far as its definition and its
// images tell it.
func describeDisk(e *etree.Element) backstay.Disk {
	d := backstay.Disk{
		Target: backstay.DiskTarget(attr(e, "target", "dev")), Bus: attr(e, "target", "bus"),
		Device: first(attr(e, "", "device"), "disk"), Source: location(e), Kind: diskKind(e),
		Format: first(attr(e, "driver", "type"), "raw"),
	}
	d.Boot, _ = strconv.Atoi(attr(e, "boot", "order")) // absent: 0
	if d.Reason = verdict(e, &d); d.Reason != "" {
		return d
	}
	if d.Secret, d.Reason = secretOf(e); d.Reason != "" {
		return d
	}
	if d.Kind == backstay.NetworkDisk {
		return d // who can ask its server completes it
	}
	d.Size, d.Reason = inspect(e, &d)
	return d
}

func diskKind(e *etree.Element) string {
	switch kind := attr(e, "", "type"); {
	case kind == "block":
		return backstay.BlockDisk
	case kind == "volume", attr(e, "", "volume") != "":
		return backstay.VolumeDisk
	case kind == "network":
		return backstay.NetworkDisk
	}
	return ""
}

// inspect reads the headers of a disk's images.
func inspect(e *etree.Element, d *backstay.Disk) (size int64, reason string) {
	format := imageFormat(d.Format, d.Secret)
	h, err := readHeader(d.Source, format)
	switch {
	case err != nil:
		return h.size, "its image cannot be read: " + err.Error()
	case h.encrypted && d.Secret == "":
		return h.size, "its image is encrypted, and its definition names no secret"
	case !h.encrypted && d.Secret != "":
		return h.size, "its image is not encrypted, although its definition names a secret: what the guest writes lies there in the clear"
	case h.dataFile:
		return h.size, "its image keeps the data in another file"
	case h.size == 0:
		return h.size, "it has no bytes"
	case d.Kind == backstay.BlockDisk && format == "qcow2" && h.room < worstCase(h.size):
		return h.size, fmt.Sprintf("its qcow2 image of %d bytes may not fit its block device of %d once layers are merged into it", h.size, h.room)
	case d.Secret == "":
		return h.size, ""
	}
	if secrets := chainSecrets(e); len(secrets) > 1 {
		return h.size, "the images of its chain are encrypted with different secrets"
	}
	if chain, complete := walk(d.Source, format); !complete {
		return h.size, fmt.Sprintf("the images below it cannot be followed beyond %s", chain[len(chain)-1].path)
	}
	return h.size, ""
}

// worstCase is how many bytes a qcow2 image takes at most in clusters of 64 KiB
// without a snapshot of its own: content, and a thousandth for its tables.
func worstCase(size int64) int64 { return size + size>>10 + 4<<20 }

// chainSecrets are the secrets that a disk's element and its recorded chain name.
func chainSecrets(e *etree.Element) []string {
	var secrets []string
	for ; e != nil; e = find(e, "backingStore") {
		if secret, _ := secretOf(e); secret != "" && !slices.Contains(secrets, secret) {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

// verdict says why a disk cannot be backed up, as far as its definition tells.
func verdict(e *etree.Element, d *backstay.Disk) string {
	if d.Device != "disk" {
		return map[string]string{
			"cdrom":  "a CD-ROM drive is not backed up",
			"floppy": "a floppy drive is not backed up",
			"lun":    "a whole SCSI device that is passed through (lun) cannot have an overlay",
		}[d.Device] + unknownDevice(d.Device)
	}
	if reason := kindVerdict(e, d); reason != "" {
		return reason
	}
	switch {
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

// kindVerdict is verdict as far as the kind of disk matters.
func kindVerdict(e *etree.Element, d *backstay.Disk) string {
	kind, protocol := attr(e, "", "type"), attr(e, "source", "protocol")
	switch {
	case kind == "volume":
		return first(attr(e, "", "volume-reason"), "its volume cannot be found")
	case kind == "vhostuser" || kind == "vhostvdpa":
		return "it is served by another process (" + kind + "), which has no overlays"
	case kind == "network" && protocol != "nbd":
		return "it is a network disk (" + protocol + "); of these only nbd is backed up"
	case kind == "network" && attr(e, "source", "tls") == "yes":
		return "it is a network disk over TLS, whose keys only libvirt knows"
	case kind == "network" && d.Source == "":
		return "it is a network disk whose server cannot be told"
	case kind == "network" && (find(e, "source/encryption") != nil || find(e, "encryption") != nil):
		return "it is a network disk that is encrypted on the host; QEMU's tools cannot open layers that stand on one"
	case kind == "network" && d.Format != "raw":
		return "it is a network disk with a " + d.Format + " image on it; only raw ones are backed up"
	case kind != "file" && kind != "block" && kind != "network":
		return "a disk of the kind " + kind + " has no overlays"
	case d.Source == "":
		return "it is empty"
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
// definition does not have on the same image. The VM forgets such a disk when it
// is shut off, and with it the overlay: who attached the disk's own file again
// would find it as it was at the first point.
func excludePassing(vm *backstay.VM, inactive *etree.Element) {
	for i := range vm.Disks {
		d := &vm.Disks[i]
		if d.Reason != "" {
			continue
		}
		if e := diskElement(inactive, d.Target); e == nil || !samePath(location(e), d.Source) {
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
		source, target := location(e), backstay.DiskTarget(attr(e, "target", "dev"))
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
		secret, _ := secretOf(e)
		links, _ := walk(source, imageFormat(first(attr(e, "driver", "type"), "raw"), secret))
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
	chain = []link{linkOf(disk, first(attr(disk, "driver", "type"), "raw"))}
	for b := find(disk, "backingStore"); b != nil; b = find(b, "backingStore") {
		if find(b, "source") == nil {
			return chain, true
		}
		chain = append(chain, linkOf(b, attr(b, "format", "type")))
	}
	return chain, false
}

func linkOf(e *etree.Element, format string) link {
	secret, _ := secretOf(e)
	path := first(location(e), attr(e, "source", "name"), attr(e, "source", "volume"))
	return link{path: path, format: imageFormat(format, secret), encrypted: secret != "", index: first(attr(e, "source", "index"), attr(e, "", "index"))}
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
