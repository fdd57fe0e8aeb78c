package items

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"pgregory.net/rapid"
)

// whole is an item with its content, for comparisons.
type whole struct {
	Item   Item
	Runs   []Run
	Reason string
}

func write(t testing.TB, all []whole) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, one := range all {
		must(t, w.Begin(&one.Item))
		for _, run := range one.Runs {
			must(t, w.Data(run.Offset, run.Data))
		}
		must(t, w.End(one.Reason))
	}
	must(t, w.Close())
	return b.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// read returns what of a stream is right, and why it ended.
func read(stream io.Reader) ([]whole, error) {
	var all []whole
	r := NewReader(stream)
	for {
		it, err := r.Next()
		if err != nil {
			return all, err
		}
		one := whole{Item: it}
		for {
			run, err := r.Run()
			var broken *Broken
			if errors.As(err, &broken) {
				one.Reason = broken.Reason
				break
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return all, err
			}
			one.Runs = append(one.Runs, Run{run.Offset, bytes.Clone(run.Data)})
		}
		all = append(all, one)
	}
}

func file(path string, size int64) Item {
	return Item{Path: backstay.FilePath(path), Type: backstay.TypeFile, Size: size, Mode: 0o644, ModTime: time.Unix(1e9, 5).UTC()}
}

func folder(path string) Item {
	return Item{Path: backstay.FilePath(path), Type: backstay.TypeFolder, Mode: 0o755, ModTime: time.Unix(1e9, 0).UTC()}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var all []whole
		top := "f" + rapid.StringMatching(`[a-z\x{e4}]{0,8}`).Draw(rt, "folder")
		all = append(all, whole{Item: folder(top)})
		for i := range rapid.IntRange(0, 8).Draw(rt, "files") {
			it := file(top+"/"+string(rune('a'+i)), int64(rapid.IntRange(0, 3*MaxRun).Draw(rt, "size")))
			it.Mode = uint32(rapid.IntRange(0, 0o7777).Draw(rt, "mode"))
			it.UID = rapid.Uint32().Draw(rt, "uid")
			it.GID = rapid.Uint32().Draw(rt, "gid")
			it.ModTime = time.Unix(rapid.Int64Range(-maxSeconds, maxSeconds).Draw(rt, "seconds"), int64(rapid.IntRange(0, 999_999_999).Draw(rt, "nanos"))).UTC()
			for range rapid.IntRange(0, 3).Draw(rt, "xattrs") {
				value := append([]byte(nil), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "value")...)
				it.Xattrs = append(it.Xattrs, Xattr{rapid.StringMatching(`user\.[a-z]{1,9}`).Draw(rt, "name"), value})
			}
			one := whole{Item: it}
			for at := int64(0); at < it.Size; {
				n := min(int64(rapid.IntRange(1, MaxRun).Draw(rt, "run")), it.Size-at)
				if rapid.Bool().Draw(rt, "data") {
					one.Runs = append(one.Runs, Run{at, bytes.Repeat([]byte{byte(at)}, int(n))})
				}
				at += n
			}
			if rapid.IntRange(0, 5).Draw(rt, "broken") == 0 {
				one.Reason = "Input/output error"
			}
			all = append(all, one)
		}
		got, err := read(bytes.NewReader(write(t, all)))
		if !errors.Is(err, io.EOF) {
			rt.Fatal(err)
		}
		if g, w := string(write(t, got)), string(write(t, all)); g != w {
			rt.Fatalf("another stream came out:\n%v\n%v", got, all)
		}
	})
}

// TestACutStreamIsNeverTakenForAWholeOne cuts a stream behind each of its bytes.
func TestACutStreamIsNeverTakenForAWholeOne(t *testing.T) {
	broken := whole{Item: file("d/b", 9), Runs: []Run{{0, []byte("1234")}}, Reason: "no"}
	stream := write(t, []whole{{Item: folder("d")}, {Item: file("d/a", 3), Runs: []Run{{0, []byte("abc")}}}, broken})
	for n := range stream {
		if _, err := read(bytes.NewReader(stream[:n])); !errors.Is(err, ErrCut) {
			t.Fatalf("cut behind %d of %d bytes: %v", n, len(stream), err)
		}
	}
	if _, err := read(bytes.NewReader(append(stream, 0))); !errors.Is(err, ErrFormat) {
		t.Fatalf("with a byte behind the end mark: %v", err)
	}
	got, err := read(bytes.NewReader(stream))
	if !errors.Is(err, io.EOF) || len(got) != 3 || got[2].Reason != "no" {
		t.Fatal(got, err)
	}
}

