package snapshot

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

var background = context.Background()

func TestPointSaysHowConsistentItIsAndWhy(t *testing.T) {
	for name, c := range map[string]struct {
		running bool
		arrange func(w *world)
		wish    backstay.Consistency
		want    backstay.Consistency
		reason  string
	}{
		"frozen":        {true, nil, backstay.ApplicationConsistent, backstay.FileSystemConsistent, "were frozen"},
		"not wished":    {true, nil, backstay.CrashConsistent, backstay.CrashConsistent, "nothing more was wished"},
		"shut off":      {false, nil, backstay.FileSystemConsistent, backstay.CrashConsistent, "shut off"},
		"no agent":      {true, func(w *world) { w.hv.SetAgent(vmID, backstay.AgentNone) }, backstay.FileSystemConsistent, backstay.CrashConsistent, "no guest agent"},
		"agent is away": {true, func(w *world) { w.hv.SetAgent(vmID, backstay.AgentDisconnected) }, backstay.FileSystemConsistent, backstay.CrashConsistent, "not running"},
		"agent hangs": {true, func(w *world) { w.hv.FailQuiesce(vmID, errors.New("no answer in 2 s")) }, backstay.FileSystemConsistent,
			backstay.CrashConsistent, "could not be frozen: no answer in 2 s"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.running)
			if c.arrange != nil {
				c.arrange(w)
			}
			id := w.nextPoint()
			_, err := w.tier.Prepare(background, w.request(id))
			must(t, err)
			r := w.takeRequest(id)
			r.Wish = c.wish
			p, err := w.tier.Take(background, r)
			must(t, err)
			if p.Consistency != c.want || !strings.Contains(p.Reason, c.reason) {
				t.Errorf("point is %s because %q, want %s because %q", p.Consistency, p.Reason, c.want, c.reason)
			}
		})
	}
}

func TestPrepareRefusesWhatCannotBeBackedUpByNameAndReason(t *testing.T) {
	w := newWorld(t, true)
	r := w.request(w.nextPoint())
	r.Disks = []backstay.DiskTarget{"vda", "vdz"}
	if _, err := w.tier.Prepare(background, r); !backstay.IsCode(err, backstay.CodeDiskNotPossible) || !strings.Contains(err.Error(), "vdz") {
		t.Errorf("a disk that is not there: %v", err)
	}
	r.Disks = nil
	if _, err := w.tier.Prepare(background, r); !backstay.IsCode(err, backstay.CodeNoDisks) {
		t.Errorf("no disk at all: %v", err)
	}
	must(t, os.Rename(w.disk("vdb.qcow2"), w.disk("away")))
	r.Disks = []backstay.DiskTarget{"vdb"}
	_, err := w.tier.Prepare(background, r)
	if !backstay.IsCode(err, backstay.CodeDiskNotPossible) || !strings.Contains(err.Error(), "vdb") || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a disk whose file is gone: %v", err)
	}
	r.Disks = []backstay.DiskTarget{"vda"}
	if _, err := w.tier.Prepare(background, r); err != nil {
		t.Errorf("the rest is still possible, but: %v", err)
	}
	r.VM = "22222222-2222-4222-8222-222222222222"
	if _, err := w.tier.Prepare(background, r); !backstay.IsCode(err, backstay.CodeUnknownVM) {
		t.Errorf("a VM that is not there: %v", err)
	}
}

func TestFailedSwitchLeavesNothing(t *testing.T) {
	w := newWorld(t, true)
	id := w.nextPoint()
	_, err := w.tier.Prepare(background, w.request(id))
	must(t, err)
	w.hv.Hook = func(call string) error {
		if call == "switch" {
			return errors.New("monitor closed")
		}
		return nil
	}
	_, err = w.tier.Take(background, w.takeRequest(id))
	if !backstay.IsCode(err, backstay.CodeSnapshotFailed) || !strings.Contains(err.Error(), "monitor closed") {
		t.Errorf("error is %v", err)
	}
	w.clean()
	if got := w.layers(); len(got) != 2 {
		t.Errorf("files are left: %v", got)
	}
}

