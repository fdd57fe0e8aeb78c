package deploy

import (
	"fmt"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
)

func (b *builder) devices(devices *etree.Element) {
	if emulator := devices.SelectElement("emulator"); emulator != nil {
		b.text(emulator, backstay.Parameter{Name: "emulator", Type: backstay.TypePath, Description: "QEMU on the host"})
	}
	for _, d := range b.disks {
		for _, e := range devices.SelectElements("disk") {
			if target := e.SelectElement("target"); target != nil && target.SelectAttrValue("dev", "") == string(d.Target) {
				b.disk(e, target, d)
			}
		}
	}
	for i, e := range devices.SelectElements("interface") {
		b.nic(i, e)
	}
}

// disk: the address that a disk has on one bus is nothing on another.
func (b *builder) disk(e, target *etree.Element, d Disk) {
	prefix := "disk." + string(d.Target) + "."
	source := e.SelectElement("source")
	if source == nil {
		return // an empty drive
	}
	if source.SelectAttr("file") != nil || source.SelectAttr("dev") != nil {
		key := "file"
		if source.SelectAttr("dev") != nil {
			key = "dev"
		}
		b.attr(source, key, backstay.Parameter{Name: prefix + "path", Type: backstay.TypePath, Description: "the restored disk " + string(d.Target)})
	}
	if driver := e.SelectElement("driver"); driver != nil && driver.SelectAttr("type") != nil {
		b.attr(driver, "type", backstay.Parameter{Name: prefix + "format", Type: backstay.TypeString, Allowed: []string{"qcow2", "raw"}, Description: "its format"})
	}
	bus := target.SelectAttrValue("bus", "")
	if bus == "" {
		return
	}
	allowed := []string{"virtio", "sata", "scsi", "usb"}
	if !contains(allowed, bus) {
		allowed = append(allowed, bus)
	}
	b.attr(target, "bus", backstay.Parameter{Name: prefix + "bus", Type: backstay.TypeString, Allowed: allowed, Description: "its bus; the guest must have a driver for it"})
	for _, a := range e.SelectElements("address") {
		when(a, prefix+"bus="+bus)
	}
}

// nicSource is the attribute that names what an interface of a kind is joined to.
var nicSource = map[string]string{"network": "network", "bridge": "bridge", "direct": "dev"}

func (b *builder) nic(i int, e *etree.Element) {
	prefix := fmt.Sprintf("nic.%d.", i)
	kind := e.SelectAttrValue("type", "")
	if source := e.SelectElement("source"); source != nil && source.SelectAttr(nicSource[kind]) != nil {
		b.attr(source, nicSource[kind], backstay.Parameter{Name: prefix + "network", Type: backstay.TypeString, Pattern: `[^/[:cntrl:]]+`, Description: "the " + kind + " of the host that the interface is joined to"})
	}
	if mac := e.SelectElement("mac"); mac != nil && mac.SelectAttr("address") != nil {
		b.attr(mac, "address", backstay.Parameter{Name: prefix + "mac", Type: backstay.TypeMAC, Description: "its address; no VM of the region may have it"})
	}
	if model := e.SelectElement("model"); model != nil && model.SelectAttr("type") != nil {
		b.attr(model, "type", backstay.Parameter{Name: prefix + "model", Type: backstay.TypeString, Pattern: `[A-Za-z0-9._-]+`, Description: "its model; the guest must have a driver for it"})
	}
	link, made := child(e, "link", e.SelectElement("model"))
	state := link.SelectAttrValue("state", "up")
	b.add(backstay.Parameter{Name: prefix + "link", Type: backstay.TypeString, Allowed: []string{"up", "down"}, Description: "whether its cable is plugged in"}, state)
	link.CreateAttr("state", "${"+prefix+"link}")
	if made {
		when(link, prefix+"link=down")
	}
}

