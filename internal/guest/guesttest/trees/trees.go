// Package trees says which files are in the images that tests of item-level restore
// read, down to each byte and attribute, and makes them. What it says is the
// manifest that a reading is compared with: nothing is taken from the images.
package trees

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"
)

// Type is what an entry is.
type Type string

// The types of entry.
const (
	File   Type = "file"
	Folder Type = "folder"
	Link   Type = "link" // symbolic
	Hard   Type = "hard" // another name of the file at Target
	FIFO   Type = "fifo"
	Char   Type = "character-device"
	Block  Type = "block-device"
)

// Entry is one file of a tree. Parents come before what is in them.
type Entry struct {
	Path     string // raw bytes, relative, without "/" at its ends
	Type     Type
	Mode     uint32 // permission bits with set-uid, set-gid and sticky
	UID, GID uint32
	ModTime  time.Time
	Size     int64
	Seed     uint64            // of its content
	Data     []Range           // where content is, if it has holes; nil for everywhere
	Text     string            // its content, if that is not made of Seed
	Xattrs   map[string]string // extended attributes, ACLs too
	Target   string            // of Link and Hard
	Major    uint32            // of devices
	Minor    uint32
}

// Range is a part of a file, in bytes.
type Range struct{ Offset, Length int64 }

// Content reads what a file holds, holes as zeros.
func (e Entry) Content() io.Reader {
	if e.Text != "" {
		return strings.NewReader(e.Text)
	}
	return io.NewSectionReader(newContent(e), 0, e.Size)
}

// SHA256 is the hash of what a file holds, in hexadecimal.
func (e Entry) SHA256() string {
	h := sha256.New()
	if _, err := io.Copy(h, e.Content()); err != nil {
		panic(err) // it is made in memory
	}
	return hex.EncodeToString(h.Sum(nil))
}

// content makes bytes out of a seed: a block that repeats, with its number in it.
type content struct {
	block [64 << 10]byte
	data  []Range
}

func newContent(e Entry) *content {
	c := &content{data: e.Data}
	if c.data == nil {
		c.data = []Range{{0, e.Size}}
	}
	r := rand.New(rand.NewPCG(e.Seed, 1))
	for i := 0; i < len(c.block); i += 8 {
		binary.LittleEndian.PutUint64(c.block[i:], r.Uint64())
	}
	return c
}

// ReadAt implements io.ReaderAt; it never ends.
func (c *content) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for _, d := range c.data {
		from, to := max(off, d.Offset), min(off+int64(len(p)), d.Offset+d.Length)
		for from < to {
			n, in := from/int64(len(c.block)), from%int64(len(c.block))
			block := c.block
			binary.LittleEndian.PutUint64(block[:], binary.LittleEndian.Uint64(block[:])^uint64(n))
			from += int64(copy(p[from-off:to-off], block[in:]))
		}
	}
	return len(p), nil
}

// when is the time of most entries. FAT knows every second second.
var when = time.Date(2021, 3, 4, 5, 6, 8, 0, time.UTC)

// Plain are entries that every file system can hold.
func Plain() []Entry {
	t := []Entry{
		{Path: "folder", Type: Folder, Mode: 0o755, ModTime: when},
		{Path: "folder/empty folder", Type: Folder, Mode: 0o755, ModTime: when},
		{Path: "folder/empty", Type: File, Mode: 0o644, ModTime: when},
		{Path: "folder/one", Type: File, Mode: 0o644, ModTime: when, Size: 1, Seed: 1},
		{Path: "folder/Ünïcode ☃ 名前.txt", Type: File, Mode: 0o644, ModTime: when, Size: 4097, Seed: 2},
		{Path: "large", Type: File, Mode: 0o644, ModTime: when, Size: 3<<20 + 5, Seed: 3},
		{Path: "hello.txt", Type: File, Mode: 0o644, ModTime: when, Size: 6, Text: "hello\n"},
		{Path: "many", Type: Folder, Mode: 0o755, ModTime: when},
	}
	for i := range 60 {
		t = append(t, Entry{Path: fmt.Sprintf("many/%03d", i), Type: File, Mode: 0o644, ModTime: when, Size: int64(i * 13), Seed: uint64(100 + i)})
	}
	return t
}

// acl is an access control list as the kernel keeps it: the owner rw, user 1234 r,
// the group r, the mask rw, others nothing.
var acl = string([]byte{
	2, 0, 0, 0,
	1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
	2, 0, 4, 0, 0xd2, 0x04, 0, 0,
	4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
	0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
	0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
})

