//go:build integration

package guest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/guesttest"
	"github.com/backstay/backstay/internal/guest/guesttest/trees"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/items"
)

// sources are the volumes of which every file is compared.
var sources = []struct {
	recipe string
	target backstay.DiskTarget
	volume backstay.VolumeID
	tree   func() []trees.Entry
	plain  bool // the file system has no owners, modes and links
}{
	{"ext4", "vda", "vda", trees.Odd, false},
	{"xfs", "vdb", "vdb", trees.Odd, false},
	{"btrfs", "vdc", "vdc:@odd", trees.Odd, false},
	{"ntfs", "vdd", "vdd", trees.Plain, true},
	{"fat32", "vde", "vde", trees.Plain, true},
	{"exfat", "vdf", "vdf", trees.Plain, true},
	{"squashfs", "vdg", "vdg", trees.Plain, false},
	{"ext3", "vdh", "vdh", trees.Plain, false},
}

// TestEveryFileIsTakenAsItIs compares all that is taken out of every file system with
// what was put into it, and the disks with what they were before.
func TestEveryFileIsTakenAsItIs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	m, err := guesttest.Pool(t, guest.Options{}).Machine(ctx, guest.Need{})
	if err != nil {
		t.Fatal(err)
	}
	hashes := map[string]string{}
	for _, s := range sources {
		for _, image := range guesttest.Images(t, s.recipe) {
			hashes[image] = digestOfImage(t, image)
		}
		guesttest.Attach(t, m, s.recipe, s.target)
	}
	if _, err := m.Scan(ctx); err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		t.Run(s.recipe, func(t *testing.T) {
			began := time.Now()
			got := takeAll(t, m, wire.TakeRequest{Volume: s.volume, Paths: []backstay.FilePath{"/"}})
			t.Log("taken in", time.Since(began))
			compare(t, got, factsOf(t, s.tree(), s.plain), s.plain)
			rows := walkAll(t, m, s.volume)
			for path := range got {
				if !rows[backstay.FilePath("/"+path)] {
					t.Errorf("%.80q is in no row", path)
				}
			}
			if len(rows) != len(got) {
				t.Errorf("%d rows of %d files", len(rows), len(got))
			}
		})
	}
	t.Run("archives", func(t *testing.T) { archives(t, m, "vda") })
	t.Run("list", func(t *testing.T) { lists(t, m) })
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for image, before := range hashes {
		if digestOfImage(t, image) != before {
			t.Errorf("%s was written to", image)
		}
	}
}