func TestTakeAndSettleMayBeRepeated(t *testing.T) {
	w := newWorld(t, true)
	id, _ := w.take()
	again, err := w.tier.Take(background, w.takeRequest(id))
	must(t, err)
	settled, found, err := w.tier.Settle(background, vmID, id)
	must(t, err)
	if again.ID != id || !found || settled.ID != id {
		t.Errorf("take again: %v, settle: %v %v", again.ID, settled.ID, found)
	}
	if _, found, err := w.tier.Settle(background, vmID, "01NEVER"); found || err != nil {
		t.Errorf("settling a point that never was: %v %v", found, err)
	}
}

func TestLayerWithUsersIsNotMerged(t *testing.T) {
	w := newWorld(t, true)
	first, at := w.take()
	second, _ := w.take()
	p, err := w.tier.Open(background, second)
	must(t, err)
	img, err := p.OpenDisk(background, "vdb", "job-7")
	must(t, err)
	if err := w.tier.Drop(background, first, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) || !strings.Contains(err.Error(), "job-7") {
		t.Errorf("dropped below a reader: %v", err)
	}
	if got := w.point(first); got != at {
		t.Error("the refused drop changed the point")
	}
	must(t, img.Close())
	overlay := w.disk("thin.qcow2")
	must(t, w.hv.CreateOverlay(background, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(p.Disks[0].Path, p.Disks[0].Format)}))
	must(t, w.tier.AddUser(second, "vda", User{Kind: UserVM, ID: "vm-9", Overlay: overlay}))
	for _, id := range []backstay.PointID{first, second} {
		if err := w.tier.Drop(background, id, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) || !strings.Contains(err.Error(), "vm-9") {
			t.Errorf("dropped %s below a restored VM: %v", id, err)
		}
	}
	w.sweep()
	if err := w.tier.Drop(background, second, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
		t.Errorf("the sweep forgot a user whose overlay is there: %v", err)
	}
	must(t, os.Remove(overlay))
	w.sweep()
	must(t, w.tier.Drop(background, first, nil))
	must(t, w.tier.Drop(background, second, nil))
	w.clean()
}

// TestStrangersOverlayProtectsALayer: somebody else put a VM on a layer, of
// which only the hypervisor knows.
func TestStrangersOverlayProtectsALayer(t *testing.T) {
	w := newWorld(t, true)
	id, at := w.take()
	p, err := w.tier.Open(background, id)
	must(t, err)
	overlay := w.disk("strangers.qcow2")
	must(t, w.hv.CreateOverlay(background, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(p.Disks[1].Path, p.Disks[1].Format)}))
	other := backstay.VMID("33333333-3333-4333-8333-333333333333")
	_, err = w.hv.Define(background, fake.XML("other", other, backstay.Disk{Target: "vda", Source: overlay, Format: "qcow2"}))
	must(t, err)
	if err := w.tier.Drop(background, id, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) || !strings.Contains(err.Error(), "other") {
		t.Errorf("merged below a VM: %v", err)
	}
	if w.point(id) != at {
		t.Error("the refused drop changed the point")
	}
}

func TestChangesNameWhatMayDiffer(t *testing.T) {
	w := newWorld(t, true)
	first, _ := w.take()
	must(t, w.hv.WriteGuest(vmID, "vda", 8*4096, bytes.Repeat([]byte{9}, 8192)))
	second, _ := w.take()
	third, _ := w.take()
	b, err := w.tier.load()
	must(t, err)
	if b.Points[second].Parent != first || b.Points[third].Parent != second {
		t.Errorf("parents are %q and %q", b.Points[second].Parent, b.Points[third].Parent)
	}
	before := w.changes(second, first)
	if !slices.ContainsFunc(before, func(r backstay.Range) bool { return r.Offset <= 8*4096 && r.End() >= 10*4096 }) {
		t.Errorf("changes %v lack what was written", before)
	}
	both := w.changes(third, first)
	if backstay.TotalLength(both) < backstay.TotalLength(before) || backstay.TotalLength(both) >= diskSize {
		t.Errorf("changes over two points are %v", both)
	}
	must(t, w.tier.Drop(background, second, nil))
	if after := w.changes(third, first); !slices.Equal(after, both) {
		t.Errorf("a merge changed the list from %v to %v", both, after)
	}
}

