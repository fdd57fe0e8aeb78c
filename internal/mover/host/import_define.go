package host

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// The VM that is made up around image files: what nearly every guest boots on.
// Whoever restores it can give it more.
const (
	imageMachine   = "q35"
	imageMemoryMiB = 1024
	imageVCPUs     = 1
)

// imageVirt is libvirt's type for the new VM: that of the host's other VMs, since a
// host may offer KVM and have none that works, else KVM where it is offered.
func (h *Host) imageVirt(ctx context.Context) (string, error) {
	facts, err := h.hv.Facts(ctx)
	if err != nil {
		return "", fmt.Errorf("describe the host: %w", err)
	}
	vms, err := h.hv.VMs(ctx)
	if err != nil {
		return "", fmt.Errorf("list VMs: %w", err)
	}
	used := slices.ContainsFunc(vms, func(vm backstay.VM) bool { return vm.Virt == "kvm" })
	if facts.Accelerated && (used || len(vms) == 0) {
		return "kvm", nil
	}
	return "qemu", nil
}

// imageShape is the VM that image files are backed up as.
func imageShape(r mover.ImportRequest, virt string) backstay.VM {
	vm := backstay.VM{
		ID: r.VM, Name: r.Image.Name, State: backstay.VMShutOff, Firmware: r.Image.Firmware, Agent: backstay.AgentNone,
		Arch: imageArch, Machine: imageMachine, Virt: virt, MemoryMiB: imageMemoryMiB, VCPUs: imageVCPUs,
	}
	if vm.Firmware == "" {
		vm.Firmware = backstay.BIOS
	}
	for _, d := range r.Image.Disks {
		vm.Disks = append(vm.Disks, backstay.Disk{
			Target: d.Target, Device: "disk", Bus: busOf(d.Target), Source: d.Path, Format: restoredFormat(d.Format), Size: d.Size,
		})
	}
	if r.Image.Network != "" {
		vm.NICs = []backstay.NIC{{MAC: "", Kind: "network", Network: r.Image.Network, Model: "virtio"}}
	}
	return vm
}

// imageArch is the only one that the machine type has in 64 bits: an image that
// comes from another hypervisor is hardly ever of another.
const imageArch = "x86_64"

func busOf(target backstay.DiskTarget) string {
	if strings.HasPrefix(string(target), "sd") {
		return "sata"
	}
	return "virtio"
}

// imageDefinition writes the definition of such a VM. A channel for a guest agent
// costs nothing where there is none.
func imageDefinition(vm backstay.VM) (string, error) {
	doc := etree.NewDocument()
	doc.WriteSettings.AttrSingleQuote = true
	root := add(&doc.Element, "domain", "type", vm.Virt)
	root.CreateElement("name").SetText(vm.Name)
	root.CreateElement("uuid").SetText(string(vm.ID))
	add(root, "memory", "unit", "MiB").SetText(strconv.FormatInt(vm.MemoryMiB, 10))
	root.CreateElement("vcpu").SetText(strconv.Itoa(vm.VCPUs))
	system := root.CreateElement("os")
	if vm.Firmware == backstay.UEFI {
		system.CreateAttr("firmware", "efi")
	}
	add(system, "type", "arch", vm.Arch, "machine", vm.Machine).SetText("hvm")
	add(system, "boot", "dev", "hd")
	features := root.CreateElement("features")
	features.CreateElement("acpi")
	features.CreateElement("apic")
	if vm.Virt == "kvm" {
		add(root, "cpu", "mode", "host-model")
	} else {
		add(root, "cpu", "mode", "maximum")
	}
	add(root, "clock", "offset", "utc")
	devices := root.CreateElement("devices")
	for _, d := range vm.Disks {
		disk := add(devices, "disk", "type", "file", "device", d.Device)
		add(disk, "driver", "name", "qemu", "type", d.Format)
		add(disk, "source", "file", d.Source)
		add(disk, "target", "dev", string(d.Target), "bus", d.Bus)
	}
	for _, n := range vm.NICs {
		nic := add(devices, "interface", "type", n.Kind)
		add(nic, "source", "network", n.Network)
		add(nic, "model", "type", n.Model)
	}
	add(add(devices, "serial", "type", "pty"), "target", "port", "0")
	add(add(devices, "console", "type", "pty"), "target", "type", "serial", "port", "0")
	add(add(devices, "channel", "type", "unix"), "target", "type", "virtio", "name", "org.qemu.guest_agent.0")
	add(add(devices, "video"), "model", "type", "vga")
	doc.Indent(2)
	text, err := doc.WriteToString()
	if err != nil {
		return "", fmt.Errorf("write the definition of image files: %w", err)
	}
	return text, nil
}

// add adds a child with attributes, given as names and values in turn.
func add(parent *etree.Element, tag string, attrs ...string) *etree.Element {
	e := parent.CreateElement(tag)
	for i := 0; i+1 < len(attrs); i += 2 {
		e.CreateAttr(attrs[i], attrs[i+1])
	}
	return e
}