// fact is what is compared of a file.
func fact(it items.Item, sum string, plain bool) string {
	s := fmt.Sprintf("%s, %d bytes %s", it.Type, it.Size, sum)
	if it.HardLink != "" {
		return "another name of " + string(it.HardLink)
	}
	if it.ModTime.Nanosecond() != 0 || !plain || it.Type == backstay.TypeFile {
		s += ", " + it.ModTime.UTC().Format(time.RFC3339Nano)
	}
	if plain {
		return s
	}
	s += fmt.Sprintf(", %o %d:%d to %q, device %d:%d", it.Mode, it.UID, it.GID, it.Target, it.Major, it.Minor)
	slices.SortFunc(it.Xattrs, func(a, b items.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for _, x := range it.Xattrs {
		s += fmt.Sprintf(", %s %q", x.Name, x.Value)
	}
	return s
}

func factsOf(t *testing.T, tree []trees.Entry, plain bool) map[string]string {
	all := map[string]string{}
	kinds := map[trees.Type]backstay.FileType{trees.File: backstay.TypeFile, trees.Folder: backstay.TypeFolder, trees.Link: backstay.TypeLink,
		trees.FIFO: backstay.TypeFIFO, trees.Char: backstay.TypeChar, trees.Block: backstay.TypeBlock}
	for _, e := range tree {
		it := items.Item{Type: kinds[e.Type], Size: e.Size, Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime, Target: backstay.FilePath(e.Target), Major: e.Major, Minor: e.Minor}
		sum := ""
		switch e.Type {
		case trees.File:
			sum = digestOf(t, e.Content())
		case trees.Hard:
			it.HardLink = backstay.FilePath(e.Target)
		}
		for name, value := range e.Xattrs {
			it.Xattrs = append(it.Xattrs, items.Xattr{Name: name, Value: []byte(value)})
		}
		all[e.Path] = fact(it, sum, plain)
	}
	return all
}

// takeAll takes files and returns what there is to compare, with the holes checked.
func takeAll(t *testing.T, m *guest.Machine, q wire.TakeRequest) map[string]items.Item {
	t.Helper()
	stream, err := m.Take(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	all := map[string]items.Item{}
	var sums = map[string]string{}
	for r := items.NewReader(stream); ; {
		it, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if it.Error != "" || it.Note != "" {
			t.Errorf("%s: %s %s", it.Path, it.Error, it.Note)
		}
		if it.Type == backstay.TypeFile && it.HardLink == "" {
			sums[string(it.Path)] = sumOf(t, r, it)
		}
		all[string(it.Path)] = it
	}
	for path, it := range all {
		it.Note = sums[path] // where compare looks for it
		all[path] = it
	}
	return all
}

func sumOf(t *testing.T, r *items.Reader, it items.Item) string {
	t.Helper()
	d, bytes := newDigest(), int64(0)
	for {
		run, err := r.Run()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		d.skip(run.Offset)
		d.Write(run.Data)
		bytes += int64(len(run.Data))
	}
	if strings.HasSuffix(string(it.Path), "holes") && bytes > 128<<10 {
		t.Errorf("%d bytes of %s came, which is a hole mostly", bytes, it.Path)
	}
	return d.sum()
}

// digest is a hash that passes over zeros: of each block that holds anything else, and
// where that is.
type digest struct {
	sha   hash.Hash
	at    int64 // of the block
	block []byte
}

const digestBlock = 4096

var noBlock [digestBlock]byte

func newDigest() *digest { return &digest{sha: sha256.New()} }

func (d *digest) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(digestBlock-len(d.block), len(p))
		d.block, p = append(d.block, p[:k]...), p[k:]
		if len(d.block) == digestBlock {
			d.flush()
		}
	}
	return n, nil
}

// skip passes over zeros up to a place.
func (d *digest) skip(to int64) {
	for d.at+int64(len(d.block)) < to {
		if len(d.block) == 0 {
			d.at = to / digestBlock * digestBlock
		}
		d.Write(noBlock[:min(to-d.at-int64(len(d.block)), int64(digestBlock-len(d.block)))])
	}
}

func (d *digest) flush() {
	if data := bytes.TrimRight(d.block, "\x00"); len(data) > 0 {
		fmt.Fprintf(d.sha, "%d %d:", d.at, len(data))
		d.sha.Write(data)
	}
	d.at, d.block = d.at+digestBlock, d.block[:0]
}

func (d *digest) sum() string {
	d.flush()
	return hex.EncodeToString(d.sha.Sum(nil))
}

func digestOf(t *testing.T, from io.Reader) string {
	t.Helper()
	d := newDigest()
	if _, err := io.CopyBuffer(d, from, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return d.sum()
}

func digestOfImage(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return digestOf(t, file)
}

func compare(t *testing.T, got map[string]items.Item, want map[string]string, plain bool) {
	t.Helper()
	names := map[string]string{} // which of two names comes first is the file system's choice
	for path, it := range got {
		if it.HardLink != "" {
			names[path], names[string(it.HardLink)] = string(it.HardLink), path
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		it, ok := got[path]
		sum := it.Note
		it.Note = ""
		if other, linked := names[path]; linked && it.HardLink != "" != strings.HasPrefix(want[path], "another name") {
			first := got[other]
			sum, first.Note = first.Note, ""
			it = first
			if !strings.HasPrefix(want[path], "another name") {
				it.HardLink = ""
			} else {
				it.HardLink = backstay.FilePath(other)
			}
		}
		if is := fact(it, sum, plain); !ok || is != want[path] {
			t.Errorf("%.80q:\n  is  %.500s\n  not %.500s", path, is, want[path])
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok && path != "lost+found" {
			t.Errorf("%.80q was never there", path)
		}
	}
}

func walkAll(t *testing.T, m *guest.Machine, volume backstay.VolumeID) map[backstay.FilePath]bool {
	t.Helper()
	stream, err := m.Walk(t.Context(), wire.WalkRequest{Volume: volume, Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	rows := map[backstay.FilePath]bool{}
	for r := wire.NewRowReader(stream); ; {
		row, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rows
		}
		if err != nil {
			t.Fatal(err)
		}
		if row.Unread {
			t.Errorf("%s is unread", row.Path)
		}
		rows[row.Path] = true
	}
}

type archive interface {
	Add(ctx context.Context, stream *items.Reader) error
	Close() (items.Report, error)
}

// archives restores a volume into a folder, and lets GNU tar compare that with the tar
// and unzip test the zip.
func archives(t *testing.T, m *guest.Machine, volume backstay.VolumeID) {
	dir := t.TempDir()
	folder, tar, zip := filepath.Join(dir, "f"), filepath.Join(dir, "a.tar"), filepath.Join(dir, "a.zip")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	q := wire.TakeRequest{Volume: volume, Paths: []backstay.FilePath{"/folder", "/large", "/odd", "/many"}}
	report, err := items.Folder(t.Context(), folder, items.NewReader(take(t, m, q)), items.FolderOptions{Owner: true, Nodes: true})
	if err != nil || len(report.Remarks) > 0 {
		t.Error(report, err)
	}
	for _, path := range []string{tar, zip} {
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		var w archive = items.NewTar(file, items.ArchiveOptions{})
		if path == zip { // which has no holes
			w = items.NewZip(file, items.ArchiveOptions{})
			q.Paths = []backstay.FilePath{"/folder", "/large", "/many", "/odd/xattrs", "/odd/relative link", "/odd/hard"}
		}
		err = w.Add(t.Context(), items.NewReader(take(t, m, q)))
		report, closeErr := w.Close()
		if err := errors.Join(err, closeErr, file.Close()); err != nil || !report.Whole() {
			t.Error(report, err)
		}
	}
	// The xattrs and ACLs of what GNU tar makes of the archive are compared as well.
	again := filepath.Join(dir, "g")
	command(t, dir, "mkdir", again)
	command(t, dir, "tar", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", tar, "-C", again)
	command(t, dir, "tar", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-df", tar, "-C", folder)
	for _, name := range []string{"odd/acl", "odd/xattrs"} {
		if a, b := attributes(t, folder, name), attributes(t, again, name); a != b || !strings.Contains(a, "user.colour") && !strings.Contains(a, "user:1234:r--") {
			t.Errorf("%s:\n%s\n%s", name, a, b)
		}
	}
	command(t, dir, "unzip", "-tqq", zip)
}

func attributes(t *testing.T, dir, name string) string {
	t.Helper()
	var all strings.Builder
	for _, args := range [][]string{{"getfattr", "-d", "-m-", "-e", "hex", name}, {"getfacl", "-n", name}} {
		all.WriteString(command(t, dir, args...))
	}
	return all.String()
}

func command(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

func take(t *testing.T, m *guest.Machine, q wire.TakeRequest) io.Reader {
	t.Helper()
	stream, err := m.Take(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	return stream
}

// lists pages through a folder, and asks for what is not there.
func lists(t *testing.T, m *guest.Machine) {
	var names []string
	for q := (wire.ListRequest{PathRequest: wire.PathRequest{Volume: "vda", Path: "/many entries"}, Limit: 300}); ; {
		folder, err := m.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range folder.Entries {
			names = append(names, string(e.Name))
		}
		if q.After = folder.Next; q.After == "" {
			break
		}
	}
	if len(names) != 1000 || !slices.IsSorted(names) {
		t.Errorf("%d names", len(names))
	}
	if _, err := m.Take(t.Context(), wire.TakeRequest{Volume: "vda", Paths: []backstay.FilePath{"/none"}}); !backstay.IsCode(err, backstay.CodeUnknownFile) {
		t.Error(err)
	}
	for path, code := range map[backstay.FilePath]backstay.Code{"/odd/fifo": backstay.CodeFileUnfit, "/odd/null": backstay.CodeFileUnfit, "/odd/loop": backstay.CodeUnknownFile, "/odd/absolute link": backstay.CodeUnknownFile} {
		if _, err := m.Read(t.Context(), wire.ReadRequest{PathRequest: wire.PathRequest{Volume: "vda", Path: path}, Length: -1}); !backstay.IsCode(err, code) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
