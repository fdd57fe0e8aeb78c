package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// network is an isolated network.
type network struct {
	hypervisor.Network
	leases []hypervisor.Lease
}

// Networks lists the isolated networks that there are, by name.
func (h *Host) Networks() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for name := range h.networks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SetLease gives an address in a network to whoever has the MAC address.
func (h *Host) SetLease(name string, l hypervisor.Lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.networks[name].leases = append(h.networks[name].leases, l)
}

// SetScreen says what a VM shows; nil for nothing.
func (h *Host) SetScreen(id backstay.VMID, picture []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[id].screen = picture
}

// MakeNetwork makes an isolated network.
func (h *Host) MakeNetwork(ctx context.Context, n hypervisor.Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enterNetwork(ctx, "make-network"); err != nil {
		return err
	}
	if h.networks == nil {
		h.networks = map[string]*network{}
	}
	if h.networks[n.Name] == nil {
		h.networks[n.Name] = &network{Network: n}
	}
	return nil
}

// RemoveNetwork removes one.
func (h *Host) RemoveNetwork(ctx context.Context, n hypervisor.Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enterNetwork(ctx, "remove-network"); err != nil {
		return err
	}
	delete(h.networks, n.Name)
	return nil
}

// Leases lists what SetLease said.
func (h *Host) Leases(ctx context.Context, name string) ([]hypervisor.Lease, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.enterNetwork(ctx, "leases"); err != nil {
		return nil, err
	}
	n := h.networks[name]
	if n == nil {
		return nil, errors.New("there is no network " + name)
	}
	return slices.Clone(n.leases), nil
}

func (h *Host) enterNetwork(ctx context.Context, call string) error {
	if h.away {
		return hypervisor.ErrAway
	}
	return h.enter(ctx, call)
}

// Screenshot returns what SetScreen said.
func (h *Host) Screenshot(ctx context.Context, id backstay.VMID) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, err := h.enterVM(ctx, "screenshot", id)
	if err != nil {
		return nil, err
	}
	if v.live == nil {
		return nil, fmt.Errorf("take a picture of VM %s: it does not run", id)
	}
	if v.screen == nil {
		return nil, hypervisor.ErrNoDisplay
	}
	return slices.Clone(v.screen), nil
}
