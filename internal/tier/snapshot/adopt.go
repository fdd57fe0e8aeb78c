package snapshot

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Adopt lets the layers and points that are recorded for an old VM be those of
// another, which its owner says goes on for it (architecture decision 11). What
// was cut off is settled first, by the name under which it was begun. CodeConflict
// while the old VM is still there. Safe to repeat.
func (t *Tier) Adopt(ctx context.Context, old backstay.VMID, vm backstay.VMRef) error {
	if err := t.lookAround(ctx); err != nil {
		return hypervisorError(err, "host %s cannot be looked at", t.host)
	}
	switch _, err := t.hv.Domain(ctx, old); {
	case err == nil:
		return backstay.Errorf(backstay.CodeConflict, "the points of VM %s cannot become those of %s", old, vm.Name).
			Becausef("host %s still has that VM", t.host).Do("remove the old VM first, or protect the new one by itself")
	case !errors.Is(err, hypervisor.ErrNoVM):
		return hypervisorError(err, "it cannot be told whether host %s still has VM %s", t.host, old)
	}
	if err := t.settleOthers(ctx, old); err != nil {
		return fmt.Errorf("settle what VM %s left: %w", old, err)
	}
	return t.change(func(b *book) error {
		for _, l := range b.Layers {
			if l.VM != old {
				continue
			}
			l.VM = vm.UUID
			if err := b.Put(l); err != nil {
				return err
			}
		}
		for _, p := range b.Points {
			if p.VM.UUID != old {
				continue
			}
			p.VM, p.Shape.ID, p.Shape.Name = vm, vm.UUID, vm.Name
			if err := b.PutPoint(p); err != nil {
				return err
			}
		}
		return nil
	})
}
