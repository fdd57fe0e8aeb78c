//go:build integration

package libvirt_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/hypervisortest"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
)

const (
	openSecret    = "11111111-2222-4333-8444-000000000001"
	privateSecret = "11111111-2222-4333-8444-000000000002"
	marker        = "the secret of this suite"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (p *private) virsh(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "virsh", append([]string{"-q", "-c", p.uri}, args...)...)
}

func (p *private) file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.xml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (p *private) secrets(t *testing.T) {
	t.Helper()
	for uuid, private := range map[string]string{openSecret: "no", privateSecret: "yes"} {
		p.virsh(t, "secret-define", p.file(t, fmt.Sprintf("<secret ephemeral='no' private='%s'><uuid>%s</uuid></secret>", private, uuid)))
		p.virsh(t, "secret-set-value", uuid, "--file", p.file(t, marker), "--plain")
	}
}

// images are those of a host, with its secrets.
func images(dir string, h *libvirt.Host) *qemu.Images {
	return qemu.New(qemu.Options{Dir: filepath.Join(dir, "x"), Secrets: h})
}

// withSources opens the host so that it can ask servers on the network.
func withSources(t *testing.T, p *private) (*libvirt.Host, *qemu.Images) {
	t.Helper()
	var im *qemu.Images
	h, err := libvirt.Open(t.Context(), p.uri, libvirt.Options{Size: func(ctx context.Context, location string) (int64, error) {
		info, err := im.Info(ctx, location)
		return info.VirtualSize, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	im = images(p.dir, h)
	return h, im
}

func loop(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	device := run(t, "losetup", "-f", "--show", path)
	t.Cleanup(func() { run(t, "losetup", "-d", device) })
	return device
}

// everySource runs the suite on further kinds of disk, which take long and differ
// little from those that are always run on.
var everySource bool

// serve serves a new raw disk by NBD, to several clients.
func serve(t *testing.T, args ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, hypervisortest.SourceSize); err != nil {
		t.Fatal(err)
	}
	pid := filepath.Join(t.TempDir(), "pid")
	cmd := exec.Command("qemu-nbd", append([]string{"--persistent", "--shared=8", "-f", "raw", "-x", "a disk", "--pid-file", pid}, append(args, path)...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(pid); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the NBD server did not come up")
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func sourcesOf(p *private, im *qemu.Images) []hypervisortest.Source {
	const driver, target = "<driver name='qemu' type='raw' cache='none' io='native'/>", "<target dev='vda' bus='virtio'/>"
	encrypted := func(format string) func(*testing.T) (backstay.Disk, string) {
		return func(t *testing.T) (backstay.Disk, string) {
			image := hypervisor.Image{Location: filepath.Join(t.TempDir(), "disk"), Format: format, Secret: openSecret}
			if err := im.CreateEncrypted(t.Context(), image, hypervisortest.SourceSize); err != nil {
				t.Fatal(err)
			}
			d := backstay.Disk{Source: image.Location, Format: format, Secret: openSecret}
			if format == "luks" {
				d.Format = "raw"
			}
			return d, ""
		}
	}
	sources := []hypervisortest.Source{
		{Name: "encrypted qcow2", Make: encrypted("qcow2")},
		{Name: "block device", Make: func(t *testing.T) (backstay.Disk, string) {
			device := loop(t, hypervisortest.SourceSize)
			return backstay.Disk{Kind: backstay.BlockDisk}, "<disk type='block' device='disk'>" + driver + "<source dev='" + device + "'/>" + target + "</disk>"
		}},
		{Name: "volume of a folder", Make: func(t *testing.T) (backstay.Disk, string) {
			pool := "p" + freePort(t)
			p.virsh(t, "pool-define-as", pool, "dir", "--target", t.TempDir())
			p.virsh(t, "pool-start", pool)
			t.Cleanup(func() { p.virsh(t, "pool-destroy", pool); p.virsh(t, "pool-undefine", pool) })
			p.virsh(t, "vol-create-as", pool, "v", fmt.Sprint(hypervisortest.SourceSize), "--format", "raw")
			return backstay.Disk{Kind: backstay.VolumeDisk}, "<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='" + pool + "' volume='v'/>" + target + "</disk>"
		}},
		{Name: "NBD over a socket", Make: func(t *testing.T) (backstay.Disk, string) {
			socket := filepath.Join(p.dir, freePort(t)+".sock")
			serve(t, "-k", socket)
			return backstay.Disk{Kind: backstay.NetworkDisk}, "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='a disk'><host transport='unix' socket='" + socket + "'/></source>" + target + "</disk>"
		}},
	}
	if !everySource {
		return sources
	}
	return append(sources, []hypervisortest.Source{
		{Name: "encrypted raw", Make: encrypted("luks")},
		{Name: "qcow2 on a block device", Make: func(t *testing.T) (backstay.Disk, string) {
			device := loop(t, 3*hypervisortest.SourceSize)
			run(t, "qemu-img", "create", "-q", "-f", "qcow2", device, fmt.Sprint(hypervisortest.SourceSize))
			return backstay.Disk{Kind: backstay.BlockDisk}, "<disk type='block' device='disk'><driver name='qemu' type='qcow2'/><source dev='" + device + "'/>" + target + "</disk>"
		}},
		{Name: "NBD over TCP", Make: func(t *testing.T) (backstay.Disk, string) {
			port := freePort(t)
			serve(t, "-b", "127.0.0.1", "-p", port)
			return backstay.Disk{Kind: backstay.NetworkDisk}, "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='a disk'><host name='127.0.0.1' port='" + port + "'/></source>" + target + "</disk>"
		}},
	}...)
}

func elementXML(element string) func(string, backstay.VMID, []backstay.Disk) string {
	return func(name string, id backstay.VMID, _ []backstay.Disk) string {
		return strings.Replace(domainXML(name, id, nil), "<devices>", "<devices>"+element, 1)
	}
}
