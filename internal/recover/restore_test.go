package recover_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/recover"
	"github.com/backstay/backstay/internal/recover/recovertest"
)

// TestARestoreHoldsNothingThatOthersCanRead: I10, and the VM can be made of it.
func TestARestoreHoldsNothingThatOthersCanRead(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	dir := filepath.Join(t.TempDir(), "new", "web01")
	out := w.restored(v, w.find(v, "web01@latest"), recover.RestoreOptions{Dir: dir})
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return nil
	})
	want := []string{"README.txt", "nvram", "point.json", "tpm/tpm2/tpm2-00.permall", "vda.raw", "vdb.raw", "vm-captured.xml", "vm.xml"}
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("files %v, %v; want %v", names, err, want)
	}
	if len(out.Disks) != 2 || len(out.Files) != 6 {
		t.Errorf("it says %+v", out)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	xml := read("vm.xml")
	for _, part := range []string{`file="` + dir + `/vda.raw"`, `file="` + dir + `/vdb.raw"`, `type="raw"`, dir + "/nvram<", "passwd="} {
		if !strings.Contains(xml, part) {
			t.Errorf("vm.xml lacks %q:\n%s", part, xml)
		}
	}
	for _, part := range []string{"/images/", "/dev/vg", "backingStore"} {
		if strings.Contains(xml, part) {
			t.Errorf("vm.xml has %q:\n%s", part, xml)
		}
	}
	if read("vm-captured.xml") != recovertest.Definition.InactiveXML || read("nvram") != string(recovertest.Definition.NVRAM) {
		t.Error("definition or firmware variables are not as they were captured")
	}
	readme := read("README.txt")
	for _, part := range []string{"web01", string(w.Points[0]), "virsh define vm.xml", "/var/lib/libvirt/swtpm/" + recovertest.VMUUID} {
		if !strings.Contains(readme, part) {
			t.Errorf("the README lacks %q:\n%s", part, readme)
		}
	}
	if strings.Contains(readme+read("point.json"), "hunter2") {
		t.Error("a secret is where none belongs")
	}
}

func TestOnlyTheDisksThatAreNamedAreRestored(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	p := w.find(v, "web01@latest")
	out := w.restored(v, p, recover.RestoreOptions{Dir: t.TempDir(), Disks: []backstay.DiskTarget{"vdb", "vdb"}})
	if len(out.Disks) != 1 || out.Disks[0].Target != "vdb" || !strings.Contains(strings.Join(out.Warnings, ""), "disk vda") {
		t.Errorf("restored %+v", out)
	}
	_, err := v.Restore(t.Context(), p, recover.RestoreOptions{Dir: t.TempDir(), Disks: []backstay.DiskTarget{"sda"}})
	wantCode(t, err, backstay.CodeUnknownPoint, "vda, vdb")
	_, err = v.Restore(t.Context(), p, recover.RestoreOptions{Dir: t.TempDir(), Format: "vmdk"})
	wantCode(t, err, backstay.CodeUsage)
	_, err = v.Restore(t.Context(), p, recover.RestoreOptions{})
	wantCode(t, err, backstay.CodeUsage)
}

// TestADiskThatWasEncryptedIsNotWrittenInTheClearUnasked, and nothing of the point is.
func TestADiskThatWasEncryptedIsNotWrittenInTheClearUnasked(t *testing.T) {
	w := newWorld(t, 1)
	w.Locked = map[backstay.DiskTarget]string{"vdb": "5ec2e700-0000-4000-8000-000000000001"}
	if err := w.Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	v := w.open(w.unit(0))
	p := w.find(v, "web01@latest")
	dir := filepath.Join(t.TempDir(), "new")
	_, err := v.Restore(t.Context(), p, recover.RestoreOptions{Dir: dir})
	wantCode(t, err, backstay.CodeEncrypted, "--plain")
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
	w.restored(v, p, recover.RestoreOptions{Dir: t.TempDir(), Disks: []backstay.DiskTarget{"vda"}})
	w.restored(v, p, recover.RestoreOptions{Dir: dir, Plain: true})
}

func TestWithoutTheConverterQcow2IsRefusedAndRawProposed(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	t.Setenv("PATH", t.TempDir())
	dir := filepath.Join(t.TempDir(), "new")
	_, err := v.Restore(t.Context(), w.find(v, "web01@latest"), recover.RestoreOptions{Dir: dir, Format: recover.Qcow2})
	wantCode(t, err, backstay.CodePreflight, "--format raw")
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}

// TestNothingIsReplaced by a restore.
func TestNothingIsReplaced(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	p := w.find(v, "web01@latest")
	for _, name := range []string{"vdb.raw", "README.txt", "tpm"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := v.Restore(t.Context(), p, recover.RestoreOptions{Dir: dir})
		wantCode(t, err, backstay.CodeExists, name)
		entries, _ := os.ReadDir(dir)
		if data, err := os.ReadFile(path); err != nil || string(data) != "mine" || len(entries) != 1 {
			t.Errorf("%s: %q, %v; the folder holds %v", name, data, err, entries)
		}
	}
}

