package fake

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
)

// XML makes a definition that this fake and libvirt understand. A Disk needs
// Target, Source and Format; Kind and Secret are understood.
func XML(name string, uuid backstay.VMID, disks ...backstay.Disk) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<domain type='qemu'><name>%s</name>", name)
	if uuid != "" {
		fmt.Fprintf(&b, "<uuid>%s</uuid>", uuid)
	}
	b.WriteString("<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>")
	for _, d := range disks {
		kind, source, inside := "file", "file='"+d.Source+"'", ""
		if d.Kind == backstay.BlockDisk {
			kind, source = "block", "dev='"+d.Source+"'"
		}
		if d.Secret != "" {
			inside = "<encryption format='luks'><secret type='passphrase' uuid='" + d.Secret + "'/></encryption>"
		}
		fmt.Fprintf(&b, "<disk type='%s' device='disk'><driver name='qemu' type='%s'/><source %s>%s</source><target dev='%s' bus='virtio'/></disk>", kind, d.Format, source, inside, d.Target)
	}
	b.WriteString("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>")
	return b.String()
}

// definition is a domain's XML.
type definition struct{ doc *etree.Document }

func parse(xml string) (*definition, error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		return nil, err
	}
	d := &definition{doc}
	if d.text("name") == "" {
		return nil, errors.New("domain has no name")
	}
	if d.text("uuid") == "" {
		b := make([]byte, 16)
		_, _ = rand.Read(b) // never fails
		s := hex.EncodeToString(b)
		el := etree.NewElement("uuid")
		el.SetText(s[:8] + "-" + s[8:12] + "-4" + s[13:16] + "-8" + s[17:20] + "-" + s[20:])
		d.doc.Root().InsertChildAt(1, el)
	}
	return d, nil
}

func (d *definition) text(path string) string {
	if el := d.doc.Root().FindElement("./" + path); el != nil {
		return strings.TrimSpace(el.Text())
	}
	return ""
}

func (d *definition) attr(path, name string) string {
	if el := d.doc.Root().FindElement("./" + path); el != nil {
		return el.SelectAttrValue(name, "")
	}
	return ""
}

func (d *definition) xml() string { s, _ := d.doc.WriteToString(); return s }

func (d *definition) copy() *definition { return &definition{d.doc.Copy()} }

func (d *definition) id() backstay.VMID { return backstay.VMID(strings.ToLower(d.text("uuid"))) }

func (d *definition) diskElement(target backstay.DiskTarget) *etree.Element {
	for _, el := range d.doc.Root().FindElements("./devices/disk") {
		if t := el.SelectElement("target"); t != nil && t.SelectAttrValue("dev", "") == string(target) {
			return el
		}
	}
	return nil
}

func (d *definition) disks() []backstay.Disk {
	var disks []backstay.Disk
	for _, el := range d.doc.Root().FindElements("./devices/disk") {
		disk := backstay.Disk{Device: el.SelectAttrValue("device", "disk")}
		if t := el.SelectElement("target"); t != nil {
			disk.Target, disk.Bus = backstay.DiskTarget(t.SelectAttrValue("dev", "")), t.SelectAttrValue("bus", "")
		}
		if s := el.SelectElement("source"); s != nil {
			disk.Source = locationOf(el)
		}
		if s := el.SelectElement("driver"); s != nil {
			disk.Format = s.SelectAttrValue("type", "raw")
		}
		if kind := el.SelectAttrValue("type", ""); kind == "block" {
			disk.Kind = backstay.BlockDisk
		}
		if s := el.FindElement("./source/encryption/secret"); s != nil {
			disk.Secret = s.SelectAttrValue("uuid", "")
		}
		switch info, err := imageInfo(disk.Source); {
		case disk.Device != "disk":
			disk.Reason = "a " + disk.Device + " is not backed up"
		case disk.Source == "":
			disk.Reason = "the disk has no file"
		case el.SelectElement("shareable") != nil:
			disk.Reason = "the disk is shared between VMs"
		case el.SelectElement("readonly") != nil:
			disk.Reason = "the disk is read-only"
		case err != nil:
			disk.Reason = "the disk's file cannot be read: " + err.Error()
		default:
			disk.Size = info.VirtualSize
		}
		disks = append(disks, disk)
	}
	return disks
}

func locationOf(disk *etree.Element) string {
	source := disk.SelectElement("source")
	if source == nil {
		return ""
	}
	return source.SelectAttrValue("file", source.SelectAttrValue("dev", ""))
}

