package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kvmLimit is how long the first machine may take with KVM, which is a second where
// it works. That the device can be opened proves nothing: on some hosts the
// machine then hangs.
const kvmLimit = 15 * time.Second

// accelerated starts a machine. The first one is how it is found out whether KVM
// works here; the verdict is kept for this kernel, processor and QEMU.
func (p *Pool) accelerated(ctx context.Context, o Options) (*Machine, error) {
	p.mu.Lock()
	o.Accel = p.accel
	p.mu.Unlock()
	if o.Accel != "" {
		return start(ctx, o)
	}
	p.proving.Lock()
	defer p.proving.Unlock()
	verdict := filepath.Join(o.Run, "accelerator-"+hostKey(o.QEMU))
	p.mu.Lock()
	o.Accel = p.accel
	p.mu.Unlock()
	if o.Accel == "" {
		o.Accel = remembered(verdict)
	}
	if o.Accel == "" && unix.Access(kvm, unix.R_OK|unix.W_OK) != nil {
		o.Accel = AccelTCG
	}
	if o.Accel == "" {
		fast := o
		fast.Accel, fast.BootLimit = AccelKVM, min(o.BootLimit, kvmLimit)
		m, err := start(ctx, fast)
		if ctx.Err() != nil {
			return m, err
		}
		o.Accel = AccelKVM
		if err != nil {
			o.Accel = AccelTCG
			o.Log.Warn("a small machine does not start with KVM; they are emulated on this host", "error", err)
		}
		if failed := os.WriteFile(verdict, []byte(o.Accel), 0o600); failed != nil {
			o.Log.Warn("whether KVM works cannot be remembered", "error", failed)
		}
		p.setAccel(o.Accel)
		if err == nil {
			return m, nil
		}
	}
	p.setAccel(o.Accel)
	return start(ctx, o)
}

func (p *Pool) setAccel(accel string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accel = accel
}

// remembered is the verdict of an earlier run; "" if there is none.
func remembered(path string) string {
	text, err := os.ReadFile(path)
	if accel := string(text); err == nil && (accel == AccelKVM || accel == AccelTCG) {
		return accel
	}
	return ""
}

// hostKey changes when KVM may begin or cease to work: with the kernel, the
// processor or QEMU.
func hostKey(qemu string) string {
	h := sha256.New()
	var kernel unix.Utsname
	if unix.Uname(&kernel) == nil {
		fmt.Fprint(h, kernel.Release, kernel.Version)
	}
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(cpus) {
		if strings.HasPrefix(string(line), "model name") || strings.HasPrefix(string(line), "microcode") {
			h.Write(line)
		}
	}
	if path, err := exec.LookPath(qemu); err == nil {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprint(h, info.Size(), info.ModTime())
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}
