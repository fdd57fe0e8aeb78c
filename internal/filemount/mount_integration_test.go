//go:build integration

package filemount

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

// mounted is a world with two volumes of a guest, mounted.
func mounted(t *testing.T) (f *fakeSource, dir string, s *served) {
	t.Helper()
	rootfs, home := t.TempDir(), t.TempDir()
	for _, d := range []string{"etc/deep/er", "home", "empty", "many"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(rootfs, "etc/conf"), []byte("a setting\n"), 0o640))
	must(t, os.WriteFile(filepath.Join(rootfs, "etc/odd \xff\xfe\nname"), []byte("odd"), 0o600))
	must(t, os.WriteFile(filepath.Join(rootfs, "etc/deep/er/big"), someBytes(9<<20+5), 0o644))
	must(t, os.Link(filepath.Join(rootfs, "etc/conf"), filepath.Join(rootfs, "etc/conf2")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(rootfs, "etc/absolute")))
	must(t, os.Symlink("conf", filepath.Join(rootfs, "etc/relative")))
	must(t, syscall.Mkfifo(filepath.Join(rootfs, "pipe"), 0o600))
	for i := range 40 {
		must(t, os.WriteFile(filepath.Join(rootfs, "many", fmt.Sprint("f", i)), []byte{byte(i)}, 0o644))
	}
	must(t, os.WriteFile(filepath.Join(home, "mine"), []byte("at home"), 0o600))
	must(t, os.Chown(filepath.Join(home, "mine"), 1234, 5678))
	must(t, os.Chtimes(filepath.Join(home, "mine"), time.Unix(1e9, 0), time.Unix(1e9, 123456789)))
	f = &fakeSource{
		folders: map[backstay.VolumeID]string{"vg0/root": rootfs, "vdb1": home},
		session: backstay.FileSession{ID: "01SESSION", Created: time.Unix(1.7e9, 0), Volumes: []backstay.Volume{
			{ID: "vg0/root", Kind: backstay.VolumeFiles, MountPoint: "/"}, {ID: "vdb1", Kind: backstay.VolumeFiles, MountPoint: "/home"},
			{ID: "vda5", Kind: backstay.VolumeSwap},
		}},
	}
	dir = t.TempDir()
	s = serve(t, f, Order{Kind: backstay.SessionMount, Session: "01SESSION", Dir: dir})
	if said := <-s.said; said.Error != "" {
		t.Fatal(said.Error)
	}
	t.Cleanup(func() {
		s.stop()
		_ = unmount(dir)
	})
	return f, dir, s
}

// tree is all of a folder, with what a file is and holds.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%q %v %d:%d %d %v", name, info.Mode(), s.Uid, s.Gid, s.Nlink, info.ModTime().UnixNano())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %x", s.Size, sha256.Sum256(data))
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			b.WriteString(" -> " + target)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// TestAMountShowsThePointAsItIs: each volume, and the guest's own tree of them; nothing can
// be written, and what was seen once is not asked for again.
func TestAMountShowsThePointAsItIs(t *testing.T) {
	f, dir, s := mounted(t)
	if got := strings.Join(names(dir), " "); got != "guest vdb1 vg0-root" {
		t.Errorf("at the top: %s", got)
	}
	if got, want := tree(t, filepath.Join(dir, "vg0-root")), tree(t, f.folders["vg0/root"]); got != want {
		t.Errorf("mounted:\n%s\nand is\n%s", got, want)
	}
	got := tree(t, filepath.Join(dir, "guest"))
	for _, want := range []string{`"home/mine" -rw------- 1234:5678 1 1000000000123456789 7`, `"etc/deep/er/big"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in the guest's tree:\n%s", want, got)
		}
	}
	var one, two syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(dir, "vg0-root/etc/conf"), &one))
	must(t, syscall.Stat(filepath.Join(dir, "vg0-root/etc/conf2"), &two))
	if one.Nlink != 2 || two.Nlink != 2 {
		t.Errorf("two names of a file: %d, %d", one.Nlink, two.Nlink)
	}
	if err := os.WriteFile(filepath.Join(dir, "vg0-root/etc/conf"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("written: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "vg0-root/none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	f.mu.Lock()
	before := f.asked
	f.mu.Unlock()
	_ = tree(t, filepath.Join(dir, "vg0-root/many"))
	f.mu.Lock()
	if f.asked-before > 40/pageOf+3 {
		t.Errorf("%d questions for a folder that was seen before", f.asked-before)
	}
	f.mu.Unlock()
	must(t, Unmount(dir))
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	if f.mu.Lock(); !f.ended {
		t.Error("the session goes on without its mount")
	}
	f.mu.Unlock()
}

// TestAMountGoesWithItsSession, also while a program has a file open.
func TestAMountGoesWithItsSession(t *testing.T) {
	f, dir, s := mounted(t)
	open, err := os.Open(filepath.Join(dir, "vg0-root/etc/deep/er/big"))
	must(t, err)
	defer func() { _ = open.Close() }()
	some := make([]byte, 1000)
	if _, err := open.Read(some); err != nil || bytes.Equal(some, make([]byte, 1000)) {
		t.Fatal(err)
	}
	must(t, f.End(t.Context()))
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	if _, mounted, err := MountedOn(dir); mounted || err != nil {
		t.Errorf("still mounted: %v", err)
	}
	if left := names(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := open.ReadAt(some, 8<<20); err == nil {
		t.Error("a file of an ended session is read on")
	}
}

// TestAMountThatIsToEndGoes: its process is told to, by the system for instance.
func TestAMountThatIsToEndGoes(t *testing.T) {
	_, dir, s := mounted(t)
	s.stop()
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	if _, mounted, _ := MountedOn(dir); mounted {
		t.Error("still mounted")
	}
	if err := Unmount(dir); !backstay.IsCode(err, backstay.CodeUnknownSession) {
		t.Error(err)
	}
}
