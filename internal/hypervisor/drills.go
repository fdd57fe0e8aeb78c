package hypervisor

import (
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
)

// ErrNoDisplay: the VM has nothing that shows pictures.
var ErrNoDisplay = errors.New("the VM has no display")

// Network is an isolated network of a host: what is in it sees each other and
// nothing else. It is gone when the host starts anew.
type Network struct {
	Name string
	// Bridge is the name of its interface on the host, at most 15 bytes.
	Bridge string
	// Address is that of the host in it, as 10.0.0.1/24: from there the host asks for
	// what the VMs serve, and they get addresses by DHCP. Empty for a network in
	// which the host is not.
	Address string
}

// Lease is an address that a VM got in a network.
type Lease struct {
	MAC     string
	Address string
}

// Networks makes isolated networks.
type Networks interface {
	// MakeNetwork makes a network. With an address, what comes from the VMs is let
	// through to the host only as an answer, or as a wish for an address. No error if it
	// is there by an earlier call.
	MakeNetwork(ctx context.Context, n Network) error
	// RemoveNetwork removes it with all that MakeNetwork made for it. No error if it is
	// not there.
	RemoveNetwork(ctx context.Context, n Network) error
	// Leases lists the addresses in a network.
	Leases(ctx context.Context, name string) ([]Lease, error)
}

// Screens shows what VMs show.
type Screens interface {
	// Screenshot returns a picture of a running VM's first display, as PPM or PNG.
	// ErrNoDisplay if it has none.
	Screenshot(ctx context.Context, id backstay.VMID) ([]byte, error)
}
