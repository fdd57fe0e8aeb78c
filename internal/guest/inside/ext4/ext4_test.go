package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// filesOf makes a file system of 100 files in a folder, and returns its disk.
func filesOf(t *testing.T, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	tree, disk := filepath.Join(dir, "tree"), filepath.Join(dir, "disk")
	if err := os.MkdirAll(filepath.Join(tree, "folder"), 0o750); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		name := filepath.Join(tree, "folder", fmt.Sprint(i))
		at := time.Unix(int64(i)*1e7-1e8, int64(i))
		if err := errors.Join(os.WriteFile(name, make([]byte, i), 0o640), os.Chtimes(name, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	args = append([]string{"-q", "-F", "-t", "ext4", "-d", tree}, append(args, disk, "8M")...)
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		program = "/usr/sbin/mke2fs" // which is in the path of few users
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	data, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func inodesOf(t *testing.T, disk []byte) (map[uint64]Inode, error) {
	s, err := Open(bytes.NewReader(disk))
	if err != nil {
		return nil, err
	}
	all := map[uint64]Inode{}
	return all, s.Inodes(t.Context(), func(i Inode) error {
		all[i.Number] = i
		return nil
	})
}

// TestInodesAreWhatWasWritten, whatever the measures of the file system.
func TestInodesAreWhatWasWritten(t *testing.T) {
	for _, args := range [][]string{
		{"-b", "4096"}, {"-b", "1024", "-I", "128", "-O", "^64bit"}, {"-b", "2048", "-I", "1024", "-g", "2048", "-O", "^flex_bg,metadata_csum_seed"},
	} {
		all, err := inodesOf(t, filesOf(t, append(args, "-O", "metadata_csum")...))
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		found := 0
		for _, i := range all {
			if i.Mode == 0o100640 && i.Size < 100 && i.ModTime.Sec == i.Size*1e7-1e8 {
				found++
			}
		}
		if found != 100 {
			t.Errorf("%q: %d of the files among %d inodes", args, found, len(all))
		}
	}
}

// TestADamagedDiskTellsNothingElse: it is refused, or lacks inodes.
func TestADamagedDiskTellsNothingElse(t *testing.T) {
	disk := filesOf(t, "-O", "metadata_csum")
	whole, err := inodesOf(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	r, refused := rand.New(rand.NewPCG(29, 29)), 0
	for n := range 500 {
		bad, end := bytes.Clone(disk), 2048
		if n%2 == 0 {
			end = 512 << 10
		}
		for range 1 + r.IntN(20) {
			bad[1024+r.IntN(end-1024)] ^= byte(1 + r.IntN(255))
		}
		got, err := inodesOf(t, bad)
		if err != nil {
			refused++
		}
		for number, i := range got {
			if whole[number] != i {
				t.Fatalf("inode %d is %+v, not %+v", number, i, whole[number])
			}
		}
	}
	if refused < 250 {
		t.Errorf("%d of 500 are refused", refused)
	}
}

// TestUnfitFileSystemsAreLeftToTheWalk.
func TestUnfitFileSystemsAreLeftToTheWalk(t *testing.T) {
	for _, args := range [][]string{
		{"-O", "^has_journal"}, {"-O", "^metadata_csum"}, {"-O", "inline_data"}, {"-O", "bigalloc"}, {"-O", "meta_bg,^resize_inode"}, {"-O", "casefold"}, {"-O", "encrypt"}, {"-O", "fast_commit"},
	} {
		if _, err := inodesOf(t, filesOf(t, args...)); !errors.Is(err, ErrUnfit) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if _, err := inodesOf(t, make([]byte, 4096)); !errors.Is(err, ErrUnfit) {
		t.Error(err)
	}
}
