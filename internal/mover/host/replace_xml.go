package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// readDomain reads a definition so that it is written as it was.
func readDomain(text string) (*etree.Document, *etree.Element, error) {
	doc := etree.NewDocument()
	doc.ReadSettings.PreserveCData = true
	doc.WriteSettings.AttrSingleQuote = true // as libvirt writes it
	if err := doc.ReadFromString(text); err != nil {
		return nil, nil, fmt.Errorf("read the definition: %w", err)
	}
	root := doc.Root()
	if root == nil || root.Tag != "domain" || root.SelectElement("devices") == nil {
		return nil, nil, errors.New("the definition is not that of a VM")
	}
	return doc, root, nil
}

func targetOf(disk *etree.Element) backstay.DiskTarget {
	if t := disk.SelectElement("target"); t != nil {
		return backstay.DiskTarget(t.SelectAttrValue("dev", ""))
	}
	return ""
}

func diskOf(root *etree.Element, target backstay.DiskTarget) *etree.Element {
	for _, d := range root.FindElements("./devices/disk") {
		if targetOf(d) == target {
			return d
		}
	}
	return nil
}

// replacedDefinition is the VM's present definition with the disks that the plan
// says, and the firmware variables at nvram if that is not empty. All else of it
// stays: identity, devices, memory and processors are not brought back.
func replacedDefinition(present, point string, plan backstay.RestorePlan, nvram string) (xml string, warnings []string, err error) {
	doc, root, err := readDomain(present)
	if err != nil {
		return "", nil, err
	}
	var was *etree.Element
	for _, d := range plan.Disks {
		now := diskOf(root, d.Target)
		switch d.Action {
		case backstay.DiskReplaced:
			if now == nil {
				return "", nil, fmt.Errorf("the VM has no disk %s any more", d.Target)
			}
			setFile(now, d)
		case backstay.DiskDetached:
			if now != nil {
				remove(root.SelectElement("devices"), now)
			}
		case backstay.DiskReturned:
			if now != nil {
				return "", nil, fmt.Errorf("the VM has a disk %s again", d.Target)
			}
			if was == nil {
				if _, was, err = readDomain(point); err != nil {
					return "", nil, err
				}
			}
			old := diskOf(was, d.Target)
			if old == nil {
				return "", nil, fmt.Errorf("the definition in the point has no disk %s", d.Target)
			}
			warnings = append(warnings, returnDisk(root, old.Copy(), d)...)
		}
	}
	setNVRAM(root, nvram)
	xml, err = doc.WriteToString()
	return xml, warnings, err
}

// previewReplace is the VM's present definition, and what a replace would make of it.
func (h *Host) previewReplace(ctx context.Context, plan backstay.RestorePlan, point tier.Definition) (old string, d newDefinition, err error) {
	domain, err := h.hv.Domain(ctx, plan.UUID)
	if err != nil {
		return "", d, h.hostError(err, "VM %s cannot be described", plan.Name)
	}
	was := point.InactiveXML
	if was == "" {
		was = point.LiveXML
	}
	d.XML, d.Warnings, err = replacedDefinition(domain.InactiveXML, was, plan, "")
	return domain.InactiveXML, d, err
}

// setFile lets a disk's element use a planned file, with its secret if it is
// encrypted. What it stands on is spelt out when it is defined.
func setFile(d *etree.Element, planned backstay.PlannedDisk) {
	removeAll(d, "backingStore", "mirror", "auth", "encryption")
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
	setAttr(source, "file", planned.Path)
	if planned.Secret != "" {
		encrypted(source, planned.Secret)
	}
}

// returnDisk gives a VM a disk of the point that it lost since, without what
// another device of it has meanwhile.
func returnDisk(root, old *etree.Element, planned backstay.PlannedDisk) (warnings []string) {
	setFile(old, planned)
	for _, alias := range old.SelectElements("alias") {
		if !strings.HasPrefix(alias.SelectAttrValue("name", ""), "ua-") {
			remove(old, alias)
		}
	}
	freeOf(root, old, func(what string) {
		warnings = append(warnings, fmt.Sprintf("disk %s returns without its %s, which another device has now", planned.Target, what))
	})
	addDisk(root, old)
	return warnings
}

