package host

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier"
)

// nvramFolder and tpmFolder are where libvirt's system daemon keeps firmware
// variables and TPM state. They are compiled into it.
const (
	nvramFolder = "/var/lib/libvirt/qemu/nvram"
	tpmFolder   = "/var/lib/libvirt/swtpm"
)

// newDefinition is the definition of a VM that a restore makes.
type newDefinition struct {
	XML string
	// NVRAM is where the firmware variables must lie before the VM is defined;
	// "" if it has none.
	NVRAM string
	// Outputs are files to which the VM's serial lines will write.
	Outputs []string
	// Warnings say what of the source could not be kept, and why.
	Warnings []string
}

// definitionOptions are what the definition needs beside point and plan.
type definitionOptions struct {
	// GenID is the fresh generation id for guests that watch one.
	GenID string
	// FolderExists tells whether a folder is there on this host.
	FolderExists func(path string) bool
	// FileExists tells whether a file is there on this host; nil for a definition
	// that is for any host.
	FileExists func(path string) bool
	// Below is what the new disks stand on, where they are overlays.
	Below map[backstay.DiskTarget][]hypervisor.Image
}

// newVMDefinition makes the definition of the new VM from the text that was
// captured, element by element: what we do not know of stays as it is. It
// changes identity, places and what only one VM at a time can have; the golden diffs in testdata
// show every field.
func newVMDefinition(def tier.Definition, plan backstay.RestorePlan, o definitionOptions) (newDefinition, error) {
	doc := etree.NewDocument()
	doc.ReadSettings.PreserveCData = true
	doc.WriteSettings.AttrSingleQuote = true // as libvirt writes it
	// The inactive definition is what the owner wrote; the live one has what the
	// run added. A transient VM has only the latter.
	text := def.InactiveXML
	if text == "" {
		text = def.LiveXML
	}
	if err := doc.ReadFromString(text); err != nil {
		return newDefinition{}, fmt.Errorf("read the definition in the point: %w", err)
	}
	root := doc.Root()
	if root == nil || root.Tag != "domain" {
		return newDefinition{}, errors.New("the definition in the point is not that of a VM")
	}
	e := &definitionEditor{root: root, plan: plan, options: o}
	e.identity()
	e.machine()
	e.dropRunState()
	e.firmware(def)
	if devices := root.SelectElement("devices"); devices != nil {
		if err := e.devices(devices); err != nil {
			return newDefinition{}, err
		}
	}
	if devices := root.SelectElement("devices"); devices != nil && plan.Drill != nil {
		e.confine(devices)
	}
	if commandline := root.SelectElement("commandline"); commandline != nil {
		e.warn("arguments for QEMU itself are kept as they are")
	}
	if err := e.complete(); err != nil {
		return newDefinition{}, err
	}
	xml, err := doc.WriteToString()
	if err != nil {
		return newDefinition{}, fmt.Errorf("write the new definition: %w", err)
	}
	e.out.XML = xml
	slices.Sort(e.out.Outputs)
	e.out.Outputs = slices.Compact(e.out.Outputs)
	return e.out, nil
}

// definitionEditor changes one definition.
type definitionEditor struct {
	root    *etree.Element
	plan    backstay.RestorePlan
	options definitionOptions
	seen    []backstay.DiskTarget // planned disks that were found
	nics    int                   // interfaces that were passed
	out     newDefinition
}

func (e *definitionEditor) warn(format string, args ...any) {
	e.out.Warnings = append(e.out.Warnings, fmt.Sprintf(format, args...))
}

func (e *definitionEditor) identity() {
	old := ""
	if uuid := e.root.SelectElement("uuid"); uuid != nil {
		old = strings.TrimSpace(uuid.Text())
	}
	child(e.root, "name").SetText(e.plan.Name)
	child(e.root, "uuid").SetText(string(e.plan.UUID))
	e.root.RemoveAttr("id")
	if genid := e.root.SelectElement("genid"); genid != nil {
		// A new value is how a guest learns that it was restored.
		genid.SetText(e.options.GenID)
	}
	// libvirt refuses a definition whose two UUIDs differ.
	for _, entry := range e.root.FindElements("./sysinfo/system/entry[@name='uuid']") {
		if strings.EqualFold(strings.TrimSpace(entry.Text()), old) {
			entry.SetText(string(e.plan.UUID))
		}
	}
}

// machine puts another machine type in the place of one that the host lacks.
func (e *definitionEditor) machine() {
	if kind := e.root.FindElement("./os/type"); kind != nil && e.plan.Machine != "" {
		setAttr(kind, "machine", e.plan.Machine)
	}
}

// dropRunState drops what libvirt noted of the run in which it was captured.
func (e *definitionEditor) dropRunState() {
	for _, label := range e.root.SelectElements("seclabel") {
		if label.SelectAttrValue("type", "dynamic") != "dynamic" {
			continue
		}
		if label.SelectElement("imagelabel") != nil {
			remove(e.root, label)
		}
	}
	for _, alias := range e.root.FindElements(".//alias") {
		if !strings.HasPrefix(alias.SelectAttrValue("name", ""), "ua-") { // not chosen by the owner
			remove(alias.Parent(), alias)
		}
	}
}