func TestAReaderEndsAtWhatBreaksTheRules(t *testing.T) {
	link := func(path, target string) Item {
		return Item{Path: backstay.FilePath(path), Type: backstay.TypeLink, Target: backstay.FilePath(target)}
	}
	linked := func(it Item) Item { it.Linked = true; return it }
	hard := func(path, to string) Item {
		it := file(path, 0)
		it.HardLink = backstay.FilePath(to)
		return it
	}
	sparse := func(it Item, extents ...Extent) Item { it.Sparse, it.Extents = true, extents; return it }
	runs := func(at ...int64) (all []Run) {
		for _, offset := range at {
			all = append(all, Run{offset, []byte("12345678")})
		}
		return all
	}
	for name, c := range map[string]struct {
		all  []whole
		want error
	}{
		"no path":                  {[]whole{{Item: file("", 0)}}, ErrPath},
		"absolute":                 {[]whole{{Item: file("/etc/passwd", 0)}}, ErrPath},
		"out of the folder":        {[]whole{{Item: folder("a")}, {Item: file("a/../../b", 0)}}, ErrPath},
		"a dot":                    {[]whole{{Item: folder(".")}}, ErrPath},
		"a slash at the end":       {[]whole{{Item: folder("a/")}}, ErrPath},
		"a NUL":                    {[]whole{{Item: file("a\x00b", 0)}}, ErrPath},
		"a long name":              {[]whole{{Item: file(strings.Repeat("a", MaxName+1), 0)}}, ErrPath},
		"a long path":              {[]whole{{Item: file(strings.Repeat("aaaaaaaa/", MaxPath/9+1)+"a", 0)}}, ErrTooBig},
		"a deep path":              {[]whole{{Item: file(strings.Repeat("a/", MaxDepth)+"a", 0)}}, ErrPath},
		"no folder before":         {[]whole{{Item: file("a/b", 0)}}, ErrOrder},
		"below a link":             {[]whole{{Item: link("a", "/etc")}, {Item: file("a/b", 0)}}, ErrOrder},
		"a folder that ended":      {[]whole{{Item: folder("a")}, {Item: folder("b")}, {Item: file("a/c", 0)}}, ErrOrder},
		"a link to nothing":        {[]whole{{Item: link("a", "")}}, ErrPath},
		"a link's NUL":             {[]whole{{Item: link("a", "b\x00c")}}, ErrPath},
		"hard link to the unseen":  {[]whole{{Item: hard("a", "b")}}, ErrHardLink},
		"hard link to the unsaid":  {[]whole{{Item: file("b", 0)}, {Item: hard("a", "b")}}, ErrHardLink},
		"hard link outside":        {[]whole{{Item: linked(file("b", 0))}, {Item: hard("a", "../b")}}, ErrHardLink},
		"a linked folder":          {[]whole{{Item: linked(folder("b"))}}, ErrHardLink},
		"content of a hard link":   {[]whole{{Item: linked(file("b", 0))}, {Item: hard("a", "b"), Runs: runs(0)}}, ErrContent},
		"content of a folder":      {[]whole{{Item: folder("a"), Runs: runs(0)}}, ErrContent},
		"content behind the size":  {[]whole{{Item: file("a", 9), Runs: runs(2)}}, ErrContent},
		"content at a negative":    {[]whole{{Item: file("a", 9), Runs: runs(-8)}}, ErrContent},
		"content twice":            {[]whole{{Item: file("a", 90), Runs: runs(0, 7)}}, ErrContent},
		"content in a hole":        {[]whole{{Item: sparse(file("a", 90), Extent{20, 10}), Runs: runs(23)}}, ErrContent},
		"content where all is one": {[]whole{{Item: sparse(file("a", 90)), Runs: runs(0)}}, ErrContent},
		"extents behind the size":  {[]whole{{Item: sparse(file("a", 90), Extent{88, 8})}}, ErrContent},
		"extents in no order":      {[]whole{{Item: sparse(file("a", 90), Extent{8, 8}, Extent{0, 4})}}, ErrContent},
		"extents that overflow":    {[]whole{{Item: sparse(file("a", 90), Extent{8, 1<<63 - 1})}}, ErrContent},
		"size of a folder":         {[]whole{{Item: Item{Path: "a", Type: backstay.TypeFolder, Size: 5}}}, ErrContent},
		"a mode of a type":         {[]whole{{Item: Item{Path: "a", Type: backstay.TypeFolder, Mode: 0o40755}}}, ErrTooBig},
		"a year that is none":      {[]whole{{Item: Item{Path: "a", Type: backstay.TypeFolder, ModTime: time.Unix(1<<60, 0)}}}, ErrTooBig},
		"an xattr without a name":  {[]whole{{Item: Item{Path: "a", Type: backstay.TypeFolder, Xattrs: []Xattr{{}}}}}, ErrPath},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(bytes.NewReader(write(t, c.all)))
			if !errors.Is(err, c.want) {
				t.Errorf("%v, not %v", err, c.want)
			}
			if len(got) != len(c.all)-1 {
				t.Errorf("%d items came before it, not %d", len(got), len(c.all)-1)
			}
		})
	}
}

