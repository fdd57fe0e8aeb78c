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
	resolveVolumes(l, root)
	if state == backstay.VMShutOff && onNetwork(root, disks) {
		return hypervisor.Switched{}, switchOff(l, d, disks)
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
	h.settleChains(l, d, targets(disks))
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