func (w *world) changes(point, parent backstay.PointID) []backstay.Range {
	w.t.Helper()
	ranges, ok, reason, err := w.tier.Changes(background, point, parent, "vda")
	if err != nil || !ok {
		w.t.Fatalf("no change map: %s, %v", reason, err)
	}
	return ranges
}

func TestDoubtfulChangeMapIsNone(t *testing.T) {
	w := newWorld(t, true)
	first, _ := w.take()
	second, _ := w.take()
	expect := func(point, parent backstay.PointID, words string) {
		t.Helper()
		_, ok, reason, err := w.tier.Changes(background, point, parent, "vda")
		if ok || err != nil || !strings.Contains(reason, words) {
			t.Errorf("changes of %s since %s: %v, %q, %v; want %q", point, parent, ok, reason, err, words)
		}
	}
	expect(second, "", "no earlier point")
	expect(second, "01UNKNOWN", "not in the snapshot tier")
	expect(first, second, "is not below")
	p, err := w.tier.Open(background, second)
	must(t, err)
	layer, _ := p.Disk("vda")
	file, err := os.OpenFile(layer.Path, os.O_RDWR, 0)
	must(t, err)
	_, err = file.WriteAt([]byte{'{'}, 0) // the same byte: only its time tells
	must(t, errors.Join(err, file.Close()))
	expect(second, first, "was modified")
}

func TestVMPutBackOnAFrozenLayerBreaksItsPoints(t *testing.T) {
	w := newWorld(t, false)
	first, _ := w.take()
	second, _ := w.take()
	must(t, w.hv.Retarget(background, vmID, "vda", hypervisor.Source{Image: hypervisor.Plain(w.disk("vda.raw"), "raw")}))
	w.write()
	third := w.nextPoint()
	_, err := w.tier.Prepare(background, w.request(third))
	must(t, err)
	for _, id := range []backstay.PointID{first, second} {
		if _, err := w.tier.Open(background, id); !backstay.IsCode(err, backstay.CodeNotRestorable) || !strings.Contains(err.Error(), "wrote to") {
			t.Errorf("point %s: %v", id, err)
		}
	}
	at := w.guest()
	_, err = w.tier.Take(background, w.takeRequest(third))
	must(t, err)
	w.write()
	if w.point(third) != at {
		t.Error("the next point is not what the guest had")
	}
	now := w.guest()
	must(t, w.tier.Drop(background, first, nil))
	if w.guest() != now || w.point(third) != at {
		t.Error("dropping a broken point changed something")
	}
}

// TestPointWhoseLayerSomebodyWroteToIsNotOffered: a user merged our overlay by
// hand, or put the VM back on its old file, and no backup has come since.
func TestPointWhoseLayerSomebodyWroteToIsNotOffered(t *testing.T) {
	w := newWorld(t, true)
	first, _ := w.take()
	second, at := w.take()
	p, err := w.tier.Open(background, second)
	must(t, err)
	top := p.Disks[1].Path
	info, err := os.Stat(top)
	must(t, err)
	// A time that a power loss took back is no sign of a write.
	must(t, os.Chtimes(top, time.Time{}, info.ModTime().Add(-time.Minute)))
	if w.point(second) != at {
		t.Error("the point changed")
	}
	must(t, os.Chtimes(top, time.Time{}, info.ModTime().Add(time.Millisecond)))
	if _, err := w.tier.Open(background, second); !backstay.IsCode(err, backstay.CodeNotRestorable) || !strings.Contains(err.Error(), "was modified") {
		t.Errorf("open: %v", err)
	}
	if err := w.tier.AddUser(second, "vdb", User{Kind: UserVM, ID: "other"}); !backstay.IsCode(err, backstay.CodeNotRestorable) {
		t.Errorf("stand on it: %v", err)
	}
	points, err := w.tier.Points(background)
	must(t, err)
	if len(points) != 1 || points[0].ID != first {
		t.Errorf("offered: %v", points)
	}
	// It goes like any other.
	now := w.guest()
	must(t, w.tier.Drop(background, second, nil))
	if w.guest() != now {
		t.Error("dropping the point changed what the guest sees")
	}
}

