//go:build integration

package guest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/fileindex"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/guesttest"
	"github.com/backstay/backstay/internal/guest/wire"
)

// systems are made in ways in which ext4 is found, with what mke2fs is told.
var systems = []struct {
	name string
	args string
	fit  bool // its inodes can be read from the tables
}{
	{"usual", "-t ext4", true},
	{"small blocks and inodes", "-t ext4 -b 1024 -I 128 -O ^64bit,^extent,^flex_bg,^dir_index", true},
	{"a group each, seeded", "-t ext4 -b 1024 -g 1024 -I 512 -O metadata_csum_seed,large_dir", true},
	{"no journal", "-t ext4 -O ^has_journal", false},
}

// historyPoints is how many points of each are compared.
const historyPoints = 4

// TestInodesTellWhatAWalkTells: the list of a point out of its inodes and the list of
// the point before is that which a walk gives, whatever was done to the files, and
// while the journal holds a part of it.
func TestInodesTellWhatAWalkTells(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	m, err := guesttest.Pool(t, guest.Options{}).Machine(ctx, guest.Need{})
	if err != nil {
		t.Fatal(err)
	}
	target := func(system, point int) backstay.DiskTarget {
		return backstay.DiskTarget("vd" + string(rune('a'+system*historyPoints+point)))
	}
	for i, s := range systems {
		for p, image := range history(t, uint64(i), strings.Fields(s.args)) {
			if err := m.Attach(ctx, guesttest.Serve(t, target(i, p), image)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := m.Scan(ctx); err != nil {
		t.Fatal(err)
	}
	for i, s := range systems {
		t.Run(s.name, func(t *testing.T) {
			c := &byInodes{t: t, m: m}
			for p := range historyPoints {
				c.point(backstay.VolumeID(target(i, p)), s.fit)
			}
			if s.fit && (c.lists == 0 || c.lists >= c.folders) {
				t.Errorf("%d of %d folders were listed", c.lists, c.folders)
			}
			t.Logf("%d of %d folders were listed", c.lists, c.folders)
		})
	}
}

// byInodes compares point after point of one file system.
type byInodes struct {
	t              *testing.T
	m              *guest.Machine
	before         []wire.Row
	system         string
	lists, folders int
}

func (c *byInodes) point(volume backstay.VolumeID, fit bool) {
	c.t.Helper()
	stream, err := c.m.Walk(c.t.Context(), wire.WalkRequest{Volume: volume, Path: "/"})
	if err != nil {
		c.t.Fatal(err)
	}
	want, err := collect(wire.Rows(stream))
	if err != nil {
		c.t.Fatal(err)
	}
	was := c.before
	c.before = want
	stream, err = c.m.Inodes(c.t.Context(), wire.InodesRequest{Volume: volume, System: c.system})
	if err != nil {
		c.t.Fatal(err)
	}
	system, inodes, err := wire.ReadInodes(stream)
	if err != nil || (system != "") != fit || was != nil && system != c.system || (len(inodes) > 0) != (fit && was != nil) {
		c.t.Fatalf("%s: is %q, was %q, with %d inodes: %v", volume, system, c.system, len(inodes), err)
	}
	if c.system = system; was == nil || !fit {
		return
	}
	by := fileindex.Inodes{All: inodes, Until: newest(was), Walk: func(ctx context.Context, folder backstay.FilePath, flat bool) (io.ReadCloser, error) {
		c.lists++
		return c.m.Walk(ctx, wire.WalkRequest{Volume: volume, Path: folder, Flat: flat})
	}}
	got, err := collect(by.Rows(c.t.Context(), events(was)))
	if err != nil {
		c.t.Fatalf("%s: %v", volume, err)
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			c.t.Fatalf("%s: row %d is %+v, not %+v", volume, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		c.t.Fatalf("%s: %d rows, not %d", volume, len(got), len(want))
	}
	for _, r := range want {
		if r.Type == backstay.TypeFolder {
			c.folders++
		}
	}
}

func collect(rows iter.Seq2[wire.Row, error]) ([]wire.Row, error) {
	all := []wire.Row{}
	for r, err := range rows {
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func newest(rows []wire.Row) int64 {
	n := int64(0)
	for _, r := range rows {
		n = max(n, r.Changed)
	}
	return n
}

func events(rows []wire.Row) iter.Seq2[fileindex.Event, error] {
	return func(yield func(fileindex.Event, error) bool) {
		for _, r := range rows {
			if !yield(fileindex.Event{Path: r.Path, Version: fileindex.FromRow(r)}, nil) {
				return
			}
		}
	}
}

// history returns images of a file system in which something is done between each and
// the next, as they lie on the disk while it is mounted.
func history(t *testing.T, seed uint64, args []string) []string {
	t.Helper()
	dir := t.TempDir()
	disk, mnt := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v: %s", name, args, err, out)
		}
	}
	if err := errors.Join(os.Mkdir(mnt, 0o700), os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 48<<20)); err != nil {
		t.Fatal(err)
	}
	run("mke2fs", append(append([]string{"-q", "-F", "-N", "4096"}, args...), disk)...)
	run("mount", "-o", "loop", disk, mnt)
	mounted := true
	unmount := func() {
		if mounted {
			mounted = false
			run("umount", mnt)
		}
	}
	t.Cleanup(unmount)
	d := &doer{t: t, root: mnt, r: rand.New(rand.NewPCG(29, seed)), folders: []string{"."}}
	for range 150 {
		d.mkdir()
	}
	for range 500 {
		d.create()
	}
	var images []string
	for p := range historyPoints {
		if p > 0 {
			d.tick()
			for range 10 * p {
				d.any()
			}
		}
		if d.failed > 0 {
			t.Fatalf("%d of %d things could not be done: %v", d.failed, d.done, d.err)
		}
		unix.Sync()
		image := filepath.Join(dir, fmt.Sprint(p))
		run("cp", "--sparse=always", disk, image)
		images = append(images, image)
	}
	unmount()
	return images
}

// doer does something to files.
type doer struct {
	t            *testing.T
	root         string
	r            *rand.Rand
	folders      []string
	files        []string
	done, failed int
	err          error
}

func (d *doer) path(name string) string { return filepath.Join(d.root, name) }
func (d *doer) folder() string          { return d.folders[d.r.IntN(len(d.folders))] }
func (d *doer) file() string            { return d.files[d.r.IntN(len(d.files))] }
func (d *doer) fresh() string {
	d.done++
	return filepath.Join(d.folder(), fmt.Sprintf("%c%d", 'a'+d.r.IntN(26), d.done))
}

func (d *doer) did(err error) bool {
	if err != nil {
		d.failed++
		d.err = err
	}
	return err == nil
}

// look finds out what there is, after folders moved or went.
func (d *doer) look() {
	d.folders, d.files = nil, nil
	_ = filepath.WalkDir(d.root, func(path string, e os.DirEntry, err error) error {
		name, _ := filepath.Rel(d.root, path)
		switch {
		case err != nil:
			d.did(err)
		case name == "lost+found":
			return filepath.SkipDir
		case e.IsDir():
			d.folders = append(d.folders, name)
		case e.Type().IsRegular():
			d.files = append(d.files, name)
		}
		return nil
	})
}

// tick waits until the clock of the file system has gone on, a whole second in those
// that know no less.
func (d *doer) tick() {
	var first, st unix.Stat_t
	probe := d.path("tick")
	for i := 0; i == 0 || first.Ctim == st.Ctim; i++ {
		if err := os.WriteFile(probe, nil, 0o600); err != nil {
			d.t.Fatal(err)
		}
		if err := errors.Join(os.Chmod(probe, 0o600), unix.Stat(probe, &st)); err != nil {
			d.t.Fatal(err)
		}
		if i == 0 {
			first, st = st, unix.Stat_t{Ctim: st.Ctim}
		}
	}
}

func (d *doer) mkdir() {
	if name := d.fresh(); d.did(os.Mkdir(d.path(name), 0o755)) {
		d.folders = append(d.folders, name)
	}
}

func (d *doer) create() {
	if name := d.fresh(); d.did(os.WriteFile(d.path(name), make([]byte, d.r.IntN(3000)), 0o600)) {
		d.files = append(d.files, name)
	}
}

func (d *doer) any() {
	things := []func(){
		d.mkdir, d.create, d.create,
		func() {
			d.did(os.WriteFile(d.path(d.file()), make([]byte, d.r.IntN(5000)), 0o600))
		},
		func() { // which makes a hole of 3 GiB in some
			d.did(os.Truncate(d.path(d.file()), d.r.Int64N(2)*3<<30))
		},
		func() { // over another one, now and then
			to := d.fresh()
			if d.r.IntN(3) == 0 {
				to = d.file()
			}
			d.did(os.Rename(d.path(d.file()), d.path(to)))
		},
		func() { d.did(os.Link(d.path(d.file()), d.path(d.fresh()))) },
		func() { d.did(os.Remove(d.path(d.file()))) },
		func() { // its inode goes to the next file
			name := d.file()
			d.did(errors.Join(os.Remove(d.path(name)), os.WriteFile(d.path(name), []byte("new"), 0o600)))
		},
		func() { d.did(os.Chmod(d.path(d.file()), os.FileMode(d.r.IntN(0o1000)))) },
		func() { d.did(os.Chmod(d.path(d.folder()), 0o700|os.FileMode(d.r.IntN(0o100)))) },
		func() {
			d.did(os.Chtimes(d.path(d.file()), time.Time{}, time.Unix(d.r.Int64N(4e9)-2e9, d.r.Int64N(1e9))))
		},
		func() { d.did(os.Symlink(d.file(), d.path(d.fresh()))) },
		func() { d.did(unix.Mkfifo(d.path(d.fresh()), 0o600)) },
		d.moveFolder, d.swapFolders,
		func() {
			if name := d.folder(); name != "." {
				d.did(os.RemoveAll(d.path(name)))
			}
		},
	}
	things[d.r.IntN(len(things))]()
	d.look()
}

func apart(a, b string) bool {
	return a != "." && b != "." && a != b && !strings.HasPrefix(a, b+"/") && !strings.HasPrefix(b, a+"/")
}

func (d *doer) moveFolder() {
	if from, to := d.folder(), d.folder(); apart(from, to) {
		d.done++
		d.did(os.Rename(d.path(from), d.path(filepath.Join(to, fmt.Sprintf("m%d", d.done)))))
	}
}

// swapFolders swaps two folders, so that both paths exist before and after.
func (d *doer) swapFolders() {
	if a, b := d.folder(), d.folder(); apart(a, b) {
		d.did(unix.Renameat2(unix.AT_FDCWD, d.path(a), unix.AT_FDCWD, d.path(b), unix.RENAME_EXCHANGE))
	}
}
