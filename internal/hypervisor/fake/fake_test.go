package fake_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	"github.com/backstay/backstay/internal/hypervisor/hypervisortest"
	"github.com/backstay/backstay/internal/nbd"
)

func connect(ctx context.Context, e hypervisor.Export) (hypervisortest.Device, error) {
	return nbd.Dial(ctx, e.Socket(), e.Name(), nbd.Options{})
}

// socketDir is short: the path of a unix socket is limited.
func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "fake")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestFakeImagesKeepThePortsContract(t *testing.T) {
	hypervisortest.ImagesSuite{Images: fake.New(socketDir(t)), Connect: connect}.Run(t)
}

func TestFakeHostKeepsThePortsContract(t *testing.T) {
	h := fake.New(socketDir(t))
	const open, private = "11111111-2222-4333-8444-000000000001", "11111111-2222-4333-8444-000000000002"
	h.SetSecret(open, []byte("open sesame"), false)
	h.SetSecret(private, []byte("open sesame"), true)
	hypervisortest.HostSuite{
		Host: h, Images: h, Connect: connect, Secret: open, PrivateSecret: private,
		Sources: []hypervisortest.Source{
			{Name: "encrypted qcow2", Make: encrypted(h, "qcow2", open)},
			{Name: "encrypted raw", Make: encrypted(h, "luks", open)},
			{Name: "block device", Make: func(t *testing.T) (backstay.Disk, string) {
				path := filepath.Join(t.TempDir(), "device")
				if err := h.Create(t.Context(), path, "raw", hypervisortest.SourceSize); err != nil {
					t.Fatal(err)
				}
				return backstay.Disk{Source: path, Format: "raw", Kind: backstay.BlockDisk}, ""
			}},
		},
		XML: func(name string, uuid backstay.VMID, disks []backstay.Disk) string {
			return fake.XML(name, uuid, disks...)
		},
		Save: func(t *testing.T, id backstay.VMID) {
			if err := h.Save(id); err != nil {
				t.Error(err)
			}
		},
	}.Run(t)
}

func encrypted(h *fake.Host, format, secret string) func(*testing.T) (backstay.Disk, string) {
	return func(t *testing.T) (backstay.Disk, string) {
		image := hypervisor.Image{Location: filepath.Join(t.TempDir(), "disk"), Format: format, Secret: secret}
		if err := h.CreateEncrypted(t.Context(), image, hypervisortest.SourceSize); err != nil {
			t.Fatal(err)
		}
		d := backstay.Disk{Source: image.Location, Format: format, Secret: secret}
		if format == "luks" {
			d.Format = "raw"
		}
		return d, ""
	}
}
