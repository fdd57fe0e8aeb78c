package host

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/nbd"
)

const pointNow = backstay.PointID("01JP0000000000000000000009")

var bothDisks = []backstay.DiskTarget{"vda", "vdb"}

// contents are the disks as the guest sees them.
func (w *testWorld) contents() map[backstay.DiskTarget][]byte {
	all := map[backstay.DiskTarget][]byte{}
	for _, target := range bothDisks {
		all[target] = w.content(sourceVM, target)
	}
	return all
}

// differences asks for overlays on the disks of the point pointNow.
func (w *testWorld) differences(p backstay.PointID) differencesRequest {
	w.t.Helper()
	r := differencesRequest{Job: testJob, Vault: w.access, Point: p, Now: pointNow}
	point, err := w.host.openPoint(w.t.Context(), pointNow)
	must(w.t, err)
	for _, d := range point.Disks {
		r.Disks = append(r.Disks, differencesDisk{
			Target: d.Target, Present: hypervisor.Plain(d.Path, d.Format), Size: d.Size,
			Overlay: w.path("out/" + string(d.Target) + ".differences.qcow2"),
		})
	}
	return r
}

// shown is what an overlay shows.
func (w *testWorld) shown(path string, size int64) []byte { return w.shownAs(path, "qcow2", size) }

// shownAs is what an image shows.
func (w *testWorld) shownAs(path, format string, size int64) []byte {
	w.t.Helper()
	data := make([]byte, size)
	must(w.t, connectImage(w.t.Context(), w.host.images, hypervisor.Plain(path, format), hypervisor.ExportOptions{}, size, func(c *nbd.Client) error {
		_, err := c.ReadAt(data, 0)
		return err
	}))
	return data
}

// differing counts the bytes in steps that differ, and how many of them are data
// in what is wanted.
func differing(present, wanted []byte) (data int64) {
	for at := 0; at < len(wanted); at += 4096 {
		step := wanted[at:min(at+4096, len(wanted))]
		if !bytes.Equal(step, present[at:min(at+len(step), len(present))]) && !bytes.Equal(step, make([]byte, len(step))) {
			data += int64(len(step))
		}
	}
	return data
}

// changeAll changes data to data, data to zeros and zeros to data, also as the guest
// trims it.
func (w *testWorld) changeAll(seed byte) {
	w.t.Helper()
	for _, target := range bothDisks {
		must(w.t, w.hv.WriteGuest(sourceVM, target, 8192+int64(seed)*4096, bytes.Repeat([]byte{seed}, 5*4096)))
		must(w.t, w.hv.WriteGuest(sourceVM, target, 1<<20, make([]byte, 64<<10)))
		must(w.t, w.hv.WriteGuest(sourceVM, target, testSize-4096, bytes.Repeat([]byte{seed}, 4096)))
	}
}

func (w *testWorld) checkDifferences(r differencesRequest, results []differencesResult, want, present map[backstay.DiskTarget][]byte, mode string) {
	w.t.Helper()
	for i, d := range r.Disks {
		if !bytes.Equal(w.shown(d.Overlay, d.Size), want[d.Target]) {
			w.t.Errorf("disk %s is not that of the point", d.Target)
		}
		result, least := results[i], differing(present[d.Target], want[d.Target])
		if result.BytesWritten != least {
			w.t.Errorf("disk %s: %d bytes were written, and %d differ", d.Target, result.BytesWritten, least)
		}
		if !strings.HasPrefix(result.Mode, mode) {
			w.t.Errorf("disk %s went by %q, not %q", d.Target, result.Mode, mode)
		}
	}
}

// TestOnlyWhatDiffersIsWrittenToADiskThatGoesBack: by the maps, also through other
// points, and by comparing everything. What it stands on is not touched (I8).
func TestOnlyWhatDiffersIsWrittenToADiskThatGoesBack(t *testing.T) {
	for _, c := range []struct {
		name, mode string
		prepare    func(w *testWorld, r *differencesRequest)
	}{
		{"by the layers above the point", "changed layers", func(*testWorld, *differencesRequest) {}},
		{"by another point and the vault's tables", "changed layers", func(w *testWorld, _ *differencesRequest) {
			must(w.t, w.host.DropPoint(w.t.Context(), pointID, nil))
		}},
		{"by saved maps", "changed layers", func(w *testWorld, _ *differencesRequest) {
			must(w.t, w.host.DropPoint(w.t.Context(), pointID, nil))
			must(w.t, w.host.DropPoint(w.t.Context(), pointB, nil))
		}},
		{"without a point of the present", "full compare: the present state is no point", func(_ *testWorld, r *differencesRequest) { r.Now = "" }},
		{"with a layer that somebody wrote to", "full compare: ", func(w *testWorld, r *differencesRequest) {
			for _, target := range bothDisks {
				path := w.layerOf(pointB, target)
				must(w.t, os.Chtimes(path, time.Time{}, instant))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorld(t)
			want := w.contents()
			w.snapshotOf(pointID)
			w.transfer(pointID, "")
			w.changeAll(1)
			w.snapshotOf(pointB)
			w.transfer(pointB, pointID)
			w.changeAll(9)
			w.snapshotOf(pointNow)
			present := w.contents()
			asked := w.differences(pointID)
			c.prepare(w, &asked)
			r := w.differences(pointID) // a drop names layers anew
			r.Now = asked.Now
			before := map[string][]byte{}
			for _, d := range r.Disks {
				data, err := os.ReadFile(d.Present.Location)
				must(t, err)
				before[d.Present.Location] = data
			}
			results, err := w.host.writeDifferences(t.Context(), r, nil)
			must(t, err)
			w.checkDifferences(r, results, want, present, c.mode)
			for path, was := range before {
				if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, was) {
					t.Errorf("%s was changed: %v", path, err)
				}
			}
			if c.mode == "changed layers" {
				for _, result := range results {
					if result.BytesRead > testSize/4 {
						t.Errorf("disk %s: %d bytes were read", result.Target, result.BytesRead)
					}
				}
			}
		})
	}
}

