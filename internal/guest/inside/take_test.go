package inside

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/items"
	"golang.org/x/sys/unix"
)

// oddTree makes a folder with much of what a file system can hold.
func oddTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, size int) {
		data := make([]byte, size)
		r := rand.New(rand.NewPCG(uint64(size), 1))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		must(t, os.MkdirAll(filepath.Dir(at(name)), 0o755))
		must(t, os.WriteFile(at(name), data, 0o640))
		must(t, os.Chtimes(at(name), time.Time{}, time.Unix(1e9+int64(size), 123456789)))
	}
	write("etc/passwd", 1500)
	write("etc/shadow", 900)
	write("etc/empty", 0)
	write("var/log/big", 5<<20+17)
	write("var/log/exactly", readPiece)
	write("var/edge", smallFile)
	write("var/over", smallFile+1)
	write("odd/not \xff\xfe utf8\n", 10)
	write("odd/"+strings.Repeat("n", 255), 11)
	write("odd/-rf *", 12)
	write(strings.Repeat("deep/", 60)+"file", 13)
	for i := range 300 {
		write(fmt.Sprintf("many/%03d", i), i)
	}
	must(t, os.Mkdir(at("hollow"), 0o711))
	must(t, os.Symlink("/etc/passwd", at("etc/absolute")))
	must(t, os.Symlink("../nowhere", at("etc/dangling")))
	must(t, os.Symlink("etc", at("to-etc")))
	must(t, os.Link(at("etc/passwd"), at("etc/passwd-")))
	must(t, os.Link(at("etc/passwd"), at("var/passwd-too")))
	must(t, os.Link(at("var/log/big"), at("many/big-too")))
	must(t, unix.Mkfifo(at("pipe"), 0o600))
	holes, err := os.Create(at("holes"))
	must(t, err)
	for _, offset := range []int64{4096, 3 << 20, 64 << 20} {
		_, err := holes.WriteAt(bytes.Repeat([]byte{7}, 8192), offset)
		must(t, err)
	}
	must(t, holes.Truncate(1<<30))
	must(t, holes.Close())
	must(t, os.WriteFile(at("nothing"), nil, 0o600))
	must(t, os.Truncate(at("nothing"), 1<<40))
	must(t, unix.Lsetxattr(at("etc/shadow"), "user.note", []byte("a\x00b"), 0))
	must(t, unix.Lsetxattr(at("etc"), "user.folder", []byte("yes"), 0))
	must(t, unix.Chmod(at("etc/shadow"), 0o4750))
	must(t, os.Chtimes(at("hollow"), time.Time{}, time.Unix(1e9, 5)))
	must(t, os.Chtimes(at("etc"), time.Time{}, time.Unix(1e9+1, 6)))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func treeOf(t testing.TB, dir string) *tree {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return newTree(fd)
}

// facts are what a restored tree is compared by: a line for each path.
func facts(t testing.TB, dir string) map[string]string {
	t.Helper()
	all, first := map[string]string{}, map[inode]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		fact := fmt.Sprintf("mode %o, owner %d:%d, time %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			must(t, err)
			fact += ", to " + target
		case unix.S_IFREG:
			fact += fmt.Sprintf(", size %d, content %x", st.Size, sumOf(t, path, st.Size))
			if st.Nlink > 1 {
				id := inode{st.Dev, st.Ino}
				if first[id] == "" {
					first[id] = name
				}
				fact += ", same as " + first[id]
			}
			if st.Blocks*512 > st.Size+1<<20 || st.Size > 1<<29 && st.Blocks*512 > 1<<20 {
				fact += fmt.Sprintf(", %d bytes on the disk", st.Blocks*512)
			}
		}
		list := make([]byte, 1024)
		n, err := unix.Llistxattr(path, list)
		if err == nil {
			for _, x := range slices.Sorted(strings.SplitSeq(string(list[:n]), "\x00")) {
				value := make([]byte, 1024)
				if n, err := unix.Lgetxattr(path, x, value); x != "" && err == nil {
					fact += fmt.Sprintf(", %s %q", x, value[:n])
				}
			}
		}
		all[name] = fact
		return nil
	}))
	return all
}

func sumOf(t testing.TB, path string, size int64) []byte {
	t.Helper()
	if size > 1<<29 { // mostly a hole
		return nil
	}
	got, err := treeOf(t, filepath.Dir(path)).hash(t.Context(), wire.HashRequest{Paths: []backstay.FilePath{"/" + backstay.FilePath(filepath.Base(path))}})
	must(t, err)
	return got.SHA256[0]
}

func sameFacts(t testing.TB, want, got map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%q:\n  was %s\n  is  %s", name, want[name], got[name])
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%q was not there", name)
		}
	}
}

func TestATreeThatIsTakenIsRestoredAsItWas(t *testing.T) {
	from, to := oddTree(t), t.TempDir()
	report := restore(t, from, to, items.FolderOptions{Owner: os.Geteuid() == 0, Nodes: true}, wire.TakeRequest{Paths: []backstay.FilePath{"/"}})
	want := facts(t, from)
	if os.Geteuid() != 0 { // the set-uid bit goes with the owner
		want["etc/shadow"] = strings.Replace(want["etc/shadow"], "104750", "100750", 1)
	} else if len(report.Remarks) > 0 {
		t.Error(report.Remarks)
	}
	sameFacts(t, want, facts(t, to))
	if !report.Whole() {
		t.Error(report)
	}
}

