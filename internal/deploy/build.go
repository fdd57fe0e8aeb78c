package deploy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
)

// Template is a definition whose parameters have placeholders.
type Template struct {
	XML        string
	Parameters []backstay.Parameter
}

// Disk is a restored disk that a template's parameters are about.
type Disk struct {
	Target backstay.DiskTarget
	Path   string
}

// New makes a template of a complete definition. With the defaults of its
// parameters it renders to that definition again. Only the disks that are named
// have parameters.
func New(definition string, disks []Disk) (Template, error) {
	doc, err := parse(definition)
	if err != nil {
		return Template{}, fmt.Errorf("read the definition: %w", err)
	}
	b := &builder{root: doc.Root(), disks: disks}
	escapeAll(b.root)
	b.identity()
	b.memory()
	b.cpus()
	b.system()
	if devices := b.root.SelectElement("devices"); devices != nil {
		b.devices(devices)
	}
	b.placement()
	b.flag("start", true, "start the VM once it is defined")
	b.flag("autostart", false, "start the VM when its host starts")
	b.root.CreateAttr("xmlns:"+markup, markupSpace)
	text, err := write(doc)
	return Template{XML: text, Parameters: b.parameters}, err
}

// builder turns one definition into a template.
type builder struct {
	root       *etree.Element
	disks      []Disk
	parameters []backstay.Parameter
}

func escapeAll(e *etree.Element) {
	for i := range e.Attr {
		e.Attr[i].Value = escape(e.Attr[i].Value)
	}
	for _, c := range e.Child {
		switch c := c.(type) {
		case *etree.CharData:
			c.Data = escape(c.Data)
		case *etree.Element:
			escapeAll(c)
		}
	}
}

// add makes a parameter; its default is unescaped text of the definition.
func (b *builder) add(p backstay.Parameter, text string) {
	text = strings.ReplaceAll(text, "$${", "${")
	p.Default = typed(p.Type, text)
	p.Value = p.Default
	b.parameters = append(b.parameters, p)
}

func (b *builder) flag(name string, value bool, what string) {
	b.add(backstay.Parameter{Name: name, Type: backstay.TypeBoolean, Description: what}, strconv.FormatBool(value))
}

// text makes a parameter of an element's text.
func (b *builder) text(e *etree.Element, p backstay.Parameter) {
	b.add(p, strings.TrimSpace(e.Text()))
	e.SetText("${" + p.Name + "}")
}

// attr makes a parameter of an attribute's value.
func (b *builder) attr(e *etree.Element, key string, p backstay.Parameter) {
	b.add(p, e.SelectAttrValue(key, ""))
	e.CreateAttr(key, "${"+p.Name+"}")
}

// optional makes a parameter of a child's text, and the child if there is none;
// without a value the child is not there.
func (b *builder) optional(tag string, after string, p backstay.Parameter) {
	e := b.root.SelectElement(tag)
	if e == nil {
		e = etree.NewElement(tag)
		insertAfter(b.root, b.root.SelectElement(after), e)
	}
	b.text(e, p)
	when(e, p.Name)
}

// when lets an element be there only if a condition holds.
func when(e *etree.Element, condition string) { e.CreateAttr(markup+":"+ifKey, condition) }

// namePattern is that of a VM's name, as for a restore.
const namePattern = `[^/.[:cntrl:]][^/[:cntrl:]]{0,199}`

func (b *builder) identity() {
	if name := b.root.SelectElement("name"); name != nil {
		b.text(name, backstay.Parameter{Name: "name", Type: backstay.TypeString, Pattern: namePattern, Description: "name of the VM; no VM of the host may have it"})
	}
	if uuid := b.root.SelectElement("uuid"); uuid != nil {
		old := strings.TrimSpace(uuid.Text())
		b.text(uuid, backstay.Parameter{Name: "uuid", Type: backstay.TypeUUID, Description: "UUID of the VM; no VM of the region may have it"})
		// libvirt refuses a definition whose two UUIDs differ.
		for _, entry := range b.root.FindElements("./sysinfo/system/entry[@name='uuid']") {
			if strings.EqualFold(strings.TrimSpace(entry.Text()), old) {
				entry.SetText("${uuid}")
			}
		}
	}
	b.optional("title", "uuid", backstay.Parameter{Name: "title", Type: backstay.TypeString, Pattern: `.{0,200}`, Description: "a line for people; none if empty"})
	b.optional("description", "title", backstay.Parameter{Name: "description", Type: backstay.TypeText, Description: "a text for people; none if empty"})
}

