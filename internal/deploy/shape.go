package deploy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
)

// Shape reads from a definition what a host must have for it: names, places and
// devices, and nothing of the disks' content.
func Shape(definition string) (backstay.VM, error) {
	doc, err := parse(definition)
	if err != nil {
		return backstay.VM{}, fmt.Errorf("read the definition: %w", err)
	}
	root := doc.Root()
	vm := backstay.VM{
		ID: backstay.VMID(strings.ToLower(textOf(root, "uuid"))), Name: textOf(root, "name"), State: backstay.VMShutOff, Firmware: backstay.BIOS,
		Arch: attrOf(root, "os/type", "arch"), Machine: attrOf(root, "os/type", "machine"), Virt: root.SelectAttrValue("type", ""),
		Emulator: textOf(root, "devices/emulator"), Agent: backstay.AgentNone,
		TPM: root.FindElement("./devices/tpm/backend[@type='emulator']") != nil,
	}
	if attrOf(root, "os", "firmware") == "efi" || attrOf(root, "os/loader", "type") == "pflash" {
		vm.Firmware = backstay.UEFI
	}
	if root.FindElement("./devices/channel/target[@name='org.qemu.guest_agent.0']") != nil {
		vm.Agent = backstay.AgentDisconnected
	}
	if memory := root.SelectElement("memory"); memory != nil {
		vm.MemoryMiB = kibOf(memory) >> 10
	}
	vm.VCPUs, _ = strconv.Atoi(textOf(root, "vcpu"))
	for _, e := range root.FindElements("./devices/disk") {
		source := attrOf(e, "source", "file") + attrOf(e, "source", "dev") // it has one of them
		vm.Disks = append(vm.Disks, backstay.Disk{
			Target: backstay.DiskTarget(attrOf(e, "target", "dev")), Bus: attrOf(e, "target", "bus"), Device: e.SelectAttrValue("device", "disk"),
			Source: source, Format: attrOf(e, "driver", "type"),
		})
	}
	for _, e := range root.FindElements("./devices/interface") {
		kind := e.SelectAttrValue("type", "")
		vm.NICs = append(vm.NICs, backstay.NIC{
			MAC: attrOf(e, "mac", "address"), Kind: kind, Model: attrOf(e, "model", "type"), Network: attrOf(e, "source", nicSource[kind]),
		})
	}
	return vm, nil
}

func textOf(e *etree.Element, path string) string {
	if e = e.FindElement("./" + path); e == nil {
		return ""
	}
	return strings.TrimSpace(e.Text())
}

func attrOf(e *etree.Element, path, key string) string {
	if e = e.FindElement("./" + path); e == nil {
		return ""
	}
	return e.SelectAttrValue(key, "")
}
