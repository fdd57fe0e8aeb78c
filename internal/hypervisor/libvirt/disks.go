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

const (
	defaultAgentTimeout = 2 * time.Second
	thawTimeout         = 5 * time.Second
	thawRetry           = 2 * time.Second
	thawTries           = 300 // ten minutes
)

// SwitchAll is one external snapshot without metadata over all named disks, into
// overlays that exist. libvirtd itself freezes, switches and thaws, so that our
// death in the call leaves no guest frozen (I9). ctx does not cut it short: the
// caller must learn whether the disks were switched.
func (h *Host) SwitchAll(ctx context.Context, id backstay.VMID, disks []hypervisor.Switch, o hypervisor.SwitchOptions) (hypervisor.Switched, error) {
	if err := ctx.Err(); err != nil {
		return hypervisor.Switched{}, err
	}
	if o.AgentTimeout <= 0 {
		o.AgentTimeout = defaultAgentTimeout
	}
	ctx = context.WithoutCancel(ctx)
	switched, err := call(ctx, h, callPatience+4*o.AgentTimeout, func(l *libvirt.Libvirt) (hypervisor.Switched, error) {
		d, err := lookup(l, id)
		if err != nil {
			return hypervisor.Switched{}, err
		}
		return h.switchAll(l, d, disks, o)
	})
	if err != nil {
		if o.Quiesce && !errors.Is(err, errNotTried) {
			h.thawLater(id)
		}
		return hypervisor.Switched{}, fmt.Errorf("switch disks of VM %s: %w", id, err)
	}
	return switched, nil
}

// errNotTried: nothing was asked of the guest agent, so there is nothing to thaw.
var errNotTried = errors.New("not tried")

func notQuiesced(cause error) error { return fmt.Errorf("%w: %w", hypervisor.ErrNotQuiesced, cause) }

func (h *Host) switchAll(l *libvirt.Libvirt, d libvirt.Domain, disks []hypervisor.Switch, o hypervisor.SwitchOptions) (hypervisor.Switched, error) {
	state, err := vmState(l, d)
	if err != nil {
		return hypervisor.Switched{}, fmt.Errorf("%w: %w", errNotTried, err)
	}
	root, _, err := definition(l, d, 0)
	if err != nil {
		return hypervisor.Switched{}, fmt.Errorf("%w: %w", errNotTried, err)
	}
	xml, err := snapshotXML(root, disks)
	if err != nil {
		return hypervisor.Switched{}, fmt.Errorf("%w: %w", errNotTried, err)
	}
	flags := libvirt.DomainSnapshotCreateDiskOnly | libvirt.DomainSnapshotCreateAtomic |
		libvirt.DomainSnapshotCreateNoMetadata | libvirt.DomainSnapshotCreateReuseExt
	if o.Quiesce {
		if err := freezable(root, state); err != nil {
			return hypervisor.Switched{}, notQuiesced(fmt.Errorf("%w: %w", errNotTried, err))
		}
		if _, err := l.DomainAgentSetResponseTimeout(d, seconds(o.AgentTimeout), 0); err != nil && !isCode(err, libvirt.ErrNoSupport) {
			return hypervisor.Switched{}, notQuiesced(fmt.Errorf("%w: %w", errNotTried, err))
		}
		flags |= libvirt.DomainSnapshotCreateQuiesce
	}
	began := time.Now()
	_, err = l.DomainSnapshotCreateXML(d, xml, uint32(flags))
	took := time.Since(began)
	if err != nil {
		if o.Quiesce && agentTrouble(err) {
			err = notQuiesced(err)
		}
		return hypervisor.Switched{}, err
	}
	h.dropRecordedChains(l, d, targets(disks))
	return hypervisor.Switched{Took: took}, nil
}

func targets(disks []hypervisor.Switch) []backstay.DiskTarget {
	var all []backstay.DiskTarget
	for _, s := range disks {
		all = append(all, s.Target)
	}
	return all
}

