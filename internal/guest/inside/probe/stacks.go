package probe

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

const raidMagic = 0xa92b4efc

// raid finds the superblock of an array of Linux, which lies at the beginning
// (1.1), 4 KiB after it (1.2) or at the end (1.0, 0.90).
func raid(a *area) (Content, bool) {
	for _, at := range []int64{0, 4096, (a.size/512 - 16) &^ 7 * 512} {
		sb := a.bytes(at, 256)
		if sb == nil || le.Uint32(sb) != raidMagic || le.Uint32(sb[4:]) != 1 || le.Uint64(sb[144:]) != uint64(at/512) {
			continue
		}
		c := Content{Class: Member, Type: TypeRAID, Label: text(sb[32:64]), UUID: uuid(sb[168:])}
		c.Group, c.Part, c.Members = raidUUID(sb[16:32]), uuid(sb[168:]), int(min(le.Uint32(sb[92:]), 1024))
		return c, true
	}
	sb := a.bytes(a.size&^65535-65536, 128)
	if sb == nil || le.Uint32(sb) != raidMagic || le.Uint32(sb[4:]) != 0 {
		return Content{}, false
	}
	id := make([]byte, 0, 16)
	id = append(append(id, sb[20:24]...), sb[52:64]...)
	// mdadm prints each word of an old UUID as a number.
	for i := 0; i < 16; i += 4 {
		id[i], id[i+1], id[i+2], id[i+3] = id[i+3], id[i+2], id[i+1], id[i]
	}
	return Content{Class: Member, Type: TypeRAID, Group: raidUUID(id), Label: fmt.Sprint(le.Uint32(sb[44:])), Members: int(min(le.Uint32(sb[40:]), 1024))}, true
}

// raidUUID prints the UUID of an array as mdadm does.
func raidUUID(b []byte) string {
	return fmt.Sprintf("%x:%x:%x:%x", b[0:4], b[4:8], b[8:12], b[12:16])
}

// foreignRAID names arrays of firmware and of controllers.
func foreignRAID(a *area) (Content, bool) {
	end := a.size &^ 511
	switch {
	case a.has(end-1024, "Intel Raid ISM Cfg Sig. "):
		return Content{Class: Refused, Type: "isw_raid_member", Reason: "it belongs to an array of Intel's firmware, which is not supported"}, true
	case a.has(end-512, "\xde\x11\xde\x11"):
		return Content{Class: Refused, Type: "ddf_raid_member", Reason: "it belongs to an array of a RAID controller (DDF), which is not supported"}, true
	}
	return Content{}, false
}

// lvm finds the label of a physical volume in one of the first four sectors.
func lvm(a *area) (Content, bool) {
	for at := int64(0); at < 2048; at += 512 {
		label := a.bytes(at, 512)
		if label == nil || string(label[:8]) != "LABELONE" || string(label[24:32]) != "LVM2 001" || le.Uint64(label[8:]) != uint64(at/512) {
			continue
		}
		c := Content{Class: Member, Type: TypeLVM}
		if off := int64(le.Uint32(label[20:])); off >= 32 && off <= 512-32 {
			id := string(label[off : off+32])
			c.UUID = strings.Join([]string{id[:6], id[6:10], id[10:14], id[14:18], id[18:22], id[22:26], id[26:]}, "-")
		}
		return c, true
	}
	return Content{}, false
}

// MaxHeader is the longest header of LUKS that is handed out, in bytes.
const MaxHeader = 16 << 20

// luks finds a header of LUKS, the second one of version 2 too.
func luks(a *area) (Content, bool) {
	c := Content{Class: Locked, Type: TypeLUKS}
	if a.has(0, "LUKS\xba\xbe") {
		h := a.bytes(0, 592)
		if h == nil {
			return Content{}, false
		}
		c.UUID, c.Version = text(h[168:208]), int(be.Uint16(h[6:]))
		switch c.Version {
		case 1:
			c.Header = int64(be.Uint32(h[104:])) * 512
		case 2:
			c.Label = text(h[24:72])
			c.Header = luks2Header(a, h)
		default:
			c.Class, c.Reason = Refused, fmt.Sprintf("it is LUKS %d, and only 1 and 2 are supported", c.Version)
		}
		if c.Header <= 0 || c.Header > MaxHeader || c.Header > a.size {
			c.Header = min(MaxHeader, a.size)
		}
		return c, true
	}
	for at := int64(0x4000); at <= 0x400000; at *= 2 {
		if a.has(at, "SKUL\xba\xbe") {
			h := a.bytes(at, 592)
			if h == nil || be.Uint16(h[6:]) != 2 {
				continue
			}
			c.UUID, c.Label, c.Version, c.Header = text(h[168:208]), text(h[24:72]), 2, min(MaxHeader, a.size)
			c.Reason = "its first header is damaged; the second one is used"
			return c, true
		}
	}
	return Content{}, false
}

