package items

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

// noise is content that does not get smaller.
func noise(n int) []byte {
	data := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

// runsOf are the runs of whole content.
func runsOf(data []byte) (runs []Run) {
	for at := 0; at < len(data); at += MaxRun {
		runs = append(runs, Run{int64(at), data[at:min(at+MaxRun, len(data))]})
	}
	return runs
}

// odd is a stream with all that an archive must hold, and the content of its files.
func odd() ([]whole, map[string][]byte) {
	want := map[string][]byte{}
	all := []whole{{Item: folder("d")}}
	add := func(name string, data []byte) *Item {
		all = append(all, whole{Item: file("d/"+name, int64(len(data))), Runs: runsOf(data)})
		want["d/"+name] = data
		return &all[len(all)-1].Item
	}
	add("empty", nil)
	add("text", bytes.Repeat([]byte("again "), 40_000))
	add("small text", []byte("only a few words"))
	add("noise", noise(70_000))
	add("large text", bytes.Repeat([]byte("again and "), 400_000))
	add("large noise", noise(3<<20+5))
	add("names \xff\xfe\n of bytes", []byte("x"))
	add(strings.Repeat("ä", 120), []byte("long"))
	old := add("old", []byte("before the epoch"))
	old.ModTime = time.Unix(-5, 250_000_000).UTC()
	first := add("first name", []byte("of two"))
	first.Linked, first.Mode, first.UID, first.GID = true, 0o4755, 3_000_000, 7
	first.Xattrs = []Xattr{{"user.note", []byte("a\x00b=\n")}}
	second := file("d/second name", 6)
	second.HardLink = "d/first name"
	all = append(all, whole{Item: second}, whole{Item: Item{Path: "d/link", Type: backstay.TypeLink, Target: "../else where", ModTime: time.Unix(1, 0)}})
	hole := make([]byte, 8<<20)
	copy(hole[5<<20:], "in the middle")
	sparse := file("d/holes", int64(len(hole)))
	sparse.Sparse, sparse.Extents = true, []Extent{{5 << 20, 4096}}
	all = append(all, whole{Item: sparse, Runs: []Run{{5 << 20, hole[5<<20 : 5<<20+4096]}}})
	want["d/holes"] = hole
	untold := file("d/untold holes", int64(len(hole)))
	all = append(all, whole{Item: untold, Runs: []Run{{5 << 20, hole[5<<20 : 5<<20+4096]}}})
	want["d/untold holes"] = hole
	return all, want
}

func TestATarHoldsAllThatTheStreamHeld(t *testing.T) {
	all, want := odd()
	all = append(all, whole{Item: Item{Path: "d/null", Type: backstay.TypeChar, Mode: 0o666, Major: 1, Minor: 3}}, whole{Item: Item{Path: "d/pipe", Type: backstay.TypeFIFO}})
	for _, dense := range []bool{false, true} {
		var b bytes.Buffer
		w := NewTar(&b, ArchiveOptions{Dense: dense})
		must(t, w.Add(t.Context(), NewReader(bytes.NewReader(write(t, all)))))
		report, err := w.Close()
		must(t, err)
		if !report.Whole() || len(report.Remarks) > 0 || dense == (b.Len() < 20<<20) {
			t.Error(report, b.Len())
		}
		contents, heads := readTar(t, &b, nil)
		for name, data := range want {
			if !bytes.Equal(contents[name], data) {
				t.Errorf("%q has %d bytes, not %d, or others", name, len(contents[name]), len(data))
			}
		}
		first, second := heads["d/first name"], heads["d/second name"]
		if first.Mode != 0o4755 || first.Uid != 3_000_000 || first.Gid != 7 || !first.ModTime.Equal(time.Unix(1e9, 5)) || first.PAXRecords["SCHILY.xattr.user.note"] != "a\x00b=\n" {
			t.Error(first)
		}
		if second.Typeflag != tar.TypeLink || second.Linkname != "d/first name" || heads["d/link"].Linkname != "../else where" || heads["d/"].Typeflag != tar.TypeDir {
			t.Error(second)
		}
		if !heads["d/old"].ModTime.Equal(time.Unix(-5, 250_000_000)) || heads["d/null"].Devminor != 3 || heads["d/null"].Typeflag != tar.TypeChar {
			t.Error(heads["d/old"], heads["d/null"])
		}
		if len(heads) != len(all) {
			t.Errorf("%d entries: %q", len(heads), slices.Collect(maps.Keys(heads)))
		}
	}
}

// readTar reads an archive up to the error that it must end with.
func readTar(t *testing.T, b *bytes.Buffer, end error) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	contents, heads := map[string][]byte{}, map[string]*tar.Header{}
	for r := tar.NewReader(b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && end == nil {
			return contents, heads
		}
		var data []byte
		if err == nil {
			data, err = io.ReadAll(r)
			contents[h.Name], heads[h.Name] = data, h
		}
		if err != nil && errors.Is(err, end) {
			return contents, heads
		}
		must(t, err)
	}
}