// Odd are entries that only a file system of Linux can hold: all that makes
// reading hard.
func Odd() []Entry {
	fine := time.Date(2019, 12, 31, 23, 59, 59, 123456789, time.UTC)
	t := append(Plain(),
		Entry{Path: "odd", Type: Folder, Mode: 0o1777, ModTime: fine},
		Entry{Path: "odd/" + strings.Repeat("n", 255), Type: File, Mode: 0o600, UID: 1000, GID: 100, ModTime: fine, Size: 10, Seed: 10},
		Entry{Path: "odd/not \xff\xfe utf8", Type: File, Mode: 0o644, ModTime: fine, Size: 11, Seed: 11},
		Entry{Path: "odd/new\nline\ttab\\back", Type: File, Mode: 0o644, ModTime: fine, Size: 12, Seed: 12},
		Entry{Path: "odd/-rf *", Type: File, Mode: 0, UID: 4294967294, GID: 65534, ModTime: fine, Size: 13, Seed: 13},
		Entry{Path: "odd/holes", Type: File, Mode: 0o644, ModTime: fine, Size: 1 << 30, Seed: 14, Data: []Range{{1 << 20, 4096}, {512 << 20, 8192}, {1<<30 - 4096, 4096}}},
		Entry{Path: "odd/only a hole", Type: File, Mode: 0o644, ModTime: fine, Size: 1 << 20, Data: []Range{}},
		Entry{Path: "odd/hard", Type: Hard, Target: "large"},
		Entry{Path: "odd/relative link", Type: Link, UID: 7, GID: 8, Mode: 0o777, ModTime: fine, Target: "../hello.txt"},
		Entry{Path: "odd/absolute link", Type: Link, Mode: 0o777, ModTime: fine, Target: "/etc/passwd"},
		Entry{Path: "odd/loop", Type: Link, Mode: 0o777, ModTime: fine, Target: "loop"},
		Entry{Path: "odd/long link", Type: Link, Mode: 0o777, ModTime: fine, Target: strings.Repeat("l/", 500) + "end"},
		Entry{Path: "odd/fifo", Type: FIFO, Mode: 0o640, ModTime: fine},
		Entry{Path: "odd/null", Type: Char, Mode: 0o666, ModTime: fine, Major: 1, Minor: 3},
		Entry{Path: "odd/disk", Type: Block, Mode: 0o660, GID: 6, ModTime: fine, Major: 259, Minor: 300},
		Entry{Path: "odd/set-uid", Type: File, Mode: 0o4755, ModTime: fine, Size: 16, Seed: 16},
		Entry{Path: "odd/set-gid", Type: Folder, Mode: 0o2775, GID: 50, ModTime: fine},
		Entry{Path: "odd/xattrs", Type: File, Mode: 0o644, ModTime: fine, Size: 17, Seed: 17, Xattrs: map[string]string{
			"user.colour": "green\x00\xff", "user.empty": "", "trusted.secret": "x", "security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		}},
		Entry{Path: "odd/acl", Type: File, Mode: 0o660, UID: 3, ModTime: fine, Size: 18, Seed: 18, Xattrs: map[string]string{"system.posix_acl_access": acl}},
		Entry{Path: "odd/before 1970", Type: File, Mode: 0o644, ModTime: time.Date(1950, 1, 2, 3, 4, 5, 0, time.UTC), Size: 1, Seed: 19},
		Entry{Path: "many entries", Type: Folder, Mode: 0o755, ModTime: fine},
	)
	for i := range 1000 {
		t = append(t, Entry{Path: fmt.Sprintf("many entries/%d", i), Type: File, Mode: 0o644, ModTime: when, Size: 3, Text: "abc"})
	}
	// Deeper than a path may be long.
	path := ""
	for i := range 25 {
		path += fmt.Sprintf("%03d", i) + strings.Repeat("d", 197)
		t = append(t, Entry{Path: path, Type: Folder, Mode: 0o755, ModTime: fine})
		path += "/"
	}
	return append(t, Entry{Path: path + "deep", Type: File, Mode: 0o644, ModTime: fine, Size: 20, Seed: 20})
}

// Big is one large file beside a small one.
func Big() []Entry {
	return []Entry{
		{Path: "big", Type: File, Mode: 0o644, ModTime: when, Size: 200 << 20, Seed: 21},
		{Path: "hello.txt", Type: File, Mode: 0o644, ModTime: when, Size: 6, Text: "hello\n"},
	}
}

// Root is a small root file system of a guest with an fstab, and with a file of its
// own called name.
func Root(name, fstab string, more ...Entry) []Entry {
	return append([]Entry{
		{Path: "etc", Type: Folder, Mode: 0o755, ModTime: when},
		{Path: "etc/fstab", Type: File, Mode: 0o644, ModTime: when, Size: int64(len(fstab)), Text: fstab},
		{Path: "etc/hostname", Type: File, Mode: 0o644, ModTime: when, Size: int64(len(name)), Text: name},
		{Path: "home", Type: Folder, Mode: 0o755, ModTime: when},
		{Path: "boot", Type: Folder, Mode: 0o755, ModTime: when},
		{Path: "srv", Type: Folder, Mode: 0o755, ModTime: when},
	}, more...)
}

// Named is one file whose content is its own name.
func Named(name string) []Entry {
	return []Entry{{Path: name, Type: File, Mode: 0o644, ModTime: when, Size: int64(len(name)), Text: name}}
}
