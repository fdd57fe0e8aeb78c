package probe

import (
	"fmt"
	"strings"
)

// ext2, ext3 and ext4: the superblock lies at 1024. Fields are those of the
// kernel's struct ext4_super_block.
func ext(a *area) (Content, bool) {
	sb := a.bytes(1024, 1024)
	if sb == nil || le.Uint16(sb[56:]) != 0xEF53 || le.Uint32(sb[24:]) > 6 {
		return Content{}, false
	}
	compat, incompat, roCompat := le.Uint32(sb[92:]), le.Uint32(sb[96:]), le.Uint32(sb[100:])
	block := int64(1024) << le.Uint32(sb[24:])
	blocks, free := int64(le.Uint32(sb[4:])), int64(le.Uint32(sb[12:]))
	if incompat&0x80 != 0 { // 64bit
		blocks |= int64(le.Uint32(sb[0x150:])&0xFFFF) << 32
		free |= int64(le.Uint32(sb[0x158:])&0xFFFF) << 32
	}
	c := Content{Class: Files, Type: "ext2", UUID: uuid(sb[104:]), Label: text(sb[120:136]), Size: blocks * block, LastMounted: text(sb[136:200])}
	c.Used = max(0, blocks-free) * block
	switch {
	case incompat&0x8 != 0:
		c.Class, c.Type, c.Used, c.Size = Refused, "jbd", 0, 0
		c.Reason = "it is the journal of an ext4 file system that lies elsewhere"
	case incompat&^uint32(0x2|0x4|0x10) != 0, roCompat&^uint32(0x1|0x2|0x4) != 0:
		c.Type = "ext4"
	case compat&0x4 != 0:
		c.Type = "ext3"
	}
	return c, true
}

// XFS: fields are those of struct xfs_dsb, big endian.
func xfs(a *area) (Content, bool) {
	if !a.has(0, "XFSB") {
		return Content{}, false
	}
	sb := a.bytes(0, 512)
	if sb == nil {
		return Content{}, false
	}
	block := int64(be.Uint32(sb[4:]))
	if block < 512 || block > 65536 {
		return Content{}, false
	}
	c := Content{Class: Files, Type: "xfs", UUID: uuid(sb[32:]), Label: text(sb[108:120])}
	blocks, free := int64(be.Uint64(sb[8:])), int64(be.Uint64(sb[144:]))
	if blocks > 0 && blocks < 1<<50 {
		c.Size = blocks * block
		if free >= 0 && free <= blocks {
			c.Used = (blocks - free) * block
		}
	}
	c.Version = int(be.Uint16(sb[100:]) & 0xF)
	switch {
	case be.Uint64(sb[48:]) == 0:
		c.Class, c.Reason = Refused, "its log lies on another device"
	case be.Uint64(sb[16:]) != 0:
		c.Class, c.Reason = Refused, "a part of it lies on another device (a realtime section)"
	}
	return c, true
}

// Btrfs: fields are those of struct btrfs_super_block.
func btrfs(a *area) (Content, bool) {
	const at = 64 << 10
	if !a.has(at+64, "_BHRfS_M") {
		return Content{}, false
	}
	sb := a.bytes(at, 1024)
	if sb == nil {
		return Content{}, false
	}
	c := Content{Class: Files, Type: TypeBtrfs, UUID: uuid(sb[32:]), Label: text(sb[299 : 299+256])}
	c.Size, c.Used = bound(le.Uint64(sb[112:])), bound(le.Uint64(sb[120:]))
	c.Group, c.Part = c.UUID, uuid(sb[201+66:])
	c.Members = int(min(le.Uint64(sb[136:]), 1024))
	return c, true
}

func bound(n uint64) int64 {
	if n > 1<<62 {
		return 0
	}
	return int64(n)
}

