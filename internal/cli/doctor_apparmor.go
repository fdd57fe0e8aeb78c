package cli

import (
	"os"
	"regexp"
	"strings"
)

// Where AppArmor and libvirt say how VMs are confined.
const (
	appArmorEnabled  = "/sys/module/apparmor/parameters/enabled"
	appArmorProfiles = "/sys/kernel/security/apparmor/profiles"
	appArmorTemplate = "/etc/apparmor.d/libvirt/TEMPLATE.qemu"
	appArmorLocal    = "/etc/apparmor.d/local/abstractions/libvirt-qemu"
	qemuConf         = "/etc/libvirt/qemu.conf"
)

// socketRule is what no tool of libvirt adds by itself: it lets a VM reach the
// images that its definition names, with all that they stand on, and no socket on
// which a disk is served.
const socketRule = "/run/backstay/** rw,"

var (
	noDriver    = regexp.MustCompile(`(?m)^\s*security_driver\s*=\s*(\[\s*)?"none"`)
	socketRuled = regexp.MustCompile(`(?m)^\s*"?(/run|/\{,var/\}run|/\{var/,\}run|@\{run\})/(backstay/)?\*\*"?\s+\w*(rw|wr)\w*\s*,`)
)

// appArmor sees whether QEMU could open what backstay gives it.
func (d doctor) appArmor() finding {
	const name = "apparmor"
	if strings.TrimSpace(d.text(appArmorEnabled)) != "Y" {
		return ok(name, "not in use")
	}
	if noDriver.MatchString(d.text(qemuConf)) {
		return ok(name, "in use, and libvirt confines no VM: security_driver is none")
	}
	switch libvirtMode(d.text(appArmorProfiles)) {
	case "absent":
		return ok(name, "in use, and libvirt confines no VM: no profile of libvirt is loaded")
	case "complain":
		return ok(name, "in use; libvirt's profiles only complain")
	}
	if _, err := os.Stat(d.path(appArmorTemplate)); err != nil {
		return ok(name, "in use, and libvirt's template for VMs is not there").
			warn("install libvirt's profiles, or VMs may be refused their disks: apt install --reinstall libvirt-daemon-system")
	}
	if !socketRuled.MatchString(d.text(appArmorLocal)) {
		return ok(name, "enforced on VMs, and no rule lets QEMU reach the sockets on which backstay serves disks (pull backups, live restores)").
			warn("add the line `" + socketRule + "` to " + appArmorLocal + "; a VM has it from its next start")
	}
	return ok(name, "enforced on VMs; they reach the layers that their definitions name, and backstay's sockets")
}

// libvirtMode is that of libvirt's daemon, by which it decides whether VMs are
// confined; "" if the kernel does not tell, as to one who is not root.
func libvirtMode(profiles string) string {
	if strings.TrimSpace(profiles) == "" {
		return ""
	}
	for line := range strings.Lines(profiles) {
		profile, mode, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch profile {
		case "libvirtd", "/usr/sbin/libvirtd", "virtqemud", "/usr/sbin/virtqemud":
			return strings.Trim(mode, "()")
		}
	}
	return "absent"
}

// text is what is in a file; "" if it cannot be read.
func (d doctor) text(p string) string {
	data, err := os.ReadFile(d.path(p))
	if err != nil {
		return ""
	}
	return string(data)
}
