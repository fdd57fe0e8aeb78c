package fake_test

import (
	"context"
	"os"
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
	hypervisortest.HostSuite{
		Host: h, Images: h, Connect: connect,
		XML: func(name string, uuid backstay.VMID, disks []backstay.Disk) string {
			return fake.XML(name, uuid, disks...)
		},
	}.Run(t)
}
