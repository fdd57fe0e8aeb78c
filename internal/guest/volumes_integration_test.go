//go:build integration

package guest_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/guesttest"
	"github.com/backstay/backstay/internal/guest/guesttest/recipes"
	"github.com/backstay/backstay/internal/guest/guesttest/trees"
	"github.com/backstay/backstay/internal/guest/wire"
)

// want is what a scan must say of a volume.
type want struct {
	id     backstay.VolumeID
	kind   backstay.VolumeKind
	fs     string
	label  string
	place  string
	on     string
	disks  string
	reason string // a part of it; "" for none at all
}

func checkVolumes(t *testing.T, got []backstay.Volume, wants []want) {
	t.Helper()
	for _, w := range wants {
		i := slices.IndexFunc(got, func(v backstay.Volume) bool { return v.ID == w.id })
		if i < 0 {
			t.Errorf("no volume %s", w.id)
			continue
		}
		v := got[i]
		var disks []string
		for _, d := range v.Disks {
			disks = append(disks, string(d))
		}
		if w.disks == "" {
			w.disks = strings.Join(disks, " ")
		}
		if v.Kind != w.kind || v.FileSystem != w.fs || v.Label != w.label || v.MountPoint != w.place || strings.Join(v.On, ", ") != w.on ||
			strings.Join(disks, " ") != w.disks || (w.reason == "") != (v.Reason == "") || !strings.Contains(v.Reason, w.reason) {
			t.Errorf("got  %+v\nwant %+v", v, w)
		}
	}
	var extra []backstay.VolumeID
	for _, v := range got {
		if !slices.ContainsFunc(wants, func(w want) bool { return w.id == v.ID }) {
			extra = append(extra, v.ID)
		}
	}
	if len(extra) > 0 {
		t.Errorf("also found: %q", extra)
	}
}

// checkFiles reads the files of a tree that are worth it, by their hash, and sees
// that folders hold as much as they should.
func checkFiles(t *testing.T, m *guest.Machine, volume backstay.VolumeID, tree []trees.Entry) {
	t.Helper()
	inRoot := 0
	for _, e := range tree {
		if !strings.Contains(e.Path, "/") {
			inRoot++
		}
		if e.Type != trees.File || strings.HasPrefix(e.Path, "many/") && e.Path != "many/031" {
			continue
		}
		stream, err := m.Read(t.Context(), wire.ReadRequest{PathRequest: wire.PathRequest{Volume: volume, Path: backstay.FilePath("/" + e.Path)}, Length: -1})
		if err != nil {
			t.Errorf("%s: read %q: %v", volume, e.Path, err)
			continue
		}
		h := sha256.New()
		_, err = io.Copy(h, stream)
		stream.Close()
		if sum := hex.EncodeToString(h.Sum(nil)); err != nil || sum != e.SHA256() {
			t.Errorf("%s: %q is not what it was: %v", volume, e.Path, err)
		}
	}
	folder, err := m.List(t.Context(), wire.ListRequest{PathRequest: wire.PathRequest{Volume: volume, Path: "/"}})
	if err != nil {
		t.Errorf("%s: list: %v", volume, err)
		return
	}
	names := 0
	for _, e := range folder.Entries {
		if e.Name != "lost+found" {
			names++
		}
	}
	if names != inRoot {
		t.Errorf("%s: %d entries in the root folder, want %d: %v", volume, names, inRoot, folder.Entries)
	}
}

// checkRefused sees that a volume is not shown as an empty folder.
func checkRefused(t *testing.T, m *guest.Machine, volume backstay.VolumeID, code backstay.Code) {
	t.Helper()
	_, err := m.List(t.Context(), wire.ListRequest{PathRequest: wire.PathRequest{Volume: volume, Path: "/"}})
	if !backstay.IsCode(err, code) {
		t.Errorf("list %s: got %v, want %s", volume, err, code)
	}
}

