package sandbox

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"github.com/backstay/backstay/internal/sandbox/guest"
)

// VMSpec describes a VM to make. The zero value, with a name, is a running BIOS
// guest with a qcow2 system disk and a qcow2 data disk of 1 GiB.
type VMSpec struct {
	Name string
	Host string // "" is the first host
	// Disks in the order vda, vdb, …; the first is the system disk. Empty means
	// the two of the zero value.
	Disks []DiskSpec
	UEFI  bool
	TPM   bool
	// NoAgent leaves the agent's channel out.
	NoAgent bool
	// Network is a libvirt network of the host; empty means user networking.
	Network string
	// MemoryMiB is the guest's memory; 0 means 256.
	MemoryMiB int
	// Off defines the VM and does not start it.
	Off bool
}

// DiskSpec describes a disk. The first disk of a VM is always a copy of the guest
// image, and Size is ignored for it.
type DiskSpec struct {
	Raw   bool  // else qcow2
	Size  int64 // bytes; 0 means 1 GiB
	Blank bool  // without a file system
}

// DiskFile is a file that a VM uses as a disk.
type DiskFile struct {
	Target string // vda, …
	Path   string // as the host sees it
	Format string // qcow2 or raw
}

// AddVM makes a VM with its disks in the host's Images, and starts it.
func (w *World) AddVM(ctx context.Context, spec VMSpec) error {
	if !nameForm.MatchString(spec.Name) {
		return fmt.Errorf("VM name %q: use lower-case letters, digits and dashes", spec.Name)
	}
	h, err := w.Host(spec.Host)
	if err != nil {
		return err
	}
	virt, err := w.domainType(ctx)
	if err != nil {
		return err
	}
	if len(spec.Disks) == 0 {
		spec.Disks = []DiskSpec{{}, {}}
	}
	var files []DiskFile
	for i, disk := range spec.Disks {
		file, err := h.makeDisk(ctx, spec.Name, i, disk)
		if err != nil {
			return fmt.Errorf("make disk %d of VM %s: %w", i+1, spec.Name, err)
		}
		files = append(files, file)
	}
	return h.libvirt(ctx, func(l *libvirt.Libvirt) error {
		domain, err := l.DomainDefineXML(domainXML(spec, virt, files))
		if err != nil {
			return fmt.Errorf("define VM %s: %w", spec.Name, err)
		}
		if spec.Off {
			return nil
		}
		if err := l.DomainCreate(domain); err != nil {
			return fmt.Errorf("start VM %s: %w", spec.Name, err)
		}
		return nil
	})
}

// makeDisk makes one disk image: a copy without a backing file.
func (h *Host) makeDisk(ctx context.Context, vm string, index int, spec DiskSpec) (DiskFile, error) {
	file := DiskFile{Target: "vd" + string(rune('a'+index)), Format: "qcow2"}
	if spec.Raw {
		file.Format = "raw"
	}
	name := fmt.Sprintf("%s-%s.%s", vm, file.Target, map[bool]string{true: "img", false: "qcow2"}[spec.Raw])
	file.Path = filepath.Join(Images, name)
	outside := h.Outside(file.Path)
	if _, err := os.Stat(outside); err == nil {
		return file, fmt.Errorf("%s exists", file.Path)
	}
	size := spec.Size
	if size == 0 {
		size = 1 << 30
	}
	if index > 0 && spec.Blank {
		return file, host(ctx, "qemu-img", "create", "-q", "-f", file.Format, outside, fmt.Sprint(size))
	}
	source := outside + ".src"
	var err error
	if index == 0 {
		source, err = h.world.guestImage(ctx)
	} else {
		err = guest.DataDisk(ctx, source, size)
		defer os.Remove(source)
	}
	if err != nil {
		return file, err
	}
	return file, host(ctx, "qemu-img", "convert", "-q", "-f", "raw", "-O", file.Format, source, outside)
}

// domainXML writes the definition as a user's tool would: a q35 machine with
// virtio devices.
func domainXML(spec VMSpec, virt string, files []DiskFile) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	memory := spec.MemoryMiB
	if memory == 0 {
		memory = 256
	}
	cpu := "maximum"
	if virt == "kvm" {
		cpu = "host-passthrough"
	}
	p("<domain type='%s'><name>%s</name><memory unit='MiB'>%d</memory><vcpu>1</vcpu>", virt, spec.Name, memory)
	if spec.UEFI {
		p("<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type>")
		p("<firmware><feature enabled='no' name='secure-boot'/><feature enabled='no' name='enrolled-keys'/></firmware>")
	} else {
		p("<os><type arch='x86_64' machine='q35'>hvm</type>")
	}
	p("<boot dev='hd'/></os><features><acpi/></features><cpu mode='%s'/><devices>", cpu)
	for _, f := range files {
		p("<disk type='file' device='disk'><driver name='qemu' type='%s' discard='unmap'/><source file='%s'/><target dev='%s' bus='virtio'/></disk>",
			f.Format, f.Path, f.Target)
	}
	p("<serial type='file'><source path='%s'/></serial>", ConsolePath(spec.Name))
	if !spec.NoAgent {
		p("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>")
	}
	if spec.Network == "" {
		p("<interface type='user'><model type='virtio'/></interface>")
	} else {
		p("<interface type='network'><source network='%s'/><model type='virtio'/></interface>", spec.Network)
	}
	if spec.TPM {
		p("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>")
	}
	p("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>")
	return b.String()
}

// ConsolePath is the host's file in which a VM's serial console is recorded.
func ConsolePath(vm string) string { return "/var/log/libvirt/qemu/" + vm + "-console.log" }

