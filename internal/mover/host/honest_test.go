package host

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/tripwire"
)

// everyPiece lets the tripwire look at everything that a test's disks have.
func everyPiece(t *testing.T) {
	was := samplePieces
	samplePieces = 4 * testSize / tripwire.PieceBytes
	t.Cleanup(func() { samplePieces = was })
}

// layerOf returns the file on which a disk of a point rests.
func (w *testWorld) layerOf(id backstay.PointID, target backstay.DiskTarget) string {
	w.t.Helper()
	p, err := w.host.openPoint(w.t.Context(), id)
	must(w.t, err)
	d, ok := p.Disk(target)
	if !ok {
		w.t.Fatalf("point %s has no disk %s", id, target)
	}
	return d.Path
}

// TestAMapThatCannotBeTrustedLetsEverythingBeReadAndOnlyWhatIsNewBeStored: I7,
// for each reason, through the vault and back.
func TestAMapThatCannotBeTrustedLetsEverythingBeReadAndOnlyWhatIsNewBeStored(t *testing.T) {
	for _, c := range []struct {
		reason string
		says   string
		disks  []backstay.DiskTarget
		// between happens after the parent is in the vault, before the next snapshot;
		// after it, before its transfer.
		between, after func(w *testWorld)
	}{
		{
			reason: "the vault does not have the parent", says: "the parent",
			disks: []backstay.DiskTarget{"vda", "vdb"},
			after: func(w *testWorld) { w.makeVault(); w.transfer(pointA0, "") },
		},
		{
			reason: "another tool merged the layers", says: "after the point was taken",
			disks: []backstay.DiskTarget{"vda", "vdb"},
			between: func(w *testWorld) {
				for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
					d, err := w.hv.Domain(w.t.Context(), sourceVM)
					must(w.t, err)
					chain := d.Chains[target]
					must(w.t, w.hv.MergeLive(w.t.Context(), sourceVM, hypervisor.Merge{Target: target, Top: chain[0], Base: chain[1]}, nil))
					later(w.t, chain[1])
				}
			},
		},
		{
			reason: "the frozen layer looks older than it was", says: "modified after it was frozen",
			disks: []backstay.DiskTarget{"vda"},
			after: func(w *testWorld) {
				path := w.layerOf(pointID, "vda")
				must(w.t, os.Chtimes(path, time.Time{}, instant))
			},
		},
		{
			reason: "the parent's record is gone", says: "not in the snapshot tier any more",
			disks: []backstay.DiskTarget{"vda", "vdb"},
			after: func(w *testWorld) {
				records, err := filepath.Glob(w.path("vms/.backstay/points/" + string(pointID) + "*"))
				must(w.t, err)
				if len(records) != 1 {
					w.t.Fatalf("records %v", records)
				}
				must(w.t, os.Remove(records[0]))
			},
		},
		{
			reason: "the disk is on a file of another size", says: "size of disk vdb changed",
			disks: []backstay.DiskTarget{"vdb"},
			between: func(w *testWorld) {
				ctx := w.t.Context()
				bigger := w.path("vms/bigger.raw")
				must(w.t, w.hv.Create(ctx, bigger, "raw", 2*testSize))
				content := w.content(sourceVM, "vdb")
				must(w.t, w.hv.Destroy(ctx, sourceVM))
				must(w.t, w.hv.Retarget(ctx, sourceVM, "vdb", hypervisor.Source{Image: hypervisor.Plain(bigger, "raw")}))
				must(w.t, w.hv.Start(ctx, sourceVM))
				must(w.t, w.hv.WriteGuest(sourceVM, "vdb", 0, content))
			},
		},
	} {
		t.Run(c.reason, func(t *testing.T) {
			w := newTestWorld(t)
			if strings.HasPrefix(c.reason, "the vault") {
				w.snapshotOf(pointA0)
			}
			w.snapshotOf(pointID)
			first := w.transfer(pointID, "")
			if c.between != nil {
				c.between(w)
			}
			sums := w.snapshotOf(pointB)
			if c.after != nil {
				c.after(w)
			}
			done := w.transfer(pointB, pointID)
			for _, target := range c.disks {
				if mode := done.Modes[target]; !strings.HasPrefix(mode, "full compare: ") || !strings.Contains(mode, c.says) {
					t.Errorf("disk %s went by %q", target, mode)
				}
			}
			if whole := first.Stats.BytesRead * int64(len(c.disks)) / 2; done.Stats.BytesRead < whole/2 {
				t.Errorf("%d bytes were read; the first copy read %d", done.Stats.BytesRead, first.Stats.BytesRead)
			}
			if done.Stats.BytesNew > first.Stats.BytesNew/8 {
				t.Errorf("nothing changed, and %d bytes were stored (%d by the first copy)", done.Stats.BytesNew, first.Stats.BytesNew)
			}
			v, err := w.host.Verify(t.Context(), mover.VerifyRequest{Job: testJob, Point: pointB, Tier: backstay.VaultTier, Vault: &w.access}, nil)
			must(t, err)
			for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
				if v.SHA256[target] != sums[target] && !strings.Contains(c.says, "size") {
					t.Errorf("disk %s in the vault is not what the guest had", target)
				}
			}
		})
	}
}

