//go:build integration

package host

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/nbd"
)

// presentOf makes a chain of two real images that hold what the disk of the point
// became: data over data, data over zeros, zeros over data, trimmed ranges, in
// steps of a sector. Its size may differ. It returns the top and what it shows.
func presentOf(t *testing.T, w *testWorld, target backstay.DiskTarget, was memoryDisk, grow int) (hypervisor.Image, []byte) {
	t.Helper()
	raw, base := w.path(fmt.Sprintf("vms/%s.%d.raw", target, grow)), w.path(fmt.Sprintf("vms/%s.%d.base", target, grow))
	size := len(was) + grow
	must(t, os.WriteFile(raw, append(was[:min(size, len(was)):min(size, len(was))], make([]byte, max(grow, 0))...), 0o600))
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, base)
	top := hypervisor.Plain(base+".overlay", "qcow2")
	must(t, w.host.images.CreateOverlay(t.Context(), hypervisor.Overlay{Path: top.Location, Backing: hypervisor.Plain(base, "qcow2")}))
	r := rand.New(rand.NewPCG(uint64(size), 11))
	must(t, connectTo(t.Context(), w.host.images, top, int64(size), func(c *nbd.Client) error {
		for i := range 60 {
			at, length := r.IntN(size/512-400)*512, (1+r.IntN(300))*512
			if i%3 == 0 {
				if err := c.WriteZeroes(int64(at), int64(length)); err != nil {
					return err
				}
				continue
			}
			data := bytes.Repeat([]byte{byte(i + 1)}, length)
			if i%5 == 0 {
				clear(data)
			}
			if _, err := c.WriteAt(data, int64(at)); err != nil {
				return err
			}
		}
		_, err := c.WriteAt([]byte("end"), int64(size-3))
		return err
	}))
	plain := w.path("plain")
	qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", top.Location, plain)
	present, err := os.ReadFile(plain)
	must(t, err)
	return top, present
}

// TestARealOverlayHoldsOnlyWhatDiffers, as an independent tool reads it, for disks
// of odd sizes that grew or shrank since; what it stands on is not touched.
func TestARealOverlayHoldsOnlyWhatDiffers(t *testing.T) {
	w, staged, disks := realWorld(t)
	for _, grow := range []int{0, -(1<<20 + 512), 3<<20 + 512*5} {
		r := differencesRequest{Job: testJob, Vault: w.access, Point: pointID}
		present := map[backstay.DiskTarget][]byte{}
		before := map[string]os.FileInfo{}
		for _, d := range staged.Plan.Disks {
			top, shows := presentOf(t, w, d.Target, disks[d.Target], grow)
			present[d.Target] = shows
			info, err := os.Stat(top.Location)
			must(t, err)
			before[top.Location] = info
			r.Disks = append(r.Disks, differencesDisk{Target: d.Target, Present: top, Size: d.Size, Overlay: fmt.Sprintf("%s.%d", d.Path, grow)})
		}
		results, err := w.host.writeDifferences(t.Context(), r, nil)
		must(t, err)
		for i, d := range r.Disks {
			plain, want := w.path("plain"), []byte(disks[d.Target])
			qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", d.Overlay, plain)
			got, err := os.ReadFile(plain)
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Errorf("disk %s, grown by %d, is not that of the point", d.Target, grow)
			}
			was := append(bytes.Clone(present[d.Target]), make([]byte, max(0, len(want)-len(present[d.Target])))...)
			if least := differing(was, want); results[i].BytesWritten != least {
				t.Errorf("disk %s, grown by %d: %d bytes were written, and %d differ", d.Target, grow, results[i].BytesWritten, least)
			}
			qemuImg(t, "check", "-q", "-f", "qcow2", d.Overlay)
			info, err := os.Stat(d.Present.Location)
			must(t, err)
			if was := before[d.Present.Location]; !info.ModTime().Equal(was.ModTime()) || info.Size() != was.Size() {
				t.Errorf("%s was written to", filepath.Base(d.Present.Location))
			}
		}
	}
}
