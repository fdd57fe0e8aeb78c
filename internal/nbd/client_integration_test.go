//go:build integration

package nbd_test

import (
	"bytes"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/nbd"
)

const mib = int64(1) << 20

// TestQemuNBDIsReadWrittenAndMapped runs the client against the real server.
func TestQemuNBDIsReadWrittenAndMapped(t *testing.T) {
	ctx := t.Context()
	im := qemu.New(qemu.Options{Dir: t.TempDir()})
	base, layer := filepath.Join(t.TempDir(), "base"), filepath.Join(t.TempDir(), "layer")
	if err := im.Create(ctx, base, "qcow2", 5<<30); err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("backstay"), 80<<17) // 80 MiB: more than one request can carry
	with := func(path string, o hypervisor.ExportOptions, fn func(c *nbd.Client)) {
		t.Helper()
		e, err := im.Export(ctx, path, o)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		c, err := nbd.Dial(ctx, e.Socket(), e.Name(), nbd.Options{Contexts: []string{nbd.BaseAllocation, nbd.AllocationDepth}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fn(c)
	}
	with(base, hypervisor.ExportOptions{Format: "qcow2", Writable: true}, func(c *nbd.Client) {
		if _, err := c.WriteAt(content, mib); err != nil {
			t.Fatal(err)
		}
		if err := c.WriteZeroes(4<<30, 1<<30); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	if err := im.CreateOverlay(ctx, hypervisor.Overlay{Path: layer, Backing: hypervisor.Plain(base, "qcow2")}); err != nil {
		t.Fatal(err)
	}
	with(layer, hypervisor.ExportOptions{Format: "qcow2", Writable: true}, func(c *nbd.Client) {
		if _, err := c.WriteAt(content[:4096], 200*mib); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	with(layer, hypervisor.ExportOptions{Format: "qcow2"}, func(c *nbd.Client) {
		if c.Size() != 5<<30 || !c.ReadOnly() || c.MinBlock() != 1 {
			t.Errorf("size %d, read-only %v, block %d", c.Size(), c.ReadOnly(), c.MinBlock())
		}
		var wg sync.WaitGroup
		for i := range int64(16) {
			wg.Go(func() {
				p := make([]byte, len(content))
				if _, err := c.ReadAt(p[i:], mib+i); err != nil || !bytes.Equal(p[i:len(p)-16], content[i:len(p)-16]) {
					t.Errorf("read %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		depth, err := c.BlockStatus(ctx, nbd.AllocationDepth, 100*mib, 200*mib)
		want := []nbd.Extent{{Offset: 100 * mib, Length: 100 * mib}, {Offset: 200 * mib, Length: 4096, Flags: 1}, {Offset: 200*mib + 4096, Length: 100*mib - 4096}}
		if err != nil || !reflect.DeepEqual(depth, want) {
			t.Errorf("depth is %v, %v", depth, err)
		}
		status, err := c.BlockStatus(ctx, nbd.BaseAllocation, 0, c.Size())
		if err != nil || len(status) < 5 || status[0].Flags != nbd.Hole|nbd.Zero || status[1].Offset != mib || status[1].Flags != 0 {
			t.Errorf("status is %v, %v", status, err)
		}
	})
}
