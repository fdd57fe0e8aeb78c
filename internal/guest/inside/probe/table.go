package probe

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Table is a partition table.
type Table struct {
	Kind string // "gpt" or "dos"; "" if the disk has none
	// Backup says that the copy at the end was read, as the one at the beginning is damaged.
	Backup     bool
	Partitions []Partition
}

// Partition is a part of a disk.
type Partition struct {
	Number        int
	Start, Length int64  // bytes
	Type          string // of GPT the GUID, of DOS two hexadecimal digits; lower case
	UUID          string // as in fstab's PARTUUID=
	Name          string // of GPT
}

// maxPartitions bounds what a hostile table may ask for.
const maxPartitions = 256

// ReadTable reads the partition table of a disk of size bytes. A disk without one
// gives an empty Table; an error is one of reading.
func ReadTable(r io.ReaderAt, size int64) (Table, error) {
	a := &area{r: r, size: size}
	t := readTable(a)
	if a.err != nil {
		return Table{}, fmt.Errorf("read partition table: %w", a.err)
	}
	return t, nil
}

func readTable(a *area) Table {
	mbr := a.bytes(0, 512)
	if mbr == nil {
		return Table{}
	}
	signed := mbr[510] == 0x55 && mbr[511] == 0xAA
	protective := signed && slices.Contains([]byte{mbr[450], mbr[466], mbr[482], mbr[498]}, 0xEE)
	for _, sector := range []int64{512, 4096} {
		if parts, ok := gpt(a, 1, sector); ok {
			return Table{Kind: "gpt", Partitions: parts}
		}
	}
	// The copy at the end counts only where the beginning speaks of one: it outlives
	// most ways of making a disk new.
	if protective || a.zeros(0, 1024) {
		for _, sector := range []int64{512, 4096} {
			if parts, ok := gpt(a, a.size/sector-1, sector); ok {
				return Table{Kind: "gpt", Backup: true, Partitions: parts}
			}
		}
	}
	// A boot sector of FAT or NTFS ends like a table, and so does a CD's that boots
	// from a stick as well.
	if !signed || protective || a.has(32769, "CD001") {
		return Table{}
	}
	for _, look := range []func(*area) (Content, bool){exfat, ntfs, bitlocker, fat} {
		if _, ok := look(a); ok {
			return Table{}
		}
	}
	parts := dos(a)
	if len(parts) == 0 {
		return Table{}
	}
	return Table{Kind: "dos", Partitions: parts}
}

// gpt reads the table whose header is at lba; UEFI specification, 5.3.
func gpt(a *area, lba, sector int64) ([]Partition, bool) {
	h := a.bytes(lba*sector, 512)
	if h == nil || string(h[:8]) != "EFI PART" {
		return nil, false
	}
	length := le.Uint32(h[12:])
	if length < 92 || length > 512 || int64(le.Uint64(h[24:])) != lba {
		return nil, false
	}
	plain := slices.Clone(h[:length])
	clear(plain[16:20])
	entries, each := le.Uint32(h[80:]), le.Uint32(h[84:])
	at := bound(le.Uint64(h[72:]))
	if crc32.ChecksumIEEE(plain) != le.Uint32(h[16:]) || entries > 4096 || each < 128 || each > 4096 || at > a.size/sector {
		return nil, false
	}
	table := a.bytes(at*sector, int(entries*each))
	if table == nil || crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
		return nil, false
	}
	var parts []Partition
	for i := range int(entries) {
		e := table[i*int(each):][:128]
		first, last := bound(le.Uint64(e[32:])), bound(le.Uint64(e[40:]))
		if guid(e) == "00000000-0000-0000-0000-000000000000" || first < 1 || last < first || first >= a.size/sector {
			continue
		}
		parts = append(parts, Partition{
			Number: i + 1, Type: guid(e), UUID: guid(e[16:]), Name: wide(e[56:128]),
			Start: first * sector, Length: min((last-first+1)*sector, a.size-first*sector),
		})
	}
	return sorted(parts), true
}

func sorted(parts []Partition) []Partition {
	slices.SortFunc(parts, func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
	return parts[:min(len(parts), maxPartitions)]
}

// extended tells the types of a partition that holds others.
func extended(kind byte) bool { return kind == 0x05 || kind == 0x0F || kind == 0x85 }

// dos reads the four partitions of an MBR and the logical ones, whose tables are a
// chain in the extended partition.
func dos(a *area) []Partition {
	mbr := a.bytes(0, 512)
	id := le.Uint32(mbr[440:])
	var parts []Partition
	for i := range 4 {
		e := mbr[446+16*i:][:16]
		if e[0]&0x7F != 0 {
			return nil // no table: the status is 0 or 0x80
		}
		start, length := int64(le.Uint32(e[8:]))*512, int64(le.Uint32(e[12:]))*512
		if e[4] == 0 || length == 0 || start == 0 || start >= a.size {
			continue
		}
		if extended(e[4]) {
			parts = append(parts, logical(a, start, id)...)
			continue
		}
		parts = append(parts, Partition{
			Number: i + 1, Start: start, Length: min(length, a.size-start),
			Type: fmt.Sprintf("%02x", e[4]), UUID: fmt.Sprintf("%08x-%02x", id, i+1),
		})
	}
	return sorted(parts)
}

// logical follows the chain of tables that begins at base, which a hostile disk
// may have made a ring.
func logical(a *area, base int64, id uint32) []Partition {
	var parts []Partition
	for at, n, links := base, 5, 0; links < maxPartitions; links++ {
		table := a.bytes(at, 512)
		if table == nil || table[510] != 0x55 || table[511] != 0xAA {
			break
		}
		e, next := table[446:462], table[462:478]
		start, length := at+int64(le.Uint32(e[8:]))*512, int64(le.Uint32(e[12:]))*512
		if e[4] != 0 && length > 0 && start < a.size {
			parts = append(parts, Partition{
				Number: n, Start: start, Length: min(length, a.size-start),
				Type: fmt.Sprintf("%02x", e[4]), UUID: fmt.Sprintf("%08x-%02x", id, n),
			})
			n++
		}
		to := base + int64(le.Uint32(next[8:]))*512
		// Chains go forward: one that does not is damaged, or a ring.
		if !extended(next[4]) || to <= at {
			break
		}
		at = to
	}
	return parts
}

// Purpose says what a partition without a file system is for; "" if its type does
// not tell.
func (p Partition) Purpose() string {
	return map[string]string{
		"21686148-6449-6e6f-744e-656564454649": "it holds a boot loader, and no file system",
		"9e1a2d38-c612-4316-aa26-8b49521e5a8b": "it holds a boot loader, and no file system",
		"e3c9e316-0b5c-4db8-817d-f92df00215ae": "Windows keeps it for itself; it holds no file system",
		"e75caf8f-f680-4cee-afa3-b001e56efc2d": "it belongs to a pool of Storage Spaces, which are not supported",
		"5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "it belongs to a dynamic disk of Windows, which is not supported",
		"af9b60a0-1431-4f62-bc68-3311714a69ad": "it belongs to a dynamic disk of Windows, which is not supported",
		"42":                                   "it belongs to a dynamic disk of Windows, which is not supported",
	}[p.Type]
}
