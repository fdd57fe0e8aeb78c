variable "libvirt_uri" {
  description = "the host that has the disks"
  type        = string
  default     = "qemu:///system"
}

variable "name" {
  description = "name of the VM; no VM of the host may have it"
  type        = string
  default     = "app"

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

variable "loader" {
  description = "firmware of the VM on the host"
  type        = string
  default     = "/usr/share/OVMF/OVMF_CODE_4M.fd"
}

variable "nvram" {
  description = "file of the VM's firmware variables; made of the captured ones if it is not there"
  type        = string
  default     = "/vms/app.fd"
}

variable "disk_sda_path" {
  description = "the restored disk sda"
  type        = string
  default     = "/vms/app.qcow2"
}

variable "disk_sda_format" {
  description = "its format"
  type        = string
  default     = "qcow2"

  validation {
    condition     = contains(["qcow2", "raw"], var.disk_sda_format)
    error_message = "The value of disk_sda_format is not among the allowed ones."
  }
}

variable "disk_sda_bus" {
  description = "its bus; the guest must have a driver for it"
  type        = string
  default     = "scsi"

  validation {
    condition     = contains(["virtio", "sata", "scsi", "usb"], var.disk_sda_bus)
    error_message = "The value of disk_sda_bus is not among the allowed ones."
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