// memory: what a VM's own NUMA cells add up to cannot be chosen apart from them.
func (b *builder) memory() {
	memory := b.root.SelectElement("memory")
	if memory == nil {
		return
	}
	all, now := kibOf(memory), int64(-1)
	p := backstay.Parameter{Name: "memory", Type: backstay.TypeSize, Min: number(16 << 20), Max: number(16 << 40), Description: "memory of the VM"}
	if b.root.FindElement("./cpu/numa/cell") != nil || b.root.SelectElement("maxMemory") != nil {
		p.Allowed = []string{size(all << 10)}
		p.Description += "; fixed, since the definition says how its NUMA cells or slots have it"
	}
	b.add(p, size(all<<10))
	memory.CreateAttr("unit", "KiB")
	memory.SetText("${memory}")
	current := b.root.SelectElement("currentMemory")
	if current == nil {
		return
	}
	now = kibOf(current)
	current.CreateAttr("unit", "KiB")
	current.SetText("${memory}")
	if now == all {
		return
	}
	current.SetText("${currentMemory}")
	b.add(backstay.Parameter{
		Name: "currentMemory", Type: backstay.TypeSize, Min: number(16 << 20), Max: number(16 << 40),
		Description: "memory that the VM has at its start; the rest of memory is for its balloon",
	}, size(now<<10))
}

func number(n int64) *int64 { return &n }

// kibOf reads a size in the units that libvirt knows.
func kibOf(e *etree.Element) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(e.Text()), 10, 64)
	unit := map[string]int64{
		"b": 1, "bytes": 1, "KB": 1000, "k": 1 << 10, "KiB": 1 << 10, "": 1 << 10, "MB": 1000 * 1000, "M": 1 << 20, "MiB": 1 << 20,
		"GB": 1e9, "G": 1 << 30, "GiB": 1 << 30, "TB": 1e12, "T": 1 << 40, "TiB": 1 << 40,
	}[e.SelectAttrValue("unit", "KiB")]
	return (n*unit + 1023) >> 10
}

// maxVCPUs is more than any QEMU gives a VM.
const maxVCPUs = 4096

func (b *builder) cpus() {
	if vcpu := b.root.SelectElement("vcpu"); vcpu != nil {
		p := backstay.Parameter{Name: "vcpus", Type: backstay.TypeInteger, Min: number(1), Max: number(maxVCPUs), Description: "virtual CPUs; a topology of the CPUs goes if it is changed"}
		if b.root.FindElement("./cpu/numa/cell") != nil {
			p.Allowed, p.Description = []string{strings.TrimSpace(vcpu.Text())}, "virtual CPUs; fixed, since the definition says how its NUMA cells have them"
		}
		count := strings.TrimSpace(vcpu.Text())
		b.text(vcpu, p)
		if current := vcpu.SelectAttr("current"); current != nil {
			b.attr(vcpu, "current", backstay.Parameter{Name: "vcpusOnline", Type: backstay.TypeInteger, Min: number(1), Max: number(maxVCPUs), Description: "virtual CPUs that are there at the start, at most vcpus"})
		}
		for _, path := range []string{"./cpu/topology", "./vcpus"} {
			if e := b.root.FindElement(path); e != nil {
				when(e, "vcpus="+count)
			}
		}
	}
	if cpu := b.root.SelectElement("cpu"); cpu != nil && cpu.SelectAttr("mode") != nil {
		b.cpuModel(cpu)
	}
}

func (b *builder) cpuModel(cpu *etree.Element) {
	allowed := []string{"host-model", "host-passthrough", "maximum"}
	model := cpu.SelectElement("model")
	if mode := cpu.SelectAttrValue("mode", ""); mode == "custom" || !contains(allowed, mode) {
		allowed = append(allowed, mode)
	}
	b.attr(cpu, "mode", backstay.Parameter{Name: "cpuMode", Type: backstay.TypeString, Allowed: allowed, Description: "how the model of the virtual CPUs is chosen"})
	if model != nil && contains(allowed, "custom") {
		b.text(model, backstay.Parameter{Name: "cpuModel", Type: backstay.TypeString, Pattern: `[A-Za-z0-9_.-]+`, Description: "model of the virtual CPUs, with cpuMode custom"})
		when(model, "cpuMode=custom")
	}
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

// system is what starts the guest.
func (b *builder) system() {
	if kind := b.root.FindElement("./os/type"); kind != nil && kind.SelectAttr("machine") != nil {
		b.attr(kind, "machine", backstay.Parameter{Name: "machine", Type: backstay.TypeString, Pattern: `[A-Za-z0-9._-]+`, Description: "machine type of QEMU; a guest may notice another one"})
	}
	if loader := b.root.FindElement("./os/loader"); loader != nil && strings.TrimSpace(loader.Text()) != "" {
		b.text(loader, backstay.Parameter{Name: "loader", Type: backstay.TypePath, Description: "firmware of the VM on the host"})
	}
	if nvram := b.root.FindElement("./os/nvram"); nvram != nil && strings.TrimSpace(nvram.Text()) != "" {
		b.text(nvram, backstay.Parameter{Name: "nvram", Type: backstay.TypePath, Description: "file of the VM's firmware variables; made of the captured ones if it is not there"})
	}
}

// child returns the first child of this name, made if it is not there; made says
// which.
func child(parent *etree.Element, tag string, after *etree.Element) (e *etree.Element, made bool) {
	if e = parent.SelectElement(tag); e != nil {
		return e, false
	}
	e = etree.NewElement(tag)
	insertAfter(parent, after, e)
	return e, true
}
