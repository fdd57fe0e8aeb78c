package libvirt

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
)

// Stalled tells whether QEMU paused the VM since a request to a disk failed.
func (h *Host) Stalled(ctx context.Context, id backstay.VMID) (bool, error) {
	is, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (bool, error) {
		d, err := lookup(l, id)
		if err != nil {
			return false, err
		}
		return stalled(l, d)
	})
	if err != nil {
		return false, fmt.Errorf("look at VM %s: %w", id, err)
	}
	return is, nil
}

// stalled goes by the reason alone: which error it was can only be asked of QEMU
// behind libvirt's back, which marks the VM as tainted.
func stalled(l *libvirt.Libvirt, d libvirt.Domain) (bool, error) {
	state, reason, err := l.DomainGetState(d, 0)
	return libvirt.DomainState(state) == libvirt.DomainPaused && libvirt.DomainPausedReason(reason) == libvirt.DomainPausedIoerror, err
}

// Unstall lets a stalled VM go on.
func (h *Host) Unstall(ctx context.Context, id backstay.VMID) (bool, error) {
	was, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (bool, error) {
		d, err := lookup(l, id)
		if err != nil {
			return false, err
		}
		was, err := stalled(l, d)
		if err != nil || !was {
			return false, err
		}
		return true, l.DomainResume(d)
	})
	if err != nil {
		return was, fmt.Errorf("let VM %s go on: %w", id, err)
	}
	return was, nil
}