func formatOf(disk *etree.Element) string {
	format := disk.SelectElement("driver").SelectAttrValue("type", "")
	if format == "raw" && disk.FindElement("./source/encryption") != nil {
		return "luks"
	}
	return format
}

// setDisk lets a disk use a file, in the hypervisor's own words.
func (d *definition) setDisk(target backstay.DiskTarget, path string) error {
	el := d.diskElement(target)
	if el == nil {
		return fmt.Errorf("no disk %s", target)
	}
	info, err := imageInfo(path)
	if err != nil {
		return err
	}
	if b := el.SelectElement("backingStore"); b != nil {
		el.RemoveChild(b)
	}
	el.CreateAttr("type", "file")
	source := el.SelectElement("source")
	for _, c := range source.ChildElements() {
		source.RemoveChild(c)
	}
	source.RemoveAttr("dev")
	source.CreateAttr("file", path)
	if info.Format == "luks" {
		info.Format = "raw"
	}
	el.SelectElement("driver").CreateAttr("type", info.Format)
	if head, err := imageHeader(path); err == nil && head.Secret != "" {
		encryption := source.CreateElement("encryption")
		encryption.CreateAttr("format", "luks")
		secret := encryption.CreateElement("secret")
		secret.CreateAttr("type", "passphrase")
		secret.CreateAttr("uuid", head.Secret)
	}
	return nil
}

// putBack lets a disk use what an element of before says.
func (d *definition) putBack(target backstay.DiskTarget, element string) error {
	el := d.diskElement(target)
	if el == nil {
		return fmt.Errorf("no disk %s", target)
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(element); err != nil {
		return err
	}
	old := doc.Root()
	el.CreateAttr("type", old.SelectAttrValue("type", "file"))
	for _, tag := range []string{"driver", "source", "backingStore"} {
		at := 0
		if e := el.SelectElement(tag); e != nil {
			at = e.Index()
			el.RemoveChild(e)
		}
		if e := old.SelectElement(tag); e != nil {
			el.InsertChildAt(at, e.Copy())
		}
	}
	return nil
}

// elements is each disk's element as text.
func (d *definition) elements() map[backstay.DiskTarget]string {
	all := map[backstay.DiskTarget]string{}
	for _, disk := range d.disks() {
		doc := etree.NewDocument()
		doc.SetRoot(d.diskElement(disk.Target).Copy())
		if text, err := doc.WriteToString(); err == nil {
			all[disk.Target] = text
		}
	}
	return all
}

func (d *definition) uefi() bool {
	return d.attr("os", "firmware") == "efi" || d.attr("os/loader", "type") == "pflash"
}

func (v *vm) describe() backstay.VM {
	d := v.current()
	m := backstay.VM{
		ID: d.id(), Name: d.text("name"), State: backstay.VMShutOff, Firmware: backstay.BIOS,
		TPM: d.doc.Root().FindElement("./devices/tpm") != nil, Agent: v.agent, Arch: d.attr("os/type", "arch"),
		Machine: d.attr("os/type", "machine"), Virt: d.doc.Root().SelectAttrValue("type", ""),
		Emulator: d.text("devices/emulator"), MemoryMiB: 64, VCPUs: 1, Disks: d.disks(),
	}
	if d.uefi() {
		m.Firmware = backstay.UEFI
	}
	switch {
	case v.live != nil && v.paused:
		m.State = backstay.VMPaused
	case v.live != nil:
		m.State = backstay.VMRunning
	case m.Agent == backstay.AgentConnected:
		m.Agent = backstay.AgentDisconnected
	}
	for _, el := range d.doc.Root().FindElements("./devices/interface") {
		n := backstay.NIC{Kind: el.SelectAttrValue("type", "")}
		if e := el.SelectElement("mac"); e != nil {
			n.MAC = e.SelectAttrValue("address", "")
		}
		if e := el.SelectElement("source"); e != nil {
			n.Network = e.SelectAttrValue("network", e.SelectAttrValue("bridge", ""))
		}
		m.NICs = append(m.NICs, n)
	}
	for _, el := range d.doc.Root().FindElements("./metadata/*") {
		if el.NamespaceURI() == backstay.PlacementSpace {
			m.AntiAffinityGroup = el.SelectAttrValue("antiAffinityGroup", "")
		}
	}
	for _, c := range v.checkpoints {
		m.Checkpoints = append(m.Checkpoints, c.Name)
	}
	if len(m.Possible()) == 0 {
		m.Reason = "no disk of the VM can be backed up"
	}
	return m
}
