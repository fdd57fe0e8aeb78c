package host

import (
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
)

const diffOld = `<domain type='kvm' id='7'>
  <name>web01</name>
  <uuid>11111111-1111-4111-8111-111111111111</uuid>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><source file='/images/web01.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><source file='/images/data.raw'/><target dev='vdb' bus='virtio'/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/></interface>
    <interface type='network'><mac address='52:54:00:00:00:02'/><source network='lan'/></interface>
    <graphics type='vnc' passwd='tulip'/>
    <hostdev mode='subsystem' type='pci'><source><address bus='1'/></source></hostdev>
  </devices>
</domain>`

func TestADifferenceNamesEveryFieldAndNothingElse(t *testing.T) {
	fresh := strings.NewReplacer(
		"<name>web01</name>", "<name>copy</name>", " id='7'", "",
		"/images/data.raw", "/images/copy-vdb.raw",
		"52:54:00:00:00:02", "52:54:00:aa:bb:cc", "network='lan'", "network='lab'",
		"<hostdev mode='subsystem' type='pci'><source><address bus='1'/></source></hostdev>", "<vsock/>",
	).Replace(diffOld)
	got, err := diffXML(diffOld, fresh)
	if err != nil {
		t.Fatal(err)
	}
	want := []backstay.Difference{
		{Path: "/domain/@id", From: "7"},
		{Path: "/domain/name", From: "web01", To: "copy"},
		{Path: "/domain/devices/disk[target/@dev='vdb']/source/@file", From: "/images/data.raw", To: "/images/copy-vdb.raw"},
		{Path: "/domain/devices/interface[2]/mac/@address", From: "52:54:00:00:00:02", To: "52:54:00:aa:bb:cc"},
		{Path: "/domain/devices/interface[2]/source/@network", From: "lan", To: "lab"},
		{Path: "/domain/devices/hostdev", From: "<hostdev mode='subsystem' type='pci'><source><address bus='1'/></source></hostdev>"},
		{Path: "/domain/devices/vsock", To: "<vsock/>"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestDisksAreComparedByTargetWhateverTheirOrder(t *testing.T) {
	// vda is gone: vdb is not taken for it.
	fresh := strings.Replace(diffOld, "<disk type='file' device='disk'><source file='/images/web01.qcow2'/><target dev='vda' bus='virtio'/></disk>", "", 1)
	got, err := diffXML(diffOld, fresh)
	if err != nil || len(got) != 1 || got[0].Path != "/domain/devices/disk[target/@dev='vda']" || got[0].To != "" {
		t.Errorf("%+v %v", got, err)
	}
	if same, err := diffXML(diffOld, strings.ReplaceAll(diffOld, "\n", "\n  ")); err != nil || len(same) != 0 {
		t.Errorf("blanks differ: %+v %v", same, err)
	}
}

// TestNoSecretIsInADifference puts secrets wherever a definition may hold one, and
// changes or removes all of them.
func TestNoSecretIsInADifference(t *testing.T) {
	const secret = "hush-hush"
	secrets := `<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <metadata><app:key xmlns:app='urn:app'>` + secret + `</app:key></metadata>
  <sysinfo type='fwcfg'><entry name='opt/io.systemd.credentials/pw'>` + secret + `</entry></sysinfo>
  <sysinfo type='smbios'><oemStrings><entry>io.systemd.credential:pw=` + secret + `</entry></oemStrings></sysinfo>
  <launchSecurity type='sev'><session>` + secret + `</session><dhCert>` + secret + `</dhCert></launchSecurity>
  <devices>
    <disk type='network'><source protocol='https' name='x'><cookies><cookie name='t'>` + secret + `</cookie></cookies></source><target dev='vda'/></disk>
    <graphics type='spice' passwd='` + secret + `' passwdValidTo='2030-01-01'/>
  </devices>
  <qemu:commandline><qemu:arg value='secret,data=` + secret + `'/><qemu:env name='K' value='` + secret + `'/></qemu:commandline>
</domain>`
	empty := `<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'/>`
	changed := strings.ReplaceAll(secrets, secret, secret+"-too")
	for what, pair := range map[string][2]string{"removed": {secrets, empty}, "added": {empty, secrets}, "changed": {secrets, changed}} {
		got, err := diffXML(pair[0], pair[1])
		if err != nil {
			t.Fatal(err)
		}
		if len(got) < 5 {
			t.Errorf("%s: only %+v", what, got)
		}
		for _, d := range got {
			if strings.Contains(d.From+d.To+d.Path, secret) {
				t.Errorf("%s: a secret is shown: %+v", what, d)
			}
		}
	}
}