// machine starts a machine and attaches the disks of recipes in their order: "name"
// for all of one, "name/0" for its first.
func machine(t *testing.T, p *guest.Pool, names ...string) (*guest.Machine, map[string]string) {
	t.Helper()
	m, err := p.Machine(t.Context(), guest.Need{})
	if err != nil {
		t.Fatal(err)
	}
	hashes := map[string]string{}
	letter := 0
	for _, name := range names {
		recipe, only, some := strings.Cut(name, "/")
		for i, path := range guesttest.Images(t, recipe) {
			if some && !strings.Contains(only, string(rune('0'+i))) {
				continue
			}
			hashes[path] = guesttest.Hash(t, path)
			target := "vd" + string(rune('a'+letter%26))
			if letter >= 26 {
				target = "vda" + string(rune('a'+letter-26))
			}
			letter++
			if err := m.Attach(t.Context(), guesttest.Serve(t, backstay.DiskTarget(target), path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m, hashes
}

func checkUnwritten(t *testing.T, hashes map[string]string) {
	t.Helper()
	for path, before := range hashes {
		if guesttest.Hash(t, path) != before {
			t.Errorf("%s was written to", path)
		}
	}
}

func scan(t *testing.T, m *guest.Machine) wire.Scanned {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	began := time.Now()
	s, err := m.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("scanned in", time.Since(began))
	return s
}

const (
	files  = backstay.VolumeFiles
	locked = backstay.VolumeLocked
	unread = backstay.VolumeUnread
)

// TestEveryKindOfVolumeIsFoundAndRead goes over all file systems and stacks in one
// machine, as far as their names allow.
func TestEveryKindOfVolumeIsFoundAndRead(t *testing.T) {
	p := guesttest.Pool(t, guest.Options{})
	m, hashes := machine(t, p, "mbr", "ext2", "ext3", "ext4", "ext4-crash", "xfs", "xfs4", "xfs-crash", "btrfs-crash", "btrfs-two", // a to k
		"fat12", "fat16", "fat32", "exfat", "ntfs", "iso", "squashfs", "swap", "empty", "gpt-damaged", "thin", // l to v
		"raid1", "raid1-end/1", "raid5/02", "luks1", "luks2", "span") // w to af
	s := scan(t, m)
	checkVolumes(t, s.Volumes, []want{
		{id: "vda1", kind: files, fs: "ext4", place: "/", on: "partition 1"},
		{id: "vda5", kind: files, fs: "ext4", label: "logical", place: "/home", on: "partition 5"},
		{id: "vda6", kind: backstay.VolumeSwap, fs: "swap", on: "partition 6"},
		{id: "vda7", kind: files, fs: "vfat", place: "/mnt/fat", on: "partition 7"},
		{id: "vdb", kind: files, fs: "ext2", label: "ext2"},
		{id: "vdc", kind: files, fs: "ext3", label: "ext3"},
		{id: "vdd", kind: files, fs: "ext4", label: "ext4"},
		{id: "vde", kind: files, fs: "ext4", label: "crashed"},
		{id: "vdf", kind: files, fs: "xfs", label: "xfs"},
		{id: "vdg", kind: files, fs: "xfs", label: "xfs4"},
		{id: "vdh", kind: files, fs: "xfs", label: "crashed"},
		{id: "vdi", kind: files, fs: "btrfs", label: "crashed"},
		{id: "vdj", kind: files, fs: "btrfs", label: "two", disks: "vdj vdk"},
		{id: "vdl", kind: files, fs: "vfat", label: "FAT12"},
		{id: "vdm", kind: files, fs: "vfat", label: "FAT16"},
		{id: "vdn", kind: files, fs: "vfat", label: "FAT32"},
		{id: "vdo", kind: files, fs: "exfat", label: "exfat"},
		{id: "vdp", kind: files, fs: "ntfs", label: "ntfs ü"},
		{id: "vdq", kind: files, fs: "iso9660", label: "ISO"},
		{id: "vdr", kind: files, fs: "squashfs"},
		{id: "vds", kind: backstay.VolumeSwap, fs: "swap", label: "swap"},
		{id: "vdt", kind: backstay.VolumeEmpty},
		{id: "vdu1", kind: files, fs: "ext4", label: "copy", on: "partition 1", reason: "copy at the disk's end"},
		{id: "tvg/thin", kind: files, fs: "ext4", label: "thin", on: "LVM tvg", disks: "vdv"},
		{id: "tvg/before", kind: files, fs: "ext4", label: "thin", on: "LVM tvg", disks: "vdv"},
		{id: "md/raid1", kind: files, fs: "ext4", label: "raid1 1.2", on: "RAID1 md/raid1", disks: "vdw vdx"},
		{id: "md0", kind: files, fs: "ext4", label: "raid1 1.0", on: "RAID1 md0", disks: "vdy", reason: "members that are missing"},
		{id: "md/raid5", kind: files, fs: "ext4", label: "raid5 1.2", on: "RAID5 md/raid5", disks: "vdz vdaa", reason: "members that are missing"},
		{id: "vdab", kind: locked, fs: "crypto_LUKS"},
		{id: "vdac1", kind: locked, fs: "crypto_LUKS", label: "secret", on: "partition 1"},
		{id: "vg0/only0", kind: files, fs: "ext4", label: "only0", on: "LVM vg0", disks: "vdad"},
		{id: "vg0/only1", kind: files, fs: "ext4", label: "only1", on: "LVM vg0", disks: "vdae"},
		{id: "vg0/both", kind: files, fs: "ext4", label: "both", on: "LVM vg0", disks: "vdad vdae"},
	})
	checkRefused(t, m, "vdab", backstay.CodeVolumeLocked)
	checkRefused(t, m, "vds", backstay.CodeVolumeUnread)
	checkRefused(t, m, "vdt", backstay.CodeVolumeUnread)
	checkRefused(t, m, "nothing", backstay.CodeUnknownVolume)
	for _, id := range []backstay.VolumeID{"vdb", "vdc", "vde", "vdg", "vdh", "vdi", "vdj", "vdm", "vdn", "vdo", "vdp", "vdq", "vdr", "tvg/before", "md/raid1", "md0", "md/raid5", "vg0/both"} {
		checkFiles(t, m, id, trees.Plain())
	}
	checkFiles(t, m, "vdl", trees.Named("TWELVE.TXT"))
	checkFiles(t, m, "vda5", trees.Named("logical"))
	checkFiles(t, m, "vdu1", trees.Named("by the copy"))
	checkFiles(t, m, "tvg/thin", append(trees.Plain(), trees.Named("after")...))
	t.Run("locked", func(t *testing.T) { checkLocked(t, m) })
	t.Run("opened outside", func(t *testing.T) { checkOpenedOutside(t, m) })
	checkUnwritten(t, hashes)
}

// checkLocked opens two volumes inside the machine, each with another kind of key.
func checkLocked(t *testing.T, m *guest.Machine) {
	_, err := m.Unlock(t.Context(), wire.UnlockRequest{Volume: "vdab", Passphrase: []byte("wrong")})
	if !backstay.IsCode(err, backstay.CodeVolumeKey) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if _, err := m.Unlock(t.Context(), wire.UnlockRequest{Volume: "vdab", Passphrase: []byte(recipes.Passphrase)}); err != nil {
		t.Fatal(err)
	}
	s, err := m.Unlock(t.Context(), wire.UnlockRequest{Volume: "vdac1", KeyFile: []byte(recipes.KeyFile)})
	if err != nil {
		t.Fatal(err)
	}
	s.Volumes = slices.DeleteFunc(s.Volumes, func(v backstay.Volume) bool { return v.ID != "vdab" && v.ID != "vdac1" })
	checkVolumes(t, s.Volumes, []want{
		{id: "vdab", kind: files, fs: "ext4", label: "in luks1", on: "LUKS"},
		{id: "vdac1", kind: files, fs: "ext4", label: "in luks2", on: "partition 1, LUKS"},
	})
	if len(s.Locks) != 0 {
		t.Errorf("still locked: %v", s.Locks)
	}
	checkFiles(t, m, "vdab", trees.Plain())
	checkFiles(t, m, "vdac1", trees.Plain())
}

// checkOpenedOutside plugs in a locked volume, and then what somebody opened it as,
// which takes its place.
func checkOpenedOutside(t *testing.T, m *guest.Machine) {
	locked := guesttest.Serve(t, "vdag", guesttest.Images(t, "luks1")[0])
	opened := guesttest.Serve(t, "opened", guesttest.Images(t, "mbr")[0])
	opened.Opens = "vdag"
	for _, d := range []guest.Disk{locked, opened} {
		if err := m.Attach(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	s := scan(t, m)
	s.Volumes = slices.DeleteFunc(s.Volumes, func(v backstay.Volume) bool { return !strings.HasPrefix(string(v.ID), "vdag") })
	checkVolumes(t, s.Volumes, []want{
		{id: "vdag1", kind: files, fs: "ext4", on: "LUKS, partition 1", disks: "vdag"},
		{id: "vdag5", kind: files, fs: "ext4", label: "logical", on: "LUKS, partition 5", disks: "vdag"},
		{id: "vdag6", kind: backstay.VolumeSwap, fs: "swap", on: "LUKS, partition 6", disks: "vdag"},
		{id: "vdag7", kind: files, fs: "vfat", on: "LUKS, partition 7", disks: "vdag"},
	})
	checkFiles(t, m, "vdag5", trees.Named("logical"))
}

// TestVolumeGroupsOfOneNameDoNotMeet has two points at once whose volume groups are
// called the same, and a group of that name on a second disk of one of them.
func TestVolumeGroupsOfOneNameDoNotMeet(t *testing.T) {
	p := guesttest.Pool(t, guest.Options{})
	one, hashes := machine(t, p, "debian", "span/0")
	two, more := machine(t, p, "tower")
	s := scan(t, one)
	debian := []want{
		{id: "vda1", kind: files, fs: "vfat", label: "EFI", place: "/boot/efi", on: "partition 1"},
		{id: "vda2", kind: files, fs: "ext4", place: "/boot", on: "partition 2"},
		{id: "vg0/root", kind: files, fs: "ext4", place: "/", on: "partition 3, LVM vg0", disks: "vda"},
		{id: "vg0/data-1", kind: files, fs: "xfs", place: "/srv/with space", on: "partition 3, LVM vg0", disks: "vda"},
		{id: "vg0/swap", kind: backstay.VolumeSwap, fs: "swap", on: "partition 3, LVM vg0", disks: "vda"},
		{id: "vg0/only0", kind: files, fs: "ext4", label: "only0", on: "LVM vg0", disks: "vdb"},
		{id: "vg0/only1", kind: unread, on: "LVM vg0", reason: "lacks 1 of its physical volumes"},
		{id: "vg0/both", kind: unread, on: "LVM vg0", disks: "vdb", reason: "lacks 1 of its physical volumes"},
	}
	checkVolumes(t, s.Volumes, debian)
	checkFiles(t, one, "vg0/data-1", trees.Plain())
	checkFiles(t, one, "vg0/only0", trees.Named("only0"))
	checkRefused(t, one, "vg0/both", backstay.CodeVolumeUnread)

	s = scan(t, two)
	checkVolumes(t, s.Volumes, []want{{id: "md/tower", kind: locked, fs: "crypto_LUKS", on: "RAID1 md/tower", disks: "vda vdb"}})
	if len(s.Locks) != 1 || s.Locks[0].Length != 0 || len(s.Locks[0].Header) == 0 || len(s.Locks[0].Header) > 16<<20 {
		t.Fatalf("an array's lock lies on no disk in one run, so its header is needed: %d locks", len(s.Locks))
	}
	s, err := two.Unlock(t.Context(), wire.UnlockRequest{Volume: "md/tower", Passphrase: []byte(recipes.Passphrase)})
	if err != nil {
		t.Fatal(err)
	}
	checkVolumes(t, s.Volumes, []want{
		{id: "vg0/root", kind: files, fs: "ext4", place: "/", on: "RAID1 md/tower, LUKS, LVM vg0", disks: "vda vdb"},
		{id: "vg0/data", kind: files, fs: "xfs", place: "/srv", on: "RAID1 md/tower, LUKS, LVM vg0", disks: "vda vdb"},
	})
	checkFiles(t, two, "vg0/data", trees.Plain())

	// A disk that was plugged in later, with a group and a volume of names that are taken.
	if err := two.Attach(t.Context(), guesttest.Serve(t, "vdc", guesttest.Images(t, "debian")[0])); err != nil {
		t.Fatal(err)
	}
	s = scan(t, two)
	s.Volumes = slices.DeleteFunc(s.Volumes, func(v backstay.Volume) bool { return v.Disks[0] != "vdc" })
	checkVolumes(t, s.Volumes, []want{
		{id: "vdc1", kind: files, fs: "vfat", label: "EFI", on: "partition 1"},
		{id: "vdc2", kind: files, fs: "ext4", on: "partition 2"},
		{id: "vg0.2/root", kind: files, fs: "ext4", on: "partition 3, LVM vg0.2"},
		{id: "vg0.2/data-1", kind: files, fs: "xfs", on: "partition 3, LVM vg0.2"},
		{id: "vg0.2/swap", kind: backstay.VolumeSwap, fs: "swap", on: "partition 3, LVM vg0.2"},
	})
	checkFiles(t, two, "vg0.2/data-1", trees.Plain())
	checkUnwritten(t, hashes)
	checkUnwritten(t, more)
}

// TestSubvolumesAndBitLocker reads a Btrfs as an installer makes it, and a disk that
// is locked by BitLocker, as cryptsetup understands that format. In that lies a
// partition table, which the kernel does not look for in such a place.
func TestSubvolumesAndBitLocker(t *testing.T) {
	m, hashes := machine(t, guesttest.Pool(t, guest.Options{}), "btrfs")
	if err := m.Attach(t.Context(), guesttest.Serve(t, "vdb", guesttest.BitLocker(t, guesttest.Images(t, "mbr")[0]))); err != nil {
		t.Fatal(err)
	}
	// Two with a journal that cannot be replayed: one has all that was in it beside it, and
	// all of the other is in the journal alone.
	torn := damaged(t, guesttest.Images(t, "ext3")[0], "\xc0\x3b\x39\x98\x00\x00\x00\x04")
	hollow := damaged(t, guesttest.Images(t, "xfs-crash")[0], "\xfe\xed\xba\xbe")
	for target, path := range map[backstay.DiskTarget]string{"vdc": torn, "vdd": hollow} {
		if err := m.Attach(t.Context(), guesttest.Serve(t, target, path)); err != nil {
			t.Fatal(err)
		}
	}
	s := scan(t, m)
	if got := len(s.Volumes); got != 68 {
		t.Errorf("%d volumes; the whole and 64 subvolumes were expected", got)
	}
	checkVolumes(t, s.Volumes[:4], []want{
		{id: "vda", kind: files, fs: "btrfs", label: "btrfs", reason: "9 more subvolumes"},
		{id: "vda:@", kind: files, fs: "btrfs", label: "btrfs", place: "/", on: "subvolume @"},
		{id: "vda:@home", kind: files, fs: "btrfs", label: "btrfs", place: "/home", on: "subvolume @home"},
		{id: "vda:@odd", kind: files, fs: "btrfs", label: "btrfs", on: "subvolume @odd"},
	})
	checkFiles(t, m, "vda:@home", trees.Named("at home"))
	folder, err := m.List(t.Context(), wire.ListRequest{PathRequest: wire.PathRequest{Volume: "vda:snapshots/000", Path: "/etc"}})
	if err != nil || len(folder.Entries) != 2 {
		t.Errorf("a snapshot's /etc: %v, %v", folder.Entries, err)
	}
	checkUnwritten(t, hashes)

	checkVolumes(t, s.Volumes[65:66], []want{{id: "vdb", kind: locked, fs: "BitLocker"}})
	s, err = m.Unlock(t.Context(), wire.UnlockRequest{Volume: "vdb", RecoveryKey: []byte(guesttest.RecoveryKey + "\n")})
	if err != nil {
		t.Fatal(err)
	}
	checkRefused(t, m, "vdd", backstay.CodeVolumeUnread)
	checkFiles(t, m, "vdc", trees.Plain())
	s = scan(t, m)
	checkVolumes(t, s.Volumes[65:], []want{
		{id: "vdb1", kind: files, fs: "ext4", on: "BitLocker, partition 1"},
		{id: "vdb5", kind: files, fs: "ext4", label: "logical", on: "BitLocker, partition 5"},
		{id: "vdb6", kind: backstay.VolumeSwap, fs: "swap", on: "BitLocker, partition 6"},
		{id: "vdb7", kind: files, fs: "vfat", on: "BitLocker, partition 7"},
		{id: "vdc", kind: files, fs: "ext3", label: "ext3", reason: "its journal is damaged and was not replayed"},
		{id: "vdd", kind: unread, fs: "xfs", label: "crashed", reason: "it is damaged"},
	})
	checkFiles(t, m, "vdb5", trees.Named("logical"))
}

// damaged copies an image and overwrites each block that begins with a magic number
// of its journal.
func damaged(t *testing.T, image, magic string) string {
	t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := 0; at < len(data); at += 512 {
		if strings.HasPrefix(string(data[at:at+len(magic)]), magic) {
			copy(data[at:at+512], strings.Repeat("\xa5", 512))
			copy(data[at:], magic)
			found++
		}
	}
	if found == 0 {
		t.Fatalf("%s has no journal", image)
	}
	path := filepath.Join(t.TempDir(), "damaged")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