// FAT12, FAT16 and FAT32, as in Microsoft's specification of 2005.
func fat(a *area) (Content, bool) {
	bs := a.bytes(0, 512)
	if bs == nil || !a.has(510, "\x55\xaa") || bs[0] != 0xEB && bs[0] != 0xE9 || bs[21] < 0xF0 {
		return Content{}, false
	}
	sector, cluster := int64(le.Uint16(bs[11:])), int64(bs[13])
	reserved, fats := int64(le.Uint16(bs[14:])), int64(bs[16])
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 || cluster == 0 || cluster&(cluster-1) != 0 || reserved == 0 || fats == 0 || fats > 4 {
		return Content{}, false
	}
	root, total, size := int64(le.Uint16(bs[17:])), int64(le.Uint16(bs[19:])), int64(le.Uint16(bs[22:]))
	if total == 0 {
		total = int64(le.Uint32(bs[32:]))
	}
	big := size == 0
	if big {
		size = int64(le.Uint32(bs[36:]))
	}
	rootAt := (reserved + fats*size) * sector
	data := total - reserved - fats*size - (root*32+sector-1)/sector
	if size == 0 || data <= 0 {
		return Content{}, false
	}
	clusters := data / cluster
	c := Content{Class: Files, Type: "vfat", Version: 16, Size: total * sector}
	serial, label := bs[39:43], bs[43:54]
	switch {
	case big:
		c.Version, serial, label = 32, bs[67:71], bs[71:82]
		rootAt += (int64(le.Uint32(bs[44:])) - 2) * cluster * sector
		if info := a.bytes(int64(le.Uint16(bs[48:]))*sector, 512); info != nil && string(info[:4]) == "RRaA" {
			if free := int64(le.Uint32(info[488:])); free <= clusters {
				c.Used = (clusters - free) * cluster * sector
			}
		}
	case clusters < 4085:
		c.Version = 12
	}
	c.UUID = fmt.Sprintf("%04X-%04X", le.Uint16(serial[2:]), le.Uint16(serial))
	if c.Label = text(label); c.Label == "NO NAME" || bs[38] != 0x29 && !big {
		c.Label = ""
	}
	if l := fatLabel(a.bytes(rootAt, 512)); l != "" {
		c.Label = l
	}
	return c, true
}

// fatLabel finds the label among the first entries of the root folder.
func fatLabel(dir []byte) string {
	for ; len(dir) >= 32 && dir[0] != 0; dir = dir[32:] {
		if dir[0] != 0xE5 && dir[11]&0x3F == 0x08 {
			return text(dir[:11])
		}
	}
	return ""
}

// exFAT, as in Microsoft's specification.
func exfat(a *area) (Content, bool) {
	if !a.has(3, "EXFAT   ") {
		return Content{}, false
	}
	bs := a.bytes(0, 512)
	if bs == nil || bs[108] < 9 || bs[108] > 12 || bs[109] > 25 {
		return Content{}, false
	}
	sector := int64(1) << bs[108]
	c := Content{Class: Files, Type: "exfat", Size: bound(le.Uint64(bs[72:])) * sector}
	c.UUID = fmt.Sprintf("%04X-%04X", le.Uint16(bs[102:]), le.Uint16(bs[100:]))
	if bs[112] <= 100 {
		c.Used = c.Size / 100 * int64(bs[112])
	}
	cluster := sector << bs[109]
	root := int64(le.Uint32(bs[88:]))*sector + (int64(le.Uint32(bs[96:]))-2)*cluster
	dir := a.bytes(root, 512)
	for ; len(dir) >= 32 && dir[0] != 0; dir = dir[32:] {
		if dir[0] == 0x83 && dir[1] <= 11 {
			c.Label = wide(dir[2 : 2+2*int(dir[1])])
			break
		}
	}
	return c, true
}

