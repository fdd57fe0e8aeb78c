package host

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// unwritten sees that the disks which a VM is about to leave hold nothing that is not
// in its safety point: while a job waited to go on, somebody may have started the VM
// and shut it off again. A disk that is not in the point is its owner's risk.
func (h *Host) unwritten(ctx context.Context, safety backstay.PointID, domain *hypervisor.Domain, targets []backstay.DiskTarget) error {
	if safety == "" {
		return nil
	}
	point, err := h.openPoint(ctx, safety)
	if err != nil {
		return err
	}
	for _, target := range targets {
		layers, ok := point.Disk(target)
		file := sourceOf(domain, target)
		if !ok || !hypervisor.IsPath(file) {
			continue
		}
		chain := domain.Chains[target]
		direct := !hypervisor.IsPath(layers.Path) || len(chain) > 1 && record.SameFile(chain[1], layers.Path)
		held, err := h.images.Allocated(ctx, hypervisor.Image{Location: file, Format: "qcow2", Secret: layers.Secret})
		if err != nil {
			return fmt.Errorf("see whether disk %s was written to: %w", target, err)
		}
		if !direct || len(held) > 0 {
			return backstay.Errorf(backstay.CodeConflict, "VM %s was started and written to after its safety point", domain.VM.Name).
				Becausef("disk %s has %d bytes that are in no point", target, backstay.TotalLength(held)).Do("try again: another safety point is taken then")
		}
	}
	return nil
}
