package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
)

// Redefine replaces the definition of a VM that is shut off. libvirt writes it
// to a file beside the old one and renames that. ctx does not cut it short: the
// caller must learn whether it happened.
func (h *Host) Redefine(ctx context.Context, id backstay.VMID, xml string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	root, err := parseDomain(xml)
	if err != nil {
		return fmt.Errorf("redefine VM %s: %w", id, err)
	}
	err = h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		if active, err := l.DomainIsActive(d); err != nil || active != 0 {
			if err == nil {
				err = errors.New("it is running")
			}
			return err
		}
		if name := text(root, "name"); name != d.Name || !strings.EqualFold(text(root, "uuid"), string(id)) {
			return fmt.Errorf("the definition is that of %s (%s)", name, text(root, "uuid"))
		}
		for _, e := range root.FindElements("./devices/disk") {
			settleChain(l, e)
		}
		return redefine(l, root)
	})
	if err != nil {
		return fmt.Errorf("redefine VM %s: %w", id, err)
	}
	return nil
}

// Shutdown asks by the agent where one answers, else by the power button.
func (h *Host) Shutdown(ctx context.Context, id backstay.VMID) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		state, err := vmState(l, d)
		if err != nil || state != backstay.VMRunning {
			return err
		}
		if err = l.DomainShutdownFlags(d, libvirt.DomainShutdownGuestAgent); err != nil {
			err = l.DomainShutdownFlags(d, libvirt.DomainShutdownAcpiPowerBtn)
		}
		if active, stateErr := l.DomainIsActive(d); err != nil && stateErr == nil && active == 0 {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("shut down VM %s: %w", id, err)
	}
	return nil
}
