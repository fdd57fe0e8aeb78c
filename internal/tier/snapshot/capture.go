package snapshot

import (
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier"
)

// Capture reads what a point holds of a VM beside its disks, for points that
// have no layers.
func Capture(domain *hypervisor.Domain) (tier.Definition, error) { return capture(domain) }
