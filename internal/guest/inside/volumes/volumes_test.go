package volumes

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
)

// fileSystem is a node that holds files.
func fileSystem(id backstay.VolumeID, uuid, label string) *node {
	return &node{id: id, disks: []backstay.DiskTarget{"vda"}, content: probe.Content{Class: probe.Files, Type: "ext4", UUID: uuid, Label: label}}
}

func TestAnFstabNamesVolumesInEveryWay(t *testing.T) {
	root := &node{id: "vg-0/root", group: "vg-0", logical: "root", content: probe.Content{Class: probe.Files, Type: "xfs"}}
	byPart := fileSystem("vda3", "", "")
	byPart.part = probe.Partition{Number: 3, UUID: "cafe0001-03", Name: "p label"}
	array := fileSystem("md/data", "", "")
	array.array = "md/data"
	zero := fileSystem("md0", "", "")
	zero.array = "md0"
	under := &node{id: "vda5", hidden: true, content: probe.Content{Class: probe.Locked, Type: probe.TypeLUKS, UUID: "lock-uuid"}}
	opened := fileSystem("vda5", "", "")
	btrfs := &node{id: "vdb", content: probe.Content{Class: probe.Files, Type: "btrfs", Label: "pool"}, subvolumes: []subvolume{{id: 256, path: "@home"}, {id: 257, path: "@srv"}}}
	s := New(nil)
	s.nodes = []*node{root, fileSystem("vda1", "ABCD-1234", ""), fileSystem("vda2", "", "with space"), byPart, array, zero, under, opened, btrfs,
		{id: "vda9", content: probe.Content{Class: probe.Swap, UUID: "swap"}}, fileSystem("vdc", "", "")}
	s.guest.root = root.id
	s.guest.crypt = parseCrypt("# name device\ncrypted UUID=lock-uuid none luks\n")
	s.guest.table = parseTable(`# comment
/dev/mapper/vg--0-root / xfs defaults 0 1
UUID=abcd-1234 /boot/efi vfat umask=0077 0 1
LABEL="with\040space" /with\040space/ ext4 defaults
PARTUUID=CAFE0001-03 /part ext4 defaults
/dev/md/data /array ext4 defaults
/dev/md/0 /zero ext4 defaults
/dev/mapper/crypted /home2 ext4 defaults
LABEL=pool /home btrfs subvol=/@home,compress=zstd
LABEL=pool /srv btrfs subvolid=257
LABEL=pool /gone btrfs subvol=@gone
UUID=swap none swap sw
/dev/vdc /disk ext4 defaults
/dev/vdc /again ext4 defaults
/srv /bound none bind
proc /proc proc defaults
`)
	want := map[backstay.VolumeID]string{
		"vg-0/root": "/", "vda1": "/boot/efi", "vda2": "/with space", "vda3": "/part", "md/data": "/array", "md0": "/zero",
		"vda5": "/home2", "vdb:@home": "/home", "vdb:@srv": "/srv", "vdc": "/disk",
	}
	got := s.resolve()
	for id, place := range want {
		if got[id] != place {
			t.Errorf("%s is at %q, want %q", id, got[id], place)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
}

func TestThingsWithoutAnFstabHaveNoPlace(t *testing.T) {
	s := New(nil)
	s.nodes = []*node{fileSystem("vda1", "", "")}
	if got := s.resolve(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestLogicalVolumesAreFollowedToTheirDisks(t *testing.T) {
	a, b := &node{device: "/dev/sda2"}, &node{device: "/dev/md101"}
	rows, err := parseRows(`{"report":[{"lv":[
		{"vg_name":"vg","vg_uuid":"U","lv_name":"thin","lv_attr":"Vwi-a-tz--","pool_lv":"pool","devices":""},
		{"vg_name":"vg","vg_uuid":"U","lv_name":"pool","lv_attr":"twi-aotz--","devices":"pool_tdata(0)","segtype":"thin-pool"},
		{"vg_name":"vg","vg_uuid":"U","lv_name":"[pool_tdata]","lv_attr":"Twi-ao----","devices":"/dev/md101(4)"},
		{"vg_name":"vg","vg_uuid":"U","lv_name":"both","lv_attr":"-wi-a-----","devices":"/dev/sda2(0)"},
		{"vg_name":"vg","vg_uuid":"U","lv_name":"both","lv_attr":"-wi-a-----","devices":"/dev/md101(9)"},
		{"vg_name":"vg","vg_uuid":"U","lv_name":"cached","lv_attr":"Cwi-a-C---","devices":"both(0)","segtype":"cache"}]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	uses := lies(rows, []*node{a, b})
	for name, want := range map[string][]*node{"U/thin": {b}, "U/both": {a, b}, "U/cached": {a, b}} {
		if !slices.Equal(uses[name], want) {
			t.Errorf("%s lies on %v", name, uses[name])
		}
	}
	var shown []string
	for _, r := range rows {
		if !hidden(r) {
			shown = append(shown, r.Name)
		}
	}
	if !slices.Equal(shown, []string{"thin", "both", "both", "cached"}) {
		t.Errorf("shown are %q", shown)
	}
}

func TestVolumesAreNamedAsTheGuestNamesThem(t *testing.T) {
	for label, want := range map[string]string{"guest:0": "md0", "guest:data": "md/data", "127": "md127", "": "md", "h:a/../b": "md/a_.._b"} {
		if got := arrayName(label); got != want {
			t.Errorf("%q: %q, want %q", label, got, want)
		}
	}
	if got := partName("nvme0n1", 2); got != "nvme0n1p2" {
		t.Error(got)
	}
	s := New(nil)
	s.nodes = []*node{{id: "md0"}}
	if got := s.free("md0"); got != "md0.2" {
		t.Error(got)
	}
}

func TestAWrongKeyIsToldFromAVolumeThatCannotBeOpened(t *testing.T) {
	luks := fileSystem("vda1", "", "")
	luks.content.Type = probe.TypeLUKS
	bitlk := fileSystem("vda1", "", "")
	bitlk.content.Type = probe.TypeBitLocker
	for _, test := range []struct {
		n    *node
		err  error
		code backstay.Code
	}{
		{luks, &failure{code: 2, stderr: "No key available with this passphrase."}, backstay.CodeVolumeKey},
		{bitlk, &failure{code: 1}, backstay.CodeVolumeKey},
		{luks, &failure{code: 3, stderr: "Not enough available memory"}, backstay.CodeVolumeLocked},
		{luks, &failure{code: -1}, backstay.CodeVolumeLocked}, // killed for its memory
		{bitlk, &failure{code: 1, stderr: "Elephant Diffuser is not supported"}, backstay.CodeVolumeLocked},
	} {
		if err := unlockError(test.n, test.err); !backstay.IsCode(err, test.code) {
			t.Errorf("%v: got %v", test.err, err)
		}
	}
}

func TestWhatCannotBeMountedSaysWhy(t *testing.T) {
	n := fileSystem("vda1", "", "")
	for err, want := range map[error]string{
		unix.EUCLEAN: "its file system (ext4) cannot be mounted: it is damaged",
		unix.ENODEV:  "its file system (ext4) cannot be mounted: the small machine has no driver for it",
		unix.EACCES:  "its file system (ext4) cannot be mounted (permission denied)",
	} {
		n.device = "/dev/nothing-of-this-name"
		if got := mountReason(n, err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAnNTFSThatCannotBeMountedSaysWhyAndNotWhereToRead(t *testing.T) {
	n := fileSystem("vda1", "", "")
	n.content.Type = "ntfs"
	advice := "\nThe device '/dev/sda1' doesn't seem to have a valid NTFS.\nMaybe the wrong device is used? See the documentation\nfor more details.\n"
	for want, f := range map[string]*failure{
		"its file system (ntfs) cannot be mounted: it is no valid NTFS":                              {code: 12, stderr: "NTFS signature is missing." + advice},
		"its file system (ntfs) cannot be mounted: it is damaged: let Windows check it (chkdsk)":     {code: 13, stderr: "Failed to load $MFT" + advice},
		"its file system (ntfs) cannot be mounted: Failed to startup volume: Cannot allocate memory": {code: 20, stderr: "Failed to startup volume: Cannot allocate memory" + advice},
		"its file system (ntfs) cannot be mounted: it did not end within 30s":                        {code: -1, stderr: "it did not end within 30s"},
	} {
		if got := mountReason(n, f); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNamesOfAGuestAreMadeFitForALine(t *testing.T) {
	if got := text("a\x1b[31mb\n\u202ec "); got != "a\uFFFD[31mb\uFFFD\uFFFDc" {
		t.Errorf("%q", got)
	}
}

func TestAWindowsThatSleepsIsSaidToSleep(t *testing.T) {
	dir := t.TempDir()
	for content, sleeps := range map[string]bool{"hibr and more": true, "HIBR": true, "wake": false, "": false} {
		if err := os.WriteFile(filepath.Join(dir, "hiberfil.sys"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ntfsNote(dir) != ""; got != sleeps {
			t.Errorf("%q: %v", content, got)
		}
	}
}

func TestARootWithNothingInItIsHollow(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if !hollow(dir) {
		t.Error("lost+found alone counts as something")
	}
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if hollow(dir) {
		t.Error("a folder counts as nothing")
	}
}

func TestNothingLeadsOutOfARootThatIsAskedForItsFstab(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"outside", "root/etc"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "outside/fstab"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "root/etc/fstab")
	for _, to := range []string{"../../outside/fstab", filepath.Join(dir, "outside/fstab")} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		if got := readText(dir, "root/etc/fstab", "root"); got != "" {
			t.Errorf("%s leads to %q", to, got)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(link, []byte("table"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readText(dir, "root/etc/fstab", "root"); got != "table" {
		t.Errorf("got %q", got)
	}
}