// firmware lets the VM use its own copy of the firmware variables. A VM of
// which none were captured gets fresh ones from libvirt.
func (e *definitionEditor) firmware(def tier.Definition) {
	system := e.root.SelectElement("os")
	if system == nil {
		return
	}
	if system.SelectAttr("firmware") == nil {
		// The wishes by which libvirt chose the firmware of a run; it refuses them
		// beside the choice itself.
		removeAll(system, "firmware")
	}
	old := system.SelectElement("nvram")
	if len(def.NVRAM) == 0 {
		if old != nil {
			keepAttrs(old, "template", "templateFormat", "format")
			empty(old)
			if len(old.Attr) == 0 {
				remove(system, old)
			}
		}
		return
	}
	e.out.NVRAM = filepath.Join(nvramFolder, e.plan.Name+"_VARS"+nvramExtension(def))
	if old == nil {
		old = etree.NewElement("nvram")
		// libvirt's own order: loader, nvram, boot …
		after := system.SelectElement("loader")
		if after == nil {
			after = system.SelectElement("firmware")
		}
		if after == nil {
			after = system.SelectElement("type")
		}
		insertAfter(system, after, old)
	}
	old.RemoveAttr("type")
	empty(old)
	old.SetText(e.out.NVRAM)
}

// nvramExtension is that of the source's file: newer libvirt can keep the
// variables in a qcow2 image.
func nvramExtension(def tier.Definition) string {
	if strings.HasPrefix(string(def.NVRAM[:min(4, len(def.NVRAM))]), "QFI\xfb") {
		return ".qcow2"
	}
	return ".fd"
}

// complete checks that every disk that was written has a place in the VM.
func (e *definitionEditor) complete() error {
	for _, d := range e.plan.Disks {
		if !slices.Contains(e.seen, d.Target) {
			return fmt.Errorf("the definition in the point has no disk %s", d.Target)
		}
	}
	return nil
}

// child returns the first child of this name, made if it is not there.
func child(parent *etree.Element, tag string) *etree.Element {
	if c := parent.SelectElement(tag); c != nil {
		return c
	}
	c := etree.NewElement(tag)
	parent.InsertChildAt(0, c)
	if len(parent.Child) > 1 {
		if blank, ok := parent.Child[1].(*etree.CharData); ok && blank.IsWhitespace() && len(parent.Child) > 2 {
			parent.InsertChildAt(0, etree.NewText(blank.Data))
		}
	}
	return c
}

// setAttr sets an attribute in place, or adds it.
func setAttr(e *etree.Element, key, value string) { e.CreateAttr(key, value) }

// keepAttrs removes all attributes but these.
func keepAttrs(e *etree.Element, keys ...string) {
	e.Attr = slices.DeleteFunc(e.Attr, func(a etree.Attr) bool { return !slices.Contains(keys, a.Key) })
}

// empty removes all that is inside an element.
func empty(e *etree.Element) {
	for len(e.Child) > 0 {
		e.RemoveChildAt(0)
	}
}

// remove removes a child with the blanks before it.
func remove(parent, gone *etree.Element) {
	at := gone.Index()
	if at < 0 {
		return
	}
	parent.RemoveChildAt(at)
	if at > 0 {
		if blank, ok := parent.Child[at-1].(*etree.CharData); ok && blank.IsWhitespace() {
			parent.RemoveChildAt(at - 1)
		}
	}
	if len(parent.ChildElements()) == 0 && strings.TrimSpace(parent.Text()) == "" {
		empty(parent) // so that it is written as <x/>
	}
}

// removeAll removes all children of these names.
func removeAll(parent *etree.Element, tags ...string) {
	for _, c := range parent.ChildElements() {
		if slices.Contains(tags, c.Tag) {
			remove(parent, c)
		}
	}
}

// insertAfter adds a child behind another with the same blanks before it; at
// the start if there is no other.
func insertAfter(parent, after, fresh *etree.Element) {
	at := 0
	if after != nil {
		at = after.Index() + 1
		if before := after.Index() - 1; before >= 0 {
			if blank, ok := parent.Child[before].(*etree.CharData); ok && blank.IsWhitespace() {
				parent.InsertChildAt(at, etree.NewText(blank.Data))
				at++
			}
		}
	}
	parent.InsertChildAt(at, fresh)
}

// neverPlain refuses to write a disk in the clear that was encrypted on the host:
// the plan must name a secret for it.
func neverPlain(def tier.Definition, plan backstay.RestorePlan) error {
	for _, d := range plan.Disks {
		named := secretsNamed(def.LiveXML, def.InactiveXML, []backstay.DiskTarget{d.Target}, false)
		if len(named) > 0 && d.Secret == "" && d.Path != "" && !d.Difference {
			return backstay.Errorf(backstay.CodeEncrypted, "disk %s of point %s cannot be restored", d.Target, plan.Point).
				Becausef("it was encrypted on the host, and the plan would write it in the clear").Do("plan the restore again")
		}
	}
	return nil
}