// freeOf takes from a disk's element what another device of the VM has.
func freeOf(root, disk *etree.Element, lost func(what string)) {
	for tag, what := range map[string]string{"address": "address", "boot": "place in the boot order"} {
		mine := disk.SelectElement(tag)
		if mine == nil {
			continue
		}
		for _, other := range root.FindElements("./devices/*/" + tag) {
			if other.Parent() != disk && sameAttrs(other, mine) {
				remove(disk, mine)
				if tag == "boot" {
					lost(what)
				}
				break // another address is chosen by libvirt
			}
		}
	}
}

func sameAttrs(a, b *etree.Element) bool {
	text := func(e *etree.Element) string {
		var all []string
		for _, at := range e.Attr {
			all = append(all, at.Key+"="+at.Value)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	return text(a) == text(b)
}

// addDisk adds a disk behind the others.
func addDisk(root, disk *etree.Element) {
	devices := root.SelectElement("devices")
	var last *etree.Element
	for _, d := range devices.SelectElements("disk") {
		last = d
	}
	if last == nil {
		last = devices.SelectElement("emulator")
	}
	insertAfter(devices, last, disk)
}

// setNVRAM names another file of firmware variables.
func setNVRAM(root *etree.Element, path string) {
	system := root.SelectElement("os")
	if path == "" || system == nil {
		return
	}
	nvram := system.SelectElement("nvram")
	if nvram == nil {
		nvram = etree.NewElement("nvram")
		after := system.SelectElement("loader")
		if after == nil {
			after = system.SelectElement("firmware")
		}
		if after == nil {
			after = system.SelectElement("type")
		}
		insertAfter(system, after, nvram)
	}
	nvram.RemoveAttr("type")
	empty(nvram)
	nvram.SetText(path)
}

// undoneDefinition is what takes a replace back. If nobody changed the VM since it
// is the definition of before, word by word; else the present one, with the disks
// and firmware variables of before.
func undoneDefinition(present string, j *replaceJournal) (string, error) {
	same, err := sameBesideDisks(present, j)
	if err != nil {
		return "", err
	}
	if same {
		return j.OldXML, nil
	}
	doc, root, err := readDomain(present)
	if err != nil {
		return "", err
	}
	_, old, err := readDomain(j.OldXML)
	if err != nil {
		return "", err
	}
	devices := root.SelectElement("devices")
	for _, d := range devices.SelectElements("disk") {
		target := targetOf(d)
		if _, ours := j.New[target]; ours {
			remove(devices, d)
		} else if _, back := j.Old[target]; back {
			return "", backstay.Errorf(backstay.CodeCannotUndo, "disk %s of %s cannot come back", target, j.Name).
				Becausef("the VM was given another disk %s since", target).Do("detach that, and try again")
		}
	}
	for _, d := range old.FindElements("./devices/disk") {
		if _, back := j.Old[targetOf(d)]; back {
			d := d.Copy()
			freeOf(root, d, func(string) {})
			addDisk(root, d)
		}
	}
	if j.OldNVRAM != "" {
		setNVRAM(root, j.OldNVRAM)
	}
	return doc.WriteToString()
}

// sameBesideDisks tells whether the present definition says what the one of the
// switch did, of all but the disks of the restore and the place of firmware
// variables. Other disks count: they may be on newer layers since, and on the
// files of then the VM would write into points.
func sameBesideDisks(present string, j *replaceJournal) (bool, error) {
	var texts [2]string
	for i, text := range []string{present, j.NewXML} {
		doc, root, err := readDomain(text)
		if err != nil {
			return false, err
		}
		devices := root.SelectElement("devices")
		var targets []string
		for _, d := range devices.SelectElements("disk") {
			targets = append(targets, string(targetOf(d)))
			_, made := j.New[targetOf(d)]
			if _, old := j.Old[targetOf(d)]; made || old {
				remove(devices, d)
			}
		}
		if nvram := root.FindElement("./os/nvram"); nvram != nil {
			empty(nvram)
		}
		if texts[i], err = doc.WriteToString(); err != nil {
			return false, err
		}
		slices.Sort(targets)
		texts[i] += strings.Join(targets, " ")
	}
	return texts[0] == texts[1], nil
}
