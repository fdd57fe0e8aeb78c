package fake

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
)

// Redefine replaces the definition of a VM that is shut off.
func (h *Host) Redefine(ctx context.Context, id backstay.VMID, xml string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "redefine", id)
	if err != nil {
		return err
	}
	d, err := parse(xml)
	switch {
	case err != nil:
		return fmt.Errorf("redefine VM %s: %w", id, err)
	case v.live != nil:
		return fmt.Errorf("redefine VM %s: it is running", id)
	case d.id() != id || d.text("name") != v.inactive.text("name"):
		return fmt.Errorf("redefine VM %s: the definition is that of %s (%s)", id, d.text("name"), d.id())
	}
	v.inactive = d
	h.changed(id)
	return nil
}

// Ignoring lets a guest ignore what Shutdown asks, or hear it again.
func (h *Host) Ignoring(id backstay.VMID, ignores bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].ignores = ignores
}

// Shutdown shuts a running VM off, unless its guest ignores that.
func (h *Host) Shutdown(ctx context.Context, id backstay.VMID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "shutdown", id)
	if err != nil || v.live == nil || v.paused || v.ignores {
		return err
	}
	v.live, v.frozen, v.stalled = nil, false, false
	if v.pull != nil {
		v.pull.close()
		v.pull = nil
	}
	h.changed(id)
	return nil
}
