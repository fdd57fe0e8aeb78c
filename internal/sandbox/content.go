package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// DiskSHA256 returns the SHA-256, in hex, of all that a guest would read from an
// image file of the host, layers below it included. The image may be in use; it
// is then of some instant.
func (h *Host) DiskSHA256(ctx context.Context, path, format string) (string, error) {
	tmp, err := os.MkdirTemp(h.world.Dir, "sum-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	raw := filepath.Join(tmp, "content")
	cmd := h.Command(ctx, "qemu-img", "convert", "-q", "-U", "-f", format, "-O", "raw", path, raw)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("read disk %s of host %s: %w: %s", path, h.Name, err, strings.TrimSpace(string(out)))
	}
	file, err := os.Open(raw)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", fmt.Errorf("read disk %s of host %s: %w", path, h.Name, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// VMSHA256 returns the SHA-256 of the whole content of one disk of a VM.
func (h *Host) VMSHA256(ctx context.Context, vm, target string) (string, error) {
	files, err := h.Disks(ctx, vm)
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if f.Target == target {
			return h.DiskSHA256(ctx, f.Path, f.Format)
		}
	}
	return "", fmt.Errorf("VM %s on host %s has no disk %s", vm, h.Name, target)
}

// host runs a command on the machine itself.
func host(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