func TestLengthsOfAStreamAreBounded(t *testing.T) {
	item := func(n uint32) []byte {
		return binary.BigEndian.AppendUint32([]byte(magic+"I"), n)
	}
	for name, stream := range map[string][]byte{
		"header": item(1 << 31),
		"run":    append(write(t, []whole{{Item: file("a", 1<<40)}})[:0:0], runOf(t, 1<<30)...),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := read(io.MultiReader(bytes.NewReader(stream), endless{})); !errors.Is(err, ErrTooBig) {
				t.Error(err)
			}
		})
	}
	many := Item{Path: "a", Type: backstay.TypeFolder}
	for range MaxXattrs + 1 {
		many.Xattrs = append(many.Xattrs, Xattr{Name: "user.x"})
	}
	if err := NewWriter(io.Discard).Begin(&many); !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
	header := appendItem(nil, &many)
	stream := append(item(uint32(len(header))), header...)
	if _, err := read(bytes.NewReader(stream)); !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
}

// runOf is a stream up to the length of a run.
func runOf(t *testing.T, n uint32) []byte {
	stream := write(t, []whole{{Item: file("a", 1<<40)}})
	stream = stream[:len(stream)-17-3] // without the end of the item and the end mark
	stream = append(stream, 'D', 0, 0, 0, 0, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint32(stream, n)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestTextsOfAStreamAreSafeToPrint(t *testing.T) {
	bad := Item{Path: "a", Type: backstay.TypeFile, Note: "\x1b[2J\xff", Error: "tab\there"}
	header := appendItem(nil, &bad)
	it, err := decodeItem(header)
	if err != nil || it.Note != `\x1b[2J\xff` || it.Error != `tab\x09here` {
		t.Fatalf("%q %q %v", it.Note, it.Error, err)
	}
}

// FuzzReader: whatever comes, a Reader returns and keeps to its rules.
func FuzzReader(f *testing.F) {
	f.Add(write(f, []whole{{Item: folder("d")}, {Item: file("d/a", 3), Runs: []Run{{0, []byte("abc")}}, Reason: "no"}}))
	linked := file("x", 5)
	linked.Linked, linked.Sparse, linked.Extents = true, true, []Extent{{1, 2}}
	linked.Xattrs = []Xattr{{"user.a", []byte("b")}}
	other := file("y", 0)
	other.HardLink = "x"
	f.Add(write(f, []whole{{Item: linked, Runs: []Run{{1, []byte("ab")}}}, {Item: other}, {Item: Item{Path: "l", Type: backstay.TypeLink, Target: "/"}}}))
	f.Fuzz(func(t *testing.T, stream []byte) {
		all, err := read(bytes.NewReader(stream))
		if err == nil {
			t.Fatal("a reader that ends without an error")
		}
		for _, one := range all {
			if CheckPath(one.Item.Path) != nil {
				t.Fatalf("path %q", one.Item.Path)
			}
			for _, run := range one.Runs {
				if run.Offset < 0 || run.Offset+int64(len(run.Data)) > one.Item.Size {
					t.Fatalf("a run at %d of %d bytes", run.Offset, one.Item.Size)
				}
			}
		}
	})
}

// TestStreamsOfVersion1AreReadForEver holds the format to docs/formats/items.md.
func TestStreamsOfVersion1AreReadForEver(t *testing.T) {
	all := []whole{
		{Item: folder("d")},
		{Item: Item{Path: "d/f \xff", Type: backstay.TypeFile, Size: 9000, Mode: 0o4755, UID: 1, GID: 1 << 31, ModTime: time.Unix(-1, 999_999_999).UTC(), Linked: true, Sparse: true,
			Extents: []Extent{{4096, 4096}}, Xattrs: []Xattr{{"user.a", []byte{0, 1}}}, Note: "a note"}, Runs: []Run{{4096, []byte("content")}}, Reason: "it broke off"},
		{Item: Item{Path: "d/g", Type: backstay.TypeFile, HardLink: "d/f \xff", Size: 9000, ModTime: time.Unix(0, 0).UTC()}},
		{Item: Item{Path: "l", Type: backstay.TypeLink, Target: "/etc", ModTime: time.Unix(0, 0).UTC()}},
		{Item: Item{Path: "n", Type: backstay.TypeBlock, Major: 8, Minor: 300, ModTime: time.Unix(0, 0).UTC(), Error: "an error"}},
	}
	golden, err := os.ReadFile("testdata/version1.items")
	must(t, err)
	if !bytes.Equal(write(t, all), golden) {
		t.Error("another stream is written")
	}
	got, err := read(bytes.NewReader(golden))
	if !errors.Is(err, io.EOF) || !reflect.DeepEqual(got, all) {
		t.Errorf("%v:\n%+v\n%+v", err, got, all)
	}
}

// A small machine that was taken over could send .ssh/authorized_keys to somebody who
// asked for notes.txt.
func TestNothingIsTakenThatNobodyAskedFor(t *testing.T) {
	paths := func(p ...backstay.FilePath) []backstay.FilePath { return p }
	for _, c := range []struct {
		asked []backstay.FilePath
		strip backstay.FilePath
		all   []whole
		fits  bool
	}{
		{paths("/home/notes.txt"), "", []whole{{Item: file("notes.txt", 0)}}, true},
		{paths("/home/notes.txt"), "", []whole{{Item: file("notes.txt", 0)}, {Item: folder(".ssh")}}, false},
		{paths("/home/notes.txt"), "", []whole{{Item: file("notes.txt2", 0)}}, false},
		{paths("/home/notes.txt"), "", []whole{{Item: folder("home")}}, false},
		{paths("/etc/nginx/", "/var/www"), "", []whole{{Item: folder("nginx")}, {Item: file("nginx/a", 0)}, {Item: folder("www")}}, true},
		{paths("/etc/nginx"), "/", []whole{{Item: folder("etc")}, {Item: folder("etc/nginx")}, {Item: file("etc/nginx/a", 0)}}, true},
		{paths("/etc/nginx"), "/", []whole{{Item: folder("etc")}, {Item: file("etc/shadow", 0)}}, false},
		{paths("/etc/nginx"), "/", []whole{symlink("etc", "/tmp")}, false},
		{paths("/"), "", []whole{{Item: folder("any")}}, true},
		{paths("/srv"), "/srv", []whole{{Item: folder("any")}}, true},
	} {
		r := NewReader(bytes.NewReader(write(t, c.all))).Only(Asked(c.asked, c.strip))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if fits := errors.Is(err, io.EOF); fits != c.fits || !fits && !errors.Is(err, ErrUnasked) {
			t.Errorf("%v from %q: %v", c.asked, c.strip, err)
		}
	}
}
