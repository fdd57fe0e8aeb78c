package libvirt

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
)

// defaultPool is where libvirt's own tools put disks; it is offered also where
// nobody has defined it as a pool.
const (
	defaultPoolName = "default"
	defaultPoolPath = "/var/lib/libvirt/images"
)

// Facts describes the host.
func (h *Host) Facts(ctx context.Context) (backstay.HostFacts, error) {
	facts, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (backstay.HostFacts, error) {
		var f backstay.HostFacts
		if err := versions(l, &f); err != nil {
			return f, err
		}
		if err := capabilities(l, &f); err != nil {
			return f, err
		}
		if err := firmwareAndTPM(l, &f); err != nil {
			return f, err
		}
		if err := memory(l, &f); err != nil {
			return f, err
		}
		if err := networks(l, &f); err != nil {
			return f, err
		}
		return f, h.allPools(l, &f)
	})
	if err != nil {
		return backstay.HostFacts{}, fmt.Errorf("describe host: %w", err)
	}
	return facts, nil
}

func versions(l *libvirt.Libvirt, f *backstay.HostFacts) error {
	lib, err := l.ConnectGetLibVersion()
	if err != nil {
		return err
	}
	hv, err := l.ConnectGetVersion()
	f.Hypervisor = fmt.Sprintf("libvirt %s, QEMU %s", dotted(lib), dotted(hv))
	return err
}

// dotted writes libvirt's version number: major × 1000000 + minor × 1000 + release.
func dotted(v uint64) string { return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000) }

