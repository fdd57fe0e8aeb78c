//go:build integration

package nbd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/backstay/backstay/internal/nbd"
)

// TestOtherProgramsReadWhatWeServe: QEMU's own programs and libnbd's.
func TestOtherProgramsReadWhatWeServe(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	content := make([]byte, 64*mib)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	clear(content[8*mib : 40*mib])
	clear(content[50*mib:][:64<<10])
	socket := filepath.Join(dir, "s")
	l, err := nbd.ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- nbd.Serve(ctx, l, nbd.Export{Name: "vda", Description: "a disk", Size: int64(len(content)), Content: bytes.NewReader(content), Extents: inSteps(content)})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	url := "nbd+unix:///vda?socket=" + socket
	if out := run("qemu-nbd", "--list", "-k", socket); !strings.Contains(out, "export: 'vda'") || !strings.Contains(out, "base:allocation") || !strings.Contains(out, "multi") {
		t.Errorf("qemu-nbd --list says\n%s", out)
	}
	var info struct {
		Exports []struct {
			Size     int64 `json:"export-size"`
			ReadOnly bool  `json:"is_read_only"`
		}
	}
	if err := json.Unmarshal([]byte(run("nbdinfo", "--json", url)), &info); err != nil || len(info.Exports) != 1 || info.Exports[0].Size != 64*mib || !info.Exports[0].ReadOnly {
		t.Errorf("nbdinfo says %+v, %v", info, err)
	}
	var runs []struct {
		Start, Length int64
		Data          bool
	}
	if err := json.Unmarshal([]byte(run("qemu-img", "map", "--output=json", "-f", "raw", url)), &runs); err != nil || len(runs) != 5 || runs[1].Data || runs[1].Start != 8*mib || runs[3].Length != 64<<10 {
		t.Errorf("qemu-img map says %+v, %v", runs, err)
	}
	for name, args := range map[string][]string{
		"qemu":   {"qemu-img", "convert", "-f", "raw", "-O", "raw", "-m", "8", "-W", url},
		"libnbd": {"nbdcopy", "--connections=4", url},
	} {
		path := filepath.Join(dir, name)
		run(args[0], append(args[1:], path)...)
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s copied something else (%v)", name, err)
		}
	}
	if out := run("qemu-io", "-f", "raw", "-r", "-c", "read -P 0 8M 32M", "-c", "read 1 511", url); strings.Contains(out, "failed") {
		t.Errorf("qemu-io says\n%s", out)
	}
	if out, err := exec.CommandContext(ctx, "qemu-io", "-f", "raw", "-c", "write 0 4k", url).CombinedOutput(); err == nil && !strings.Contains(string(out), "ead-only") {
		t.Errorf("a read-only disk was written to:\n%s", out)
	}
}

// inSteps describes content in steps of 64 KiB.
func inSteps(content []byte) func(offset, length int64) ([]nbd.Extent, error) {
	const step = 64 << 10
	return func(offset, length int64) (out []nbd.Extent, err error) {
		for at := offset; at < offset+length; {
			n := min(step-at%step, offset+length-at)
			e := nbd.Extent{Offset: at, Length: n}
			if len(bytes.Trim(content[at:at+n], "\x00")) == 0 {
				e.Flags = nbd.Hole | nbd.Zero
			}
			out, at = append(out, e), at+n
		}
		return out, nil
	}
}