const pointA0 = backstay.PointID("01JP0000000000000000000000")

// later lets a file look as if it was written to.
func later(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Chtimes(path, time.Time{}, info.ModTime().Add(time.Second)))
}

// TestTheTripwireFindsAChangeBelowTheMap: somebody wrote to a frozen layer and put
// its times back. The run says so, compares everything, and the vault has what
// the disk has.
func TestTheTripwireFindsAChangeBelowTheMap(t *testing.T) {
	everyPiece(t)
	w := newTestWorld(t)
	w.snapshotOf(pointID)
	w.transfer(pointID, "")
	must(t, w.hv.WriteGuest(sourceVM, "vdb", 0, bytes.Repeat([]byte{9}, 4096)))
	w.snapshotOf(pointB)

	const at = 3 << 20
	path := w.layerOf(pointID, "vda")
	info, err := os.Stat(path)
	must(t, err)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("planted"), at)
	must(t, err)
	must(t, file.Close())
	must(t, os.Chtimes(path, time.Time{}, info.ModTime()))

	done := w.transfer(pointB, pointID)
	if mode := done.Modes["vda"]; !strings.HasPrefix(mode, "full compare: ") || !strings.Contains(mode, "the change map says that they are") {
		t.Errorf("vda went by %q", mode)
	}
	if mode := done.Modes["vdb"]; mode != "changed layers" {
		t.Errorf("vdb went by %q", mode)
	}
	if len(done.Warnings) != 1 || !strings.Contains(done.Warnings[0], "disk vda") || !strings.Contains(done.Warnings[0], " bytes at 31457") {
		t.Errorf("warnings %q", done.Warnings)
	}
	if !strings.Contains(w.logs.String(), "a change map lied") {
		t.Error("nothing is in the log")
	}
	sum := sha256.Sum256(w.content(sourceVM, "vda"))
	v, err := w.host.Verify(t.Context(), mover.VerifyRequest{Job: testJob, Point: pointB, Tier: backstay.VaultTier, Vault: &w.access}, nil)
	must(t, err)
	if v.SHA256["vda"] != hex.EncodeToString(sum[:]) {
		t.Error("the vault does not have what the disk has")
	}
}

// TestTheTripwireReadsLittleAndSaysHowMuch: less than half a MiB for all disks.
func TestTheTripwireReadsLittleAndSaysHowMuch(t *testing.T) {
	w := newTestWorld(t)
	w.snapshotOf(pointID)
	w.transfer(pointID, "")
	w.snapshotOf(pointB)
	done := w.transfer(pointB, pointID)
	if done.Sampled == 0 || done.Sampled > tripwire.RunPieces*tripwire.PieceBytes || len(done.Warnings) > 0 {
		t.Errorf("sampled %d bytes, warnings %q", done.Sampled, done.Warnings)
	}
	if done.Stats.BytesRead != done.Sampled {
		t.Errorf("of an idle guest %d bytes were read, %d of them to look again", done.Stats.BytesRead, done.Sampled)
	}
}
