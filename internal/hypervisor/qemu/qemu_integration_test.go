//go:build integration

package qemu_test

import (
	"context"
	"testing"

	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/hypervisortest"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/nbd"
)

func connect(ctx context.Context, e hypervisor.Export) (hypervisortest.Device, error) {
	return nbd.Dial(ctx, e.Socket(), e.Name(), nbd.Options{})
}

func TestImagesKeepThePortsContract(t *testing.T) {
	hypervisortest.ImagesSuite{Images: qemu.New(qemu.Options{Dir: t.TempDir()}), Connect: connect}.Run(t)
}