func TestReleasePutsTheVMOnItsOwnFiles(t *testing.T) {
	for _, running := range []bool{true, false} {
		w := newWorld(t, running)
		for range 3 {
			w.take()
		}
		seen := w.guest()
		w.release()
		if w.active() != "vda.raw vdb.qcow2" || w.guest() != seen {
			t.Errorf("running=%v: VM is on %s, content kept: %v", running, w.active(), w.guest() == seen)
		}
		if got := w.layers(); len(got) != 2 {
			t.Errorf("files are left: %v", got)
		}
		b, err := w.tier.load()
		must(t, err)
		if len(b.Layers)+len(b.Points) > 0 {
			t.Errorf("%d layers and %d points are still recorded", len(b.Layers), len(b.Points))
		}
	}
}

func TestSecretsAreSealedBesideTheDisk(t *testing.T) {
	w := newWorld(t, true)
	id, _ := w.take()
	p, err := w.tier.Open(background, id)
	must(t, err)
	if !strings.Contains(p.Definition.LiveXML, "<name>web01</name>") || p.Definition.InactiveXML == "" {
		t.Errorf("definition is %+v", p.Definition)
	}
	must(t, filepath.WalkDir(w.disk(""), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if info, err := e.Info(); err != nil || strings.Contains(path, record.Folder) && info.Mode().Perm() != 0o700 {
				t.Errorf("folder %s has mode %v (%v)", path, info.Mode(), err)
			}
			return nil
		}
		if data, err := os.ReadFile(path); err != nil || bytes.Contains(data, []byte("<domain")) {
			t.Errorf("%s holds the definition in the clear (%v)", path, err)
		}
		return nil
	}))
}

func TestDefinitionOfAnotherPointOrHostIsNotOpened(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	d := tier.Definition{InactiveXML: "<x/>", NVRAM: bytes.Repeat([]byte{0xff}, 540672), TPM: map[string][]byte{"tpm2/tpm2-00.permall": {1, 2}}}
	sealed, err := seal(key, "01A", d)
	must(t, err)
	if len(sealed) > 4096 {
		t.Errorf("erased firmware variables take %d bytes", len(sealed))
	}
	got, err := unseal(key, "01A", sealed)
	must(t, err)
	if got.InactiveXML != d.InactiveXML || !bytes.Equal(got.NVRAM, d.NVRAM) || !bytes.Equal(got.TPM["tpm2/tpm2-00.permall"], []byte{1, 2}) {
		t.Error("the definition changed")
	}
	if _, err := unseal(key, "01B", sealed); err == nil {
		t.Error("opened as that of another point")
	}
	if _, err := unseal(bytes.Repeat([]byte{2}, 32), "01A", sealed); err == nil {
		t.Error("opened with another key")
	}
	for i := range sealed {
		sealed[i] ^= 1
		if _, err := unseal(key, "01A", sealed); err == nil {
			t.Fatalf("opened with byte %d changed", i)
		}
		sealed[i] ^= 1
	}
	if _, err := unseal(key, "01A", sealed[:5]); err == nil {
		t.Error("opened cut short")
	}
}

