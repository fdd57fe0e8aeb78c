//go:build integration

package hostile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// trick is a disk, or several of one point, that means harm.
type trick struct {
	name string
	make func(m *maker) []string
	// names are those that its root has to show all the same.
	names []string
	// entries is how many its folder "/many" has; 0 if it has none.
	entries int
	// unread: none of its volumes can be read.
	unread bool
	// long ones are left to the soak.
	long bool
}

func one(disk string) []string { return []string{disk} }

// tricks are those that are made by hand; besides there is chance (fuzz).
var tricks = []trick{
	{name: "all ones", unread: true, make: func(m *maker) []string {
		disk := m.disk(16 * mib)
		m.put(disk, 0, bytes.Repeat([]byte{0xff}, 16*mib))
		return one(disk)
	}},
	{name: "truncated", make: func(m *maker) []string {
		disk := systems["ext4"](m, m.tree())
		must(m.t, os.Truncate(disk, 5*mib))
		return one(disk)
	}, unread: true},
	{name: "logical partitions in a circle", make: func(m *maker) []string {
		disk := m.disk(32 * mib)
		m.put(disk, 0, mbr(mbrEntry(5, 2048, 60000)))
		m.put(disk, 2048*512, mbr(mbrEntry(0x83, 2048, 2048), mbrEntry(5, 4096, 2048)))
		m.put(disk, (2048+4096)*512, mbr(mbrEntry(0x83, 2048, 2048), mbrEntry(5, 0, 2048)))
		return one(disk)
	}, unread: true},
	{name: "a logical partition that is its own next", make: func(m *maker) []string {
		disk := m.disk(32 * mib)
		m.put(disk, 0, mbr(mbrEntry(0xf, 2048, 60000)))
		m.put(disk, 2048*512, mbr(mbrEntry(0x83, 0, 2048), mbrEntry(5, 0, 60000)))
		return one(disk)
	}, unread: true},
	{name: "partitions one over another", names: []string{"known"}, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.run("", "cp", "--sparse=always", m.partition(disk), disk)
		m.put(disk, 0, mbr(mbrEntry(0x83, 2048, 16*2048), mbrEntry(0x83, 2048, 16*2048), mbrEntry(0x83, 2049, 0xfffffff0), mbrEntry(0x83, 0xfffffff0, 0xfffffff0)))
		return one(disk)
	}},
	{name: "a table of four billion partitions", make: func(m *maker) []string {
		disk := m.disk(32 * mib)
		m.put(disk, 0, gpt(64*2048, 128, 0xffffffff, [2]uint64{2048, 4095}))
		return one(disk)
	}, unread: true},
	{name: "a table with entries of two gigabytes", make: func(m *maker) []string {
		disk := m.disk(32 * mib)
		data := gpt(64*2048, 128, 128, [2]uint64{2048, 4095})
		binary.LittleEndian.PutUint32(data[512+84:], 1<<31)
		m.put(disk, 0, data)
		return one(disk)
	}, unread: true},
	{name: "128 partitions of one place", names: []string{"known"}, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.run("", "cp", "--sparse=always", m.partition(disk), disk)
		var all [][2]uint64
		for range 128 {
			all = append(all, [2]uint64{2048, 2048 + 16*2048 - 1})
		}
		m.put(disk, 0, gpt(64*2048, 128, 128, all...))
		return one(disk)
	}},
	{name: "a folder in itself", names: []string{"known"}, make: func(m *maker) []string {
		disk := systems["ext4"](m, m.tree())
		m.debugfs(disk, "ln <2> /d1/loop\nln /d2 /d2/e0/again\n")
		return one(disk)
	}},
	{name: "names with slashes, zeros and dots", names: []string{"known"}, make: func(m *maker) []string {
		tree := m.tree()
		for _, name := range []string{"evil_slash", "xx_etc", "a_b-zero", "qz"} {
			must(m.t, os.WriteFile(filepath.Join(tree, "d3", name), []byte("x"), 0o644))
		}
		disk := m.ext4(48*mib, tree, "-O", "^metadata_csum")
		for from, to := range map[string]string{"\x0a\x01evil_slash": "\x0a\x01evil/slash", "\x06\x01xx_etc": "\x06\x01../etc", "\x08\x01a_b-zero": "\x08\x01a\x00b-zero", "\x02\x01qz": "\x02\x01.."} {
			m.replace(disk, from, to)
		}
		return one(disk)
	}},
	{name: "sizes that no file has", names: []string{"known", "huge"}, make: func(m *maker) []string {
		tree := m.tree()
		for _, name := range []string{"huge", "negative", "wide"} {
			must(m.t, os.WriteFile(filepath.Join(tree, name), []byte("x"), 0o644))
		}
		disk := systems["ext4"](m, tree)
		m.debugfs(disk, "sif huge size 0x7fffffffffffffff\nsif negative size 0x8000000000000000\nsif wide size 0xffffffff000\n")
		return one(disk)
	}},
	{name: "a hole of eight exabytes", names: []string{"known"}, make: func(m *maker) []string {
		disk := systems["xfs"](m, m.tree())
		m.run("", "xfs_db", "-x", "-c", "path /known", "-c", "write -d core.size 9223372036854775807", disk)
		return one(disk)
	}},
	{name: "links out of the volume", names: []string{"known", "root"}, make: func(m *maker) []string {
		tree := m.tree()
		for name, target := range map[string]string{
			"root": "/", "up": "../../../../..", "self": "self", "ping": "pong", "pong": "ping", "proc": "/proc/self/root", "memory": "/dev/mem", "long": strings.Repeat("x/../", 150),
		} {
			must(m.t, os.Symlink(target, filepath.Join(tree, name)))
		}
		return one(systems["ext4"](m, tree))
	}},
	{name: "an fstab that is a device", names: []string{"known"}, make: func(m *maker) []string {
		return one(m.noFstab("etc/fstab c 0644 0 0 1 5"))
	}},
	{name: "an fstab that waits for ever", names: []string{"known"}, make: func(m *maker) []string {
		return one(m.noFstab("etc/fstab i 0644 0 0 f"))
	}},
	{name: "an fstab that leads into the machine", names: []string{"known"}, make: func(m *maker) []string {
		return one(m.noFstab("etc/fstab s 0777 0 0 /proc/kmsg"))
	}},
	{name: "an fstab without an end", names: []string{"known"}, make: func(m *maker) []string {
		return one(m.noFstab("etc/fstab f 0644 0 0 yes 'LABEL=root /a/b ext4 x-y,z 0 0' | head -c 200000000"))
	}},
	{name: "a folder of very many entries", names: []string{"many"}, entries: 25_000, make: func(m *maker) []string { return one(m.many(25_000)) }},
	{name: "a folder of a million entries", names: []string{"many"}, entries: 1_000_000, long: true, make: func(m *maker) []string { return one(m.many(1_000_000)) }},
	{name: "a bomb", names: []string{"known", "bomb"}, make: func(m *maker) []string {
		return one(m.squashfs(m.tree(), "bomb f 0644 0 0 head -c 1G /dev/zero | tr '\\000' x"))
	}},
	{name: "a larger bomb", names: []string{"known", "bomb"}, long: true, make: func(m *maker) []string {
		return one(m.squashfs(m.tree(), "bomb f 0644 0 0 head -c 40G /dev/zero | tr '\\000' x"))
	}},
	{name: "a path longer than any path", names: []string{"known"}, make: func(m *maker) []string {
		var lines []string
		path := strings.Repeat("d", 200)
		for range 60 {
			lines = append(lines, path+" d 0755 0 0")
			path += "/" + strings.Repeat("e", 200)
		}
		return one(m.squashfs(m.tree(), lines[:18]...)) // the tool itself has a limit of one path
	}},
	{name: "a key that wants four terabytes", unread: true, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.put(disk, 0, luks2(4<<30, 4))
		return one(disk)
	}},
	{name: "a key that takes for ever", unread: true, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.put(disk, 0, luks2(1<<20, 4<<30))
		return one(disk)
	}},
	{name: "a group of volumes that lies", unread: true, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.put(disk, 0, lvm(64*mib, lvmID(1), lvmText("evil", `lv0 { id = "`+lvmID(3)+`" status = ["READ","WRITE","VISIBLE"] segment_count = 1
			segment1 { start_extent = 0 extent_count = 4000000000 type = "striped" stripe_count = 1 stripes = [ "lv0", 0 ] } }`)))
		return one(disk)
	}},
	{name: "a group whose name is a path", unread: true, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.put(disk, 0, lvm(64*mib, lvmID(1), lvmText("../../etc", "")))
		return one(disk)
	}},
	{name: "a description that is nested for ever", unread: true, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.put(disk, 0, lvm(64*mib, lvmID(1), strings.Repeat("a {", 200_000)))
		return one(disk)
	}},
	{name: "a RAID of four billion disks", unread: true, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.put(disk, 4096, md(5, 0xffffffff, 60*2048, 0))
		return one(disk)
	}},
	{name: "a RAID of a level that there is not", unread: true, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		m.put(disk, 4096, md(77, 2, 1<<62, 0xfffe))
		return one(disk)
	}},
	{name: "two disks that are the same one of a RAID", make: func(m *maker) []string {
		var both []string
		for range 2 {
			disk := m.disk(64 * mib)
			m.put(disk, 4096, md(1, 2, 60*2048, 0))
			both = append(both, disk)
		}
		return both
	}},
	{name: "BitLocker without what it needs", unread: true, make: func(m *maker) []string {
		disk := m.disk(64 * mib)
		sector := append([]byte("\xeb\x58\x90-FVE-FS-"), bytes.Repeat([]byte{0x41}, 501)...)
		sector[510], sector[511] = 0x55, 0xaa
		m.put(disk, 0, sector)
		return one(disk)
	}},
	{name: "a label that is for the terminal", names: []string{"known"}, make: func(m *maker) []string {
		disk := m.ext4(48*mib, m.tree(), "-O", "^metadata_csum")
		m.put(disk, 1024+120, []byte("\x1b]0;evil\a\n\xff\xfe/.."))
		return one(disk)
	}},
}

