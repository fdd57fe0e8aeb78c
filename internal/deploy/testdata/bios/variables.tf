variable "libvirt_uri" {
  description = "the host that has the disks"
  type        = string
  default     = "qemu:///system"
}

variable "name" {
  description = "name of the VM; no VM of the host may have it"
  type        = string
  default     = "web01"

  validation {
    condition     = can(regex("^(?:[^/.[:cntrl:]][^/[:cntrl:]]{0,199})$", var.name))
    error_message = "The value of name is not of its form."
  }
}

variable "uuid" {
  description = "UUID of the VM; no VM of the region may have it"
  type        = string
  default     = "8c0f1f3e-5c1e-4d6e-9d4b-3a7c51f7c001"
}

variable "memory" {
  description = "memory of the VM, in KiB"
  type        = number
  default     = 262144

  validation {
    condition     = var.memory <= 17179869184
    error_message = "The value of memory is too large."
  }

  validation {
    condition     = var.memory >= 16384
    error_message = "The value of memory is too small."
  }
}

variable "vcpus" {
  description = "virtual CPUs; a topology of the CPUs goes if it is changed"
  type        = number
  default     = 1

  validation {
    condition     = var.vcpus <= 4096
    error_message = "The value of vcpus is too large."
  }

  validation {
    condition     = var.vcpus >= 1
    error_message = "The value of vcpus is too small."
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

variable "emulator" {
  description = "QEMU on the host"
  type        = string
  default     = "/usr/bin/qemu-system-x86_64"
}

variable "disk_vda_path" {
  description = "the restored disk vda"
  type        = string
  default     = "/vms/web01.01J.qcow2"
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
  default     = "/vms/data.raw"
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
  default     = "52:54:00:11:22:33"
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
