//go:build integration

package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// memoryDisk is a disk of which all is known.
type memoryDisk []byte

func (d memoryDisk) Size() int64  { return int64(len(d)) }
func (d memoryDisk) Close() error { return nil }

func (d memoryDisk) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, d[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d memoryDisk) Extents(offset, length int64) ([]tier.Extent, error) {
	var extents []tier.Extent
	for at := offset; at < offset+length; {
		n := min(64<<10, offset+length-at)
		extents = append(extents, tier.Extent{Range: backstay.Range{Offset: at, Length: n}, Zero: bytes.Equal(d[at:at+n], make([]byte, n))})
		at += n
	}
	return extents, nil
}

// realWorld is a world whose images QEMU's own tools make, with a point of two
// disks in the vault.
func realWorld(t *testing.T) (*testWorld, mover.StageRequest, map[backstay.DiskTarget]memoryDisk) {
	t.Helper()
	w := newTestWorld(t)
	w.host.images = qemu.New(qemu.Options{Dir: w.path("nbd")})
	// The second ends off every step but a sector's.
	disks := map[backstay.DiskTarget]memoryDisk{"vda": randomDisk(48 << 20), "vdb": randomDisk(33<<20 + 512*3)}
	formats := map[backstay.DiskTarget]string{"vda": "qcow2", "vdb": "raw"}
	v, err := w.openVault(t.Context(), w.access)
	must(t, err)
	writer, err := v.Begin(t.Context(), vault.WriteOptions{Point: pointID})
	must(t, err)
	facts := backstay.RecoveryPoint{ID: pointID, VM: backstay.VMRef{Name: "web01", UUID: sourceVM}, Time: instant}
	r := mover.StageRequest{Job: testJob, Vault: &w.access, Plan: backstay.RestorePlan{Point: pointID, Tier: backstay.VaultTier, Name: "copy", UUID: copyVM}}
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		disk, format := disks[target], formats[target]
		_, err := writer.WriteDisk(t.Context(), vault.DiskSource{Target: target, Format: format, Image: disk})
		must(t, err)
		facts.Disks = append(facts.Disks, backstay.PointDisk{Target: target, Size: disk.Size(), Format: format, Included: true})
		r.Plan.Disks = append(r.Plan.Disks, backstay.PlannedDisk{
			Target: target, Path: w.path("out/copy-" + string(target)), Format: format, Size: disk.Size(),
		})
	}
	_, err = writer.Commit(t.Context(), facts, tier.Definition{InactiveXML: "<domain/>"})
	must(t, err)
	return w, r, disks
}

// randomDisk has runs of random bytes of all lengths, and zeros between.
func randomDisk(size int) memoryDisk {
	r := rand.New(rand.NewPCG(uint64(size), 7))
	d := make(memoryDisk, size)
	for at := r.IntN(1 << 20); at < size; at += r.IntN(3 << 20) {
		end := min(size, at+r.IntN(1<<20))
		for ; at < end; at++ {
			d[at] = byte(r.Uint32())
		}
	}
	d[size-1] = 1
	return d
}

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// TestQEMUReadsFromARestoredDiskWhatThePointHolds: SHA-256 of the whole content,
// as an independent tool reads it, and holes are holes.
func TestQEMUReadsFromARestoredDiskWhatThePointHolds(t *testing.T) {
	w, r, disks := realWorld(t)
	staged, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	if len(staged.Paths) != 2 {
		t.Fatalf("staged %+v", staged)
	}
	for _, d := range r.Plan.Disks {
		plain := w.path("plain")
		qemuImg(t, "convert", "-f", d.Format, "-O", "raw", d.Path, plain)
		got, err := os.ReadFile(plain)
		must(t, err)
		if sha256.Sum256(got) != sha256.Sum256(disks[d.Target]) {
			t.Errorf("disk %s (%s) does not hold what the point holds", d.Target, d.Format)
		}
		info, err := w.host.images.Info(t.Context(), d.Path)
		must(t, err)
		if info.DiskSize > d.Size*9/10 {
			t.Errorf("disk %s takes %d of %d bytes: zeros were written", d.Target, info.DiskSize, d.Size)
		}
	}
}

// TestARestoreThatIsCutOffLeavesNeitherFilesNorServers, wherever it is cut off.
func TestARestoreThatIsCutOffLeavesNeitherFilesNorServers(t *testing.T) {
	for _, cut := range []struct {
		phase string
		part  int64 // of the whole, in percent
	}{{"write", 0}, {"write", 50}, {"verify", 0}, {"verify", 50}} {
		t.Run(fmt.Sprintf("%s %d", cut.phase, cut.part), func(t *testing.T) {
			w, r, _ := realWorld(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			_, err := w.host.Stage(ctx, r, func(p mover.Report) {
				if p.Phase == cut.phase && p.Done*100 >= p.Total*cut.part {
					cancel(backstay.ErrCancelled)
				}
			})
			if !errors.Is(err, backstay.ErrCancelled) {
				t.Errorf("%v", err)
			}
			if left := w.left(); len(left) != 0 {
				t.Errorf("left %v", left)
			}
			sockets, _ := filepath.Glob(w.path("nbd/*/*"))
			if len(sockets) != 0 {
				t.Errorf("left %v", sockets)
			}
		})
	}
}

// TestAFullFileSystemEndsARestoreWithoutATrace, with the code that says so.
func TestAFullFileSystemEndsARestoreWithoutATrace(t *testing.T) {
	w, r, _ := realWorld(t)
	small := w.path("small")
	must(t, os.Mkdir(small, 0o700))
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", small).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	for i, d := range r.Plan.Disks {
		r.Plan.Disks[i].Path = filepath.Join(small, filepath.Base(d.Path))
	}
	if _, err := w.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeNoSpace) {
		t.Errorf("%v, want code no-space", err)
	}
	entries, err := os.ReadDir(small)
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("left %v", entries)
	}
}

// TestTheOtherImageReaderIsAsGood: an image that cannot be read in bulk is read
// window by window.
func TestTheOtherImageReaderIsAsGood(t *testing.T) {
	w, r, disks := realWorld(t)
	j, err := w.host.newJournal(r)
	must(t, err)
	s := &vaultSource{Host: w.host, open: func(_ context.Context, target backstay.DiskTarget) (tier.Image, error) { return disks[target], nil }}
	_, err = s.write(t.Context(), r, j, func(mover.Report) {})
	must(t, err)
	for _, d := range r.Plan.Disks {
		qemuImg(t, "convert", "-f", d.Format, "-O", "raw", d.Path, w.path("plain"))
		got, err := os.ReadFile(w.path("plain"))
		must(t, err)
		if !bytes.Equal(got, disks[d.Target]) {
			t.Errorf("disk %s does not hold what the point holds", d.Target)
		}
	}
}
