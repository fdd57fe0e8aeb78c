//go:build integration

package guest_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/image"
)

// pool makes machines of the source tree for a test.
func pool(t *testing.T, o guest.Options) *guest.Pool {
	t.Helper()
	parts, err := image.Ensure(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	o.Parts, o.Run = parts, t.TempDir()
	p, err := guest.NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// served serves an ext4 image of some MiB read-only over NBD.
func served(t *testing.T) guest.Disk {
	t.Helper()
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "disk"), filepath.Join(dir, "socket")
	const size = 64 << 20
	run(t, "truncate", "-s", "64M", path)
	run(t, "/usr/sbin/mke2fs", "-q", "-t", "ext4", "-L", "a-label", path)
	cmd := exec.Command("qemu-nbd", "-r", "-t", "-e", "8", "-f", "raw", "-x", "disk", "-k", socket, path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			return guest.Disk{Target: "vda", Socket: socket, Export: "disk", Size: size}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("qemu-nbd does not listen")
	return guest.Disk{}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func TestAMachineBootsAndSeesADisk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	began := time.Now()
	m, err := pool(t, guest.Options{}).Machine(ctx, guest.Need{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("up after", time.Since(began))
	if err := m.Attach(ctx, served(t)); err != nil {
		t.Fatal(err)
	}
	t.Log("attached after", time.Since(began))
	if _, err := m.Scan(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}