// luks2Header returns where the data begins, according to the header's JSON.
func luks2Header(a *area, h []byte) int64 {
	size := be.Uint64(h[8:])
	if size < 8192 || size > 4<<20 {
		return 0
	}
	area := a.bytes(4096, int(size)-4096)
	var meta struct {
		Segments map[string]struct {
			Offset string `json:"offset"`
		} `json:"segments"`
	}
	body, _, _ := strings.Cut(string(area), "\x00")
	if json.Unmarshal([]byte(body), &meta) != nil {
		return 0
	}
	var first int64
	for _, s := range meta.Segments {
		off, err := strconv.ParseInt(s.Offset, 10, 64)
		if err == nil && off > 0 && (first == 0 || off < first) {
			first = off
		}
	}
	return first
}

// bitlocker finds a volume of BitLocker, or of BitLocker To Go, which looks like FAT.
func bitlocker(a *area) (Content, bool) {
	c := Content{Class: Locked, Type: TypeBitLocker}
	if a.has(3, "-FVE-FS-") {
		return c, true
	}
	id := a.bytes(424, 16)
	return c, id != nil && a.has(3, "MSWIN4.1") && guid(id) == "4967d63b-2e29-4ad8-8399-f6a339e3d001"
}

// magics are the contents that are known by name alone.
var magics = []struct {
	at            int64
	magic         string
	typ, inSpeech string
}{
	{3, "ReFS\x00\x00\x00\x00", "ReFS", "Microsoft's ReFS"},
	{1024, "\x10\x20\xf5\xf2", "f2fs", "F2FS"},
	{4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs", "Bcachefs"},
	{4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache", "a part of a bcache"},
	{2 << 20, "\x5e\xf1\xab\x2f", "VMFS", "VMware's VMFS"},
	{1 << 20, "\x0d\xd0\x01\xc0", "VMFS_volume_member", "a part of VMware's VMFS"},
	{1024, "H+\x00\x04", "hfsplus", "Apple's HFS+"},
	{1024, "HX\x00\x05", "hfsplus", "Apple's HFS+"},
	{1024, "BD", "hfs", "Apple's HFS"},
	{32, "NXSB", "apfs", "Apple's APFS"},
	{32768, "JFS1", "jfs", "JFS"},
	{65536 + 52, "ReIsErFs", "reiserfs", "ReiserFS"},
	{65536 + 52, "ReIsEr2Fs", "reiserfs", "ReiserFS"},
	{65536 + 52, "ReIsEr3Fs", "reiserfs", "ReiserFS"},
	{8192 + 52, "ReIsErFs", "reiserfs", "ReiserFS"},
	{65536, "ReIsEr4", "reiser4", "Reiser4"},
	{65536 + 1372, "\x19\x01\x54\x19", "ufs", "UFS of a BSD"},
	{8192 + 1372, "\x54\x19\x01\x00", "ufs", "UFS of a BSD"},
	{1024 + 6, "\x34\x34", "nilfs2", "NILFS2"},
	{65536, "\x01\x16\x19\x70\x00\x00\x00\x01", "gfs2", "GFS2, a cluster's file system"},
	{1024, "OCFSV2", "ocfs2", "OCFS2, a cluster's file system"},
	{2048, "OCFSV2", "ocfs2", "OCFS2, a cluster's file system"},
	{4096, "OCFSV2", "ocfs2", "OCFS2, a cluster's file system"},
	{8192, "OCFSV2", "ocfs2", "OCFS2, a cluster's file system"},
	{0, "bluestore block device", "ceph_bluestore", "a store of Ceph's"},
	{0, "dmvdo001", "vdo", "VDO"},
	{512, "!Stra0tis\x86\xff\x02^\x41rh", "stratis", "a part of a Stratis pool"},
	{1024, "\xe2\xe1\xf5\xe0", "erofs", "EROFS"},
	{0, "\x45\x3d\xcd\x28", "cramfs", "cramfs"},
	{0, "-rom1fs-", "romfs", "romfs"},
	{1024 + 16, "\x7f\x13", "minix", "the file system of MINIX"},
	{1024 + 16, "\x8f\x13", "minix", "the file system of MINIX"},
	{0, "PRIVHEAD", "ldm", "a dynamic disk of Windows"},
}

// named finds what is refused by name.
func named(a *area) (Content, bool) {
	for _, m := range magics {
		if a.has(m.at, m.magic) {
			return refused(m.typ, m.inSpeech), true
		}
	}
	// ZFS: the ring of uberblocks of the first label, one of which is always written.
	for at := int64(128 << 10); at < 256<<10; at += 1024 {
		if b := a.bytes(at, 8); b != nil && (le.Uint64(b) == 0x00bab10c || be.Uint64(b) == 0x00bab10c) {
			return refused("zfs_member", "a part of a ZFS pool"), true
		}
	}
	return Content{}, false
}

func refused(typ, inSpeech string) Content {
	return Content{Class: Refused, Type: typ, Reason: "it holds " + inSpeech + ", which is not supported"}
}
