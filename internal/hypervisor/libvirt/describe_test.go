package libvirt

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// qcow2 writes a header of version 3 and nothing else.
func qcow2(t *testing.T, path string, size uint64, backing, format string) string {
	t.Helper()
	b := make([]byte, 104, 4096)
	copy(b, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(b[4:], 3)
	be.PutUint64(b[24:], size)
	be.PutUint32(b[100:], 104)
	if format != "" {
		b = be.AppendUint32(b, 0xe2792aca)
		b = be.AppendUint32(b, uint32(len(format)))
		b = append(b, format...)
		b = append(b, make([]byte, -len(format)&7)...)
	}
	b = append(b, make([]byte, 8)...)
	if backing != "" {
		be.PutUint64(b[8:], uint64(len(b)))
		be.PutUint32(b[16:], uint32(len(backing)))
		b = append(b, backing...)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func disks(t *testing.T, elements string) []backstay.Disk {
	t.Helper()
	root, err := parseDomain("<domain type='kvm'><name>x</name><devices>" + elements + "</devices></domain>")
	if err != nil {
		t.Fatal(err)
	}
	vm := describe(root, backstay.VMRunning)
	return vm.Disks
}

func TestADiskThatCannotBeBackedUpSaysWhy(t *testing.T) {
	dir := t.TempDir()
	good := qcow2(t, filepath.Join(dir, "good"), 1<<20, "", "")
	source := "<source file='" + good + "'/>"
	driver := "<driver name='qemu' type='qcow2'/>"
	encrypted := qcow2(t, filepath.Join(dir, "encrypted"), 1<<20, "", "")
	f, _ := os.OpenFile(encrypted, os.O_WRONLY, 0)
	_, _ = f.WriteAt([]byte{0, 0, 0, 2}, 32)
	_ = f.Close()
	const luks = "<encryption format='luks'><secret type='passphrase' uuid='aaa'/></encryption>"
	for element, want := range map[string]string{
		"<disk type='file' device='disk'>" + driver + source + "</disk>":                                                                                                                                      "",
		"<disk type='file'>" + driver + source + "</disk>":                                                                                                                                                    "",
		"<disk type='file' device='cdrom'>" + driver + source + "</disk>":                                                                                                                                     "CD-ROM",
		"<disk type='file' device='floppy'>" + source + "</disk>":                                                                                                                                             "floppy",
		"<disk type='block' device='lun'><source dev='/dev/sdx'/></disk>":                                                                                                                                     "lun",
		"<disk type='block' device='disk'><source dev='/dev/sdx'/></disk>":                                                                                                                                    "cannot be read",
		"<disk type='network' device='disk'><source protocol='rbd' name='p/i'/></disk>":                                                                                                                       "network disk (rbd)",
		"<disk type='volume' device='disk'><source pool='p' volume='v'/></disk>":                                                                                                                              "volume",
		"<disk type='vhostuser' device='disk'><source type='unix' path='/s'/></disk>":                                                                                                                         "another process",
		"<disk type='file' device='disk'>" + driver + "</disk>":                                                                                                                                               "empty",
		"<disk type='file' device='disk'>" + driver + source + "<shareable/></disk>":                                                                                                                          "shared",
		"<disk type='file' device='disk'>" + driver + source + "<readonly/></disk>":                                                                                                                           "read-only",
		"<disk type='file' device='disk'>" + driver + source + "<transient/></disk>":                                                                                                                          "transient",
		"<disk type='file' device='disk'>" + driver + "<source file='" + good + "'><encryption format='luks'/></source></disk>":                                                                               "encrypted",
		"<disk type='file' device='disk'>" + driver + source + "<encryption format='luks'/></disk>":                                                                                                           "encrypted",
		"<disk type='file' device='disk'>" + driver + "<source file='" + encrypted + "'/></disk>":                                                                                                             "encrypted",
		"<disk type='file' device='disk'><driver name='qemu' type='vmdk'/>" + source + "</disk>":                                                                                                              "vmdk",
		"<disk type='file' device='disk'>" + driver + "<source file='" + dir + "/missing'/></disk>":                                                                                                           "cannot be read",
		"<disk type='file' device='disk'>" + driver + "<source file='/dev/null'/></disk>":                                                                                                                     "not a regular file",
		"<disk type='file' device='disk'>" + driver + "<source file='" + good + "'><slices><slice type='storage'/></slices></source></disk>":                                                                  "slice",
		"<disk type='file'>" + driver + "<source file='" + encrypted + "'>" + luks + "</source></disk>":                                                                                                       "",
		"<disk type='file'>" + driver + source + luks + "</disk>":                                                                                                                                             "not encrypted",
		"<disk type='file'>" + driver + "<source file='" + encrypted + "'><encryption format='qcow'/></source></disk>":                                                                                        "only luks",
		"<disk type='file'>" + driver + "<source file='" + encrypted + "'><encryption format='luks'><secret usage='x'/></encryption></source></disk>":                                                         "by its UUID",
		"<disk type='file'>" + driver + "<source file='" + encrypted + "'><encryption format='luks' engine='librbd'><secret uuid='x'/></encryption></source></disk>":                                          "librbd",
		"<disk type='file'>" + driver + "<source file='" + encrypted + "'>" + luks + "</source><backingStore><source file='/x'>" + strings.Replace(luks, "aaa", "bbb", 1) + "</source></backingStore></disk>": "different secrets",
		"<disk type='file'><driver type='raw'/>" + "<source file='" + good + "'>" + luks + "</source></disk>":                                                                                                 "LUKS 1",
		"<disk type='network'><driver type='raw'/><source protocol='nbd' name='e'><host name='h' port='1'/></source></disk>":                                                                                  "",
		"<disk type='network'><driver type='raw'/><source protocol='nbd' name='e' tls='yes'><host name='h' port='1'/></source></disk>":                                                                        "TLS",
		"<disk type='network'><driver type='qcow2'/><source protocol='nbd' name='e'><host name='h' port='1'/></source></disk>":                                                                                "only raw",
		"<disk type='network'><driver type='raw'/><source protocol='nbd' name='e'/></disk>":                                                                                                                   "cannot be told",
		"<disk type='nvme'><driver type='raw'/><source type='pci' namespace='1'/></disk>":                                                                                                                     "nvme",
		"<disk type='vhostvdpa'><source dev='/dev/vhost-vdpa-0'/></disk>":                                                                                                                                     "another process",
		"<disk type='file'>" + driver + "<source file='" + good + "'><dataStore type='file'/></source></disk>":                                                                                                "another file",
	} {
		got := disks(t, element)[0].Reason
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s\nreason %q, want %q", element, got, want)
		}
	}
}

// TestADiskThatTheVMForgetsIsNotBackedUp: its overlay would be forgotten too.
func TestADiskThatTheVMForgetsIsNotBackedUp(t *testing.T) {
	dir := t.TempDir()
	element := func(target, file string) string {
		return "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='" +
			file + "'/><target dev='" + target + "' bus='virtio'/></disk>"
	}
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stays, hot, changed := file("a"), file("b"), file("c")
	vm := backstay.VM{Disks: disks(t, element("vda", stays)+element("vdb", hot)+element("vdc", changed))}
	inactive, err := parseDomain("<domain type='kvm'><devices>" + element("vda", stays) + element("vdc", file("d")) + "</devices></domain>")
	if err != nil {
		t.Fatal(err)
	}
	excludePassing(&vm, inactive)
	for i, want := range []bool{true, false, false} {
		if got := vm.Disks[i].Reason == ""; got != want {
			t.Errorf("disk %s: backed up %v, want %v (%s)", vm.Disks[i].Target, got, want, vm.Disks[i].Reason)
		}
	}
}

// TestARawDiskHasWholeSectors: that is what its guest and its overlays see.
func TestARawDiskHasWholeSectors(t *testing.T) {
	for length, want := range map[int64]int64{0: 0, 1: 512, 512: 512, 1049188: 1049600} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, length)); err != nil {
			t.Fatal(err)
		}
		element := "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='" + path + "'/><target dev='vda'/></disk>"
		d := disks(t, element)[0]
		if d.Size != want || (d.Reason == "") != (want > 0) {
			t.Errorf("file of %d bytes: size %d (%s), want %d", length, d.Size, d.Reason, want)
		}
	}
}

