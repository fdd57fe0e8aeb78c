package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// thawTimeout bounds a thaw: a hung agent cannot be made to do it.
const thawTimeout = 5 * time.Second

// aroundPatience is what may be done before and after a switch takes at most:
// freezing, thawing, and all that a caller adds.
const aroundPatience = 2 * time.Minute

// SwitchAll is one external snapshot without metadata over all named disks, into
// overlays that exist. ctx does not cut it short: the caller must learn whether
// the disks were switched.
func (h *Host) SwitchAll(ctx context.Context, id backstay.VMID, disks []hypervisor.Switch, o hypervisor.SwitchOptions) (hypervisor.Switched, error) {
	if err := ctx.Err(); err != nil {
		return hypervisor.Switched{}, err
	}
	ctx = context.WithoutCancel(ctx)
	switched, err := call(ctx, h, callPatience+aroundPatience, func(l *libvirt.Libvirt) (hypervisor.Switched, error) {
		d, err := lookup(l, id)
		if err != nil {
			return hypervisor.Switched{}, err
		}
		return h.switchAll(l, d, disks, o)
	})
	if err != nil {
		return hypervisor.Switched{}, fmt.Errorf("switch disks of VM %s: %w", id, err)
	}
	return switched, nil
}

func (h *Host) switchAll(l *libvirt.Libvirt, d libvirt.Domain, disks []hypervisor.Switch, o hypervisor.SwitchOptions) (hypervisor.Switched, error) {
	state, err := vmState(l, d)
	if err != nil {
		return hypervisor.Switched{}, err
	}
	root, _, err := definition(l, d, 0)
	if err != nil {
		return hypervisor.Switched{}, err
	}
	resolveVolumes(l, root)
	var change func() error
	if state == backstay.VMShutOff && onNetwork(root, disks) {
		change = func() error { return switchOff(l, d, disks) }
	} else {
		xml, err := snapshotXML(root, disks)
		if err != nil {
			return hypervisor.Switched{}, err
		}
		flags := libvirt.DomainSnapshotCreateDiskOnly | libvirt.DomainSnapshotCreateAtomic |
			libvirt.DomainSnapshotCreateNoMetadata | libvirt.DomainSnapshotCreateReuseExt
		change = func() error {
			_, err := l.DomainSnapshotCreateXML(d, xml, uint32(flags))
			return err
		}
	}
	took, err := around(o, change)
	if err != nil {
		return hypervisor.Switched{}, err
	}
	h.settleChains(l, d, targets(disks))
	return hypervisor.Switched{Took: took}, nil
}

// around makes the change between what is to be done before and after it.
func around(o hypervisor.SwitchOptions, change func() error) (time.Duration, error) {
	if o.Before != nil {
		if err := o.Before(); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	err := change()
	took := time.Since(began)
	if o.After != nil {
		o.After(translate(err))
	}
	return took, err
}

func targets(disks []hypervisor.Switch) []backstay.DiskTarget {
	var all []backstay.DiskTarget
	for _, s := range disks {
		all = append(all, s.Target)
	}
	return all
}

// snapshotXML names every disk of the VM: libvirt would give those that are not
// named an overlay of its own making. It refuses an overlay that does not stand
// on the disk's active layer: QEMU would take it, and the guest would find
// itself on other content. And it refuses one that is not encrypted where the
// disk is: what the guest writes would lie there in the clear.
func snapshotXML(root *etree.Element, disks []hypervisor.Switch) (string, error) {
	overlays := map[string]string{}
	for _, s := range disks {
		overlays[string(s.Target)] = s.Overlay
	}
	doc := etree.NewDocument()
	list := doc.CreateElement("domainsnapshot").CreateElement("disks")
	for _, e := range root.FindElements("./devices/disk") {
		target := attr(e, "target", "dev")
		disk := list.CreateElement("disk")
		disk.CreateAttr("name", target)
		overlay, wanted := overlays[target]
		if !wanted {
			disk.CreateAttr("snapshot", "no")
			continue
		}
		delete(overlays, target)
		secret, reason := secretOf(e)
		if reason != "" {
			return "", fmt.Errorf("disk %s: %s", target, reason)
		}
		if err := standsOn(overlay, location(e), secret != ""); err != nil {
			return "", fmt.Errorf("disk %s: %w", target, err)
		}
		disk.CreateAttr("snapshot", "external")
		disk.CreateAttr("type", "file")
		disk.CreateElement("driver").CreateAttr("type", "qcow2")
		disk.CreateElement("source").CreateAttr("file", overlay)
		setSecret(disk, secret)
	}
	for target := range overlays {
		return "", fmt.Errorf("the VM has no disk %s", target)
	}
	return doc.WriteToString()
}

func standsOn(overlay, active string, encrypted bool) error {
	h, err := readHeader(overlay, "qcow2")
	if err != nil {
		return err
	}
	if h.encrypted != encrypted {
		return fmt.Errorf("overlay %s is encrypted: %v, and the disk: %v", overlay, h.encrypted, encrypted)
	}
	if active == "" || !samePath(h.backing, active) {
		return fmt.Errorf("overlay %s stands on %q, but the active layer is %q", overlay, h.backing, active)
	}
	return nil
}

func diskElement(root *etree.Element, target backstay.DiskTarget) *etree.Element {
	for _, e := range root.FindElements("./devices/disk") {
		if attr(e, "target", "dev") == string(target) {
			return e
		}
	}
	return nil
}

func redefine(l *libvirt.Libvirt, root *etree.Element) error {
	doc := etree.NewDocument()
	doc.SetRoot(root.Copy())
	xml, err := doc.WriteToString()
	if err != nil {
		return err
	}
	_, err = l.DomainDefineXMLFlags(xml, 0)
	return err
}

// Retarget edits the persistent definition by element, so that nothing of it is
// lost that we do not know.
func (h *Host) Retarget(ctx context.Context, id backstay.VMID, target backstay.DiskTarget, to hypervisor.Source) error {
	err := h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		state, err := vmState(l, d)
		if err != nil {
			return err
		}
		if state != backstay.VMShutOff {
			if err := runsOn(l, d, target, to.Location); err != nil {
				return err
			}
		}
		root, _, err := definition(l, d, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
		if err != nil {
			return err
		}
		e := diskElement(root, target)
		if e == nil {
			return errors.New("the VM has no such disk")
		}
		if err := retarget(e, to); err != nil {
			return err
		}
		return redefine(l, root)
	})
	if err != nil {
		return fmt.Errorf("retarget disk %s of VM %s: %w", target, id, err)
	}
	return nil
}