// Console returns what a VM has written on its serial console.
func (h *Host) Console(vm string) (string, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, "log", strings.TrimPrefix(ConsolePath(vm), "/var/log/")))
	return string(text), err
}

// VMState is what a host's libvirt says about a VM's power.
type VMState string

// The states that tests ask about.
const (
	Running VMState = "running"
	Paused  VMState = "paused"
	Off     VMState = "shut-off"
)

// State returns a VM's power state; others than the three are given as libvirt's
// number.
func (h *Host) State(ctx context.Context, vm string) (state VMState, err error) {
	err = h.domain(ctx, vm, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		n, _, err := l.DomainGetState(d, 0)
		switch libvirt.DomainState(n) {
		case libvirt.DomainRunning:
			state = Running
		case libvirt.DomainPaused:
			state = Paused
		case libvirt.DomainShutoff:
			state = Off
		default:
			state = VMState(fmt.Sprint(n))
		}
		return err
	})
	return state, err
}

// Destroy ends a running VM as a power cut does; RemoveVM undefines it as well
// and removes the disk files that it uses now.
func (h *Host) Destroy(ctx context.Context, vm string) error {
	return h.domain(ctx, vm, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainDestroy(d)
	})
}

// Start starts a VM that is shut off.
func (h *Host) Start(ctx context.Context, vm string) error {
	return h.domain(ctx, vm, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainCreate(d)
	})
}

// Undefine removes the definition of a VM that is shut off, with firmware
// variables and TPM state; its disk files stay.
func (h *Host) Undefine(ctx context.Context, vm string) error {
	return h.domain(ctx, vm, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainUndefineFlags(d, libvirt.DomainUndefineNvram|libvirt.DomainUndefineTpm|libvirt.DomainUndefineSnapshotsMetadata)
	})
}

// VMs returns the names of all VMs of the host.
func (h *Host) VMs(ctx context.Context) (names []string, err error) {
	err = h.libvirt(ctx, func(l *libvirt.Libvirt) error {
		domains, _, err := l.ConnectListAllDomains(1, 0)
		for _, d := range domains {
			names = append(names, d.Name)
		}
		return err
	})
	return names, err
}

// Disks returns the files that a VM uses as disks now.
func (h *Host) Disks(ctx context.Context, vm string) (files []DiskFile, err error) {
	text, err := h.XML(ctx, vm)
	if err != nil {
		return nil, err
	}
	var domain struct {
		Disks []struct {
			Driver struct {
				Type string `xml:"type,attr"`
			} `xml:"driver"`
			Source struct {
				File string `xml:"file,attr"`
			} `xml:"source"`
			Target struct {
				Dev string `xml:"dev,attr"`
			} `xml:"target"`
		} `xml:"devices>disk"`
	}
	if err := xml.Unmarshal([]byte(text), &domain); err != nil {
		return nil, fmt.Errorf("read definition of VM %s: %w", vm, err)
	}
	for _, d := range domain.Disks {
		files = append(files, DiskFile{Target: d.Target.Dev, Path: d.Source.File, Format: d.Driver.Type})
	}
	return files, nil
}

// XML returns a VM's definition, the live one if it runs.
func (h *Host) XML(ctx context.Context, vm string) (text string, err error) {
	err = h.domain(ctx, vm, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		var err error
		text, err = l.DomainGetXMLDesc(d, 0)
		return err
	})
	return text, err
}

// domain runs f on a VM of the host.
func (h *Host) domain(ctx context.Context, vm string, f func(*libvirt.Libvirt, libvirt.Domain) error) error {
	err := h.libvirt(ctx, func(l *libvirt.Libvirt) error {
		d, err := l.DomainLookupByName(vm)
		if err != nil {
			return err
		}
		return f(l, d)
	})
	if err != nil {
		return fmt.Errorf("VM %s on host %s: %w", vm, h.Name, err)
	}
	return nil
}

// ParseDisks reads disks as the command line gives them: FORMAT[:SIZE], such as
// qcow2, raw:64M or qcow2:1T.
func ParseDisks(words []string) ([]DiskSpec, error) {
	var disks []DiskSpec
	for _, word := range words {
		format, size, sized := strings.Cut(word, ":")
		disk := DiskSpec{Raw: format == "raw"}
		if format != "raw" && format != "qcow2" {
			return nil, fmt.Errorf("disk %q: the format is raw or qcow2", word)
		}
		if sized {
			var n int64
			var unit string
			if _, err := fmt.Sscanf(size, "%d%s", &n, &unit); err != nil || n <= 0 {
				return nil, fmt.Errorf("disk %q: a size is a number with M, G or T", word)
			}
			shift := map[string]int{"M": 20, "G": 30, "T": 40}[unit]
			if shift == 0 {
				return nil, fmt.Errorf("disk %q: a size is a number with M, G or T", word)
			}
			disk.Size = n << shift
		}
		disks = append(disks, disk)
	}
	return disks, nil
}

// QEMUPID is the process of a VM that runs, for looking at it.
func (h *Host) QEMUPID(vm string) (int, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, "run/libvirt/qemu", vm+".pid"))
	if err != nil {
		return 0, fmt.Errorf("find the process of VM %s: %w", vm, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("find the process of VM %s: %w", vm, err)
	}
	return pid, nil
}

// KillQEMU ends the process of a VM as a crash of its host does, and waits until
// it is gone. libvirtd, if it runs, will note it a moment later.
func (h *Host) KillQEMU(ctx context.Context, vm string) error {
	pid, err := h.QEMUPID(vm)
	if err != nil {
		return err
	}
	start, ok := startTime(pid)
	if !ok {
		return fmt.Errorf("VM %s has no process %d", vm, pid)
	}
	return process{pid, start}.kill(ctx)
}