func TestRecordOfANewerVersionIsRefusedInWords(t *testing.T) {
	w := newWorld(t, true)
	id, _ := w.take()
	b, err := w.tier.load()
	must(t, err)
	data, err := os.ReadFile(b.PointFiles[id])
	must(t, err)
	must(t, os.WriteFile(b.PointFiles[id], bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": 2`), 1), 0o600))
	if _, err := w.tier.Points(background); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("error is %v", err)
	}
}

func TestPointWithAMissingLayerIsNotOffered(t *testing.T) {
	w := newWorld(t, true)
	w.take()
	second, _ := w.take()
	p, err := w.tier.Open(background, second)
	must(t, err)
	must(t, os.Rename(p.Disks[0].Path, p.Disks[0].Path+".away"))
	points, err := w.tier.Points(background)
	must(t, err)
	if len(points) != 1 || points[0].ID == second {
		t.Errorf("offered: %v", points)
	}
}

func TestSweepThawsAndLeavesLiveJobsAlone(t *testing.T) {
	w := newWorld(t, true)
	id := w.nextPoint()
	_, err := w.tier.Prepare(background, w.request(id))
	must(t, err)
	w.hv.Hook = func(call string) error {
		if call == "switch" {
			w.crashAt(0)
			return errCrash
		}
		return nil
	}
	if _, err := w.tier.Take(background, w.takeRequest(id)); err == nil {
		t.Fatal("the crash did not happen")
	}
	w.restart()
	w.hv.SetFrozen(vmID, true)
	s, err := w.tier.Sweep(background, SweepOptions{Live: []backstay.JobID{"job"}})
	must(t, err)
	if !slices.Equal(s.Thawed, []backstay.VMID{vmID}) || len(s.Removed) > 0 || len(w.layers()) != 4 {
		t.Errorf("swept %+v, files %v", s, w.layers())
	}
	if s := w.sweep(); len(s.Removed) != 2 || len(w.layers()) != 2 {
		t.Errorf("swept %+v, files %v", s, w.layers())
	}
}

func TestPointsAreFoundWithoutTheStateFolder(t *testing.T) {
	w := newWorld(t, true)
	id, at := w.take()
	must(t, os.RemoveAll(filepath.Join(w.dir, "state")))
	w.restart()
	points, err := w.tier.Points(background)
	must(t, err)
	if len(points) != 1 || points[0].ID != id || w.point(id) != at {
		t.Errorf("found %v", points)
	}
}

// TestAnyNameOfAVMMakesAFileName: libvirt takes names of up to 250 bytes.
func TestAnyNameOfAVMMakesAFileName(t *testing.T) {
	for _, name := range []string{"web01", "-a b:c,d", "a/b", strings.Repeat("n", 250), "x" + strings.Repeat("ü", 124)} {
		plain := plainName(name)
		if strings.ContainsAny(plain, "/\x00") || !utf8.ValidString(plain) || plain == "" ||
			len(plain)+len("-vdaaa.01arz3ndektsv4rrffq69g5fav.qcow2") > 255 {
			t.Errorf("%q of %d bytes becomes %q", name, len(name), plain)
		}
	}
}

// TestAFullFileSystemIsFreedByDroppingAPoint: the guest filled it and stands
// still; records go where room was reserved for them.
func TestAFullFileSystemIsFreedByDroppingAPoint(t *testing.T) {
	w := newWorld(t, true)
	id, _ := w.take()
	now, files := w.guest(), len(w.layers())
	reserved := filepath.Join(w.disk(""), record.Folder, record.ReserveName)
	if info, err := os.Stat(reserved); err != nil || info.Size() != record.ReserveSize {
		t.Fatalf("nothing is reserved: %v", err)
	}
	t.Cleanup(func() { record.CreateTemp = os.CreateTemp })
	record.CreateTemp = func(dir, pattern string) (*os.File, error) {
		if _, err := os.Stat(reserved); err == nil {
			return nil, &os.PathError{Op: "open", Path: dir, Err: syscall.ENOSPC}
		}
		return os.CreateTemp(dir, pattern)
	}
	must(t, w.tier.Drop(background, id, nil))
	if w.guest() != now || len(w.layers()) != files-2 {
		t.Errorf("files %v", w.layers())
	}
	record.CreateTemp = os.CreateTemp
	w.take()
	if _, err := os.Stat(reserved); err != nil {
		t.Errorf("it is not reserved again: %v", err)
	}
	w.release()
	if _, err := os.Stat(reserved); err == nil {
		t.Error("the reserve outlives the protection")
	}
}
