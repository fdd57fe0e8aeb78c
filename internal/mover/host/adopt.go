package host

import (
	"context"

	"github.com/backstay/backstay/internal/mover"
)

// Adopt lets the layers and points of old VMs be those of a new one.
func (h *Host) Adopt(ctx context.Context, r mover.AdoptRequest) error {
	for _, old := range r.Old {
		unlock, err := h.vms.lock(ctx, string(old))
		if err != nil {
			return err
		}
		err = h.tier.Adopt(ctx, old, r.VM)
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
