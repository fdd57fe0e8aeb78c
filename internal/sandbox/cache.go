package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/sandbox/guest"
)

// Probing QEMU takes libvirt some 8 s. What it found is kept between worlds;
// libvirt itself notices when it is out of date and probes again.

func (h *Host) probed() string { return filepath.Join(h.dir, "cache/qemu/capabilities") }

func (w *World) probedCache() string {
	user := "root"
	if w.options.QEMU != RootQEMU {
		user = string(w.options.QEMU)
	}
	return filepath.Join(w.options.CacheDir, "capabilities-"+user)
}

// warm gives a new host what earlier ones found out about QEMU.
func (h *Host) warm() error {
	return copyFiles(h.world.probedCache(), h.probed())
}

// keepWarm keeps what this host found out.
func (h *Host) keepWarm() error {
	return copyFiles(h.probed(), h.world.probedCache())
}

// copyFiles copies the files of a folder that differ; each appears whole. A
// folder that is not there has no files.
func copyFiles(from, to string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.xml"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("keep QEMU's capabilities: %w", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("keep QEMU's capabilities: %w", err)
		}
		target := filepath.Join(to, filepath.Base(file))
		if old, err := os.ReadFile(target); err == nil && bytes.Equal(old, data) {
			continue
		}
		fresh := fmt.Sprintf("%s.%d", target, os.Getpid())
		if err := errors.Join(os.WriteFile(fresh, data, 0o644), os.Rename(fresh, target)); err != nil {
			return fmt.Errorf("keep QEMU's capabilities: %w", err)
		}
	}
	return nil
}

// kvmLimit is how long a guest may take to boot before KVM counts as not working;
// without KVM it takes 5 s.
const kvmLimit = 15 * time.Second

// domainType returns "kvm" if KVM was proved by booting the guest with it, else
// "qemu". That /dev/kvm can be opened proves nothing: on some machines guests
// then hang. The verdict is kept for this kernel, CPU and QEMU.
func (w *World) domainType(ctx context.Context) (string, error) {
	image, err := w.guestImage(ctx)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.accel != "" {
		return w.accel, nil
	}
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) != nil {
		w.accel = "qemu"
		return w.accel, nil
	}
	path, err := w.verdictPath()
	if err != nil {
		return "", err
	}
	if verdict, err := os.ReadFile(path); err == nil {
		w.accel = string(verdict)
		return w.accel, nil
	}
	w.log.Info("prove KVM by booting a guest", "limit", kvmLimit)
	w.accel = "qemu"
	if bootsWithKVM(ctx, image) {
		w.accel = "kvm"
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return w.accel, os.WriteFile(path, []byte(w.accel), 0o644)
}

func (w *World) verdictPath() (string, error) {
	h := sha256.New()
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return "", err
	}
	qemu, err := os.Stat("/usr/bin/qemu-system-x86_64")
	if err != nil {
		return "", err
	}
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(cpus)) {
		if strings.HasPrefix(line, "model name") || strings.HasPrefix(line, "microcode") {
			fmt.Fprint(h, line)
		}
	}
	fmt.Fprint(h, kernel.Release, kernel.Version, qemu.Size(), qemu.ModTime())
	return filepath.Join(w.options.CacheDir, fmt.Sprintf("accelerator-%x", h.Sum(nil)[:8])), nil
}

// bootsWithKVM boots the guest without libvirt and waits for its sign of life.
func bootsWithKVM(ctx context.Context, image string) bool {
	ctx, cancel := context.WithTimeout(ctx, kvmLimit)
	defer cancel()
	var console readyWriter
	console.ready = cancel
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-drive", "if=virtio,format=raw,snapshot=on,file="+image)
	cmd.Stdout = &console
	_ = cmd.Run() // killed when it is ready, and when it is too late
	return bytes.Contains(console.text, []byte(guest.Ready))
}

// readyWriter calls ready once the guest has written that it is.
type readyWriter struct {
	text  []byte
	ready func()
}

func (r *readyWriter) Write(b []byte) (int, error) {
	r.text = append(r.text, b...)
	if bytes.Contains(r.text, []byte(guest.Ready)) {
		r.ready()
	}
	return len(b), nil
}

// guestImage returns the image that VMs' system disks are copies of.
func (w *World) guestImage(ctx context.Context) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.image == "" {
		image, err := guest.Image(ctx, w.options.CacheDir)
		if err != nil {
			return "", err
		}
		w.image = image
	}
	return w.image, nil
}

// dial tells whether somebody listens on a unix socket.
func dial(path string) error {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}
