package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
)

// devices goes over all devices. Those that a second VM cannot have at the same
// time are changed or left out.
func (e *definitionEditor) devices(devices *etree.Element) error {
	for _, d := range devices.ChildElements() {
		switch d.Tag {
		case "emulator":
			e.emulator(devices, d)
		case "disk":
			if err := e.disk(devices, d); err != nil {
				return err
			}
		case "interface":
			e.nic(devices, d)
		case "serial", "console", "parallel", "channel":
			e.chardev(d)
		case "graphics":
			graphics(d)
		case "tpm":
			e.tpm(devices, d)
		case "vsock":
			if cid := d.SelectElement("cid"); cid != nil {
				cid.RemoveAttr("address")
				setAttr(cid, "auto", "yes")
			}
		case "hostdev", "lease", "input", "memory":
			e.exclusive(devices, d)
		}
	}
	return nil
}

// emulator lets libvirt choose the host's own, where that of the source is at no
// such place here: distributions differ.
func (e *definitionEditor) emulator(devices, d *etree.Element) {
	path := strings.TrimSpace(d.Text())
	if e.options.FileExists == nil || path == "" || e.options.FileExists(path) {
		return
	}
	e.warn("this host has no emulator %s; its own is used", path)
	remove(devices, d)
}

// disk gives a planned disk its new file. A disk that the point does not hold
// goes, a drive for media stays and is empty.
func (e *definitionEditor) disk(devices, d *etree.Element) error {
	target := d.SelectElement("target")
	if target == nil {
		return fmt.Errorf("a disk in the point's definition has no target")
	}
	name := backstay.DiskTarget(target.SelectAttrValue("dev", ""))
	at := slices.IndexFunc(e.plan.Disks, func(p backstay.PlannedDisk) bool { return p.Target == name })
	removeAll(d, "backingStore", "mirror", "auth", "encryption")
	if at < 0 {
		device := d.SelectAttrValue("device", "disk")
		if device != "cdrom" && device != "floppy" {
			e.warn("disk %s is not part of the point and is left out", name)
			remove(devices, d)
			return nil
		}
		removeAll(d, "source")
		setAttr(d, "type", "file")
		return nil
	}
	planned := e.plan.Disks[at]
	e.seen = append(e.seen, name)
	setAttr(d, "type", "file")
	if d.SelectAttrValue("device", "disk") == "lun" {
		setAttr(d, "device", "disk")
	}
	d.RemoveAttr("rawio")
	d.RemoveAttr("sgio")
	diskDriver(d, planned.Format)
	source := d.SelectElement("source")
	if source == nil {
		source = etree.NewElement("source")
		insertAfter(d, d.SelectElement("driver"), source)
	}
	empty(source)
	source.Attr = nil
	if planned.Device {
		setAttr(d, "type", "block")
		setAttr(source, "dev", planned.Path)
		return nil
	}
	setAttr(source, "file", planned.Path)
	below := e.options.Below[name]
	if planned.Secret != "" {
		encrypted(source, planned.Secret)
	}
	if planned.Secret != "" || guestLUKS(below) {
		backing(d, source, below)
	}
	return nil
}

func diskDriver(d *etree.Element, format string) {
	driver := child(d, "driver")
	if driver.SelectAttr("name") == nil {
		setAttr(driver, "name", "qemu")
	}
	setAttr(driver, "type", format)
	if format != "qcow2" {
		removeAll(driver, "metadata_cache")
		driver.RemoveAttr("discard_no_unref")
	}
}

// nic gives an interface the planned address and network. One that is not in
// the plan could clash with its source: it gets a fresh address and no link.
func (e *definitionEditor) nic(devices, d *etree.Element) {
	planned := backstay.PlannedNIC{LinkDown: true}
	if e.nics < len(e.plan.NICs) {
		planned = e.plan.NICs[e.nics]
	} else {
		e.warn("network interface %d is not in the plan; its link is down", e.nics+1)
	}
	e.nics++
	if d.SelectAttrValue("type", "") == "hostdev" {
		e.warn("a network device of the host is left out: only one VM can have it")
		remove(devices, d)
		return
	}
	if planned.MAC == "" {
		removeAll(d, "mac")
	} else {
		setAttr(child(d, "mac"), "address", planned.MAC)
	}
	if source := d.SelectElement("source"); source != nil {
		source.RemoveAttr("portid")
		key := map[string]string{"network": "network", "bridge": "bridge", "direct": "dev"}[d.SelectAttrValue("type", "")]
		if key != "" && planned.Network != "" {
			setAttr(source, key, planned.Network)
		}
	}
	// The host's end of the wire has a name of its own, and Open vSwitch's port
	// an id; both are made anew.
	removeAll(d, "target")
	for _, p := range d.FindElements("./virtualport/parameters") {
		if p.RemoveAttr("interfaceid"); len(p.Attr) == 0 {
			remove(p.Parent(), p)
		}
	}
	if backend := d.SelectElement("backend"); backend != nil {
		backend.RemoveAttr("logFile")
	}
	if planned.LinkDown {
		setAttr(child(d, "link"), "state", "down")
	}
}

// graphics lets libvirt choose the ports, since the source may have its own open.
func graphics(d *etree.Element) {
	switch d.SelectAttrValue("type", "") {
	case "vnc", "spice", "rdp":
	default:
		return
	}
	listensOnSocket := d.SelectAttr("socket") != nil
	for _, listen := range d.SelectElements("listen") {
		if listen.SelectAttrValue("type", "") == "socket" {
			listen.RemoveAttr("socket")
			listensOnSocket = true
		}
	}
	d.RemoveAttr("socket")
	d.RemoveAttr("tlsPort")
	if d.SelectAttr("websocket") != nil {
		setAttr(d, "websocket", "-1")
	}
	if listensOnSocket {
		return
	}
	if d.SelectAttr("port") != nil {
		setAttr(d, "port", "-1")
	}
	setAttr(d, "autoport", "yes")
}

// tpm lets the VM keep an emulated TPM, whose state is copied to the place that
// libvirt chooses for its UUID. The host's own TPM can serve only one VM.
func (e *definitionEditor) tpm(devices, d *etree.Element) {
	backend := d.SelectElement("backend")
	if backend == nil {
		return
	}
	if backend.SelectAttrValue("type", "") == "passthrough" {
		e.warn("the host's own TPM is left out: only one VM can have it")
		remove(devices, d)
		return
	}
	removeAll(backend, "source")
}

// exclusive leaves out what belongs to the host and can only be in one VM.
func (e *definitionEditor) exclusive(devices, d *etree.Element) {
	switch d.Tag {
	case "hostdev":
		e.warn("a %s device of the host is left out: only one VM can have it", d.SelectAttrValue("type", "passed-through"))
	case "lease":
		e.warn("a lease of a lock manager is left out: the source holds it")
	case "input":
		if kind := d.SelectAttrValue("type", ""); kind != "passthrough" && kind != "evdev" {
			return
		}
		e.warn("an input device of the host is left out: only one VM can have it")
	case "memory":
		// Its content is a file of the source, which is never written to (I8).
		if d.FindElement("./source/path") == nil {
			return
		}
		e.warn("memory of kind %s is left out: its file belongs to the source", d.SelectAttrValue("model", ""))
	}
	remove(devices, d)
}
