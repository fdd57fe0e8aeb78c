//go:build integration

package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
)

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// TestAGuestsForgedHeaderIsNotFollowed: a guest may write a qcow2 header with a
// backing file onto its raw disk.
func TestAGuestsForgedHeaderIsNotFollowed(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	im := qemu.New(qemu.Options{Dir: t.TempDir()})
	secret, disk, overlay := filepath.Join(dir, "secret"), filepath.Join(dir, "disk"), filepath.Join(dir, "overlay")
	if err := os.WriteFile(secret, []byte(strings.Repeat("TOPSECRET", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, disk, "1M")
	forged, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	forged = append(forged, make([]byte, -len(forged)&511)...)
	if err := os.WriteFile(disk, forged, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := im.CreateOverlay(ctx, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(disk, "raw")}); err != nil {
		t.Fatal(err)
	}
	info, err := im.Info(ctx, overlay)
	if err != nil || info.VirtualSize != int64(len(forged)) {
		t.Errorf("overlay of %d bytes has %+v, %v", len(forged), info, err)
	}
	for path, format := range map[string]string{disk: "raw", overlay: "qcow2"} {
		e, err := im.Export(ctx, path, hypervisor.ExportOptions{Format: format})
		if err != nil {
			t.Fatal(err)
		}
		d, err := connect(ctx, e)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 16)
		if _, err := d.ReadAt(got, 0); err != nil || !strings.HasPrefix(string(got), "QFI\xfb") {
			t.Errorf("%s reads %q, %v", format, got, err)
		}
		_ = d.Close()
		_ = e.Close()
	}
}

// TestABackingFileOfUnrecordedFormatIsNotOpened: QEMU would probe it.
func TestABackingFileOfUnrecordedFormatIsNotOpened(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	im := qemu.New(qemu.Options{Dir: t.TempDir()})
	base, overlay := filepath.Join(dir, "base"), filepath.Join(dir, "overlay")
	if err := im.Create(ctx, base, "raw", 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := im.CreateOverlay(ctx, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(base, "raw")}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(overlay)
	if err != nil {
		t.Fatal(err)
	}
	// The header extension that holds the format becomes one that nobody knows.
	b = bytes.Replace(b, []byte{0xe2, 0x79, 0x2a, 0xca}, []byte{0x12, 0x34, 0x56, 0x78}, 1)
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Export(ctx, overlay, hypervisor.ExportOptions{Format: "qcow2"}); err == nil {
		t.Error("it was exported")
	}
	if err := im.Commit(ctx, hypervisor.Plain(overlay, "qcow2"), hypervisor.CommitOptions{}); err == nil {
		t.Error("it was merged")
	}
}

// TestAForeignImageThatNamesOtherFilesIsNotOpened: QEMU's own tools would open
// what these name, whatever file of the host it is.
func TestAForeignImageThatNamesOtherFilesIsNotOpened(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	im := qemu.New(qemu.Options{Dir: t.TempDir()})
	path := func(name string) string { return filepath.Join(dir, name) }
	secret := path("secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("TOPSECRET", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	descriptor := "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"" + secret + "\" 0\n"
	if err := os.WriteFile(path("text.vmdk"), []byte(descriptor), 0o600); err != nil {
		t.Fatal(err)
	}
	hidden := make([]byte, 64<<10) // a sparse header without capacity, and its descriptor behind it
	copy(hidden, "KDMV\x01\x00\x00\x00\x03\x00\x00\x00")
	hidden[28], hidden[36] = 1, 20
	copy(hidden[512:], descriptor)
	if err := os.WriteFile(path("hidden.vmdk"), hidden, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "create", "-q", "-f", "vmdk", path("base.vmdk"), "1M")
	run(t, "qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", path("base.vmdk"), path("over.vmdk"))
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, path("over.qcow2"), "1M")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+path("data"), path("data.qcow2"), "1M")
	for _, name := range []string{"text.vmdk", "hidden.vmdk", "over.vmdk"} {
		if e, err := im.Export(ctx, path(name), hypervisor.ExportOptions{Format: "vmdk"}); !errors.Is(err, hypervisor.ErrElsewhere) {
			t.Errorf("%s: exported %v, %v", name, e, err)
		}
	}
	for name, want := range map[string]error{
		"text.vmdk": hypervisor.ErrElsewhere, "hidden.vmdk": hypervisor.ErrElsewhere, "over.vmdk": hypervisor.ErrElsewhere, "base.vmdk": nil,
		"over.qcow2": hypervisor.ErrElsewhere, "data.qcow2": hypervisor.ErrElsewhere,
	} {
		format, err := hypervisor.FileFormat(path(name))
		if err != nil || format != name[strings.Index(name, ".")+1:] {
			t.Errorf("%s: format %q, %v", name, format, err)
		}
		if err := hypervisor.SelfContained(path(name), format); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	run(t, "qemu-img", "create", "-q", "-f", "vhdx", path("parent.vhdx"), "1M")
	b, err := os.ReadFile(path("parent.vhdx"))
	if err != nil {
		t.Fatal(err)
	}
	b[0x310004] |= 2 // the file parameters say: it has a parent
	if err := os.WriteFile(path("parent.vhdx"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := im.Export(ctx, path("parent.vhdx"), hypervisor.ExportOptions{Format: "vhdx"}); err == nil {
		t.Errorf("exported a VHDX with a parent: %v", e)
	}
}

// TestOthersReadWhatAForeignImageHolds lets QEMU's own comparison judge.
func TestOthersReadWhatAForeignImageHolds(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	im := qemu.New(qemu.Options{Dir: t.TempDir()})
	content := bytes.Repeat([]byte("what the guest has "), 200_000)
	content = append(content[:3<<20], make([]byte, 30<<20+512)...)
	content = append(content, bytes.Repeat([]byte{5}, 512)...)
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"vmdk", "vhdx"} {
		path := filepath.Join(dir, "image."+format)
		if err := im.Create(ctx, path, format, int64(len(content))); err != nil {
			t.Fatal(err)
		}
		e, err := im.Export(ctx, path, hypervisor.ExportOptions{Format: format, Writable: true})
		if err != nil {
			t.Fatal(err)
		}
		d, err := connect(ctx, e)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []struct{ from, to int }{{0, 3 << 20}, {len(content) - 512, len(content)}} {
			if _, err := d.WriteAt(content[part.from:part.to], int64(part.from)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(d.Flush(), d.Close(), e.Close()); err != nil {
			t.Fatal(err)
		}
		run(t, "qemu-img", "compare", "-f", format, "-F", "raw", path, raw)
		run(t, "qemu-img", "check", "-q", "-f", format, path)
	}
}

// TestAFullFileSystemIsNoSpaceAndLeavesNothing needs root for its tmpfs.
func TestAFullFileSystemIsNoSpaceAndLeavesNothing(t *testing.T) {
	ctx, full := t.Context(), t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full)
	t.Cleanup(func() { run(t, "umount", full) })
	im := qemu.New(qemu.Options{Dir: t.TempDir()})
	path := filepath.Join(full, "image")
	if err := im.Create(ctx, path, "qcow2", 1<<40); !backstay.IsCode(err, backstay.CodeNoSpace) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("file is left: %v", err)
	}
}

// TestNoServerOutlivesUs starts this test binary again, which exports an image
// and is killed.
func TestNoServerOutlivesUs(t *testing.T) {
	if path := os.Getenv("BACKSTAY_TEST_EXPORT"); path != "" {
		e, err := qemu.New(qemu.Options{Dir: os.Getenv("BACKSTAY_TEST_DIR")}).Export(t.Context(), path, hypervisor.ExportOptions{Format: "qcow2", Writable: true})
		if err != nil {
			t.Fatal(err)
		}
		_ = os.WriteFile(path+".socket", []byte(e.Socket()), 0o600)
		select {}
	}
	dir, sockets := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "image")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	im := qemu.New(qemu.Options{Dir: t.TempDir()})
	if err := im.Create(ctx, path, "qcow2", 1<<20); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestNoServerOutlivesUs$")
	child.Env = append(os.Environ(), "BACKSTAY_TEST_EXPORT="+path, "BACKSTAY_TEST_DIR="+sockets)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var socket []byte
	for len(socket) == 0 && ctx.Err() == nil {
		socket, _ = os.ReadFile(path + ".socket")
		time.Sleep(time.Millisecond)
	}
	if _, err := im.Export(ctx, path, hypervisor.ExportOptions{Format: "qcow2", Writable: true}); !errors.Is(err, hypervisor.ErrLocked) {
		t.Errorf("while the server runs: %v", err)
	}
	_ = child.Process.Signal(syscall.SIGKILL)
	_ = child.Wait()
	for { // the lock goes when the server has died
		e, err := im.Export(ctx, path, hypervisor.ExportOptions{Format: "qcow2", Writable: true})
		if err == nil {
			_ = e.Close()
			break
		}
		if !errors.Is(err, hypervisor.ErrLocked) {
			t.Fatal(err)
		}
	}
	qemu.New(qemu.Options{Dir: sockets}) // the next start sweeps
	if _, err := os.Stat(string(socket)); !os.IsNotExist(err) {
		t.Errorf("socket is left: %v", err)
	}
}