// TestADamagedDiskNeverHasItsName: what was half written is gone, and the same
// call goes on when the missing copy is there (I4, I8).
func TestADamagedDiskNeverHasItsName(t *testing.T) {
	w := newWorld(t, 1)
	// vdb's content is in the pack behind vda's; of two tries one hits it.
	packs := w.names(0, "packs/")
	for _, name := range packs {
		w.change(0, name, func(b []byte) []byte {
			for at := len(b) * 6 / 10; at < len(b)*9/10; at += 64 {
				b[at] ^= 1
			}
			return b
		})
	}
	v := w.open(w.unit(0))
	p := w.find(v, "web01@latest")
	dir := t.TempDir()
	_, err := v.Restore(t.Context(), p, recover.RestoreOptions{Dir: dir})
	wantCode(t, err, backstay.CodeDamaged, "packs/")
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if slices.Contains(names, "vdb.raw") || slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".partial") }) {
		t.Errorf("the folder holds %v", names)
	}
	// With another copy the same command ends what was begun.
	v = w.open(w.unit(0), w.unit(1))
	other := filepath.Join(dir, "..", "other")
	_, err = v.Restore(t.Context(), p, recover.RestoreOptions{Dir: dir, Format: recover.Qcow2})
	wantCode(t, err, backstay.CodeExists, string(p.ID))
	out := w.restored(v, p, recover.RestoreOptions{Dir: dir})
	if slices.Contains(names, "vda.raw") != out.Disks[0].Resumed || out.Disks[1].Resumed {
		t.Errorf("of %v it says %+v", names, out.Disks)
	}
	w.restored(v, p, recover.RestoreOptions{Dir: other})
	if _, err := v.Restore(t.Context(), p, recover.RestoreOptions{Dir: dir}); !backstay.IsCode(err, backstay.CodeExists) {
		t.Errorf("a second restore into the folder: %v", err)
	}
}

// TestWhatACrashLeftIsWrittenAnew: a partial file is never taken for a whole one.
func TestWhatACrashLeftIsWrittenAnew(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	p := w.find(v, "web01@latest")
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := v.Restore(ctx, p, recover.RestoreOptions{Dir: dir, Progress: func(recover.Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a restore that was told to end: %v", err)
	}
	for _, name := range []string{"vda.raw.partial", "vm.xml.partial"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 9<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.restored(v, p, recover.RestoreOptions{Dir: dir})
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".partial") || strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s is left behind", e.Name())
		}
	}
}

// TestWhatDoesNotFitIsNotBegun.
func TestWhatDoesNotFitIsNotBegun(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	p := w.find(v, "web01@latest")
	dir := t.TempDir()
	undo := recover.SetFreeBytes(17 << 20)
	_, err := v.Restore(t.Context(), p, recover.RestoreOptions{Dir: dir})
	undo()
	wantCode(t, err, backstay.CodeNoSpace, dir, "17 MiB are free")
	if disks, _ := filepath.Glob(filepath.Join(dir, "*.raw*")); len(disks) != 0 {
		t.Errorf("it was begun: %v", disks)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the folder is taken by a restore that never began: %v", left)
	}
	w.restored(v, p, recover.RestoreOptions{Dir: dir}) // when there is room
}

// TestTwoRestoresDoNotWriteIntoOneFolder at a time.
func TestTwoRestoresDoNotWriteIntoOneFolder(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	p := w.find(v, "web01@latest")
	dir := t.TempDir()
	var once sync.Once
	w.restored(v, p, recover.RestoreOptions{Dir: dir, Progress: func(recover.Progress) {
		once.Do(func() {
			_, err := v.Restore(t.Context(), p, recover.RestoreOptions{Dir: dir})
			wantCode(t, err, backstay.CodeConflict, dir)
		})
	}})
}

// TestProgressGrowsToItsTotal.
func TestProgressGrowsToItsTotal(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	last := map[string]recover.Progress{}
	var mu sync.Mutex
	w.restored(v, w.find(v, "web01@latest"), recover.RestoreOptions{Dir: t.TempDir(), Verify: true, Progress: func(p recover.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Done < last[p.Phase].Done || p.Done > p.Total {
			t.Errorf("from %+v to %+v", last[p.Phase], p)
		}
		last[p.Phase] = p
	}})
	want := map[string]recover.Progress{}
	for phase, p := range last {
		want[phase] = recover.Progress{Phase: phase, Done: p.Total, Total: p.Total}
	}
	if len(last) != 2 || !reflect.DeepEqual(last, want) {
		t.Errorf("progress ended as %+v", last)
	}
}

// TestADiskIsNeverWrittenOutsideOfTheFolder, whatever a point calls it.
func TestADiskIsNeverWrittenOutsideOfTheFolder(t *testing.T) {
	for _, name := range []string{"vda", "sdb", "nvme0n1"} {
		if err := recover.NamesFile(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "../vda", "/etc/vda", "a/b", "vda/"} {
		if err := recover.NamesFile(name); !backstay.IsCode(err, backstay.CodeDamaged) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
