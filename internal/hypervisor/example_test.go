package hypervisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
)

// A point is what a VM's disk was before it was switched to an overlay.
func ExampleDisks() {
	dir, err := os.MkdirTemp("", "host")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	host := fake.New(dir)
	base, overlay := filepath.Join(dir, "web01.qcow2"), filepath.Join(dir, "web01.overlay.qcow2")
	if err := host.Create(ctx, base, "qcow2", 1<<20); err != nil {
		panic(err)
	}
	id, err := host.Define(ctx, fake.XML("web01", "5d3f6a60-0000-4000-8000-000000000001",
		backstay.Disk{Target: "vda", Source: base, Format: "qcow2"}))
	if err != nil {
		panic(err)
	}
	if err := host.CreateOverlay(ctx, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(base, "qcow2")}); err != nil {
		panic(err)
	}
	_, err = host.SwitchAll(ctx, id, []hypervisor.Switch{{Target: "vda", Overlay: overlay}}, hypervisor.SwitchOptions{})
	fmt.Println(err)
	domain, err := host.Domain(ctx, id)
	fmt.Println(filepath.Base(domain.VM.Disks[0].Source), err)
	// Output:
	// <nil>
	// web01.overlay.qcow2 <nil>
}
