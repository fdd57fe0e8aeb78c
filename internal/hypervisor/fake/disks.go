package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// SwitchAll moves disks to overlays, all or none.
func (h *Host) SwitchAll(ctx context.Context, id backstay.VMID, disks []hypervisor.Switch, o hypervisor.SwitchOptions) (hypervisor.Switched, error) {
	if err := h.mayChange(ctx, id); err != nil {
		return hypervisor.Switched{}, err
	}
	if o.Before != nil {
		if err := o.Before(); err != nil {
			return hypervisor.Switched{}, err
		}
	}
	err := h.switchAll(ctx, id, disks)
	if o.After != nil {
		o.After(err)
	}
	return hypervisor.Switched{}, err
}

// mayChange tells whether there is a VM to change.
func (h *Host) mayChange(ctx context.Context, id backstay.VMID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.enterGuest(ctx, "", id, false)
	return err
}

func (h *Host) switchAll(ctx context.Context, id backstay.VMID, disks []hypervisor.Switch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "switch", id)
	if err != nil {
		return err
	}
	inactive, live := v.inactive.copy(), v.live
	if live != nil {
		live = live.copy()
	}
	for _, s := range disks {
		if err := h.checkSwitch(v, s, id); err != nil {
			return fmt.Errorf("switch disk %s: %w", s.Target, err)
		}
		for _, d := range []*definition{inactive, live} {
			if d == nil {
				continue
			}
			if err := d.setDisk(s.Target, absolute(s.Overlay)); err != nil {
				return fmt.Errorf("switch disk: %w", err)
			}
		}
	}
	v.inactive, v.live = inactive, live // one step: all disks
	h.changed(id)
	return nil
}

func (h *Host) checkSwitch(v *vm, s hypervisor.Switch, id backstay.VMID) error {
	overlay := absolute(s.Overlay)
	info, err := imageInfo(overlay)
	if err != nil {
		return err
	}
	for _, d := range v.current().disks() {
		if d.Target == s.Target && d.Source != info.Backing {
			return fmt.Errorf("overlay stands on %s, not on %s", info.Backing, d.Source)
		}
	}
	return h.conflict(overlay, true, id)
}

// MergeLive merges layers of a running VM.
func (h *Host) MergeLive(ctx context.Context, id backstay.VMID, m hypervisor.Merge, progress func(done, total int64)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "merge", id)
	if err != nil {
		return err
	}
	if v.live == nil {
		return fmt.Errorf("merge layers of %s: the VM is shut off", id)
	}
	el := v.live.diskElement(m.Target)
	if el == nil {
		return fmt.Errorf("merge layers of %s: no disk %s", id, m.Target)
	}
	chain := chainOf(locationOf(el))
	top, base := slices.Index(chain, absolute(m.Top)), slices.Index(chain, absolute(m.Base))
	if top < 0 || base <= top {
		return fmt.Errorf("merge layers of %s: %s is not above %s in the chain of %s", id, m.Top, m.Base, m.Target)
	}
	if err := h.conflict(chain[base], true, id); err != nil {
		return fmt.Errorf("merge layers of %s: %w", id, err)
	}
	format, err := mergeFiles(chain, top, base)
	if err != nil {
		return fmt.Errorf("merge layers of %s: %w", id, err)
	}
	if progress != nil {
		progress(1, 1)
	}
	if top > 0 {
		return setBacking(chain[top-1], chain[base], format)
	}
	h.changed(id)
	// As libvirt, this forgets in which words the owner had named the base.
	return errors.Join(v.live.setDisk(m.Target, chain[base]), v.inactive.setDisk(m.Target, chain[base]))
}

// mergeFiles puts the layers chain[top] to the one above chain[base] into the
// latter, the lowest first, and returns its format.
func mergeFiles(chain []string, top, base int) (format string, err error) {
	above, err := openLayer(chain[base-1], "qcow2", true)
	if err != nil {
		return "", err
	}
	format = above.h.BackingFormat
	above.close()
	b, err := openLayer(chain[base], format, true)
	if err != nil {
		return "", err
	}
	defer b.close()
	for i := base - 1; i >= top; i-- {
		l, err := openLayer(chain[i], "qcow2", true)
		if err != nil {
			return "", err
		}
		err = l.mergeDown(b)
		l.close()
		if err != nil {
			return "", err
		}
	}
	return format, nil
}

// Retarget lets a shut-off VM use another file for a disk.
func (h *Host) Retarget(ctx context.Context, id backstay.VMID, target backstay.DiskTarget, to hypervisor.Source) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "retarget", id)
	if err != nil {
		return err
	}
	if v.live != nil {
		if el := v.live.diskElement(target); el == nil || locationOf(el) != absolute(to.Location) {
			return fmt.Errorf("retarget disk %s of %s: the VM is running, on another image", target, id)
		}
	}
	h.changed(id)
	if to.Element != "" {
		return v.inactive.putBack(target, to.Element)
	}
	return v.inactive.setDisk(target, absolute(to.Location))
}
