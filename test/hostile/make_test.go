//go:build integration

package hostile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// maker makes disks in a folder of its own.
type maker struct {
	t   *testing.T
	dir string
	n   int
}

func newMaker(t *testing.T) *maker { return &maker{t: t, dir: t.TempDir()} }

// path is that of a file that is not there yet.
func (m *maker) path(name string) string {
	m.n++
	return filepath.Join(m.dir, fmt.Sprintf("%03d-%s", m.n, name))
}

// disk makes an empty disk.
func (m *maker) disk(size int64) string {
	m.t.Helper()
	path := m.path("disk")
	must(m.t, os.WriteFile(path, nil, 0o600))
	must(m.t, os.Truncate(path, size))
	return path
}

// run runs a tool that makes file systems.
func (m *maker) run(stdin, name string, args ...string) string {
	m.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK=1")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// put writes bytes over a disk.
func (m *maker) put(disk string, at int64, data []byte) {
	m.t.Helper()
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	must(m.t, err)
	_, err = f.WriteAt(data, at)
	must(m.t, err)
	must(m.t, f.Close())
}

// tree makes some files: those which every file system of a test holds.
func (m *maker) tree() string {
	m.t.Helper()
	root := m.path("tree")
	noise := rand.NewChaCha8([32]byte{8})
	for i := range 60 {
		data := make([]byte, 100*i*i)
		_, _ = noise.Read(data) // it never fails
		path := filepath.Join(root, fmt.Sprintf("d%d", i%7), fmt.Sprintf("e%d", i%3), fmt.Sprintf("file-%02d", i))
		must(m.t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(m.t, os.WriteFile(path, data, 0o644))
	}
	must(m.t, os.WriteFile(filepath.Join(root, "known"), known, 0o644))
	must(m.t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
	must(m.t, os.WriteFile(filepath.Join(root, "etc/fstab"), []byte("LABEL=root / auto defaults 0 1\n"), 0o644))
	return root
}

// known is the content of the file "known".
var known = bytes.Repeat([]byte("what the neighbour reads is right\n"), 4000)

// ext4 makes one of a size with a tree in it.
func (m *maker) ext4(size int64, tree string, options ...string) string {
	m.t.Helper()
	disk := m.disk(size)
	m.run("", "mke2fs", append(append([]string{"-q", "-t", "ext4", "-F", "-L", "root", "-d", tree}, options...), disk)...)
	return disk
}

// debugfs changes an ext4 as its owner could.
func (m *maker) debugfs(disk, commands string) {
	m.t.Helper()
	if out := m.run(commands, "debugfs", "-w", "-f", "-", disk); strings.Contains(out, "ot found") || strings.Contains(out, "nvalid") {
		m.t.Fatalf("debugfs: %s", out)
	}
}

// systems make each file system with the tree in it, or what of it their tools can
// put there.
var systems = map[string]func(m *maker, tree string) string{
	"ext2": func(m *maker, tree string) string { return m.ext4(48*mib, tree, "-O", "^has_journal,^extent,^64bit") },
	"ext4": func(m *maker, tree string) string { return m.ext4(48*mib, tree) },
	"btrfs": func(m *maker, tree string) string {
		disk := m.disk(128 * mib)
		m.run("", "mkfs.btrfs", "-q", "-r", tree, disk)
		return disk
	},
	"xfs": func(m *maker, tree string) string {
		disk := m.disk(320 * mib)
		m.run("", "mkfs.xfs", "-q", "-p", m.prototype(tree), disk)
		return disk
	},
	"ntfs": func(m *maker, tree string) string {
		disk := m.disk(48 * mib)
		m.run("", "mkntfs", "-q", "-F", "-p", "0", "-H", "16", "-S", "63", disk)
		m.run("", "ntfscp", "-q", "-f", disk, filepath.Join(tree, "known"), "known")
		return disk
	},
	"fat": func(m *maker, tree string) string {
		disk := m.disk(64 * mib)
		m.run("", "mkfs.fat", "-F", "32", disk)
		m.run("", "mcopy", "-s", "-i", disk, filepath.Join(tree, "d1"), filepath.Join(tree, "known"), "::/")
		return disk
	},
	"exfat": func(m *maker, _ string) string {
		disk := m.disk(32 * mib)
		m.run("", "mkfs.exfat", disk)
		return disk
	},
	"squashfs": func(m *maker, tree string) string { return m.squashfs(tree) },
	"iso": func(m *maker, tree string) string {
		path := m.path("iso")
		m.run("", "genisoimage", "-quiet", "-R", "-J", "-o", path, tree)
		return path
	},
}

// squashfs makes one of a tree and of lines such as mksquashfs calls pseudo files.
func (m *maker) squashfs(tree string, pseudo ...string) string {
	m.t.Helper()
	path := m.path("squashfs")
	args := []string{tree, path, "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "1"}
	if len(pseudo) > 0 {
		list := m.path("pseudo")
		must(m.t, os.WriteFile(list, []byte(strings.Join(pseudo, "\n")+"\n"), 0o600))
		args = append(args, "-pf", list)
	}
	m.run("", "mksquashfs", args...)
	m.whole(path)
	return path
}

// whole makes a disk's size one that a disk can have.
func (m *maker) whole(disk string) {
	m.t.Helper()
	info, err := os.Stat(disk)
	must(m.t, err)
	must(m.t, os.Truncate(disk, (info.Size()+mib)/mib*mib))
}

// prototype describes a tree for mkfs.xfs.
func (m *maker) prototype(tree string) string {
	m.t.Helper()
	var b strings.Builder
	b.WriteString("/dev/null\n0 0\nd--755 0 0\n")
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := os.ReadDir(dir)
		must(m.t, err)
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.IsDir() {
				fmt.Fprintf(&b, "%s d--755 0 0\n", e.Name())
				walk(path)
			} else {
				fmt.Fprintf(&b, "%s ---644 0 0 %s\n", e.Name(), path)
			}
		}
		b.WriteString("$\n")
	}
	walk(tree)
	path := m.path("prototype")
	must(m.t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

// copy copies a disk, holes and all.
func (m *maker) copy(disk string) string {
	m.t.Helper()
	to := m.path("copy")
	m.run("", "cp", "--sparse=always", disk, to)
	return to
}

// fuzz changes bytes all over what a file system says of itself: blocks that hold
// data stay rare targets, as they are most of a disk and say nothing.
func (m *maker) fuzz(disk string, rng *rand.Rand) {
	m.t.Helper()
	data, err := os.ReadFile(disk)
	must(m.t, err)
	var full []int
	for at := 0; at+4096 <= len(data); at += 4096 {
		if zeros := bytes.Count(data[at:at+4096], []byte{0}); zeros > 400 && zeros < 4096 {
			full = append(full, at)
		}
	}
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	must(m.t, err)
	defer f.Close()
	for range 1 + rng.IntN(300) {
		at := full[rng.IntN(len(full))]
		if rng.IntN(3) == 0 {
			at = full[rng.IntN(min(len(full), 4))] // where superblocks are
		}
		value := make([]byte, 1<<rng.IntN(4))
		switch rng.IntN(3) {
		case 0:
			value = bytes.Repeat([]byte{0xff}, len(value))
		case 1:
			for i := range value {
				value[i] = byte(rng.Uint32())
			}
		default: // zeros
		}
		_, err := f.WriteAt(value, int64(at+rng.IntN(4096-len(value))))
		must(m.t, err)
	}
}

// The formats that are written by hand, since no tool makes what they hold here.

// mbrEntry is one of the four of a partition table.
func mbrEntry(kind byte, start, size uint32) []byte {
	e := make([]byte, 16)
	e[4] = kind
	binary.LittleEndian.PutUint32(e[8:], start)
	binary.LittleEndian.PutUint32(e[12:], size)
	return e
}

func mbr(entries ...[]byte) []byte {
	sector := make([]byte, 512)
	for i, e := range entries {
		copy(sector[446+16*i:], e)
	}
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// gpt makes a header and a table of a GPT.
func gpt(sectors uint64, entrySize, count uint32, entries ...[2]uint64) []byte {
	table := make([]byte, int(entrySize)*len(entries))
	for i, e := range entries {
		at := table[i*int(entrySize):]
		copy(at, "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4")
		at[16] = byte(i + 1)
		binary.LittleEndian.PutUint64(at[32:], e[0])
		binary.LittleEndian.PutUint64(at[40:], e[1])
	}
	h := make([]byte, 512)
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	binary.LittleEndian.PutUint64(h[24:], 1)
	binary.LittleEndian.PutUint64(h[32:], sectors-1)
	binary.LittleEndian.PutUint64(h[40:], 34)
	binary.LittleEndian.PutUint64(h[48:], sectors-34)
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], count)
	binary.LittleEndian.PutUint32(h[84:], entrySize)
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return append(append(mbr(mbrEntry(0xee, 1, 0xffffffff)), h...), table...)
}

// luks2 makes a header whose checksum is right and whose key derivation wants the
// memory, in KiB, and the time that are given.
func luks2(memory, time int64) []byte {
	const size = 16384
	area := map[string]any{"type": "raw", "offset": "32768", "size": "258048", "encryption": "aes-xts-plain64", "key_size": 64}
	text, _ := json.Marshal(map[string]any{ // it is made of what JSON has
		"keyslots": map[string]any{"0": map[string]any{
			"type": "luks2", "key_size": 64, "area": area,
			"af":  map[string]any{"type": "luks1", "stripes": 4000, "hash": "sha256"},
			"kdf": map[string]any{"type": "argon2id", "time": time, "memory": memory, "cpus": 4, "salt": "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="},
		}},
		"tokens":   map[string]any{},
		"segments": map[string]any{"0": map[string]any{"type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0", "encryption": "aes-xts-plain64", "sector_size": 512}},
		"digests": map[string]any{"0": map[string]any{"type": "pbkdf2", "keyslots": []string{"0"}, "segments": []string{"0"}, "hash": "sha256", "iterations": 1000,
			"salt": "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=", "digest": "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="}},
		"config": map[string]any{"json_size": "12288", "keyslots_size": "16744448"},
	})
	var both []byte
	for i, magic := range []string{"LUKS\xba\xbe", "SKUL\xba\xbe"} {
		h := make([]byte, size)
		copy(h, magic)
		binary.BigEndian.PutUint16(h[6:], 2)
		binary.BigEndian.PutUint64(h[8:], size)
		binary.BigEndian.PutUint64(h[16:], 1)
		copy(h[72:], "sha256")
		copy(h[168:], "5ec2e700-0000-4000-8000-000000000008")
		binary.BigEndian.PutUint64(h[256:], uint64(i*size))
		copy(h[4096:], text)
		sum := sha256.Sum256(h)
		copy(h[448:], sum[:])
		both = append(both, h...)
	}
	return both
}

// lvmCRC is LVM's own checksum.
func lvmCRC(data []byte) uint32 {
	return ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, data)
}

// lvm makes the beginning of a physical volume with the text that describes its
// group.
func lvm(size uint64, id, text string) []byte {
	const area, areaSize = 4096, mib - 4096
	data := make([]byte, mib)
	label := data[512:1024]
	copy(label, "LABELONE")
	binary.LittleEndian.PutUint64(label[8:], 1)
	binary.LittleEndian.PutUint32(label[20:], 32)
	copy(label[24:], "LVM2 001")
	copy(label[32:], strings.ReplaceAll(id, "-", ""))
	binary.LittleEndian.PutUint64(label[64:], size)
	binary.LittleEndian.PutUint64(label[72:], mib) // one data area, to the end
	binary.LittleEndian.PutUint64(label[104:], area)
	binary.LittleEndian.PutUint64(label[112:], areaSize)
	binary.LittleEndian.PutUint32(label[16:], lvmCRC(label[20:]))
	h := data[area : area+512]
	copy(h[4:], "\x20LVM2 x[5A%r0N*>")
	binary.LittleEndian.PutUint32(h[20:], 1)
	binary.LittleEndian.PutUint64(h[24:], area)
	binary.LittleEndian.PutUint64(h[32:], areaSize)
	binary.LittleEndian.PutUint64(h[40:], 512)
	text += "\x00"
	binary.LittleEndian.PutUint64(h[48:], uint64(len(text)))
	binary.LittleEndian.PutUint32(h[56:], lvmCRC([]byte(text)))
	binary.LittleEndian.PutUint32(h, lvmCRC(h[4:]))
	copy(data[area+512:], text)
	return data
}

// md makes a superblock of version 1.2, with some fields as they are given.
func md(level int32, disks uint32, size uint64, role uint16) []byte {
	s := make([]byte, 4096)
	le := binary.LittleEndian
	le.PutUint32(s, 0xa92b4efc)
	le.PutUint32(s[4:], 1)
	copy(s[16:], "a-set-of-no-good")
	copy(s[32:], "host:bad")
	le.PutUint32(s[72:], uint32(level))
	le.PutUint64(s[80:], size)
	le.PutUint32(s[88:], 128)
	le.PutUint32(s[92:], disks)
	le.PutUint64(s[128:], 2048)
	le.PutUint64(s[136:], size)
	le.PutUint64(s[144:], 8)
	copy(s[168:], "a-disk-of-no-use")
	le.PutUint64(s[192:], 1)
	le.PutUint64(s[200:], 17)
	le.PutUint32(s[220:], 128)
	le.PutUint16(s[256:], role)
	var sum uint64
	for at := 0; at < 256+2*128; at += 4 {
		sum += uint64(le.Uint32(s[at:]))
	}
	le.PutUint32(s[216:], uint32(sum)+uint32(sum>>32))
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