func TestAZipHoldsAllFiles(t *testing.T) {
	all, want := odd()
	var b bytes.Buffer
	w := NewZip(&b, ArchiveOptions{})
	must(t, w.Add(t.Context(), NewReader(bytes.NewReader(write(t, all)))))
	report, err := w.Close()
	must(t, err)
	if !report.Whole() || report.Counts[Lacking] != 1 || b.Len() > 3<<20+500_000 {
		t.Error(report, b.Len())
	}
	contents, heads, err := readZip(b.Bytes())
	must(t, err)
	for name, data := range want {
		if !bytes.Equal(contents[name], data) {
			t.Errorf("%q has %d bytes, not %d, or others", name, len(contents[name]), len(data))
		}
	}
	first, second := heads["d/first name"], heads["d/second name"]
	if first.Mode() != fs.ModeSetuid|0o755 || !first.Modified.Equal(time.Unix(1e9, 0)) {
		t.Error(first.Mode(), first.Modified)
	}
	if second.Mode()&fs.ModeSymlink == 0 || string(contents["d/second name"]) != "../d/first name" || string(contents["d/link"]) != "../else where" || !heads["d/"].Mode().IsDir() {
		t.Error(second.Mode(), string(contents["d/second name"]))
	}
	if heads["d/noise"].Method != zip.Store || heads["d/text"].Method != zip.Deflate || heads["d/large noise"].CompressedSize64 < 3<<20 {
		t.Error("what is compressed is not what gets smaller")
	}
}