// TestAMapThatLiesIsFoundBeforeADiskGoesBack, and everything is compared (I7).
func TestAMapThatLiesIsFoundBeforeADiskGoesBack(t *testing.T) {
	everyPiece(t)
	w := newTestWorld(t)
	want := w.contents()
	w.snapshotOf(pointID)
	w.transfer(pointID, "")
	w.changeAll(1)
	w.snapshotOf(pointNow)
	const at = 3 << 20
	path := w.layerOf(pointID, "vda")
	info, err := os.Stat(path)
	must(t, err)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("planted"), at)
	must(t, errors.Join(err, file.Close()))
	must(t, os.Chtimes(path, time.Time{}, info.ModTime()))

	r := w.differences(pointID)
	results, err := w.host.writeDifferences(t.Context(), r, nil)
	must(t, err)
	w.checkDifferences(r, results, want, w.contents(), "")
	if !strings.Contains(results[0].Mode, "the change map says that they do not") || results[0].Warning == "" || results[1].Warning != "" {
		t.Errorf("%+v", results)
	}
}

// TestDifferencesGoOnFromWhatAKilledAttemptWrote, wherever it was killed: what is
// there is proved and not written again, and what is wrong there is put right.
func TestDifferencesGoOnFromWhatAKilledAttemptWrote(t *testing.T) {
	w := newTestWorld(t)
	want := w.contents()
	w.snapshotOf(pointID)
	w.transfer(pointID, "")
	w.changeAll(1)
	w.snapshotOf(pointNow)
	r := w.differences(pointID)
	first, err := w.host.writeDifferences(t.Context(), r, nil)
	must(t, err)
	again, err := w.host.writeDifferences(t.Context(), r, nil)
	must(t, err)
	for i, d := range r.Disks {
		if again[i].BytesWritten != 0 || first[i].BytesWritten == 0 {
			t.Errorf("written %d and then %d bytes", first[i].BytesWritten, again[i].BytesWritten)
		}
		// Half of what was written is lost, and something else is there instead.
		must(t, connectTo(t.Context(), w.host.images, hypervisor.Plain(d.Overlay, "qcow2"), d.Size, func(c *nbd.Client) error {
			_, err := c.WriteAt(bytes.Repeat([]byte("rubbish "), 2048), 2<<20)
			return err
		}))
	}
	_, err = w.host.writeDifferences(t.Context(), r, nil)
	must(t, err)
	for _, d := range r.Disks {
		if !bytes.Equal(w.shown(d.Overlay, d.Size), want[d.Target]) {
			t.Errorf("disk %s is not that of the point", d.Target)
		}
	}
	r.Disks[0].Overlay = w.path("out/mine")
	must(t, os.WriteFile(r.Disks[0].Overlay, []byte("mine"), 0o600))
	if _, err := w.host.writeDifferences(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodePreflight) {
		t.Errorf("over a file of somebody else's: %v", err)
	}
	if data, err := os.ReadFile(filepath.Clean(r.Disks[0].Overlay)); err != nil || string(data) != "mine" {
		t.Errorf("%q %v", data, err)
	}
}

// TestWrongBytesInAnOverlayAreFound: what was written is read back.
func TestWrongBytesInAnOverlayAreFound(t *testing.T) {
	w := newTestWorld(t)
	w.snapshotOf(pointID)
	w.transfer(pointID, "")
	w.changeAll(1)
	w.snapshotOf(pointNow)
	r := w.differences(pointID)
	spoilt := false
	_, err := w.host.writeDifferences(t.Context(), r, func(p mover.Report) {
		if p.Phase != "verify" || spoilt {
			return
		}
		spoilt = true
		must(t, connectTo(t.Context(), w.host.images, hypervisor.Plain(r.Disks[1].Overlay, "qcow2"), r.Disks[1].Size, func(c *nbd.Client) error {
			_, err := c.WriteAt([]byte{0xff}, testSize-7)
			return err
		}))
	})
	if !backstay.IsCode(err, backstay.CodeRestoreFailed) {
		t.Errorf("%v, want code restore-failed", err)
	}
}