// placement is where on its host, and on which hosts, the VM may be.
func (b *builder) placement() {
	b.hugepages()
	b.pinning()
	b.nodes()
	group, hosts := "", ""
	metadata, made := child(b.root, "metadata", b.root.SelectElement("description"))
	if made {
		when(metadata, "antiAffinityGroup|hostGroup")
	}
	for _, e := range metadata.ChildElements() {
		if e.NamespaceURI() == backstay.PlacementSpace {
			group, hosts = e.SelectAttrValue("antiAffinityGroup", ""), e.SelectAttrValue("hostGroup", "")
			remove(metadata, e)
		}
	}
	b.add(backstay.Parameter{
		Name: "antiAffinityGroup", Type: backstay.TypeString, Pattern: `([A-Za-z0-9][A-Za-z0-9._-]{0,62})?`,
		Description: "no two VMs of one group are deployed on one host; none if empty",
	}, group)
	b.add(backstay.Parameter{Name: "hostGroup", Type: backstay.TypeNames, Description: "the only hosts on which the VM may be deployed; all if empty"}, hosts)
	p := etree.NewElement("placement:vm")
	p.CreateAttr("xmlns:placement", backstay.PlacementSpace)
	p.CreateAttr("antiAffinityGroup", "${antiAffinityGroup}")
	p.CreateAttr("hostGroup", "${hostGroup}")
	when(p, "antiAffinityGroup|hostGroup")
	if all := metadata.ChildElements(); len(all) > 0 {
		insertAfter(metadata, all[len(all)-1], p)
	} else {
		metadata.AddChild(p)
	}
}

func (b *builder) hugepages() {
	backing, fresh := child(b.root, "memoryBacking", b.root.SelectElement("currentMemory"))
	if fresh {
		when(backing, "hugepages")
	}
	pages, none := child(backing, "hugepages", nil)
	when(pages, "hugepages")
	b.flag("hugepages", !none, "take the memory from huge pages of the host")
}

func (b *builder) pinning() {
	tune, fresh := child(b.root, "cputune", b.root.SelectElement("vcpu"))
	var all []string
	var last *etree.Element
	for _, e := range tune.SelectElements("vcpupin") {
		all = append(all, e.SelectAttrValue("vcpu", "")+"="+e.SelectAttrValue("cpuset", ""))
		if last != nil {
			remove(tune, last)
		}
		last = e
	}
	if last == nil {
		last = etree.NewElement("vcpupin")
		insertAfter(tune, nil, last)
	}
	last.Attr = nil
	last.CreateAttr(markup+":"+eachKey, "cpuPinning")
	last.CreateAttr("vcpu", "${vcpu}")
	last.CreateAttr("cpuset", "${cpus}")
	if fresh || len(tune.ChildElements()) == 1 {
		when(tune, "cpuPinning")
	}
	b.add(backstay.Parameter{Name: "cpuPinning", Type: backstay.TypePinning, Description: "virtual CPUs that run on certain CPUs of the host only, such as 0=2-3;1=4"}, strings.Join(all, ";"))
}

// nodes: a definition in which libvirt places the memory by itself is left alone.
func (b *builder) nodes() {
	tune, fresh := child(b.root, "numatune", b.root.SelectElement("cputune"))
	memory, made := child(tune, "memory", nil)
	if made {
		memory.CreateAttr("mode", "strict")
		memory.CreateAttr("nodeset", "")
	} else if memory.SelectAttr("nodeset") == nil {
		return
	}
	b.attr(memory, "nodeset", backstay.Parameter{Name: "numaNodeset", Type: backstay.TypeCPUSet, Description: "NUMA nodes of the host that the memory is on; any if empty"})
	when(memory, "numaNodeset")
	if fresh || len(tune.ChildElements()) == 1 {
		when(tune, "numaNodeset")
	}
}

// Placement reads where a VM may be from its definition.
func Placement(definition string) (group string, hosts []backstay.HostName) {
	doc, err := parse(definition)
	if err != nil {
		return "", nil
	}
	for _, e := range doc.FindElements("/domain/metadata/*") {
		if e.NamespaceURI() == backstay.PlacementSpace {
			group = e.SelectAttrValue("antiAffinityGroup", "")
			for _, h := range list(e.SelectAttrValue("hostGroup", "")) {
				hosts = append(hosts, backstay.HostName(h))
			}
		}
	}
	return group, hosts
}
