variable "libvirt_uri" {
  description = "the host that has the disks"
  type        = string
  default     = "qemu:///system"
}

variable "name" {
  description = "name of the VM; no VM of the host may have it"
  type        = string
  default     = "all"

  validation {
    condition     = can(regex("^(?:[^/.[:cntrl:]][^/[:cntrl:]]{0,199})$", var.name))
    error_message = "The value of name is not of its form."
  }
}

variable "uuid" {
  description = "UUID of the VM; no VM of the region may have it"
  type        = string
  default     = "0ddba11a-0000-4000-8000-000000000001"
}

variable "description" {
  description = "a text for people; none if empty"
  type        = string
  default     = "costs $${much}, and {braces}"
}

variable "memory" {
  description = "memory of the VM, in KiB"
  type        = number
  default     = 2097152

  validation {
    condition     = var.memory <= 17179869184
    error_message = "The value of memory is too large."
  }

  validation {
    condition     = var.memory >= 16384
    error_message = "The value of memory is too small."
  }
}

variable "currentMemory" {
  description = "memory that the VM has at its start; the rest of memory is for its balloon, in KiB"
  type        = number
  default     = 1572864

  validation {
    condition     = var.currentMemory <= 17179869184
    error_message = "The value of currentMemory is too large."
  }

  validation {
    condition     = var.currentMemory >= 16384
    error_message = "The value of currentMemory is too small."
  }
}

variable "vcpus" {
  description = "virtual CPUs; a topology of the CPUs goes if it is changed"
  type        = number
  default     = 4

  validation {
    condition     = var.vcpus <= 4096
    error_message = "The value of vcpus is too large."
  }

  validation {
    condition     = var.vcpus >= 1
    error_message = "The value of vcpus is too small."
  }
}

variable "vcpusOnline" {
  description = "virtual CPUs that are there at the start, at most vcpus"
  type        = number
  default     = 2

  validation {
    condition     = var.vcpusOnline <= 4096
    error_message = "The value of vcpusOnline is too large."
  }

  validation {
    condition     = var.vcpusOnline >= 1
    error_message = "The value of vcpusOnline is too small."
  }
}

variable "cpuMode" {
  description = "how the model of the virtual CPUs is chosen"
  type        = string
  default     = "custom"

  validation {
    condition     = contains(["host-model", "host-passthrough", "maximum", "custom"], var.cpuMode)
    error_message = "The value of cpuMode is not among the allowed ones."
  }
}

variable "cpuModel" {
  description = "model of the virtual CPUs, with cpuMode custom"
  type        = string
  default     = "Skylake-Client"

  validation {
    condition     = can(regex("^(?:[A-Za-z0-9_.-]+)$", var.cpuModel))
    error_message = "The value of cpuModel is not of its form."
  }
}

variable "machine" {
  description = "machine type of QEMU; a guest may notice another one"
  type        = string
  default     = "pc-q35-7.2"

  validation {
    condition     = can(regex("^(?:[A-Za-z0-9._-]+)$", var.machine))
    error_message = "The value of machine is not of its form."
  }
}

variable "loader" {
  description = "firmware of the VM on the host"
  type        = string
  default     = "/usr/share/OVMF/OVMF_CODE_4M.fd"
}

variable "nvram" {
  description = "file of the VM's firmware variables; made of the captured ones if it is not there"
  type        = string
  default     = "/srv/all/nvram.fd"
}

variable "emulator" {
  description = "QEMU on the host"
  type        = string
  default     = "/usr/bin/qemu-system-x86_64"
}

variable "disk_vda_path" {
  description = "the restored disk vda"
  type        = string
  default     = "/srv/all/vda.qcow2"
}

variable "disk_vda_format" {
  description = "its format"
  type        = string
  default     = "qcow2"

  validation {
    condition     = contains(["qcow2", "raw"], var.disk_vda_format)
    error_message = "The value of disk_vda_format is not among the allowed ones."
  }
}

variable "disk_vda_bus" {
  description = "its bus; the guest must have a driver for it"
  type        = string
  default     = "virtio"

  validation {
    condition     = contains(["virtio", "sata", "scsi", "usb"], var.disk_vda_bus)
    error_message = "The value of disk_vda_bus is not among the allowed ones."
  }
}

variable "disk_vdb_path" {
  description = "the restored disk vdb"
  type        = string
  default     = "/dev/vg/data"
}

variable "disk_vdb_format" {
  description = "its format"
  type        = string
  default     = "raw"

  validation {
    condition     = contains(["qcow2", "raw"], var.disk_vdb_format)
    error_message = "The value of disk_vdb_format is not among the allowed ones."
  }
}

variable "disk_vdb_bus" {
  description = "its bus; the guest must have a driver for it"
  type        = string
  default     = "virtio"

  validation {
    condition     = contains(["virtio", "sata", "scsi", "usb"], var.disk_vdb_bus)
    error_message = "The value of disk_vdb_bus is not among the allowed ones."
  }
}

variable "nic_0_network" {
  description = "the network of the host that the interface is joined to"
  type        = string
  default     = "default"

  validation {
    condition     = can(regex("^(?:[^/[:cntrl:]]+)$", var.nic_0_network))
    error_message = "The value of nic_0_network is not of its form."
  }
}

variable "nic_0_mac" {
  description = "its address; no VM of the region may have it"
  type        = string
  default     = "52:54:00:aa:00:01"
}

variable "nic_0_model" {
  description = "its model; the guest must have a driver for it"
  type        = string
  default     = "virtio"

  validation {
    condition     = can(regex("^(?:[A-Za-z0-9._-]+)$", var.nic_0_model))
    error_message = "The value of nic_0_model is not of its form."
  }
}

variable "nic_1_network" {
  description = "the bridge of the host that the interface is joined to"
  type        = string
  default     = "br0"

  validation {
    condition     = can(regex("^(?:[^/[:cntrl:]]+)$", var.nic_1_network))
    error_message = "The value of nic_1_network is not of its form."
  }
}

variable "nic_1_mac" {
  description = "its address; no VM of the region may have it"
  type        = string
  default     = "52:54:00:aa:00:02"
}

variable "nic_1_model" {
  description = "its model; the guest must have a driver for it"
  type        = string
  default     = "e1000"

  validation {
    condition     = can(regex("^(?:[A-Za-z0-9._-]+)$", var.nic_1_model))
    error_message = "The value of nic_1_model is not of its form."
  }
}

variable "nic_1_link" {
  description = "whether its cable is plugged in"
  type        = string
  default     = "down"

  validation {
    condition     = contains(["up", "down"], var.nic_1_link)
    error_message = "The value of nic_1_link is not among the allowed ones."
  }
}

variable "nic_2_mac" {
  description = "its address; no VM of the region may have it"
  type        = string
  default     = "52:54:00:aa:00:03"
}

variable "nic_2_model" {
  description = "its model; the guest must have a driver for it"
  type        = string
  default     = "rtl8139"

  validation {
    condition     = can(regex("^(?:[A-Za-z0-9._-]+)$", var.nic_2_model))
    error_message = "The value of nic_2_model is not of its form."
  }
}

variable "numaNodeset" {
  description = "NUMA nodes of the host that the memory is on; any if empty"
  type        = string
  default     = "0"
}

variable "start" {
  description = "start the VM once it is defined"
  type        = bool
  default     = true
}

variable "autostart" {
  description = "start the VM when its host starts"
  type        = bool
  default     = false
}