// readZip reads what can be read of an archive; the error is the last one.
func readZip(b []byte) (contents map[string][]byte, heads map[string]*zip.FileHeader, last error) {
	contents, heads = map[string][]byte{}, map[string]*zip.FileHeader{}
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, nil, err
	}
	for _, f := range r.File {
		in, err := f.Open()
		if err != nil {
			return nil, nil, err
		}
		data, err := io.ReadAll(in)
		contents[f.Name], heads[f.Name] = data, &f.FileHeader
		if err != nil {
			last = fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return contents, heads, last
}

// damaged is a stream of which something cannot be read.
func damaged() []whole {
	lost := file("lost", 5)
	lost.Error = "input/output error"
	return []whole{
		{Item: file("good", 4), Runs: []Run{{0, []byte("good")}}},
		{Item: lost},
		{Item: file("small", 9), Runs: []Run{{0, []byte("not")}}, Reason: "input/output error at byte 3"},
		{Item: file("large", 3<<20), Runs: runsOf(noise(2 << 20)), Reason: "input/output error at byte 2097152"},
		{Item: file("after", 4), Runs: []Run{{0, []byte("too\n")}}},
	}
}

// TestAnArchiveThatLacksSomethingIsNeverTakenForAWholeOne: everything that there is comes
// out of it, and whoever unpacks it gets an error and a list.
func TestAnArchiveThatLacksSomethingIsNeverTakenForAWholeOne(t *testing.T) {
	check := func(t *testing.T, report Report, contents map[string][]byte) {
		t.Helper()
		list := string(contents[IncompleteName])
		if report.Whole() || string(contents["good"]) != "good" || string(contents["after"]) != "too\n" {
			t.Error(report)
		}
		for _, name := range []string{"lost: input", "small: input", "large: what follows"} {
			if !strings.Contains(list, name) {
				t.Errorf("no %q in\n%s", name, list)
			}
		}
		if contents["lost"] != nil || contents["small"] != nil || strings.Contains(list, "good") {
			t.Errorf("unread files are there, or good ones listed:\n%s", list)
		}
	}
	t.Run("tar", func(t *testing.T) {
		var b bytes.Buffer
		w := NewTar(&b, ArchiveOptions{})
		must(t, w.Add(t.Context(), NewReader(bytes.NewReader(write(t, damaged())))))
		report, err := w.Close()
		must(t, err)
		contents, _ := readTar(t, &b, io.ErrUnexpectedEOF)
		check(t, report, contents)
	})
	t.Run("zip", func(t *testing.T) {
		var b bytes.Buffer
		w := NewZip(&b, ArchiveOptions{})
		must(t, w.Add(t.Context(), NewReader(bytes.NewReader(write(t, damaged())))))
		report, err := w.Close()
		must(t, err)
		contents, heads, err := readZip(b.Bytes())
		if !errors.Is(err, zip.ErrChecksum) {
			t.Error(err)
		}
		check(t, report, contents)
		if heads[IncompleteName].CRC32 == crc32.ChecksumIEEE(contents[IncompleteName]) {
			t.Error("the list's checksum fits")
		}
		if heads["large"].CRC32 == crc32.ChecksumIEEE(contents["large"]) || heads["good"].CRC32 != crc32.ChecksumIEEE([]byte("good")) {
			t.Error("the checksums fit what is not whole")
		}
	})
}

// TestAStreamThatIsCutMakesNoArchive: Add fails, wherever it is cut.
func TestAStreamThatIsCutMakesNoArchive(t *testing.T) {
	stream := write(t, damaged()[:1])
	for n := range stream {
		if err := NewTar(io.Discard, ArchiveOptions{}).Add(t.Context(), NewReader(bytes.NewReader(stream[:n]))); !errors.Is(err, ErrCut) {
			t.Fatalf("cut behind %d bytes: %v", n, err)
		}
		if err := NewZip(io.Discard, ArchiveOptions{}).Add(t.Context(), NewReader(bytes.NewReader(stream[:n]))); !errors.Is(err, ErrCut) {
			t.Fatalf("cut behind %d bytes: %v", n, err)
		}
	}
}

func TestAnACLInAnArchiveIsText(t *testing.T) {
	acl := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
	if text, ok := aclText(acl); !ok || text != "user::rw-,user:1000:r--:1000,group::r-x,mask::rwx,other::---" {
		t.Error(text, ok)
	}
	for n := range acl {
		aclText(acl[:n]) // whatever a file system says is an ACL
	}
	if _, ok := aclText([]byte("\x02\x00\x00\x00\x40\x00\x06\x00\xff\xff\xff\xff")); ok {
		t.Error("an entry of no known kind")
	}
}

// There are programs that unpack a file to where a link of the same archive points.
func TestNothingInAnArchiveIsUnpackedThroughALinkInIt(t *testing.T) {
	linked := text("a/x", "evil")
	linked.Item.Linked = true
	again := whole{Item: Item{Path: "y", Type: backstay.TypeFile, HardLink: "a/x"}}
	evil := []whole{
		symlink("a", "/etc"), {Item: folder("a")}, linked, {Item: folder("a/sub")}, text("a/sub/z", "evil"), again,
		symlink("f", "/etc/passwd"), text("f", "evil"), symlink(IncompleteName, "/etc/motd"),
		{Item: folder("b")}, symlink("b/c", "/etc"), {Item: folder("d")}, {Item: folder("b")}, {Item: folder("b/c")}, text("b/c/x", "evil"), text("good", "good"),
	}
	var b bytes.Buffer
	to := NewTar(&b, ArchiveOptions{})
	must(t, to.Add(t.Context(), NewReader(bytes.NewReader(write(t, evil)))))
	report, err := to.Close()
	must(t, err)
	var names []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "a f b/ b/c d/ good "+IncompleteName {
		t.Errorf("the archive holds %s", got)
	}
	if report.Counts[Refused] != 10 {
		t.Errorf("%d were refused: %v", report.Counts[Refused], report.Remarks)
	}
}