func TestAVMIsDescribedFromItsDefinition(t *testing.T) {
	const xml = `<domain type='kvm' id='3'><name>app</name><uuid>C0FFEE00-0000-4000-8000-000000000001</uuid>
<memory unit='KiB'>2097152</memory><vcpu placement='static' current='2'>4</vcpu>
<os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><loader readonly='yes' type='pflash'>/c.fd</loader><nvram template='/t'>/n/app_VARS.fd</nvram></os>
<devices><emulator>/usr/bin/qemu</emulator>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default' bridge='virbr0'/><model type='virtio'/></interface>
<interface type='user'><mac address='52:54:00:00:00:02'/></interface>
<serial type='pty'><source path='/dev/pts/3'/></serial><console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/></console>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices></domain>`
	root, err := parseDomain(xml)
	if err != nil {
		t.Fatal(err)
	}
	want := backstay.VM{
		ID: "c0ffee00-0000-4000-8000-000000000001", Name: "app", State: backstay.VMRunning, Firmware: backstay.UEFI, TPM: true,
		Agent: backstay.AgentConnected, Arch: "x86_64", Machine: "pc-q35-7.2", Virt: "kvm", Emulator: "/usr/bin/qemu", MemoryMiB: 2048, VCPUs: 4,
		NICs: []backstay.NIC{{MAC: "52:54:00:00:00:01", Kind: "network", Network: "default", Model: "virtio"}, {MAC: "52:54:00:00:00:02", Kind: "user"}},
	}
	if vm := describe(root, backstay.VMRunning); !reflect.DeepEqual(vm, want) {
		t.Errorf("got\n%+v, want\n%+v", vm, want)
	}
	inactive, err := parseDomain(`<domain type='kvm'><name>app</name><uuid>C0FFEE00-0000-4000-8000-000000000001</uuid><os firmware='efi'/><devices><tpm><backend type='emulator'/></tpm></devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	if got := nvram(root, inactive); got != "/n/app_VARS.fd" {
		t.Errorf("live NVRAM is %s", got)
	}
	if got := nvram(nil, inactive); got != "/var/lib/libvirt/qemu/nvram/app_VARS.fd" {
		t.Errorf("default NVRAM is %s", got)
	}
	if got := tpmState(inactive); got != "/var/lib/libvirt/swtpm/c0ffee00-0000-4000-8000-000000000001" {
		t.Errorf("TPM state is %s", got)
	}
	if got := console(root); got != "/dev/pts/3" {
		t.Errorf("console is %s", got)
	}
	if got := describe(inactive, backstay.VMShutOff).Agent; got != backstay.AgentNone {
		t.Errorf("agent is %s", got)
	}
}

// A raw disk's guest can write what looks like a header; nothing may follow it.
func TestAChainEndsAtARawImageWhateverItHolds(t *testing.T) {
	dir := t.TempDir()
	forged := qcow2(t, filepath.Join(dir, "raw"), 1<<20, "/etc/shadow", "raw")
	middle := qcow2(t, filepath.Join(dir, "middle"), 1<<20, "raw", "raw") // a relative name
	top := qcow2(t, filepath.Join(dir, "top"), 1<<20, middle, "qcow2")
	got, recorded := walk(top, "qcow2")
	if want := []link{{path: top, format: "qcow2"}, {path: middle, format: "qcow2"}, {path: forged, format: "raw"}}; !reflect.DeepEqual(got, want) || !recorded {
		t.Errorf("chain is %v, %v", got, recorded)
	}
	unrecorded := qcow2(t, filepath.Join(dir, "unrecorded"), 1<<20, middle, "")
	if _, recorded := walk(unrecorded, "qcow2"); recorded {
		t.Error("a header without a format was taken for one that libvirt follows")
	}
	loop := filepath.Join(dir, "loop")
	qcow2(t, loop, 1<<20, loop, "qcow2")
	if chain, recorded := walk(loop, "qcow2"); recorded || len(chain) != longestChain {
		t.Errorf("a loop gave %d layers", len(chain))
	}
}

func TestAHeaderThatLiesIsAnError(t *testing.T) {
	good, err := os.ReadFile(qcow2(t, filepath.Join(t.TempDir(), "x"), 1<<20, "/base", "qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	for at := range len(good) {
		for _, value := range []byte{0, 0x7f, 0xff} {
			b := append([]byte(nil), good...)
			b[at] = value
			_, _ = parseQcow2("/x", b) // must not panic
			_, _ = parseQcow2("/x", good[:at])
		}
	}
	if _, err := parseQcow2("/x", good[:90]); !errors.Is(err, errNotQcow2) {
		t.Errorf("got %v", err)
	}
}

func TestLibvirtsAnswersBecomeThePortsErrors(t *testing.T) {
	answer := func(code libvirt.ErrorNumber, words string) error {
		return libvirt.Error{Code: uint32(code), Message: words}
	}
	for _, c := range []struct{ err, want error }{
		{answer(libvirt.ErrNoDomain, "Domain not found"), hypervisor.ErrNoVM},
		{answer(libvirt.ErrOperationFailed, "domain 'app' already exists with uuid 1-2"), hypervisor.ErrExists},
		{answer(libvirt.ErrOperationFailed, "domain 'app' is already defined with uuid 1-2"), hypervisor.ErrExists},
		{answer(libvirt.ErrInternalError, `process exited: Failed to get "write" lock`), hypervisor.ErrLocked},
		{libvirt.ErrInterrupted, hypervisor.ErrAway},
	} {
		if err := translate(c.err); !errors.Is(err, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%v became %v", c.err, err)
		}
	}
	other := answer(libvirt.ErrInternalError, "something else")
	if err := translate(other); err != other {
		t.Errorf("got %v", err)
	}
}

func TestASwitchNamesEveryDiskAndChecksTheOverlays(t *testing.T) {
	dir := t.TempDir()
	a, b := qcow2(t, filepath.Join(dir, "a"), 1<<20, "", ""), qcow2(t, filepath.Join(dir, "b"), 1<<20, "", "")
	overlay := qcow2(t, filepath.Join(dir, "o"), 1<<20, a, "qcow2")
	root, err := parseDomain("<domain><devices><disk type='file'><source file='" + a + "'/><target dev='vda'/></disk><disk type='file'><source file='" + b + "'/><target dev='vdb'/></disk><disk type='file' device='cdrom'><target dev='sda'/></disk></devices></domain>")
	if err != nil {
		t.Fatal(err)
	}
	xml, err := snapshotXML(root, []hypervisor.Switch{{Target: "vda", Overlay: overlay}})
	want := `<domainsnapshot><disks><disk name="vda" snapshot="external" type="file"><driver type="qcow2"/><source file="` + overlay + `"/></disk><disk name="vdb" snapshot="no"/><disk name="sda" snapshot="no"/></disks></domainsnapshot>`
	if err != nil || xml != want {
		t.Errorf("got %s, %v", xml, err)
	}
	for _, s := range []hypervisor.Switch{{Target: "vdb", Overlay: overlay}, {Target: "vdz", Overlay: overlay}, {Target: "sda", Overlay: overlay}, {Target: "vda", Overlay: dir + "/none"}} {
		if _, err := snapshotXML(root, []hypervisor.Switch{s}); err == nil {
			t.Errorf("%v was taken", s)
		}
	}
}

// TestAnOverlayOfAnEncryptedDiskIsNeverPlain: what the guest writes would lie in
// it in the clear.
func TestAnOverlayOfAnEncryptedDiskIsNeverPlain(t *testing.T) {
	dir := t.TempDir()
	base := qcow2(t, filepath.Join(dir, "base"), 1<<20, "", "")
	plain, sealed := qcow2(t, filepath.Join(dir, "plain"), 1<<20, base, "qcow2"), qcow2(t, filepath.Join(dir, "sealed"), 1<<20, base, "qcow2")
	for _, path := range []string{base, sealed} {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{0, 0, 0, 2}, 32)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	root, err := parseDomain("<domain><devices><disk type='file'><driver type='qcow2'/><source file='" + base +
		"'><encryption format='luks'><secret type='passphrase' uuid='c0ffee'/></encryption></source><target dev='vda'/></disk></devices></domain>")
	if err != nil {
		t.Fatal(err)
	}
	if xml, err := snapshotXML(root, []hypervisor.Switch{{Target: "vda", Overlay: plain}}); err == nil {
		t.Errorf("a plain overlay was taken: %s", xml)
	}
	xml, err := snapshotXML(root, []hypervisor.Switch{{Target: "vda", Overlay: sealed}})
	if err != nil || !strings.Contains(xml, `<source file="`+sealed+`"><encryption format="luks"><secret type="passphrase" uuid="c0ffee"/></encryption></source>`) {
		t.Errorf("got %s, %v", xml, err)
	}
}

// TestTheOwnersOwnWordsArePutBack: kind, source and chain as they were (I15),
// and what the owner set since.
func TestTheOwnersOwnWordsArePutBack(t *testing.T) {
	const before = `<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none'/><source pool='fast' volume='db' startupPolicy='optional'/><target dev='vda'/></disk>`
	root, err := parseDomain(`<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writeback'/><source file='/l/x' index='3'/><backingStore/><target dev='vda'/></disk></devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	e := diskElement(root, "vda")
	if err := retarget(e, hypervisor.Source{Image: hypervisor.Plain("/pool/db", "raw"), Element: before}); err != nil {
		t.Fatal(err)
	}
	doc := etree.NewDocument()
	doc.SetRoot(e.Copy())
	got, _ := doc.WriteToString()
	want := `<disk type="volume" device="disk"><driver name="qemu" type="raw" cache="writeback"/><source pool="fast" volume="db" startupPolicy="optional"/><target dev="vda"/></disk>`
	if got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}
