package libvirt

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
)

// DiscardSaved removes the memory that libvirt saved when it shut the VM off.
func (h *Host) DiscardSaved(ctx context.Context, id backstay.VMID) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		saved, err := l.DomainHasManagedSaveImage(d, 0)
		if err != nil || saved == 0 {
			return err
		}
		return l.DomainManagedSaveRemove(d, 0)
	})
	if err != nil {
		return fmt.Errorf("discard the saved memory of VM %s: %w", id, err)
	}
	return nil
}

// SetAutostart lets libvirt start a VM when it starts itself, or not.
func (h *Host) SetAutostart(ctx context.Context, id backstay.VMID, on bool) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		wish := int32(0)
		if on {
			wish = 1
		}
		return l.DomainSetAutostart(d, wish)
	})
	if err != nil {
		return fmt.Errorf("set whether VM %s starts with the host: %w", id, err)
	}
	return nil
}