// restore takes a part of a folder into another.
func restore(t testing.TB, from, to string, o items.FolderOptions, q wire.TakeRequest) items.Report {
	t.Helper()
	tree := treeOf(t, from)
	in, out := io.Pipe()
	taken := make(chan error, 1)
	go func() {
		err := tree.take(t.Context(), q, out)
		out.CloseWithError(err)
		taken <- err
	}()
	report, err := items.Folder(t.Context(), to, items.NewReader(in), o)
	in.Close()
	must(t, errors.Join(<-taken, err))
	return report
}

func TestATakeBringsWhatWasChosenAndNoMore(t *testing.T) {
	from := oddTree(t)
	for name, c := range map[string]struct {
		q    wire.TakeRequest
		want []string
	}{
		"a file": {wire.TakeRequest{Paths: []backstay.FilePath{"/etc/passwd"}}, []string{"passwd"}},
		"a folder, and a file in it": {wire.TakeRequest{Paths: []backstay.FilePath{"/hollow", "/etc/shadow", "/etc/"}},
			[]string{"etc", "etc/absolute", "etc/dangling", "etc/empty", "etc/passwd", "etc/passwd-", "etc/shadow", "hollow"}},
		"files with their folders": {wire.TakeRequest{Paths: []backstay.FilePath{"/var/edge", "/etc/empty", "/var/log/exactly", "/nothing"}, Strip: "/"},
			[]string{"etc", "etc/empty", "nothing", "var", "var/edge", "var/log", "var/log/exactly"}},
		"what is in a folder": {wire.TakeRequest{Paths: []backstay.FilePath{"/var/log"}, Strip: "/var/log"}, []string{"big", "exactly"}},
		"a link itself":       {wire.TakeRequest{Paths: []backstay.FilePath{"/to-etc"}}, []string{"to-etc"}},
		"through a link":      {wire.TakeRequest{Paths: []backstay.FilePath{"/to-etc/shadow"}}, []string{"shadow"}},
	} {
		t.Run(name, func(t *testing.T) {
			to := t.TempDir()
			restore(t, from, to, items.FolderOptions{}, c.q)
			if got := slices.Sorted(maps.Keys(facts(t, to))); !slices.Equal(got, c.want) {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
}

func TestATakeOfWhatIsNotThereIsRefusedBeforeItBegins(t *testing.T) {
	tree := treeOf(t, oddTree(t))
	for _, c := range []struct {
		q    wire.TakeRequest
		code backstay.Code
	}{
		{wire.TakeRequest{Paths: []backstay.FilePath{"/etc", "/etcetera"}}, backstay.CodeUnknownFile},
		{wire.TakeRequest{Paths: []backstay.FilePath{"/etc/absolute/x"}}, backstay.CodeUnknownFile},
		{wire.TakeRequest{}, backstay.CodeUsage},
		{wire.TakeRequest{Paths: []backstay.FilePath{"etc"}}, backstay.CodeUsage},
		{wire.TakeRequest{Paths: []backstay.FilePath{"/etc/../etc"}}, backstay.CodeUsage},
		{wire.TakeRequest{Paths: []backstay.FilePath{"/etc"}, Strip: "/var"}, backstay.CodeUsage},
		{wire.TakeRequest{Paths: []backstay.FilePath{"/nothing"}, Strip: "/nothing"}, backstay.CodeUsage},
		{wire.TakeRequest{Paths: []backstay.FilePath{"/etc/passwd", "/var/passwd-too", "/deep/deep", "/deep/deep/deep/deep/deep", "/hollow", "/var", "/many/000"}, Strip: "/etc"}, backstay.CodeUsage},
	} {
		var b bytes.Buffer
		if err := tree.take(t.Context(), c.q, &b); !backstay.IsCode(err, c.code) || b.Len() > 0 {
			t.Errorf("%v: %d bytes, %v", c.q, b.Len(), err)
		}
	}
}

// TestATakeThatNobodyReadsEnds: no goroutine and no open file stays.
func TestATakeThatNobodyReadsEnds(t *testing.T) {
	tree := treeOf(t, oddTree(t))
	before := openFiles(t)
	for n := range 40 {
		ctx, cancel := context.WithCancel(t.Context())
		w := &failing{after: n * 100_000, cancel: cancel}
		err := tree.take(ctx, wire.TakeRequest{Paths: []backstay.FilePath{"/"}}, w)
		if !errors.Is(err, errNobody) && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		cancel()
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

var errNobody = errors.New("nobody reads")

// failing fails after some bytes, every other time by way of its context.
type failing struct {
	after  int
	cancel func()
}

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after > 0 {
		return len(p), nil
	}
	if f.after%2 == 0 {
		f.cancel()
		return len(p), nil
	}
	return 0, errNobody
}

func openFiles(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(all)
}
