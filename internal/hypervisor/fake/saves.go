package fake

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
)

// Save shuts a running VM off with its memory saved, as its owner would.
func (h *Host) Save(id backstay.VMID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.vms[id]
	if v.live == nil {
		return fmt.Errorf("save VM %s: it does not run", id)
	}
	v.saved, v.live, v.paused, v.frozen, v.stalled = v.live, nil, false, false, false
	h.changed(id)
	return nil
}

// DiscardSaved throws saved memory away.
func (h *Host) DiscardSaved(ctx context.Context, id backstay.VMID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "discard-saved", id)
	if err != nil || v.saved == nil {
		return err
	}
	v.saved = nil
	h.changed(id)
	return nil
}

// SetAutostart notes whether the VM starts with the host.
func (h *Host) SetAutostart(ctx context.Context, id backstay.VMID, on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "autostart", id)
	if err != nil {
		return err
	}
	v.starts = on
	return nil
}

// Unplug takes a disk from a running VM until it is started again, as its owner
// would: the persistent definition keeps it.
func (h *Host) Unplug(id backstay.VMID, target backstay.DiskTarget) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.vms[id]
	if v.live == nil {
		return fmt.Errorf("unplug disk %s of VM %s: it does not run", target, id)
	}
	disk := v.live.diskElement(target)
	if disk == nil {
		return fmt.Errorf("unplug disk %s of VM %s: there is none", target, id)
	}
	disk.Parent().RemoveChild(disk)
	h.changed(id)
	return nil
}
