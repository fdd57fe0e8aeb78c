package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/internal/sandbox"
)

// incrementNote is why virtnbdbackup has no second backup here: its increments
// come from the dirty bitmaps of a running QEMU.
const incrementNote = "a shut-off domain has no dirty bitmaps, so virtnbdbackup copies it whole"

// virtnbdPeer measures virtnbdbackup on a shut-off domain in a private libvirt.
func virtnbdPeer(ctx context.Context, b *bench, dir string) (err error) {
	if !b.want("first", "restore") {
		return nil
	}
	world, err := sandbox.Up(ctx, sandbox.Options{NoRegion: true})
	if err != nil {
		return fmt.Errorf("make a private libvirt: %w", err)
	}
	defer func() { err = errors.Join(err, world.Down(context.WithoutCancel(ctx))) }()
	uri := world.Hosts[0].URI()
	disk := filepath.Join(dir, "disk.qcow2")
	// An overlay costs nothing; the content is read from the same image as by all.
	err = tool(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", b.path("base.raw"), "-F", "raw", disk)
	if err != nil {
		return err
	}
	xml := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(xml, fmt.Appendf(nil, benchDomain, disk), 0o644); err != nil {
		return err
	}
	if err := tool(ctx, "virsh", "-q", "-c", uri, "define", xml); err != nil {
		return err
	}
	out, back := filepath.Join(dir, "backup"), filepath.Join(dir, "restored")
	f, _, err := timed(ctx, b.o.dir, command{dir: dir, args: []string{"virtnbdbackup", "-U", uri, "-d", "bench", "-l", "copy", "-o", out}})
	if err != nil {
		return err
	}
	if f.Stored, err = treeSize(out); err != nil {
		return err
	}
	f.Added, f.Note = f.Stored, incrementNote
	if err := b.record("virtnbd/first", f); err != nil {
		return err
	}
	if !b.want("restore") {
		return nil
	}
	return b.virtnbdRestore(ctx, uri, out, back)
}

func (b *bench) virtnbdRestore(ctx context.Context, uri, from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	f, _, err := timed(ctx, b.o.dir, command{args: []string{"virtnbdrestore", "-U", uri, "-i", from, "-o", to}})
	if err != nil {
		return err
	}
	if err := b.record("virtnbd/restore", f); err != nil {
		return err
	}
	raw := b.path("restored.raw")
	if err := tool(ctx, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", filepath.Join(to, "disk.qcow2"), raw); err != nil {
		return err
	}
	return b.check(ctx, b.path("base.raw"), raw)
}

// benchDomain is a domain with one disk that is never started.
const benchDomain = `<domain type='qemu'>
  <name>bench</name>
  <memory unit='MiB'>128</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='%s'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
`
