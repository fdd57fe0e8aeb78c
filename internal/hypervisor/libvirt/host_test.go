package libvirt

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

func TestAnURIThatCannotBeUnderstoodIsRefused(t *testing.T) {
	for _, uri := range []string{"", "xen:///system", "qemu://host/system", "qemu:///session", "qemu+ssh://h/system", "%"} {
		if _, err := Open(t.Context(), uri, Options{}); !backstay.IsCode(err, backstay.CodeConfig) {
			t.Errorf("%q gave %v", uri, err)
		}
	}
}

func TestWithoutLibvirtEveryCallIsAwayAtOnceAndCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	h, err := Open(t.Context(), "qemu:///system?socket="+filepath.Join(t.TempDir(), "none"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, id := t.Context(), backstay.VMID("c0ffee00-0000-4000-8000-000000000001")
	_, facts := h.Facts(ctx)
	_, vms := h.VMs(ctx)
	_, domain := h.Domain(ctx, id)
	_, switched := h.SwitchAll(ctx, id, nil, hypervisor.SwitchOptions{})
	_, thaw := h.Thaw(ctx, id)
	for _, err := range []error{facts, vms, domain, switched, thaw, h.Start(ctx, id), h.Destroy(ctx, id), h.Undefine(ctx, id), h.PingAgent(ctx, id, time.Second)} {
		if !errors.Is(err, hypervisor.ErrAway) {
			t.Errorf("got %v", err)
		}
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := h.VMs(ctx); !errors.Is(err, hypervisor.ErrAway) {
		t.Errorf("after close: %v", err)
	}
}

// A libvirtd that accepts and never answers must hold nobody.
func TestAHungLibvirtHoldsNobody(t *testing.T) {
	defer goleak.VerifyNone(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket) // the kernel accepts for us
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	h, err := Open(ctx, "qemu:///system?socket="+socket, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.VMs(t.Context()); !errors.Is(err, hypervisor.ErrAway) {
		t.Errorf("got %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}
