//go:build integration

package recover_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/recover"
)

// TestDisksAreWrittenAsQcow2: by QEMU's own program, verified, and the same bytes.
func TestDisksAreWrittenAsQcow2(t *testing.T) {
	w := newWorld(t, 1)
	v := w.open(w.unit(0))
	p := w.find(v, "web01@latest")
	dir := t.TempDir()
	phases := map[string]recover.Progress{}
	out, err := v.Restore(t.Context(), p, recover.RestoreOptions{Dir: dir, Format: recover.Qcow2, Verify: true,
		Progress: func(p recover.Progress) { phases[p.Phase] = p }})
	if err != nil {
		t.Fatal(err)
	}
	if len(phases) != 2 || phases[recover.PhaseWrite].Done == 0 {
		t.Errorf("progress %+v", phases)
	}
	for _, d := range out.Disks {
		raw := filepath.Join(dir, string(d.Target)+".want")
		if said, err := exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", d.Path, raw).CombinedOutput(); err != nil {
			t.Fatalf("convert: %v\n%s", err, said)
		}
		got, err := os.ReadFile(raw)
		if err != nil || !bytes.Equal(bytes.TrimRight(got, "\x00"), bytes.TrimRight(w.Disks[0][d.Target], "\x00")) || int64(len(got)) != d.Size {
			t.Errorf("disk %s is not what was backed up: %d bytes, %v", d.Target, len(got), err)
		}
		if info, err := os.Stat(d.Path); err != nil || info.Mode().Perm() != 0o600 || !d.Verified {
			t.Errorf("disk %+v: %v, %v", d, info.Mode(), err)
		}
	}
	xml, err := os.ReadFile(filepath.Join(dir, "vm.xml"))
	if err != nil || !strings.Contains(string(xml), `type="qcow2"`) || !strings.Contains(string(xml), dir+"/vda.qcow2") {
		t.Errorf("vm.xml is %s, %v", xml, err)
	}
}

// TestADamagedDiskIsNotWrittenAsQcow2, and the damage is named, not the program.
func TestADamagedDiskIsNotWrittenAsQcow2(t *testing.T) {
	w := newWorld(t, 1)
	w.change(0, w.largest("packs/"), func(b []byte) []byte {
		for at := len(b) / 4; at < len(b)*3/4; at += 64 {
			b[at] ^= 1
		}
		return b
	})
	v := w.open(w.unit(0))
	dir := t.TempDir()
	_, err := v.Restore(t.Context(), w.find(v, "web01@latest"), recover.RestoreOptions{Dir: dir, Format: recover.Qcow2})
	wantCode(t, err, backstay.CodeDamaged, "packs/")
	entries, _ := os.ReadDir(dir)
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".partial") }) {
		t.Errorf("left behind: %v", entries)
	}
}
