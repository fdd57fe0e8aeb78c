# A VM of restored disks, for OpenTofu or Terraform with the provider
# dmacvicar/libvirt 0.8.3. The values are in variables.tf; see README.txt.
terraform {
  required_providers {
    libvirt = {
      source  = "dmacvicar/libvirt"
      version = "0.8.3"
    }
  }
}

provider "libvirt" {
  uri = var.libvirt_uri
}

locals {
  values = {
    name = var.name
    uuid = var.uuid
    memory = var.memory
    vcpus = var.vcpus
    machine = var.machine
    loader = var.loader
    nvram = var.nvram
    disk_vda_path = var.disk_vda_path
    disk_vda_format = var.disk_vda_format
    disk_vda_bus = var.disk_vda_bus
    nic_0_network = var.nic_0_network
    nic_0_mac = var.nic_0_mac
    nic_0_model = var.nic_0_model
  }
  # They become text of an XML document; in attributes of a style sheet a brace is
  # written twice.
  text = { for k, v in local.values :
    k => replace(replace(replace(replace(tostring(v), "&", "&amp;"), "<", "&lt;"), "'", "&apos;"), "\"", "&quot;")
  }
  attr = { for k, v in local.text : k => replace(replace(v, "{", "{{"), "}", "}}") }
}

resource "libvirt_domain" "vm" {
  name      = var.name
  memory    = floor(var.memory / 1024)
  vcpu      = var.vcpus
  running   = var.start
  autostart = var.autostart

  # The whole definition; what stands above is how the provider knows the VM.
  xml {
    xslt = templatefile("${path.module}/domain.xslt.tftpl", { text = local.text, attr = local.attr })
  }

  # What the provider reads back of the definition is not to be undone.
  lifecycle {
    ignore_changes = [
      arch, boot_device, cloudinit, console, coreos_ignition, cpu, description, disk, emulator, filesystem, firmware,
      fw_cfg_name, graphics, machine, metadata, network_interface, nvram, qemu_agent, tpm, type, video,
    ]
  }
}

output "id" {
  value = libvirt_domain.vm.id
}
