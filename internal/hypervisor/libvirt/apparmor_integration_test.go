//go:build integration

package libvirt_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
)

// TestAConfinedVMReachesItsWholeChainAndNoSocket: libvirt's own helper, which
// writes the AppArmor profile of a VM, finds every layer below the one that the
// definition names, and no socket on which a disk is served. What doctor says and
// the docs say stands on that; the kernel need not have AppArmor for it.
func TestAConfinedVMReachesItsWholeChainAndNoSocket(t *testing.T) {
	dir := t.TempDir()
	im := qemu.New(qemu.Options{Dir: filepath.Join(dir, "x")})
	base := hypervisor.Plain(filepath.Join(dir, "base.raw"), "raw")
	chain := []string{base.Location}
	if err := im.Create(t.Context(), base.Location, "raw", 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web01-vda.1.qcow2", "web01-vda.2.qcow2", "copy-vda.qcow2"} {
		over := hypervisor.Plain(filepath.Join(dir, name), "qcow2")
		if err := im.CreateOverlay(t.Context(), hypervisor.Overlay{Path: over.Location, Backing: base}); err != nil {
			t.Fatal(err)
		}
		base, chain = over, append(chain, over.Location)
	}
	socket := "/run/backstay/live/x.sock"
	live := filepath.Join(dir, "live.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd+unix:///vdb?socket="+socket, live, "1M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
	helper := exec.Command("/usr/lib/libvirt/virt-aa-helper", "--dryrun", "--create", "--uuid", "libvirt-"+id)
	helper.Stdin = strings.NewReader(domainXML("web01", id, []backstay.Disk{
		{Target: "vda", Source: base.Location, Format: "qcow2"}, {Target: "vdb", Source: live, Format: "qcow2"},
	}))
	out, err := helper.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, file := range append(chain, live) {
		if !strings.Contains(string(out), `"`+file+`" r`) {
			t.Errorf("the VM may not open %s:\n%s", file, out)
		}
	}
	if strings.Contains(string(out), socket) {
		t.Errorf("libvirt lets the VM reach %s by itself: the docs and doctor ask for too much", socket)
	}
}
