package libvirt

import (
	"errors"
	"fmt"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// settleChains puts <backingStore> of the persistent definition right, where
// libvirt writes what a switch or merge touched. Left alone it would name layers
// that are merged away while the VM is shut off, and the VM would not start. It
// is taken out where libvirt finds the same chain by the headers, and a chain
// that the user had to spell out stays; but an encrypted chain is always spelt
// out in full, since libvirt finds no key by a header. The switch is done by
// now, so an error here must not say that it failed.
func (h *Host) settleChains(l *libvirt.Libvirt, d libvirt.Domain, targets []backstay.DiskTarget) {
	err := func() error {
		root, _, err := definition(l, d, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
		if err != nil {
			return err
		}
		changed := false
		for _, target := range targets {
			if e := diskElement(root, target); e != nil {
				changed = settleChain(l, e) || changed
			}
		}
		if !changed {
			return nil
		}
		return redefine(l, root)
	}()
	if err != nil {
		h.log.Warn("the recorded backing chain of a VM was left in its definition", "vm", d.Name, "error", err)
	}
}

// settleChain does it for one disk, and tells whether anything changed.
func settleChain(l *libvirt.Libvirt, e *etree.Element) bool {
	if secret, _ := secretOf(e); secret != "" {
		return spellChain(e, secret)
	}
	if probedAsLUKS(e) {
		return spellChain(e, "")
	}
	if find(e, "backingStore") == nil {
		return false
	}
	resolved := e.Copy()
	resolveVolumes(l, resolved)
	if !headersTell(resolved) {
		return false
	}
	e.RemoveChild(find(e, "backingStore"))
	return true
}

// spellChain writes the chain below a disk's active image as the headers tell
// it, to its end, each image with the secret if it is encrypted.
func spellChain(e *etree.Element, secret string) bool {
	chain, complete := walk(location(e), imageFormat(first(attr(e, "driver", "type"), "raw"), secret))
	if !complete {
		return false // a chain that we do not understand stays as it is
	}
	if old := find(e, "backingStore"); old != nil {
		e.RemoveChild(old)
	}
	above := e
	for _, l := range chain[1:] {
		b := above.CreateElement("backingStore")
		format := l.format
		if format == "luks" {
			format = "raw"
		}
		b.CreateElement("format").CreateAttr("type", format)
		setLocation(b, l.path)
		if l.encrypted {
			setSecret(b, secret)
		}
		above = b
	}
	above.CreateElement("backingStore")
	return true
}

// probedAsLUKS tells whether the chain below a disk's active image ends in a raw
// image on which the guest put LUKS from the first byte on. libvirt finds its header
// when it follows the chain by itself, takes the image for one that the host
// encrypted, and does not start the VM; a chain that is spelt out is not probed.
func probedAsLUKS(e *etree.Element) bool {
	if secret, _ := secretOf(e); secret != "" {
		return false
	}
	chain, complete := walk(location(e), first(attr(e, "driver", "type"), "raw"))
	if !complete || len(chain) < 2 || chain[len(chain)-1].format != "raw" {
		return false
	}
	return hypervisor.StartsWithLUKS(chain[len(chain)-1].path)
}

// headersTell tells whether the images' headers say the chain that the disk's
// element says. libvirt records as much of a chain as its own steps touched.
func headersTell(e *etree.Element) bool {
	recorded, ended := recordedChain(e)
	found, complete := walk(recorded[0].path, recorded[0].format)
	if !complete || len(recorded) > len(found) || (ended && len(recorded) != len(found)) {
		return false
	}
	for i := range recorded {
		if !samePath(found[i].path, recorded[i].path) || found[i].format != recorded[i].format {
			return false
		}
	}
	return true
}

// retarget lets a disk's element use another image.
func retarget(e *etree.Element, to hypervisor.Source) error {
	if find(e, "source") == nil || find(e, "driver") == nil {
		return errors.New("the VM has no such disk")
	}
	if to.Element != "" {
		return putBack(e, to.Element)
	}
	find(e, "source").RemoveAttr("index")
	setLocation(e, to.Location)
	format := to.Format
	if format == "luks" {
		format = "raw"
	}
	find(e, "driver").CreateAttr("type", format)
	setSecret(e, to.Secret)
	if to.Secret != "" || probedAsLUKS(e) {
		if !spellChain(e, to.Secret) {
			return fmt.Errorf("the images below %s cannot be followed", to.Location)
		}
		return nil
	}
	if b := find(e, "backingStore"); b != nil {
		e.RemoveChild(b)
	}
	return nil
}

// putBack lets a disk's element say of its image what an element of before said:
// kind, format, source, encryption, chain. What else the owner has set since
// stays.
func putBack(e *etree.Element, before string) error {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(before); err != nil || doc.Root() == nil || doc.Root().Tag != "disk" {
		return fmt.Errorf("the recorded element is not that of a disk (%v)", err)
	}
	old := doc.Root()
	e.CreateAttr("type", first(attr(old, "", "type"), "file"))
	find(e, "driver").CreateAttr("type", first(attr(old, "driver", "type"), "raw"))
	for _, tag := range []string{"source", "encryption", "backingStore"} {
		at := len(e.Child)
		if now := find(e, tag); now != nil {
			at = now.Index()
			e.RemoveChild(now)
		}
		if was := find(old, tag); was != nil {
			e.InsertChildAt(at, was.Copy())
		}
	}
	if source := find(e, "source"); source != nil {
		source.RemoveAttr("index")
	}
	return nil
}

// elements is each disk's element of a definition, as text.
func elements(root *etree.Element) map[backstay.DiskTarget]string {
	all := map[backstay.DiskTarget]string{}
	for _, e := range root.FindElements("./devices/disk") {
		doc := etree.NewDocument()
		doc.SetRoot(e.Copy())
		if text, err := doc.WriteToString(); err == nil {
			all[backstay.DiskTarget(attr(e, "target", "dev"))] = text
		}
	}
	return all
}

// runsOn sees that a running VM uses an image already, so that naming it in the
// persistent definition changes no more than words.
func runsOn(l *libvirt.Libvirt, d libvirt.Domain, target backstay.DiskTarget, image string) error {
	e, err := liveDisk(l, d, target)
	if err != nil {
		return err
	}
	if now := location(e); !samePath(now, image) {
		return fmt.Errorf("the VM is running, on %s", now)
	}
	return nil
}

// onNetwork tells whether one of the disks is on the network. libvirt makes no
// snapshot of these while the VM is shut off.
func onNetwork(root *etree.Element, disks []hypervisor.Switch) bool {
	for _, s := range disks {
		if e := diskElement(root, s.Target); e != nil && attr(e, "", "type") == "network" {
			return true
		}
	}
	return false
}

// switchOff switches the disks of a VM that is shut off: nothing but its
// definition tells what they are, and it is replaced in one step.
func switchOff(l *libvirt.Libvirt, d libvirt.Domain, disks []hypervisor.Switch) error {
	root, _, err := definition(l, d, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
	if err != nil {
		return err
	}
	resolved := root.Copy()
	resolveVolumes(l, resolved)
	if _, err := snapshotXML(resolved, disks); err != nil {
		return err // it checks the overlays
	}
	for _, s := range disks {
		e := diskElement(root, s.Target)
		secret, _ := secretOf(e)
		to := hypervisor.Image{Location: s.Overlay, Format: "qcow2", Secret: secret}
		if err := retarget(e, hypervisor.Source{Image: to}); err != nil {
			return fmt.Errorf("disk %s: %w", s.Target, err)
		}
	}
	return redefine(l, root)
}
