package inside

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/items"
	"golang.org/x/sys/unix"
)

func path(p backstay.FilePath) wire.PathRequest { return wire.PathRequest{Path: p} }

func TestAFolderIsListedInOrderWhateverThePages(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 700 {
		name := fmt.Sprintf("n%d \xff\\", i*i%997)
		want = append(want, name)
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	slices.Sort(want)
	want = slices.Compact(want)
	tree := treeOf(t, dir)
	for _, limit := range []int{0, 1, 7, 699, len(want), 1000} {
		var got []string
		for r := (wire.ListRequest{PathRequest: path("/"), Limit: limit}); ; {
			folder, err := tree.list(t.Context(), r)
			must(t, err)
			if limit > 0 && len(folder.Entries) > limit {
				t.Fatalf("%d entries where %d is the most", len(folder.Entries), limit)
			}
			for _, e := range folder.Entries {
				got = append(got, string(e.Name))
			}
			if r.After = folder.Next; r.After == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %d names, not %d", limit, len(got), len(want))
		}
	}
}

// TestSortingNeedsBoundedMemory: a folder of any size is sorted piece by piece.
func TestSortingNeedsBoundedMemory(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 500 {
		want = append(want, fmt.Sprintf("%03d", i))
		must(t, os.WriteFile(filepath.Join(dir, want[i]), nil, 0o600))
	}
	fd := int(treeOf(t, dir).root)
	readable, err := unix.Openat(fd, ".", unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(readable)
	for _, limit := range []int{1, 3, 249, 250, 499, 500, 501} {
		var got []string
		for after, more := "", true; more; {
			var names []dirent
			names, more, err = sortedNames(t.Context(), readable, after, limit)
			must(t, err)
			if len(names) > limit || cap(names) > 4*limit+8 {
				t.Fatalf("%d names in room for %d", len(names), cap(names))
			}
			for _, e := range names {
				got = append(got, e.name)
			}
			after = got[len(got)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("pieces of %d: %q", limit, got)
		}
	}
}

func TestEntriesAreWhatTheyAre(t *testing.T) {
	dir := oddTree(t)
	tree := treeOf(t, dir)
	folder, err := tree.list(t.Context(), wire.ListRequest{PathRequest: path("/etc")})
	must(t, err)
	all := map[string]backstay.FileEntry{}
	for _, e := range folder.Entries {
		all[string(e.Name)] = e
	}
	if e := all["shadow"]; e.Type != backstay.TypeFile || e.Size != 900 || e.Mode != 0o4750 || e.Links != 1 || e.ModTime.UnixNano() != 1000000900123456789 || e.Inode == 0 || e.Changed == nil {
		t.Errorf("%+v", e)
	}
	if e := all["dangling"]; e.Type != backstay.TypeLink || e.Target != "../nowhere" || e.Size != 0 {
		t.Errorf("%+v", e)
	}
	if e := all["passwd"]; e.Links != 3 {
		t.Errorf("%+v", e)
	}
	for p, want := range map[backstay.FilePath]backstay.FileType{"/": backstay.TypeFolder, "/pipe": backstay.TypeFIFO, "/to-etc": backstay.TypeLink, "/to-etc/shadow": backstay.TypeFile} {
		e, err := tree.stat(p)
		if err != nil || e.Type != want || string(e.Name) != baseName(p) {
			t.Errorf("%s: %+v %v", p, e, err)
		}
	}
	if e, err := tree.stat("/nothing"); err != nil || e.Size != 1<<40 || e.Used > 1<<20 {
		t.Errorf("%+v %v", e, err)
	}
}

// TestNothingLeadsOutOfAVolume: neither dots nor links.
func TestNothingLeadsOutOfAVolume(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "volume")
	must(t, os.MkdirAll(filepath.Join(dir, "run/here"), 0o700))
	must(t, os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "run/here/f"), []byte("own"), 0o600))
	for name, target := range map[string]string{"up": "../secret", "far": "/../../../../../../" + top + "/secret", "root": top + "/secret", "proc": "/proc/self/root/etc", "var": "/run", "rel": "run/here/../here"} {
		must(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	tree := treeOf(t, dir)
	for _, p := range []backstay.FilePath{"/up", "/far", "/root", "/proc", "/../secret", "/run/../../secret", "/" + backstay.FilePath(top) + "/secret"} {
		var b bytes.Buffer
		if err := tree.read(t.Context(), wire.ReadRequest{PathRequest: path(p), Length: -1}, &b); !backstay.IsCode(err, backstay.CodeUnknownFile) || b.Len() > 0 {
			t.Errorf("%s: %q %v", p, b.String(), err)
		}
	}
	for _, p := range []backstay.FilePath{"/var/here/f", "/rel/f", "/run/here/f", "/../run/here/f"} {
		var b bytes.Buffer
		if err := tree.read(t.Context(), wire.ReadRequest{PathRequest: path(p), Length: -1}, &b); err != nil || b.String() != "own" {
			t.Errorf("%s: %q %v", p, b.String(), err)
		}
	}
	err := tree.read(t.Context(), wire.ReadRequest{PathRequest: path("/root/x"), Length: -1}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "through the link /root to "+top) {
		t.Error(err)
	}
}

func TestOnlyFilesAreReadAndListedOnlyFolders(t *testing.T) {
	tree := treeOf(t, oddTree(t))
	for _, p := range []backstay.FilePath{"/pipe", "/etc", "/"} {
		if err := tree.read(t.Context(), wire.ReadRequest{PathRequest: path(p), Length: -1}, io.Discard); !backstay.IsCode(err, backstay.CodeFileUnfit) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if _, err := tree.list(t.Context(), wire.ListRequest{PathRequest: path("/etc/passwd")}); !backstay.IsCode(err, backstay.CodeFileUnfit) {
		t.Error(err)
	}
	for _, p := range []backstay.FilePath{"/nowhere", "/etc/passwd/x", "/etc/dangling/x"} {
		if _, err := tree.list(t.Context(), wire.ListRequest{PathRequest: path(p)}); !backstay.IsCode(err, backstay.CodeUnknownFile) {
			t.Errorf("%s: %v", p, err)
		}
	}
	for _, p := range []backstay.FilePath{"", "etc", "/a\x00b"} {
		if _, err := tree.stat(p); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%q: %v", p, err)
		}
	}
	if folder, err := tree.list(t.Context(), wire.ListRequest{PathRequest: path("/to-etc")}); err != nil || len(folder.Entries) != 6 {
		t.Error(folder, err)
	}
}

func TestAnyPartOfAFileIsRead(t *testing.T) {
	dir := oddTree(t)
	tree := treeOf(t, dir)
	whole, err := os.ReadFile(filepath.Join(dir, "var/log/big"))
	must(t, err)
	check := func(offset, length int64) {
		t.Helper()
		var b bytes.Buffer
		must(t, tree.read(t.Context(), wire.ReadRequest{PathRequest: path("/var/log/big"), Offset: offset, Length: length}, &b))
		from := min(offset, int64(len(whole)))
		to := int64(len(whole))
		if length >= 0 {
			to = min(from+length, to)
		}
		if !bytes.Equal(b.Bytes(), whole[from:to]) {
			t.Errorf("%d bytes at %d: %d others", length, offset, b.Len())
		}
	}
	size := int64(len(whole))
	for _, c := range [][2]int64{{0, -1}, {0, 0}, {0, 1}, {size, -1}, {size + 5, 10}, {size - 1, 5}, {0, size}, {0, 1 << 62}, {1 << 62, -1}, {readPiece - 1, readPiece + 2}} {
		check(c[0], c[1])
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		check(r.Int64N(size), r.Int64N(size))
	}
	var b bytes.Buffer
	must(t, tree.read(t.Context(), wire.ReadRequest{PathRequest: path("/holes"), Offset: 4000, Length: 200}, &b))
	if want := append(make([]byte, 96), bytes.Repeat([]byte{7}, 104)...); !bytes.Equal(b.Bytes(), want) {
		t.Error("a hole is not zeros")
	}
	if err := tree.read(t.Context(), wire.ReadRequest{PathRequest: path("/holes"), Offset: -1, Length: 5}, io.Discard); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Error(err)
	}
}

func TestAPathOfAnyLengthIsReached(t *testing.T) {
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	name, full := strings.Repeat("d", 200), ""
	for range 60 { // 12,000 bytes: three times what the kernel takes at once
		must(t, unix.Mkdirat(at, name, 0o700))
		next, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(at)
		at, full = next, full+"/"+name
	}
	fd, err := unix.Openat(at, "f", unix.O_CREAT|unix.O_WRONLY, 0o600)
	must(t, err)
	_, err = unix.Write(fd, []byte("deep"))
	must(t, err)
	unix.Close(fd)
	unix.Close(at)
	before := openFiles(t)
	var b bytes.Buffer
	must(t, treeOf(t, dir).read(t.Context(), wire.ReadRequest{PathRequest: path(backstay.FilePath(full + "/f")), Length: -1}, &b))
	if b.String() != "deep" {
		t.Error(b.String())
	}
	to := t.TempDir()
	restore(t, dir, to, items.FolderOptions{}, wire.TakeRequest{Paths: []backstay.FilePath{"/"}})
	b.Reset()
	must(t, treeOf(t, to).read(t.Context(), wire.ReadRequest{PathRequest: path(backstay.FilePath(full + "/f")), Length: -1}, &b))
	if b.String() != "deep" {
		t.Error(b.String())
	}
	if after := openFiles(t); after != before+3 {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

func TestAWalkTellsOfEveryEntryInOrder(t *testing.T) {
	dir := oddTree(t)
	must(t, os.Mkdir(filepath.Join(dir, "etc.d"), 0o700)) // which sorts before etc/… as bytes, and behind it as names
	must(t, os.WriteFile(filepath.Join(dir, "etc.d/x"), []byte("x"), 0o600))
	for _, top := range []backstay.FilePath{"/", "/deep", "/to-etc"} {
		var b bytes.Buffer
		must(t, treeOf(t, dir).walk(t.Context(), wire.WalkRequest{Path: top}, &b))
		got := map[string]wire.Row{}
		for r := wire.NewRowReader(&b); ; { // which refuses rows out of order
			row, err := r.Next()
			if err == io.EOF {
				break
			}
			must(t, err)
			got[string(row.Path)] = row
		}
		want := 0
		for name := range facts(t, dir) {
			path := "/" + name
			if top != "/" {
				if !strings.HasPrefix(path, strings.Replace(string(top), "to-etc", "etc", 1)+"/") {
					continue
				}
				path = strings.Replace(path, "/etc/", "/to-etc/", 1)
			}
			if top == "/to-etc" && strings.HasPrefix(name, "etc.d") {
				continue
			}
			want++
			var st unix.Stat_t
			must(t, unix.Lstat(filepath.Join(dir, name), &st))
			row := wire.Row{Path: backstay.FilePath(path), Type: fileType(st.Mode), ModTime: st.Mtim.Nano(), Changed: st.Ctim.Nano(), Inode: st.Ino}
			if row.Type == backstay.TypeFile {
				row.Size = st.Size
			}
			if got[path] != row {
				t.Errorf("%+v, not %+v", got[path], row)
			}
		}
		if len(got) != want {
			t.Errorf("%s: %d rows, not %d", top, len(got), want)
		}
	}
}

func TestFilesAreHashedAndNothingElse(t *testing.T) {
	dir := oddTree(t)
	whole, err := os.ReadFile(filepath.Join(dir, "var/log/big"))
	must(t, err)
	got, err := treeOf(t, dir).hash(t.Context(), wire.HashRequest{Paths: []backstay.FilePath{"/var/log/big", "/pipe", "/etc", "/nowhere", "/etc/empty"}})
	must(t, err)
	sum, none := sha256.Sum256(whole), sha256.Sum256(nil)
	want := [][]byte{sum[:], nil, nil, nil, none[:]}
	if !slices.EqualFunc(got.SHA256, want, bytes.Equal) || got.Read != int64(len(whole)) {
		t.Error(got)
	}
}
