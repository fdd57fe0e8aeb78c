package libvirt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Define makes a persistent VM. libvirt would take the definition of a VM that
// is there already as a change to it, so name and UUID are looked up first.
func (h *Host) Define(ctx context.Context, xml string) (backstay.VMID, error) {
	root, err := parseDomain(xml)
	if err != nil {
		return "", fmt.Errorf("define VM: %w", err)
	}
	name, uuid := text(root, "name"), strings.ToLower(text(root, "uuid"))
	id, err := call(context.WithoutCancel(ctx), h, callPatience, func(l *libvirt.Libvirt) (backstay.VMID, error) {
		_, err := l.DomainLookupByName(name)
		if err == nil {
			return "", fmt.Errorf("a VM of this name: %w", hypervisor.ErrExists)
		}
		if !isCode(err, libvirt.ErrNoDomain) {
			return "", err
		}
		if uuid != "" {
			_, err := lookup(l, backstay.VMID(uuid))
			if err == nil {
				return "", fmt.Errorf("a VM with UUID %s: %w", uuid, hypervisor.ErrExists)
			}
			if !isCode(err, libvirt.ErrNoDomain) {
				return "", err
			}
		}
		d, err := l.DomainDefineXMLFlags(xml, 0)
		return vmID(d.UUID), err
	})
	if err != nil {
		return "", fmt.Errorf("define VM %s: %w", name, err)
	}
	return id, nil
}

// Undefine removes the definition of a VM that does not run.
func (h *Host) Undefine(ctx context.Context, id backstay.VMID) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
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
		flags := libvirt.DomainUndefineManagedSave | libvirt.DomainUndefineSnapshotsMetadata |
			libvirt.DomainUndefineCheckpointsMetadata | libvirt.DomainUndefineNvram
		err = l.DomainUndefineFlags(d, flags|libvirt.DomainUndefineTpm)
		if isCode(err, libvirt.ErrInvalidArg) { // libvirt before 8.9 removes the TPM's state by itself
			err = l.DomainUndefineFlags(d, flags)
		}
		return err
	})
	if err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
		return fmt.Errorf("undefine VM %s: %w", id, err)
	}
	return nil
}

// Start starts a VM.
func (h *Host) Start(ctx context.Context, id backstay.VMID) error {
	err := h.do(ctx, startPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		return l.DomainCreate(d)
	})
	if err != nil {
		return fmt.Errorf("start VM %s: %w", id, err)
	}
	return nil
}

// Destroy ends a VM at once.
func (h *Host) Destroy(ctx context.Context, id backstay.VMID) error {
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		err = l.DomainDestroyFlags(d, 0)
		if err != nil {
			if active, stateErr := l.DomainIsActive(d); stateErr == nil && active == 0 {
				return nil
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
		return fmt.Errorf("destroy VM %s: %w", id, err)
	}
	return nil
}

func seconds(d time.Duration) int32 {
	return int32(max(1, math.Ceil(d.Seconds())))
}