func freezable(root *etree.Element, state backstay.VMState) error {
	if state != backstay.VMRunning {
		return fmt.Errorf("the VM does not run (%s)", state)
	}
	switch agentState(root, state) {
	case backstay.AgentNone:
		return errors.New("the VM has no channel for a guest agent")
	case backstay.AgentDisconnected:
		return errors.New("the guest agent is not connected")
	}
	return nil
}

// snapshotXML names every disk of the VM: libvirt would give those that are not
// named an overlay of its own making. It refuses an overlay that does not stand
// on the disk's active layer: QEMU would take it, and the guest would find
// itself on other content.
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
		if err := standsOn(overlay, attr(e, "source", "file")); err != nil {
			return "", fmt.Errorf("disk %s: %w", target, err)
		}
		disk.CreateAttr("snapshot", "external")
		disk.CreateAttr("type", "file")
		disk.CreateElement("driver").CreateAttr("type", "qcow2")
		disk.CreateElement("source").CreateAttr("file", overlay)
	}
	for target := range overlays {
		return "", fmt.Errorf("the VM has no disk %s", target)
	}
	return doc.WriteToString()
}

func standsOn(overlay, active string) error {
	h, err := readHeader(overlay, "qcow2")
	if err != nil {
		return err
	}
	if active == "" || !samePath(h.backing, active) {
		return fmt.Errorf("overlay %s stands on %q, but the active layer is %q", overlay, h.backing, active)
	}
	return nil
}

// dropRecordedChains takes <backingStore> out of the persistent definition,
// which libvirt writes there when it switches or merges. It would name layers
// that are merged away while the VM is shut off, and the VM would not start. It
// is taken out only where libvirt finds the same chain by the headers; a chain
// that the user had to spell out stays. The switch is done by now, so an error
// here must not say that it failed.
func (h *Host) dropRecordedChains(l *libvirt.Libvirt, d libvirt.Domain, targets []backstay.DiskTarget) {
	err := func() error {
		root, _, err := definition(l, d, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
		if err != nil {
			return err
		}
		dropped := false
		for _, target := range targets {
			e := diskElement(root, target)
			if e == nil || find(e, "backingStore") == nil || !headersTell(e) {
				continue
			}
			e.RemoveChild(find(e, "backingStore"))
			dropped = true
		}
		if !dropped {
			return nil
		}
		return redefine(l, root)
	}()
	if err != nil {
		h.log.Warn("the recorded backing chain of a VM was left in its definition", "vm", d.Name, "error", err)
	}
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
			return fmt.Errorf("the VM is %s, not shut off", state)
		}
		root, _, err := definition(l, d, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
		if err != nil {
			return err
		}
		e := diskElement(root, target)
		if e == nil || find(e, "source") == nil || find(e, "driver") == nil {
			return errors.New("the VM has no such disk")
		}
		e.CreateAttr("type", "file")
		source := find(e, "source")
		for _, name := range []string{"dev", "index"} {
			source.RemoveAttr(name)
		}
		source.CreateAttr("file", to.Location)
		find(e, "driver").CreateAttr("type", to.Format)
		if b := find(e, "backingStore"); b != nil {
			e.RemoveChild(b)
		}
		return redefine(l, root)
	})
	if err != nil {
		return fmt.Errorf("retarget disk %s of VM %s: %w", target, id, err)
	}
	return nil
}

// thawLater sees to it that a guest whose freezing went wrong does not end up
// frozen: an agent that was slow may still do what libvirt has given up waiting
// for. It tries until the agent says that nothing is frozen, or the VM is gone.
func (h *Host) thawLater(id backstay.VMID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.thawing[string(id)] {
		return
	}
	h.thawing[string(id)] = true
	h.work.Go(func() {
		defer func() {
			h.mu.Lock()
			delete(h.thawing, string(id))
			h.mu.Unlock()
		}()
		for range thawTries {
			was, err := h.Thaw(h.ctx, id)
			if was > 0 && err == nil {
				h.log.Warn("a guest was found frozen and was thawed", "vm", string(id))
			}
			if err == nil || errors.Is(err, hypervisor.ErrNoVM) {
				return
			}
			select {
			case <-time.After(thawRetry):
			case <-h.ctx.Done():
				return
			}
		}
	})
}
