package host

import (
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Room tells what is left beside the disks, and who takes it.
func (h *Host) Room(ctx context.Context) ([]backstay.Room, error) {
	rooms, err := h.tier.Room(ctx)
	if err != nil {
		return nil, err
	}
	for i := range rooms {
		for j := range rooms[i].VMs {
			// While libvirt is away nobody can tell, and nothing could be done.
			rooms[i].VMs[j].Stalled, _ = h.hv.Stalled(ctx, rooms[i].VMs[j].VM.UUID)
		}
	}
	return rooms, nil
}

// Unstall lets a VM go on that stands still since a disk failed it.
func (h *Host) Unstall(ctx context.Context, vm backstay.VMID) (bool, error) {
	was, err := h.hv.Unstall(ctx, vm)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return false, nil
	}
	return was, err
}