// NTFS: the label is in record 3 of its master file table.
func ntfs(a *area) (Content, bool) {
	if !a.has(3, "NTFS    ") {
		return Content{}, false
	}
	bs := a.bytes(0, 512)
	sector, per := int64(le.Uint16(bs[11:])), int64(bs[13])
	if per > 128 {
		per = 1 << (256 - per)
	}
	if sector < 256 || sector > 4096 || per == 0 || per > 1<<21 {
		return Content{}, false
	}
	c := Content{Class: Files, Type: "ntfs", Size: bound(le.Uint64(bs[40:])) * sector, UUID: fmt.Sprintf("%016X", le.Uint64(bs[72:]))}
	record := int64(int8(bs[64])) * per * sector
	if int8(bs[64]) < 0 {
		record = 1 << -int8(bs[64])
	}
	if record < 256 || record > 65536 {
		return c, true
	}
	at := bound(le.Uint64(bs[48:]))
	if at > a.size/(per*sector) {
		return c, true
	}
	c.Label = ntfsLabel(a.bytes(at*per*sector+3*record, int(record)))
	return c, true
}

func ntfsLabel(rec []byte) string {
	if len(rec) < 48 || string(rec[:4]) != "FILE" {
		return ""
	}
	for at := int(le.Uint16(rec[20:])); at+24 <= len(rec); {
		kind, length := le.Uint32(rec[at:]), int(le.Uint32(rec[at+4:]))
		if kind == 0xFFFFFFFF || length < 24 || length > len(rec)-at {
			break
		}
		if kind == 0x60 { // $VOLUME_NAME, always in the record itself
			size, off := int(le.Uint32(rec[at+16:])), int(le.Uint16(rec[at+20:]))
			if off+size <= length && size <= 256 {
				return wide(rec[at+off : at+off+size])
			}
		}
		at += length
	}
	return ""
}

func iso(a *area) (Content, bool) {
	if !a.has(32769, "CD001") {
		if a.has(32769, "NSR02") || a.has(32769, "BEA01") {
			return Content{Class: Files, Type: "udf"}, true
		}
		return Content{}, false
	}
	vd := a.bytes(32768, 2048)
	if vd == nil {
		return Content{}, false
	}
	c := Content{Class: Files, Type: "iso9660", Label: text(vd[40:72]), Size: int64(le.Uint32(vd[80:])) * 2048}
	c.Used = c.Size
	// The time of the last change, or of the creation: that is its UUID in fstab.
	for _, at := range []int{830, 813} {
		d := string(vd[at : at+16])
		if strings.Trim(d, "0123456789") == "" && strings.Trim(d, "0") != "" {
			c.UUID = fmt.Sprintf("%s-%s-%s-%s-%s-%s-%s", d[0:4], d[4:6], d[6:8], d[8:10], d[10:12], d[12:14], d[14:16])
			break
		}
	}
	return c, true
}

func squashfs(a *area) (Content, bool) {
	if !a.has(0, "hsqs") {
		return Content{}, false
	}
	sb := a.bytes(0, 96)
	if sb == nil {
		return Content{}, false
	}
	c := Content{Class: Files, Type: "squashfs", Size: bound(le.Uint64(sb[40:]))}
	c.Used = c.Size
	if le.Uint16(sb[28:]) != 4 {
		c.Class, c.Reason = Refused, fmt.Sprintf("it is squashfs %d, and only version 4 can be read", le.Uint16(sb[28:]))
	}
	return c, true
}

func swap(a *area) (Content, bool) {
	for _, page := range []int64{4096, 8192, 16384, 32768, 65536} {
		magic := string(a.bytes(page-10, 10))
		c := Content{Class: Swap, Type: TypeSwap, Size: a.size}
		switch magic {
		case "SWAPSPACE2", "SWAP-SPACE":
		case "S1SUSPEND\x00", "S2SUSPEND\x00", "LINHIB0001":
			c.Reason = "it holds the memory of a guest that was hibernated"
		default:
			continue
		}
		if head := a.bytes(1024, 44+16); head != nil && magic != "SWAP-SPACE" {
			c.UUID, c.Label = uuid(head[12:]), text(head[28:44])
		}
		return c, true
	}
	return Content{}, false
}
