package probe

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

// disk is an image in memory: what is put where, and zeros elsewhere.
type disk struct {
	size  int64
	parts map[int64][]byte
	fails bool
}

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	if d.fails {
		return 0, io.ErrClosedPipe
	}
	clear(p)
	for at, b := range d.parts {
		for i := range b {
			if to := at + int64(i) - off; to >= 0 && to < int64(len(p)) {
				p[to] = b[i]
			}
		}
	}
	if off+int64(len(p)) > d.size {
		return int(d.size - off), io.EOF
	}
	return len(p), nil
}

// with makes a disk of 4 MiB: offset, text, offset, text, ….
func with(parts ...any) disk {
	d := disk{size: 4 << 20, parts: map[int64][]byte{}}
	for i := 0; i < len(parts); i += 2 {
		d.parts[int64(parts[i].(int))] = []byte(parts[i+1].(string))
	}
	return d
}

func TestContentsAreToldByTheirMagicNumbers(t *testing.T) {
	for _, test := range []struct {
		disk     disk
		class    Class
		typ      string
		inReason string
	}{
		{with(), Empty, "", ""},
		{with(5000, "text"), Unknown, "", "not known"},
		{with(4096-10, "SWAPSPACE2"), Swap, "swap", ""},
		{with(4096-10, "S1SUSPEND\x00"), Swap, "swap", "hibernated"},
		{with(3, "-FVE-FS-"), Locked, TypeBitLocker, ""},
		{with(3, "ReFS\x00\x00\x00\x00"), Refused, "ReFS", "ReFS"},
		{with(1024, "\x10\x20\xf5\xf2"), Refused, "f2fs", "F2FS"},
		{with(150<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"), Refused, "zfs_member", "ZFS"},
		{with(32, "NXSB"), Refused, "apfs", "APFS"},
		{with(65536+52, "ReIsEr2Fs"), Refused, "reiserfs", "ReiserFS"},
		{with(4<<20-1024, "Intel Raid ISM Cfg Sig. "), Refused, "isw_raid_member", "Intel"},
		{with(32769, "CD001"), Files, "iso9660", ""},
		{with(0, "hsqs", 28, "\x04\x00"), Files, "squashfs", ""},
		{with(0, "hsqs", 28, "\x03\x00"), Refused, "squashfs", "version 4"},
		{with(0, "XFSB\x00\x00\x10\x00", 48, "\x00\x00\x00\x00\x00\x00\x00\x08"), Files, "xfs", ""},
		{with(0, "XFSB\x00\x00\x10\x00"), Refused, "xfs", "log lies on another device"},
		{with(1024+56, "\x53\xef"), Files, "ext2", ""},
		{with(1024+56, "\x53\xef", 1024+92, "\x04\x00\x00\x00"), Files, "ext3", ""},
		{with(1024+56, "\x53\xef", 1024+92, "\x04\x00\x00\x00\x40"), Files, "ext4", ""},
		{with(1024+56, "\x53\xef", 1024+96, "\x08"), Refused, "jbd", "journal"},
		{with(512, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001", 512+32, strings.Repeat("a", 32)), Member, TypeLVM, ""},
		{with(0, "LUKS\xba\xbe\x00\x01", 104, "\x00\x00\x10\x00"), Locked, TypeLUKS, ""},
		{with(0, "LUKS\xba\xbe\x00\x07"), Refused, TypeLUKS, "only 1 and 2"},
		{with(0x4000, "SKUL\xba\xbe\x00\x02"), Locked, TypeLUKS, "second one"},
	} {
		c, err := Identify(test.disk, test.disk.size)
		if err != nil || c.Class != test.class || c.Type != test.typ || !strings.Contains(c.Reason, test.inReason) {
			t.Errorf("%v: got %+v, %v; want %s %s", test.disk.parts, c, err, test.class, test.typ)
		}
		if c.Header > MaxHeader || c.Header > test.disk.size {
			t.Errorf("%v: a header of %d bytes", test.disk.parts, c.Header)
		}
	}
}

func TestAMirrorsMemberIsNoFileSystem(t *testing.T) {
	// 1.0 lies at the end, and what is mirrored begins at the beginning.
	at := (4<<20/512 - 16) &^ 7 * 512
	sb := make([]byte, 256)
	le.PutUint32(sb, raidMagic)
	le.PutUint32(sb[4:], 1)
	le.PutUint64(sb[144:], uint64(at/512))
	copy(sb[32:], "guest:data")
	c, err := Identify(with(1024+56, "\x53\xef", at, string(sb)), 4<<20)
	if err != nil || c.Class != Member || c.Type != TypeRAID || c.Label != "guest:data" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestADiskThatCannotBeReadIsNotEmpty(t *testing.T) {
	if c, err := Identify(disk{size: 1 << 20, fails: true}, 1<<20); err == nil {
		t.Errorf("got %+v", c)
	}
	if table, err := ReadTable(disk{size: 1 << 20, fails: true}, 1<<20); err == nil {
		t.Errorf("got %+v", table)
	}
}

// tableAt makes a GPT of one partition for sectors of a size, with its header at lba.
func tableAt(lba, sector int64, first, last uint64) (header, entries []byte) {
	entries = make([]byte, 128*128)
	copy(entries, bytes.Repeat([]byte{1}, 32))
	le.PutUint64(entries[32:], first)
	le.PutUint64(entries[40:], last)
	copy(entries[56:], "n\x00a\x00m\x00e\x00")
	header = make([]byte, 92)
	copy(header, "EFI PART\x00\x00\x01\x00")
	le.PutUint32(header[12:], 92)
	le.PutUint64(header[24:], uint64(lba))
	le.PutUint64(header[72:], uint64(lba)+1)
	le.PutUint32(header[80:], 128)
	le.PutUint32(header[84:], 128)
	le.PutUint32(header[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(header[16:], crc32.ChecksumIEEE(header))
	return header, entries
}

func TestTablesOfBothSectorSizesAreRead(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		h, e := tableAt(1, sector, 100, 199)
		table, err := ReadTable(with(int(sector), string(h), int(2*sector), string(e)), 4<<20)
		if err != nil || table.Kind != "gpt" || len(table.Partitions) != 1 {
			t.Fatalf("%d: %+v, %v", sector, table, err)
		}
		if p := table.Partitions[0]; p.Number != 1 || p.Start != 100*sector || p.Length != 100*sector || p.Name != "name" {
			t.Errorf("%d: %+v", sector, p)
		}
	}
}

func TestADamagedTableIsReadFromItsCopy(t *testing.T) {
	lba := int64(4<<20/512 - 1)
	h, e := tableAt(lba, 512, 100, 199)
	le.PutUint64(h[72:], 1000) // the entries of the copy lie before it
	clear(h[16:20])
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	parts := []any{int(lba * 512), string(h), 512 * 1000, string(e)}
	protective := []any{446 + 4, "\xee", 510, "\x55\xaa"}
	table, err := ReadTable(with(append(parts, protective...)...), 4<<20)
	if err != nil || !table.Backup || len(table.Partitions) != 1 {
		t.Errorf("got %+v, %v", table, err)
	}
	// A disk that was given a file system since has forgotten its table.
	table, err = ReadTable(with(append(parts, 0, "XFSB")...), 4<<20)
	if err != nil || table.Kind != "" {
		t.Errorf("got %+v, %v", table, err)
	}
}

// mbrEntry is one line of a DOS table.
func mbrEntry(kind byte, start, length uint32) string {
	b := make([]byte, 16)
	b[4] = kind
	binary.LittleEndian.PutUint32(b[8:], start)
	binary.LittleEndian.PutUint32(b[12:], length)
	return string(b)
}

func TestLogicalPartitionsAreFound(t *testing.T) {
	d := with(
		440, "\x01\x00\xfe\xca", 446, mbrEntry(0x83, 100, 50), 462, mbrEntry(5, 1000, 5000), 510, "\x55\xaa",
		1000*512+446, mbrEntry(0x83, 10, 100), 1000*512+462, mbrEntry(5, 500, 200), 1000*512+510, "\x55\xaa",
		1500*512+446, mbrEntry(0x82, 10, 100), 1500*512+510, "\x55\xaa",
	)
	table, err := ReadTable(d, d.size)
	if err != nil {
		t.Fatal(err)
	}
	want := []Partition{
		{Number: 1, Start: 100 * 512, Length: 50 * 512, Type: "83", UUID: "cafe0001-01"},
		{Number: 5, Start: 1010 * 512, Length: 100 * 512, Type: "83", UUID: "cafe0001-05"},
		{Number: 6, Start: 1510 * 512, Length: 100 * 512, Type: "82", UUID: "cafe0001-06"},
	}
	if len(table.Partitions) != len(want) {
		t.Fatalf("got %+v", table.Partitions)
	}
	for i := range want {
		if table.Partitions[i] != want[i] {
			t.Errorf("got %+v, want %+v", table.Partitions[i], want[i])
		}
	}
}

func TestAChainThatIsARingEnds(t *testing.T) {
	d := with(
		446, mbrEntry(5, 1000, 5000), 510, "\x55\xaa",
		1000*512+446, mbrEntry(0x83, 10, 100), 1000*512+462, mbrEntry(5, 500, 200), 1000*512+510, "\x55\xaa",
		1500*512+446, mbrEntry(0x83, 10, 100), 1500*512+462, mbrEntry(5, 0, 200), 1500*512+510, "\x55\xaa",
	)
	table, err := ReadTable(d, d.size)
	if err != nil || len(table.Partitions) != 2 {
		t.Errorf("got %+v, %v", table, err)
	}
}

// FuzzProbe looks for an input that makes a reader panic or read out of bounds.
func FuzzProbe(f *testing.F) {
	for _, at := range []int{0, 3, 512, 1024, 4096, 32768, 65536} {
		for _, magic := range []string{"EXFAT   ", "NTFS    ", "LUKS\xba\xbe\x00\x02", "XFSB", "EFI PART", "LABELONE", "_BHRfS_M", "\xeb\x58\x90mkfs.fat\x00\x02\x01\x01\x00\x02\x00\x02\x00\x08\xf8"} {
			f.Add(at, []byte(magic))
		}
	}
	f.Fuzz(func(t *testing.T, at int, b []byte) {
		if at < 0 || at > 1<<20 || len(b) > 1<<16 {
			return
		}
		image := make([]byte, 1<<20+1<<16)
		copy(image[at:], b)
		image[510], image[511] = 0x55, 0xAA
		if _, err := Identify(bytes.NewReader(image), int64(len(image))); err != nil {
			t.Error(err)
		}
		if _, err := ReadTable(bytes.NewReader(image), int64(len(image))); err != nil {
			t.Error(err)
		}
	})
}