func capabilities(l *libvirt.Libvirt, f *backstay.HostFacts) error {
	xml, err := l.ConnectGetCapabilities()
	if err != nil {
		return err
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	own := text(doc.Root(), "host/cpu/arch")
	for _, guest := range doc.Root().FindElements("./guest") {
		arch := find(guest, "arch")
		if arch == nil || text(guest, "os_type") != "hvm" {
			continue
		}
		e := backstay.Emulator{Arch: attr(arch, "", "name"), Path: text(arch, "emulator")}
		for _, m := range arch.FindElements(".//machine") {
			for _, name := range []string{m.Text(), m.SelectAttrValue("canonical", "")} {
				if name != "" && !slices.Contains(e.Machines, name) {
					e.Machines = append(e.Machines, name)
				}
			}
		}
		f.Emulators = append(f.Emulators, e)
		if e.Arch == own && find(arch, "domain[@type='kvm']") != nil {
			f.Accelerated = true
		}
	}
	return nil
}

// firmwareAndTPM asks what the default emulator can do. A host without one has
// no emulators either, which says it all.
func firmwareAndTPM(l *libvirt.Libvirt, f *backstay.HostFacts) error {
	_, noTPM := exec.LookPath("swtpm")
	_, noSetup := exec.LookPath("swtpm_setup")
	f.TPM = noTPM == nil && noSetup == nil
	ovmf, _ := filepath.Glob("/usr/share/OVMF/OVMF_CODE*.fd")
	f.UEFI = len(ovmf) > 0
	if len(f.Emulators) == 0 {
		return nil
	}
	// q35 is asked for because UEFI images for the older type are rarely
	// installed; another architecture has its own default.
	var machine libvirt.OptString
	for _, e := range f.Emulators {
		if e.Arch == "x86_64" && slices.Contains(e.Machines, "q35") && hostIs(l, "x86_64") {
			machine = libvirt.OptString{"q35"}
		}
	}
	xml, err := l.ConnectGetDomainCapabilities(nil, nil, machine, nil, 0)
	if isCode(err, libvirt.ErrNoSupport, libvirt.ErrInvalidArg, libvirt.ErrOperationUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		return fmt.Errorf("read domain capabilities: %w", err)
	}
	f.UEFI = f.UEFI || offers(doc.Root(), "os/enum[@name='firmware']/value", "efi")
	f.TPM = f.TPM || offers(doc.Root(), "devices/tpm/enum[@name='backendModel']/value", "emulator")
	return nil
}

// memory adds up what is free and what the kernel gives back when it is asked for.
func memory(l *libvirt.Libvirt, f *backstay.HostFacts) error {
	const allCells = -1
	_, n, err := l.NodeGetMemoryStats(0, allCells, 0)
	if err == nil {
		var stats []libvirt.NodeGetMemoryStats
		stats, _, err = l.NodeGetMemoryStats(n, allCells, 0)
		for _, s := range stats {
			if s.Field == "free" || s.Field == "buffers" || s.Field == "cached" {
				f.MemoryFree += int64(s.Value) << 10
			}
		}
	}
	if isCode(err, libvirt.ErrNoSupport, libvirt.ErrOperationUnsupported, libvirt.ErrInternalError) {
		return nil // not known
	}
	return err
}

func hostIs(l *libvirt.Libvirt, arch string) bool {
	model, _, _, _, _, _, _, _, err := l.NodeGetInfo()
	if err != nil {
		return false
	}
	b := make([]byte, 0, len(model))
	for _, c := range model {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b) == arch
}

func offers(root *etree.Element, path, value string) bool {
	for _, e := range root.FindElements("./" + path) {
		if e.Text() == value {
			return true
		}
	}
	return false
}

// networks lists active networks, and bridges by the kernel's own word: libvirt's
// interface driver is often not installed.
func networks(l *libvirt.Libvirt, f *backstay.HostFacts) error {
	nets, _, err := l.ConnectListAllNetworks(1, libvirt.ConnectListNetworksActive)
	if err != nil && !isCode(err, libvirt.ErrNoSupport, libvirt.ErrNoConnect) {
		return err
	}
	for _, n := range nets {
		f.Networks = append(f.Networks, n.Name)
	}
	bridges, _ := filepath.Glob("/sys/class/net/*/bridge")
	for _, b := range bridges {
		f.Bridges = append(f.Bridges, filepath.Base(filepath.Dir(b)))
	}
	slices.Sort(f.Networks)
	return nil
}

// allPools lists libvirt's folders, those of the configuration, and the default.
func (h *Host) allPools(l *libvirt.Libvirt, f *backstay.HostFacts) error {
	pools, _, err := l.ConnectListAllStoragePools(1, libvirt.ConnectListStoragePoolsActive)
	if err != nil && !isCode(err, libvirt.ErrNoSupport, libvirt.ErrNoConnect) {
		return err
	}
	f.Pools = slices.Clone(h.pools)
	for _, p := range pools {
		xml, err := l.StoragePoolGetXMLDesc(p, 0)
		if isCode(err, libvirt.ErrNoStoragePool) {
			continue
		}
		if err != nil {
			return err
		}
		doc := etree.NewDocument()
		if err := doc.ReadFromString(xml); err != nil {
			return fmt.Errorf("read pool %s: %w", p.Name, err)
		}
		switch kind := attr(doc.Root(), "", "type"); kind {
		case "dir", "fs", "netfs":
			addPool(f, backstay.Pool{Name: p.Name, Path: text(doc.Root(), "target/path")})
		}
	}
	addPool(f, backstay.Pool{Name: defaultPoolName, Path: defaultPoolPath})
	f.Pools = slices.DeleteFunc(f.Pools, func(p backstay.Pool) bool { return p.Path == "" })
	for i := range f.Pools {
		f.Pools[i].Available = available(f.Pools[i].Path)
	}
	return nil
}

// addPool adds a pool unless one of this name or folder is there: the
// configuration wins over libvirt, and both over the default.
func addPool(f *backstay.HostFacts, p backstay.Pool) {
	for _, have := range f.Pools {
		if have.Name == p.Name || filepath.Clean(have.Path) == filepath.Clean(p.Path) {
			return
		}
	}
	f.Pools = append(f.Pools, p)
}

// available is how many bytes an ordinary user can still write; 0 if the folder
// is not there, so that nothing is planned into it.
func available(path string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}