// partition makes a disk of 64 MiB with the tree in an ext4 of 16 MiB at 1 MiB.
func (m *maker) partition(like string) string {
	m.t.Helper()
	disk := m.copy(like)
	m.run("", "mke2fs", "-q", "-t", "ext4", "-F", "-d", m.small(), "-E", "offset=1048576", disk, "16M")
	return disk
}

// small is a tree with the known file alone.
func (m *maker) small() string {
	m.t.Helper()
	tree := m.path("small")
	must(m.t, os.Mkdir(tree, 0o755))
	must(m.t, os.WriteFile(filepath.Join(tree, "known"), known, 0o644))
	return tree
}

// noFstab is a file system whose /etc/fstab is what the line of mksquashfs says.
func (m *maker) noFstab(line string) string {
	m.t.Helper()
	tree := m.tree()
	must(m.t, os.Remove(filepath.Join(tree, "etc/fstab")))
	return m.squashfs(tree, line)
}

// many is a file system with a folder of so many entries.
func (m *maker) many(n int) string {
	m.t.Helper()
	tree := m.path("tree")
	must(m.t, os.MkdirAll(filepath.Join(tree, "many"), 0o755))
	for i := range n {
		must(m.t, os.WriteFile(filepath.Join(tree, fmt.Sprintf("many/n%07d", i)), nil, 0o644))
	}
	disk := m.squashfs(tree)
	must(m.t, os.RemoveAll(tree))
	return disk
}

// replace changes bytes of a disk that are there once.
func (m *maker) replace(disk, from, to string) {
	m.t.Helper()
	data, err := os.ReadFile(disk)
	must(m.t, err)
	at := bytes.Index(data, []byte(from))
	if at < 0 || bytes.Contains(data[at+1:], []byte(from)) {
		m.t.Fatalf("%q is not once in the disk", from)
	}
	m.put(disk, int64(at), []byte(to))
}

func lvmID(n int) string {
	return fmt.Sprintf("%06d-0000-0000-0000-0000-0000-000000", n)
}

// lvmText describes a group of one physical volume.
func lvmText(name, volumes string) string {
	return fmt.Sprintf(`%s {
id = "%s"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = 8192
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {
pv0 { id = "%s" device = "/dev/sda" status = ["ALLOCATABLE"] flags = [] dev_size = 131072 pe_start = 2048 pe_count = 15 }
}
logical_volumes {
%s
}
}
contents = "Text Format Volume Group"
version = 1
description = ""
creation_host = "x"
creation_time = 1
`, name, lvmID(2), lvmID(1), volumes)
}
