//go:build integration

package libvirt_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
)

// testCPUs asks of CPUs that the emulator has, and of one that nobody has: what
// it offers without an accelerator is the same on every machine.
func testCPUs(t *testing.T, h *libvirt.Host) {
	definition := func(cpu string) string {
		return `<domain type='qemu'><name>x</name><os><type arch='x86_64' machine='q35'>hvm</type></os>` + cpu +
			`<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>`
	}
	for _, c := range []struct {
		rule, cpu string
		want      error
		says      string
	}{
		{"a definition without a CPU demands nothing", "", nil, ""},
		{"the emulator's own CPU is there", "<cpu mode='maximum'/>", nil, ""},
		{"a plain model is there", "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>", nil, ""},
		{"a CPU of the host itself needs an accelerator", "<cpu mode='host-passthrough'/>", hypervisor.ErrCPUMode, "host-passthrough"},
		{"a feature that is not there is named", "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model><feature policy='require' name='avx512f'/></cpu>",
			hypervisor.ErrCPUFeature, "avx512f"},
		{"a feature that nobody checks is not looked at", "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model><feature policy='require' name='avx512f'/></cpu>", nil, ""},
	} {
		err := h.CheckCPU(t.Context(), definition(c.cpu))
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.rule, err)
		}
	}
	f, err := h.Facts(t.Context())
	if err != nil || f.MemoryFree <= 0 {
		t.Errorf("free memory is %d %v", f.MemoryFree, err)
	}
}
