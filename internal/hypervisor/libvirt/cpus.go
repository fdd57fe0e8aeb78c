package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	"github.com/backstay/backstay/internal/hypervisor"
)

// failIncompatible is VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE: the answer names
// what is missing.
const failIncompatible = 1

// CheckCPU asks libvirt what a start of such a VM would ask it.
func (h *Host) CheckCPU(ctx context.Context, xml string) error {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		return fmt.Errorf("read the definition: %w", err)
	}
	root := doc.Root()
	cpu := find(root, "cpu")
	if cpu == nil {
		return nil
	}
	q := cpuQuestion{
		emulator: optional(text(root, "devices/emulator")), arch: optional(attr(root, "os/type", "arch")),
		machine: optional(attr(root, "os/type", "machine")), virt: optional(attr(root, "", "type")),
	}
	_, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (struct{}, error) {
		if err := q.mode(l, cpu); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, q.features(l, cpu)
	})
	return err
}

// cpuQuestion is what the answer depends on beside the CPU itself.
type cpuQuestion struct{ emulator, arch, machine, virt libvirt.OptString }

func optional(s string) libvirt.OptString {
	if s == "" {
		return nil
	}
	return libvirt.OptString{s}
}

// mode sees whether the host has a CPU of that mode at all: host-passthrough and
// host-model need an accelerator.
func (q cpuQuestion) mode(l *libvirt.Libvirt, cpu *etree.Element) error {
	mode := cpu.SelectAttrValue("mode", "")
	if mode == "" || mode == "custom" {
		return nil
	}
	xml, err := l.ConnectGetDomainCapabilities(q.emulator, q.arch, q.machine, q.virt, 0)
	if cannotTell(err) {
		return nil
	}
	if err != nil {
		return err
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		return fmt.Errorf("read domain capabilities: %w", err)
	}
	offered := doc.Root().FindElement("./cpu/mode[@name='" + mode + "']")
	if offered != nil && offered.SelectAttrValue("supported", "") == "no" {
		return fmt.Errorf("CPU mode %s: %w", mode, hypervisor.ErrCPUMode)
	}
	return nil
}

// features compares a named CPU with the host's, as a start does.
func (q cpuQuestion) features(l *libvirt.Libvirt, cpu *etree.Element) error {
	if mode := cpu.SelectAttrValue("mode", "custom"); mode != "custom" || cpu.SelectElement("model") == nil || cpu.SelectAttrValue("check", "") == "none" {
		return nil
	}
	doc := etree.NewDocument()
	doc.SetRoot(cpu.Copy())
	xml, err := doc.WriteToString()
	if err != nil {
		return fmt.Errorf("write the CPU: %w", err)
	}
	result, err := l.ConnectCompareHypervisorCPU(q.emulator, q.arch, q.machine, q.virt, xml, failIncompatible)
	switch {
	case isCode(err, libvirt.ErrCPUIncompatible):
		return fmt.Errorf("%w: %s", hypervisor.ErrCPUFeature, words(err))
	case cannotTell(err):
		return nil
	case err != nil:
		return err
	case result == 0: // incompatible
		return fmt.Errorf("CPU model %s: %w", text(cpu, "model"), hypervisor.ErrCPUFeature)
	}
	return nil
}

// cannotTell: this hypervisor does not answer such questions, or not for this
// emulator and machine, which have checks of their own.
func cannotTell(err error) bool {
	return isCode(err, libvirt.ErrNoSupport, libvirt.ErrInvalidArg, libvirt.ErrOperationUnsupported, libvirt.ErrConfigUnsupported)
}

// words are what libvirt said, without the client's own.
func words(err error) string {
	var answer libvirt.Error
	if errors.As(err, &answer) {
		return strings.TrimSpace(answer.Message)
	}
	return err.Error()
}
