package fake

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// SetStalled lets a VM stand still as if a disk had failed it, or go on.
func (h *Host) SetStalled(id backstay.VMID, stalled bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].stalled = stalled
	h.changed(id)
}

// Stalled tells what SetStalled said.
func (h *Host) Stalled(ctx context.Context, id backstay.VMID) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "stalled", id)
	return err == nil && v.stalled, err
}

// Unstall lets a stalled VM go on.
func (h *Host) Unstall(ctx context.Context, id backstay.VMID) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "unstall", id)
	if err != nil || !v.stalled {
		return false, err
	}
	v.stalled = false
	h.changed(id)
	return true, nil
}
