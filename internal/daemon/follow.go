package daemon

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// followItems lets protected items name their VMs as they are called now and
// where they are now: a VM stays the same one when it is renamed or moves to
// another host of the region.
func (h *hosts) followItems(ctx context.Context) error {
	items, err := h.catalog.Items.ListItems(ctx)
	if err != nil {
		return fmt.Errorf("list protected items: %w", err)
	}
	for _, item := range items {
		vm, err := h.catalog.VMs.VM(ctx, item.VM.UUID)
		if errors.Is(err, catalog.ErrNotFound) {
			continue // no host has it: the item keeps the name that people know
		}
		if err != nil {
			return fmt.Errorf("read the VM of a protected item: %w", err)
		}
		if vm.Ref() == item.VM {
			continue
		}
		err = h.catalog.Items.ChangeItem(ctx, item.VM.UUID, func(i *backstay.ProtectedItem) error {
			i.VM = vm.Ref()
			return nil
		})
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return fmt.Errorf("record that %s is %s now: %w", target(item.VM), target(vm.Ref()), err)
		}
		h.log.Info("a protected VM has another name or host", "was", target(item.VM), "is", target(vm.Ref()))
	}
	return nil
}
