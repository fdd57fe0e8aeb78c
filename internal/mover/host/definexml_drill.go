package host

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// consoleFolder is where a drill's VMs write what their serial consoles say. It is
// that of libvirt's own logs, which QEMU may write to.
const consoleFolder = "/var/log/libvirt/qemu"

// confine makes of a new VM one of a drill: all its interfaces are in the drill's
// network, nothing of it leads to the host or out of it, it gets no more than its caps,
// and its first serial line is written down.
func (e *definitionEditor) confine(devices *etree.Element) {
	for _, d := range devices.ChildElements() {
		switch d.Tag {
		case "interface":
			e.confineNIC(d)
		case "filesystem", "shmem", "vsock", "redirdev", "smartcard", "crypto":
			e.warn("a %s is left out: it leads out of the drill", d.Tag)
			remove(devices, d)
		case "parallel", "channel":
			e.confineLine(devices, d)
		case "rng":
			if b := d.SelectElement("backend"); b != nil && b.SelectAttrValue("model", "") == "egd" {
				e.warn("a source of random numbers is left out: it leads out of the drill")
				remove(devices, d)
			}
		}
	}
	e.writeConsole(devices)
	// Whatever is said to QEMU itself, a network of its own among it.
	for _, tag := range []string{"commandline", "override", "deprecation"} {
		if e.root.SelectElement(tag) != nil {
			e.warn("arguments for QEMU itself are left out of the drill")
			removeAll(e.root, tag)
		}
	}
	e.capCPUs()
	e.capMemory(devices)
}

// confineNIC keeps what the guest sees of an interface, and changes what it is
// connected to.
func (e *definitionEditor) confineNIC(d *etree.Element) {
	setAttr(d, "type", "network")
	d.RemoveAttr("managed")
	d.RemoveAttr("trustGuestRxFilters")
	removeAll(d, "source", "virtualport", "vlan", "bandwidth", "filterref", "port", "portForward", "backend", "ip", "route", "guest", "link", "teaming", "coalesce", "script", "downscript", "driver")
	source := etree.NewElement("source")
	source.CreateAttr("network", e.plan.Drill.Network)
	insertAfter(d, d.SelectElement("mac"), source)
}

// confineLine leaves out lines whose other end is outside: a host's file or socket, a
// port, another machine. What libvirt itself is at the end of, the guest agent's
// channel among it, stays.
func (e *definitionEditor) confineLine(devices, d *etree.Element) {
	switch kind := d.SelectAttrValue("type", ""); {
	case kind == "pty" || kind == "null" || kind == "spicevmc" || kind == "qemu-vdagent":
	case kind == "unix" && d.Tag == "channel" && d.FindElement("./source[@path]") == nil:
	default:
		e.warn("a %s is left out: it leads out of the drill", d.Tag)
		remove(devices, d)
	}
}

// writeConsole lets the first serial line write to a file that goes with the VM. The
// others, and consoles of other kinds, become terminals that nobody reads.
func (e *definitionEditor) writeConsole(devices *etree.Element) {
	path := filepath.Join(consoleFolder, e.plan.Name+"-console.log")
	// libvirt's own log of the VM goes as well: no other will ever have its name.
	e.out.Outputs = append(e.out.Outputs, filepath.Join(consoleFolder, e.plan.Name+".log"))
	written := false
	for _, d := range devices.ChildElements() {
		if d.Tag != "serial" && d.Tag != "console" {
			continue
		}
		target := d.SelectElement("target")
		if d.Tag == "console" && (target == nil || target.SelectAttrValue("type", "serial") == "serial") && devices.SelectElement("serial") != nil {
			remove(devices, d) // the serial line's other name, which libvirt makes anew
			continue
		}
		removeAll(d, "source", "protocol", "log")
		d.RemoveAttr("tty")
		setAttr(d, "type", "pty")
		if written || !e.options.FolderExists(consoleFolder) {
			continue
		}
		written = true
		setAttr(d, "type", "file")
		source := etree.NewElement("source")
		source.CreateAttr("path", path)
		d.InsertChildAt(0, source)
		e.out.Outputs = append(e.out.Outputs, path)
	}
}

// capCPUs gives the VM no more processors than it may have. How they are arranged and
// pinned goes with a cap that counts.
func (e *definitionEditor) capCPUs() {
	most, vcpu := e.plan.Drill.MaxCPUs, e.root.SelectElement("vcpu")
	if most <= 0 || vcpu == nil {
		return
	}
	if has, err := strconv.Atoi(strings.TrimSpace(vcpu.Text())); err == nil && has <= most {
		return
	}
	vcpu.SetText(strconv.Itoa(most))
	vcpu.RemoveAttr("current")
	vcpu.RemoveAttr("cpuset")
	removeAll(e.root, "vcpus", "cputune", "numatune")
	if cpu := e.root.SelectElement("cpu"); cpu != nil {
		removeAll(cpu, "topology", "numa")
	}
}

// capMemory gives it no more memory, and then none that is plugged in.
func (e *definitionEditor) capMemory(devices *etree.Element) {
	most, memory := e.plan.Drill.MaxMemory, e.root.SelectElement("memory")
	if most <= 0 || memory == nil || bytesOf(memory) <= most {
		return
	}
	for _, tag := range []string{"memory", "currentMemory"} {
		if m := e.root.SelectElement(tag); m != nil {
			setAttr(m, "unit", "KiB")
			m.SetText(strconv.FormatInt(most>>10, 10))
		}
	}
	removeAll(e.root, "maxMemory", "memtune", "numatune")
	removeAll(devices, "memory")
	if cpu := e.root.SelectElement("cpu"); cpu != nil {
		removeAll(cpu, "numa")
	}
}

// bytesOf reads an amount of memory in libvirt's words.
func bytesOf(e *etree.Element) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(e.Text()), 10, 64)
	if err != nil {
		return 0
	}
	unit, known := map[string]int64{
		"b": 1, "bytes": 1, "KB": 1e3, "k": 1 << 10, "KiB": 1 << 10, "MB": 1e6, "M": 1 << 20, "MiB": 1 << 20,
		"GB": 1e9, "G": 1 << 30, "GiB": 1 << 30, "TB": 1e12, "T": 1 << 40, "TiB": 1 << 40,
	}[e.SelectAttrValue("unit", "KiB")]
	if !known {
		return 0
	}
	return n * unit
}
