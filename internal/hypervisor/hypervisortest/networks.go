package hypervisortest

import (
	"errors"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// isolated: a network that is made twice is there once, and one that was removed, or
// never made, is removed without an error. A VM without a display shows nothing.
func (s HostSuite) isolated(t *testing.T) {
	for _, n := range []hypervisor.Network{
		{Name: "suite-drill", Bridge: "bst-drill", Address: "10.213.7.1/24"},
		{Name: "suite-drill", Bridge: "bst-drill"},
	} {
		for range 2 {
			if err := s.Host.MakeNetwork(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		facts, err := s.Host.Facts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(facts.Networks, n.Name) {
			t.Errorf("the network is not among %v", facts.Networks)
		}
		if leases, err := s.Host.Leases(t.Context(), n.Name); err != nil || len(leases) > 0 {
			t.Errorf("a fresh network has the addresses %v, %v", leases, err)
		}
		for range 2 {
			if err := s.Host.RemoveNetwork(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if facts, err = s.Host.Facts(t.Context()); err != nil || slices.Contains(facts.Networks, n.Name) {
			t.Errorf("the network is still among %v, %v", facts.Networks, err)
		}
	}
	w := s.vm(t)
	w.start(t)
	if _, err := s.Host.Screenshot(t.Context(), w.id); !errors.Is(err, hypervisor.ErrNoDisplay) {
		t.Errorf("a VM without a display showed something: %v", err)
	}
	if _, err := s.Host.Screenshot(t.Context(), backstay.VMID("00000000-0000-4000-8000-000000000000")); !errors.Is(err, hypervisor.ErrNoVM) {
		t.Errorf("a VM that is not there showed something: %v", err)
	}
}
